"""Consensus: the heads that score well under all prompts, or in all resamples, seeds, data sets or models.

The ways to aggregate stand in modules of their own and are imported here: `headprobe.metrics.consensus` (Borda,
median rank, reciprocal rank fusion), `headprobe.metrics.consensus`, `headprobe.metrics.consensus` and
`headprobe.metrics.stability`; so does the normalisation of metrics, `headprobe.metrics.normalisation`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from headprobe._validation import brief, choice, count, number
from headprobe.errors import InputError
from headprobe.heads import HeadSet
from headprobe.metrics.normalisation import combine, min_max, rank_scale
from headprobe.metrics.null import holm
from headprobe.metrics.ranks import Repeats, repeats, selection_frequency
from headprobe.metrics.stability import rss, selection_threshold, stable_selection
from headprobe.scores import top_heads

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "EXACT_HEADS",
    "EXACT_MAPS",
    "FUSION_CONSTANT",
    "LARGEST_EXACT",
    "METHODS",
    "Kemeny",
    "RobustRanks",
    "borda",
    "combine",
    "consensus",
    "consensus_scores",
    "kemeny",
    "median_rank",
    "min_max",
    "rank_scale",
    "reciprocal_rank_fusion",
    "robust_rank_aggregation",
    "selection_threshold",
    "stable_selection",
]

FUSION_CONSTANT = 60.0
"""The constant of reciprocal rank fusion that its authors chose on text retrieval runs."""


def borda(score_map: xr.DataArray, dim: str = "prompt") -> xr.DataArray:
    """Borda's score: the share of the other heads that a head beats, on average over the maps.

    A head beaten counts 1, a tie one half (J.-C. de Borda, 1781, divided by the number of other heads).

    Parameters
    ----------
    score_map
        Dims (`dim`, layer, head), two heads or more; a head that is NaN in all maps is left out.
    dim
        The dim of the repeats.

    Returns
    -------
    xarray.DataArray
        Dims (layer, head), 0 to 1, mean 0.5. No increasing transformation of a map changes it.

    Raises
    ------
    InputError
        If dims or scores do not fit (`headprobe.metrics.ranks.repeats`).

    Examples
    --------
    >>> from headprobe.scores import score_map
    >>> borda(score_map([[[3.0, 2.0, 1.0]], [[2.0, 3.0, 1.0]]], prompts=["p1", "p2"])).values.tolist()
    [[0.75, 0.75, 0.0]]
    """
    table, ranks = _ranks(score_map, dim)
    n = ranks.shape[1]
    return table._to_map(((n - ranks) / (n - 1)).mean(0), "Borda score")


def median_rank(score_map: xr.DataArray, dim: str = "prompt") -> xr.DataArray:
    """Median rank over the maps, turned so that the best head has 1 and the worst 0.

    `(n - median rank) / (n - 1)`, ranks from 1 for the highest score, mean ranks for ties. A minority of maps, however
    odd, cannot move a head far (C. Dwork, R. Kumar, M. Naor, D. Sivakumar, Rank aggregation methods for the web, 2001).

    Parameters
    ----------
    score_map, dim
        As in `borda`.

    Returns
    -------
    xarray.DataArray
        Dims (layer, head), 0 to 1. No increasing transformation of a map changes it. With few maps many heads tie.

    Raises
    ------
    InputError
        As in `borda`.

    Examples
    --------
    >>> from headprobe.scores import score_map
    >>> maps = score_map([[[3.0, 2.0, 1.0]], [[3.0, 2.0, 1.0]], [[0.0, 1.0, 9.0]]], prompts=["a", "b", "c"])
    >>> median_rank(maps).values.tolist()
    [[1.0, 0.5, 0.0]]
    """
    table, ranks = _ranks(score_map, dim)
    n = ranks.shape[1]
    return table._to_map((n - np.median(ranks, axis=0)) / (n - 1), "median rank score")


def reciprocal_rank_fusion(
    score_map: xr.DataArray, dim: str = "prompt", constant: float = FUSION_CONSTANT
) -> xr.DataArray:
    """Sum over the maps of 1 / (constant + rank): mostly about the best heads of each map.

    G. V. Cormack, C. L. A. Clarke, S. Buettcher, Reciprocal rank fusion outperforms Condorcet and individual rank
    learning methods, SIGIR 2009.

    Parameters
    ----------
    score_map, dim
        As in `borda`.
    constant
        0 or more; the smaller, the more the first ranks count.

    Returns
    -------
    xarray.DataArray
        Dims (layer, head), above 0, at most maps / (constant + 1). No increasing transformation of a map changes it.

    Raises
    ------
    InputError
        As in `borda`, or the constant is negative.

    Examples
    --------
    >>> from headprobe.scores import score_map
    >>> maps = score_map([[[3.0, 2.0, 1.0]], [[2.0, 3.0, 1.0]]], prompts=["p1", "p2"])
    >>> reciprocal_rank_fusion(maps, constant=1.0).values.round(3).tolist()
    [[0.833, 0.833, 0.5]]
    """
    number(constant, "constant", 0)
    table, ranks = _ranks(score_map, dim)
    return table._to_map((1 / (constant + ranks)).sum(0), "reciprocal rank fusion")


def _ranks(score_map: xr.DataArray, dim: str) -> tuple[Repeats, Float[np.ndarray, "map head"]]:
    from scipy.stats import rankdata

    table = repeats(score_map, dim, n_heads=2)
    return table, rankdata(-table.values, method="average", axis=1)


EXACT_HEADS = 16
"""Largest knot of heads that is ordered exactly by default: 2^16 subsets, some hundredths of a second."""

LARGEST_EXACT = 20
"""Largest knot that can be asked for: about a second and 200 MB."""


@dataclass(frozen=True, eq=False)
class Kemeny:
    """An order of the heads and how far it is from the maps.

    Parameters
    ----------
    order
        All heads with a score, best first.
    scores
        1 for the first head of the order, 0 for the last, evenly spaced; dims (layer, head). Neighbours of which as
        many maps prefer one as the other, pair by pair, may stand in any order: they share the mean of their places.
    distance
        Pairs of heads that a map orders the other way, summed over the maps (a pair tied in a map counts nothing).
    lower_bound
        No order has a smaller distance than this; equal to `distance` if the order is exact.
    exact
        Whether the order is proven to have the smallest distance.
    """

    order: HeadSet
    scores: xr.DataArray
    distance: int
    lower_bound: int
    exact: bool

    __repr__ = brief


def kemeny(score_map: xr.DataArray, dim: str = "prompt", exact_heads: int = EXACT_HEADS) -> Kemeny:
    """Order the heads so that as few pairs as possible stand against the order of the maps.

    The sum of Kendall's distances to the maps is smallest (J. G. Kemeny, Mathematics without numbers, 1959). Finding it
    is NP-hard, but majorities cut the problem: where every head of one part beats every head of the other in more maps
    than not, the first part stands before the second in every such order (M. Truchon, An extension of the Condorcet
    criterion and Kemeny orders, 1998). What majorities leave in knots (strongly connected parts) of at most
    `exact_heads` heads is solved exactly by dynamic programming over subsets. Of a larger knot, two orders, that by
    Borda's score and that of the closest single map, are improved by moving one head at a time until no move helps
    (so that no majority would swap neighbours: local Kemenisation, C. Dwork and others, 2001); the better one stands.

    Parameters
    ----------
    score_map
        Dims (`dim`, layer, head); a head that is NaN in all maps is left out.
    dim
        The dim of the repeats.
    exact_heads
        Largest knot to order exactly, 1 to 20 (`LARGEST_EXACT`).

    Returns
    -------
    Kemeny
        Its `exact` says whether the order is proven best. Of several best orders within knots solved exactly, the
        first by (layer, head). No increasing transformation of a map changes it. Some seconds for a thousand heads
        that the maps order at random.

    Raises
    ------
    InputError
        If dims or scores do not fit, or `exact_heads` is out of range.

    Examples
    --------
    >>> from headprobe.scores import score_map
    >>> maps = score_map([[[3.0, 2.0, 1.0]], [[3.0, 1.0, 2.0]], [[1.0, 3.0, 2.0]]], prompts=["a", "b", "c"])
    >>> found = kemeny(maps)
    >>> found.order.labels, found.distance, found.exact
    (('L0H0', 'L0H1', 'L0H2'), 3, True)
    """
    count(exact_heads, "exact_heads", 1, LARGEST_EXACT)
    table = repeats(score_map, dim)
    values = table.values[:, table.order]  # so that the smaller index is the lower (layer, head)
    n = values.shape[1]
    prefer = np.zeros((n, n), dtype=np.int64)
    for row in values:
        prefer += row[:, None] > row[None]
    order: list[int] = []
    bound, exact = 0, True
    for knot in _knots(prefer):
        inside = prefer[knot][:, knot]
        solved = len(knot) <= exact_heads
        local = _best_order(inside) if solved else _good_order(inside, values[:, knot])
        bound += _distance(inside, local) if solved else int(np.triu(np.minimum(inside, inside.T), 1).sum())
        # Earlier knots beat this one in every pair; what the maps say against it is unavoidable.
        bound += int(prefer[knot][:, order].sum())
        exact &= solved
        order += [int(knot[i]) for i in local]
    positions = table.order[order]
    scores = np.empty(n)
    scores[positions] = 1 - _shared_places(prefer[order][:, order] == prefer[order][:, order].T) / max(1, n - 1)
    distance, heads = _distance(prefer, order), HeadSet(table.heads[i] for i in positions)
    return Kemeny(heads, table._to_map(scores, "Kemeny score"), distance, bound, exact)


def _knots(prefer: Int[np.ndarray, "head head"]) -> list[np.ndarray]:
    """Strongly connected parts of "at least as many maps prefer u to v as v to u", best part first."""
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import connected_components

    n_parts, part = connected_components(csr_matrix(prefer >= prefer.T), directed=True, connection="strong")
    first = np.array([np.flatnonzero(part == c)[0] for c in range(n_parts)])
    beaten = [(prefer[u] > prefer[:, u])[part != part[u]].sum() for u in first]
    return [np.flatnonzero(part == c) for c in np.argsort(-np.array(beaten), kind="stable")]


def _shared_places(tied: Bool[np.ndarray, "place place"]) -> Float[np.ndarray, " place"]:
    """Places from 0, the mean of them for runs in which every head ties with every other."""
    places, start = np.arange(len(tied), dtype=float), 0
    for stop in range(1, len(tied) + 1):
        if stop == len(tied) or not tied[stop, start:stop].all():
            places[start:stop] = (start + stop - 1) / 2
            start = stop
    return places


def _best_order(prefer: Int[np.ndarray, "head head"]) -> list[int]:
    """The best order, the first by index among equals; time and memory grow as 2^n."""
    n = len(prefer)
    subsets = np.arange(1 << n)
    against = np.zeros((n, 1 << n), dtype=np.int64)  # [v, S]: votes against v standing before all of S
    for u in range(n):
        against[:, 1 << u : 2 << u] = against[:, : 1 << u] + prefer[u][:, None]
    size = np.zeros(1 << n, dtype=np.int8)
    for u in range(n):
        size[1 << u : 2 << u] = size[: 1 << u] + 1
    least = np.full(1 << n, np.iinfo(np.int64).max)
    least[0] = 0
    for k in range(1, n + 1):
        level = subsets[size == k]
        for v in range(n):
            with_v = level[(level >> v) & 1 == 1]
            rest = with_v ^ (1 << v)
            least[with_v] = np.minimum(least[with_v], against[v, rest] + least[rest])
    order, left = [], (1 << n) - 1
    while left:
        for v in range(n):
            rest = left ^ (1 << v)
            if left >> v & 1 and against[v, rest] + least[rest] == least[left]:
                order.append(v)
                left = rest
                break
    return order


def _good_order(prefer: Int[np.ndarray, "head head"], values: np.ndarray) -> list[int]:
    """The better of two starting orders, each improved by moving one head at a time."""
    wins = prefer.sum(1) - prefer.sum(0)
    starts = [np.argsort(-wins, kind="stable")]
    maps = [np.argsort(-row, kind="stable") for row in values]
    starts.append(min(maps, key=lambda order: _distance(prefer, order)))
    return min((_moved(prefer, start) for start in starts), key=lambda order: _distance(prefer, order))


def _moved(prefer: Int[np.ndarray, "head head"], start: np.ndarray) -> list[int]:
    order, improved = np.array(start), True
    while improved:
        improved = False
        for v in order.copy():
            place = int(np.flatnonzero(order == v)[0])
            others = np.delete(order, place)
            # Votes against v at each place: those for v over the heads before it, and for the heads after it over v.
            before = np.concatenate([[0], np.cumsum(prefer[v, others])])
            after = prefer[others, v].sum() - np.concatenate([[0], np.cumsum(prefer[others, v])])
            best = int(np.argmin(before + after))
            if (before + after)[best] < (before + after)[place]:
                order = np.insert(others, best, v)
                improved = True
    return order.tolist()


def _distance(prefer: Int[np.ndarray, "head head"], order: list[int] | np.ndarray) -> int:
    """Votes against an order: maps that prefer a later head to an earlier one, summed over pairs."""
    places = np.asarray(order)
    return int(np.tril(prefer[places[:, None], places], -1).sum())


EXACT_MAPS = 50
"""Most maps for which the exact p-value is computed."""

_UNDERFLOW = 1e-280
_EXACT_FROM = 1e-100  # below, scipy's quantiles of the beta distribution fail, and the bound is exact to 0.3 %


@dataclass(frozen=True, eq=False)
class RobustRanks:
    """Result of robust rank aggregation, maps with the dims (layer, head).

    Parameters
    ----------
    scores
        -log10 of rho, 0 or more, higher is better; rho is the smallest of the probabilities that the k-th best of
        random ranks is as good as the head's.
    p_values
        p-value of each head for itself: rho corrected for being the smallest over k. Not below 2.2e-308.
    adjusted
        p-value corrected for all heads (`headprobe.metrics.null.holm`): at most a share alpha of null data
        sets has any head below alpha.
    """

    scores: xr.DataArray
    p_values: xr.DataArray
    adjusted: xr.DataArray

    __repr__ = brief


def robust_rank_aggregation(
    score_map: xr.DataArray, dim: str = "prompt", correction: Literal["bonferroni", "exact"] = "bonferroni"
) -> RobustRanks:
    """Score heads by how improbable their best ranks are if every map ranked the heads at random.

    A head's M ranks, divided by the number of heads and sorted, are compared with sorted uniform numbers: the k-th
    follows Beta(k, M - k + 1), whose distribution function there is beta_k; `rho = min_k beta_k`. As the smallest of M
    probabilities, rho is no p-value; M rho bounds it from above ("bonferroni", as in the paper), "exact" is the
    probability that sorted uniform numbers give a smaller minimum. Tied heads all get the worst rank they
    share, so that ties never make a p-value too small.

    R. Kolde, S. Laur, P. Adler, J. Vilo, Robust rank aggregation for gene list integration and meta-analysis,
    Bioinformatics 28, 2012.

    Parameters
    ----------
    score_map, dim
        As in `borda`.
    correction
        `"bonferroni"`, or `"exact"` for up to 50 maps (`EXACT_MAPS`).

    Returns
    -------
    RobustRanks
        No increasing transformation of a map changes it. The null is that the maps are independent and at random.
        Prompts or resamples of the same examples are not independent: there, a small p-value says that the maps
        agree, not that the head carries the concept.

    Raises
    ------
    InputError
        If dims or scores do not fit, the correction is unknown, or there are too many maps for "exact".

    Examples
    --------
    >>> from headprobe.scores import score_map
    >>> maps = score_map([[[4.0, 3.0, 2.0, 1.0]], [[4.0, 1.0, 2.0, 3.0]]], prompts=["p1", "p2"])
    >>> robust_rank_aggregation(maps).p_values.values.round(3).tolist()
    [[0.125, 1.0, 1.0, 1.0]]
    """
    from scipy.special import betainc
    from scipy.stats import rankdata

    choice(correction, "correction", ("bonferroni", "exact"))
    table = repeats(score_map, dim, n_heads=2)
    m, n = table.values.shape
    if correction == "exact" and m > EXACT_MAPS:
        raise InputError(f"the exact p-value is computed for up to {EXACT_MAPS} maps, got {m}: use 'bonferroni'")
    share = np.sort(rankdata(-table.values, method="max", axis=1) / n, axis=0)
    k = np.arange(1, m + 1)[:, None]
    beta = betainc(k, m - k + 1, share)
    with np.errstate(divide="ignore"):
        logs = np.log(beta)
    for place, head in np.argwhere(beta < _UNDERFLOW):
        logs[place, head] = _log_tail(int(place) + 1, m, float(share[place, head]))
    log_rho = logs.min(0)
    tiny = np.finfo(np.float64).tiny
    p = np.minimum(1.0, m * np.exp(log_rho))
    if correction == "exact":
        usual = log_rho > np.log(_EXACT_FROM)
        p[usual] = _exact(np.exp(log_rho[usual]), m)
    p = np.maximum(p, tiny)
    p_values = table._to_map(p, "p-value")
    scores = table._to_map(-log_rho / np.log(10) + 0.0, "robust rank score")
    return RobustRanks(scores=scores, p_values=p_values, adjusted=holm(p_values))


def _log_tail(k: int, m: int, x: float) -> float:
    """Log of the probability that at least k of m uniform numbers lie below x, for x where it underflows."""
    from scipy.special import gammaln, logsumexp

    j = np.arange(k, m + 1)
    terms = gammaln(m + 1) - gammaln(j + 1) - gammaln(m - j + 1) + j * np.log(x) + (m - j) * np.log1p(-x)
    return float(np.asarray(logsumexp(terms)))


def _exact(rho: Float[np.ndarray, " head"], m: int) -> Float[np.ndarray, " head"]:
    """Probability that the smallest beta_k of m uniform numbers is at most rho."""
    from scipy.special import bdtrc, betaincinv, comb

    values, back = np.unique(rho, return_inverse=True)
    state = np.zeros((m, len(values)))  # probability of each count, nothing reached so far
    state[0] = 1.0
    found, below = np.zeros(len(values)), np.zeros(len(values))
    for k in range(1, m + 1):
        bound = betaincinv(k, m - k + 1, values)
        left = 1 - below
        step = np.clip(np.divide(bound - below, left, out=np.ones_like(left), where=left > 0), 0, 1)
        new = np.zeros_like(state)
        for there in range(k):
            rest = m - there
            found += state[there] * bdtrc(k - there - 1, rest, step)
            for more in range(k - there):
                new[there + more] += state[there] * comb(rest, more) * step**more * (1 - step) ** (rest - more)
        state, below = new, bound
    return np.minimum(1.0, found)[back]


METHODS: dict[str, Callable[[xr.DataArray, str, int, float], xr.DataArray]] = {
    "rss": lambda maps, dim, k, penalty: rss(maps, penalty, dim),
    "borda": lambda maps, dim, k, penalty: borda(maps, dim),
    "median_rank": lambda maps, dim, k, penalty: median_rank(maps, dim),
    "robust_rank_aggregation": lambda maps, dim, k, penalty: robust_rank_aggregation(maps, dim).scores,
    "kemeny": lambda maps, dim, k, penalty: kemeny(maps, dim).scores,
    "reciprocal_rank_fusion": lambda maps, dim, k, penalty: reciprocal_rank_fusion(maps, dim),
    "selection_frequency": lambda maps, dim, k, penalty: selection_frequency(maps, k, dim),
}
"""Methods by name: from stacked maps, their dim, the number of heads and the penalty to one map, higher is better."""


def consensus_scores(
    score_map: xr.DataArray,
    method: str = "rss",
    instability_penalty: float = 0.5,
    *,
    k: int = 5,
    dim: str = "prompt",
    normalise: Literal["min_max", "rank"] = "min_max",
) -> xr.DataArray:
    """Score the heads by one of the methods of `consensus`.

    Parameters
    ----------
    score_map, method, instability_penalty, k, dim, normalise
        As in `consensus`; `k` matters for `"selection_frequency"` only.

    Returns
    -------
    xarray.DataArray
        Dims (layer, head), higher is better; the range is that of the method.

    Raises
    ------
    InputError
        As in `consensus`.

    Warns
    -----
    HeadprobeWarning
        As in `consensus`.

    Examples
    --------
    >>> from headprobe.scores import score_map
    >>> m = score_map([[[1.0, 0.8]], [[0.0, 0.6]]], prompts=["p1", "p2"])
    >>> consensus_scores(m, "borda").values.tolist()
    [[0.5, 0.5]]
    """
    choice(method, "method", METHODS)
    if "metric" in getattr(score_map, "dims", ()) and dim != "metric":
        score_map = combine(score_map, normalise)
    return METHODS[method](score_map, dim, k, instability_penalty)


def consensus(
    score_map: xr.DataArray,
    k: int,
    method: str = "rss",
    instability_penalty: float = 0.5,
    *,
    dim: str = "prompt",
    normalise: Literal["min_max", "rank"] = "min_max",
    tie_break: xr.DataArray | None = None,
) -> HeadSet:
    """Choose the `k` heads that the prompts (or other repeats) agree on.

    Parameters
    ----------
    score_map
        Dims (prompt, layer, head), used as it is; or (metric, prompt, layer, head), whose metrics are brought
        to 0 to 1 over all heads and averaged first (`headprobe.metrics.normalisation.combine`). A head that has no
        score anywhere (NaN) is never chosen.
    k
        Number of heads.
    method
        `"rss"`: the highest mean less `instability_penalty` times the standard deviation over prompts
        (HeadHunt-VAD, arXiv 2512.17601, section 3); the only one that uses the sizes of the scores.
        `"borda"`: the most heads beaten on average.
        `"median_rank"`: the best median rank, which a minority of prompts cannot move far.
        `"robust_rank_aggregation"`: the least probable ranks under chance.
        `"kemeny"`: the order with the fewest contradictions.
        `"reciprocal_rank_fusion"`: mostly the first ranks of each prompt.
        `"selection_frequency"`: most often among the `k` best.
        The function of that name, in the modules named above, has the formula, the source and further options.
    instability_penalty
        lambda of RSS, 0 or more.
    dim
        The dim of the repeats, such as "resample" or "model". With `"metric"`, the metrics are the repeats and nothing
        is normalised.
    normalise
        How metrics are brought to one scale: `"min_max"` as in the paper, or `"rank"`.
    tie_break
        A second score, dims (layer, head), for heads that tie (`headprobe.scores.top_heads`). Methods that go by ranks
        tie often: with two prompts, a third of the places of `"median_rank"` may.

    Returns
    -------
    HeadSet
        Best head first; ties go to the lower (layer, head), and `tied` holds the heads left out that tie with the last
        one chosen.

    Raises
    ------
    InputError
        If the method is unknown, the dims do not fit, a head has a score in some maps only, or `k` is out of range.

    Warns
    -----
    HeadprobeWarning
        If one head sets the scale of a metric (`headprobe.metrics.normalisation.min_max`), or heads tie for the last of
        `k` places, in the consensus or in a map (`"selection_frequency"`); their number is named.

    Examples
    --------
    >>> from headprobe.scores import score_map
    >>> m = score_map([[[1.0, 0.8]], [[0.0, 0.6]]], prompts=["p1", "p2"])
    >>> consensus(m, 1).labels
    ('L0H1',)
    >>> consensus(m, 1, "median_rank").labels
    ('L0H0',)
    """
    scores = consensus_scores(score_map, method, instability_penalty, k=k, dim=dim, normalise=normalise)
    return top_heads(scores, k, tie_break)
