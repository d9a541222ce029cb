"""Stability of head scores over prompts, resamples, seeds, calibration sizes, data sets or models.

Defined here: mean, spread and the robust score of every head. Imported here from modules of their own: the agreement
of whole maps (`headprobe.metrics.agreement`), how far selections agree beyond chance
(`headprobe.metrics.stability_index`), which heads are chosen again and again (`headprobe.metrics.selection`,
`headprobe.metrics.stability_selection`), the share of the variance that is the heads' own
(`headprobe.metrics.reliability`), and repeated maps (`headprobe.metrics.replicates`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from headprobe.errors import InputError
from headprobe.metrics.agreement import jaccard, mean_agreement, rank_correlation
from headprobe.metrics.origin import keep_origin
from headprobe.metrics.ranks import check_repeats
from headprobe.metrics.reliability import icc
from headprobe.metrics.replicates import bootstrap_maps, seed_maps, size_maps, stack_maps
from headprobe.metrics.selection import selection_frequency
from headprobe.metrics.stability_index import kuncheva, nogueira
from headprobe.metrics.stability_selection import stable_selection

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
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
    "seed_maps",
    "selection_frequency",
    "size_maps",
    "stable_selection",
    "stack_maps",
    "standard_deviation",
]


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
    check_repeats(score_map, dim)
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
    check_repeats(score_map, dim)
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
    return keep_origin((standard_deviation(score_map, dim) / center).rename("coefficient of variation"), score_map)


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
    if not (math.isfinite(instability_penalty) and instability_penalty >= 0):
        raise InputError(f"instability_penalty must be 0 or more, got {instability_penalty!r}")
    robust = mean(score_map, dim) - instability_penalty * standard_deviation(score_map, dim)
    return robust.rename("RSS").assign_attrs(score_map.attrs)
