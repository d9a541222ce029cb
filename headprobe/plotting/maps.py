"""Score maps as the plots read them: plain arrays, places of heads, second maps that have to fit."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from headprobe.errors import InputError
from headprobe.heads import Head, HeadSet
from headprobe.scores import cut, say_tied

__all__ = ["Map", "Place", "as_map", "best", "check_scored", "on_map", "same_cells"]

Place = tuple[int, int, Head]
"""Row, column and the head that is there."""


class Map(NamedTuple):
    """A score map without xarray.

    Parameters
    ----------
    values
        NaN where there is no score.
    layers, heads
        Numbers of the rows and columns.
    name
        What the scores are, with their unit in brackets where the map says so in ``attrs["units"]``; may be empty.
    """

    values: Float[np.ndarray, "layer head"]
    layers: list[int]
    heads: list[int]
    name: str

    def label(self, given: str | None, otherwise: str = "score") -> str:
        """The words for an axis: those given, else the map's own.

        Parameters
        ----------
        given
            The words of the caller, or None.
        otherwise
            The words where the map has none.

        Returns
        -------
        str
        """
        return given if given is not None else self.name or otherwise


def as_map(score_map: Any, what: str = "a heatmap") -> Map:
    """Read a score map or an array.

    Parameters
    ----------
    score_map
        DataArray with the dims layer and head in any order, or an array [layer, head] that starts at layer 0, head 0.
    what
        Who asks, for the error text.

    Returns
    -------
    Map

    Raises
    ------
    InputError
        Other dims, or no finite score.

    Examples
    --------
    >>> as_map(np.ones((2, 3))).heads
    [0, 1, 2]
    """
    dims = getattr(score_map, "dims", None)
    if dims is not None:
        if set(dims) != {"layer", "head"}:
            raise InputError(
                f"{what} shows one map with the dimensions (layer, head), got {tuple(map(str, dims))}; "
                'choose one with .sel(metric=...) or .sel(prompt=...), or average with .mean("prompt")'
            )
        score_map = score_map.transpose("layer", "head")
        numbers = [
            [int(n) for n in score_map[dim].values] if dim in score_map.coords else range(score_map.sizes[dim])
            for dim in ("layer", "head")
        ]
        values, name = np.asarray(score_map.values, np.float64), str(score_map.name or "")
        unit = score_map.attrs.get("units")
        name = f"{name or 'score'} ({unit})" if unit else name
    else:
        values, name = np.asarray(score_map, np.float64), ""
        if values.ndim != 2:
            raise InputError(f"{what} shows an array [layer, head], got shape {values.shape}")
        numbers = [range(size) for size in values.shape]
    if not np.isfinite(values).any():
        raise InputError(f"the map of shape {values.shape} has no finite score to draw")
    return Map(values, list(numbers[0]), list(numbers[1]), name)


def on_map(heads: HeadSet | Iterable[Head | str | tuple[int, int]] | None, shown: Map) -> list[Place]:
    """Rows and columns of heads.

    Parameters
    ----------
    heads
        Heads; None for none.
    shown
        The map.

    Returns
    -------
    list of (row, column, Head)

    Raises
    ------
    InputError
        A head is not on the map.

    Examples
    --------
    >>> on_map(["L1H2"], as_map(np.ones((2, 3))))
    [(1, 2, Head(layer=1, head=2))]
    """
    rows = {layer: row for row, layer in enumerate(shown.layers)}
    columns = {head: column for column, head in enumerate(shown.heads)}
    found = []
    for one in HeadSet(heads if heads is not None else ()):
        if one.layer not in rows or one.head not in columns:
            raise InputError(
                f"{one} is to be marked, but the map has layers {shown.layers[0]} to {shown.layers[-1]} "
                f"and heads {shown.heads[0]} to {shown.heads[-1]}"
            )
        found.append((rows[one.layer], columns[one.head], one))
    return found


def best(shown: Map, k: int) -> list[Place]:
    """The highest heads, fewer where fewer have a score; ties go to the lower (layer, head).

    Parameters
    ----------
    shown
        The map.
    k
        How many.

    Returns
    -------
    list of (row, column, Head)

    Raises
    ------
    InputError
        k is negative or above the number of cells.

    Examples
    --------
    >>> [str(head) for _, _, head in best(as_map([[0.1, 0.9], [0.4, np.nan]]), 2)]
    ['L0H1', 'L1H0']
    """
    values = shown.values
    if not 0 <= k <= values.size:
        raise InputError(f"annotate_top must be 0 to the {values.size} heads of the map, got {k}")
    rows, columns = np.nonzero(np.isfinite(values))
    if not k or not len(rows):
        return []
    layers, heads = np.array(shown.layers)[rows], np.array(shown.heads)[columns]
    order, tied = cut(values[rows, columns], layers, heads, k)
    named = [(int(rows[i]), int(columns[i]), Head(int(layers[i]), int(heads[i]))) for i in order[:k]]
    say_tied(HeadSet([head for *_, head in named], tied=[(int(layers[i]), int(heads[i])) for i in tied]))
    return named


def same_cells(other: Any, shown: Map, what: str) -> Float[np.ndarray, "layer head"]:
    """Values of a second map that has to fit the first, head by head.

    Parameters
    ----------
    other
        DataArray or array.
    shown
        The map that is drawn.
    what
        What the second map holds, for the error text.

    Returns
    -------
    numpy.ndarray [layer, head]

    Raises
    ------
    InputError
        Other layers or heads, or no value for a head that has a score.

    Examples
    --------
    >>> same_cells([[0.01, 0.2]], as_map([[1.0, 2.0]]), "p-values").tolist()
    [[0.01, 0.2]]
    """
    second = as_map(other, f"a map of {what}")
    if (second.layers, second.heads) != (shown.layers, shown.heads):
        raise InputError(
            f"the {what} are for {len(second.layers)} layers and {len(second.heads)} heads, the scores for "
            f"{len(shown.layers)} and {len(shown.heads)}, or their numbers differ: give them for the same heads"
        )
    missing = np.argwhere(np.isfinite(shown.values) & ~np.isfinite(second.values))
    if len(missing):
        head = Head(shown.layers[missing[0][0]], shown.heads[missing[0][1]])
        raise InputError(f"{len(missing)} heads have a score but none of the {what}, the first is {head}")
    return second.values


def check_scored(places: Iterable[Place], shown: Map) -> None:
    """Raise unless all heads have a score.

    Parameters
    ----------
    places
        Heads on the map.
    shown
        The map.

    Raises
    ------
    InputError
        Naming those without.

    Examples
    --------
    >>> one = as_map([[1.0, np.nan]])
    >>> check_scored(on_map(["L0H0"], one), one)
    """
    without = [head.label for row, column, head in places if not np.isfinite(shown.values[row, column])]
    if without:
        raise InputError(f"{', '.join(without)} is to be marked, but has no score")
