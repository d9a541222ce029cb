"""A store: head outputs of many examples on disk, made in one way, and written as they come."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headprobe._validation import count, rows_as_html
from headprobe.activations import HeadActivations, _dense, _read_summary
from headprobe.errors import FingerprintError, InputError, StoreError
from headprobe.examples import _as_prompts
from headprobe.heads import Head, HeadSet
from headprobe.provenance import Provenance
from headprobe.store._columns import Columns, Numbers, check_range, numbers_of
from headprobe.store._io import exclusive, is_name
from headprobe.store._manifest import Entry, StoreFiles, begin
from headprobe.store._reading import Index, gather, read_columns
from headprobe.store._shard import KINDS, READ_KINDS, Contents, Record, entries_by_size

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Heads", "Store"]

_BLOCK_BYTES = 1 << 24


def _contents_of(acts: HeadActivations, record: Record, what: object) -> Contents:
    record.check(acts.provenance, what, prompts=False)
    if not acts.prompts or not acts.prompts.items() <= record.prompts.items():
        raise InputError(
            f"{what}: the prompts are {dict(acts.prompts)}; those of the store are {dict(record.prompts)}."
        )
    record.check_heads(acts.heads, what)
    more = [name for name in ("resid_post", "answer_logits") if getattr(acts, name) is not None]
    if more:
        raise InputError(
            f"A store keeps head outputs only, not {' and '.join(more)}; append "
            "dataclasses.replace(acts, resid_post=None, answer_logits=None, answers=())."
        )
    columns = _examples(acts.examples)
    ids = columns.values["id"]
    if not ids:
        raise InputError("There are no examples to append.")
    if not all(ids) or len(set(ids)) < len(ids):
        twice = next((name for name in ids if not name or ids.count(name) > 1), None)
        raise InputError(f"The rows of a store need different ids; {twice!r} is empty or occurs twice.")
    prompts = tuple(acts.prompts)
    check_range(acts.tensors, record.numbers, list(prompts), ids)
    size_of = {head: values.shape[-1] for heads, values in acts.tensors.items() for head in heads}
    sizes = tuple(size_of[head] for head in record.heads)
    read = None if acts.read is None else _read(acts.read, prompts, ids)
    skipped = tuple((str(name), str(reason)) for name, reason in acts.skipped)
    return Contents(record, sizes, prompts, columns, read, skipped)


def _pieces(contents: Contents, at_most: int) -> Iterator[list[int]]:
    """Rows of shards: at most so many in each, but never a part of an example's rows."""
    groups: dict[str, list[int]] = {}
    for row, example in enumerate(contents.examples):
        groups.setdefault(example, []).append(row)
    piece: list[int] = []
    for rows in groups.values():
        if piece and len(piece) + len(rows) > at_most:
            yield sorted(piece)
            piece = []
        piece += rows
    yield sorted(piece)


def _rows_of(contents: Contents, rows: Sequence[int], skipped: bool) -> Contents:
    n, n_prompts = contents.columns.n, len(contents.prompts)
    read = contents.read and contents.read.take([p * n + row for p in range(n_prompts) for row in rows])
    return replace(
        contents, columns=contents.columns.take(rows), read=read, skipped=contents.skipped if skipped else ()
    )


