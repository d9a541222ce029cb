"""The calibration sample: a few training videos, drawn by class with a seed, and the clips made of them."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from headprobe._files import read_json, write_json
from headprobe._validation import check_truth, choice, count, number
from headprobe.datasets.videos import _sample_size
from headprobe.errors import ArtefactError, InputError
from headprobe.examples import Example
from headprobe.video.clips import Clip, Segment, clip_examples
from headprobe.video.decode import probe

__all__ = ["CalibrationSample", "sample_videos"]

_FORMAT = 1
_FEWEST = 2  # of each label: less cannot be split into calibration and validation


@dataclass(frozen=True)
class CalibrationSample:
    """Which videos a detector is calibrated on, and how they were drawn.

    Parameters
    ----------
    dataset
        Name of the data set.
    videos
        Names, sorted.
    classes
        Each video's class.
    normal
        The class of a video without an event.
    fraction
        Share of the pool that was asked for.
    balance
        `"pool"` or `"equal"`, as for `sample_videos`.
    random_state
        Seed.
    n_pool
        Videos drawn from.
    pool_sha256
        Of the pool's names and classes, so that another pool is noticed.

    Examples
    --------
    >>> sample = sample_videos({f"n{i}": "Normal" for i in range(6)} | {f"f{i}": "fall" for i in range(6)}, n_videos=4)
    >>> sample.labels
    {'f1': 1, 'f3': 1, 'n1': 0, 'n5': 0}
    """

    dataset: str
    videos: tuple[str, ...]
    classes: Mapping[str, str]
    normal: str
    fraction: float
    balance: str
    random_state: int
    n_pool: int
    pool_sha256: str

    @property
    def labels(self) -> dict[str, int]:
        """Video to 0 (normal) or 1 (abnormal)."""
        return {video: int(self.classes[video] != self.normal) for video in self.videos}

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON.

        Returns
        -------
        dict
            What `load` needs, as JSON values.
        """
        return {"format": _FORMAT} | asdict(self) | {"videos": list(self.videos), "classes": dict(self.classes)}

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the sample as JSON; a killed run leaves the old file or the complete new one.

        Parameters
        ----------
        path
            File to write; it is replaced.

        Returns
        -------
        Path
            The file.
        """
        write_json(Path(path), self.to_dict())
        return Path(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> CalibrationSample:
        """Read a sample that `save` has written.

        Parameters
        ----------
        path
            File that `save` has written.

        Returns
        -------
        CalibrationSample

        Raises
        ------
        ArtefactError
            If the file is not one, or contradicts itself.
        """
        data = read_json(path)
        wanted = {"format", *cls.__dataclass_fields__}
        if not isinstance(data, dict) or set(data) != wanted or data["format"] != _FORMAT:
            raise ArtefactError(
                f"{os.fspath(path)} is no calibration sample of format {_FORMAT}: it must be an object with "
                f"{', '.join(sorted(wanted))}"
            )
        videos, classes = data["videos"], data["classes"]
        fits = (
            isinstance(videos, list)
            and isinstance(classes, dict)
            and all(isinstance(text, str) for text in [*videos, *classes.values(), data["dataset"], data["normal"]])
            and len(set(videos)) == len(videos)
            and set(videos) == set(classes)
        )
        if not fits:
            raise ArtefactError(f"{os.fspath(path)}: 'videos' must list every video of 'classes' once, as text")
        fields: dict[str, Any] = {name: data[name] for name in cls.__dataclass_fields__} | {"videos": tuple(videos)}
        kinds = {"fraction": float, "random_state": int, "n_pool": int, "balance": str, "pool_sha256": str}
        wrong = [name for name, kind in kinds.items() if type(fields[name]) is not kind]
        if wrong:
            raise ArtefactError(
                f"{os.fspath(path)}: {wrong[0]!r} is {fields[wrong[0]]!r}, no {kinds[wrong[0]].__name__}"
            )
        return cls(**fields)

    def check_pool(self, pool: Mapping[str, str]) -> None:
        """Raise unless the sample was drawn from this pool.

        Parameters
        ----------
        pool
            Name of every video of the training set to its class.

        Raises
        ------
        InputError
            If the pool has other videos or classes.
        """
        if _digest(pool) != self.pool_sha256:
            raise InputError(
                f"the sample of {self.dataset} was drawn from {self.n_pool} videos; the {len(pool)} videos given are "
                "others, or of other classes: draw a new sample"
            )


def sample_videos(
    pool: Mapping[str, str],
    *,
    normal: str = "Normal",
    fraction: float = 0.01,
    n_videos: int | None = None,
    balance: Literal["pool", "equal"] = "pool",
    random_state: int = 0,
    dataset: str = "",
) -> CalibrationSample:
    """Draw whole videos from the training pool, every class in proportion.

    The share of abnormal videos is fixed first. Within a label, videos are put in a row class by class, in
    random order, and taken at equal steps from a random start (systematic sampling: Cochran, "Sampling
    Techniques", 1977, chapter 8). So every video of a label is equally likely, and of each class come as many as its
    share says, rounded up or down.

    Parameters
    ----------
    pool
        Training video to its class.
    normal
        The class of a video without an event.
    fraction
        Share of the pool to draw; the published setting is 0.01.
    n_videos
        How many to draw instead.
    balance
        `"pool"`: normal and abnormal videos in the proportion of the pool; `"equal"`: half and half.
    random_state
        Seed. The order of the pool does not matter.
    dataset
        Name of the data set, for the record.

    Returns
    -------
    CalibrationSample
        To be saved beside the results.

    Raises
    ------
    InputError
        If there are fewer than two videos of each label to draw, or not that many in the pool.

    Examples
    --------
    >>> pool = {f"n{i}": "Normal" for i in range(800)} | {f"a{i}": "Abuse" for i in range(810)}
    >>> sample = sample_videos(pool, random_state=3)
    >>> len(sample.videos), sum(sample.labels.values())
    (16, 8)
    """
    choice(balance, "balance", ("pool", "equal"))
    by_label: dict[bool, list[str]] = {False: [], True: []}
    for video in sorted(pool):
        by_label[pool[video] != normal].append(video)
    if n_videos is None:
        n_videos = _sample_size(len(pool), fraction)
    else:
        fraction = count(n_videos, "n_videos") / max(len(pool), 1)
    part, whole = (1, 2) if balance == "equal" else (len(by_label[True]), max(len(pool), 1))
    n_abnormal = (2 * n_videos * part + whole) // (2 * whole)  # rounded, a half upwards, in whole numbers
    wanted = {False: n_videos - n_abnormal, True: n_abnormal}
    for label, title in ((False, "normal"), (True, "abnormal")):
        there = len(by_label[label])
        if not _FEWEST <= wanted[label] <= there:
            raise InputError(
                f"a sample of {n_videos} videos would have {wanted[label]} {title} ones, and the pool of {len(pool)} "
                f"has {there} (normal is the class {normal!r}): at least {_FEWEST} are needed and no more than there "
                "are, so change fraction, n_videos or balance"
            )
    rng = np.random.default_rng(random_state)
    chosen = [video for label in (False, True) for video in _systematic(by_label[label], pool, wanted[label], rng)]
    return CalibrationSample(
        dataset=dataset,
        videos=tuple(sorted(chosen)),
        classes={video: pool[video] for video in sorted(chosen)},
        normal=normal,
        fraction=float(fraction),
        balance=balance,
        random_state=int(random_state),
        n_pool=len(pool),
        pool_sha256=_digest(pool),
    )


def _calibration_examples(
    sample: CalibrationSample,
    paths: Mapping[str, str | os.PathLike[str]],
    *,
    how: Literal["segments", "whole_video"] = "segments",
    segment_frames: int = 48,
    sample_frames: int = 16,
    truth: Mapping[str, ArrayLike] | None = None,
    least_abnormal: float = 0.5,
) -> list[Example]:
    """Make labelled clips of the videos of a sample; the group of each is its video."""
    choice(how, "how", ("segments", "whole_video"))
    number(least_abnormal, "least_abnormal", above=0, most=1)
    count(segment_frames, "segment_frames")
    count(sample_frames, "sample_frames")
    if truth is not None and how == "whole_video":
        raise InputError("a clip of a whole video has the video's label: truth is for how='segments'")
    missing = [video for video in sample.videos if video not in paths]
    if missing:
        raise InputError(f"{len(missing)} videos of the calibration sample have no file: {missing[:5]}")
    examples: list[Example] = []
    for video, label in sample.labels.items():
        path = os.fspath(paths[video])
        if how == "whole_video":
            n_frames = probe(path).n_frames
            clip = Clip(path, Segment(0, n_frames, (0, n_frames)), sample_frames)
            examples.append(Example(clip, id=f"{video}:0-{n_frames}", label=label, group=video, span=(0, n_frames)))
            continue
        cut = clip_examples(path, segment_frames, sample_frames, label=label, group=video, name=video)
        if truth is not None and video in truth:
            cut = _relabelled(cut, truth[video], video, least_abnormal)
        examples += cut
    return examples


def _relabelled(cut: Sequence[Example], truth: ArrayLike, video: str, least: float) -> list[Example]:
    labels = check_truth(truth, video)
    spans = [example.span for example in cut if example.span is not None]
    if spans[-1][1] != len(labels):
        raise InputError(f"video {video!r} has {spans[-1][1]} frames and {len(labels)} labels; one label per frame")
    return [
        Example(e.content, id=e.id, label=int(labels[start:end].mean() >= least), group=e.group, span=(start, end))
        for e, (start, end) in zip(cut, spans, strict=True)
    ]


def _systematic(videos: Sequence[str], classes: Mapping[str, str], n: int, rng: np.random.Generator) -> list[str]:
    """Take n videos at equal steps along the classes, both in random order."""
    kinds = sorted({classes[video] for video in videos})
    place = {kinds[number]: i for i, number in enumerate(rng.permutation(len(kinds)).tolist())}
    order: list[int] = rng.permutation(len(videos)).tolist()
    row = [videos[i] for i in sorted(order, key=lambda i: place[classes[videos[i]]])]
    step = len(row) / n
    at = np.floor(rng.random() * step + step * np.arange(n)).astype(int)
    return [row[i] for i in np.minimum(at, len(row) - 1)]


def _digest(pool: Mapping[str, str]) -> str:
    lines = "".join(f"{video}\t{pool[video]}\n" for video in sorted(pool))
    return hashlib.sha256(lines.encode()).hexdigest()


def _class_counts(sample: CalibrationSample) -> dict[str, int]:
    """Videos of each class in a sample."""
    return dict(sorted(Counter(sample.classes.values()).items()))
