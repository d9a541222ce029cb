"""Score maps: one number per head, with named and exactly aligned coordinates."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from headprobe._files import csv_records, parse_json, plain_cell, read_text, safe_cell, write_file
from headprobe._validation import count, notice
from headprobe.errors import InputError
from headprobe.heads import Head, HeadSet
from headprobe.provenance import Provenance

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "from_csv",
    "from_json",
    "from_matrix",
    "score_map",
    "to_csv",
    "to_json",
    "top_heads",
]

ORIGIN = ("model", "revision", "weights_hash")
"""Attributes of a score map that say which model it is of (`headprobe.scores`)."""

DIMS = ("metric", "prompt", "layer", "head")
"""Dimensions a score map may have, in their order; `layer` and `head` are always there."""

TIED = 1e-12
"""Scores closer than this share of their size tie: that much depends on the order of a sum, and so on the processor."""


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


def _check_map(score_map: xr.DataArray, dims: Sequence[str], *, finite: bool = True) -> None:
    """Raise unless a score map has exactly the given dims, at least one head and (by default) no NaN."""
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


def _check_aligned(*maps: xr.DataArray) -> None:
    """Raise unless all maps have the same dims and the same coordinates in the same order."""
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


def top_heads(score_map: xr.DataArray, k: int, tie_break: xr.DataArray | None = None) -> HeadSet:
    """Choose the `k` heads with the highest scores; of heads that tie for the last places, the lower (layer, head).

    Scores that differ by rounding alone (`TIED`) tie. A saturated score, such as an area of 1.0, may tie for dozens of
    heads, and which of them are chosen then says nothing about them.

    Parameters
    ----------
    score_map
        Dims (layer, head); a head without a score (NaN) is no candidate.
    k
        Number of heads, from 1 to the number of heads with a score.
    tie_break
        A second score of the same heads, dims (layer, head), that decides between heads of the same score: the higher
        goes first. What ties in both goes to the lower (layer, head).

    Returns
    -------
    HeadSet
        Best head first. `tied` holds the heads left out that tie with the last one chosen.

    Raises
    ------
    InputError
        If the maps have other dims or not the same heads, a score is infinite, or fewer than `k` heads have one.

    Warns
    -----
    HeadprobeWarning
        If heads are left out that tie with the last one chosen; their number is named.

    Examples
    --------
    >>> top_heads(score_map([[0.1, 0.9], [0.9, 0.2]]), 2).labels
    ('L0H1', 'L1H0')
    >>> top_heads(score_map([[0.9, 0.9]]), 1, tie_break=score_map([[3.0, 4.0]])).labels
    ('L0H1',)
    """
    chosen = _top_heads_quietly(score_map, k, tie_break)
    _say_tied(chosen, None if not chosen.tied else float(score_map.sel(layer=chosen[-1].layer, head=chosen[-1].head)))
    return chosen


def _top_heads_quietly(score_map: xr.DataArray, k: int, tie_break: xr.DataArray | None = None) -> HeadSet:
    """`top_heads` without the warning, for callers that choose many times and say it once."""
    _check_map(score_map, ("layer", "head"), finite=False)
    values = np.asarray(score_map.values, dtype=np.float64).ravel()
    there = np.flatnonzero(~np.isnan(values))
    if not len(there) or np.isinf(values).any():
        what = "no head of the score map has a score: all values are NaN"
        raise InputError(
            "the score map holds infinite values; use NaN for a head without a score" if len(there) else what
        )
    layers = np.repeat(score_map.coords["layer"].values, score_map.sizes["head"])[there]
    heads = np.tile(score_map.coords["head"].values, score_map.sizes["layer"])[there]
    names = [Head(int(i), int(j)) for i, j in zip(layers, heads, strict=True)]
    second = None
    if tie_break is not None:
        _check_map(tie_break, ("layer", "head"), finite=False)
        _check_aligned(score_map, tie_break)
        second = np.asarray(tie_break.values, dtype=np.float64).ravel()[there]
        if not np.isfinite(second).all():
            raise InputError(
                f"tie_break has no finite score for {names[int(np.argmin(np.isfinite(second)))]}: score every head "
                "that has a score in the map, or leave the head out of both."
            )
    count(k, "k", 1, len(there))
    order, tied = _cut(values[there], layers, heads, k, second)
    return HeadSet((names[i] for i in order[:k]), tied=(names[i] for i in tied))


def _cut(
    values: np.ndarray, layers: np.ndarray, heads: np.ndarray, k: int, second: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The one rule that ranks heads: score, second score, lower layer, lower head. Positions of all, best first, and of
    those behind the first `k` that tie with the last of these."""
    keys = [_levels(values)] if second is None else [_levels(second), _levels(values)]
    order = np.lexsort((heads, layers, *keys))
    behind, last = order[k:], order[min(k, len(order)) - 1]
    return order, behind[np.all([key[behind] == key[last] for key in keys], axis=0)]


