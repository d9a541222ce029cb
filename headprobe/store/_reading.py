"""Reading rows and heads out of the files of a store, through memory maps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headprobe.activations import _row_index
from headprobe.errors import InputError, StoreError
from headprobe.store._columns import Columns
from headprobe.store._shard import Shard, entries_by_size

Blocks = Callable[[Shard], Mapping[int, Float[Tensor, "head prompt example d_head"]]]


@dataclass(frozen=True, eq=False)
class Index:
    """The rows of a store and where they lie."""

    shards: Sequence[Shard]
    rows: Sequence[Int[np.ndarray, " row"]]
    columns: Columns
    present: Bool[np.ndarray, "prompt row"]
    by_id: Mapping[str, int]
    prompts: Sequence[str]

    @classmethod
    def of(cls, shards: Sequence[Shard], prompts: Sequence[str], folder: Path) -> Index:
        whole = Columns.join([shard.contents.columns for shard in shards], folder)
        by_id: dict[str, int] = {}
        first: list[int] = []  # row of the joined table at which a row of the index comes first
        rows: list[np.ndarray] = []
        begin = 0
        for shard in shards:
            numbers = np.empty(shard.contents.columns.n, np.int64)
            for i, name in enumerate(shard.contents.ids):
                row = by_id.setdefault(name, len(first))
                if row == len(first):
                    first.append(begin + i)
                elif any(cells[first[row]] != cells[begin + i] for cells in whole.values.values()):
                    raise StoreError(f"{shard.path}: {name!r} is described differently than in another file.")
                numbers[i] = row
            rows.append(numbers)
            begin += shard.contents.columns.n
        present = np.zeros((len(prompts), len(first)), bool)
        for shard, numbers in zip(shards, rows, strict=True):
            for prompt in shard.contents.prompts:
                place = prompts.index(prompt)
                if present[place, numbers].any():
                    raise StoreError(f"{shard.path}: it holds rows that another file holds, too.")
                present[place, numbers] = True
        return cls(shards, rows, whole.take(first) if len(first) < begin else whole, present, by_id, prompts)

    def select(self, examples: Any) -> Int[np.ndarray, " row"]:
        n = self.columns.n
        if examples is None:
            return np.arange(n)
        if isinstance(examples, str):
            raise InputError(f"examples={examples!r} is one id; give a list of ids, as in examples=[{examples!r}].")
        if not isinstance(examples, (slice, np.ndarray)):
            examples = list(examples)
        if isinstance(examples, (slice, np.ndarray)) or not all(isinstance(item, str) for item in examples):
            rows = _row_index(examples, n)
        else:
            rows = self._named(examples)
        if len(np.unique(rows)) < len(rows):
            raise InputError("An example is asked for twice; name each once.")
        return rows

    def _named(self, names: list[str]) -> Int[np.ndarray, " row"]:
        rows: list[int] = []
        several: dict[str, list[int]] = {}
        if any(name not in self.by_id for name in names):
            for row, name in enumerate(self.columns.values.get("example") or []):
                several.setdefault(name, []).append(row)
        absent = [name for name in names if name not in self.by_id and name not in several]
        if absent:
            raise InputError(f"{len(absent)} of the examples asked for are not in the store (first: {absent[0]!r}).")
        for name in names:
            rows.extend([self.by_id[name]] if name in self.by_id else several[name])
        return np.array(rows, np.int64)

    def check_complete(self, prompts: Sequence[str], rows: np.ndarray) -> None:
        there = self.present[[self.prompts.index(prompt) for prompt in prompts]][:, rows]
        if not there.all():
            lacking = np.flatnonzero(~there.all(0))
            prompt = prompts[int(np.flatnonzero(~there[:, lacking[0]])[0])]
            name = self.columns.values["id"][rows[lacking[0]]]
            raise InputError(
                f"{len(lacking)} of {len(rows)} rows lack a prompt (first: {name!r} lacks {prompt!r}). Extract what "
                "is missing, or give prompts= or examples= so that every row has all."
            )


def gather(
    index: Index, maps: Blocks, sizes: Sequence[int], entries: Sequence[int], prompts: Sequence[str], rows: np.ndarray
) -> dict[int, Float[Tensor, "prompt row k d_head"]]:
    place = {entry: i for of_size in entries_by_size(sizes).values() for i, entry in enumerate(of_size)}
    wanted = {
        size: [place[entries[i]] for i in group]
        for size, group in entries_by_size([sizes[entry] for entry in entries]).items()
    }
    out = {size: torch.empty(len(heads), len(prompts), len(rows), size) for size, heads in wanted.items()}
    for shard, pairs, to, taken in _found(index, prompts, rows):
        for size, heads in wanted.items():
            _copy(out[size], maps(shard)[size], heads, pairs, to, taken)
    return {size: values.permute(1, 2, 0, 3) for size, values in out.items()}


def _found(
    index: Index, prompts: Sequence[str], rows: np.ndarray
) -> Iterator[tuple[Shard, list[tuple[int, int]], np.ndarray, np.ndarray]]:
    """Shards that hold some rows: prompts (as asked for, in the shard), rows asked for, rows of the shard."""
    target = np.full(index.columns.n, -1)
    target[rows] = np.arange(len(rows))
    for shard, numbers in zip(index.shards, index.rows, strict=True):
        to, here = target[numbers], shard.contents.prompts
        taken = np.flatnonzero(to >= 0)
        pairs = [(i, here.index(prompt)) for i, prompt in enumerate(prompts) if prompt in here]
        if len(taken) and pairs:
            yield shard, pairs, to[taken], taken


def _copy(
    out: Float[Tensor, "k prompt row d_head"],
    block: Float[Tensor, "head prompt example d_head"],
    heads: Sequence[int],
    prompts: Sequence[tuple[int, int]],
    to: np.ndarray,
    taken: np.ndarray,
) -> None:
    """Copy and convert the rows ``taken`` of a block to the rows ``to``, in as few strokes as the order allows."""
    source, goal = _run(taken), _run(to)
    of_heads, of_prompts, pieces = _run(heads), _run([old for _, old in prompts]), _run([new for new, _ in prompts])
    if source is not None and goal is not None and of_heads and of_prompts and pieces:
        out[:, pieces, goal].copy_(block[of_heads, of_prompts, source])
        return
    chosen, places = torch.from_numpy(taken), torch.from_numpy(to)
    for i, head in enumerate(heads):
        for new, old in prompts:
            if source is not None and goal is not None:
                out[i, new, goal].copy_(block[head, old, source])
            else:
                out[i, new].index_copy_(0, places, block[head, old].index_select(0, chosen).float())


def _run(numbers: Sequence[int] | np.ndarray) -> slice | None:
    """The slice that gives the numbers, where they follow one another."""
    first = int(numbers[0])
    return slice(first, first + len(numbers)) if np.array_equal(numbers, range(first, first + len(numbers))) else None


def read_columns(index: Index, prompts: Sequence[str], rows: np.ndarray, what: object) -> Columns | None:
    source = np.full((len(prompts), len(rows)), -1)
    parts: list[Columns] = []
    begin = 0
    for shard, pairs, to, taken in _found(index, prompts, rows):
        held = shard.contents
        if held.read is None:
            return None
        for i, prompt in pairs:
            source[i, to] = begin + prompt * held.columns.n + taken
        parts.append(held.read)
        begin += held.read.n
    return Columns.join(parts, what).take(source.ravel().tolist()) if parts else None
