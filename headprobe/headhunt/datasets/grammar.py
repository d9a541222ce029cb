"""What the annotation files of all data sets share: lines, pairs of frame numbers, names of videos."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Sequence
from typing import Any

from headprobe.errors import InputError
from headprobe.headhunt.frames import Span
from headprobe.video.clips import VIDEO_SUFFIXES

__all__ = [
    "add_events",
    "lines",
    "match_names",
    "name_of",
    "not_empty",
    "number_pairs",
    "one_each",
    "parse_frame_counts",
    "parse_list",
]


def lines(text: str) -> list[tuple[int, str]]:
    """Number and content of every line that is not empty, counted from 1; a byte order mark is left out.

    Parameters
    ----------
    text
        Content of a file.

    Returns
    -------
    list of tuple
        (number from 1, content) of each line.
    """
    split = text.removeprefix("\ufeff").splitlines()
    return [(number, line.strip()) for number, line in enumerate(split, start=1) if line.strip()]


def name_of(entry: str) -> str:
    """Name of a video from a file name or a path in a list: no folders, no ending of a video file.

    Nothing else is cut, for names hold dots, `=` and `#`.

    Parameters
    ----------
    entry
        File name, with either kind of slash.

    Returns
    -------
    str
        The name.

    Examples
    --------
    >>> name_of("Abuse/Abuse028_x264.mp4"), name_of("Bad.Boys.1995__#01-11-55_01-12-40_label_G-B2-B6")
    ('Abuse028_x264', 'Bad.Boys.1995__#01-11-55_01-12-40_label_G-B2-B6')
    """
    last = entry.replace("\\", "/").rstrip("/").rpartition("/")[2]
    stem, dot, ending = last.rpartition(".")
    return stem if stem and f"{dot}{ending}".lower() in VIDEO_SUFFIXES else last


def match_names(
    names: Iterable[str],
    paths: Sequence[str | os.PathLike[str]],
    base: str | os.PathLike[str] | None = None,
) -> dict[str, list[int]]:
    """Say which files the names of a table, a list or a mapping mean: the one rule for names of videos.

    A name is a path, with either kind of slash, with or without the ending of a video file. It means the file that lies
    at this path beneath `base`; where there is none, the file whose path ends with it, folder by folder. So
    ``fight/a`` is not ``calm/a.mp4``, and the bare ``a`` is either where the other does not exist. Where a path is
    shorter than a name, the name has to end with the path.

    Parameters
    ----------
    names
        What the videos are called.
    paths
        The files; they need not exist.
    base
        The folder that the names are relative to; None where there is none.

    Returns
    -------
    dict
        Name to the positions of the files that it fits, for the names that fit one. More than one position: the name
        is ambiguous, and `one_each` refuses it.

    Raises
    ------
    InputError
        Two names mean the same file.

    Examples
    --------
    >>> match_names(["fight/a", "b.mp4"], ["films/fight/a.mp4", "films/calm/a.mp4", "films/b.mp4"])
    {'fight/a': [0], 'b.mp4': [2]}
    >>> match_names(["a"], ["films/fight/a.mp4", "films/calm/a.mp4"])
    {'a': [0, 1]}
    >>> match_names(["a"], ["films/a.mp4", "films/calm/a.mp4"], "films")
    {'a': [0]}
    """
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
                    "once, by its path"
                )
            taken[place] = name
        if fits:
            found[name] = fits
    return found


def one_each(found: dict[str, list[int]], paths: Sequence[str | os.PathLike[str]], what: str) -> dict[int, str]:
    """Position of each file to its name, after `match_names`; a name that fits several files is refused.

    Parameters
    ----------
    found
        From `match_names`.
    paths
        The files.
    what
        Where the names stand, for the error.

    Returns
    -------
    dict
        Position to name.

    Raises
    ------
    InputError
        A name fits several files.

    Examples
    --------
    >>> one_each({"b": [1]}, ["a.mp4", "b.mp4"], "the table")
    {1: 'b'}
    """
    for name, places in found.items():
        if len(places) > 1:
            held = ", ".join(os.fspath(paths[place]) for place in places[:3])
            more = ", ..." if len(places) > 3 else ""
            raise InputError(
                f"the name {name!r} in {what} fits {len(places)} videos: {held}{more}; write "
                "there the path of each, from the folder that holds them all, such as "
                f"{'/'.join(_parts(os.fspath(paths[places[0]]))[0][-2:])!r}"
            )
    return {places[0]: name for name, places in found.items()}


def _parts(entry: str) -> tuple[tuple[str, ...], str]:
    """Folders and name without the ending of a video file; and the ending, in small letters."""
    parts = [part for part in entry.replace("\\", "/").split("/") if part not in ("", ".")] or [entry]
    stem = name_of(parts[-1])
    return (*parts[:-1], stem), parts[-1][len(stem) :].lower()


def number_pairs(fields: Sequence[str], number: int, line: str) -> list[tuple[int, int]]:
    """The fields of a line as pairs of whole numbers.

    Parameters
    ----------
    fields
        An even number of fields.
    number, line
        Number and text of the line, for errors.

    Returns
    -------
    list of tuple
        The pairs.

    Raises
    ------
    InputError
        If there are none, an odd number of them, or one is no whole number.
    """
    if not fields or len(fields) % 2:
        raise InputError(f"line {number}: expected pairs of start and end frame, got {len(fields)} numbers in {line!r}")
    try:
        values = [int(field) for field in fields]
    except ValueError as error:
        raise InputError(f"line {number}: expected whole frame numbers in {line!r} ({error})") from error
    return list(zip(values[::2], values[1::2], strict=True))


def add_events(
    videos: dict[str, list[Span]], entry: str, inclusive: Sequence[tuple[int, int]], number: int, line: str
) -> None:
    """Add a video with its events, given with both ends inclusive, to `videos`.

    Parameters
    ----------
    videos
        Name of each video so far to its events, as (start, end) in frames, end exclusive; changed in place.
    entry
        File name or path of the video.
    inclusive
        Its events as (first, last) frame.
    number, line
        Number and text of the line, for errors.

    Raises
    ------
    InputError
        If the video is there already, a pair is no range of frames, or two events share a frame.
    """
    name = name_of(entry)
    if name in videos:
        raise InputError(f"line {number}: video {name!r} occurs twice")
    for start, end in inclusive:
        if start < 0 or end < start:
            raise InputError(f"line {number}: {start} to {end} is no range of frames in {line!r}")
    ordered = sorted(inclusive)
    for before, after in itertools.pairwise(ordered):
        if after[0] <= before[1]:
            raise InputError(f"line {number}: the events {before} and {after} share frames in {line!r}: make them one")
    videos[name] = [(start, end + 1) for start, end in ordered]


def not_empty(videos: Any) -> Any:
    """What was parsed, if it is anything.

    Parameters
    ----------
    videos
        What was parsed.

    Returns
    -------
    object
        The same.

    Raises
    ------
    InputError
        If no line named a video.
    """
    if not videos:
        raise InputError("the annotation is empty: no line names a video")
    return videos


def parse_frame_counts(text: str) -> dict[str, int]:
    """Read the number of frames per video: `name first last class`, both ends inclusive.

    Parameters
    ----------
    text
        Content of the file; `first` is 0 in every line.

    Returns
    -------
    dict
        Video name to its number of frames.

    Raises
    ------
    InputError
        Naming the first line that does not follow the grammar, or a video that occurs twice.

    Examples
    --------
    >>> parse_frame_counts("Abuse028_x264 0 1411 0")
    {'Abuse028_x264': 1412}
    """
    counts: dict[str, int] = {}
    for number, line in lines(text):
        fields = line.split()
        if len(fields) != 4:
            raise InputError(f"line {number}: expected 'name first last class', got {line!r}")
        (first, last) = number_pairs(fields[1:3], number, line)[0]
        if first != 0 or last < 0:
            raise InputError(f"line {number}: frames must run from 0 to last, got {first} to {last} in {line!r}")
        name = name_of(fields[0])
        if name in counts:
            raise InputError(f"line {number}: video {name!r} occurs twice")
        counts[name] = last + 1
    return not_empty(counts)


def parse_list(text: str) -> dict[str, str]:
    """Read a list of videos, one path or name per line.

    Parameters
    ----------
    text
        Content of the file, such as `Abuse/Abuse001_x264.mp4` in each line.

    Returns
    -------
    dict
        Video name to the line it comes from, in the order of the file.

    Raises
    ------
    InputError
        Naming a video that occurs twice, or if there is none.

    Examples
    --------
    >>> parse_list("Abuse/Abuse001_x264.mp4")
    {'Abuse001_x264': 'Abuse/Abuse001_x264.mp4'}
    """
    found: dict[str, str] = {}
    for number, line in lines(text):
        name = name_of(line)
        if name in found:
            raise InputError(f"line {number}: video {name!r} occurs twice ({found[name]!r} and {line!r})")
        found[name] = line
    return not_empty(found)
