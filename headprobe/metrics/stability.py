"""Stability of head scores over prompts."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from headprobe.errors import InputError
from headprobe.scores import check_map

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["rss"]


def rss(score_map: xr.DataArray, instability_penalty: float = 0.5) -> xr.DataArray:
    """Mean score over prompts less a multiple of its spread: the robust saliency score.

    `RSS(k) = mean_p S(k, p) - lambda * sd_p S(k, p)`, population standard deviation
    (HeadHunt-VAD, arXiv 2512.17601, section 3).

    Parameters
    ----------
    score_map
        Dims (prompt, layer, head), every value finite.
    instability_penalty
        lambda, 0 or more; 0 ranks by the mean. The paper uses 0.5.

    Returns
    -------
    xarray.DataArray
        Dims (layer, head).

    Raises
    ------
    InputError
        If the map has other dims, holds NaN, or the penalty is negative.

    Examples
    --------
    >>> from headprobe.scores import score_map
    >>> rss(score_map([[[1.0, 0.8]], [[0.0, 0.6]]], prompts=["p1", "p2"])).values.round(3).tolist()
    [[0.25, 0.65]]
    """
    check_map(score_map, ("prompt", "layer", "head"))
    if not (math.isfinite(instability_penalty) and instability_penalty >= 0):
        raise InputError(f"instability_penalty must be 0 or more, got {instability_penalty!r}")
    spread = score_map.std("prompt", ddof=0)
    return (score_map.mean("prompt") - instability_penalty * spread).rename("RSS")
