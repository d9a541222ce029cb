"""The files of a store as one object of this process sees them: found, checked, written."""

from __future__ import annotations

import os
import secrets
import stat
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from headprobe._files import CLOEXEC, sync_folder
from headprobe._forks import free_in_children
from headprobe._notice import notice
from headprobe.errors import InputError, StoreError
from headprobe.store.catalog import Catalog, Entry
from headprobe.store.contents import Contents
from headprobe.store.files import MANIFEST, listing, writing
from headprobe.store.lock import abandoned, exclusive, mark
from headprobe.store.manifest import read_manifest, write_manifest
from headprobe.store.reading import Index, Mappings
from headprobe.store.record import Record, differences
from headprobe.store.shard import Shard, read_shard, write_file

__all__ = ["Holdings", "begin"]


class Holdings:
    """The files of a store.

    Parameters
    ----------
    folder
        The store, which exists.

    Attributes
    ----------
    record : Record
        What is the same for the whole store.
    catalog : Catalog
        Which file holds what.
    maps : Mappings
        The files that are mapped into memory.
    turn : lock
        For one thread at a time.

    Raises
    ------
    StoreError
        There is no store, or it is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not folder.is_dir():
            raise StoreError(f"{folder}: there is no such folder; give one that Store.create made.")
        if not os.path.lexists(folder / MANIFEST):
            names = listing(folder)
            advice = (
                f"it has {len(names)} shards: run `headprobe store repair {folder}`." if names else "it is no store."
            )
            raise StoreError(f"{folder}: the folder has no {MANIFEST}; {advice}")
        self.record, entries = read_manifest(folder)
        self.catalog = Catalog(folder, self.record)
        self.maps = Mappings()
        self.turn = free_in_children(threading.RLock())
        self._sizes: tuple[int, ...] | None = None
        self._shards: dict[str, Shard] = {}
        self._built: tuple[tuple[Entry, ...], Index] | None = None
        self._indexed = len(entries)
        self._tidy = False
        self.look({entry.name: entry for entry in entries})

    def index(self) -> Index:
        """Where every row lies.

        Returns
        -------
        Index

        Raises
        ------
        InputError
            The store is empty.
        StoreError
            A file is damaged or gone.
        """
        with self.turn:
            live = tuple(self.catalog.live)
            if not live:
                raise InputError(f"{self.folder}: the store holds no examples yet.")
            if self._built is None or self._built[0] != live:
                shards = [self.shard(entry) for entry in live]
                self._built = live, Index.of(shards, tuple(self.record.prompts), self.folder)
            return self._built[1]

    def sizes(self) -> tuple[int, ...] | None:
        """Size of every head, in order; None while the store is empty.

        Returns
        -------
        tuple of int or None

        Raises
        ------
        StoreError
            A file is damaged or gone.
        """
        if self._sizes is None and self.catalog.live:
            self.shard(self.catalog.live[0])
        return self._sizes

    def shard(self, entry: Entry) -> Shard:
        """The header of a file that the catalog has, compared with what the catalog says.

        Parameters
        ----------
        entry
            The file.

        Returns
        -------
        Shard

        Raises
        ------
        StoreError
            It is damaged or gone, or is something else.
        """
        shard = self._shards.get(entry.name) or self._load(entry.name)
        if Entry.of(entry.name, shard.size, shard.contents) != entry:
            raise StoreError(
                f"{shard.path}: the file is not what {MANIFEST} says of it. Run `headprobe store repair {self.folder}`."
            )
        return shard

    def _load(self, name: str) -> Shard:
        """Read the header of a file and see that it belongs to the store."""
        shard = read_shard(self.folder / name)
        held = shard.contents
        if not self.record.same(held.record):
            found = differences(self.record.provenance, held.record.provenance) or [
                "other heads or another number type"
            ]
            raise StoreError(f"{shard.path}: the shard is of another store: {'; '.join(found)}. Move it away.")
        self._sizes = self._sizes or held.sizes
        if held.sizes != self._sizes:
            raise StoreError(f"{shard.path}: the sizes of the heads are not those of the other shards. Move it away.")
        self._shards[name] = shard
        return shard

    def look(self, indexed: Mapping[str, Entry] | None = None) -> None:
        """Take in the files that are new in the folder, and leave out what was packed and deleted.

        Parameters
        ----------
        indexed
            Files by name as the manifest has them; of these only the size is looked at, not the header.

        Raises
        ------
        StoreError
            A file is damaged or does not fit the others, or one is gone that no other replaces.
        """
        indexed = indexed or {}
        names = listing(self.folder)
        new: list[Entry] = []
        for name in names:
            if name in self.catalog.entries:
                continue
            try:
                if name in indexed:
                    _check_size(self.folder / name, indexed[name].n_bytes)
                    new.append(indexed[name])
                else:
                    shard = self._load(name)
                    new.append(Entry.of(name, shard.size, shard.contents))
            except StoreError:
                if os.path.lexists(self.folder / name):
                    raise
                return self.look(indexed)  # packed and deleted by another process after it was listed
        new += [entry for name, entry in indexed.items() if name not in names]
        self.catalog.add(new)
        self.catalog.forget(sorted(self.catalog.entries.keys() - set(names)))

    def check_new(self, contents: Contents) -> None:
        """Refuse contents that do not fit what is stored.

        Parameters
        ----------
        contents
            What is to be written.

        Raises
        ------
        StoreError
            Some of it is stored already.
        InputError
            The heads have other sizes, or a row is described differently under other prompts.
        """
        self.catalog.refuse_held(Entry.of("", 0, contents))
        sizes = self.sizes()
        if sizes is not None and sizes != contents.sizes:
            differing = [i for i, pair in enumerate(zip(sizes, contents.sizes, strict=True)) if pair[0] != pair[1]]
            head, i = self.record.heads[differing[0]], differing[0]
            raise InputError(f"{self.folder}: {head} has size {sizes[i]} in the store and {contents.sizes[i]} here.")
        if any(self.catalog.has(example) for example in contents.examples):
            self._check_rows(contents)

    def _check_rows(self, contents: Contents) -> None:
        """Rows that are there under other prompts must be the same rows."""
        index = self.index()
        for i, name in enumerate(contents.ids):
            row = index.by_id.get(name)
            stored = {} if row is None else {k: v[row] for k, v in index.columns.values.items() if v[row] is not None}
            given = {k: v[i] for k, v in contents.columns.values.items() if v[i] is not None}
            if row is not None and stored != given:
                raise InputError(f"{self.folder}: {name!r} is {given} here and {stored} in the store.")

    def write(self, contents: Contents, blocks: Iterator[Tensor], pack_of: Sequence[str] = ()) -> Entry:
        """Write one file under a name of its own, and give it its place once it is complete and still wanted.

        Parameters
        ----------
        contents, blocks
            What it holds: all beside the numbers, and the numbers in the order of the file.
        pack_of
            Names of the files that it takes the place of.

        Returns
        -------
        Entry

        Raises
        ------
        StoreError
            The disk is full, or another process was faster with the same.
        """
        header = contents.header()
        n_bytes = len(header) + contents.n_bytes
        part = self.folder / f".{secrets.token_hex(8)}.part"
        stored = self.catalog.n_examples
        afterwards = f"These {contents.columns.n} rows were not stored; the {stored} examples that were are intact."
        with writing(self.folder, n_bytes, afterwards):
            try:
                with exclusive(self.folder):
                    self._clear()
                    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | CLOEXEC, 0o666)
                    mark(descriptor)
                with os.fdopen(descriptor, "wb") as file:  # marked as long as it is open
                    write_file(file, header, blocks)
                    os.fsync(file.fileno())
                    with exclusive(self.folder):
                        return self._place(part, Entry.of(part.name, n_bytes, contents), contents, pack_of)
            finally:
                part.unlink(missing_ok=True)

    def _place(self, part: Path, entry: Entry, contents: Contents, pack_of: Sequence[str]) -> Entry:
        self.look()
        if pack_of:
            gone = set(pack_of) - {other.name for other in self.catalog.live}
            if gone:
                raise StoreError(f"{self.folder}: {sorted(gone)[0]} was packed by another process meanwhile.")
            kind, number = "pack", min(int(name.split("-")[1]) for name in pack_of)
        else:
            self.check_new(contents)
            kind, number = "shard", 1 + max((other.order[0] for other in self.catalog.entries.values()), default=0)
        name = f"{kind}-{number:06d}-{secrets.token_hex(8)}.safetensors"
        os.replace(part, self.folder / name)
        with writing(self.folder, 0, f"{name} is stored, but may not outlast a power cut."):
            sync_folder(self.folder)
        entry = replace(entry, name=name)
        self._sizes = self._sizes or contents.sizes
        self.catalog.add([entry])
        if len(self.catalog.entries) - self._indexed > len(self.catalog.entries) // 16:
            try:
                self.write_index()
            except StoreError as error:
                notice(
                    f"{name} is stored, but the index of the store could not be brought up to date; it will be later. "
                    f"{error}"
                )
        return entry

    def write_index(self) -> None:
        """Write the manifest; only while holding the lock.

        Raises
        ------
        StoreError
            It cannot be written.
        """
        write_manifest(self.folder, self.record, sorted(self.catalog.entries.values(), key=lambda entry: entry.order))
        self._indexed = len(self.catalog.entries)

    def _clear(self) -> None:
        """Delete what killed processes left half written; once per store object, while holding the lock."""
        if not self._tidy:
            for path in abandoned(self.folder):
                path.unlink(missing_ok=True)
            self._tidy = True


def begin(folder: Path, record: Record) -> bool:
    """Make an empty store unless there is one.

    Parameters
    ----------
    folder
        Made if missing.
    record
        What will be the same for the whole store.

    Returns
    -------
    bool
        Whether it was made.

    Raises
    ------
    StoreError
        It cannot be written, or there are shards without a manifest.
    """
    if folder.exists() and not folder.is_dir():
        raise StoreError(f"{folder}: there is a file of this name; a store is a folder, so name another one.")
    with writing(folder.parent, 0, f"{folder.name} could not be made."):
        folder.mkdir(parents=True, exist_ok=True)
    with exclusive(folder):
        if os.path.lexists(folder / MANIFEST):
            return False
        if listing(folder):
            raise StoreError(
                f"{folder}: there are shards, but no {MANIFEST}. Run `headprobe store repair {folder}`, or name "
                "another folder."
            )
        write_manifest(folder, record, ())
    with writing(folder.parent, 0, f"{folder.name} was made, but may not outlast a power cut."):
        sync_folder(folder.parent)
    return True


def _check_size(path: Path, expected: int) -> None:
    try:
        status = os.lstat(path)
    except OSError as error:
        raise StoreError(f"{path}: the file cannot be read: {error.strerror}.") from error
    if not stat.S_ISREG(status.st_mode) or status.st_size != expected:
        raise StoreError(
            f"{path}: {MANIFEST} says that the file has {expected} bytes, and it has {status.st_size} or is no regular "
            f"file. Run `headprobe store repair {path.parent}`."
        )
