"""Robust rank aggregation: heads that rank high in more maps than chance explains, with p-values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Float

from headprobe.errors import InputError
from headprobe.metrics.multiple_testing import holm
from headprobe.metrics.ranks import repeats

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["EXACT_MAPS", "RobustRanks", "robust_rank_aggregation"]

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
        p-value corrected for all heads (`headprobe.metrics.multiple_testing.holm`): at most a share alpha of null data
        sets has any head below alpha.
    """

    scores: xr.DataArray
    p_values: xr.DataArray
    adjusted: xr.DataArray


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
    score_map
        Dims (`dim`, layer, head), two heads or more; a head that is NaN in all maps is left out.
    dim
        The dim of the repeats.
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

    if correction not in ("bonferroni", "exact"):
        raise InputError(f"unknown correction {correction!r}: known are ['bonferroni', 'exact']")
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
    p_values = table.to_map(p, "p-value")
    scores = table.to_map(-log_rho / np.log(10) + 0.0, "robust rank score")
    return RobustRanks(scores=scores, p_values=p_values, adjusted=holm(p_values))


def _log_tail(k: int, m: int, x: float) -> float:
    """Log of the probability that at least k of m uniform numbers lie below x, for x where it underflows."""
    from scipy.special import gammaln, logsumexp

    j = np.arange(k, m + 1)
    terms = gammaln(m + 1) - gammaln(j + 1) - gammaln(m - j + 1) + j * np.log(x) + (m - j) * np.log1p(-x)
    return float(np.asarray(logsumexp(terms)))


def _exact(rho: Float[np.ndarray, " head"], m: int) -> Float[np.ndarray, " head"]:
    """Probability that the smallest beta_k of m uniform numbers is at most rho.

    It is at most rho if for some k at least k of the numbers lie below the rho-quantile b_k of Beta(k, m - k + 1).
    The counts below b_1 < b_2 < ... are a Markov chain: between two of them each number still above the one falls below
    the next with the same probability. Summed over the first k at which this happens, all terms are positive, so
    nothing cancels.
    """
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
        for count in range(k):
            rest = m - count
            found += state[count] * bdtrc(k - count - 1, rest, step)
            for more in range(k - count):
                new[count + more] += state[count] * comb(rest, more) * step**more * (1 - step) ** (rest - more)
        state, below = new, bound
    return np.minimum(1.0, found)[back]
