"""The examples behind the heads: which are shown, and their words or frames."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from headprobe.errors import InputError
from headprobe.examples import Example, _read_content
from headprobe.heads import Head, HeadSet
from headprobe.plotting._cells import as_map, on_map
from headprobe.plotting._pictures import address, frame_jpeg, templates, within

if TYPE_CHECKING:
    import pandas as pd
    from xarray import DataArray

_FRAMES, _HEIGHT, _WORDS, _COLOURS = 8, 160, 280, 64


def shown_rows(y: Int[np.ndarray, " example"] | None, n: int, most: int) -> Int[np.ndarray, " shown"]:
    """The rows to show: all, or as many of each class as there is room for, at even distances."""
    if n <= most:
        return np.arange(n)
    classes = [np.arange(n)] if y is None else [np.flatnonzero(y == value) for value in np.unique(y)]
    room, chosen = most, []
    for left, rows in zip(range(len(classes), 0, -1), sorted(classes, key=len), strict=True):
        take = min(len(rows), max(room // left, 1))
        chosen.append(rows[np.unique(np.linspace(0, len(rows) - 1, take).round().astype(int))])
        room -= take
    return np.sort(np.concatenate(chosen))


def describe(table: pd.DataFrame, rows: Int[np.ndarray, " shown"]) -> list[dict[str, Any]]:
    """Id, label, group and span of the rows, as plain values."""
    described = []
    for row in table.iloc[rows].to_dict("records"):
        one: dict[str, Any] = {}
        for name in ("id", "label", "group", "start", "end"):
            value = row[name]
            if value is not None and value == value and str(value) != "<NA>":
                one[name] = str(value) if name in ("id", "group") else int(value)
        described.append(one)
    return described


def contents(
    examples: Sequence[Example] | Mapping[str, Any], table: pd.DataFrame, rows: Sequence[int], room: int
) -> dict[int, dict[str, Any]]:
    """The words or frames of rows, until there is no room left."""
    given = examples.values() if isinstance(examples, Mapping) else examples
    known = {example.id: example for example in given}
    names = table["example" if "example" in table.columns else "id"].astype(str).tolist()
    missing = [names[row] for row in rows if names[row] not in known]
    if missing:
        raise InputError(
            f"{len(missing)} of the rows to show have no example, the first is {missing[0]!r}: give the examples that "
            "the activations were captured from"
        )
    found: dict[int, dict[str, Any]] = {}
    for row in rows:
        content = _read_content(known[names[row]])
        if isinstance(content, str):
            one: dict[str, Any] = {"text": content if len(content) <= _WORDS else content[: _WORDS - 1] + "…"}
        else:
            frames = np.asarray(content)
            start, end = 0, len(frames)
            if "frame" in table.columns and table["frame"].iloc[row] == table["frame"].iloc[row]:
                start, end = int(table["frame"].iloc[row]), int(table["frame_end"].iloc[row])
            at = np.unique(np.linspace(start, end - 1, min(_FRAMES, end - start)).round().astype(int))
            strip = np.concatenate([within(frames[i], _HEIGHT) for i in at], 1)
            one = {"image": address(frame_jpeg(strip, _HEIGHT, quality=72)), "at": at.tolist(), "frames": len(frames)}
        room -= len(json.dumps(one)) + 15
        if room < 0:
            break
        found[row] = one
    return found


def looks(
    attention: Any,
    examples: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    wanted: Iterable[tuple[str, Head, int, Iterable[int]]],
    tokenizer: Any,
    room: int,
) -> tuple[dict[str, Any], int]:
    """Where heads look in examples, for as many as there is room for, and how many have none.

    Weights are the square roots of their shares of the largest, as bytes in base64: most weights are small.
    """
    row_of = {str(name): row for row, name in enumerate(attention.examples["id"])}
    places, missing = {head: i for i, head in enumerate(attention.heads)}, 0
    found: dict[str, Any] = {"maps": {}, "tokens": {}, "grids": {}}
    for prompt, head, cell, shown in wanted:
        if prompt not in attention.prompts or head not in places:
            continue
        row = attention.patterns[list(attention.prompts).index(prompt)]
        for i in shown:
            if names[i] not in row_of:
                missing += 1
                continue
            pattern, key = row[row_of[names[i]]], f"{prompt}/{i}"
            weights, share = pattern.weights[places[head]].numpy(), 1.0
            if pattern.video is not None:
                weights, share = pattern.to_video()[places[head]].numpy(), float(pattern.video_share()[places[head]])
                kind, about = "grids", [*weights.shape, pattern.frames_per_token]
                _check_steps(examples[i], len(weights), pattern.frames_per_token)
            elif tokenizer is None:
                raise InputError(
                    "tokenizer is None; attention to texts needs one to name their tokens, such as model.tokenizer."
                )
            else:
                kind, about = "tokens", [tokenizer.decode([token]) for token in pattern.token_ids.tolist()]
            top = float(np.nanmax(weights)) or 1.0
            entry = [top, share, packed(np.round(255 * np.sqrt(np.nan_to_num(weights) / top)), np.uint8)]
            size = len(json.dumps(entry)) + 2 * len(key) + 40 + (key not in found[kind]) * len(json.dumps(about))
            if size > room:
                missing += 1
                continue
            room -= size
            found[kind][key], found["maps"][f"{cell}/{key}"] = about, entry
    if not found["maps"] and not missing:
        raise InputError(
            f"attention is of the heads {', '.join(attention.heads.labels)} under the prompts "
            f"{list(attention.prompts)}; it must be of heads and prompts whose examples are shown."
        )
    return found, missing


def _check_steps(example: Mapping[str, Any], steps: int, per_step: int) -> None:
    if "frames" in example and -(-example["frames"] // per_step) != steps:
        raise InputError(
            f"attention has {steps} steps of {per_step} frames for {example['id']}, which has {example['frames']} "
            "frames; give the examples that the attention was read from."
        )


class View(NamedTuple):
    """One head under one prompt."""

    points: Float[np.ndarray, "example 2"]
    shares: Float[np.ndarray, " 2"]
    silhouette: float
    strength: Float[np.ndarray, " example"]


def head_view(
    z: Float[np.ndarray, "example d_head"],
    y: Int[np.ndarray, " example"] | None,
    positive: int | None,
    groups: Int[np.ndarray, " example"],
) -> View:
    """Look at the outputs of one head."""
    from sklearn.metrics import silhouette_score

    x = np.asarray(z, np.float64)
    spread = x.std(0)
    x = (x - x.mean(0)) / np.where(spread > 0, spread, 1.0)
    points, shares = _components(x)
    if y is None or positive is None:
        return View(points, shares, np.nan, points[:, 0])
    # Of classes of one example each, it is 0 by definition.
    silhouette = float(silhouette_score(x, y)) if len(np.unique(y)) < len(y) else 0.0
    return View(points, shares, silhouette, margins(x, y == positive, groups))


def _components(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first two principal components of centred features, signed as scikit-learn's, in a quarter of its time."""
    from scipy.linalg import eigh

    n, d = x.shape
    narrow = d <= n
    square = x.T @ x if narrow else x @ x.T
    top = min(2, len(square))
    values, vectors = eigh(square, subset_by_index=[len(square) - top, len(square) - 1])
    values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
    loadings = vectors if narrow else x.T @ vectors
    signs = np.sign(loadings[np.abs(loadings).argmax(0), np.arange(top)])
    points = x @ vectors if narrow else vectors * np.sqrt(values)
    points = points * np.where(signs == 0, 1.0, signs)
    shares = values / max(float((x**2).sum()), 1e-300)
    missing = 2 - top
    return np.pad(points, ((0, 0), (0, missing))), np.pad(shares, (0, missing))


