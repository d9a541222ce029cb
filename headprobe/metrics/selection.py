"""Selections: which heads are chosen from repeated score maps, and how often."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from headprobe._notice import notice
from headprobe.errors import InputError
from headprobe.heads import HeadSet
from headprobe.metrics.origin import keep_origin
from headprobe.metrics.ranks import Repeats, repeats
from headprobe.metrics.replicates import stack_maps
from headprobe.scores import check_k

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "chosen",
    "from_head_sets",
    "refuse_empty",
    "selection_frequency",
    "selections",
]


def selections(score_map: xr.DataArray, k: int, dim: str = "resample") -> xr.DataArray:
    """Mark the `k` best heads of every map.

    Parameters
    ----------
    score_map
        Dims (`dim`, layer, head); a head that is NaN in all maps is no candidate.
    k
        Number of heads.
    dim
        The dim of the repeats.

    Returns
    -------
    xarray.DataArray
        The same dims: 1 for the chosen heads, 0 for the others, NaN where there is no head.

    Raises
    ------
    InputError
        If dims or scores do not fit (`headprobe.metrics.ranks.check_repeats`) or `k` is out of range.

    Warns
    -----
    HeadprobeWarning
        If the k-th head of a map scores as high as the next. Such ties go to the lower (layer, head), so in every map
        to the same heads, and the maps seem to agree more than they do.

    Examples
    --------
    >>> from headprobe.scores import score_map
    >>> selections(score_map([[[0.2, 0.9, 0.5]]], prompts=["p"]), 2, "prompt").values.tolist()
    [[[0.0, 1.0, 1.0]]]
    """
    table = repeats(score_map, dim)
    values = np.full(score_map.shape, np.nan).reshape(len(table.values), -1)
    values[:, np.isfinite(score_map.values[0]).ravel()] = _top(table, k, dim)
    return keep_origin(score_map.copy(data=values.reshape(score_map.shape)).rename("selected"), score_map)


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
        maps[label] = table.to_map(marked, "selected")
    return stack_maps(maps, dim)


def chosen(score_map: xr.DataArray, k: int | None, dim: str) -> tuple[Float[np.ndarray, "map head"], Repeats]:
    """Chosen heads as a table of 1 and 0, from scores and `k` or from a selection.

    Parameters
    ----------
    score_map
        Dims (`dim`, layer, head): scores, or with k=None a selection of 1 and 0.
    k
        Number of heads taken from each map, or None.
    dim
        The dim of the repeats.

    Returns
    -------
    tuple
        The table [map, head], and the repeats it was made from.

    Raises
    ------
    InputError
        If there are fewer than two maps, or with k=None other values than 1 and 0.

    Examples
    --------
    >>> from headprobe.scores import score_map
    >>> chosen(score_map([[[0.1, 0.9]], [[0.2, 0.8]]], prompts=["a", "b"]), 1, "prompt")[0].tolist()
    [[0.0, 1.0], [0.0, 1.0]]
    """
    table = repeats(score_map, dim, at_least=2)
    if k is not None:
        return _top(table, k, dim), table
    if not np.isin(table.values, (0.0, 1.0)).all():
        raise InputError("the map holds scores, not a selection of 1 and 0: say how many heads to take (k=...)")
    return table.values, table


def refuse_empty(sets: Float[np.ndarray, "map head"], table: Repeats, dim: str) -> None:
    """Raise if a set holds no head.

    Parameters
    ----------
    sets, table
        As `chosen` returns them.
    dim
        The dim of the repeats.

    Raises
    ------
    InputError
        Naming the first map whose set is empty.

    Examples
    --------
    >>> from headprobe.scores import score_map
    >>> refuse_empty(*chosen(score_map([[[0.1, 0.9]], [[0.2, 0.8]]], prompts=["a", "b"]), 1, "prompt"), "prompt")
    """
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
        As in `chosen` and `selections`.

    Warns
    -----
    HeadprobeWarning
        As in `selections`.

    Examples
    --------
    >>> from headprobe.scores import score_map
    >>> maps = score_map([[[1.0, 2.0, 3.0]], [[1.0, 3.0, 2.0]]], prompts=["p1", "p2"])
    >>> selection_frequency(maps, 1, "prompt").values.tolist()
    [[0.0, 0.5, 0.5]]
    """
    sets, table = chosen(score_map, k, dim)
    return table.to_map(sets.mean(0), "selection frequency")


def _top(table: Repeats, k: int, dim: str) -> Float[np.ndarray, "map head"]:
    n = len(table.heads)
    check_k(k, n)
    marked = np.zeros(table.values.shape)
    tied: dict[int, int] = {}
    for i, row in enumerate(table.values):
        order, behind = table.cut(row, k)
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
