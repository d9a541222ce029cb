"""What a shard holds beside its numbers, and the JSON of it that stands in the metadata of the file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headprobe.errors import StoreError
from headprobe.store.columns import Columns
from headprobe.store.files import is_data_name, is_name
from headprobe.store.record import FORMAT, Record
from headprobe.tables import COLUMNS, READ_COLUMNS

__all__ = ["HEADER_LIMIT", "KINDS", "NO_DIGEST", "READ_KINDS", "Contents", "entries_by_size"]

KINDS: Mapping[str, str] = dict(zip(COLUMNS, ("string", "Int64", "string", "Int64", "Int64"), strict=True))
"""Columns that the table of examples of a shard has, and their types."""

READ_KINDS: Mapping[str, str] = dict(
    zip(READ_COLUMNS[2:], ("Int64", "int64", "int64", "int64", "int64", "Int64", "string"), strict=True)
)
"""Columns that the table of what was read has in a shard, and their types."""

NO_DIGEST = "0" * 64
"""Stands for the digest of a file while it is computed."""

HEADER_LIMIT = 100_000_000
"""Most bytes of a header, as in the safetensors library."""

_ALIGNMENT = 64


@dataclass(frozen=True, eq=False)
class Contents:
    """What a shard holds beside its numbers.

    Parameters
    ----------
    record
        What is the same for the whole store.
    sizes
        Size of every head, in the order of the record's heads.
    prompts
        Names of the prompts, in order.
    columns
        The table of examples.
    read
        The table of what was read, or None: all rows of the first prompt, then of the next. Its columns prompt and
        id follow from that and are left out.
    skipped
        (id, reason) of examples that could not be read.
    replaces
        Names of the files whose rows this one holds, too.
    """

    record: Record
    sizes: tuple[int, ...]
    prompts: tuple[str, ...]
    columns: Columns
    read: Columns | None = None
    skipped: tuple[tuple[str, str], ...] = ()
    replaces: tuple[str, ...] = ()

    @property
    def ids(self) -> list[str]:
        """Ids of the rows."""
        return self.columns.values["id"]

    @property
    def examples(self) -> list[str]:
        """The example that each row belongs to: the column ``example`` where there is one, else the id."""
        names = self.columns.values.get("example")
        return self.ids if names is None else [name or own for name, own in zip(names, self.ids, strict=True)]

    def shapes(self) -> dict[int, tuple[int, int, int, int]]:
        """Shape [head, prompt, example, d_head] of the numbers, by d_head.

        Returns
        -------
        dict
        """
        per_head = (len(self.prompts), self.columns.n)
        return {size: (len(entries), *per_head, size) for size, entries in entries_by_size(self.sizes).items()}

    def tensors(self) -> dict[str, dict[str, Any]]:
        """The numbers as a safetensors header describes them.

        Returns
        -------
        dict
            Name to dtype, shape and data_offsets, one after another.
        """
        described: dict[str, dict[str, Any]] = {}
        begin = 0
        for shape in self.shapes().values():
            end = begin + math.prod(shape) * self.record.numbers.size
            name = f"z.{shape[0]}x{shape[3]}"
            described[name] = {
                "dtype": self.record.numbers.code,
                "shape": list(shape),
                "data_offsets": [begin, end],
            }
            begin = end
        return described

    @property
    def n_bytes(self) -> int:
        """Bytes of the numbers."""
        return sum(math.prod(shape) for shape in self.shapes().values()) * self.record.numbers.size

    def header(self) -> bytes:
        """The start of the file, without its digest.

        Returns
        -------
        bytes
            Length and JSON, as safetensors has it.

        Raises
        ------
        StoreError
            The tables are too large for one file.
        """
        rows = {
            "sizes": _runs(self.sizes),
            "prompts": list(self.prompts),
            "n": self.columns.n,
            "columns": self.columns.to_json(),
            "read": None if self.read is None else self.read.to_json(),
            "skipped": [list(pair) for pair in self.skipped],
            "replaces": list(self.replaces),
        }
        metadata = {
            "format": FORMAT,
            "digest": NO_DIGEST,
            "record": json.dumps(self.record.to_json(), allow_nan=False),
            "rows": json.dumps(rows, allow_nan=False, separators=(",", ":")),
        }
        text = json.dumps({"__metadata__": metadata, **self.tensors()}).encode()
        text += b" " * (-(8 + len(text)) % _ALIGNMENT)
        if len(text) > HEADER_LIMIT:
            raise StoreError(
                f"The tables of {self.columns.n} examples take {len(text)} bytes; a file holds {HEADER_LIMIT} at "
                "most. Write fewer examples per file."
            )
        return len(text).to_bytes(8, "little") + text

    @classmethod
    def from_json(cls, record: Record, rows: Any, path: Path) -> Contents:
        """Contents from the metadata of a file, checked.

        Parameters
        ----------
        record
            What the file says of its store.
        rows
            JSON values of the rest.
        path
            The file.

        Returns
        -------
        Contents

        Raises
        ------
        StoreError
            The values contradict the record or themselves.
        """
        names = {"sizes", "prompts", "n", "columns", "read", "skipped", "replaces"}
        if not isinstance(rows, dict) or set(rows) != names:
            raise StoreError(f"{path}: the description of the rows lacks some of {sorted(names)}.")
        n, prompts, replaces = rows["n"], rows["prompts"], rows["replaces"]
        if type(n) is not int or n < 1:
            raise StoreError(f"{path}: the number of examples is {n!r:.60}; expected at least 1.")
        if not isinstance(prompts, list) or not prompts or not all(map(is_name, prompts)):
            raise StoreError(f"{path}: the prompts are {prompts!s:.60}; expected their names.")
        if len(set(prompts)) < len(prompts) or not set(prompts) <= set(record.prompts):
            raise StoreError(
                f"{path}: the prompts are {prompts!s:.200}; those of the store {list(record.prompts)!s:.200}."
            )
        if not isinstance(replaces, list) or not all(map(is_data_name, replaces)) or path.name in replaces:
            raise StoreError(f"{path}: what it replaces is {replaces!s:.200}; expected names of other shards.")
        columns = Columns.from_json(rows["columns"], n, path)
        if any(columns.dtypes.get(name) != kind for name, kind in KINDS.items()):
            raise StoreError(f"{path}: the table of examples lacks some of {dict(KINDS)}.")
        if columns.dtypes.get("example", "string") != "string":
            raise StoreError(f"{path}: the column 'example' must be text.")
        ids = columns.values["id"]
        if not all(map(is_name, ids)) or len(set(ids)) < n:
            raise StoreError(f"{path}: an example has no id, or two have the same.")
        read = None if rows["read"] is None else Columns.from_json(rows["read"], n * len(prompts), path)
        if read is not None and any(read.dtypes.get(name) != kind for name, kind in READ_KINDS.items()):
            raise StoreError(f"{path}: the table of what was read lacks some of {dict(READ_KINDS)}.")
        sizes = _sizes(rows["sizes"], len(record.heads), path)
        return cls(record, sizes, tuple(prompts), columns, read, _pairs(rows["skipped"], path), tuple(replaces))


def entries_by_size(sizes: Sequence[int]) -> dict[int, list[int]]:
    """Numbers of the heads of each size, sizes in the order in which they first occur.

    Parameters
    ----------
    sizes
        Size of every head.

    Returns
    -------
    dict

    Examples
    --------
    >>> entries_by_size([64, 128, 64])
    {64: [0, 2], 128: [1]}
    """
    entries: dict[int, list[int]] = {}
    for entry, size in enumerate(sizes):
        entries.setdefault(size, []).append(entry)
    return entries


def _pairs(skipped: Any, path: Path) -> tuple[tuple[str, str], ...]:
    if not isinstance(skipped, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair) for pair in skipped
    ):
        raise StoreError(f"{path}: the list of skipped examples is not one of ids and reasons.")
    return tuple((name, reason) for name, reason in skipped)


def _runs(sizes: Sequence[int]) -> list[list[int]]:
    """Sizes as [size, how many heads in a row have it]."""
    runs: list[list[int]] = []
    for size in sizes:
        if runs and runs[-1][0] == size:
            runs[-1][1] += 1
        else:
            runs.append([size, 1])
    return runs


def _sizes(runs: Any, n_heads: int, what: object) -> tuple[int, ...]:
    good = isinstance(runs, list) and all(
        isinstance(run, list) and len(run) == 2 and all(type(number) is int and number > 0 for number in run)
        for run in runs
    )
    if not good or sum(count for _, count in runs) != n_heads:
        raise StoreError(f"{what}: the sizes of the heads are {runs!s:.80}; expected those of {n_heads} heads.")
    return tuple(size for size, count in runs for _ in range(count))