def _say_tied(chosen: HeadSet, score: float | None = None, where: str = "") -> None:
    """Warn if heads were left out that tie with the last one chosen."""
    tied = chosen.tied
    if not tied:
        return
    value = "" if score is None else f" ({score:.6g})"
    one = len(tied) == 1
    notice(
        f"{where}{len(tied)} more head{'' if one else 's'} score{'s' if one else ''} as high as the last of the "
        f"{len(chosen)} chosen{value}, the first {tied[0]}: ties go to the lower (layer, head), which says nothing "
        "about the heads; look at the heads left out (.tied), choose another k, or give a second score (tie_break=)"
    )


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
    """Read a score map written by `to_json`, or scores by head, as retrieval heads are published.

    Parameters
    ----------
    text
        What `to_json` gave; or an object of scores by `"layer-head"`, each a number or a list of one number per trial,
        whose mean is taken: `{"0-0": [0.5, 0.7], "0-1": [0.1, 0.2]}`.

    Returns
    -------
    xarray.DataArray
        Of scores by head: dims (layer, head), NaN for heads that are not listed.

    Raises
    ------
    InputError
        If the text is neither, a head is listed twice, or heads have different numbers of trials.

    Examples
    --------
    >>> from_json(to_json(score_map([[0.5, 0.25]]))).values.tolist()
    [[0.5, 0.25]]
    >>> from_json('{"0-0": [0.5, 1.0], "0-1": [0.0, 0.5]}').values.tolist()
    [[0.75, 0.25]]
    """
    data = parse_json(text, "not a score map", InputError)
    if isinstance(data, dict) and data and all(re.fullmatch(r"\d+-\d+", key) for key in data):
        return _by_head(data)
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


def from_matrix(path: str | os.PathLike[str], *, name: str = "score", queries_per_head: int = 1) -> xr.DataArray:
    """Read a score map from a text file of numbers alone, one line per layer and one column per head.

    Parameters
    ----------
    path
        The file: no header, numbers apart by tabs, commas or spaces; `nan` for a head without a score.
    name
        Name of the scores, for colour bars.
    queries_per_head
        Where the columns are key-value heads (as DuoAttention's are): how many query heads share one. Every score is
        then given to each of them, because heads are query heads here.

    Returns
    -------
    xarray.DataArray
        Dims (layer, head).

    Raises
    ------
    InputError
        If the file cannot be read, a line is no list of numbers, lines differ in length, or a value is infinite.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "full_attention_heads.tsv"
    ...     _ = path.write_text("0.5\\t1.0\\n0.0\\t0.25\\n")
    ...     from_matrix(path, queries_per_head=2).values.tolist()
    [[0.5, 0.5, 1.0, 1.0], [0.0, 0.0, 0.25, 0.25]]
    """
    count(queries_per_head, "queries_per_head")
    rows: list[list[float]] = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        fields = re.split(r"\s*,\s*|\s+", line.strip())
        if fields == [""]:
            continue
        try:
            rows.append([float(field) for field in fields])
        except ValueError as error:
            raise InputError(
                f"{path}, line {number}: {error}; every line holds the scores of one layer and nothing else."
            ) from error
        if len(rows[-1]) != len(rows[0]):
            raise InputError(f"{path}, line {number}: {len(rows[-1])} scores, the first line has {len(rows[0])}.")
    if not rows:
        raise InputError(f"{path}: the file holds no scores; give one line per layer.")
    return score_map(np.repeat(np.array(rows), queries_per_head, axis=1), name=name)


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
    header, rows = csv_records(read_text(path), str(path))
    dims = header[:-1]
    if not header or header[-1] != "score" or dims != [d for d in DIMS if d in dims] or dims[-2:] != ["layer", "head"]:
        raise InputError(f"{path}: the header {header} is not '[metric,][prompt,]layer,head,score'")
    cells: dict[tuple[str | int, ...], float] = {}
    for number, row in rows:
        *labels, layer, head, score = row.values()
        try:
            key = (*map(plain_cell, labels), int(layer), int(head))
            value = float(score) if score else math.nan
        except ValueError as error:
            raise InputError(f"{path}, line {number}: {error}") from error
        if key in cells:
            raise InputError(f"{path}, line {number}: {dict(zip(dims, key, strict=True))} is there twice")
        cells[key] = value
    coords = {dim: list(dict.fromkeys(key[axis] for key in cells)) for axis, dim in enumerate(dims)}
    shape = tuple(len(labels) for labels in coords.values())
    if len(cells) != math.prod(shape) or not cells:
        raise InputError(f"{path}: {len(cells)} rows do not fill a map of shape {shape}")
    values = np.array([cells[key] for key in product(*coords.values())])
    return _from_coords(values.reshape(shape), coords, name)


