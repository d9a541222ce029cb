"""Normalisation: bringing the scores of different metrics to one scale before they are averaged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from headprobe._validation import choice, notice
from headprobe.errors import InputError
from headprobe.metrics.ranks import ranks
from headprobe.scores import _check_map, _keep_origin

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["NORMALISATIONS", "OUTLIER_HEADS", "OUTLIER_SHARE", "combine", "min_max", "rank_scale"]

NORMALISATIONS = ("min_max", "rank")
"""What `combine` knows."""

OUTLIER_SHARE = 0.5
"""Share of the range that one head alone must hold for `min_max` to warn."""

OUTLIER_HEADS = 32
"""Maps of fewer heads give no warning: of exponentially distributed scores, the best of 12 holds half of the range by
chance in 16 of 100 maps, the best of 32 in 6, of 64 in 3, of 784 in 0.2 (normally distributed ones far less often)."""


def min_max(score_map: xr.DataArray) -> xr.DataArray:
    """Bring the scores of all heads to 0 to 1, separately for every metric and prompt.

    `(s - min) / (max - min)` over layer and head (arXiv 2512.17601, section 3). The scale is set by two heads, the
    best and the worst. Where one of them alone sets it, in that the range of all other heads is less than half of the
    whole range (`OUTLIER_SHARE`; maps of `OUTLIER_HEADS` heads and more), this is said in a warning: the others
    are then hardly told apart by this metric. `rank_scale` has no such weakness.

    Parameters
    ----------
    score_map
        Dims ([metric,] [prompt,] layer, head), every value finite; a head that has no score anywhere (NaN) stays so.

    Returns
    -------
    xarray.DataArray
        The same dims, values 0 to 1.

    Raises
    ------
    InputError
        If all heads score the same, so that there is no scale.

    Warns
    -----
    HeadprobeWarning
        If one head sets the scale.

    Examples
    --------
    >>> from headprobe.scores import score_map
    >>> min_max(score_map([[1.0, 3.0, 2.0]])).values.tolist()
    [[0.0, 1.0, 0.5]]
    """
    _check_scores(score_map)
    scaled = _zero_to_one(score_map)
    _warn_of_outliers(score_map)
    return _keep_origin(scaled, score_map)


def rank_scale(score_map: xr.DataArray) -> xr.DataArray:
    """Replace every score by the share of the other heads that it beats, separately for every metric and prompt.

    `(n - rank) / (n - 1)` with rank 1 for the highest of n scores and the mean rank for equal ones: 1 for the best
    head, 0 for the worst, and the same spacing for every metric, so that no outlier sets the scale. How far apart two
    heads are is lost.

    Parameters
    ----------
    score_map
        Dims ([metric,] [prompt,] layer, head), every value finite; a head that has no score anywhere (NaN) stays so.

    Returns
    -------
    xarray.DataArray
        The same dims, values 0 to 1.

    Raises
    ------
    InputError
        If all heads score the same, so that there is no order.

    Examples
    --------
    >>> from headprobe.scores import score_map
    >>> rank_scale(score_map([[1.0, 300.0, 2.0]])).values.tolist()
    [[0.0, 1.0, 0.5]]
    """
    _check_scores(score_map)
    _range(score_map, "there is no order")
    n = score_map.count(("layer", "head"))
    scaled = ((n - ranks(score_map)) / (n - 1)).transpose(*score_map.dims).rename(score_map.name)
    return _keep_origin(scaled, score_map)


def combine(score_map: xr.DataArray, normalise: Literal["min_max", "rank"] = "min_max") -> xr.DataArray:
    """Average the metrics after bringing each to 0 to 1 over all heads: the paper's S(k, p).

    Parameters
    ----------
    score_map
        Dims (metric, [prompt,] layer, head).
    normalise
        `"min_max"` as in the paper, or `"rank"`: `rank_scale`, which no outlier head can stretch.

    Returns
    -------
    xarray.DataArray
        Dims ([prompt,] layer, head), values 0 to 1.

    Raises
    ------
    InputError
        If there is no metric dim, the normalisation is unknown, or as in `min_max`.

    Warns
    -----
    HeadprobeWarning
        As in `min_max`.

    Examples
    --------
    >>> from headprobe.scores import score_map
    >>> combine(score_map([[[1.0, 3.0]], [[8.0, 6.0]]], metrics=["lda", "kl"])).values.tolist()
    [[0.5, 0.5]]
    """
    choice(normalise, "normalise", NORMALISATIONS)
    if "metric" not in score_map.dims:
        raise InputError(f"combine averages over the dim 'metric', but the map has the dims {tuple(score_map.dims)}")
    scaled = min_max(score_map) if normalise == "min_max" else rank_scale(score_map)
    return _keep_origin(scaled.mean("metric", skipna=False).rename("combined saliency"), score_map)


def _check_scores(score_map: xr.DataArray) -> None:
    """Refuse what is not a score map, and scores that are missing or infinite in some of its maps only."""
    dims = tuple(str(d) for d in getattr(score_map, "dims", ()))
    if not {"layer", "head"} <= set(dims):
        raise InputError(
            f"expected a score map with dims ([...,] 'layer', 'head'), got {dims or type(score_map).__name__}"
        )
    absent = score_map.isnull().all([d for d in dims if d not in ("layer", "head")])
    if bool(absent.all()) and score_map.size:
        raise InputError("no head of the score map has a score: all values are NaN")
    _check_map(score_map.where(~absent, 0.0), dims)


def _zero_to_one(score_map: xr.DataArray) -> xr.DataArray:
    low, high = _range(score_map, "min-max has no scale")
    return (score_map - low) / (high - low)


def _range(score_map: xr.DataArray, consequence: str) -> tuple[xr.DataArray, xr.DataArray]:
    """Lowest and highest score of each map, which differ."""
    low, high = score_map.min(("layer", "head")), score_map.max(("layer", "head"))
    flat = low == high
    if bool(flat.any()):
        index = np.argwhere(flat.values)[0]
        raise InputError(
            f"{_place(flat, index)}: all {int(score_map.count(('layer', 'head')).min())} heads score the same "
            f"({float(low.values[tuple(index)]):.6g}), so {consequence}; leave this out"
        )
    return low, high


def _warn_of_outliers(score_map: xr.DataArray) -> None:
    """Say where one head alone holds more than `OUTLIER_SHARE` of the range of a map."""
    leading = [d for d in score_map.dims if d not in ("layer", "head")]
    maps = score_map.transpose(*leading, "layer", "head")
    values = maps.values.reshape(-1, maps.sizes["layer"] * maps.sizes["head"])
    present = np.isfinite(values[0])
    if present.sum() < OUTLIER_HEADS:
        return
    ordered = np.sort(values[:, present], axis=1)
    whole = ordered[:, -1] - ordered[:, 0]
    gaps = np.stack([ordered[:, 1] - ordered[:, 0], ordered[:, -1] - ordered[:, -2]]) / whole
    share = gaps.max(0)
    hit = np.flatnonzero(share > OUTLIER_SHARE)
    if not len(hit):
        return
    worst = int(hit[np.argmax(share[hit])])
    top = bool(gaps[1, worst] >= gaps[0, worst])
    place = int(np.nanargmax(values[worst]) if top else np.nanargmin(values[worst]))
    layer, head = np.unravel_index(place, (maps.sizes["layer"], maps.sizes["head"]))
    label = f"L{maps.coords['layer'].values[layer]}H{maps.coords['head'].values[head]}"
    shape = tuple(maps.sizes[d] for d in leading)
    where = _place(maps.isel(layer=0, head=0, drop=True), np.array(np.unravel_index(worst, shape)))
    others = f" (and so in {len(hit) - 1} more of {len(values)} maps)" if len(hit) > 1 else ""
    notice(
        f"{where}: head {label}, the {'highest' if top else 'lowest'} of {int(present.sum())}, alone holds "
        f"{share[worst]:.0%} of the range{others}: min-max leaves the other heads {1 - share[worst]:.0%} of the "
        "scale. Compare with normalise='rank' (headprobe.metrics.normalisation.rank_scale)."
    )


def _place(by_map: xr.DataArray, index: np.ndarray) -> str:
    named = zip(by_map.dims, index, strict=True)
    return ", ".join(f"{dim}={by_map.coords[dim].values[i]}" for dim, i in named) or "the map"
