"""Scores of any method from a JSON or CSV file, as one score per frame."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from headprobe._files import csv_records, parse_json, read_text
from headprobe._validation import choice, count
from headprobe.datasets._annotations import match_names, one_each
from headprobe.errors import InputError

__all__ = ["parse_scores", "read_scores", "read_video_scores"]

FrameArrays = dict[str, Float[np.ndarray, " frame"]]


def read_scores(
    path: str | os.PathLike[str], n_frames: Mapping[str, int], frames_per_score: int | None = None
) -> FrameArrays:
    """Read the scores of a method from a file; `.csv` is read as a table, everything else as JSON, also with `.gz`.

    Parameters
    ----------
    path
        The file.
    n_frames, frames_per_score
        As in `parse_scores`.

    Returns
    -------
    dict
        Name to scores `[frame]`.

    Raises
    ------
    InputError
        As in `parse_scores`.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "scores.json"
    ...     _ = path.write_text('{"a": [0.1, 0.9]}')
    ...     {name: scores.tolist() for name, scores in read_scores(path, {"a": 2}).items()}
    {'a': [0.1, 0.9]}
    """
    name = os.fspath(path).removesuffix(".gz")
    return parse_scores(read_text(path), n_frames, "csv" if name.endswith(".csv") else "json", frames_per_score)


def parse_scores(
    text: str, n_frames: Mapping[str, int], form: str = "json", frames_per_score: int | None = None
) -> FrameArrays:
    """Read the scores of a method.

    JSON is an object with a list for every video: of scores, one per frame (`{"a": [0.1, 0.2]}`), or of intervals
    (`{"a": [[0, 1, 0.1], [2, 9, 0.7]]}`). CSV has a header with `video`, `score` and either `frame`, or `first` and
    `last`; other columns are left alone.

    Parameters
    ----------
    text
        Content of the file. Names of videos may carry the ending of their file and folders above it, or leave out
        folders that the ground truth has, as long as only one video can be meant.
    n_frames
        Video to its frames.
    form
        `"json"` or `"csv"`.
    frames_per_score
        For lists of scores: each stands for so many frames, the last one for what remains. One per frame if not
        given.

    Returns
    -------
    dict
        Video to scores `[frame]`, in the order of the file.

    Raises
    ------
    InputError
        Naming the video: it is not known, is there twice, could be several, a frame has no score or two, a score is
        no finite number; or the file has another form.

    Examples
    --------
    >>> {video: s.tolist() for video, s in parse_scores('{"a": [[0, 1, 0.5], [2, 2, 0.75]]}', {"a": 3}).items()}
    {'a': [0.5, 0.5, 0.75]}
    """
    choice(form, "the form of a score file", ("json", "csv"))
    held = _from_csv(text) if form == "csv" else _from_json(text)
    out: FrameArrays = {}
    named = _named(list(held), list(n_frames))
    for given, rows in held.items():
        video = named[given]
        try:
            out[video] = _frames(rows, n_frames[video], video, frames_per_score)
        except OverflowError as error:
            raise InputError(f"video {video!r}: a score is too large to be a number ({error})") from error
    return out


def _named(given: list[str], known: list[str]) -> dict[str, str]:
    """The video of the ground truth that each name of a score file means."""
    fits = match_names(given, known)
    places = {name: place for place, name in one_each(fits, known, "the scores").items()}
    unknown = [name for name in given if name not in places]
    if unknown:
        raise InputError(f"the scores name a video {unknown[0]!r} that the ground truth does not have")
    return {name: known[places[name]] for name in given}


def read_video_scores(path: str | os.PathLike[str], videos: Sequence[str]) -> dict[str, list[float]]:
    """Read the scores of a method where the lengths of the videos are not known: a number or more of each video.

    Parameters
    ----------
    path
        A file as for `read_scores`; it may also hold one number per video (`{"a": 0.7}`, or a table of `video` and
        `score`).
    videos
        Names of the ground truth.

    Returns
    -------
    dict
        Video to its scores, in the order of the file, all finite.

    Raises
    ------
    InputError
        As in `parse_scores`.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "scores.json"
    ...     _ = path.write_text('{"a.mp4": 0.7, "b": [[0, 47, 0.1], [48, 60, 0.2]]}')
    ...     read_video_scores(path, ["a", "b"])
    {'a': [0.7], 'b': [0.1, 0.2]}
    """
    text = read_text(path)
    as_table = os.fspath(path).removesuffix(".gz").endswith(".csv")
    held = _from_csv(text, by_video=True) if as_table else _from_json(text, by_video=True)
    named = _named(list(held), list(videos))
    out: dict[str, list[float]] = {}
    for given, rows in held.items():
        if not rows:
            raise InputError(f"video {given!r} has no score")
        values: list[Any] = [row[-1] if isinstance(row, list) and len(row) == 3 else row for row in rows]
        wrong = [x for x in values if isinstance(x, bool) or not isinstance(x, int | float) or not np.isfinite(x)]
        if wrong:
            raise InputError(f"video {given!r}: expected finite numbers, got {wrong[0]!r}")
        out[named[given]] = [float(x) for x in values]
    return out


def _interval_scores(rows: Sequence[Sequence[float]], n_frames: int, video: str = "") -> Float[np.ndarray, " frame"]:
    """Spread `(first, last, score)` over frames; a last frame at which the next interval starts belongs to that one."""
    where = f"video {video!r}: " if video else ""
    if not len(rows):
        raise InputError(f"{where}there are no intervals for {n_frames} frames")
    for row in rows:
        if len(row) != 3 or any(isinstance(x, bool) or not isinstance(x, int | float) for x in row):
            raise InputError(f"{where}expected intervals (first frame, last frame, score), got {row!r}")
        if row[0] != int(row[0]) or row[1] != int(row[1]) or row[1] < row[0]:
            raise InputError(f"{where}{row!r} is no interval of whole frame numbers")
    if rows[0][0] != 0:
        raise InputError(f"{where}the first interval starts at frame {rows[0][0]}: the frames before it have no score")
    steps = {int(after[0] - before[1]) for before, after in itertools.pairwise(rows)}
    if not steps <= {0} and not steps <= {1}:
        bad = next((b, a) for b, a in itertools.pairwise(rows) if a[0] - b[1] not in (0, 1) or len(steps) > 1)
        raise InputError(
            f"{where}the intervals {bad[0][0]}-{bad[0][1]} and {bad[1][0]}-{bad[1][1]} leave frames out or overlap, or "
            "some intervals share their borders and others do not: every frame needs one score"
        )
    last, inclusive = int(rows[-1][1]), n_frames - 1
    if last != inclusive and not (last == n_frames and steps != {1}):
        raise InputError(
            f"{where}the intervals end at frame {last}, the video has the frames 0 to {inclusive}: every frame needs "
            "one score, the last ones too"
        )
    starts = [int(row[0]) for row in rows]
    return np.repeat([float(row[2]) for row in rows], np.diff([*starts, n_frames]))


def _frames(rows: list[Any], n_frames: int, video: str, frames_per_score: int | None) -> Float[np.ndarray, " frame"]:
    if rows and isinstance(rows[0], list):
        if not all(isinstance(row, list) for row in rows):
            raise InputError(f"video {video!r}: scores and intervals are mixed")
        values = _interval_scores(rows, n_frames, video)
    else:
        wrong = [x for x in rows if isinstance(x, bool) or not isinstance(x, int | float)]
        if wrong:
            raise InputError(f"video {video!r}: expected numbers, got {wrong[0]!r}")
        values = np.asarray(rows, dtype=np.float64)
        each = 1 if frames_per_score is None else count(frames_per_score, "frames_per_score")
        if len(values) != -(-n_frames // each):
            raise InputError(
                f"video {video!r} has {n_frames} frames, so {-(-n_frames // each)} scores are expected with one for "
                f"every {'frame' if each == 1 else f'{each} frames'}, got {len(values)}; every frame needs a score"
                + ("" if frames_per_score else " (if a score stands for several frames, say for how many)")
            )
        values = np.repeat(values, each)[:n_frames]
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise InputError(f"video {video!r}: frame {bad[0]} has the score {values[bad[0]]}, expected a finite number")
    return values


def _from_json(text: str, by_video: bool = False) -> dict[str, list[Any]]:
    data = parse_json(text, "the scores", InputError)
    if by_video and isinstance(data, dict):
        data = {video: rows if isinstance(rows, list) else [rows] for video, rows in data.items()}
    if not isinstance(data, dict) or not all(isinstance(rows, list) for rows in data.values()):
        raise InputError(
            'the scores must be an object with a list for every video, {"video": [score, ...]} or '
            '{"video": [[first, last, score], ...]}'
        )
    return data


def _from_csv(text: str, by_video: bool = False) -> dict[str, list[Any]]:
    names, rows = csv_records(text, "the score table")
    columns = set(names)
    by_frame = {"video", "frame", "score"} <= columns
    if by_video and {"video", "score"} <= columns and not columns & {"frame", "first", "last"}:
        return _one_each_row(rows)
    if not by_frame and not {"video", "first", "last", "score"} <= columns:
        raise InputError(
            f"the score table has the columns {sorted(columns)}; it needs video, frame, score or video, first, last, "
            "score"
        )
    out: dict[str, list[Any]] = {}
    places: dict[str, list[int]] = {}
    for number, row in rows:
        try:
            score = float(row["score"])
            place = [int(row[name]) for name in (("frame",) if by_frame else ("first", "last"))]
        except (TypeError, ValueError) as error:
            raise InputError(f"row {number} of the score table: expected numbers ({error})") from error
        out.setdefault(row["video"], []).append(score if by_frame else [*place, score])
        places.setdefault(row["video"], []).append(place[0])
    if not by_frame:
        return out
    for video, frames in places.items():
        if by_video and len(set(frames)) == len(frames):
            continue  # some frames of it are enough
        order = np.argsort(frames, kind="stable")
        wrong = next((i for i, at in enumerate(order) if frames[at] != i), None)
        if wrong is not None:
            raise InputError(f"video {video!r}: frame {wrong} is missing in the score table, or one is there twice")
        out[video] = [out[video][at] for at in order]
    return out


def _one_each_row(rows: Sequence[tuple[int, Mapping[str, str]]]) -> dict[str, list[Any]]:
    """Scores of a table with one row per video."""
    out: dict[str, list[Any]] = {}
    for number, row in rows:
        if row["video"] in out:
            raise InputError(f"row {number} of the score table: the video {row['video']!r} is there twice")
        try:
            out[row["video"]] = [float(row["score"])]
        except ValueError as error:
            raise InputError(f"row {number} of the score table: expected a number ({error})") from error
    return out
