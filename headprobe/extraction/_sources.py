"""Which videos are meant: files, folders, globs, list files and tables, as one list of videos.

>>> [video.name for video in find_sources(["a/door.mp4", "b/street.avi"])]
['door', 'street']
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from headprobe._files import read_text
from headprobe._validation import count, number
from headprobe.errors import InputError
from headprobe.extraction._tables import Row, Stretch, is_table, rows_of_file, rows_of_hub, rows_of_table
from headprobe.video.clips import VIDEO_SUFFIXES, Segment, _find_videos, segments

LIST_SUFFIXES = frozenset({".txt", ".lst", ".list"})
TABLE_SUFFIXES = frozenset({".csv", ".tsv", ".jsonl", ".ndjson"})
HUB = "hf:"


@dataclass(frozen=True)
class Video:
    """A video file that is opened once, and what is wanted of it."""

    path: str
    name: str
    stretches: tuple[Stretch, ...] = (Stretch(),)


def find_sources(sources: Any) -> list[Video]:
    if isinstance(sources, str | os.PathLike) or is_table(sources):
        sources = [sources]
    if not isinstance(sources, Iterable):
        raise InputError(f"The sources are {sources!r}; give files, folders, globs, list files or tables.")
    rows = [row for source in sources for row in _rows(source)]
    if not rows:
        raise InputError("No videos were given; name files, folders, globs, list files or tables.")
    files: dict[str, tuple[str, str, list[Stretch]]] = {}
    for row in rows:
        # Broken links to one place are as many files that cannot be read.
        real = os.path.realpath(row.path) if os.path.exists(row.path) else os.path.abspath(row.path)
        _, name, parts = files.setdefault(real, (row.path, row.name, []))
        if row.named and name != row.name:
            raise InputError(f"{shown(row.path)} is called {name!r} and {row.name!r}; give a file one name.")
        if row.part not in parts:
            parts.append(row.part)
    owner: dict[str, str] = {}
    for path, name, _ in files.values():
        other = owner.setdefault(name, path)
        if other != path:
            raise InputError(
                f"Two files have the name {name!r}: {shown(other)} and {shown(path)}. Give the folder "
                "that holds both, so that names start with its subfolders, or a table with a column name."
            )
    return [Video(path, name, tuple(parts)) for path, name, parts in files.values()]


def shown(path: str | os.PathLike[str]) -> str:
    """A path as text that can be stored, whatever bytes the name holds."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _rows(source: Any) -> Iterable[Row]:
    if is_table(source):
        return [_named(row, row.path) for row in rows_of_table(source, "the table")]
    if not isinstance(source, str | os.PathLike):
        raise InputError(f"A source is a path, a glob or a table; got {type(source).__name__}.")
    text, path = os.fspath(source), Path(source)
    if not text.strip():  # Path("") would be the working directory
        raise InputError(f"A source is {text!r}; give a path ('.' is the working directory), a glob or a table.")
    if text.startswith(HUB) and not path.exists():
        return [_named(row, row.path) for row in rows_of_hub(text.removeprefix(HUB))]
    suffix = path.suffix.lower()
    if suffix in LIST_SUFFIXES | TABLE_SUFFIXES and not path.is_dir():
        read = _rows_of_list if suffix in LIST_SUFFIXES else rows_of_file
        return [_named(row, row.path, path.parent) for row in read(path)]
    if path.is_dir():
        if (path / "dataset_info.json").is_file() and (path / "state.json").is_file():
            return [_named(row, row.path, path) for row in rows_of_hub(text)]
        return _folder(path)
    if not path.exists() and not path.is_symlink():
        if glob.has_magic(text):
            return _glob(text)
        if suffix not in VIDEO_SUFFIXES:
            raise InputError(f"There is no file or folder {text!r}.")
    return [_named(Row(text), path.name)]


def _folder(folder: Path) -> list[Row]:
    return [_named(Row(os.fspath(file)), os.path.relpath(file, folder)) for file in _find_videos(folder)]


def _glob(pattern: str) -> list[Row]:
    rows: list[Row] = []
    for found in map(Path, sorted(glob.glob(pattern, recursive=True))):
        if found.is_dir() and found.suffix.lower() not in VIDEO_SUFFIXES:
            continue  # "**" also matches folders; what is in them matches by itself
        rows.append(_named(Row(os.fspath(found)), found.name))
    if not rows:
        raise InputError(f"No file matches {pattern!r}.")
    return rows


def _rows_of_list(path: Path) -> list[Row]:
    rows = [Row(line.strip()) for line in read_text(path).splitlines() if line.strip()]
    if not rows:
        raise InputError(f"{path}: the list is empty; write a path per line.")
    return rows


