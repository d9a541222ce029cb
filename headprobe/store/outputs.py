"""What is in a store, and reading it head by head."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from headprobe.activations import HeadActivations
from headprobe.errors import InputError, StoreError
from headprobe.heads import Head, HeadSet
from headprobe.provenance import Provenance
from headprobe.store.catalog import Entry
from headprobe.store.contents import entries_by_size
from headprobe.store.holdings import Holdings
from headprobe.store.numbers import Numbers
from headprobe.store.reading import Index, gather, read_columns
from headprobe.tables import read_summary
from headprobe.values import dense

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Heads", "StoredOutputs"]

Heads = Iterable[Head | str | tuple[int, int]]
"""Heads as a caller names them."""


class StoredOutputs:
    """The part of `headprobe.store.Store` that reads: nothing in the folder is changed or executed.

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
    >>> import tempfile
    >>> from headprobe.store import Store
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Store.create(folder + "/z", Provenance("m", prompts={"p1": "what happens?"}), ["L0H0", "L0H1"])
    ...     stored = StoredOutputs(folder + "/z")
    ...     stored.headset.labels, stored.dtype, len(stored), stored.missing(["a"])
    (('L0H0', 'L0H1'), 'float16', 0, ['a'])
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._files = Holdings(Path(folder))

    def __repr__(self) -> str:
        return (
            f"Store({os.fspath(self.folder)!r}: {len(self)} examples, {len(self.prompts)} prompts, "
            f"{len(self.headset)} heads, {self.dtype}, {self.provenance.model!r})"
        )

    def __len__(self) -> int:
        """Number of examples of which there is anything."""
        return self._files.catalog.n_examples

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
            values=dense(tensors),
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

    # Inside

    def _summary(self, read: pd.DataFrame) -> dict[str, dict[str, Any]]:
        try:
            return read_summary(read)
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
