"""Data sets of one's own: a table of videos or events, a table of frames, or a folder per class."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import PurePath

import numpy as np

from headprobe._files import csv_records
from headprobe.datasets.videos import NORMAL, Dataset, Video
from headprobe.errors import InputError
from headprobe.video.spans import Span, stretches

SPLITS = ("train", "test")
_VIDEO_COLUMNS = ("abnormal", "class", "split", "n_frames")


def from_table(text: str, name: str = "table", source: str | None = None) -> Dataset:
    """Read a data set from a table with a header, separated by commas."""
    columns, records = csv_records(text, "the table")
    lacking = [column for column in ("video", "abnormal") if column not in columns]
    if lacking:
        raise InputError(
            f"the table's header is {', '.join(columns)!r}; it must have the columns video and abnormal, separated by "
            "commas."
        )
    rows: list[tuple[int, dict[str, str]]] = []
    for number, row in records:
        cleaned = {key: value.strip() for key, value in row.items()}
        if not cleaned["video"]:
            raise InputError(f"row {number}: the video has no name.")
        if cleaned["abnormal"] not in ("0", "1"):
            raise InputError(f"row {number}: abnormal is {cleaned['abnormal']!r}; it must be 0 or 1.")
        rows.append((number, cleaned))
    if not rows:
        raise InputError("the table has no rows.")
    videos = _of_frames(rows) if "frame" in columns else _of_videos(rows, columns)
    return Dataset(name, tuple(videos), 0, {"table": source} if source else {})


def from_folders(
    paths: Iterable[str | os.PathLike[str]], root: str | os.PathLike[str], normal: str = NORMAL, name: str = "folder"
) -> Dataset:
    """Take the class of every video from the folder it lies in: `ROOT/[train|test/]CLASS/video.mp4`."""
    from headprobe.datasets._annotations import name_of

    videos: dict[str, Video] = {}
    folders: set[str] = set()
    for path in paths:
        parts = PurePath(path).relative_to(root).parts
        split, rest = (parts[0], parts[1:]) if parts[0] in SPLITS else ("test", parts)
        if len(rest) != 2:
            raise InputError(
                f"the video is {os.fspath(path)}; it must lie in the folder of its class, "
                f"{os.fspath(root)}/[train|test/]CLASS/."
            )
        folder, unique = rest[0], "/".join((*parts[:-1], name_of(parts[-1])))
        if unique in videos:
            raise InputError(f"two videos are named {unique!r}; rename one of them.")
        folders.add(folder)
        videos[unique] = Video(unique, split, folder != normal, () if folder == normal else (folder,))
    if normal not in folders:
        raise InputError(
            f"no folder of {os.fspath(root)} is named {normal!r}; the classes are {sorted(folders)}: "
            "say which of them holds the normal videos."
        )
    return Dataset(name, tuple(videos.values()))


def _of_frames(rows: list[tuple[int, dict[str, str]]]) -> list[Video]:
    labels: dict[str, dict[int, bool]] = {}
    kept: dict[str, dict[str, str]] = {}
    for number, row in rows:
        frame = _whole(row["frame"], "frame", number)
        of_video = labels.setdefault(row["video"], {})
        if frame in of_video:
            raise InputError(f"row {number}: frame {frame} of video {row['video']!r} occurs twice.")
        of_video[frame] = row["abnormal"] == "1"
        _same(kept.setdefault(row["video"], row), row, ("class", "split"), number)
    videos = []
    for name, frames in labels.items():
        missing = next((i for i in range(len(frames)) if i not in frames), None)
        if missing is not None:
            raise InputError(f"video {name!r}: frame {missing} is missing, the table goes to frame {max(frames)}.")
        truth = np.array([frames[i] for i in range(len(frames))])
        row = kept[name]
        events = tuple(stretches(truth))
        videos.append(_video(name, row, bool(events), events, len(truth)))
    return videos


def _of_videos(rows: list[tuple[int, dict[str, str]]], columns: list[str]) -> list[Video]:
    if ("start" in columns) != ("end" in columns):
        raise InputError("a table of events needs both columns, start and end.")
    kept: dict[str, tuple[int, dict[str, str], list[Span]]] = {}
    for number, row in rows:
        name, start, end = row["video"], row.get("start", ""), row.get("end", "")
        if name in kept and not (start and end and kept[name][2]):
            raise InputError(f"row {number}: video {name!r} occurs twice, and not for one event in each row.")
        if bool(start) != bool(end):
            raise InputError(f"row {number}: start and end are {start!r} and {end!r}; an event needs both.")
        _, first, events = kept.setdefault(name, (number, row, []))
        _same(first, row, _VIDEO_COLUMNS, number)
        if start:
            events.append((_whole(start, "start", number), _whole(end, "end", number)))
    videos = []
    for name, (number, row, events) in kept.items():
        n_frames = _whole(row["n_frames"], "n_frames", number) if row.get("n_frames") else None
        videos.append(_video(name, row, row["abnormal"] == "1", tuple(sorted(events)) or None, n_frames))
    return videos


def _video(
    name: str, row: Mapping[str, str], abnormal: bool, events: tuple[Span, ...] | None, n_frames: int | None
) -> Video:
    given, split = row.get("class", ""), row.get("split", "") or "test"
    if split not in SPLITS:
        raise InputError(f"video {name!r}: the split is {split!r}; it must be train or test.")
    classes = (given,) if given and given != NORMAL else ()
    return Video(name, split, abnormal, classes, events, n_frames)


def _same(first: Mapping[str, str], row: Mapping[str, str], columns: Iterable[str], number: int) -> None:
    for column in columns:
        if row.get(column, "") != first.get(column, ""):
            raise InputError(
                f"row {number}: video {row['video']!r} has {column} {row[column]!r} here and {first[column]!r} before."
            )


def _whole(value: str, column: str, number: int) -> int:
    try:
        found = int(value)
    except ValueError:
        found = -1
    if found < 0:
        raise InputError(f"row {number}: {column} is {value!r}; it must be a whole number of at least 0.")
    return found
