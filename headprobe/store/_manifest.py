"""The files of a store as one object of this process sees them: found, checked, written."""

from __future__ import annotations

import json
import os
import secrets
import stat
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor

from headprobe._files import CLOEXEC, parse_json, read_regular, sync_folder
from headprobe._forks import free_in_children
from headprobe._validation import notice
from headprobe.errors import InputError, StoreError
from headprobe.store._io import MANIFEST, abandoned, exclusive, is_data_name, is_name, listing, mark, publish, writing
from headprobe.store._reading import Index
from headprobe.store._shard import FORMAT, Contents, Record, Shard, differences, map_blocks, read_shard, write_file


@dataclass(frozen=True)
class Entry:
    """What the manifest says about a file."""

    name: str
    n_bytes: int
    rows: int
    prompts: tuple[str, ...]
    examples: tuple[str, ...]
    replaces: tuple[str, ...] = ()

    @classmethod
    def of(cls, name: str, n_bytes: int, held: Contents) -> Entry:
        examples = tuple(dict.fromkeys(held.examples))
        return cls(name, n_bytes, held.columns.n, held.prompts, examples, held.replaces)

    @property
    def order(self) -> tuple[int, str]:
        """Sorts files as they were written; a pack stands where the first file stood that it holds."""
        return int(self.name.split("-")[1]), self.name


class Catalog:
    """The files of a store and the keys (example, prompt) in them, each key once."""

    def __init__(self, folder: Path, record: Record, entries: Iterable[Entry] = ()) -> None:
        self.folder = folder
        self.record = record
        self.entries: dict[str, Entry] = {entry.name: entry for entry in entries}
        self.live: list[Entry] = []
        self._bits = {prompt: 1 << i for i, prompt in enumerate(record.prompts)}
        self._have: dict[str, int] = {}
        self._arrange()

    def forget(self, names: Iterable[str]) -> None:
        """Leave out files that are gone and that another file replaces."""
        replaced = {name for entry in self.live for name in entry.replaces}
        for name in names:
            if name not in replaced:
                raise StoreError(
                    f"{self.folder}: {name} is gone, and with it {len(self.entries[name].examples)} examples. Put it "
                    f"back, or run `headprobe store repair {self.folder}` to go on without."
                )
            del self.entries[name]

    def add(self, entries: Sequence[Entry]) -> None:
        """Take in more files, all or, where one does not fit, none."""
        if not entries:
            return
        if any(entry.replaces for entry in (*self.entries.values(), *entries)):
            grown = Catalog(self.folder, self.record, (*self.entries.values(), *entries))
            self.entries, self.live, self._have = grown.entries, grown.live, grown._have
            return
        have = self._have if len(entries) == 1 else dict(self._have)  # of which nothing is taken where one is refused
        for entry in entries:
            self._take(entry, have)
        self._have = have
        self.entries |= {entry.name: entry for entry in entries}
        self.live = sorted((*self.live, *entries), key=lambda entry: entry.order)

    def __contains__(self, key: tuple[str, str]) -> bool:
        example, prompt = key
        return bool(self._have.get(example, 0) & self._bits.get(prompt, 0))

    def has(self, example: str) -> bool:
        return example in self._have

    @property
    def n_examples(self) -> int:
        return len(self._have)

    def keys(self) -> list[tuple[str, str]]:
        """All (example, prompt), in the order in which they were written."""
        return [(example, prompt) for entry in self.live for example in entry.examples for prompt in entry.prompts]

    def missing(self, wanted: Iterable[str | tuple[str, str]]) -> Iterator[str | tuple[str, str]]:
        all_bits = (1 << len(self._bits)) - 1
        for key in wanted:
            if isinstance(key, str):
                there = self._have.get(key, 0) == all_bits
            elif isinstance(key, tuple) and len(key) == 2 and key[1] in self._bits:
                there = key in self
            else:
                raise InputError(
                    f"{key!r} is no key of the store; give an example's id, or (id, prompt) with one of the prompts "
                    f"{list(self._bits)}."
                )
            if not there:
                yield key

    def refuse_held(self, entry: Entry) -> None:
        """Raise if the store has something of what an entry holds."""
        twice = self._held(entry, self._have)
        if twice:
            prompt = next(prompt for prompt in entry.prompts if (twice[0], prompt) in self)
            raise StoreError(
                f"{self.folder}: {len(twice)} of these {len(entry.examples)} examples are in the store already "
                f"(first: {twice[0]!r} under {prompt!r}). Append only what Store.missing(keys) gives."
            )

    def _arrange(self) -> None:
        replaced = {name for entry in self.entries.values() for name in entry.replaces}
        live = sorted((e for e in self.entries.values() if e.name not in replaced), key=lambda entry: entry.order)
        by_name = {name: entry for entry in live for name in entry.replaces}
        for name in self.entries.keys() & replaced:
            old, new = self.entries[name], by_name.get(name)
            if new is None or not set(old.examples) <= set(new.examples) or not set(old.prompts) <= set(new.prompts):
                raise StoreError(
                    f"{self.folder}: {name} is said to be replaced, but no file holds all its rows. Run "
                    f"`headprobe store repair {self.folder}`."
                )
        for entry in live:
            self._take(entry, self._have)
        self.live = live

    def _mask(self, entry: Entry) -> int:
        return sum(self._bits[prompt] for prompt in entry.prompts)

    def _held(self, entry: Entry, have: Mapping[str, int]) -> list[str]:
        """Examples of an entry of which there is something under one of its prompts already."""
        bits = self._mask(entry)
        return [example for example in entry.examples if have.get(example, 0) & bits]

    def _take(self, entry: Entry, have: dict[str, int]) -> None:
        twice = self._held(entry, have)
        if twice:
            others = [other.name for other in (*self.live, *self.entries.values()) if twice[0] in other.examples]
            raise StoreError(
                f"{self.folder}: {twice[0]!r} is both in {entry.name} and in {(others or ['another file'])[0]}. Run "
                f"`headprobe store repair {self.folder}`."
            )
        bits = self._mask(entry)
        for example in entry.examples:
            have[example] = have.get(example, 0) | bits


