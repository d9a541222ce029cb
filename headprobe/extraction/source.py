"""Which videos are meant: files, folders, globs, list files and tables, as one list of videos.

>>> [video.name for video in find_sources(["a/door.mp4", "b/street.avi"])]
['door', 'street']
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headprobe.errors import InputError
from headprobe.extraction.tables import Row, is_table, rows_of_file, rows_of_hub, rows_of_table
from headprobe.video.clips import VIDEO_SUFFIXES, find_videos

__all__ = ["Stretch", "Video", "find_sources"]

LIST_SUFFIXES = frozenset({".txt", ".lst", ".list"})
TABLE_SUFFIXES = frozenset({".csv", ".tsv", ".jsonl", ".ndjson"})
HUB = "hf:"


@dataclass(frozen=True)
class Stretch:
    """A part of a video, with what is known about it.

    Parameters
    ----------
    start, end
        Where it begins and ends, end exclusive, in frames or in seconds; None is the beginning or end of the video.
    in_seconds
        Whether these are seconds.
    label
        Class of every clip in it; None when unknown.
    group
        What must not straddle a split; None is the video's name.

    Examples
    --------
    >>> Stretch(48, 96).label is None
    True
    """

    start: float | None = None
    end: float | None = None
    in_seconds: bool = False
    label: int | None = None
    group: str | None = None


@dataclass(frozen=True)
class Video:
    """A video file that is opened once, and what is wanted of it.

    Parameters
    ----------
    path
        The file.
    name
        Its name in the ids of its clips, unique in a run and the same in every run.
    stretches
        The parts wanted, at least one.

    Examples
    --------
    >>> Video("a/door.mp4", "door").stretches
    (Stretch(start=None, end=None, in_seconds=False, label=None, group=None),)
    """

    path: str
    name: str
    stretches: tuple[Stretch, ...] = (Stretch(),)


def find_sources(sources: Any) -> list[Video]:
    """The videos that sources stand for.

    Parameters
    ----------
    sources
        One source or several. A source is a video file (also a missing one with the ending of a video, so that reading
        it says so); a folder, searched with its subfolders for names with the ending of a video; a glob such as
        ``"day?/**/*.mp4"``; a list file (``.txt``, ``.lst``) with a path per line; a table (``.csv``, ``.tsv``,
        ``.jsonl``) or a table in memory (pandas, Hugging Face `datasets`) with a column ``path`` and any of ``name``,
        ``label``, ``group``, ``start`` and ``end`` (frames, end exclusive) or ``start_seconds`` and ``end_seconds``; a
        folder written by ``Dataset.save_to_disk``; or ``"hf:NAME@SPLIT"``, a data set of the Hugging Face hub. Paths in
        a file are relative to the folder of that file.

    Returns
    -------
    list of Video
        In the order of the sources, sorted by path within a folder or glob, each file once. A video's name is its
        path within the folder searched, or as a list or table writes it, without its ending; for a file or a glob
        it is the file's own name.

    Raises
    ------
    InputError
        There is nothing there, a folder or glob holds no video, a table cannot be read, or two files have one name.
    VideoError
        A folder cannot be listed.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "t.csv").write_text("path,label,start,end\\na.mp4,1,0,48\\na.mp4,0,48,96\\n")
    ...     [(video.name, [part.label for part in video.stretches]) for video in find_sources(f"{folder}/t.csv")]
    [('a', [1, 0])]
    """
    if isinstance(sources, str | os.PathLike) or is_table(sources):
        sources = [sources]
    if not isinstance(sources, Iterable):
        raise InputError(f"The sources are {sources!r}; give files, folders, globs, list files or tables.")
    rows = [row for source in sources for row in _rows(source)]
    if not rows:
        raise InputError("No videos were given; name files, folders, globs, list files or tables.")
    paths: dict[str, str] = {}
    names: dict[str, str] = {}
    parts: dict[str, list[Stretch]] = {}
    for row in rows:
        # Broken links to one place are as many files that cannot be read.
        real = os.path.realpath(row.path) if os.path.exists(row.path) else os.path.abspath(row.path)
        name = names.setdefault(real, row.name)
        if row.named and name != row.name:
            raise InputError(f"{shown(row.path)} is called {name!r} and {row.name!r}; give a file one name.")
        paths.setdefault(real, row.path)
        part = Stretch(row.start, row.end, row.in_seconds, row.label, row.group)
        if part not in parts.setdefault(real, []):
            parts[real].append(part)
    owner: dict[str, str] = {}
    for real, name in names.items():
        other = owner.setdefault(name, real)
        if other != real:
            raise InputError(
                f"Two files have the name {name!r}: {shown(paths[other])} and {shown(paths[real])}. Give the folder "
                "that holds both, so that names start with its subfolders, or a table with a column name."
            )
    return [Video(paths[real], names[real], tuple(parts[real])) for real in paths]


def shown(path: str | os.PathLike[str]) -> str:
    """A path as text that can be stored, whatever bytes the name holds.

    Examples
    --------
    >>> shown("a/walk.mp4")
    'a/walk.mp4'
    """
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _rows(source: Any) -> Iterable[Row]:
    if is_table(source):
        return [_named(row, row.path) for row in rows_of_table(source, "", "the table")]
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
    return [_named(Row(os.fspath(file)), os.path.relpath(file, folder)) for file in find_videos(folder)]


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
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: a list file must be text in UTF-8 with a path per line.") from error
    except OSError as error:
        raise InputError(f"{path}: the list cannot be read: {error.strerror}.") from error
    rows = [Row(line.strip()) for line in lines if line.strip()]
    if not rows:
        raise InputError(f"{path}: the list is empty; write a path per line.")
    return rows


def _named(row: Row, written: str, folder: Path | None = None) -> Row:
    """The row with a path that can be opened, and with its name."""
    path = row.path if folder is None or folder == Path() else os.path.join(folder, row.path)
    if row.named:
        return row.at(path, row.name)
    own = os.path.basename(written) if os.path.isabs(written) else Path(os.path.normpath(written)).as_posix()
    stem, suffix = os.path.splitext(own)
    return row.at(path, shown(stem if suffix.lower() in VIDEO_SUFFIXES else own))
