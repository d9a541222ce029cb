"""Readings: what is wanted of a forward pass, where to read it, and what it gave."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from headprobe.activations import HeadActivations, _dense, _read_summary, _row_table, _sizes, example_table
from headprobe.errors import InputError, UnsupportedModelError
from headprobe.examples import Example
from headprobe.heads import Head, HeadSet
from headprobe.models._attention import attention_paths
from headprobe.models.adapter import ModelInputs
from headprobe.models.model import Model
from headprobe.models.sites import HeadSite, block_paths
from headprobe.provenance import Provenance
from headprobe.trace._forward import ReadPoint
from headprobe.trace.positions import Position, _Rows, last

if TYPE_CHECKING:
    import pandas as pd

Positions = Mapping[str, Position] | Sequence[Position]
"""Several positions, named or not."""


@dataclass(frozen=True)
class Wanted:
    """What to read in every forward pass of a capture."""

    heads: HeadSet
    positions: Mapping[str, Position]
    resid_post: bool = False
    answer_ids: tuple[int, ...] = ()


def named_positions(positions: Position | Positions | None) -> dict[str, Position]:
    """Positions by name."""
    listed: list[tuple[Any, Any]]
    if positions is None:
        listed = [(repr(last()), last())]
    elif isinstance(positions, Mapping):
        listed = list(positions.items())
    elif isinstance(positions, Sequence) and not isinstance(positions, str):
        listed = [(repr(position), position) for position in positions]
    else:
        listed = [(repr(positions), positions)]
    for name, position in listed:
        if not isinstance(position, Position):
            raise InputError(f"positions is {position!r}; give a position such as headprobe.positions.last().")
        if not isinstance(name, str) or not name:
            raise InputError(f"The name of a position must be a non-empty string; got {name!r}.")
    if not listed:
        raise InputError("The positions are empty; give at least one, or None for the last real token.")
    if len(dict(listed)) < len(listed):
        raise InputError(f"A position is given twice among {[name for name, _ in listed]}; give each once.")
    return dict(listed)


@dataclass(frozen=True, eq=False)
class Reading:
    """What one forward pass gave at one position."""

    tensors: Mapping[HeadSet, Float[Tensor, "row k d_head"]]
    rows: _Rows
    token_ids: Int[Tensor, " row"]
    resid_post: Float[Tensor, "row layer d_model"] | None = None
    answer_logits: Float[Tensor, "batch answer"] | None = None

    @property
    def z(self) -> Float[Tensor, "row entry d_head"]:
        """Head outputs of heads of one size."""
        if len(self.tensors) > 1:
            raise InputError(f"{_sizes(self.tensors)} Use .tensors, or read heads of one size.")
        return next(iter(self.tensors.values()))


@dataclass(frozen=True)
class Point:
    """A value of the model that a reading needs."""

    layer: int
    path: str
    side: Literal["input", "output"]
    site: HeadSite | None = None
    heads: tuple[int, ...] = ()

    def keep(self, rows: Float[Tensor, "row feature"]) -> Float[Tensor, "row kept"]:
        """Of the rows read, the features of the wanted heads."""
        if self.site is None or len(self.heads) == self.site.n_heads:
            return rows
        z = rearrange(rows, "row (head d_head) -> row head d_head", head=self.site.n_heads)
        return rearrange(z[:, list(self.heads)], "row head d_head -> row (head d_head)")

    def reading(self, read: Callable[[Tensor], Tensor]) -> ReadPoint:
        """The point in a forward pass where rows are read."""
        return ReadPoint(self.path, self.side, lambda values: self.keep(read(values)))


def points_of(model: Model, wanted: Wanted) -> list[Point]:
    """Where a pass is read, in forward order."""
    chosen: dict[int, list[int]] = {}
    for head in sorted(wanted.heads):
        chosen.setdefault(head.layer, []).append(head.head)
    points = [
        Point(site.layer, site.path, "input", site, tuple(chosen[site.layer]))
        for site in model.sites
        if site.layer in chosen
    ]
    if wanted.resid_post:
        blocks = block_paths(model.module, model.sites)
        for path in blocks:
            block = model.module.get_submodule(path)
            alone = attention_paths(block)[:1] == [""]
            if alone or isinstance(block, nn.ModuleList | nn.ModuleDict):
                what = "an attention module alone" if alone else "a list of parts, which is never called as one module"
                raise UnsupportedModelError(
                    f"{path}: the block is {what}, so there is no output of it that would be the residual stream; "
                    "capture without resid_post=True."
                )
        points += [Point(layer, path, "output") for layer, path in enumerate(blocks)]
    return sorted(points, key=lambda point: (point.layer, point.side == "output"))


def readings(
    wanted: Wanted,
    points: Sequence[Point],
    kept: Sequence[Float[Tensor, "row kept"]],
    rows: Mapping[str, _Rows],
    input_ids: Int[Tensor, "batch token"],
    answer_logits: Float[Tensor, "batch answer"] | None = None,
) -> dict[str, Reading]:
    """One reading per position, from what was kept at the points."""
    host = [(point, value.float().cpu()) for point, value in zip(points, kept, strict=True)]
    tensors = _entries([(point, value) for point, value in host if point.site is not None], wanted.heads)
    residual = [value for point, value in host if point.site is None]
    resid_post = torch.stack(residual, 1) if residual else None
    result: dict[str, Reading] = {}
    start = 0
    for name, part in rows.items():
        # Of several positions, each gets a copy, so that one does not keep the memory of all.
        here, copied = slice(start, start + len(part)), len(rows) > 1
        result[name] = Reading(
            tensors={heads: value[here].clone() if copied else value for heads, value in tensors.items()},
            rows=part,
            token_ids=input_ids.cpu()[part.example, part.columns[:, 0]],
            resid_post=resid_post[here].clone() if copied and resid_post is not None else resid_post,
            answer_logits=answer_logits,
        )
        start = here.stop
    return result


def _entries(kept: Sequence[tuple[Point, Tensor]], heads: HeadSet) -> dict[HeadSet, Tensor]:
    """The heads of each size, in their order, [row, k, d_head]."""
    by_size: dict[int, list[tuple[Point, Tensor]]] = {}
    for point, value in kept:
        assert point.site is not None
        by_size.setdefault(point.site.head_dim, []).append((point, value))
    order: dict[int, list[int]] = {size: [] for size in by_size}
    groups: dict[int, list[Head]] = {}
    place = {
        Head(point.layer, head): (size, i)
        for size, parts in by_size.items()
        for i, (point, head) in enumerate((point, head) for point, _ in parts for head in point.heads)
    }
    for head in heads:
        size, i = place[head]
        groups.setdefault(size, []).append(head)
        order[size].append(i)
    entries: dict[HeadSet, Tensor] = {}
    for size, group in groups.items():
        joined = torch.cat(
            [rearrange(value, "row (head d_head) -> row head d_head", d_head=size) for _, value in by_size[size]], dim=1
        )
        entries[HeadSet(group)] = joined if order[size] == list(range(len(group))) else joined[:, order[size]]
    return entries


def answer_logits(
    logits: Float[Tensor, "batch token vocabulary"], ids: Sequence[int], inputs: ModelInputs
) -> Float[Tensor, "batch answer"]:
    """Logits of answers at the last real token; a classifier has one row for each input."""
    if logits.ndim == 2:
        at_end = logits
    elif logits.shape[1] == 1 and inputs.padding_side == "left":
        at_end = logits[:, 0]
    else:
        at_end = last()._reader(inputs.token_info)(logits)
    return at_end[:, list(ids)].float().cpu()


class Collected:
    """What the passes of a capture gave at one position."""

    def __init__(self, position: Position, prompts: Mapping[str, str]) -> None:
        self.position = position
        self.prompts = dict(prompts)
        self._examples: list[Example] = []
        self._tensors: dict[tuple[str, HeadSet | None], list[deque[Tensor]]] = {}
        self._rows: list[list[dict[str, np.ndarray]]] = [[] for _ in self.prompts]
        self._frames_per_row = 1

    def add(self, examples: Sequence[Example], readings: Sequence[Reading]) -> None:
        """Take what a batch gave."""
        self._check_rows(examples, readings)
        self._frames_per_row = readings[0].rows.frames_per_row
        for prompt, reading in enumerate(readings):
            self._rows[prompt].append(_columns(reading, len(self._examples)))
            parts = {("z", heads): tensor for heads, tensor in reading.tensors.items()}
            parts |= {("resid_post", None): reading.resid_post, ("answer_logits", None): reading.answer_logits}
            for name, part in parts.items():
                if part is not None:
                    self._tensors.setdefault(name, [deque() for _ in self.prompts])[prompt].append(part)
        self._examples.extend(examples)

    def _check_rows(self, examples: Sequence[Example], readings: Sequence[Reading]) -> None:
        counts = [torch.bincount(reading.rows.example, minlength=len(examples)) for reading in readings]
        for i, example in enumerate(examples):
            numbers = [int(count[i]) for count in counts]
            if len(set(numbers)) > 1:
                named = ", ".join(f"{n} under {prompt!r}" for prompt, n in zip(self.prompts, numbers, strict=True))
                raise InputError(
                    f"{self.position!r} selects different numbers of rows of the example {example.id!r}: {named}. "
                    "Rows of several prompts cannot stand side by side then; capture one prompt at a time."
                )

    def activations(
        self,
        heads: HeadSet,
        provenance: Provenance,
        tokenizer: Any,
        skipped: Sequence[tuple[str, str]] = (),
        answers: Sequence[str] = (),
    ) -> HeadActivations:
        """Everything that was taken, as activations; can be asked for once, because the memory is handed over."""
        rows = {name: self._column(name) for name in self._rows[0][0]}
        table = self._table(rows)
        read = self._read_table(rows, table["id"].to_numpy(), tokenizer)
        return HeadActivations(
            values=_dense({key: _join(parts) for (name, key), parts in self._tensors.items() if name == "z" and key}),
            heads=heads,
            prompts=self.prompts,
            examples=table,
            provenance=replace(provenance, read=_read_summary(read)),
            skipped=tuple(skipped),
            resid_post=_join(self._tensors.get(("resid_post", None))),
            answer_logits=_join(self._tensors.get(("answer_logits", None))),
            answers=tuple(answers),
            read=read,
        )

    def _column(self, name: str) -> Int[np.ndarray, "prompt row"]:
        return np.stack([np.concatenate([batch[name] for batch in batches]) for batches in self._rows])

    def _table(self, rows: Mapping[str, np.ndarray]) -> pd.DataFrame:
        if not self.position.several:
            return example_table(self._examples)
        name = "frame" if "frame" in rows else "first"
        # The table is one for all prompts: where they differ, only the table of what was read can say.
        same = (rows[name] == rows[name][0]).all(0)
        known = [int(number) if agreed else None for number, agreed in zip(rows[name][0], same, strict=True)]
        if name == "first":
            columns = {"token": known}
        else:
            ends = [None if frame is None else frame + self._frames_per_row for frame in known]
            columns = {"frame": known, "frame_end": ends}
        return _row_table(self._examples, rows["example"][0], columns)

    def _read_table(self, rows: Mapping[str, np.ndarray], ids: np.ndarray, tokenizer: Any) -> pd.DataFrame:
        import pandas as pd

        token_ids = rows["token_id"].ravel()
        different, place = np.unique(token_ids, return_inverse=True)
        texts = np.array([str(text) for text in tokenizer.convert_ids_to_tokens(different.tolist())], dtype=object)
        numbers = {name: rows[name].ravel() for name in ("first", "last", "count", "n_tokens")}
        read = pd.DataFrame(
            {
                "prompt": pd.array(np.repeat(list(self.prompts), len(ids)), dtype="string"),
                "id": pd.array(np.tile(ids, len(self.prompts)), dtype="string"),
                "index": pd.array(numbers["first"], dtype="Int64"),
                **numbers,
                "token_id": pd.array(token_ids, dtype="Int64"),
                "token": pd.array(texts[place], dtype="string"),
            }
        )
        if self.position.averages:
            for name in ("index", "token_id", "token"):
                read[name] = pd.array([pd.NA] * len(read), dtype=read[name].dtype)
        return read


def _columns(reading: Reading, n_before: int) -> dict[str, np.ndarray]:
    """What is remembered of the rows of a reading; ``example`` counts over all batches."""
    rows = reading.rows
    columns = {name: getattr(rows, name).cpu().numpy() for name in ("first", "last", "count", "n_tokens")}
    columns |= {"example": rows.example.cpu().numpy() + n_before, "token_id": reading.token_ids.numpy()}
    return columns if rows.frame is None else columns | {"frame": rows.frame.cpu().numpy()}


def _join(parts: list[deque[Tensor]] | None) -> Any:
    """Parts of every prompt as one tensor [prompt, row, ...]; each part is given up once it is copied."""
    if parts is None:
        return None
    whole = torch.empty(len(parts), sum(len(part) for part in parts[0]), *parts[0][0].shape[1:])
    for target, queue in zip(whole, parts, strict=True):
        start = 0
        while queue:
            part = queue.popleft()
            target[start : start + len(part)] = part
            start += len(part)
    return whole
