"""Looking a store over, file by file, and putting one right that is damaged."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from headprobe._files import sync_folder
from headprobe.errors import StoreError
from headprobe.store.catalog import Catalog, Entry
from headprobe.store.files import MANIFEST, listing, writing
from headprobe.store.lock import abandoned, exclusive
from headprobe.store.manifest import read_manifest, write_manifest
from headprobe.store.record import Record, differences
from headprobe.store.shard import Shard, check_digest, read_shard

__all__ = ["Report", "repair", "verify"]


@dataclass
class Report:
    """What was found in a store.

    Parameters
    ----------
    folder
        The store.
    problems
        What is wrong, a sentence each; empty for a store that is in order.
    notes
        What is worth knowing and in order.
    actions
        What `repair` did.
    n_files, n_examples, n_bytes
        Files that are in order, the examples in them, and their size.
    """

    folder: Path
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    actions: list[str] = field(default_factory=list)
    n_files: int = 0
    n_examples: int = 0
    n_bytes: int = 0

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


@dataclass
class _Found:
    """Files of a store, sorted by what is the matter with them."""

    record: Record | None
    good: dict[str, Entry]
    bad: dict[str, tuple[str, str]]  # name -> (ending it gets when it is set aside, reason)


def verify(folder: str | os.PathLike[str], digests: bool = True) -> Report:
    """Look over everything in a store; nothing is changed.

    Parameters
    ----------
    folder
        The store.
    digests
        Whether to read every file whole and compare it with its digest; otherwise only headers and sizes are looked
        at.

    Returns
    -------
    Report

    Raises
    ------
    StoreError
        There is no such folder, or it cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> from headprobe.provenance import Provenance
    >>> from headprobe.store import Store
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Store.create(folder, Provenance("m"), ["L0H0"], {"p1": "?"})
    ...     verify(folder).ok
    True
    """
    path = _existing(folder)
    report = Report(path)
    record, indexed = _index(path, report)
    found = _sort(path, record, digests)
    report.problems += [reason for _, reason in found.bad.values()]
    if found.record is None and not report.problems:
        report.problems.append(f"{path}: there is nothing of a store in this folder.")
    for entry in indexed:
        if entry.name not in found.good and entry.name not in found.bad and not _replaced(entry.name, found):
            report.problems.append(f"{path / entry.name}: the file is gone, with {len(entry.examples)} examples.")
        elif entry.name in found.good and found.good[entry.name] != entry:
            report.problems.append(f"{path / entry.name}: the file is not what {MANIFEST} says of it.")
    lagging = len(found.good.keys() - {entry.name for entry in indexed})
    if record is not None and lagging:
        report.notes.append(f"{lagging} files are not in {MANIFEST} yet, which is in order.")
    parts = [name for name in os.listdir(path) if name.endswith(".part")]
    if parts:
        report.notes.append(f"{len(parts)} unfinished files of running or killed processes.")
    _count(report, found)
    return report


def repair(folder: str | os.PathLike[str], digests: bool = True) -> Report:
    """Rebuild the manifest of a store from its shards, and set aside what cannot be used.

    Nothing is deleted but the unfinished files of processes that are gone: a damaged shard gets the ending
    ``.damaged``, one whose examples another file holds too ``.duplicate``. What was in them is then `Store.missing` and
    can be made again.

    Parameters
    ----------
    folder
        The store.
    digests
        As for `verify`.

    Returns
    -------
    Report
        ``problems`` are those before the repair.

    Raises
    ------
    StoreError
        There is nothing to rebuild from, the shards are of different stores, or the folder cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from headprobe.provenance import Provenance
    >>> from headprobe.store import Store
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Store.create(folder, Provenance("m"), ["L0H0"], {"p1": "?"})
    ...     repair(folder).ok
    True
    """
    path = _existing(folder)
    report = Report(path)
    with exclusive(path), writing(path, 0, "The repair was not finished; run it again."):
        record, indexed = _index(path, report)
        found = _sort(path, record, digests)
        if found.record is None:
            raise StoreError(
                f"{path}: neither {MANIFEST} nor any shard can be read, so there is nothing to rebuild from."
            )
        report.problems += [reason for _, reason in found.bad.values()]
        for name, (ending, _) in found.bad.items():
            os.replace(path / name, path / f"{name}{ending}")
            report.actions.append(f"{name} is set aside as {name}{ending}.")
        for part in abandoned(path):
            part.unlink(missing_ok=True)
            report.actions.append(f"{part.name}, left by a killed process, is deleted.")
        for entry in indexed:
            if entry.name not in found.good and entry.name not in found.bad and not _replaced(entry.name, found):
                report.problems.append(f"{path / entry.name}: the file is gone, with {len(entry.examples)} examples.")
        if os.path.lexists(path / MANIFEST) and record is None:
            os.replace(path / MANIFEST, path / f"{MANIFEST}.damaged")
            report.actions.append(f"{MANIFEST} is set aside as {MANIFEST}.damaged.")
        sync_folder(path)
        entries = sorted(found.good.values(), key=lambda entry: entry.order)
        write_manifest(path, found.record, entries)
        report.actions.append(f"{MANIFEST} is rebuilt from {len(entries)} files.")
        _count(report, found)
    return report


def _existing(folder: str | os.PathLike[str]) -> Path:
    path = Path(folder)
    if not path.is_dir():
        raise StoreError(f"{path}: there is no such folder.")
    return path


def _index(path: Path, report: Report) -> tuple[Record | None, Sequence[Entry]]:
    try:
        return read_manifest(path)
    except StoreError as error:
        report.problems.append(str(error))
        return None, ()


def _sort(path: Path, record: Record | None, digests: bool) -> _Found:
    """Read all files; of several that hold the same, packs count before shards, and earlier ones before later ones."""
    found = _Found(record, {}, {})
    shards: list[Shard] = []
    for name in listing(path):
        try:
            shard = read_shard(path / name)
            if digests:
                check_digest(shard)
            shards.append(shard)
        except StoreError as error:
            found.bad[name] = ".damaged", str(error)
    if found.record is None and shards:
        found.record = _agreed(path, shards)
    if found.record is None:
        return found
    sizes = Counter(shard.contents.sizes for shard in shards if found.record.same(shard.contents.record))
    usual = sizes.most_common(1)[0][0] if sizes else ()
    catalog = Catalog(path, found.record)
    for shard in sorted(shards, key=lambda shard: not shard.contents.replaces):
        held, name = shard.contents, shard.path.name
        if not found.record.same(held.record) or held.sizes != usual:
            what = differences(found.record.provenance, held.record.provenance) or ["other heads, sizes or numbers"]
            found.bad[name] = ".foreign", f"{shard.path}: the shard is of another store: {'; '.join(what)}."
            continue
        entry = Entry.of(name, shard.size, held)
        try:
            catalog.add([entry])
            found.good[name] = entry
        except StoreError as error:
            found.bad[name] = ".duplicate", str(error)
    return found


def _agreed(path: Path, shards: Sequence[Shard]) -> Record:
    """The record that all shards have, where the manifest cannot say which is the right one."""
    first = shards[0].contents.record
    others = [shard.path.name for shard in shards if not shard.contents.record.same(first)]
    if others:
        raise StoreError(
            f"{path}: {MANIFEST} cannot be read, and the shards are of different stores: {shards[0].path.name} and "
            f"{others[0]} disagree. Move those of one store away."
        )
    return first


def _replaced(name: str, found: _Found) -> bool:
    return any(name in entry.replaces for entry in found.good.values())


def _count(report: Report, found: _Found) -> None:
    if found.record is not None:
        live = Catalog(report.folder, found.record, found.good.values())
        report.n_files, report.n_examples = len(live.live), live.n_examples
        report.n_bytes = sum(entry.n_bytes for entry in found.good.values())
