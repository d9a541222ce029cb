"""Score maps: one number per head, with named and exactly aligned coordinates."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from headprobe._files import parse_json, plain_cell, read_text, safe_cell, write_file
from headprobe.errors import InputError
from headprobe.heads import Head, HeadSet

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "check_aligned",
    "check_map",
    "from_csv",
    "from_json",
    "score_map",
    "to_csv",
    "to_json",
    "top_heads",
]

ORIGIN = ("model", "revision", "weights_hash")
"""Attributes of a score map that say which model it is of (`headprobe.metrics.origin`)."""

DIMS = ("metric", "prompt", "layer", "head")
"""Dimensions a score map may have, in their order; `layer` and `head` are always there."""


def score_map(
    values: ArrayLike,
    *,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    prompts: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    name: str = "score",
) -> xr.DataArray:
    """Wrap an array of head scores as a score map.

    Parameters
    ----------
    values
        `[metric, prompt, layer, head]`; the first axis is there only with `metrics`, the second only with
        `prompts`. NaN means "this head has no score"; infinite values are refused.
    layers, heads
        Integer coordinates, 0-based; default `0, 1, ...`.
    prompts, metrics
        Names along the leading axes.
    name
        Name of the map, used as the label of a colour bar.

    Returns
    -------
    xarray.DataArray
        float64, dims a subset of `(metric, prompt, layer, head)` in that order.

    Raises
    ------
    InputError
        If the shape does not fit the coordinates, a coordinate repeats, or a value is infinite.

    Examples
    --------
    >>> m = score_map([[0.1, 0.9], [0.4, 0.2]], layers=[6, 7])
    >>> float(m.sel(layer=6, head=1))
    0.9
    """
    import xarray as xr

    array = np.array(values, dtype=np.float64)
    names: list[tuple[str, list[str]]] = []
    if metrics is not None:
        names.append(("metric", [str(m) for m in metrics]))
    if prompts is not None:
        names.append(("prompt", [str(p) for p in prompts]))
    dims = [*(dim for dim, _ in names), "layer", "head"]
    if array.ndim != len(dims):
        raise InputError(
            f"score values have {array.ndim} axes (shape {array.shape}), but the axes {dims} were named: "
            "give `metrics` and `prompts` exactly when the values have these axes"
        )
    layer_axis = range(array.shape[-2]) if layers is None else layers
    head_axis = range(array.shape[-1]) if heads is None else heads
    coords: dict[str, list[str] | list[int]] = {
        **dict(names),
        "layer": [int(i) for i in layer_axis],
        "head": [int(i) for i in head_axis],
    }
    for axis, dim in enumerate(dims):
        labels = coords[dim]
        if len(labels) != array.shape[axis]:
            raise InputError(f"axis {dim!r} has {array.shape[axis]} entries but {len(labels)} coordinates: {labels}")
        if len(set(labels)) != len(labels):
            raise InputError(f"the coordinates of axis {dim!r} repeat: {labels}")
    if np.isinf(array).any():
        raise InputError(f"score map {name!r} holds infinite values; use NaN for a head without a score")
    return xr.DataArray(array, dims=dims, coords=coords, name=name)


def check_map(score_map: xr.DataArray, dims: Sequence[str], *, finite: bool = True) -> None:
    """Raise unless a score map has exactly the given dims, at least one head and (by default) no NaN.

    Parameters
    ----------
    score_map
        The map to look at.
    dims
        Expected dims, in order, such as `("layer", "head")`.
    finite
        Whether NaN and infinite values are refused as well.

    Raises
    ------
    InputError
        Naming the dims that were found, or the first head without a finite score.

    Examples
    --------
    >>> from headprobe.scores import score_map
    >>> check_map(score_map([[1.0, 2.0]]), ("layer", "head"))
    """
    found = tuple(getattr(score_map, "dims", ()))
    if found != tuple(dims):
        raise InputError(
            f"expected a score map with dims {tuple(dims)}, got {found or type(score_map).__name__}; "
            "select or combine the other dims first"
        )
    if score_map.size == 0:
        raise InputError(f"the score map is empty: shape {score_map.shape}")
    if finite:
        values = np.asarray(score_map.values, dtype=np.float64)
        bad = np.argwhere(~np.isfinite(values))
        if len(bad):
            where = ", ".join(f"{dim}={score_map.coords[dim].values[i]}" for dim, i in zip(found, bad[0], strict=True))
            raise InputError(
                f"{len(bad)} scores are NaN or infinite, the first at {where}: leave these heads out or score them"
            )


def check_aligned(*maps: xr.DataArray) -> None:
    """Raise unless all maps have the same dims and the same coordinates in the same order.

    xarray joins misaligned maps by their common coordinates without a word; call this before arithmetic.

    Parameters
    ----------
    maps
        Two or more score maps.

    Raises
    ------
    InputError
        Naming the first dim or coordinate that differs.

    Examples
    --------
    >>> a, b = score_map([[1.0, 2.0]]), score_map([[3.0, 4.0]], layers=[5])
    >>> check_aligned(a, b)
    Traceback (most recent call last):
    headprobe.errors.InputError: score maps differ along 'layer': [0] against [5]; ...
    """
    if not maps:
        raise InputError("check_aligned needs at least one score map, got none")
    first = maps[0]
    for other in maps[1:]:
        if other.dims != first.dims:
            raise InputError(f"score maps have different dims: {first.dims} against {other.dims}")
        for dim in first.dims:
            a, b = first.coords[dim].values.tolist(), other.coords[dim].values.tolist()
            if a != b:
                raise InputError(
                    f"score maps differ along {dim!r}: {_short(a)} against {_short(b)}; maps of different "
                    "models or shapes cannot be compared head by head"
                )


def top_heads(score_map: xr.DataArray, k: int) -> HeadSet:
    """Choose the `k` heads with the highest scores; ties go to the lower (layer, head).

    Parameters
    ----------
    score_map
        Dims (layer, head), every value finite.
    k
        Number of heads, from 1 to the number of heads in the map.

    Returns
    -------
    HeadSet
        Best head first.

    Raises
    ------
    InputError
        If the map has other dims, holds NaN, or has fewer than `k` heads.

    Examples
    --------
    >>> top_heads(score_map([[0.1, 0.9], [0.9, 0.2]]), 2).labels
    ('L0H1', 'L1H0')
    """
    check_map(score_map, ("layer", "head"))
    if not isinstance(k, int | np.integer) or isinstance(k, bool) or not 1 <= k <= score_map.size:
        raise InputError(f"k must be a whole number from 1 to {score_map.size} (the heads in the map), got {k!r}")
    layers = np.repeat(score_map.coords["layer"].values, score_map.sizes["head"])
    heads = np.tile(score_map.coords["head"].values, score_map.sizes["layer"])
    order = np.lexsort((heads, layers, -score_map.values.ravel()))[:k]
    return HeadSet([Head(int(layers[i]), int(heads[i])) for i in order])


def to_json(score_map: xr.DataArray) -> str:
    """Write a score map as JSON text; floats survive exactly, NaN becomes null, and its model is kept if it is known.

    Parameters
    ----------
    score_map
        Dims (layer, head), and metric, prompt or both before them.

    Returns
    -------
    str
        JSON.

    Examples
    --------
    >>> to_json(score_map([[0.5, 0.25]]))
    '{"name": "score", "dims": ["layer", "head"], "coords": {"layer": [0], "head": [0, 1]}, "values": [[0.5,
    0.25]]}'
    """
    _known_dims(score_map)
    origin = {name: str(score_map.attrs[name]) for name in ORIGIN if name in score_map.attrs}
    return json.dumps(
        {
            "name": str(score_map.name if score_map.name is not None else "score"),
            "dims": list(score_map.dims),
            "coords": {dim: score_map.coords[dim].values.tolist() for dim in score_map.dims},
            "values": _nan_to_none(score_map.values.tolist()),
        }
        | ({"origin": origin} if origin else {}),
        allow_nan=False,
    )


def from_json(text: str) -> xr.DataArray:
    """Read a score map written by `to_json`.

    Parameters
    ----------
    text
        What `to_json` gave.

    Returns
    -------
    xarray.DataArray

    Raises
    ------
    InputError
        If the text is not such a map.

    Examples
    --------
    >>> from_json(to_json(score_map([[0.5, 0.25]]))).values.tolist()
    [[0.5, 0.25]]
    """
    data = parse_json(text, "not a score map", InputError)
    if not isinstance(data, dict) or not {"name", "dims", "coords", "values"} <= data.keys():
        raise InputError("not a score map: the JSON needs the keys name, dims, coords and values")
    coords, dims = data["coords"], data["dims"]
    if not isinstance(coords, dict) or dims != [d for d in DIMS if d in coords] or set(dims) != set(coords):
        raise InputError(f"not a score map: dims {dims!r} do not fit the coordinates or the order {DIMS}")
    wrong = [dim for dim, labels in coords.items() if not _are_labels(labels, str if dim in DIMS[:-2] else int)]
    if wrong:
        kind = "names" if wrong[0] in DIMS[:-2] else "whole numbers from 0"
        raise InputError(f"not a score map: the coordinates of {wrong[0]} must be {kind}, got {coords[wrong[0]]!r:.80}")
    try:
        values = np.array(data["values"], dtype=np.float64)
    except (OverflowError, TypeError, ValueError) as error:
        raise InputError(f"not a score map: the values are not a rectangular array of numbers ({error})") from error
    origin = data.get("origin", {})
    if not isinstance(origin, dict) or not all(k in ORIGIN and isinstance(v, str) for k, v in origin.items()):
        raise InputError(
            f"not a score map: the origin must be texts under some of the names {ORIGIN}, got {origin!r:.80}"
        )
    return _from_coords(values, coords, str(data["name"])).assign_attrs(origin)


def to_csv(score_map: xr.DataArray, path: str | os.PathLike[str]) -> None:
    """Write a score map as a tidy CSV file, one row per head: its dims, then `score`. Its model is not kept.

    A name that a spreadsheet would take for a formula gets a ``'`` before it, which `from_csv` takes away.

    Parameters
    ----------
    score_map
        Dims (layer, head), and metric, prompt or both before them.
    path
        The file; it is replaced.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "map.csv"
    ...     to_csv(score_map([[0.5, 0.25]]), path)
    ...     path.read_text()
    'layer,head,score\\n0,0,0.5\\n0,1,0.25\\n'
    """
    _known_dims(score_map)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    dims = [str(d) for d in score_map.dims]
    writer.writerow([*dims, "score"])
    labels = [score_map.coords[d].values.tolist() for d in dims]
    for index, value in np.ndenumerate(score_map.values):
        row = [safe_cell(labels[axis][i]) for axis, i in enumerate(index)]
        writer.writerow([*row, "" if math.isnan(value) else repr(float(value))])
    write_file(path, out.getvalue())


def from_csv(path: str | os.PathLike[str], *, name: str = "score") -> xr.DataArray:
    """Read a score map written by `to_csv`.

    Parameters
    ----------
    path
        The file.
    name
        Name of the scores, for colour bars.

    Returns
    -------
    xarray.DataArray

    Raises
    ------
    InputError
        If columns are unknown, a value is not a number, or a combination of coordinates is missing or
        repeated.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "map.csv"
    ...     to_csv(score_map([[0.5, 0.25]]), path)
    ...     from_csv(path).sizes["head"]
    2
    """
    try:
        rows = list(csv.reader(io.StringIO(read_text(path), newline="")))
    except csv.Error as error:
        raise InputError(f"{path}: no readable table: {error}.") from error
    header = rows[0] if rows else []
    dims = header[:-1]
    if not header or header[-1] != "score" or dims != [d for d in DIMS if d in dims] or dims[-2:] != ["layer", "head"]:
        raise InputError(f"{path}: the header {header} is not '[metric,][prompt,]layer,head,score'")
    cells: dict[tuple[str | int, ...], float] = {}
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(header):
            raise InputError(f"{path}, line {number}: {len(row)} columns, expected {len(header)}")
        try:
            key = (*map(plain_cell, row[:-3]), int(row[-3]), int(row[-2]))
            value = float(row[-1]) if row[-1] else math.nan
        except ValueError as error:
            raise InputError(f"{path}, line {number}: {error}") from error
        if key in cells:
            raise InputError(f"{path}, line {number}: {dict(zip(dims, key, strict=True))} is there twice")
        cells[key] = value
    coords = {dim: list(dict.fromkeys(key[axis] for key in cells)) for axis, dim in enumerate(dims)}
    shape = tuple(len(labels) for labels in coords.values())
    if len(cells) != math.prod(shape) or not cells:
        raise InputError(f"{path}: {len(cells)} rows do not fill a map of shape {shape}")
    values = np.empty(shape)
    places = [{label: i for i, label in enumerate(labels)} for labels in coords.values()]
    for key, value in cells.items():
        values[tuple(place[label] for place, label in zip(places, key, strict=True))] = value
    return _from_coords(values, coords, name)


def _from_coords(values: np.ndarray, coords: Mapping[str, list], name: str) -> xr.DataArray:
    return score_map(
        values,
        layers=coords.get("layer"),
        heads=coords.get("head"),
        prompts=coords.get("prompt"),
        metrics=coords.get("metric"),
        name=name,
    )


def _are_labels(given: object, kind: type) -> bool:
    fits = isinstance(given, list) and all(type(one) is kind for one in given)
    return fits and (kind is str or all(0 <= number < 1 << 31 for number in given))


def _known_dims(score_map: xr.DataArray) -> None:
    if tuple(score_map.dims) != tuple(d for d in DIMS if d in score_map.dims) or score_map.dims[-2:] != (
        "layer",
        "head",
    ):
        raise InputError(f"a score map has dims out of {DIMS}, in that order; got {tuple(score_map.dims)}")


def _nan_to_none(values: list | float) -> list | float | None:
    if isinstance(values, list):
        return [_nan_to_none(v) for v in values]
    return None if math.isnan(values) else values


def _short(labels: list) -> str:
    return str(labels) if len(labels) <= 8 else f"[{labels[0]!r}, ..., {labels[-1]!r}] ({len(labels)} entries)"
