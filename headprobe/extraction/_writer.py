"""Keeping what was read: one store for each position, each clip once, and what is there already."""

from __future__ import annotations

import json
import os
import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

import numpy as np

from headprobe._files import NOFOLLOW, parse_json, read_regular
from headprobe._validation import count
from headprobe.activations import HeadActivations, concatenate
from headprobe.errors import InputError, StoreError
from headprobe.extraction._decoding import Skipped
from headprobe.extraction._reading import clips_of
from headprobe.extraction._sources import Progress, Span, Video, video_and_span
from headprobe.heads import HeadSet
from headprobe.provenance import Provenance
from headprobe.store import Store

_FLUSH_SECONDS = 300.0
_FOLDER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,99}")


def store_folders(out: Path, names: Iterable[str], single: bool) -> dict[str, Path]:
    if single:
        return {name: out for name in names}
    folders: dict[str, Path] = {}
    for name in names:
        if not _FOLDER.fullmatch(name):
            raise InputError(
                f"Each position gets a folder of its name, and {name!r} cannot be one; name the positions with "
                "letters, digits and _, for example {'last': last()}."
            )
        folders[name] = out / name
    return folders


class ShardWriter:
    """Gathers activations and appends them in shards; knows which clips are done, in every store."""

    def __init__(
        self,
        folders: Mapping[str, Path],
        provenance: Mapping[str, Provenance],
        heads: HeadSet,
        dtype: str,
        resume: bool,
        shard_examples: int,
    ) -> None:
        count(shard_examples, "shard_examples")
        make = Store.resume if resume else Store.create
        self.stores = {name: make(folder, provenance[name], heads, dtype=dtype) for name, folder in folders.items()}
        self.shard_examples = shard_examples
        self.n_kept = 0
        self.folder = next(iter(folders.values()))
        self.bytes_per_clip = 0  # of the last clips taken, in all stores
        self._itemsize = 4 if dtype == "float32" else 2
        self._waiting: list[Mapping[str, HeadActivations]] = []
        self._n_waiting = 0
        self._flushed = time.monotonic()
        self._spans: dict[str, set[Span]] = {}
        self._frames: dict[str, int] = {}
        self._look()

    def progress(self, video: Video) -> Progress:
        """What is done of a video, on the disk or waiting to be written."""
        return Progress(frozenset(self._spans.get(video.name, ())), self._frames.get(video.name))

    def add(self, acts: Mapping[str, HeadActivations]) -> int:
        """Take the activations of some clips, and write a shard when there are enough or it has been long."""
        names = clips_of(next(iter(acts.values())))
        new = {name for name in names if not self._has(name)}
        if not new:
            return 0
        if len(new) < len(names):
            acts = {name: _subset(part, new) for name, part in acts.items()}
        numbers = sum(part.numel() for one in acts.values() for part in one.tensors.values())
        self.bytes_per_clip = numbers * self._itemsize // len(new)
        self._waiting.append(acts)
        self._n_waiting += len(new)
        for name in new:
            self._note(name)
        self.n_kept += len(new)
        if self._n_waiting >= self.shard_examples or time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self.flush()
        return len(new)

    def flush(self) -> None:
        waiting, self._waiting, self._n_waiting = self._waiting, [], 0
        self._flushed = time.monotonic()
        for name, store in self.stores.items() if waiting else ():
            whole = concatenate([acts[name] for acts in waiting])
            _append_missing(store, whole, 2 * self.shard_examples * _rows_per_clip(whole))

    def close(self) -> None:
        self.flush()
        for store in self.stores.values():
            store.write_index()

    def _look(self) -> None:
        """Take note of the clips that all stores have under all prompts."""
        stores = list(self.stores.values())
        if any(not len(store) for store in stores):
            return
        ids = list(dict.fromkeys(name for name, _ in stores[0].keys()))  # noqa: SIM118
        for store in stores:
            lacking = set(store.missing(ids))
            ids = [name for name in ids if name not in lacking]
        for name in ids:
            self._note(name)
        table = Store.open(stores[0].folder).examples  # of another object, which does not stay in memory
        if "video_frames" in table.columns:
            owners = table["example" if "example" in table.columns else "id"].str.rpartition(":")[0]
            known = table["video_frames"].notna()
            self._frames = dict(zip(owners[known], table["video_frames"][known].astype(int), strict=True))

    def _has(self, name: str) -> bool:
        video, span = video_and_span(name)
        return span in self._spans.get(video, ())

    def _note(self, name: str) -> None:
        video, span = video_and_span(name)
        if span is not None:
            self._spans.setdefault(video, set()).add(span)


