"""TAD, traffic anomalies: 100 test videos of roads, 60 with an event of one of seven classes.

The truth is the list that UMIL (CVPR 2023) evaluates on. Its reference leaves out events that start at frame 0, which
takes the 13 videos that have one for normal; here they count.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from headprobe.datasets._annotations import lines, name_of, not_empty, number_pairs
from headprobe.datasets.videos import Dataset, Video
from headprobe.errors import InputError

__all__ = ["TAD_CLASSES", "parse_tad", "tad"]

TAD_CLASSES = (
    "Accident",
    "IllegalTurn",
    "IllegalOccupation",
    "Retrograde",
    "Else",
    "PedestrianOnRoad",
    "RoadSpills",
)
"""Classes by their number in the list, from 1; 0 is normal."""

_MAX_OVERRUN = 1  # 22 events end one frame after their video
_NUMBERED = re.compile(r"0*(\d+)_")


def parse_tad(text: str) -> tuple[Video, ...]:
    """Read the list of test videos: `path frames class start end`, frames counted from 0, the end exclusive.

    Parameters
    ----------
    text
        Content of the file. Further pairs of start and end are further events; a normal video has the whole of it.

    Returns
    -------
    tuple of Video
        In the order of the lines.

    Raises
    ------
    InputError
        Naming the first line that does not follow the grammar, has a class that contradicts the video's name, or
        names a video again.

    Examples
    --------
    >>> accident, calm = parse_tad("frames/abnormal/01_Accident_006.mp4 266 1 0 110\\nnormal/Normal_215.mp4 40 0 0 40")
    >>> accident.classes, accident.events, calm.abnormal
    (('Accident',), ((0, 110),), False)
    """
    videos: dict[str, Video] = {}
    for number, line in lines(text):
        entry, *fields = line.split()
        if len(fields) < 4 or not (fields[0].isdecimal() and fields[1].isdecimal()):
            raise InputError(f"line {number} is {line!r}; it must be 'path frames class start end'.")
        name, n_frames, code = name_of(entry), int(fields[0]), int(fields[1])
        events = tuple(sorted(number_pairs(fields[2:], number, line)))
        numbered = _NUMBERED.match(name)
        if code > len(TAD_CLASSES) or (numbered is not None and int(numbered[1]) != code):
            raise InputError(
                f"line {number}: the class is {code}; it must be from 0 (normal) to {len(TAD_CLASSES)}, and the number "
                f"that the name begins with, in {line!r}."
            )
        if code == 0 and events != ((0, n_frames),):
            raise InputError(f"line {number} is {line!r}; a normal video must be listed with all its frames.")
        if name in videos:
            raise InputError(f"line {number}: video {name!r} occurs twice; give one line for each.")
        try:
            held = ((TAD_CLASSES[code - 1],), events) if code else ((), ())
            videos[name] = Video(name, "test", code > 0, *held, n_frames)
        except InputError as error:
            raise InputError(f"line {number}: {error}") from error
    return tuple(not_empty(videos).values())


def tad(test_list: str, sources: Mapping[str, str] | None = None) -> Dataset:
    """Put the test set of TAD together from its list.

    Parameters
    ----------
    test_list
        Content of the list.
    sources
        Where it comes from.

    Returns
    -------
    Dataset
        Test videos; the list names no others.

    Raises
    ------
    InputError
        As in `parse_tad`, or an event lies beyond its video.

    Examples
    --------
    >>> data = tad("frames/abnormal/02_IllegalTurn_001.mp4 9 2 0 10")
    >>> int(data.truth()["02_IllegalTurn_001"].sum())
    9
    """
    return Dataset("tad", parse_tad(test_list), _MAX_OVERRUN, dict(sources or {}))