def _blocks_of(acts: HeadActivations, rows: Sequence[int], numbers: Numbers) -> Iterator[Tensor]:
    """Values as a shard has them, in pieces of a few megabytes."""
    whole = len(rows) == rows[-1] + 1 - rows[0]
    index = slice(rows[0], rows[-1] + 1) if whole else torch.from_numpy(np.asarray(rows))
    for values in acts.tensors.values():
        part = values[:, index]
        step = max(1, _BLOCK_BYTES // max(1, numbers.size * part[:, :, 0].numel()))
        for first in range(0, part.shape[2], step):
            yield part[:, :, first : first + step].permute(2, 0, 1, 3).to(numbers.dtype).contiguous()


def _examples(table: pd.DataFrame) -> Columns:
    columns = Columns.from_table(table)
    kinds = {**KINDS, "example": "string"} if "example" in columns.dtypes else KINDS
    return _typed(columns, kinds, "examples")


def _read(table: pd.DataFrame, prompts: Sequence[str], ids: Sequence[str]) -> Columns:
    given = Columns.from_table(table)
    expected = {"prompt": [prompt for prompt in prompts for _ in ids], "id": [*ids] * len(prompts)}
    if any(given.values[name] != names for name, names in expected.items()):
        raise InputError("The table of what was read must have all rows of the first prompt, then of the next.")
    rest = [name for name in given.dtypes if name not in expected]
    columns = Columns({n: given.dtypes[n] for n in rest}, {n: given.values[n] for n in rest}, given.n)
    return _typed(columns, READ_KINDS, "what was read")


def _typed(columns: Columns, kinds: Mapping[str, str], what: str) -> Columns:
    """Columns with the types that a shard has, where the values allow it."""
    dtypes = dict(columns.dtypes)
    for name, kind in kinds.items():
        cells = columns.values[name]
        given = dtypes[name].lower()
        empty = all(cell is None for cell in cells)
        if not (given == kind.lower() or (empty and kind != "int64")) or (kind == "int64" and None in cells):
            raise InputError(f"The column {name!r} of the table of {what} is {dtypes[name]}; it must be {kind}.")
        dtypes[name] = kind
    return Columns(dtypes, columns.values, columns.n)


Heads = Iterable[Head | str | tuple[int, int]]
"""Heads as a caller names them."""


class Store:
    """Head outputs of many examples in one folder, made in one way.

    Written in shards that are complete once they have their name: a process killed at any moment leaves those before
    intact and nothing twice, and another run goes on with what is `missing`. Several processes may append at once.
    Made by `create`, `open` or `resume`. Reading changes and executes nothing in the folder.

    A store whose provenance says how many frames a clip has takes no clips of other lengths; with ``frames=None``, as
    `HeadTracer.provenance` has it unless told, clips of any length.

    Numbers are rounded to the store's type: float16 by default (relative error at most 0.05 %; values beyond 65504 are
    refused), bfloat16 (0.4 %, exact for models that run in it) or float32 (exact). They are read as float32.

    Parameters
    ----------
    folder
        A folder that holds a store.

    Raises
    ------
    StoreError
        There is no store, or it is damaged.

    Examples
    --------
    >>> import tempfile, torch
    >>> from headprobe.activations import example_table
    >>> from headprobe.examples import Example
    >>> heads, prompts = HeadSet(["L0H0", "L0H1"]), {"p1": "what happens?"}
    >>> made = Provenance("m", prompts=prompts)
    >>> table = example_table([Example("x", id="a", label=0), Example("y", id="b", label=1)])
    >>> acts = HeadActivations(torch.ones(1, 2, 2, 4), heads, prompts, table, made)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     store = Store.create(folder + "/z", made, heads, prompts)
    ...     _ = store.append(acts)
    ...     store.keys(), store.missing(["a", "c"]), store.head("L0H1").shape
    ([('a', 'p1'), ('b', 'p1')], ['c'], torch.Size([1, 2, 4]))
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._files = StoreFiles(Path(folder))

    def __repr__(self) -> str:
        return (
            f"Store({os.fspath(self.folder)!r}: {len(self)} examples, {len(self.prompts)} prompts, "
            f"{len(self.headset)} heads, {self.dtype}, {self.provenance.model!r})"
        )

    def _repr_html_(self) -> str:
        rows = {
            "examples": len(self),
            "prompts": "; ".join(self.prompts.values()) or "none",
            "heads": f"{len(self.headset)} in {len({head.layer for head in self.headset})} layers",
            "numbers": self.dtype,
            "read at": self.provenance.positions,
            "model": self.provenance.model,
            "fingerprint": self.provenance.fingerprint,
        }
        return rows_as_html(f"Store {os.fspath(self.folder)}", rows)

    def __len__(self) -> int:
        """Number of examples of which there is anything."""
        return self._files.catalog.n_examples

    # Making and opening

    @classmethod
    def create(
        cls,
        folder: str | os.PathLike[str],
        provenance: Provenance,
        heads: Heads,
        prompts: Any = None,
        dtype: Any = "float16",
    ) -> Store:
        """Make an empty store.

        Parameters
        ----------
        folder
            Made if missing.
        provenance
            What the activations will be made from, as `HeadTracer.provenance` says it.
        heads
            The heads, in order.
        prompts
            Prompts by name, or a list of them; None takes those of the provenance.
        dtype
            ``float16``, ``bfloat16`` or ``float32``.

        Returns
        -------
        Store

        Raises
        ------
        InputError
            No heads, no prompts, prompts that are not those of the provenance, or another number type.
        StoreError
            There is a store in the folder, or it cannot be written.
        """
        path, record = Path(folder), _record(provenance, heads, prompts, dtype)
        if not begin(path, record):
            raise StoreError(
                f"{path}: there is a store already. Resume it to go on with it (--resume on the command line), or "
                "name another folder."
            )
        return cls.open(path)

    @classmethod
    def open(cls, folder: str | os.PathLike[str], provenance: Provenance | None = None) -> Store:
        """Open a store to read it or to go on with it; nothing in the folder is changed or executed.

        Parameters
        ----------
        folder
            A folder that `create` made.
        provenance
            If given, the store must have been written under it.

        Returns
        -------
        Store

        Raises
        ------
        StoreError
            There is no store, or it is damaged.
        FingerprintError
            The store was written under another provenance; the differences are listed.
        """
        store = cls(folder)
        if provenance is not None:
            store._files.record.check(provenance, store.folder)
        return store

    @classmethod
    def resume(
        cls,
        folder: str | os.PathLike[str],
        provenance: Provenance,
        heads: Heads,
        prompts: Any = None,
        dtype: Any = "float16",
    ) -> Store:
        """Open a store to go on with it, or make it if there is none.

        Parameters
        ----------
        folder, provenance, heads, prompts, dtype
            As for `create`.

        Returns
        -------
        Store

        Raises
        ------
        InputError
            As for `create`; or the store holds other heads.
        StoreError
            The store is damaged or cannot be written.
        FingerprintError
            The store was written under another provenance or number type; the differences are listed.
        """
        path, record = Path(folder), _record(provenance, heads, prompts, dtype)
        begin(path, record)
        store = cls.open(path, record.provenance)
        store._files.record.check_heads(record.heads, path)
        if record.numbers != store.numbers:
            raise FingerprintError(
                f"{path}: the store keeps {store.dtype}, not {record.numbers.name}; go on with "
                f"dtype={store.dtype!r} (--store-dtype {store.dtype} on the command line), or start a new store in "
                "another folder."
            )
        return store

    def __reduce__(self) -> Any:
        return Store.open, (self.folder,)

    # What is in it

    @property
    def folder(self) -> Path:
        """The folder."""
        return self._files.folder

    @property
    def provenance(self) -> Provenance:
        """What the activations are made from."""
        return self._files.record.provenance

    @property
    def prompts(self) -> Mapping[str, str]:
        """Prompt name to text."""
        return self._files.record.prompts

    @property
    def headset(self) -> HeadSet:
        """The heads, in order."""
        return self._files.record.heads

    @property
    def dtype(self) -> str:
        """The number type that is stored."""
        return self._files.record.numbers.name

    @property
    def numbers(self) -> Numbers:
        """The number type, with what rounding to it costs."""
        return self._files.record.numbers

    @property
    def examples(self) -> pd.DataFrame:
        """The table of all rows, in the order in which they were written first.

        Raises
        ------
        InputError
            The store is empty.
        StoreError
            A shard is damaged.
        """
        return self._files.index().columns.table()

    @property
    def head_sizes(self) -> dict[Head, int]:
        """Size of every head's output; empty while the store is."""
        return dict(zip(self.headset, self._files.sizes() or (), strict=False))

    @property
    def files(self) -> tuple[Entry, ...]:
        """The files that are read, in order."""
        return tuple(self._files.catalog.live)

    def keys(self) -> list[tuple[str, str]]:
        """Everything that is stored, as (example, prompt), in the order in which it was written.

        The example is the row's id; for rows of which an example has several, it is the example's id.

        Returns
        -------
        list of tuple
        """
        return self._files.catalog.keys()

    def missing(self, keys: Iterable[str | tuple[str, str]]) -> list[Any]:
        """What of the wanted is not stored yet.

        Parameters
        ----------
        keys
            Ids of examples, which must be there under all prompts; or pairs (id, prompt).

        Returns
        -------
        list
            In the order and form in which it was asked for.

        Raises
        ------
        InputError
            A prompt that the store does not have.
        """
        return list(self._files.catalog.missing(keys))

    def refresh(self) -> None:
        """See what other processes have written since.

        Raises
        ------
        StoreError
            A new shard is damaged or does not fit, or one is gone.
        """
        with self._files.turn:
            self._files.look()

    # Reading

    def head(self, head: Head | str, *, prompts: Any = None, examples: Any = None) -> Float[Tensor, "prompt example d"]:
        """Output of one head.

        Parameters
        ----------
        head
            The head, for example ``L18H4``.
        prompts, examples
            As for `activations`.

        Returns
        -------
        Tensor [prompt, example, d_head]
            float32.

        Raises
        ------
        InputError, StoreError
            As for `activations`.
        """
        return self.heads([head], prompts=prompts, examples=examples)[:, :, 0]

    def heads(self, heads: Heads, *, prompts: Any = None, examples: Any = None) -> Float[Tensor, "prompt example k d"]:
        """Outputs of some heads of one size.

        Parameters
        ----------
        heads
            The heads, in the order wanted.
        prompts, examples
            As for `activations`.

        Returns
        -------
        Tensor [prompt, example, k, d_head]
            float32.

        Raises
        ------
        InputError
            As for `activations`; or the heads have different sizes.
        StoreError
            As for `activations`.
        """
        tensors, *_ = self._read(heads, prompts, examples)
        if len(tensors) > 1:
            found = ", ".join(f"{part[0]} has {values.shape[-1]}" for part, values in tensors.items())
            raise InputError(f"The heads have different sizes ({found}); read heads of one size at a time.")
        return next(iter(tensors.values()))

    def z(
        self, prompt: str | None = None, examples: Any = None, heads: Heads | None = None
    ) -> Float[Tensor, "example layer head d_head"]:
        """Outputs of all heads under one prompt.

        Parameters
        ----------
        prompt
            Name of the prompt; may be left out where the store has only one.
        examples, heads
            As for `activations`.

        Returns
        -------
        Tensor [example, layer, head, d_head]
            float32.

        Raises
        ------
        InputError
            As for `activations`; or the heads are not a full layer by head rectangle of one size.
        StoreError
            As for `activations`.
        """
        if prompt is None and len(self.prompts) > 1:
            raise InputError(f"The store has several prompts; name one of {list(self.prompts)}.")
        return self.activations(heads, None if prompt is None else [prompt], examples).z[0]

    def activations(self, heads: Heads | None = None, prompts: Any = None, examples: Any = None) -> HeadActivations:
        """Activations as a capture gives them, of as much of the store as is asked for; only that is read.

        Parameters
        ----------
        heads
            The heads, in the order wanted; None for all.
        prompts
            Names of prompts; None for all.
        examples
            Ids of rows, or of examples that have several rows; or integers, a mask or a slice over the rows of
            `examples`. None for all.

        Returns
        -------
        HeadActivations
            float32; in memory the values lie head by head.

        Raises
        ------
        InputError
            A head, prompt or example that the store does not have, or rows that are there only under some of the
            prompts.
        StoreError
            A shard is damaged or gone.
        """
        tensors, wanted, names, rows, index = self._read(heads, prompts, examples)
        read = read_columns(index, names, rows, self.folder)
        table, told = index.columns.take(rows.tolist()).table(), None
        if read is not None:
            told = read.table()
            told.insert(0, "id", list(table["id"]) * len(names))
            told.insert(0, "prompt", [name for name in names for _ in range(len(rows))])
            told = told.astype({"prompt": "string", "id": "string"})
        held = {name: reason for shard in index.shards for name, reason in shard.contents.skipped}
        return HeadActivations(
            values=_dense(tensors),
            heads=wanted,
            prompts={name: self.prompts[name] for name in names},
            examples=table,
            provenance=replace(
                self.provenance,
                prompts={name: self.prompts[name] for name in names},
                read={} if told is None else self._summary(told),
            ),
            skipped=tuple(item for item in held.items() if not self._files.catalog.has(item[0])),
            read=told,
        )

    # Writing

    def check(self, acts: HeadActivations) -> Contents:
        """Raise what `append` would raise for these activations, without writing them.

        Parameters
        ----------
        acts
            The activations.

        Returns
        -------
        Contents
            What would be written beside the values.

        Raises
        ------
        InputError, FingerprintError, StoreError
            As for `append`.
        """
        contents = _contents_of(acts, self._files.record, self.folder)
        with self._files.turn:
            self._files.look()
            self._files.check_new(contents)
        return contents

    def append(self, acts: HeadActivations, shard_examples: int = 256) -> tuple[str, ...]:
        """Write activations; when this returns they are on the disk.

        Many small files are slow to read: append batches of 64 to 256 examples, or `pack` later.

        Parameters
        ----------
        acts
            Activations of the store's heads under some or all of its prompts. What they were made from must be the
            store's provenance; ``acts.provenance.read`` does not count.
        shard_examples
            Most rows in one file; rows of one example stay together.

        Returns
        -------
        tuple of str
            Names of the files written.

        Raises
        ------
        InputError
            Other heads or prompts, NaN, or a value that the number type cannot hold (the head is named).
        FingerprintError
            The activations were made in another way; the differences are listed.
        StoreError
            An example is stored already, the disk is full, or the store is being changed by a process that hangs. What
            was complete before stays.
        """
        count(shard_examples, "shard_examples")
        with self._files.turn:
            whole = self.check(acts)
            names = []
            for number, rows in enumerate(_pieces(whole, shard_examples)):
                part = _rows_of(whole, rows, skipped=number == 0)
                names.append(self._files.write(part, _blocks_of(acts, rows, self.numbers)).name)
            return tuple(names)

    def write_index(self) -> None:
        """Bring the manifest up to date; appending does so only now and then, because it is no more than an index.

        Raises
        ------
        StoreError
            It cannot be written.
        """
        with self._files.turn, exclusive(self.folder):
            self._files.look()
            self._files.write_index()

    def pack(self, *, examples_per_file: int = 16384, remove_shards: bool = False) -> tuple[str, ...]:
        """Join the shards into few large files, in which all examples of one head stand together.

        Every file that is joined is compared with its digest first. A kill leaves the store as it was, or with the new
        file in use; a reader that has the old files open goes on reading them.

        Parameters
        ----------
        examples_per_file
            Most rows in one file, unless one of the files joined has more.
        remove_shards
            Whether to delete the shards once the new file is on the disk; otherwise they stay, unused.

        Returns
        -------
        tuple of str
            Names of the files written; empty when there is nothing to join.

        Raises
        ------
        InputError
            A number of examples below 1.
        StoreError
            A shard is damaged, the disk is full, or another process packs the same shards.
        """
        from headprobe.store.check import _pack

        return _pack(self, examples_per_file, remove_shards)

    # Inside

    def _summary(self, read: pd.DataFrame) -> dict[str, dict[str, Any]]:
        try:
            return _read_summary(read)
        except (TypeError, ValueError) as error:
            raise StoreError(f"{self.folder}: the table of what was read contradicts itself: {error}.") from error

    def _read(
        self, heads: Heads | None, prompts: Any, examples: Any
    ) -> tuple[dict[HeadSet, Tensor], HeadSet, list[str], Any, Index]:
        wanted = self.headset if heads is None else HeadSet(heads)
        absent = [head.label for head in wanted if head not in self.headset]
        if absent or not len(wanted):
            raise InputError(
                f"{', '.join(absent[:5]) or 'None of the heads'} asked for, but the store has {len(self.headset)} "
                f"heads, {self.headset[0]} to {self.headset[-1]}, and these are not among them."
            )
        names = [prompts] if isinstance(prompts, str) else list(self.prompts if prompts is None else prompts)
        if not names or not set(names) <= set(self.prompts) or len(set(names)) < len(names):
            raise InputError(f"The prompts asked for are {names}; the store has {list(self.prompts)}.")
        index = self._files.index()
        rows = index.select(examples)
        index.check_complete(names, rows)
        place = {head: i for i, head in enumerate(self.headset)}
        entries = [place[head] for head in wanted]
        sizes = index.shards[0].contents.sizes
        values = gather(index, self._files.maps, sizes, entries, names, rows)
        groups = entries_by_size([sizes[entry] for entry in entries])
        return {HeadSet(wanted[i] for i in groups[d]): part for d, part in values.items()}, wanted, names, rows, index


def _record(provenance: Provenance, heads: Heads, prompts: Any, dtype: Any) -> Record:
    named = dict(provenance.prompts) if prompts is None else _as_prompts(prompts)
    if provenance.prompts and list(provenance.prompts.items()) != list(named.items()):
        raise InputError(f"The prompts are {named}, but those of the provenance are {dict(provenance.prompts)}.")
    if not named or not all(map(is_name, named)):
        raise InputError("A store needs prompts, each with a name; give prompts=, or a provenance that has them.")
    headset = HeadSet(heads)
    if not len(headset):
        raise InputError("A store needs at least one head.")
    return Record(replace(provenance, prompts=named, read={}), headset, numbers_of(dtype))
