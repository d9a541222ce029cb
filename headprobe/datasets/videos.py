"""Annotated videos of a data set: what each is called, whether and when it is abnormal, and of which class."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool

from headprobe._validation import number, some
from headprobe.errors import InputError
from headprobe.video.spans import Span

__all__ = [
    "NORMAL",
    "Dataset",
    "Video",
    "frame_labels",
]

NORMAL = "Normal"
"""Class of a video without an event, in every data set."""


@dataclass(frozen=True)
class Video:
    """What the annotation says of one video.

    Parameters
    ----------
    name
        Unique in its data set.
    split
        `"train"` or `"test"`.
    abnormal
        Whether there is an event in it.
    classes
        Classes of its events, the leading one first; none for a normal video.
    events
        (start, end) in frames, 0-based with the end exclusive, in order. None where the annotation says that
        there is one but not when, as in the training videos of UCF-Crime; empty for a normal video.
    n_frames
        Frames of the video, None where no file says it.

    Raises
    ------
    InputError
        If label, classes and events contradict each other, or two events share a frame.

    Examples
    --------
    >>> Video("Abuse028_x264", "test", True, ("Abuse",), ((165, 241),), 1412).class_name
    'Abuse'
    """

    name: str
    split: str
    abnormal: bool
    classes: tuple[str, ...] = ()
    events: tuple[Span, ...] | None = None
    n_frames: int | None = None

    def __post_init__(self) -> None:
        where = f"video {self.name!r}: "
        if not self.name:
            raise InputError("a video has no name.")
        if NORMAL in self.classes:
            raise InputError(f"{where}{NORMAL!r} is no class of an event: a normal video has no classes.")
        if self.n_frames is not None and self.n_frames < 1:
            raise InputError(f"{where}a video has at least one frame, got n_frames {self.n_frames}.")
        if not self.abnormal:
            if self.classes or self.events:
                held = (
                    f"the class {self.classes[0]!r}" if self.classes else f"the event {next(iter(self.events or ()))}"
                )
                raise InputError(f"{where}it is labelled normal but has {held}; one of the two is wrong.")
            object.__setattr__(self, "events", ())
        elif self.events is not None and not self.events:
            raise InputError(f"{where}it is labelled abnormal but has no event; give None if it is not known when.")
        before: Span | None = None
        for event in self.events or ():
            start, end = event
            if start < 0 or end <= start:
                raise InputError(f"{where}{event} is no range of frames (start, end) with the end exclusive.")
            if before is not None and start < before[1]:
                raise InputError(
                    f"{where}the events {before} and {event} are out of order or share frames: "
                    "sort them, or make them one."
                )
            before = event

    @property
    def class_name(self) -> str:
        """The leading class, or `Normal`."""
        return self.classes[0] if self.classes else NORMAL if not self.abnormal else "abnormal"


@dataclass(frozen=True)
class Dataset:
    """A data set as its annotation files describe it; no video is opened for it.

    Parameters
    ----------
    name
        For example `"ucf-crime"`.
    videos
        In the order of the files.
    max_overrun
        How many frames an event may reach beyond its video and be cut, as in `frame_labels`.
    sources
        What was read for what: `{"events": "…/annotations.txt"}`.

    Raises
    ------
    InputError
        If a name occurs twice, also if once in each split, or an event lies beyond its video.

    Examples
    --------
    >>> fall, calm = Video("a", "test", True, ("fall",), ((1, 3),), 4), Video("b", "test", False, n_frames=2)
    >>> data = Dataset("mine", (fall, calm))
    >>> {name: labels.astype(int).tolist() for name, labels in data.truth().items()}
    {'a': [0, 1, 1, 0], 'b': [0, 0]}
    """

    name: str
    videos: tuple[Video, ...]
    max_overrun: int = 0
    sources: Mapping[str, str] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        twice = [name for name, n in Counter(v.name for v in self.videos).items() if n > 1]
        if twice:
            splits = sorted({v.split for v in self.videos if v.name == twice[0]})
            raise InputError(
                f"{self.name}: {len(twice)} names occur more than once: {some(twice)} "
                f"({twice[0]!r} in {' and '.join(splits)}); a video belongs to one split, once."
            )
        for video in self.videos:
            if video.n_frames is not None:
                try:
                    frame_labels(video.events or (), video.n_frames, max_overrun=self.max_overrun)
                except InputError as error:
                    raise InputError(f"{self.name}: video {video.name!r}: {error}") from error

    def __len__(self) -> int:
        return len(self.videos)

    def split(self, name: str) -> Dataset:
        """The videos of one split.

        Parameters
        ----------
        name
            A split that the data set has, such as ``test``.

        Returns
        -------
        Dataset

        Raises
        ------
        InputError
            If there are none, naming the splits there are.
        """
        chosen = tuple(v for v in self.videos if v.split == name)
        if not chosen:
            known = sorted({v.split for v in self.videos})
            raise InputError(f"{self.name} has no videos of the split {name!r}; it has {known}.")
        return Dataset(self.name, chosen, self.max_overrun, self.sources)

    def only(self, names: Iterable[str]) -> Dataset:
        """The videos with these names.

        Parameters
        ----------
        names
            Names of videos of this data set.

        Returns
        -------
        Dataset
            In the order of this one.

        Raises
        ------
        InputError
            If a name is not in the data set.
        """
        wanted = set(names)
        unknown = sorted(wanted - {v.name for v in self.videos})
        if unknown:
            raise InputError(f"{self.name} has no video {some(unknown)}.")
        return Dataset(self.name, tuple(v for v in self.videos if v.name in wanted), self.max_overrun, self.sources)

    def _with_frames(self, n_frames: Mapping[str, int]) -> Dataset:
        """The same videos with numbers of frames that were counted elsewhere, for those that have none yet."""
        filled: list[Video] = []
        for video in self.videos:
            count = n_frames.get(video.name)
            if count is None or count == video.n_frames:
                filled.append(video)
            elif video.n_frames is None:
                filled.append(replace(video, n_frames=count))
            else:
                raise InputError(
                    f"video {video.name!r} has {video.n_frames} frames by its annotation and {count} by count."
                )
        return Dataset(self.name, tuple(filled), self.max_overrun, self.sources)

    def truth(self) -> dict[str, Bool[np.ndarray, " frame"]]:
        """One label per frame of every video.

        Returns
        -------
        dict
            Name to booleans `[frame]`.

        Raises
        ------
        InputError
            Naming the videos whose events or number of frames are not known.
        """
        unknown = [v.name for v in self.videos if v.events is None or v.n_frames is None]
        if unknown:
            raise InputError(
                f"{self.name}: when events happen or how many frames there are is not known of {len(unknown)} videos: "
                f"{some(unknown)}; take the split with temporal annotation, and give a file of frame counts."
            )
        return {
            v.name: frame_labels(v.events or (), v.n_frames or 0, max_overrun=self.max_overrun) for v in self.videos
        }

    def events(self) -> dict[str, list[Span]]:
        """Events of every video in frames, cut at its last frame where the annotation reaches beyond it.

        Returns
        -------
        dict
            Name to (start, end) in frames, end exclusive.

        Raises
        ------
        InputError
            As in `truth`.
        """
        lengths = {name: len(labels) for name, labels in self.truth().items()}
        return {v.name: [(a, min(b, lengths[v.name])) for a, b in v.events or ()] for v in self.videos}

    def labels(self) -> dict[str, int]:
        """Video name to 0 (normal) or 1 (abnormal).

        Returns
        -------
        dict
            Name to label.
        """
        return {v.name: int(v.abnormal) for v in self.videos}

    def classes(self) -> dict[str, tuple[str, ...]]:
        """Video name to the classes of its events; empty for a normal video.

        Returns
        -------
        dict
            Name to classes.
        """
        return {v.name: v.classes for v in self.videos}

    def class_names(self) -> dict[str, str]:
        """Video name to its leading class, or `Normal`.

        Returns
        -------
        dict
            Name to class.
        """
        return {v.name: v.class_name for v in self.videos}


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
        raise InputError(f"a video has at least one frame, got n_frames {n_frames}.")
    labels = np.zeros(n_frames, dtype=bool)
    for start, end in events:
        if not 0 <= start < min(end, n_frames) or end - n_frames > max_overrun:
            raise InputError(
                f"event ({start}, {end}) does not lie in a video of {n_frames} frames"
                + f", which it may pass by {max_overrun}" * bool(max_overrun)
                + ": the annotation belongs to another cut or frame rate of the video, or counts otherwise (from "
                "frame 0, the end is not part of the event); correct the event, or give the video that was annotated."
            )
        labels[start:end] = True
    return labels


def _sample_size(n_pool: int, fraction: float) -> int:
    """Videos in a sample: the fraction of the pool, rounded, a half upwards."""
    number(fraction, "the fraction (1 % is 0.01)", above=0, most=1)
    return math.floor(n_pool * fraction + 0.5)
