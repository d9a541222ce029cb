"""UCF-Crime (Sultani et al., CVPR 2018): 1610 training videos with a class each, 290 test videos with events."""

from __future__ import annotations

from collections.abc import Mapping

from headprobe._validation import check_same_videos
from headprobe.datasets._annotations import (
    add_events,
    lines,
    name_of,
    not_empty,
    number_pairs,
    parse_frame_counts,
    parse_list,
)
from headprobe.datasets.videos import NORMAL, Dataset, Video
from headprobe.errors import InputError
from headprobe.video.spans import Span

__all__ = ["UCF_CRIME_CLASSES", "ucf_crime"]

UCF_CRIME_CLASSES = (
    "Abuse",
    "Arrest",
    "Arson",
    "Assault",
    "Burglary",
    "Explosion",
    "Fighting",
    "RoadAccidents",
    "Robbery",
    "Shooting",
    "Shoplifting",
    "Stealing",
    "Vandalism",
)

# The names of normal folders hold "Anomaly" as well: every folder is looked up whole.
_NORMAL_FOLDERS = (NORMAL, "Training_Normal_Videos_Anomaly", "Testing_Normal_Videos_Anomaly")
_CLASS_OF = {name: (name,) for name in UCF_CRIME_CLASSES} | {name: () for name in _NORMAL_FOLDERS}
_MAX_OVERRUN = 3


def _parse_ucf_crime_temporal(text: str) -> dict[str, list[Span]]:
    """Events of every video: `name  class  start1 end1 ...`, inclusive, from 0, -1 for none (Sultani et al. 2018)."""
    videos: dict[str, list[Span]] = {}
    for number, line in lines(text):
        name, *fields = line.split()
        pairs = number_pairs(fields[1:], number, line)
        add_events(videos, name, [p for p in pairs if p != (-1, -1)], number, line)
    return not_empty(videos)


def _parse_ucf_crime_classes(text: str) -> dict[str, tuple[str, ...]]:
    """The class of every video, or nothing for a normal one, from lines `name  class  ...` or `class folder/name`."""
    classes: dict[str, tuple[str, ...]] = {}
    for number, line in lines(text):
        first, *rest = line.split()
        parts = first.replace("\\", "/").split("/")
        given = rest[0] if rest else parts[-2] if len(parts) > 1 else ""
        if given not in _CLASS_OF:
            raise InputError(
                f"line {number}: the class {given!r} is none of {', '.join(_CLASS_OF)} in {line!r}; "
                "a line is 'name class start end ...' or 'class/name'."
            )
        name = name_of(first)
        if name in classes:
            raise InputError(f"line {number}: video {name!r} occurs twice.")
        classes[name] = _CLASS_OF[given]
    return not_empty(classes)


def ucf_crime(
    temporal: str,
    frame_counts: str | None = None,
    train_list: str | None = None,
    test_list: str | None = None,
    sources: Mapping[str, str] | None = None,
) -> Dataset:
    """Put UCF-Crime together from the contents of its annotation files.

    Parameters
    ----------
    temporal
        The temporal annotation: the test videos with class and events.
    frame_counts
        Frames of the test videos, as for `parse_frame_counts`.
    train_list, test_list
        Official lists by class folder. Training videos have a class, and no events.
    sources
        Where the contents come from.

    Returns
    -------
    Dataset
        Test videos first; without a training list no training videos.

    Raises
    ------
    InputError
        If files do not name the same test videos or disagree on a class, or a label contradicts the events.

    Examples
    --------
    >>> data = ucf_crime("Abuse028_x264.mp4 Abuse 165 240 -1 -1", train_list="Arson/Arson001_x264.mp4")
    >>> [(video.name, video.split, video.class_name) for video in data.videos]
    [('Abuse028_x264', 'test', 'Abuse'), ('Arson001_x264', 'train', 'Arson')]
    """
    events, classes = _parse_ucf_crime_temporal(temporal), _parse_ucf_crime_classes(temporal)
    if test_list is not None:
        listed = _parse_ucf_crime_classes(test_list)
        check_same_videos(events, listed, "the temporal annotation", "the test list")
        for name, given in listed.items():
            if given != classes[name]:
                raise InputError(
                    f"video {name!r} is {_shown(given)} in the test list and {_shown(classes[name])} in the annotation."
                )
    counts: dict[str, int] = {}
    if frame_counts is not None:
        counts = parse_frame_counts(frame_counts)
        check_same_videos(events, counts, "the temporal annotation", "the frame counts")
    videos = [
        Video(name, "test", bool(classes[name]), classes[name], tuple(spans), counts.get(name))
        for name, spans in events.items()
    ]
    if train_list is not None:
        parse_list(train_list)  # names that occur twice
        trained = _parse_ucf_crime_classes(train_list)
        videos += [Video(name, "train", bool(given), given) for name, given in trained.items()]
    return Dataset("ucf-crime", tuple(videos), _MAX_OVERRUN, dict(sources or {}))


def _shown(classes: tuple[str, ...]) -> str:
    return classes[0] if classes else NORMAL