_LIMIT = 1 << 30  # bytes of a manifest
_MOST_MAPPED = 128  # of files mapped into memory, of which systems allow some ten thousands


def write_manifest(folder: Path, record: Record, entries: Sequence[Entry]) -> None:
    """Write the manifest; only while holding the lock of the store."""
    head = {"format": FORMAT, "fingerprint": record.provenance.fingerprint, "record": record.to_json()}
    shards = [{"bytes" if key == "n_bytes" else key: v for key, v in vars(entry).items()} for entry in entries]
    # A line per shard: to be read by people, too.
    lines = ",\n".join(json.dumps(shard, allow_nan=False) for shard in shards)
    text = json.dumps(head, allow_nan=False, indent=1)[:-2] + ',\n "shards": [\n' + lines + "\n]}\n"
    publish(folder / MANIFEST, text.encode())


def read_manifest(folder: Path) -> tuple[Record, list[Entry]]:
    path = folder / MANIFEST
    data = parse_json(read_regular(path, _LIMIT, StoreError), path, StoreError)
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        found = data.get("format") if isinstance(data, dict) else type(data).__name__
        raise StoreError(f"{path}: the format is {found!r:.60}; this version reads {FORMAT!r}.")
    if set(data) != {"format", "fingerprint", "record", "shards"} or not isinstance(data["shards"], list):
        raise StoreError(f"{path}: the manifest has the entries {sorted(data)!s:.200}.")
    record = Record.from_json(data["record"], path)
    if data["fingerprint"] != record.provenance.fingerprint:
        raise StoreError(f"{path}: the fingerprint is not that of the provenance beside it.")
    entries = [_entry(item, record, path) for item in data["shards"]]
    if len({entry.name for entry in entries}) < len(entries):
        raise StoreError(f"{path}: a shard is listed twice.")
    return record, entries


def _entry(item: Any, record: Record, path: Path) -> Entry:
    if not isinstance(item, dict) or set(item) != {"name", "bytes", "rows", "prompts", "examples", "replaces"}:
        raise StoreError(f"{path}: an entry of the list of shards is {item!s:.100}.")
    name, n_bytes, rows, replaces = item["name"], item["bytes"], item["rows"], item["replaces"]
    if not is_data_name(name):
        raise StoreError(f"{path}: {name!s:.100} is no name of a shard; shards lie in the folder of the store itself.")
    if type(n_bytes) is not int or type(rows) is not int or n_bytes < 1 or rows < 1:
        raise StoreError(f"{path}: {name} is said to have {n_bytes!s:.40} bytes and {rows!s:.40} rows.")
    for what in ("prompts", "examples"):
        names = item[what]
        if not isinstance(names, list) or not names or not all(map(is_name, names)) or len(set(names)) < len(names):
            raise StoreError(f"{path}: the {what} of {name} are {names!s:.100}; expected names, each once.")
    if not set(item["prompts"]) <= set(record.prompts) or len(item["examples"]) > rows:
        raise StoreError(f"{path}: the prompts or the number of rows of {name} do not fit the store.")
    if not isinstance(replaces, list) or not all(map(is_data_name, replaces)) or name in replaces:
        raise StoreError(f"{path}: {name} is said to replace {replaces!s:.100}; expected names of other shards.")
    return Entry(name, n_bytes, rows, tuple(item["prompts"]), tuple(item["examples"]), tuple(replaces))


class StoreFiles:
    """The files of a store."""

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
        self.maps = lru_cache(_MOST_MAPPED)(map_blocks)  # a map is closed when nobody uses it any more
        self.turn = free_in_children(threading.RLock())
        self._sizes: tuple[int, ...] | None = None
        self._shards: dict[str, Shard] = {}
        self._built: tuple[tuple[Entry, ...], Index] | None = None
        self._indexed = len(entries)
        self._tidy = False
        self.look({entry.name: entry for entry in entries})

    def index(self) -> Index:
        with self.turn:
            live = tuple(self.catalog.live)
            if not live:
                raise InputError(f"{self.folder}: the store holds no examples yet.")
            if self._built is None or self._built[0] != live:
                shards = [self.shard(entry) for entry in live]
                self._built = live, Index.of(shards, tuple(self.record.prompts), self.folder)
            return self._built[1]

    def sizes(self) -> tuple[int, ...] | None:
        """Size of every head, in order; None while the store is empty."""
        if self._sizes is None and self.catalog.live:
            self.shard(self.catalog.live[0])
        return self._sizes

    def shard(self, entry: Entry) -> Shard:
        """The header of a file that the catalog has, compared with what the catalog says."""
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
        """Take in the files that are new in the folder, and leave out what was packed and deleted."""
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
        """Write one file under a name of its own, and give it its place once it is complete and still wanted."""
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
        write_manifest(self.folder, self.record, sorted(self.catalog.entries.values(), key=lambda entry: entry.order))
        self._indexed = len(self.catalog.entries)

    def _clear(self) -> None:
        """Delete what killed processes left half written; once per store object, while holding the lock."""
        if not self._tidy:
            for path in abandoned(self.folder):
                path.unlink(missing_ok=True)
            self._tidy = True


def begin(folder: Path, record: Record) -> bool:
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