def margins(
    x: Float[np.ndarray, "example d"], yes: Bool[np.ndarray, " example"], groups: Int[np.ndarray, " example"]
) -> Float[np.ndarray, " example"]:
    """How far each example lies on the side of a class: its distance to the plane midway between two class means."""
    _, group = np.unique(groups, return_inverse=True)
    means = []
    for side in (yes, ~yes):
        sums, counts = np.zeros((group.max() + 1, x.shape[1])), np.bincount(group[side], minlength=group.max() + 1)
        np.add.at(sums, group[side], x[side])
        left = (side.sum() - counts)[group]
        with np.errstate(invalid="ignore", divide="ignore"):
            means.append((x[side].sum(0) - sums[group]) / np.where(left > 0, left, np.nan)[:, None])
    direction = means[0] - means[1]
    with np.errstate(invalid="ignore", divide="ignore"):
        return ((x - (means[0] + means[1]) / 2) * direction).sum(1) / np.sqrt((direction**2).sum(1))


def extremes(
    strength: Float[np.ndarray, " example"], k: int
) -> tuple[Int[np.ndarray, "2 k"], Float[np.ndarray, "2 k"]]:
    """The k highest and the k lowest examples, the strongest first, no example on both sides."""
    there = np.flatnonzero(np.isfinite(strength))
    order = there[np.argsort(-strength[there], kind="stable")]
    high = order[: min(k, -(-len(order) // 2))]
    low = order[len(high) :][::-1][:k]
    index, values = np.full((2, k), -1), np.full((2, k), np.nan)
    for side, chosen in enumerate((high, low)):
        index[side, : len(chosen)], values[side, : len(chosen)] = chosen, strength[chosen]
    return index, values


def packed(values: np.ndarray, dtype: Any) -> str:
    """An array as text: its little-endian bytes in base64."""
    plain = np.ascontiguousarray(values, dtype=np.dtype(dtype).newbyteorder("<"))
    return base64.b64encode(plain.tobytes()).decode("ascii")


def explorer_page(title: str, content: Mapping[str, Any]) -> str:
    """The page."""
    folder = files("headprobe.plotting.explorer")
    script, style = ((folder / name).read_text(encoding="utf-8") for name in ("page.js", "page.css"))
    # Within an element of data only "<" could end it or open a comment.
    data = json.dumps(content, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    page = templates("headprobe.plotting.explorer").get_template("page.html")
    return page.render(title=title, style=style, script=script, digest=digest, data=data)


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores by metric and prompt, with names."""

    values: Float[np.ndarray, "metric prompt layer head"]
    metrics: list[str]
    prompts: list[str]
    layers: list[int]
    heads: list[int]
    name: str
    marked: list[tuple[int, int]]
    center: float | None

    @property
    def there(self) -> Bool[np.ndarray, "layer head"]:
        """Whether a head has a score under any metric and prompt."""
        return np.asarray(np.isfinite(self.values).any((0, 1)))

    def best_first(self) -> list[Head]:
        """Heads with a score, the marked ones first, then by their mean rank over metrics and prompts."""
        order = np.argsort(np.argsort(-np.nan_to_num(self.values, nan=-np.inf).reshape(-1, self.there.size), 1), 1)
        marked = np.zeros_like(self.there)
        for row, column in self.marked:
            marked[row, column] = True
        rank = np.where(marked.ravel(), -1.0, order.mean(0))
        at = [divmod(int(i), len(self.heads)) for i in np.argsort(rank, kind="stable") if self.there.flat[i]]
        return [Head(self.layers[row], self.heads[column]) for row, column in at]

    def cells(self, some: Sequence[Head]) -> Int[np.ndarray, " k"]:
        """Numbers of the cells of heads, row by row."""
        row, column = ({number: i for i, number in enumerate(axis)} for axis in (self.layers, self.heads))
        return np.array([row[head.layer] * len(self.heads) + column[head.head] for head in some], np.int32)

    def packed(self) -> dict[str, Any]:
        """Plain values for the page."""
        from matplotlib import colormaps
        from matplotlib.colors import to_hex

        cmap = colormaps["viridis" if self.center is None else "PuOr"]
        colours = [to_hex(cmap(i / (_COLOURS - 1))) for i in range(_COLOURS)]
        return {**vars(self), "values": packed(self.values, np.float32), "colours": colours}


def read_scores(
    score_map: DataArray, mark: HeadSet | Iterable[Head | str | tuple[int, int]], center: float | None = None
) -> Scores:
    """Read a score map."""
    dims = [str(dim) for dim in getattr(score_map, "dims", ())]
    if not {"layer", "head"} <= set(dims) <= {"metric", "prompt", "layer", "head"}:
        raise InputError(
            "the explorer shows a score map with the dims layer and head, and metric, prompt or both; got "
            f"{tuple(dims) or type(score_map).__name__}"
        )
    whole = score_map.expand_dims([dim for dim in ("metric", "prompt") if dim not in dims])
    whole = whole.transpose("metric", "prompt", "layer", "head")
    values = np.asarray(whole.values, np.float64)
    names = [[str(n) for n in score_map[dim].values.tolist()] if dim in dims else [""] for dim in ("metric", "prompt")]
    there = np.isfinite(values).any((0, 1))
    if not there.any():
        raise InputError(f"the map of shape {score_map.shape} has no finite score to show")
    one = as_map(whole.isel(metric=0, prompt=0, drop=True).copy(data=np.where(there, 0.0, np.nan)))
    places = [(row, column) for row, column, _ in on_map(mark, one)]
    return Scores(values, names[0], names[1], one.layers, one.heads, one.label(None), places, center)
