"""A store: head outputs of many examples on disk, made in one way, and written as they come."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from headprobe.activations import HeadActivations
from headprobe.errors import FingerprintError, InputError, StoreError
from headprobe.examples import as_prompts
from headprobe.heads import HeadSet
from headprobe.provenance import Provenance
from headprobe.store.contents import Contents
from headprobe.store.files import is_name
from headprobe.store.holdings import begin
from headprobe.store.incoming import blocks_of, contents_of, pieces, rows_of
from headprobe.store.lock import exclusive
from headprobe.store.numbers import numbers_of
from headprobe.store.outputs import Heads, StoredOutputs
from headprobe.store.record import Record

__all__ = ["Store"]


class Store(StoredOutputs):
    """Head outputs of many examples in one folder, made in one way.

    Written in shards that are complete once they have their name: a process killed at any moment leaves those before
    intact and nothing twice, and another run goes on with what is `missing`. Several processes may append at once.
    Made by `create`, `open` or `resume`. What is in it, and all that reads, is inherited from
    `headprobe.store.outputs.StoredOutputs`.

    A store whose provenance says how many frames a clip has takes no clips of other lengths; with ``frames=None``, as
    `HeadTracer.provenance` has it unless told, clips of any length.

    Numbers are rounded to the store's type: float16 by default (relative error at most 0.05 %; values beyond 65504 are
    refused), bfloat16 (0.4 %, exact for models that run in it) or float32 (exact). They are read as float32.

    Parameters
    ----------
    folder
        A folder that holds a store.

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
        contents = contents_of(acts, self._files.record, self.folder)
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
        if isinstance(shard_examples, bool) or not isinstance(shard_examples, int) or shard_examples < 1:
            raise InputError(f"shard_examples is {shard_examples!r}; it must be an integer of at least 1.")
        with self._files.turn:
            whole = self.check(acts)
            names = []
            for number, rows in enumerate(pieces(whole, shard_examples)):
                part = rows_of(whole, rows, skipped=number == 0)
                names.append(self._files.write(part, blocks_of(acts, rows, self.numbers)).name)
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

        Parameters
        ----------
        examples_per_file
            Most rows in one file.
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
        from headprobe.store.pack import pack

        return pack(self, examples_per_file, remove_shards)


def _record(provenance: Provenance, heads: Heads, prompts: Any, dtype: Any) -> Record:
    named = dict(provenance.prompts) if prompts is None else as_prompts(prompts)
    if provenance.prompts and list(provenance.prompts.items()) != list(named.items()):
        raise InputError(f"The prompts are {named}, but those of the provenance are {dict(provenance.prompts)}.")
    if not named or not all(map(is_name, named)):
        raise InputError("A store needs prompts, each with a name; give prompts=, or a provenance that has them.")
    headset = HeadSet(heads)
    if not len(headset):
        raise InputError("A store needs at least one head.")
    return Record(replace(provenance, prompts=named, read={}), headset, numbers_of(dtype))
