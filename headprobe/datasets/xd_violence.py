"""XD-Violence (Wu et al., ECCV 2020): 3954 training and 800 test videos, with up to three classes in the name."""

from __future__ import annotations

import re
from collections.abc import Mapping

from headprobe._validation import check_same_videos, some
from headprobe.datasets._annotations import add_events, lines, not_empty, number_pairs, parse_frame_counts, parse_list
from headprobe.datasets.videos import Dataset, Video
from headprobe.errors import InputError
from headprobe.video.spans import Span

__all__ = ["XD_VIOLENCE_CLASSES", "xd_violence", "xd_violence_classes"]

XD_VIOLENCE_CLASSES = {
    "B1": "Fighting",
    "B2": "Shooting",
    "B4": "Riot",
    "B5": "Abuse",
    "B6": "CarAccident",
    "G": "Explosion",
}
"""Code in a video's name to the class it stands for; the code of a normal video is A."""

_CODES = re.compile(r"_label_([A-Z0-9]+(?:-[A-Z0-9]+)*)$")


def _parse_xd_violence_temporal(text: str) -> dict[str, list[Span]]:
    """Events of abnormal videos: `name start1 end1 [start2 end2 ...]`, inclusive, from 0 (Wu et al. 2020)."""
    videos: dict[str, list[Span]] = {}
    for number, line in lines(text):
        name, *fields = line.split()
        add_events(videos, name, number_pairs(fields, number, line), number, line)
    return not_empty(videos)


def xd_violence_classes(name: str) -> tuple[str, ...]:
    """Classes of a video from the code at the end of its name: `_label_A`, `_label_B2-0-0`, `_label_B2-B6-G`.

    Parameters
    ----------
    name
        Video name without the ending of its file.

    Returns
    -------
    tuple of str
        One to three classes in the order of the code; none for a normal video.

    Raises
    ------
    InputError
        If the name has no code, or one that is not known.

    Examples
    --------
    >>> xd_violence_classes("v=abc__#1_label_B2-B6-0"), xd_violence_classes("About.Time.2013__#00-23-50_label_A")
    (('Shooting', 'CarAccident'), ())
    """
    match = _CODES.search(name)
    codes = match[1].split("-") if match else []
    if codes == ["A"]:
        return ()
    classes = [code for code in codes if code != "0"]
    if not classes or not set(classes) <= XD_VIOLENCE_CLASSES.keys() or len(set(classes)) < len(classes):
        known = ", ".join(XD_VIOLENCE_CLASSES)
        raise InputError(
            f"the video's name is {name!r}; it must end in '_label_A' (normal) or in '_label_' and up to three of "
            f"{known} filled up with 0, such as '_label_B2-0-0'."
        )
    return tuple(XD_VIOLENCE_CLASSES[code] for code in classes)


def xd_violence(
    temporal: str,
    frame_counts: str | None = None,
    train_list: str | None = None,
    test_list: str | None = None,
    sources: Mapping[str, str] | None = None,
) -> Dataset:
    """Put XD-Violence together from the contents of its annotation files.

    Parameters
    ----------
    temporal
        The temporal annotation, which has the abnormal test videos only.
    frame_counts
        Frames of all test videos, as for `parse_frame_counts`.
    train_list, test_list
        Names of the videos of each split, one in a line. The normal test videos are known from the test list or
        from the frame counts.
    sources
        Where the contents come from.

    Returns
    -------
    Dataset
        Test videos first; without a training list no training videos.

    Raises
    ------
    InputError
        If no file names the normal test videos, files do not name the same ones, the code in a name
        contradicts the annotation, or a training video has no code.

    Examples
    --------
    >>> data = xd_violence("v=a__#1_label_G-0-0 3 5", "v=a__#1_label_G-0-0 0 9 2\\nFilm__#1_label_A 0 4 4")
    >>> {name: int(labels.sum()) for name, labels in data.truth().items()}
    {'v=a__#1_label_G-0-0': 3, 'Film__#1_label_A': 0}
    """
    events = _parse_xd_violence_temporal(temporal)
    counts = parse_frame_counts(frame_counts) if frame_counts is not None else {}
    names = list(parse_list(test_list)) if test_list is not None else list(counts)
    if not names:
        raise InputError(
            "the temporal annotation of XD-Violence lists abnormal videos only: give the frame counts or a list of "
            "all test videos, so that the normal ones are known."
        )
    if counts and test_list is not None:
        check_same_videos(names, counts, "the test list", "the frame counts")
    unlisted = [name for name in events if name not in set(names)]
    if unlisted:
        raise InputError(f"{len(unlisted)} annotated videos are not among the test videos: {some(unlisted)}.")
    videos = [_test_video(name, tuple(events.get(name, ())), counts.get(name)) for name in names]
    for name in parse_list(train_list) if train_list is not None else ():
        videos.append(Video(name, "train", bool(xd_violence_classes(name)), xd_violence_classes(name)))
    return Dataset("xd-violence", tuple(videos), 0, dict(sources or {}))


def _test_video(name: str, events: tuple[Span, ...], n_frames: int | None) -> Video:
    """A test video; the annotation says whether it is abnormal, and the code in its name, if any, must agree."""
    if "_label_" not in name:
        return Video(name, "test", bool(events), (), events, n_frames)
    classes = xd_violence_classes(name)
    return Video(name, "test", bool(classes), classes, events, n_frames)