def _named(row: Row, written: str, folder: Path | None = None) -> Row:
    """The row with a path that can be opened, and with its name."""
    path = row.path if folder is None or folder == Path() else os.path.join(folder, row.path)
    if row.named:
        return replace(row, path=path)
    own = os.path.basename(written) if os.path.isabs(written) else Path(os.path.normpath(written)).as_posix()
    stem, suffix = os.path.splitext(own)
    return replace(row, path=path, name=shown(stem if suffix.lower() in VIDEO_SUFFIXES else own))


@dataclass(frozen=True)
class Cut:
    """A clip to be."""

    segment: Segment
    stretch: int


def clip_id(name: str, span: tuple[int, int]) -> str:
    return f"{name}:{span[0]}-{span[1]}"


def video_and_span(name: str) -> tuple[str, tuple[int, int] | None]:
    video, _, span = name.rpartition(":")
    start, _, end = span.partition("-")
    if video and start.isascii() and start.isdecimal() and end.isascii() and end.isdecimal():
        return video, (int(start), int(end))
    return name, None


def cut(
    stretches: Sequence[Stretch], times: Float[np.ndarray, " frame"], duration: float, length: int | None
) -> tuple[list[Cut], list[str]]:
    """Cut the stretches of a video into clips, without leaving a frame of them out."""
    cuts: list[Cut] = []
    refused: list[str] = []
    seen: set[tuple[int, int]] = set()
    for place, stretch in enumerate(stretches):
        bounds = _bounds(stretch, times, duration)
        if isinstance(bounds, str):
            refused.append(bounds)
            continue
        first, end = bounds
        for part in segments(end - first, length or end - first):
            window = (part.window[0] + first, part.window[1] + first)
            segment = Segment(part.start + first, part.end + first, window)
            if segment.span in seen:
                refused.append(f"frames {segment.start} to {segment.end} are asked for twice, in different rows")
                continue
            seen.add(segment.span)
            cuts.append(Cut(segment, place))
    return cuts, refused


def _bounds(stretch: Stretch, times: Float[np.ndarray, " frame"], duration: float) -> tuple[int, int] | str:
    """First and end frame of a stretch; or why there are none."""
    n, start, end = len(times), stretch.start, stretch.end
    if not stretch.in_seconds:
        bounds = int(start or 0), n if end is None else int(end)
        if bounds[1] > n or bounds[0] >= n:
            last = "the end" if end is None else end
            return f"frames {bounds[0]} to {last} were asked for, but the video has {n} frames"
        return bounds
    tolerance = duration / n  # of a frame: tables round times
    if (end or 0) > duration + tolerance or (start or 0) >= duration:
        last = "the end" if end is None else f"{end:g}"
        return f"seconds {start or 0:g} to {last} were asked for, but the video has {duration:g} seconds"
    # A frame belongs to the stretch in which it begins; half a thousandth allows for rounded times.
    first = int(np.searchsorted(times, (start or 0) - 5e-4))
    stop = n if end is None else int(np.searchsorted(times, end - 5e-4))
    if first >= stop:
        return f"no frame begins in seconds {start or 0:g} to {end if end is not None else duration:g}"
    return first, stop


Span = tuple[int, int]
"""(start, end) of a clip in frames, end exclusive."""


@dataclass(frozen=True)
class Settings:
    """How videos become batches of clips."""

    length: int | None = 48
    frames: int = 16
    batch_size: int = 16
    workers: int = 1
    timeout: float = 10.0
    ahead_bytes: int = 1 << 30
    ahead_batches: int = 8

    def __post_init__(self) -> None:
        if self.length is not None:
            count(self.length, "segments")  # as it is called where it is asked for
        for name in ("frames", "batch_size", "workers"):
            count(getattr(self, name), name)
        number(self.timeout, "timeout", above=0)


@dataclass(frozen=True)
class Progress:
    """What is there already of a video."""

    spans: frozenset[Span] = frozenset()
    n_frames: int | None = None


@dataclass(frozen=True)
class Unit:
    """Consecutive videos that are worked on together."""

    number: int
    videos: tuple[Video, ...]
    progress: tuple[Progress, ...] = ()


def units_of(videos: Sequence[Video], n_videos: int | None = None) -> list[Unit]:
    step = min(max(len(videos) // 8, 1), 32) if n_videos is None else count(n_videos, "videos_per_unit")
    return [Unit(i, tuple(videos[start : start + step])) for i, start in enumerate(range(0, len(videos), step))]


def default_workers() -> int:
    """Decoding processes that leave a core to the model: one less than there are, at least 1 and at most 4."""
    usable = getattr(os, "sched_getaffinity", None)
    n = len(usable(0)) if usable else os.cpu_count() or 1
    return min(max(n - 1, 1), 4)
