"""Ranks of heads within score maps, and the table of repeated maps that stability and consensus work on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from headprobe._validation import brief, choice, count, notice
from headprobe.errors import InputError
from headprobe.heads import Head, HeadSet
from headprobe.metrics.resampling import stack_maps
from headprobe.scores import _cut, _keep_origin

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "Repeats",
    "from_head_sets",
    "ranks",
    "repeats",
    "selection_frequency",
]


class Repeats(NamedTuple):
    """Repeated score maps as a table, heads without a score left out.

    Parameters
    ----------
    values
        Scores, [map, head].
    names
        Label of each map, such as the prompt's name.
    heads
        The heads, [head], in the order of the map's coordinates.
    order
        Positions of the heads sorted by (layer, head), [head].
    one
        The first map, dims (layer, head): what a result looks like.
    """

    values: Float[np.ndarray, "map head"]
    names: list[str]
    heads: list[Head]
    order: Int[np.ndarray, " head"]
    one: xr.DataArray

    __repr__ = brief

    def _to_map(self, scores: Float[np.ndarray, " head"], name: str) -> xr.DataArray:
        """Put one number per head, `[head]`, back in its place; NaN where the map has no head."""
        flat = np.full(self.one.size, np.nan)
        flat[np.isfinite(self.one.values).ravel()] = scores
        return _keep_origin(self.one.copy(data=flat.reshape(self.one.shape)).rename(name), self.one)


def _check_repeats(score_map: xr.DataArray, dim: str, *, at_least: int = 1) -> None:
    """Raise unless a map repeats along `dim` and every head has either all scores along it or none."""
    found = tuple(str(d) for d in getattr(score_map, "dims", ()))
    if dim in ("layer", "head") or dim not in found or found[-2:] != ("layer", "head"):
        raise InputError(
            f"expected a score map with dims {(dim, 'layer', 'head')}, got {found or type(score_map).__name__}; "
            "name the dim of the repeats (dim=...), and stack maps with headprobe.metrics.resampling.stack_maps"
        )
    if score_map.size == 0:
        raise InputError(f"the score map is empty: shape {score_map.shape}")
    if score_map.sizes[dim] < at_least:
        raise InputError(f"{at_least} or more maps along {dim!r} are needed, got {score_map.sizes[dim]}")
    values = np.asarray(score_map.values, dtype=np.float64)
    if not np.isfinite(values).any():
        raise InputError("no head of the score map has a score: all values are NaN or infinite")
    absent = np.isnan(values).all(axis=found.index(dim), keepdims=True)
    bad = np.argwhere(~np.isfinite(values) & ~absent)
    if len(bad):
        where = ", ".join(f"{d}={_label(score_map, d, i)}" for d, i in zip(found, bad[0], strict=True))
        raise InputError(
            f"{len(bad)} scores are NaN or infinite, the first at {where}, while the same heads have scores elsewhere "
            f"along {dim!r}: leave these heads out or score them everywhere"
        )


def repeats(score_map: xr.DataArray, dim: str, *, at_least: int = 1, n_heads: int = 1) -> Repeats:
    """Lay a stack of score maps out as a table of maps by heads.

    Parameters
    ----------
    score_map
        Dims (`dim`, layer, head); a head that is NaN in all maps does not exist and is left out.
    dim
        The dim of the repeats.
    at_least, n_heads
        How many maps and how many heads are needed.

    Returns
    -------
    Repeats

    Raises
    ------
    InputError
        As in `check_repeats`; or there are other dims, or too few heads.

    Examples
    --------
    >>> from headprobe.scores import score_map
    >>> repeats(score_map([[[1.0, 2.0]], [[3.0, 4.0]]], prompts=["a", "b"]), "prompt").values.tolist()
    [[1.0, 2.0], [3.0, 4.0]]
    """
    found = tuple(getattr(score_map, "dims", ()))
    if found != (dim, "layer", "head"):
        raise InputError(
            f"expected a score map with dims {(dim, 'layer', 'head')}, got {found or type(score_map).__name__}; "
            "select or combine the other dims first"
        )
    _check_repeats(score_map, dim, at_least=at_least)
    values = np.asarray(score_map.values, dtype=np.float64).reshape(score_map.sizes[dim], -1)
    present = np.isfinite(values[0])
    if present.sum() < n_heads:
        raise InputError(f"{n_heads} or more heads with a score are needed, got {int(present.sum())}")
    layer = np.repeat(score_map.coords["layer"].values, score_map.sizes["head"])[present]
    head = np.tile(score_map.coords["head"].values, score_map.sizes["layer"])[present]
    return Repeats(
        values=values[:, present],
        names=[str(_label(score_map, dim, i)) for i in range(len(values))],
        heads=[Head(int(i), int(j)) for i, j in zip(layer, head, strict=True)],
        order=np.lexsort((head, layer)),
        one=score_map.isel({dim: 0}, drop=True),
    )


def ranks(score_map: xr.DataArray, ties: Literal["average", "min", "max"] = "average") -> xr.DataArray:
    """Rank of every head within its map, 1 for the highest score.

    Parameters
    ----------
    score_map
        Dims ([leading dims,] layer, head); NaN where there is no head. Each (layer, head) map is ranked by itself.
    ties
        What heads with the same score get: the mean of the ranks they share, the smallest or the largest.

    Returns
    -------
    xarray.DataArray
        The same dims, values from 1 to the number of heads with a score.

    Raises
    ------
    InputError
        If the map is empty, does not end in layer, head, or holds infinite values.

    Examples
    --------
    >>> from headprobe.scores import score_map
    >>> ranks(score_map([[0.5, 0.9, 0.5]])).values.tolist()
    [[2.5, 1.0, 2.5]]
    """
    from scipy.stats import rankdata

    found = tuple(getattr(score_map, "dims", ()))
    if found[-2:] != ("layer", "head") or score_map.size == 0:
        raise InputError(f"expected a filled score map with dims ([...,] 'layer', 'head'), got {found}")
    choice(ties, "ties", ("average", "min", "max"))
    values = np.asarray(score_map.values, dtype=np.float64)
    if np.isinf(values).any():
        raise InputError("the score map holds infinite values; use NaN for a head without a score")
    flat = values.reshape(-1, values.shape[-2] * values.shape[-1])
    ranked = rankdata(-flat, method=ties, axis=-1, nan_policy="omit")
    ranked = np.where(np.isnan(flat), np.nan, ranked).reshape(values.shape)
    return _keep_origin(score_map.copy(data=ranked).rename("rank"), score_map)


def _label(score_map: xr.DataArray, dim: str, index: int) -> object:
    return score_map.coords[dim].values[index] if dim in score_map.coords else index


def from_head_sets(sets: Mapping[Any, HeadSet], candidates: xr.DataArray, dim: str = "resample") -> xr.DataArray:
    """Mark the heads of given sets, such as those of another selector.

    Parameters
    ----------
    sets
        Label of each repeat to the heads it chose; sizes may differ.
    candidates
        Dims (layer, head): any score map of the model; every head with a score could have been chosen.
    dim
        Name of the dim of the repeats.

    Returns
    -------
    xarray.DataArray
        Dims (`dim`, layer, head): 1 for the chosen heads, 0 for the others, NaN where there is no head.

    Raises
    ------
    InputError
        If there is no set, or a set holds a head that is no candidate.

    Examples
    --------
    >>> from headprobe.scores import score_map
    >>> from_head_sets({"a": HeadSet(["L0H1"])}, score_map([[0.3, 0.5]])).values.tolist()
    [[[0.0, 1.0]]]
    """
    table = repeats(candidates.expand_dims("map"), "map")
    place = {head: i for i, head in enumerate(table.heads)}
    maps = {}
    for label, heads in sets.items():
        missing = [head.label for head in heads if head not in place]
        if missing:
            raise InputError(f"{dim}={label}: {', '.join(missing)} is not among the {len(place)} candidate heads")
        marked = np.zeros(len(place))
        marked[[place[head] for head in heads]] = 1
        maps[label] = table._to_map(marked, "selected")
    return stack_maps(maps, dim)


def _chosen(score_map: xr.DataArray, k: int | None, dim: str) -> tuple[Float[np.ndarray, "map head"], Repeats]:
    """Chosen heads as a table of 1 and 0, from scores and `k` or from a selection, and the repeats it was made from."""
    table = repeats(score_map, dim, at_least=2)
    if k is not None:
        return _top(table, k, dim), table
    if not np.isin(table.values, (0.0, 1.0)).all():
        raise InputError("the map holds scores, not a selection of 1 and 0: say how many heads to take (k=...)")
    return table.values, table


def _refuse_empty(sets: Float[np.ndarray, "map head"], table: Repeats, dim: str) -> None:
    """Raise if a set holds no head."""
    empty = np.flatnonzero(sets.sum(1) == 0)
    if len(empty):
        raise InputError(f"{dim}={table.names[empty[0]]}: no head is chosen; leave this map out, or use nogueira")


def selection_frequency(score_map: xr.DataArray, k: int | None = None, dim: str = "resample") -> xr.DataArray:
    """Share of the repeats in which a head is among the chosen.

    Parameters
    ----------
    score_map
        Dims (`dim`, layer, head): scores, or with k=None a selection of 1 and 0.
    k
        Number of heads taken from each map; None if the map is a selection.
    dim
        The dim of the repeats.

    Returns
    -------
    xarray.DataArray
        Dims (layer, head), 0 to 1; by chance k / number of heads.

    Raises
    ------
    InputError
        If there are fewer than two maps, `k` is out of range, or with k=None the map holds other values than 1 and 0.

    Warns
    -----
    HeadprobeWarning
        If heads tie for the last of `k` places in some maps; their number is named.

    Examples
    --------
    >>> from headprobe.scores import score_map
    >>> maps = score_map([[[1.0, 2.0, 3.0]], [[1.0, 3.0, 2.0]]], prompts=["p1", "p2"])
    >>> selection_frequency(maps, 1, "prompt").values.tolist()
    [[0.0, 0.5, 0.5]]
    """
    sets, table = _chosen(score_map, k, dim)
    return table._to_map(sets.mean(0), "selection frequency")


def _top(table: Repeats, k: int, dim: str) -> Float[np.ndarray, "map head"]:
    n = len(table.heads)
    count(k, "k", 1, n)
    marked = np.zeros(table.values.shape)
    tied: dict[int, int] = {}
    layers, heads = np.array([(head.layer, head.head) for head in table.heads]).T
    for i, row in enumerate(table.values):
        order, behind = _cut(row, layers, heads, k)
        marked[i, order[:k]] = 1
        if len(behind):
            tied[i] = len(behind)
    if tied:
        first, left_out = next(iter(tied.items()))
        notice(
            f"in {len(tied)} of {len(table.values)} maps the head of rank {k} is tied with the next, first in "
            f"{dim}={table.names[first]} ({left_out} left out): ties go to the lower (layer, head) in every map, which "
            "makes the maps seem to agree; choose another k"
        )
    return marked
