"""Keeping what was read: one store for each position, each clip once, and what is there already."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from headprobe.activations import HeadActivations, concatenate
from headprobe.errors import InputError, StoreError
from headprobe.extraction.cutting import video_and_span
from headprobe.extraction.reading import clips_of
from headprobe.extraction.source import Video
from headprobe.extraction.units import Progress, Span
from headprobe.heads import HeadSet
from headprobe.provenance import Provenance
from headprobe.store import Store

__all__ = ["Keeper", "store_folders"]

_FLUSH_SECONDS = 300.0
_FOLDER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,99}")


def store_folders(out: Path, names: Iterable[str], single: bool) -> dict[str, Path]:
    """Where the activations at each position go.

    Parameters
    ----------
    out
        The folder given.
    names
        Names of the positions.
    single
        Whether one position was asked for, without a name.

    Returns
    -------
    dict
        Position name to folder: the one given, or one in it for each position.

    Raises
    ------
    InputError
        A name cannot be that of a folder.

    Examples
    --------
    >>> {name: folder.as_posix() for name, folder in store_folders(Path("z"), ["last", "video"], False).items()}
    {'last': 'z/last', 'video': 'z/video'}
    """
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


class Keeper:
    """Gathers activations and appends them in shards; knows which clips are done, in every store.

    Parameters
    ----------
    folders
        Position name to folder.
    provenance
        Position name to what the activations are made from.
    heads
        The heads, in order.
    dtype
        The number type that is stored.
    resume
        Whether stores that are there are continued.
    shard_examples
        Clips that make a shard.

    Raises
    ------
    StoreError
        There is a store and ``resume`` is False; or it is damaged or cannot be written.
    FingerprintError
        There is a store that was written under another fingerprint; the differences are listed.
    """

    def __init__(
        self,
        folders: Mapping[str, Path],
        provenance: Mapping[str, Provenance],
        heads: HeadSet,
        dtype: str,
        resume: bool,
        shard_examples: int,
    ) -> None:
        if isinstance(shard_examples, bool) or not isinstance(shard_examples, int) or shard_examples < 1:
            raise InputError(f"shard_examples is {shard_examples!r}; it must be an integer of at least 1.")
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
        """What is done of a video, on the disk or waiting to be written.

        Parameters
        ----------
        video
            The video.

        Returns
        -------
        Progress
        """
        return Progress(frozenset(self._spans.get(video.name, ())), self._frames.get(video.name))

    def add(self, acts: Mapping[str, HeadActivations]) -> int:
        """Take the activations of some clips, and write a shard when there are enough or it has been long.

        Parameters
        ----------
        acts
            Position name to activations of the same clips.

        Returns
        -------
        int
            How many of the clips were not there yet.

        Raises
        ------
        StoreError
            They cannot be written; what was complete before stays.
        InputError
            A value is beyond what the number type can hold.
        """
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
        """Write what was taken.

        Raises
        ------
        StoreError, InputError
            As for `add`.
        """
        waiting, self._waiting, self._n_waiting = self._waiting, [], 0
        self._flushed = time.monotonic()
        for name, store in self.stores.items() if waiting else ():
            whole = concatenate([acts[name] for acts in waiting])
            _append_missing(store, whole, 2 * self.shard_examples * _rows_per_clip(whole))

    def close(self) -> None:
        """Write what was taken, and bring the manifests up to date."""
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
