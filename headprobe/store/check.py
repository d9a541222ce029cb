"""Looking a store over, file by file, and putting one right that is damaged."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from headprobe._files import replacing, safe_cell, sync_folder
from headprobe._validation import count
from headprobe.activations import _dense
from headprobe.errors import InputError, StoreError
from headprobe.store._columns import Columns
from headprobe.store._io import MANIFEST, abandoned, exclusive, listing, publish, writing
from headprobe.store._manifest import Catalog, Entry, read_manifest, write_manifest
from headprobe.store._shard import Record, Shard, check_digest, differences, read_shard

if TYPE_CHECKING:
    from headprobe.activations import HeadActivations
    from headprobe.store.store import Heads, Store

__all__ = ["Report", "export", "repair", "verify"]


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
    report.problems += _gone(path, indexed, found)
    for entry in indexed:
        if found.good.get(entry.name, entry) != entry:
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
        report.problems += _gone(path, indexed, found)
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


def _gone(path: Path, indexed: Sequence[Entry], found: _Found) -> list[str]:
    known = {*found.good, *found.bad, *(name for entry in found.good.values() for name in entry.replaces)}
    gone = [entry for entry in indexed if entry.name not in known]
    return [f"{path / entry.name}: the file is gone, with {len(entry.examples)} examples." for entry in gone]


def _count(report: Report, found: _Found) -> None:
    if found.record is not None:
        live = Catalog(report.folder, found.record, found.good.values())
        report.n_files, report.n_examples = len(live.live), live.n_examples
        report.n_bytes = sum(entry.n_bytes for entry in found.good.values())


def _pack(store: Store, examples_per_file: int, remove_shards: bool) -> tuple[str, ...]:
    """Join the shards of a store as `Store.pack` says."""
    count(examples_per_file, "examples_per_file")
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
    contents = replace(
        shards[0].contents,
        columns=Columns.join([shard.contents.columns for shard in shards], store.folder),
        read=_joined_read(shards, store),
        skipped=tuple(dict.fromkeys(pair for shard in shards for pair in shard.contents.skipped)),
        replaces=tuple(dict.fromkeys(name for entry in group for name in (entry.name, *entry.replaces))),
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
    for size, shape in shards[0].contents.shapes().items():
        for head in range(shape[0]):
            yield torch.cat([store._files.maps(shard)[size][head] for shard in shards], dim=1)


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


_BLOCK_BYTES = 1 << 26


def export(
    store: Store,
    out: str | os.PathLike[str],
    heads: Heads | None = None,
    prompts: Any = None,
    examples: Any = None,
) -> list[Path]:
    """Write values as ``z.npy``, float32 [prompt, example, head, d_head], with the table of examples beside them.

    Heads of several sizes come as one file per size, ``z_64.npy``. ``examples.csv`` has a line per row,
    ``about.json`` the names along the axes and what the values are made from. Where text in ``examples.csv`` begins
    with =, +, -, @, ' or a tab, a ' is put before it, so that a spreadsheet shows it and runs nothing.

    Parameters
    ----------
    store
        The store.
    out
        Folder, made if missing; its files must not exist.
    heads, prompts, examples
        As for `Store.activations`.

    Returns
    -------
    list of Path
        The files.

    Raises
    ------
    InputError
        Something asked for is not in the store, or a file to be written exists.
    StoreError
        The store is damaged, or the disk is full.

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
    ...     sorted(path.name for path in export(store, folder + "/out"))
    ['about.json', 'examples.csv', 'z.npy']
    """
    folder = Path(out)
    index = store._files.index()
    rows = index.select(examples)
    # One head of no cost, to see that all is there and how the rest will look.
    wanted = store.headset if heads is None else heads
    shape = store.activations(list(wanted)[:1], prompts, rows)
    whole = store.activations(wanted, prompts, rows[:1])
    files = {
        folder / ("z.npy" if len(whole.tensors) == 1 else f"z_{part.shape[-1]}.npy"): (of_size, part.shape[-1])
        for of_size, part in whole.tensors.items()
    }
    table, about = folder / "examples.csv", folder / "about.json"
    present = [path for path in (*files, table, about) if os.path.lexists(path)]
    if present:
        raise InputError(f"{present[0]} exists; name another folder.")
    needed = sum(4 * len(shape.prompts) * len(rows) * len(of_size) * d for of_size, d in files.values())
    with writing(folder, needed, "The export is incomplete."):
        folder.mkdir(parents=True, exist_ok=True)
        for path, (of_size, size) in files.items():
            _write_values(store, path, of_size, size, shape, rows)
    cells = shape.examples.copy()
    for name in cells.select_dtypes("string"):
        cells[name] = cells[name].map(safe_cell, na_action="ignore")
    publish(table, cells.to_csv(index=False).encode("utf-8", "surrogateescape"))
    text = json.dumps(_about(store, files, shape), indent=1, allow_nan=False)
    publish(about, (text + "\n").encode())
    return [*files, table, about]


def _write_values(store: Store, path: Path, heads: Any, size: int, shape: HeadActivations, rows: np.ndarray) -> None:
    dims = (len(shape.prompts), len(rows), len(heads), size)
    step = max(1, _BLOCK_BYTES // (4 * len(heads) * size))
    with replacing(path) as part, part.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": dims})
        for prompt in shape.prompts:
            for begin in range(0, len(rows), step):
                block = store.activations(heads, [prompt], rows[begin : begin + step])
                file.write(np.ascontiguousarray(_dense(block.tensors)[0].numpy(), "<f4").data)


def _about(store: Store, files: dict[Path, tuple[Any, int]], shape: HeadActivations) -> dict[str, Any]:
    if not files:
        raise StoreError(f"{store.folder}: there are no heads to export.")
    return {
        "axes": ["prompt", "example", "head", "d_head"],
        "files": {path.name: {"heads": list(heads.labels), "d_head": size} for path, (heads, size) in files.items()},
        "prompts": dict(shape.prompts),
        "stored_as": store.dtype,
        "rounding": store.numbers.rounding,
        "fingerprint": store.provenance.fingerprint,
        "provenance": shape.provenance.to_dict(),
    }
