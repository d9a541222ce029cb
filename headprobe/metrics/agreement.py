"""Agreement between score maps, pair by pair: rank correlations and overlap of the best heads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float

from headprobe.errors import InputError
from headprobe.metrics.ranks import repeats
from headprobe.metrics.selection import chosen, refuse_empty

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "CORRELATIONS",
    "jaccard",
    "mean_agreement",
    "rank_correlation",
]

CORRELATIONS = ("spearman", "kendall", "weighted", "pearson")
"""Correlations that are known, all but the last of ranks."""


def rank_correlation(
    score_map: xr.DataArray,
    method: Literal["spearman", "kendall", "weighted", "pearson"] = "spearman",
    dim: str = "prompt",
) -> xr.DataArray:
    """Rank correlation over heads, of every pair of maps.

    "spearman" is the correlation of the ranks (Spearman 1904); "kendall" is tau-b, concordant less discordant pairs of
    heads, corrected for ties (Kendall 1945); "weighted" is Kendall's tau with a pair of heads weighted by 1 / rank + 1
    / rank (Vigna 2015, additive and hyperbolic, ranks from 1 at the highest score), so that it is mostly about the
    best heads. "pearson" is the correlation of the scores themselves (Pearson 1895), for comparison with numbers that
    others publish: where a few heads score far above all others, it is about these, and the ranks are about the rest.

    Parameters
    ----------
    score_map
        Dims (`dim`, layer, head); a head that is NaN in all maps is left out.
    method
        Which correlation.
    dim
        The dim of the repeats.

    Returns
    -------
    xarray.DataArray
        Two dims, `dim` and the same name with ``_other`` behind it; symmetric, 1 on the diagonal, values -1 to 1. No
        increasing transformation of the scores changes it, of "pearson" no linear one. Heads share layers and
        inputs, so a p-value that takes them as independent does not hold; none is given.

    Raises
    ------
    InputError
        If there are fewer than two maps or heads, or all heads of a map score the same, so that it has no ranks.

    Examples
    --------
    >>> from headprobe.scores import score_map
    >>> maps = score_map([[[1.0, 2.0, 3.0]], [[1.0, 3.0, 2.0]]], prompts=["p1", "p2"])
    >>> rank_correlation(maps, "kendall").values.round(3).tolist()
    [[1.0, 0.333], [0.333, 1.0]]
    """
    from scipy.stats import kendalltau, rankdata, weightedtau

    if method not in CORRELATIONS:
        raise InputError(f"unknown rank correlation {method!r}: known are {list(CORRELATIONS)}")
    table = repeats(score_map, dim, at_least=2, n_heads=2)
    flat = [name for name, row in zip(table.names, table.values, strict=True) if row.min() == row.max()]
    if flat:
        raise InputError(
            f"{dim}={flat[0]}: all {len(table.heads)} heads score the same, so they have no ranks to correlate; "
            "leave this map out"
        )
    n = len(table.values)
    if method in ("spearman", "pearson"):
        centered = rankdata(table.values, axis=1) if method == "spearman" else table.values.copy()
        centered -= centered.mean(1, keepdims=True)
        centered /= np.linalg.norm(centered, axis=1, keepdims=True)
        half = np.triu(np.clip(centered @ centered.T, -1, 1), 1)
        matrix = half + half.T  # a product of matrices need not be symmetric to the last bit
    else:
        matrix = np.ones((n, n))
        for i in range(n):
            for j in range(i + 1, n):
                a, b = table.values[i], table.values[j]
                found: Any = kendalltau(a, b, method="asymptotic") if method == "kendall" else weightedtau(a, b)
                matrix[i, j] = matrix[j, i] = float(found.statistic)
    np.fill_diagonal(matrix, 1.0)
    return _pairs(matrix, score_map, dim, f"{method} rank correlation")


def jaccard(score_map: xr.DataArray, k: int | None = None, dim: str = "prompt") -> xr.DataArray:
    """Overlap of the `k` best heads of every pair of maps: heads in both over heads in either (Jaccard 1901).

    Parameters
    ----------
    score_map
        Dims (`dim`, layer, head): scores, or with k=None a selection of 1 and 0.
    k
        Number of heads taken from each map; None if the map is a selection (`headprobe.metrics.selection`).
    dim
        The dim of the repeats.

    Returns
    -------
    xarray.DataArray
        Two dims, `dim` and the same name with ``_other`` behind it; symmetric, 1 on the diagonal, values 0 to 1. Not
        corrected for chance: for two random sets of k out of n heads it is about k / (2 n - k), so compare only at
        equal k and n, or use `headprobe.metrics.stability_index.kuncheva`.

    Raises
    ------
    InputError
        If there are fewer than two maps, `k` is out of range, or a set is empty.

    Warns
    -----
    HeadprobeWarning
        As in `headprobe.metrics.selection.selections`.

    Examples
    --------
    >>> from headprobe.scores import score_map
    >>> maps = score_map([[[1.0, 2.0, 3.0]], [[1.0, 3.0, 2.0]], [[9.0, 8.0, 7.0]]], prompts=["a", "b", "c"])
    >>> jaccard(maps, 2).values.round(3).tolist()
    [[1.0, 1.0, 0.333], [1.0, 1.0, 0.333], [0.333, 0.333, 1.0]]
    """
    sets, table = chosen(score_map, k, dim)
    refuse_empty(sets, table, dim)
    shared = sets @ sets.T
    sizes = sets.sum(1)
    return _pairs(shared / (sizes[:, None] + sizes[None] - shared), score_map, dim, "Jaccard index")


def mean_agreement(pairs: xr.DataArray) -> float:
    """Mean of an agreement over all pairs of different maps.

    Parameters
    ----------
    pairs
        Square and symmetric, as `rank_correlation` and `jaccard` return it.

    Returns
    -------
    float
        In the range of the agreement.

    Raises
    ------
    InputError
        If this is no square array of two or more maps.

    Examples
    --------
    >>> from headprobe.scores import score_map
    >>> maps = score_map([[[1.0, 2.0, 3.0]], [[1.0, 3.0, 2.0]]], prompts=["p1", "p2"])
    >>> round(mean_agreement(rank_correlation(maps)), 3)
    0.5
    """
    values = np.asarray(getattr(pairs, "values", pairs), dtype=np.float64)
    if values.ndim != 2 or values.shape[0] != values.shape[1] or len(values) < 2:
        raise InputError(f"expected agreements of two or more maps with each other, got shape {values.shape}")
    return float(values[np.triu_indices(len(values), 1)].mean())


def _pairs(matrix: Float[np.ndarray, "map map"], score_map: xr.DataArray, dim: str, name: str) -> xr.DataArray:
    import xarray as xr

    labels = score_map.coords[dim].values if dim in score_map.coords else np.arange(len(matrix))
    return xr.DataArray(
        matrix, dims=(dim, f"{dim}_other"), coords={dim: labels, f"{dim}_other": labels.copy()}, name=name
    )
