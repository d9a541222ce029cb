"""What the annotation files of all data sets share: lines, pairs of frame numbers, names of videos."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headprobe.errors import InputError, VideoError
from headprobe.video.clips import VIDEO_SUFFIXES
from headprobe.video.spans import Span


def lines(text: str) -> list[tuple[int, str]]:
    """Number and content of every line that is not empty, counted from 1; a byte order mark is left out."""
    split = text.removeprefix("\ufeff").splitlines()
    return [(number, line.strip()) for number, line in enumerate(split, start=1) if line.strip()]


def name_of(entry: str) -> str:
    """Name of a video from a file name or a path in a list: no folders, no ending of a video file."""
    last = entry.replace("\\", "/").rstrip("/").rpartition("/")[2]
    stem, dot, ending = last.rpartition(".")
    return stem if stem and f"{dot}{ending}".lower() in VIDEO_SUFFIXES else last


def match_names(
    names: Iterable[str],
    paths: Sequence[str | os.PathLike[str]],
    base: str | os.PathLike[str] | None = None,
) -> dict[str, list[int]]:
    """Say which files the names of a table, a list or a mapping mean: the one rule for names of videos."""
    files = [_parts(os.fspath(path)) for path in paths]
    top = () if base is None else tuple(os.path.abspath(base).replace("\\", "/").strip("/").split("/"))
    whole = [_parts(os.path.abspath(path))[0] for path in paths] if top else []
    by_stem: dict[str, list[int]] = {}
    for place, (parts, _) in enumerate(files):
        by_stem.setdefault(parts[-1], []).append(place)
    found: dict[str, list[int]] = {}
    taken: dict[int, str] = {}
    for name in dict.fromkeys(names):
        parts, ending = _parts(name)
        fits = []
        for place in by_stem.get(parts[-1], []):
            own, suffix = files[place]
            n = min(len(own), len(parts))
            if own[-n:] == parts[-n:] and (not ending or not suffix or ending == suffix):
                fits.append(place)
        exact = [i for i in fits if files[i][0] == parts or (top and whole[i] == (*top, *parts))]
        fits = exact or fits
        for place in fits:
            if place in taken:
                raise InputError(
                    f"the names {taken[place]!r} and {name!r} both mean {os.fspath(paths[place])}: name every video "
                    "once, by its path."
                )
            taken[place] = name
        if fits:
            found[name] = fits
    return found


def one_each(found: dict[str, list[int]], paths: Sequence[str | os.PathLike[str]], what: str) -> dict[int, str]:
    """Position of each file to its name, after `match_names`; a name that fits several files is refused."""
    for name, places in found.items():
        if len(places) > 1:
            held = ", ".join(os.fspath(paths[place]) for place in places[:3])
            more = ", ..." if len(places) > 3 else ""
            raise InputError(
                f"the name {name!r} in {what} fits {len(places)} videos: {held}{more}; write "
                "there the path of each, from the folder that holds them all, such as "
                f"{'/'.join(_parts(os.fspath(paths[places[0]]))[0][-2:])!r}."
            )
    return {places[0]: name for name, places in found.items()}


def _parts(entry: str) -> tuple[tuple[str, ...], str]:
    """Folders and name without the ending of a video file; and the ending, in small letters."""
    parts = [part for part in entry.replace("\\", "/").split("/") if part not in ("", ".")] or [entry]
    stem = name_of(parts[-1])
    return (*parts[:-1], stem), parts[-1][len(stem) :].lower()


def number_pairs(fields: Sequence[str], number: int, line: str) -> list[tuple[int, int]]:
    """The fields of a line as pairs of whole numbers."""
    if not fields or len(fields) % 2:
        raise InputError(f"line {number} is {line!r}; it must have a start and an end frame for each event.")
    try:
        values = [int(field) for field in fields]
    except ValueError as error:
        raise InputError(f"line {number} is {line!r}; its frames must be whole numbers ({error}).") from error
    return list(zip(values[::2], values[1::2], strict=True))


def add_events(
    videos: dict[str, list[Span]], entry: str, inclusive: Sequence[tuple[int, int]], number: int, line: str
) -> None:
    """Add a video with its events, given with both ends inclusive, to `videos`."""
    name = name_of(entry)
    if name in videos:
        raise InputError(f"line {number}: video {name!r} occurs twice.")
    for start, end in inclusive:
        if start < 0 or end < start:
            raise InputError(f"line {number} is {line!r}; {start} to {end} must be a range of frames from 0 on.")
    ordered = sorted(inclusive)
    for before, after in itertools.pairwise(ordered):
        if after[0] <= before[1]:
            raise InputError(f"line {number} is {line!r}; the events {before} and {after} share frames: make them one.")
    videos[name] = [(start, end + 1) for start, end in ordered]


def not_empty(videos: Any) -> Any:
    """What was parsed, if it is anything."""
    if not videos:
        raise InputError("the annotation is empty: no line names a video.")
    return videos


def parse_frame_counts(text: str) -> dict[str, int]:
    """Read the number of frames per video: `name first last class`, both ends inclusive."""
    counts: dict[str, int] = {}
    for number, line in lines(text):
        fields = line.split()
        if len(fields) != 4:
            raise InputError(f"line {number} is {line!r}; it must be 'name first last class'.")
        (first, last) = number_pairs(fields[1:3], number, line)[0]
        if first != 0 or last < 0:
            raise InputError(f"line {number} is {line!r}; its frames must run from 0 on, not from {first} to {last}.")
        name = name_of(fields[0])
        if name in counts:
            raise InputError(f"line {number}: video {name!r} occurs twice.")
        counts[name] = last + 1
    return not_empty(counts)


def parse_list(text: str) -> dict[str, str]:
    """Read a list of videos, one path or name per line."""
    found: dict[str, str] = {}
    for number, line in lines(text):
        name = name_of(line)
        if name in found:
            raise InputError(f"line {number}: video {name!r} occurs twice ({found[name]!r} and {line!r}).")
        found[name] = line
    return not_empty(found)


_IMAGES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff"})


@dataclass(frozen=True)
class Found:
    """A video on disk."""

    path: Path
    n_images: int | None = None


@dataclass(frozen=True)
class Listing:
    """Everything of use beneath a folder."""

    root: Path
    videos: tuple[Found, ...]
    files: tuple[Path, ...]

    def named(self, names: Iterable[str]) -> Path | None:
        """The one file that has one of these names, None if there is none."""
        wanted = set(names)
        found = [path for path in self.files if path.name in wanted]
        if len(found) > 1:
            raise InputError(
                f"{len(found)} files could be the same annotation: {', '.join(map(str, found[:4]))}; "
                "name the folder that holds the right one (--annotations)."
            )
        return found[0] if found else None


def list_folder(root: str | os.PathLike[str]) -> Listing:
    """List the videos and other files beneath a folder; links are followed, names with a leading dot left out."""
    top = Path(root)
    if not top.is_dir():
        raise InputError(f"{top} is no folder: name the one that holds the data set.")

    def refuse(error: OSError) -> None:
        where = error.filename or os.fspath(root)
        raise VideoError(where, f"the folder cannot be listed ({error.strerror})") from error

    videos: list[Found] = []
    files: list[Path] = []
    seen: set[str] = set()
    for here, folders, names in os.walk(top, onerror=refuse, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        images = 0
        for name in sorted(names):
            ending = os.path.splitext(name)[1].lower()
            if name.startswith("."):
                continue
            if ending in _IMAGES:
                images += 1
            elif ending in VIDEO_SUFFIXES:
                videos.append(Found(Path(here, name)))
            else:
                files.append(Path(here, name))
        if images:
            videos.append(Found(Path(here), images))
    return Listing(top, tuple(sorted(videos, key=lambda found: found.path)), tuple(files))


def count_frames(videos: Sequence[Found]) -> tuple[list[int | None], dict[str, str]]:
    """Number of frames of every video, counted in the file; and the reasons of those that cannot be read."""
    from headprobe.video.decode import probe

    counts: list[int | None] = []
    failed: dict[str, str] = {}
    for video in videos:
        if video.n_images is not None:
            counts.append(video.n_images)
            continue
        try:
            counts.append(probe(video.path).n_frames)
        except VideoError as error:
            failed[os.fspath(video.path)] = error.reason
            counts.append(None)
    return counts, failed
