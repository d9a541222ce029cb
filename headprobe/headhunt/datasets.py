"""Annotation files of video anomaly data sets, as pure functions of their text.

Events are (start, end) in frames, 0-based with the end exclusive, whatever the file counts from; a normal
video has none. Videos are named without the ending `.mp4`, which some files write and some do not; nothing
else is cut from a name, for names hold dots, `=` and `#`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from headprobe.errors import InputError
from headprobe.headhunt.frames import Span

__all__ = [
    "frame_labels",
    "parse_frame_counts",
    "parse_ped2_ground_truth",
    "parse_ucf_crime_temporal",
    "parse_xd_violence_temporal",
]

_PED2_LINE = re.compile(r"TestVideoFile\{end\+1\}\.gt_frame\s*=\s*\[([^\]]*)\]\s*;?")
_PED2_RANGE = re.compile(r"(\d+)(?::(\d+))?")


def parse_ucf_crime_temporal(text: str) -> dict[str, list[Span]]:
    """Read the temporal annotation of UCF-Crime: `name  class  start1 end1 start2 end2`, -1 for none.

    Both ends are inclusive (Sultani et al. 2018), counted from 0.

    Parameters
    ----------
    text
        Content of the file; more than two pairs are read as well.

    Returns
    -------
    dict
        Video name to its events; every line gives one entry, normal videos an empty list.

    Raises
    ------
    InputError
        Naming the first line that does not follow the grammar, or a video that occurs twice.

    Examples
    --------
    >>> parse_ucf_crime_temporal("Arson011_x264.mp4  Arson  150  420  680  1267")
    {'Arson011_x264': [(150, 421), (680, 1268)]}
    """
    videos: dict[str, list[Span]] = {}
    for number, line in _lines(text):
        name, *fields = line.split()
        pairs = _pairs(fields[1:], number, line)
        _add(videos, name, [p for p in pairs if p != (-1, -1)], number, line)
    return _not_empty(videos)


def parse_xd_violence_temporal(text: str) -> dict[str, list[Span]]:
    """Read the temporal annotation of XD-Violence: `name start1 end1 [start2 end2 ...]`, any number of pairs.

    Both ends are inclusive (Wu et al. 2020), counted from 0. Only abnormal videos are listed.

    Parameters
    ----------
    text
        Content of the file.

    Returns
    -------
    dict
        Video name to its events, at least one each.

    Raises
    ------
    InputError
        Naming the first line that does not follow the grammar, or a video that occurs twice.

    Examples
    --------
    >>> parse_xd_violence_temporal("v=u5SF4__#00-00-00_label_G-0-0 624 912 950 1441")
    {'v=u5SF4__#00-00-00_label_G-0-0': [(624, 913), (950, 1442)]}
    """
    videos: dict[str, list[Span]] = {}
    for number, line in _lines(text):
        name, *fields = line.split()
        _add(videos, name, _pairs(fields, number, line), number, line)
    return _not_empty(videos)


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
    for number, line in _lines(text):
        fields = line.split()
        if len(fields) != 4:
            raise InputError(f"line {number}: expected 'name first last class', got {line!r}")
        (first, last) = _pairs(fields[1:3], number, line)[0]
        if first != 0 or last < 0:
            raise InputError(f"line {number}: frames must run from 0 to last, got {first} to {last} in {line!r}")
        name = fields[0].removesuffix(".mp4")
        if name in counts:
            raise InputError(f"line {number}: video {name!r} occurs twice")
        counts[name] = last + 1
    return _not_empty(counts)


def parse_ped2_ground_truth(text: str) -> dict[str, list[Span]]:
    """Read the abnormal frames of UCSD Ped2: `TestVideoFile{end+1}.gt_frame = [61:180];`, a line per clip.

    Ranges count from 1 with both ends inclusive, as in Matlab.

    Parameters
    ----------
    text
        Content of the `.m` file; several ranges or single frames in one pair of brackets are read as well.

    Returns
    -------
    dict
        `test_01`, `test_02`, ... to their events.

    Raises
    ------
    InputError
        Naming the first line that does not follow the grammar.

    Examples
    --------
    >>> parse_ped2_ground_truth("TestVideoFile = {};\\nTestVideoFile{end+1}.gt_frame = [61:180];")
    {'test_01': [(60, 180)]}
    """
    videos: dict[str, list[Span]] = {}
    for number, line in _lines(text):
        code = line.split("%")[0].strip()
        if not code or re.fullmatch(r"TestVideoFile\s*=\s*\{\};?", code):
            continue
        match = _PED2_LINE.fullmatch(code)
        ranges = (
            [_PED2_RANGE.fullmatch(part) for part in re.split(r"[,\s]+", match[1].strip()) if part] if match else []
        )
        if match is None or not all(ranges):
            raise InputError(f"line {number}: expected 'TestVideoFile{{end+1}}.gt_frame = [first:last];', got {line!r}")
        pairs = [(int(r[1]) - 1, int(r[2] or r[1]) - 1) for r in ranges if r]
        _add(videos, f"test_{len(videos) + 1:02d}", pairs, number, line)
    return _not_empty(videos)


def frame_labels(events: Sequence[Span], n_frames: int, *, max_overrun: int = 0) -> Bool[np.ndarray, " frame"]:
    """Turn events into one label per frame.

    Parameters
    ----------
    events
        (start, end) in frames, end exclusive, as the parsers give them; they may overlap.
    n_frames
        Frames of the video.
    max_overrun
        How many frames an event may reach beyond the video and be cut. Seven events of UCF-Crime do, by up to
        3 frames, because the annotators' decoder counted other frames; XD-Violence and Ped2 need none.

    Returns
    -------
    numpy.ndarray
        `[n_frames]`, True where the frame is abnormal.

    Raises
    ------
    InputError
        If an event starts outside of the video or reaches further beyond it than allowed.

    Examples
    --------
    >>> frame_labels([(1, 3)], 4).tolist()
    [False, True, True, False]
    """
    if n_frames < 1:
        raise InputError(f"a video has at least one frame, got n_frames {n_frames}")
    labels = np.zeros(n_frames, dtype=bool)
    for start, end in events:
        if not 0 <= start < min(end, n_frames) or end - n_frames > max_overrun:
            raise InputError(
                f"event ({start}, {end}) does not lie in a video of {n_frames} frames (allowed overrun "
                f"{max_overrun}): annotation and video do not belong together, or max_overrun must be raised"
            )
        labels[start:end] = True
    return labels


def _lines(text: str) -> list[tuple[int, str]]:
    lines = text.removeprefix("\ufeff").splitlines()
    return [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]


def _pairs(fields: Sequence[str], number: int, line: str) -> list[tuple[int, int]]:
    if not fields or len(fields) % 2:
        raise InputError(f"line {number}: expected pairs of start and end frame, got {len(fields)} numbers in {line!r}")
    try:
        values = [int(field) for field in fields]
    except ValueError as error:
        raise InputError(f"line {number}: expected whole frame numbers in {line!r} ({error})") from error
    return list(zip(values[::2], values[1::2], strict=True))


def _add(
    videos: dict[str, list[Span]], name: str, inclusive: Sequence[tuple[int, int]], number: int, line: str
) -> None:
    name = name.removesuffix(".mp4")
    if name in videos:
        raise InputError(f"line {number}: video {name!r} occurs twice")
    for start, end in inclusive:
        if start < 0 or end < start:
            raise InputError(f"line {number}: {start} to {end} is no range of frames in {line!r}")
    videos[name] = [(start, end + 1) for start, end in inclusive]


def _not_empty(videos: dict) -> dict:
    if not videos:
        raise InputError("the annotation is empty: no line names a video")
    return videos
