"""UCF-Crime (Sultani et al., CVPR 2018): 1610 training videos with a class each, 290 test videos with events."""

from __future__ import annotations

from collections.abc import Mapping

from headprobe._validation import check_same_videos
from headprobe.datasets._annotations import (
    add_events,
    lines,
    match_names,
    name_of,
    not_empty,
    number_pairs,
    one_each,
    parse_frame_counts,
    parse_list,
)
from headprobe.datasets.videos import NORMAL, Dataset, Video
from headprobe.errors import InputError
from headprobe.video.spans import Span

__all__ = ["UCF_CRIME_CLASSES", "temporal", "ucf_crime"]

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


def temporal(
    annotation: str, frame_counts: str | None = None, normal: str = NORMAL, sources: Mapping[str, str] | None = None
) -> Dataset:
    """Any data set that is annotated in the way of UCF-Crime: `name  class  start1 end1 start2 end2`, -1 for none.

    Classes are taken as they are. Videos are named as in UCF-Crime, without folders; those of one name in different
    folders by their path.

    Parameters
    ----------
    annotation
        Lines of any number of pairs, both ends inclusive, counted from 0.
    frame_counts
        Lines `name first last class`, both inclusive; a name may leave out folders where one video can be meant.
    normal
        What stands in the place of the class for a normal video, the whole of it.
    sources
        Where the contents come from.

    Returns
    -------
    Dataset
        Test videos. No event may pass the end of its video.

    Raises
    ------
    InputError
        Naming the first line that does not follow the grammar, a video that occurs twice, a normal one with an event or
        an abnormal one without, or a video without frame count.

    Examples
    --------
    >>> data = temporal("fire/1.mp4 Fire 2 4 -1 -1\\nflood/1.mp4 Flood 0 1\\n2.mp4 Normal -1 -1")
    >>> [(video.name, video.classes, video.events) for video in data.videos][:2]
    [('fire/1', ('Fire',), ((2, 5),)), ('flood/1', ('Flood',), ((0, 2),))]
    """
    rows = [(number, line, line.split()) for number, line in lines(annotation)]
    names = _unique([fields[0] for _, _, fields in rows])
    events: dict[str, list[Span]] = {}
    classes: dict[str, str] = {}
    for name, (number, line, fields) in zip(names, rows, strict=True):
        if len(fields) < 2 or fields[1].lstrip("-").isdecimal():
            raise InputError(f"line {number} is {line!r}; it must be 'name class start end ...'.")
        pairs = [pair for pair in number_pairs(fields[2:], number, line) if pair != (-1, -1)]
        if name in events:
            raise InputError(f"line {number}: video {name!r} occurs twice; give one line for each.")
        held: dict[str, list[Span]] = {}
        add_events(held, name, pairs, number, line)
        (events[name],) = held.values()
        classes[name] = fields[1]
    counts = _counts(frame_counts, list(not_empty(events)))
    videos = []
    for name, spans in events.items():
        calm = classes[name] == normal
        if calm is bool(spans):
            raise InputError(
                f"video {name!r} is {classes[name]!r} and has {len(spans)} events; one that is {normal!r} has none, "
                "any other has one or more."
            )
        videos.append(Video(name, "test", not calm, () if calm else (classes[name],), tuple(spans), counts.get(name)))
    return Dataset("temporal", tuple(videos), 0, dict(sources or {}))


def _unique(entries: list[str]) -> list[str]:
    """Names without folders, or with them where two videos would have one."""
    short = [name_of(entry) for entry in entries]
    folders = [entry.replace("\\", "/").rpartition("/")[0] for entry in entries]
    paths = [f"{folder}/{name}".lstrip("/") for folder, name in zip(folders, short, strict=True)]
    return [path if short.count(name) > 1 else name for name, path in zip(short, paths, strict=True)]


def _counts(text: str | None, known: list[str]) -> dict[str, int]:
    """Frames of the videos, whose names may lack folders or have more of them."""
    if text is None:
        return {}
    rows = lines(text)
    given = _unique([line.split()[0] for _, line in rows])
    frames = {name: n for name, (_, line) in zip(given, rows, strict=True) for n in parse_frame_counts(line).values()}
    if len(frames) < len(rows):
        raise InputError("the frame counts name a video twice; give one line for each.")
    named = one_each(match_names(frames, known), known, "the frame counts")
    check_same_videos(known, [known[place] for place in named], "the temporal annotation", "the frame counts")
    return {known[place]: frames[name] for place, name in named.items()}


def _shown(classes: tuple[str, ...]) -> str:
    return classes[0] if classes else NORMAL
