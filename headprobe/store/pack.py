"""Joining shards into few large files, in which all examples of one head stand together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from headprobe._files import sync_folder
from headprobe.errors import InputError, StoreError
from headprobe.store.catalog import Entry
from headprobe.store.columns import Columns
from headprobe.store.contents import Contents
from headprobe.store.files import writing
from headprobe.store.lock import exclusive
from headprobe.store.shard import Shard, check_digest

if TYPE_CHECKING:
    from headprobe.store.store import Store

__all__ = ["pack"]


def pack(store: Store, examples_per_file: int, remove_shards: bool) -> tuple[str, ...]:
    """Join the shards of a store; see `Store.pack`.

    Every file that is joined is compared with its digest first. A kill leaves the store as it was, or with the new
    file in use; a reader that has the old files open goes on reading them.

    Parameters
    ----------
    store
        The store.
    examples_per_file
        Most rows in one file, unless one of the files joined has more.
    remove_shards
        Whether to delete the shards that the new files hold.

    Returns
    -------
    tuple of str
        Names of the files written.

    Raises
    ------
    InputError
        A number of examples below 1.
    StoreError
        A shard is damaged, the disk is full, or another process packs the same shards.

    Examples
    --------
    >>> import tempfile, torch
    >>> from headprobe.activations import HeadActivations, example_table
    >>> from headprobe.examples import Example
    >>> from headprobe.heads import HeadSet
    >>> from headprobe.provenance import Provenance
    >>> from headprobe.store import Store
    >>> heads, prompts = HeadSet(["L0H0"]), {"p1": "?"}
    >>> made, table = Provenance("m", prompts=prompts), example_table([Example("x", id="a")])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     store = Store.create(folder + "/z", made, heads, prompts)
    ...     _ = store.append(HeadActivations(torch.ones(1, 1, 1, 4), heads, prompts, table, made))
    ...     pack(store, examples_per_file=100, remove_shards=True)  # a single shard is as it should be
    ()
    """
    if isinstance(examples_per_file, bool) or not isinstance(examples_per_file, int) or examples_per_file < 1:
        raise InputError(f"examples_per_file is {examples_per_file!r}; it must be an integer of at least 1.")
    with store._files.turn:
        store.refresh()
        names = [_join(store, group).name for group in _groups(store, examples_per_file) if len(group) > 1]
        _remove(store, shards=remove_shards)
        return tuple(names)


def _groups(store: Store, most: int) -> Iterator[list[Entry]]:
    """Files that can stand in one: of the same prompts and columns, in order, so many rows together."""
    by_kind: dict[object, list[Entry]] = {}
    for entry in store.files:
        held = store._files.shard(entry).contents
        kind = (
            held.prompts,
            tuple(held.columns.dtypes.items()),
            None if held.read is None else tuple(held.read.dtypes),
        )
        by_kind.setdefault(kind, []).append(entry)
    for entries in by_kind.values():
        group: list[Entry] = []
        for entry in entries:
            if group and sum(other.rows for other in group) + entry.rows > most:
                yield group
                group = []
            group.append(entry)
        yield group


def _join(store: Store, group: Sequence[Entry]) -> Entry:
    shards = [store._files.shard(entry) for entry in group]
    for shard in shards:
        check_digest(shard)
    first = shards[0].contents
    columns = Columns.join([shard.contents.columns for shard in shards], store.folder)
    replaces = dict.fromkeys(name for entry in group for name in (entry.name, *entry.replaces))
    contents = Contents(
        first.record,
        first.sizes,
        first.prompts,
        columns,
        _joined_read(shards, store),
        tuple(dict.fromkeys(pair for shard in shards for pair in shard.contents.skipped)),
        tuple(replaces),
    )
    return store._files.write(contents, _blocks(store, shards), [entry.name for entry in group])


def _joined_read(shards: Sequence[Shard], store: Store) -> Columns | None:
    if any(shard.contents.read is None for shard in shards):
        return None
    parts = []
    for prompt in range(len(shards[0].contents.prompts)):
        for shard in shards:
            n = shard.contents.columns.n
            assert shard.contents.read is not None
            parts.append(shard.contents.read.take(range(prompt * n, (prompt + 1) * n)))
    return Columns.join(parts, store.folder)


def _blocks(store: Store, shards: Sequence[Shard]) -> Iterator[Tensor]:
    """The numbers of all the shards, head by head, as they are stored."""
    for size, (_, shape) in shards[0].blocks.items():
        for head in range(shape[0]):
            yield torch.cat([store._files.maps[shard][size][head] for shard in shards], dim=1)


def _remove(store: Store, shards: bool) -> None:
    """Delete packs that a newer one holds, and, if asked for, the shards that packs hold."""
    with exclusive(store.folder), writing(store.folder, 0, "All rows are in the new files."):
        store._files.look()
        live = {entry.name for entry in store.files}
        old = [
            name for name in store._files.catalog.entries if name not in live and (shards or name.startswith("pack-"))
        ]
        for name in old:
            (store.folder / name).unlink(missing_ok=True)
        sync_folder(store.folder)
        store._files.look()
        try:
            store._files.write_index()
        except StoreError as error:
            raise StoreError(f"The files are packed, but the index was not brought up to date. {error}") from error
