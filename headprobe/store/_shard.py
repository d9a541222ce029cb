"""A shard: one safetensors file that says by itself what is in it.

Numbers are laid out ``[head, prompt, example, d_head]``, so that what is read together, one head of many examples,
stands together; heads of one size share a tensor, named ``z.{heads}x{d_head}``. Everything else is JSON in the file's
metadata: the record of the store, the table of examples, what was read, and a digest of the whole file. Any
safetensors reader can open it.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from headprobe._files import open_regular, parse_json
from headprobe.activations import _COLUMNS, _READ_COLUMNS
from headprobe.errors import ArtefactError, FingerprintError, InputError, StoreError
from headprobe.heads import HeadSet
from headprobe.provenance import Provenance
from headprobe.store._columns import NUMBERS, Columns, Numbers
from headprobe.store._io import is_data_name, is_name

FORMAT = "headprobe.store/1"
_MOST_HEADS = 1_000_000


@dataclass(frozen=True)
class Record:
    """What is the same for everything in a store; written into the manifest and into every shard."""

    provenance: Provenance
    heads: HeadSet
    numbers: Numbers

    @property
    def prompts(self) -> Mapping[str, str]:
        return self.provenance.prompts

    def to_json(self) -> dict[str, Any]:
        provenance = {name: value for name, value in self.provenance.to_dict().items() if name != "read"}
        return {"provenance": provenance, "heads": list(self.heads.labels), "numbers": self.numbers.name}

    @classmethod
    def from_json(cls, data: Any, what: object) -> Record:
        if not isinstance(data, dict) or set(data) != {"provenance", "heads", "numbers"}:
            raise StoreError(f"{what}: provenance, heads and numbers of the store are not there.")
        labels, numbers = data["heads"], data["numbers"]
        if not isinstance(labels, list) or not 0 < len(labels) <= _MOST_HEADS or not all(map(is_name, labels)):
            raise StoreError(f"{what}: the heads must be a list of labels such as 'L18H4'.")
        if not isinstance(numbers, str) or numbers not in NUMBERS:
            raise StoreError(f"{what}: the numbers are {numbers!r:.60}; expected one of {', '.join(NUMBERS)}.")
        if len(set(labels)) < len(labels):
            raise StoreError(f"{what}: a head is named twice.")
        try:
            heads = HeadSet(labels)
        except ValueError as error:  # InputError, or a number of thousands of digits
            raise StoreError(f"{what}: the heads cannot be used: {str(error)[:200]}.") from error
        return cls(_provenance(data["provenance"], what), heads, NUMBERS[numbers])

    def same(self, other: Record) -> bool:
        return self is other or (
            self.provenance.fingerprint == other.provenance.fingerprint
            and self.heads == other.heads
            and self.numbers == other.numbers
        )

    def check(self, given: Provenance, what: object, prompts: bool = True) -> None:
        if not prompts and given.prompts and given.prompts.items() <= self.prompts.items():
            given = replace(given, prompts=self.prompts)
        if self.provenance.frames is None:  # clips of several lengths; a batch of them may have one length
            given = replace(given, frames=None)
        found = differences(self.provenance, given)
        if found:
            raise FingerprintError(
                f"{what}: the store was written under another fingerprint and is not continued. In the store, and "
                "now:\n  " + "\n  ".join(found) + "\nGive the same, or start a new store in another folder."
            )

    def check_heads(self, heads: HeadSet, what: object) -> None:
        """Refuse other heads, or the same in another order."""
        if heads == self.heads:
            return
        absent, more = (self.heads - heads).labels, (heads - self.heads).labels
        named = [f"{text} {', '.join(some[:5])}" for text, some in (("without", absent), ("with also", more)) if some]
        raise InputError(
            f"{what}: the store holds {len(self.heads)} heads; these are {len(heads)}, "
            f"{' and '.join(named) or 'in another order'}. Give those of the store (heads=store.headset; on the "
            "command line the --heads it was made with), or start a new store in another folder."
        )


def differences(stored: Provenance, given: Provenance) -> list[str]:
    lines = []
    for name in stored.differences(given):
        ours, theirs = getattr(stored, name), getattr(given, name)
        if not (isinstance(ours, Mapping) and isinstance(theirs, Mapping)):
            lines.append(f"{name}: {ours!r}, now {theirs!r}")
            continue
        keys = [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]
        lines += [f"{name}, {key}: {ours.get(key)!r}, now {theirs.get(key)!r}" for key in keys]
        if not keys:
            lines.append(f"{name}, their order: {list(ours)}, now {list(theirs)}")
    return lines


def _provenance(data: Any, what: object) -> Provenance:
    if not isinstance(data, dict) or "read" in data:
        raise StoreError(f"{what}: the provenance is not an object with the expected fields.")
    try:
        provenance = Provenance.from_dict(data)
    except ArtefactError as error:
        raise StoreError(f"{what}: {str(error)[:300]}") from error
    if not provenance.prompts or not all(map(is_name, provenance.prompts)):
        raise StoreError(f"{what}: the provenance names no prompts, or one without a name.")
    return provenance


KINDS: Mapping[str, str] = dict(zip(_COLUMNS, ("string", "Int64", "string", "Int64", "Int64"), strict=True))
"""Columns that the table of examples of a shard has, and their types."""

READ_KINDS: Mapping[str, str] = dict(
    zip(_READ_COLUMNS[2:], ("Int64", "int64", "int64", "int64", "int64", "Int64", "string"), strict=True)
)
"""Columns that the table of what was read has in a shard, and their types."""

NO_DIGEST = "0" * 64
"""Stands for the digest of a file while it is computed."""

HEADER_LIMIT = 100_000_000
"""Most bytes of a header, as in the safetensors library."""

_ALIGNMENT = 64


@dataclass(frozen=True, eq=False)
class Contents:
    """What a shard holds beside its numbers."""

    record: Record
    sizes: tuple[int, ...]
    prompts: tuple[str, ...]
    columns: Columns
    read: Columns | None = None
    skipped: tuple[tuple[str, str], ...] = ()
    replaces: tuple[str, ...] = ()

    @property
    def ids(self) -> list[str]:
        return self.columns.values["id"]

    @property
    def examples(self) -> list[str]:
        """The example that each row belongs to: the column ``example`` where there is one, else the id."""
        names = self.columns.values.get("example")
        return self.ids if names is None else [name or own for name, own in zip(names, self.ids, strict=True)]

    def shapes(self) -> dict[int, tuple[int, int, int, int]]:
        """Shape [head, prompt, example, d_head] of the numbers, by d_head."""
        per_head = (len(self.prompts), self.columns.n)
        return {size: (len(entries), *per_head, size) for size, entries in entries_by_size(self.sizes).items()}

    def tensors(self) -> dict[str, dict[str, Any]]:
        described: dict[str, dict[str, Any]] = {}
        begin = 0
        for shape in self.shapes().values():
            end = begin + math.prod(shape) * self.record.numbers.size
            described[_name(shape)] = {
                "dtype": self.record.numbers.code,
                "shape": list(shape),
                "data_offsets": [begin, end],
            }
            begin = end
        return described

    @property
    def n_bytes(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes().values()) * self.record.numbers.size

    def header(self) -> bytes:
        """The start of the file, without its digest."""
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


def _name(shape: Sequence[int]) -> str:
    return f"z.{shape[0]}x{shape[3]}"


def entries_by_size(sizes: Sequence[int]) -> dict[int, list[int]]:
    """Numbers of the heads of each size, sizes in the order in which they first occur."""
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


_DIGEST = re.compile(r"[0-9a-f]{64}")
_CHUNK = 1 << 22


@dataclass(frozen=True, eq=False)
class Shard:
    """A shard on disk, its header read and checked."""

    path: Path
    size: int
    contents: Contents
    digest: str


def write_file(file: IO[bytes], header: bytes, blocks: Iterable[Tensor]) -> None:
    digest = hashlib.sha256(header)
    file.write(header)
    for block in blocks:
        data = block.contiguous().view(-1).view(torch.uint8).numpy().data
        digest.update(data)
        file.write(data)
    file.seek(header.index(NO_DIGEST.encode()))
    file.write(digest.hexdigest().encode())
    file.flush()


def check_digest(shard: Shard) -> None:
    descriptor, _ = open_regular(shard.path, StoreError)
    with os.fdopen(descriptor, "rb") as file:
        first = file.read(8)
        header = file.read(min(int.from_bytes(first, "little"), HEADER_LIMIT))
        found = hashlib.sha256(first + header.replace(shard.digest.encode(), NO_DIGEST.encode(), 1))
        while chunk := file.read(_CHUNK):
            found.update(chunk)
    if found.hexdigest() != shard.digest:
        raise StoreError(f"{shard.path}: the file is not as it was written: its digest differs.")


def map_blocks(shard: Shard) -> dict[int, Float[Tensor, "head prompt example d_head"]]:
    """The numbers of a shard, mapped into memory: only what is used is read."""
    descriptor, size = open_regular(shard.path, StoreError)
    os.close(descriptor)
    if size != shard.size:
        raise StoreError(f"{shard.path}: the file had {shard.size} bytes and has {size} now; open the store again.")
    try:
        with safe_open(shard.path, "pt") as file:
            return {shape[-1]: file.get_tensor(_name(shape)) for shape in shard.contents.shapes().values()}
    except (SafetensorError, OSError) as error:
        raise StoreError(f"{shard.path}: the file cannot be mapped into memory: {error}.") from error


def read_shard(path: Path) -> Shard:
    """Read the header of a shard and check all that it says; the numbers are left where they are."""
    descriptor, size = open_regular(path, StoreError)
    with os.fdopen(descriptor, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(HEADER_LIMIT, size - 8):
            raise StoreError(
                f"{path}: a header of {length} bytes does not fit a file of {size}; it is cut or no shard."
            )
        header = parse_json(file.read(length), path, StoreError)
    metadata = header.pop("__metadata__", None) if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise StoreError(f"{path}: the file has no metadata of a store.")
    if metadata.get("format") != FORMAT:
        raise StoreError(f"{path}: the format is {metadata.get('format')!r:.60}; this version reads {FORMAT!r}.")
    if set(metadata) != {"format", "digest", "record", "rows"} or _DIGEST.fullmatch(metadata["digest"]) is None:
        raise StoreError(f"{path}: the metadata has the entries {sorted(metadata)!s:.200}, or no digest.")
    try:
        record = _record(metadata["record"])
    except StoreError as error:
        raise StoreError(f"{path}: {error}") from error
    contents = Contents.from_json(record, parse_json(metadata["rows"], path, StoreError), path)
    expected, start = contents.tensors(), 8 + length
    if start + contents.n_bytes != size:
        raise StoreError(
            f"{path}: the file has {size} bytes, but what it says it holds takes {start + contents.n_bytes}."
        )
    if header != expected:
        raise StoreError(f"{path}: the tensors are {header!s:.200}; expected {expected!s:.200}.")
    return Shard(path, size, contents, metadata["digest"])


@functools.lru_cache(maxsize=4)
def _record(text: str) -> Record:
    """The record of a store, read once for all its shards."""
    return Record.from_json(parse_json(text, "the record of the store", StoreError), "the record of the store")
