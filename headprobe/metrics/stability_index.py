"""Stability indices: how far repeated selections of heads agree beyond chance, with confidence intervals."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from headprobe.errors import InputError
from headprobe.metrics.selection import chosen, refuse_empty

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["StabilityIndex", "kuncheva", "nogueira"]


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
        As in `headprobe.metrics.selection.selections`.

    Examples
    --------
    >>> from headprobe.scores import score_map
    >>> maps = score_map([[[4.0, 3.0, 2.0, 1.0]], [[4.0, 1.0, 3.0, 2.0]]], prompts=["a", "b"])
    >>> kuncheva(maps, 2).value
    0.0
    """
    sets, table = chosen(score_map, k, dim)
    refuse_empty(sets, table, dim)
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
        As in `headprobe.metrics.selection.selections`.

    Examples
    --------
    >>> from headprobe.scores import score_map
    >>> maps = score_map([[[4.0, 3.0, 2.0, 1.0]], [[4.0, 1.0, 3.0, 2.0]]], prompts=["a", "b"])
    >>> nogueira(maps, 2).value
    0.0
    """
    return _nogueira(chosen(score_map, k, dim)[0], confidence)


def _nogueira(sets: Float[np.ndarray, "map head"], confidence: float) -> StabilityIndex:
    from scipy.stats import norm

    if not 0 < confidence < 1:
        raise InputError(f"confidence must lie between 0 and 1, such as 0.95, got {confidence!r}")
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
