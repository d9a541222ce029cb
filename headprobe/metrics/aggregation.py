"""Aggregation: from the rankings of several maps to one score per head."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from headprobe.errors import InputError
from headprobe.metrics.ranks import Repeats, repeats

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["FUSION_CONSTANT", "borda", "median_rank", "reciprocal_rank_fusion"]

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
    return table.to_map(((n - ranks) / (n - 1)).mean(0), "Borda score")


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
    return table.to_map((n - np.median(ranks, axis=0)) / (n - 1), "median rank score")


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
    if not (math.isfinite(constant) and constant >= 0):
        raise InputError(f"the constant of reciprocal rank fusion must be 0 or more, got {constant!r}")
    table, ranks = _ranks(score_map, dim)
    return table.to_map((1 / (constant + ranks)).sum(0), "reciprocal rank fusion")


def _ranks(score_map: xr.DataArray, dim: str) -> tuple[Repeats, Float[np.ndarray, "map head"]]:
    from scipy.stats import rankdata

    table = repeats(score_map, dim, n_heads=2)
    return table, rankdata(-table.values, method="average", axis=1)