def _append_missing(store: Store, whole: HeadActivations, shard_examples: int) -> None:
    """Append what the store lacks, though another process may be filling it, or have been killed between two stores."""
    store.refresh()
    missing = set(store.missing(dict.fromkeys(clips_of(whole))))
    while missing:
        try:
            store.append(_subset(whole, missing), shard_examples)
            return
        except StoreError:
            store.refresh()
            left = set(store.missing(missing))
            if left == missing:  # nobody was faster: something else is wrong
                raise
            missing = left


def _subset(acts: HeadActivations, names: set[str]) -> HeadActivations:
    keep = np.array([name in names for name in clips_of(acts)])
    return acts if keep.all() else acts.subset(keep)


def _rows_per_clip(acts: HeadActivations) -> int:
    return -(-len(acts.examples) // max(1, len(set(clips_of(acts)))))


FILE = "skipped.jsonl"
_LIMIT = 1 << 30


class SkippedList:
    """Writes down what is skipped as it happens, so that a killed run leaves the list too."""

    def __init__(self, folder: Path, names: Iterable[str]) -> None:
        self.path = folder / FILE
        self.items: list[Skipped] = []
        mine = set(names)
        kept = [item for item in read_skipped(folder) if item.name not in mine]
        try:
            self.path.unlink(missing_ok=True)  # rather than through a link to somewhere else
            self._file = _appending(self.path, os.O_EXCL)
            for item in kept:
                self._write(item)
        except OSError as error:
            raise StoreError(f"{self.path}: the list of skipped clips cannot be written: {error.strerror}.") from error

    def add(self, item: Skipped) -> None:
        self.items.append(item)
        try:
            if self._is_mine():
                self._write(item)
            else:
                self._join()
        except OSError as error:
            raise StoreError(f"{self.path}: the list of skipped clips cannot be written: {error.strerror}.") from error

    def __enter__(self) -> SkippedList:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _is_mine(self) -> bool:
        """Whether the file is still the one that was begun; another run that starts begins a new one."""
        try:
            return os.path.samestat(os.fstat(self._file.fileno()), os.lstat(self.path))
        except FileNotFoundError:
            return False

    def _join(self) -> None:
        """Add what was skipped here to the list that another run has begun."""
        self._file.close()
        self._file = _appending(self.path, 0)
        there = read_skipped(self.path.parent)
        for item in dict.fromkeys(self.items):
            if item not in there:
                self._write(item)

    def _write(self, item: Skipped) -> None:
        self._file.write(json.dumps(asdict(item), ensure_ascii=False) + "\n")
        self._file.flush()


def read_skipped(folder: Path) -> list[Skipped]:
    path = folder / FILE
    if not path.is_file():
        return []
    items: list[Skipped] = []
    lines = read_regular(path, _LIMIT, StoreError).split(b"\n")
    for number, line in enumerate(lines[:-1], start=1):
        data = parse_json(line, f"{path}, line {number}", StoreError)
        texts = isinstance(data, dict) and set(data) == {"path", "name", "id", "reason"}
        if not texts or not all(isinstance(v, str) or (v is None and k == "id") for k, v in data.items()):
            raise StoreError(f"{path}, line {number}: not a skipped clip; move the file away.")
        items.append(Skipped(**data))
    return items


def _appending(path: Path, flags: int) -> TextIO:
    """Open for writing at the end, wherever another run has moved it; never through a link."""
    number = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | NOFOLLOW | flags, 0o666)
    return os.fdopen(number, "a", encoding="utf-8")


def summary(items: Sequence[Skipped], most: int = 8) -> list[str]:
    counts = Counter(item.reason for item in items)
    first = {item.reason: item.id or item.path for item in reversed(items)}
    lines = [f"{n} x {reason} ({first[reason]}{', ...' if n > 1 else ''})" for reason, n in counts.most_common(most)]
    if len(counts) > most:
        rest = sum(counts.values()) - sum(n for _, n in counts.most_common(most))
        lines.append(f"{rest} x other reasons")
    return lines
