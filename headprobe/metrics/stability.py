"""Stability of head scores over prompts, resamples, seeds, calibration sizes, data sets or models.

Defined here: mean, spread and the robust score of every head. Imported here from modules of their own: the agreement
of whole maps (`headprobe.metrics.agreement`), how far selections agree beyond chance
(`headprobe.metrics.stability`), which heads are chosen again and again (`headprobe.metrics.ranks`,
`headprobe.metrics.stability`), the share of the variance that is the heads' own
(`headprobe.metrics.agreement`), and repeated maps (`headprobe.metrics.resampling`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from headprobe._validation import brief, count, number
from headprobe.errors import InputError
from headprobe.heads import HeadSet
from headprobe.metrics.agreement import icc, jaccard, mean_agreement, rank_correlation
from headprobe.metrics.ranks import _check_repeats, _chosen, _refuse_empty, selection_frequency
from headprobe.metrics.resampling import bootstrap_maps, size_maps, stack_maps
from headprobe.scores import _keep_origin, _top_heads_quietly

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "StabilityIndex",
    "StableSelection",
    "bootstrap_maps",
    "coefficient_of_variation",
    "icc",
    "jaccard",
    "kuncheva",
    "mean",
    "mean_agreement",
    "nogueira",
    "rank_correlation",
    "rss",
    "selection_frequency",
    "selection_threshold",
    "size_maps",
    "stable_selection",
    "stack_maps",
    "standard_deviation",
]


@dataclass(frozen=True)
class StabilityIndex:
    """How far repeated selections of heads agree beyond chance.

    Parameters
    ----------
    value
        The index: 1 if all sets are equal, 0 in expectation if they are drawn at random.
    variance
        Estimate of the variance of the index over new repeats.
    lower, upper
        Ends of the confidence interval; `upper` may exceed 1, because the interval is that of a normal distribution.
    confidence
        Nominal coverage of the interval.
    n_sets, n_heads
        Number of sets, and of heads to choose from.
    mean_size
        Mean number of heads in a set.
    """

    value: float
    variance: float
    lower: float
    upper: float
    confidence: float
    n_sets: int
    n_heads: int
    mean_size: float


def kuncheva(
    score_map: xr.DataArray, k: int | None = None, dim: str = "prompt", confidence: float = 0.95
) -> StabilityIndex:
    """Kuncheva's stability index: mean overlap of all pairs of equally large sets, corrected for chance.

    For two sets of k out of n heads with r in common, `(r n - k^2) / (k (n - k))`; the index is its mean over pairs
    (L. I. Kuncheva, A stability index for feature selection, 2007). For sets of equal size it is the same number as
    `nogueira`, whose variance and interval therefore hold for it.

    Parameters
    ----------
    score_map
        Dims (`dim`, layer, head): scores, or with k=None a selection of 1 and 0.
    k
        Number of heads taken from each map, below the number of heads; None if the map is a selection.
    dim
        The dim of the repeats.
    confidence
        Nominal coverage of the interval, between 0 and 1.

    Returns
    -------
    StabilityIndex
        From -1 / (sets - 1) to 1; 0 is chance.

    Raises
    ------
    InputError
        If there are fewer than two maps, sets differ in size, are empty or hold all heads, or the confidence is out of
        range.

    Warns
    -----
    HeadprobeWarning
        As in `headprobe.metrics.ranks.selection_frequency`.

    Examples
    --------
    >>> from headprobe.scores import score_map
    >>> maps = score_map([[[4.0, 3.0, 2.0, 1.0]], [[4.0, 1.0, 3.0, 2.0]]], prompts=["a", "b"])
    >>> kuncheva(maps, 2).value
    0.0
    """
    sets, table = _chosen(score_map, k, dim)
    _refuse_empty(sets, table, dim)
    sizes = sets.sum(1)
    if sizes.min() != sizes.max():
        raise InputError(
            f"Kuncheva's index needs sets of one size, got {sorted({int(s) for s in sizes})}: use nogueira, which "
            "takes any"
        )
    size, n = sizes[0], sets.shape[1]
    index = _nogueira(sets, confidence)
    shared = (sets @ sets.T)[np.triu_indices(len(sets), 1)]
    return replace(index, value=float(np.mean((shared * n - size**2) / (size * (n - size)))))


def nogueira(
    score_map: xr.DataArray, k: int | None = None, dim: str = "prompt", confidence: float = 0.95
) -> StabilityIndex:
    """Stability of repeated selections: one minus the variance of the selection over that of random selection.

    With p_f the share of the M sets that hold head f, and mean size kbar of d heads,
    `1 - mean_f [M / (M - 1) p_f (1 - p_f)] / (kbar / d (1 - kbar / d))`. The variance is that of the paper's theorem on
    the asymptotic distribution, the interval that of a normal distribution: meant for many repeats that are
    independent of each other. Of bootstrap resamples it describes the resampling, given the data.

    S. Nogueira, K. Sechidis, G. Brown, On the stability of feature selection algorithms, Journal of Machine Learning
    Research 18(174), 2018, definition 4, theorem 7 and corollary 9.

    Parameters
    ----------
    score_map, k, dim, confidence
        As in `kuncheva`; the sizes of the sets may differ, and an empty set among others is allowed.

    Returns
    -------
    StabilityIndex
        From -1 / (M - 1) to 1; 0 is chance, 1 the same set every time. The authors call values below 0.4 poor and
        above 0.75 excellent, after Fleiss.

    Raises
    ------
    InputError
        If there are fewer than two maps, all sets are empty or all hold every head, or the confidence is out of range.

    Warns
    -----
    HeadprobeWarning
        As in `headprobe.metrics.ranks.selection_frequency`.

    Examples
    --------
    >>> from headprobe.scores import score_map
    >>> maps = score_map([[[4.0, 3.0, 2.0, 1.0]], [[4.0, 1.0, 3.0, 2.0]]], prompts=["a", "b"])
    >>> nogueira(maps, 2).value
    0.0
    """
    return _nogueira(_chosen(score_map, k, dim)[0], confidence)


def _nogueira(sets: Float[np.ndarray, "map head"], confidence: float) -> StabilityIndex:
    from scipy.stats import norm

    number(confidence, "confidence", above=0, below=1)
    m, d = sets.shape
    frequency, sizes = sets.mean(0), sets.sum(1)
    share = sizes.mean() / d  # of the heads that a set holds on average
    if share in (0.0, 1.0):
        what = "are empty" if share == 0 else f"hold all {d} heads"
        raise InputError(f"all {m} sets {what}, so there is no selection whose stability could be measured")
    random = share * (1 - share)
    value = 1 - m / (m - 1) * np.mean(frequency * (1 - frequency)) / random
    phi = sets @ frequency / d - sizes / d * share
    phi = (phi + value / 2 * (2 * share * sizes / d - sizes / d - share + 1)) / random
    variance = float(4 / m**2 * np.sum((phi - phi.mean()) ** 2))
    half = float(norm.ppf(0.5 + confidence / 2)) * variance**0.5
    return StabilityIndex(
        float(value), variance, float(value - half), float(value + half), confidence, m, d, float(sizes.mean())
    )


@dataclass(frozen=True, eq=False)
class StableSelection:
    """The heads that are chosen in a large share of the repeats.

    Parameters
    ----------
    heads
        The heads at or above the threshold, the most frequent first, ties by (layer, head). May be empty.
    frequency
        Share of the repeats that choose a head, 0 to 1, dims (layer, head).
    threshold
        The share that was asked for.
    expected_false_positives
        Upper bound of the expected number of irrelevant heads among them; see `stable_selection` for when it holds.
    """

    heads: HeadSet
    frequency: xr.DataArray
    threshold: float
    expected_false_positives: float

    __repr__ = brief


def stable_selection(
    score_map: xr.DataArray, k: int | None = None, threshold: float = 0.75, dim: str = "repeat"
) -> StableSelection:
    """Stability selection: the heads that are chosen in at least a given share of the repeats.

    The expected number of irrelevant heads among them is at most `q^2 / ((2 threshold - 1) n)`, with q heads chosen
    per repeat on average out of n (N. Meinshausen and P. Buehlmann, Stability selection, Journal of the Royal
    Statistical Society B 72, 2010, theorem 1). The bound is proven for repeats on random halves of the independent
    units, drawn without replacement (`headprobe.metrics.resampling.size_maps` with half of the groups), if irrelevant
    heads are exchangeable and the choice is no worse than a random one. For prompts, seeds or bootstrap resamples it
    is a number to orient oneself by, no guarantee.

    Parameters
    ----------
    score_map, dim
        As in `kuncheva`.
    k
        Number of heads taken from each map; None if the map is a selection.
    threshold
        Share of the repeats, above 0.5, at most 1. The authors advise 0.6 to 0.9.

    Returns
    -------
    StableSelection

    Raises
    ------
    InputError
        If the threshold is out of range, or as in `headprobe.metrics.ranks.selection_frequency`.

    Warns
    -----
    HeadprobeWarning
        As in `headprobe.metrics.ranks.selection_frequency`.

    Examples
    --------
    >>> from headprobe.scores import score_map
    >>> maps = score_map([[[1.0, 2.0, 3.0, 0.0]], [[1.0, 2.0, 3.0, 0.0]]], prompts=["p1", "p2"])
    >>> found = stable_selection(maps, 1, dim="prompt")
    >>> found.heads.labels, found.expected_false_positives
    (('L0H2',), 0.5)
    """
    number(threshold, "threshold", above=0.5, most=1)  # the bound needs a majority
    sets, table = _chosen(score_map, k, dim)
    frequency = table._to_map(sets.mean(0), "selection frequency")
    n_kept = int((frequency >= threshold - 1e-12).sum())
    return StableSelection(
        heads=_top_heads_quietly(frequency, n_kept) if n_kept else HeadSet(),
        frequency=frequency,
        threshold=threshold,
        expected_false_positives=float(sets.sum(1).mean() ** 2 / ((2 * threshold - 1) * sets.shape[1])),
    )


def selection_threshold(expected_false_positives: float, k: float, n_heads: int) -> float:
    """The threshold at which stability selection bounds the expected false positives as asked.

    `(q^2 / (E n) + 1) / 2`, the bound of `stable_selection` solved for the threshold.

    Parameters
    ----------
    expected_false_positives
        Bound E, above 0.
    k
        Heads chosen per repeat, q.
    n_heads
        Heads to choose from, n.

    Returns
    -------
    float
        Above 0.5, at most 1.

    Raises
    ------
    InputError
        If a number is not positive, or no threshold gives this bound: choose fewer heads per repeat.

    Examples
    --------
    >>> selection_threshold(1.0, k=20, n_heads=784)
    0.7551020408163265
    """
    number(expected_false_positives, "expected_false_positives", above=0)
    number(k, "k", above=0, most=count(n_heads, "n_heads"))
    threshold = (k * k / (expected_false_positives * n_heads) + 1) / 2
    if threshold > 1:
        most = int((expected_false_positives * n_heads) ** 0.5)
        raise InputError(
            f"choosing {k} of {n_heads} heads, no threshold keeps the bound at {expected_false_positives}: choose at "
            f"most {most} per repeat, or allow {k * k / n_heads:.3g}"
        )
    return threshold


def mean(score_map: xr.DataArray, dim: str = "prompt") -> xr.DataArray:
    """Mean score of every head over the repeats.

    Parameters
    ----------
    score_map
        Dims that hold `dim` and end in layer, head, such as (prompt, layer, head); a head has all scores along `dim`
        or, as NaN, none.
    dim
        The dim of the repeats: "prompt", "resample", "seed", "repeat", "dataset", "model" or any other name.

    Returns
    -------
    xarray.DataArray
        The other dims; in the unit and range of the scores.

    Raises
    ------
    InputError
        If the dims do not fit, a score is infinite, or a head has a score in some repeats only.

    Examples
    --------
    >>> from headprobe.scores import score_map
    >>> mean(score_map([[[1.0, 0.8]], [[0.0, 0.6]]], prompts=["p1", "p2"])).values.round(3).tolist()
    [[0.5, 0.7]]
    """
    _check_repeats(score_map, dim)
    # In the unit of the scores, and of the same model.
    return score_map.mean(dim, skipna=False).rename("mean score").assign_attrs(score_map.attrs)


def standard_deviation(score_map: xr.DataArray, dim: str = "prompt") -> xr.DataArray:
    """Population standard deviation of every head's score over the repeats (divisor: their number).

    Parameters
    ----------
    score_map, dim
        As in `mean`.

    Returns
    -------
    xarray.DataArray
        The other dims, 0 or more, in the unit of the scores; 0 for a single repeat.

    Raises
    ------
    InputError
        As in `mean`.

    Examples
    --------
    >>> from headprobe.scores import score_map
    >>> standard_deviation(score_map([[[1.0, 0.8]], [[0.0, 0.6]]], prompts=["p1", "p2"])).values.round(3).tolist()
    [[0.5, 0.1]]
    """
    _check_repeats(score_map, dim)
    return score_map.std(dim, ddof=0, skipna=False).rename("standard deviation").assign_attrs(score_map.attrs)


def coefficient_of_variation(score_map: xr.DataArray, dim: str = "prompt") -> xr.DataArray:
    """Standard deviation over mean: a spread without a unit, for scores whose zero means "nothing".

    Population standard deviation (K. Pearson, 1896). It changes when a constant is added to the scores, so it says
    little about min-max normalised ones.

    Parameters
    ----------
    score_map, dim
        As in `mean`.

    Returns
    -------
    xarray.DataArray
        The other dims, from 0 (no spread) to sqrt(repeats - 1) for scores of 0 or more.

    Raises
    ------
    InputError
        As in `mean`; or the mean of a head is not above 0, where the ratio has no meaning.

    Examples
    --------
    >>> from headprobe.scores import score_map
    >>> coefficient_of_variation(score_map([[[3.0, 2.0]], [[1.0, 2.0]]], prompts=["p1", "p2"])).values.tolist()
    [[0.5, 0.0]]
    """
    center = mean(score_map, dim)
    bad = np.argwhere(center.values <= 0)
    if len(bad):
        at = ", ".join(f"{d}={center.coords[d].values[i]}" for d, i in zip(center.dims, bad[0], strict=True))
        raise InputError(
            f"the coefficient of variation needs means above 0, but {len(bad)} heads have none, the first at {at} with "
            f"{center.values[tuple(bad[0])]:.6g}: use standard_deviation, or scores that are positive"
        )
    return _keep_origin((standard_deviation(score_map, dim) / center).rename("coefficient of variation"), score_map)


def rss(score_map: xr.DataArray, instability_penalty: float = 0.5, dim: str = "prompt") -> xr.DataArray:
    """Mean score over the repeats less a multiple of its spread: the robust saliency score.

    `RSS(k) = mean_p S(k, p) - lambda * sd_p S(k, p)`, population standard deviation
    (HeadHunt-VAD, arXiv 2512.17601, section 3, where p counts prompts).

    Parameters
    ----------
    score_map
        Dims that hold `dim` and end in layer, head, such as (prompt, layer, head); a head has all scores along `dim`
        or, as NaN, none.
    instability_penalty
        lambda, 0 or more; 0 ranks by the mean. The paper uses 0.5.
    dim
        The dim of the repeats.

    Returns
    -------
    xarray.DataArray
        The other dims; for scores from 0 to 1, values from (1 - sqrt(1 + lambda^2)) / 2, -0.06 for 0.5, to 1.

    Raises
    ------
    InputError
        As in `mean`, or the penalty is negative or not finite.

    Examples
    --------
    >>> from headprobe.scores import score_map
    >>> rss(score_map([[[1.0, 0.8]], [[0.0, 0.6]]], prompts=["p1", "p2"])).values.round(3).tolist()
    [[0.25, 0.65]]
    """
    number(instability_penalty, "instability_penalty", 0)
    robust = mean(score_map, dim) - instability_penalty * standard_deviation(score_map, dim)
    return robust.rename("RSS").assign_attrs(score_map.attrs)
