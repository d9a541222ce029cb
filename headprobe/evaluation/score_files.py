"""Scores of any method from JSON, CSV or NumPy files, as one score per frame."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from headprobe._files import csv_records, parse_json, read_bytes, read_text
from headprobe._validation import choice, count
from headprobe.datasets._annotations import match_names, one_each
from headprobe.errors import InputError

__all__ = ["RESTS", "content_of", "parse_scores", "read_scores", "read_video_scores"]

RESTS = ("exact", "last", "spread")
"""What becomes of frames behind the last whole stretch that a score stands for; see `parse_scores`."""

FrameArrays = dict[str, Float[np.ndarray, " frame"]]
Order = str | os.PathLike[str] | Sequence[str] | None


def read_scores(
    path: str | os.PathLike[str],
    n_frames: Mapping[str, int],
    frames_per_score: int | None = None,
    rest: str = "exact",
    order: Order = None,
) -> FrameArrays:
    """Read the scores of a method from a file or a folder.

    `.csv` is read as a table, `.npy` as one array of the scores of all videos one after another, a folder as one `.npy`
    array per video, anywhere beneath it, and everything else as JSON; tables and JSON also with `.gz`.

    Parameters
    ----------
    path
        The file or folder.
    n_frames, frames_per_score, rest
        As in `parse_scores`.
    order
        For one array: the videos in their order, as a list of names, a text file whose lines begin with them, or
        `"truth"` for the order of `n_frames`.

    Returns
    -------
    dict
        Name to scores `[frame]`.

    Raises
    ------
    InputError
        As in `parse_scores`; or a file is no array of numbers, an array has no order or one that does not fit it, or an
        order is given for something else.

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
    if os.path.isdir(path):
        _no_order(order)
        return _all_frames(_arrays(path), n_frames, frames_per_score, rest)
    name = os.fspath(path).removesuffix(".gz")
    if not name.endswith(".npy"):
        _no_order(order)
        form = "csv" if name.endswith(".csv") else "json"
        return parse_scores(read_text(path), n_frames, form, frames_per_score, rest)
    videos = _ordered(order, n_frames, path)
    values = _array(path)
    if rest == "spread":
        raise InputError(
            f"{os.fspath(path)}: rest is 'spread', and nothing says how many scores of the array are of which video; "
            "say how many frames a score stands for."
        )
    each = 1 if frames_per_score is None else count(frames_per_score, "frames_per_score")
    named = _named(videos, list(n_frames))
    lengths = [n_frames[named[video]] for video in videos]
    counts = [-(-n // each) for n in lengths]
    if rest == "last" and sum(counts) != len(values):
        counts = [max(n // each, 1) for n in lengths]
    if sum(counts) != len(values):
        raise InputError(
            f"{os.fspath(path)} holds {len(values)} scores; the {len(videos)} videos of the order have {sum(lengths)} "
            f"frames and need {sum(counts)}, one for every {'frame' if each == 1 else f'{each} frames'}."
        )
    parts = np.split(values, np.cumsum(counts)[:-1])
    return _all_frames(dict(zip(videos, parts, strict=True)), n_frames, frames_per_score, rest)


def parse_scores(
    text: str,
    n_frames: Mapping[str, int],
    form: str = "json",
    frames_per_score: int | None = None,
    rest: str = "exact",
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
    rest
        For lists of scores: `"exact"`, every frame has a score, the ones behind the last whole stretch one of their
        own. `"last"`: where they have none, as with features of whole stretches only, the last score stands for them
        too. `"spread"`: the scores stand for equal parts of the video, however many they are.

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
    return _all_frames(_from_csv(text) if form == "csv" else _from_json(text), n_frames, frames_per_score, rest)


def _all_frames(
    held: Mapping[str, Any], n_frames: Mapping[str, int], frames_per_score: int | None, rest: str
) -> FrameArrays:
    choice(rest, "rest", RESTS)
    if rest == "spread" and frames_per_score is not None:
        raise InputError("rest is 'spread', which takes as many scores as there are; leave out frames_per_score.")
    out: FrameArrays = {}
    named = _named(list(held), list(n_frames))
    for given, rows in held.items():
        video = named[given]
        try:
            out[video] = _frames(rows, n_frames[video], video, frames_per_score, rest)
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


def _arrays(folder: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The arrays beneath a folder, by their paths without the ending."""
    files = sorted(path for path in Path(folder).rglob("*.npy") if not path.name.startswith("."))
    if not files:
        raise InputError(f"{os.fspath(folder)} holds no .npy file; give one array of scores per video.")
    return {path.relative_to(folder).as_posix().removesuffix(".npy"): _array(path) for path in files}


def _array(path: str | os.PathLike[str]) -> np.ndarray:
    """Scores of a file; one that would run code is refused."""
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{os.fspath(path)} is no array of scores ({error}).") from error
    values = np.squeeze(values) if values.size > 1 else values.reshape(-1)
    if values.ndim != 1 or values.dtype.kind not in "fiu":
        raise InputError(
            f"{os.fspath(path)} holds {values.dtype} of shape {values.shape}; it must be a row of numbers."
        )
    return values.astype(np.float64)


def _ordered(order: Order, n_frames: Mapping[str, Any], path: str | os.PathLike[str]) -> list[str]:
    if order is None:
        raise InputError(
            f"{os.fspath(path)} is one array; say whose scores come in which order: a list of names, a text file with "
            "them, or 'truth' for the order of the ground truth."
        )
    if order == "truth":
        return list(n_frames)
    if isinstance(order, str | os.PathLike):
        order = [line.split()[0] for line in read_text(order).splitlines() if line.strip()]
    twice = [name for name, times in Counter(order).items() if times > 1]
    if twice or not order:
        raise InputError(f"the order names {twice[0]!r} twice." if twice else "the order names no video.")
    return list(order)


def content_of(path: str | os.PathLike[str]) -> dict[str, str]:
    """SHA-256 of a file, or of every array beneath a folder.

    Parameters
    ----------
    path
        As in `read_scores`.

    Returns
    -------
    dict
        Path beneath the folder, or nothing for a file, to 64 hexadecimal digits.

    Raises
    ------
    InputError
        A file cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = (Path(folder) / "a.npy").write_bytes(b"")
    ...     list(content_of(folder)), content_of(Path(folder) / "a.npy")[""][:8]
    (['a.npy'], 'e3b0c442')
    """
    files = sorted(Path(path).rglob("*.npy")) if os.path.isdir(path) else [Path(path)]
    top = Path(path) if os.path.isdir(path) else None
    return {
        file.relative_to(top).as_posix() if top else "": hashlib.sha256(read_bytes(file)).hexdigest() for file in files
    }


def _no_order(order: Order) -> None:
    if order is not None:
        raise InputError("an order is given, and the scores name their videos; leave it out.")


def read_video_scores(
    path: str | os.PathLike[str], videos: Sequence[str], order: Order = None
) -> dict[str, list[float]]:
    """Read the scores of a method where the lengths of the videos are not known: a number or more of each video.

    Parameters
    ----------
    path
        A file as for `read_scores`; it may also hold one number per video (`{"a": 0.7}`, or a table of `video` and
        `score`).
    videos
        Names of the ground truth.
    order
        As in `read_scores`, for one array with one number per video.

    Returns
    -------
    dict
        Video to its scores, in the order of the file, all finite.

    Raises
    ------
    InputError
        As in `read_scores`.

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
    held: dict[str, list[Any]]
    if os.fspath(path).endswith(".npy"):
        names, row = _ordered(order, dict.fromkeys(videos), path), _array(path)
        if len(names) != len(row):
            raise InputError(f"{os.fspath(path)} holds {len(row)} scores of the {len(names)} videos of the order.")
        held = {name: [value] for name, value in zip(names, row.tolist(), strict=True)}
    else:
        _no_order(order)
        if os.path.isdir(path):
            held = {name: array.tolist() for name, array in _arrays(path).items()}
        else:
            as_table = os.fspath(path).removesuffix(".gz").endswith(".csv")
            held = _from_csv(read_text(path), by_video=True) if as_table else _from_json(read_text(path), by_video=True)
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


def _frames(
    rows: Any, n_frames: int, video: str, frames_per_score: int | None, rest: str
) -> Float[np.ndarray, " frame"]:
    if isinstance(rows, np.ndarray):
        values = _spread(rows, n_frames, video, frames_per_score, rest)
    elif rows and isinstance(rows[0], list):
        if not all(isinstance(row, list) for row in rows):
            raise InputError(f"video {video!r}: scores and intervals are mixed")
        values = _interval_scores(rows, n_frames, video)
    else:
        wrong = [x for x in rows if isinstance(x, bool) or not isinstance(x, int | float)]
        if wrong:
            raise InputError(f"video {video!r}: expected numbers, got {wrong[0]!r}")
        values = np.asarray(rows, dtype=np.float64)
        values = _spread(values, n_frames, video, frames_per_score, rest)
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise InputError(f"video {video!r}: frame {bad[0]} has the score {values[bad[0]]}, expected a finite number")
    return values


def _spread(
    values: np.ndarray, n_frames: int, video: str, frames_per_score: int | None, rest: str
) -> Float[np.ndarray, " frame"]:
    """A score per frame, by the rule for the frames behind the last whole stretch."""
    if rest == "spread":
        if not 0 < len(values) <= n_frames:
            raise InputError(
                f"video {video!r} has {n_frames} frames and {len(values)} scores; there must be one score or more, and "
                "no more than frames."
            )
        return values[np.arange(n_frames) * len(values) // n_frames]
    each = 1 if frames_per_score is None else count(frames_per_score, "frames_per_score")
    needed = -(-n_frames // each)
    if rest == "last" and len(values) == n_frames // each > 0:
        values = np.append(values, [values[-1]] * (needed - len(values)))
    if len(values) != needed:
        why = " (if a score stands for several frames, say for how many)"
        if frames_per_score:
            short = rest == "exact" and len(values) == n_frames // each > 0
            why = " (where the last score also stands for the frames behind it, say rest='last')" if short else ""
        raise InputError(
            f"video {video!r} has {n_frames} frames, so {needed} scores are expected with one for "
            f"every {'frame' if each == 1 else f'{each} frames'}, got {len(values)}; every frame needs a score{why}"
        )
    return np.repeat(values, each)[:n_frames]


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