def _by_head(data: Mapping[str, Any]) -> xr.DataArray:
    """Scores by "layer-head", the mean over trials."""
    places: dict[tuple[int, int], float] = {}
    trials: set[int] = set()
    for key, given in data.items():
        try:
            values = np.array(given, dtype=np.float64)
        except (TypeError, ValueError):
            values = np.empty((0, 0))
        if values.ndim > 1 or not values.size or not np.isfinite(values).all():
            raise InputError(f"not a score map: the scores of head {key!r} must be a finite number or a list of them.")
        layer, head = map(int, key.split("-"))
        if (layer, head) in places:
            raise InputError(f"not a score map: head {key!r} is there twice; keep one of them.")
        places[layer, head] = float(values.mean())
        trials.add(values.size if values.ndim else 0)
    if len(trials) > 1:
        raise InputError(
            f"not a score map: heads have {min(trials)} to {max(trials)} trials each (0: a single number); their means "
            "compare only over the same trials."
        )
    layers, heads = sorted({layer for layer, _ in places}), sorted({head for _, head in places})
    values = [[places.get((layer, head), math.nan) for head in heads] for layer in layers]
    return score_map(values, layers=layers, heads=heads)


def _levels(values: np.ndarray) -> np.ndarray:
    """Number of the step on which each value stands, 0 for the highest; what rounding tells apart is one step."""
    order = np.argsort(-values, kind="stable")
    ranked = values[order]
    size = np.maximum(np.abs(ranked[:-1]), np.abs(ranked[1:]))
    level = np.empty(len(values), dtype=int)
    level[order] = np.concatenate([[0], np.cumsum(ranked[:-1] - ranked[1:] > TIED * size)])
    return level


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
    if not isinstance(given, list) or not all(type(one) is kind for one in given):
        return False
    return kind is str or all(0 <= number < 1 << 31 for number in given)


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


def _origin_of(provenance: Provenance) -> dict[str, str]:
    """What a score map says of the model it is of."""
    return {name: str(value) for name in ORIGIN if (value := getattr(provenance, name))}


def _keep_origin(result: xr.DataArray, source: xr.DataArray) -> xr.DataArray:
    """Give a map the origin of the map it was computed from, and no other attribute."""
    result.attrs = {name: source.attrs[name] for name in ORIGIN if name in source.attrs}
    return result


def _check_same_model(maps: Sequence[xr.DataArray], advice: str) -> None:
    """Raise if two maps say that they are of different models; a map that does not say is not looked at."""
    for name in ORIGIN:
        found = sorted({str(one.attrs[name]) for one in maps if name in one.attrs})
        if len(found) > 1:
            raise InputError(f"the maps come from different models ({name}: {', '.join(found)}): {advice}")
