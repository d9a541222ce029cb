"""UCSD Ped2 and ShanghaiTech: pedestrian scenes whose normal training clips are listed by the folder alone."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from headprobe._validation import check_same_videos, check_truth, some
from headprobe.datasets._annotations import add_events, lines, name_of, not_empty
from headprobe.datasets.videos import Dataset, Video
from headprobe.errors import InputError
from headprobe.video.spans import Span, stretches

__all__ = [
    "parse_ped2_ground_truth",
    "ped2",
    "shanghaitech",
]

_PED2_LINE = re.compile(r"TestVideoFile\{end\+1\}\.gt_frame\s*=\s*\[([^\]]*)\]\s*;?")
_PED2_RANGE = re.compile(r"(\d+)(?::(\d+))?")
_PED2_NAME = re.compile(r"(train|test)_?0*([1-9]\d*)", re.IGNORECASE)
_SHANGHAI_TRAIN = re.compile(r"\d\d_\d{3}")
_SHANGHAI_TEST = re.compile(r"(?:test_)?(\d\d_\d{4})")


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
    for number, line in lines(text):
        code = line.split("%")[0].strip()
        if not code or re.fullmatch(r"TestVideoFile\s*=\s*\{\};?", code):
            continue
        match = _PED2_LINE.fullmatch(code)
        ranges = (
            [_PED2_RANGE.fullmatch(part) for part in re.split(r"[,\s]+", match[1].strip()) if part] if match else []
        )
        if match is None or not all(ranges):
            raise InputError(
                f"line {number} is {line!r}; it must be 'TestVideoFile{{end+1}}.gt_frame = [first:last];'."
            )
        pairs = [(int(r[1]) - 1, int(r[2] or r[1]) - 1) for r in ranges if r]
        add_events(videos, f"test_{len(videos) + 1:02d}", pairs, number, line)
    return not_empty(videos)


def _ped2_name(entry: str) -> str | None:
    """Name of a Ped2 clip from that of its file or folder of frames: `Test001` and `test_01.mp4` are `test_01`."""
    match = _PED2_NAME.fullmatch(name_of(entry))
    return f"{match[1].lower()}_{int(match[2]):02d}" if match else None


def ped2(ground_truth: str, n_frames: Mapping[str, int], sources: Mapping[str, str] | None = None) -> Dataset:
    """Put UCSD Ped2 together from its annotation and the lengths of its clips, which no file lists.

    Parameters
    ----------
    ground_truth
        Content of `UCSDped2.m`.
    n_frames
        Clip name (`test_01`, `train_01`, ...) to its frames. Training clips are those named here: all are
        normal. Test clips without an entry have no frame count.
    sources
        Where the contents come from.

    Returns
    -------
    Dataset
        Test clips first.

    Raises
    ------
    InputError
        If a test clip is not annotated, or an event lies beyond its clip.

    Examples
    --------
    >>> data = ped2("TestVideoFile{end+1}.gt_frame = [61:180];", {"test_01": 180, "train_01": 120})
    >>> int(data.split("test").truth()["test_01"].sum()), data.split("train").labels()
    (120, {'train_01': 0})
    """
    events = parse_ped2_ground_truth(ground_truth)
    wrong = [v for v in n_frames if _ped2_name(v) != v or (v.startswith("test") and v not in events)]
    if wrong:
        raise InputError(
            f"{some(wrong)} must be annotated clips of Ped2; the test clips are {', '.join(events)}, "
            "training clips are named train_01, train_02, ..."
        )
    videos = [
        Video(v, "test", bool(e), ("Anomaly",) if e else (), tuple(e), n_frames.get(v)) for v, e in events.items()
    ]
    videos += [Video(v, "train", False, n_frames=n) for v, n in sorted(n_frames.items()) if v.startswith("train")]
    return Dataset("ped2", tuple(videos), 0, dict(sources or {}))


def _shanghaitech_name(entry: str) -> str | None:
    """Name of a ShanghaiTech clip: `01_0014` (test; also written `test_01_0014`), `01_001` (training)."""
    name = name_of(entry).removesuffix(".npy")
    test = _SHANGHAI_TEST.fullmatch(name)
    return test[1] if test else name if _SHANGHAI_TRAIN.fullmatch(name) else None


def _parse_shanghaitech_list(text: str) -> dict[str, bool]:
    """Whether each clip of a weakly supervised split is abnormal (Zhong et al., CVPR 2019): `x/01_0014 0 265 1`."""
    found: dict[str, bool] = {}
    for number, line in lines(text):
        first, *rest = line.replace(",", " ").split()
        name = _shanghaitech_name(first)
        if name is None or not rest or rest[-1] not in ("0", "1"):
            raise InputError(
                f"line {number} is {line!r}; it must be 'folder/01_0014 first last label' with label 0 or 1."
            )
        if name in found:
            raise InputError(f"line {number}: clip {name!r} occurs twice.")
        found[name] = rest[-1] == "1"
    return not_empty(found)


def shanghaitech(
    masks: Mapping[str, ArrayLike],
    train: Mapping[str, int | None],
    train_list: str | None = None,
    test_list: str | None = None,
    sources: Mapping[str, str] | None = None,
) -> Dataset:
    """Put ShanghaiTech together from its frame masks and the training clips that are there.

    Parameters
    ----------
    masks
        Test clip to one 0 or 1 per frame, as in the folder `test_frame_mask`.
    train
        Training clip, all of them normal, to its number of frames (None if it was not counted).
    train_list, test_list
        Both lists of the weakly supervised split, which has abnormal videos in training; without them the
        official split, which has none, is taken.
    sources
        Where the contents come from.

    Returns
    -------
    Dataset
        Test clips first.

    Raises
    ------
    InputError
        If a name has another form, a mask is not made of 0 and 1, only one list is given, or a list names a
        clip that is not there or contradicts its mask.

    Examples
    --------
    >>> data = shanghaitech({"01_0014": [0, 1, 1, 0]}, {"01_001": 300})
    >>> [(video.name, video.split, video.events) for video in data.videos]
    [('01_0014', 'test', ((1, 3),)), ('01_001', 'train', ())]
    """
    videos: dict[str, Video] = {}
    for given, mask in masks.items():
        labels = check_truth(mask, given)
        events = tuple(stretches(labels))
        name = _shanghai(given, 7, "01_0014, as test clips are")
        if name in videos:
            raise InputError(f"clip {name!r} occurs twice among the masks.")
        videos[name] = Video(name, "test", bool(events), ("Anomaly",) if events else (), events, len(labels))
    for given, n_frames in train.items():
        name = _shanghai(given, 6, "01_001, as training clips are")
        videos[name] = Video(name, "train", False, n_frames=n_frames)
    if (train_list is None) != (test_list is None):
        raise InputError(
            "the weakly supervised split of ShanghaiTech needs both lists, SHANGHAI_train and SHANGHAI_test."
        )
    chosen = list(videos.values())
    if train_list is not None and test_list is not None:
        splits = {"test": _parse_shanghaitech_list(test_list), "train": _parse_shanghaitech_list(train_list)}
        listed = {name: label for part in splits.values() for name, label in part.items()}
        check_same_videos(listed, videos, "the two lists", "the masks and training clips")
        wrong = [name for name, abnormal in listed.items() if abnormal != videos[name].abnormal]
        if wrong:
            raise InputError(
                f"the label of clip {wrong[0]!r} is {int(listed[wrong[0]])} in its list; it must be that of its mask."
            )
        chosen = [
            Video(name, split, v.abnormal, v.classes, v.events, v.n_frames)
            for split, part in splits.items()
            for name in part
            for v in [videos[name]]
        ]
    return Dataset("shanghaitech", tuple(chosen), 0, dict(sources or {}))


def _shanghai(given: str, length: int, form: str) -> str:
    name = _shanghaitech_name(given)
    if name is None or len(name) != length:
        raise InputError(f"the clip is {given!r}; it must be named like {form}.")
    return name


def _load_mask(path: str) -> np.ndarray:
    """Frame mask of a clip from its `.npy` file; files that would run code are refused."""
    try:
        return np.load(path, allow_pickle=False)
    except ValueError as error:
        raise InputError(f"{path} must be an array of frame labels ({error}).") from error
