"""A method made of parts: a segmenter cuts the video, a reader scores the segments, steps change the scores."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import numpy as np
from jaxtyping import Float

from headprobe._validation import number
from headprobe.detection.method import Calibration, Needs, SegmentScores, VideoView, fingerprint
from headprobe.errors import InputError
from headprobe.video.clips import Segment, segments

__all__ = ["CentredWindows", "Composed", "FixedSegments", "Reader", "Reading", "Segmented", "Segmenter", "Step"]


class Segmenter(Protocol):
    """Cuts a video into segments whose spans hold every frame once. Two with the same `repr` cut alike."""

    def __call__(self, video: VideoView) -> list[Segment]:
        """Cut a video.

        Parameters
        ----------
        video
            What can be seen of it.

        Returns
        -------
        list of Segment
            In order, each with the window that is looked at.
        """
        ...


@dataclass(frozen=True)
class FixedSegments:
    """Segments of one length in seconds, at the video's own frame rate; the last one is what remains.

    Parameters
    ----------
    seconds
        Above 0; a segment has at least one frame.

    Examples
    --------
    >>> [segment.span for segment in FixedSegments(1.6)(VideoView("a", 40, 10.0))]
    [(0, 16), (16, 32), (32, 40)]
    """

    seconds: float

    def __post_init__(self) -> None:
        number(self.seconds, "seconds", above=0)

    def __call__(self, video: VideoView) -> list[Segment]:
        return segments(video.n_frames, max(round(self.seconds * video.fps), 1))


@dataclass(frozen=True)
class CentredWindows:
    """A score for every stride, read from a longer window around its middle; at the ends the window is cut.

    Parameters
    ----------
    stride
        Seconds that a score stands for, above 0.
    half_width
        Seconds before and after the middle that are looked at; a window holds at least its own stride.

    Examples
    --------
    >>> [(s.span, s.window) for s in CentredWindows(1.0, 1.5)(VideoView("a", 30, 10.0))]
    [((0, 10), (0, 20)), ((10, 20), (0, 30)), ((20, 30), (10, 30))]
    """

    stride: float
    half_width: float

    def __post_init__(self) -> None:
        number(self.stride, "stride", above=0)
        number(self.half_width, "half_width", least=0)

    def __call__(self, video: VideoView) -> list[Segment]:
        reach = round(self.half_width * video.fps)
        cut = []
        for one in segments(video.n_frames, max(round(self.stride * video.fps), 1)):
            middle = (one.start + one.end) // 2
            window = (max(min(middle - reach, one.start), 0), min(max(middle + reach, one.end), video.n_frames))
            cut.append(Segment(one.start, one.end, window))
        return cut


@dataclass(frozen=True, eq=False)
class Reading:
    """What a reader says of the segments of a video.

    Parameters
    ----------
    scores
        `[segment]`, NaN where one could not be read.
    texts
        What was said of each segment.
    features
        Of each segment `[segment, feature]`, for steps that compare segments; None where there are none.
    calls
        Passes of a model.
    """

    scores: Float[np.ndarray, " segment"]
    texts: Sequence[str] = ()
    features: Float[np.ndarray, "segment feature"] | None = None
    calls: int = 0


class Reader(Protocol):
    """Scores segments. ``fingerprint`` is of its settings and weights, ``needs`` as for a method."""

    needs: Needs

    @property
    def fingerprint(self) -> str:
        """Of its settings and weights."""
        ...

    def fit(self, calibration: Calibration, segmenter: Segmenter) -> Self:
        """Learn from the calibration videos; without effect where nothing is needed.

        Parameters
        ----------
        calibration
            Videos, with what is needed to know of them.
        segmenter
            How videos are cut.

        Returns
        -------
        Reader
            Itself.
        """
        ...

    def read(self, video: VideoView, cut: Sequence[Segment]) -> Reading:
        """Score the segments of a video.

        Parameters
        ----------
        video
            What can be seen of it.
        cut
            Its segments.

        Returns
        -------
        Reading
        """
        ...


@dataclass(frozen=True, eq=False)
class Segmented:
    """What a step sees beside the scores: the video, its segments, and what the reader said of them.

    Parameters
    ----------
    video
        The video.
    cut
        Its segments.
    reading
        What the reader said.

    Examples
    --------
    >>> video = VideoView("a", 30, 10.0)
    >>> Segmented(video, FixedSegments(1.0)(video), Reading(np.zeros(3))).centres.tolist()
    [0.5, 1.5, 2.5]
    """

    video: VideoView
    cut: Sequence[Segment]
    reading: Reading

    @property
    def centres(self) -> Float[np.ndarray, " segment"]:
        """Seconds at the middle of each segment's span."""
        return np.array([(one.start + one.end) / 2 for one in self.cut]) / self.video.fps

    @property
    def features(self) -> Float[np.ndarray, "segment feature"]:
        """Features of the segments; an error where the reader gave none."""
        if self.reading.features is None:
            raise InputError(
                f"the reader gave no features of the segments of {self.video.name!r}; a step that compares segments "
                "needs a reader that does."
            )
        return np.asarray(self.reading.features, np.float64)


class Step(Protocol):
    """Changes the scores of a video. Two with the same `repr` do the same. ``name`` is short, for rows of a table.

    ``plain`` is the window mean of the same reach for a step that smooths, else None.
    """

    @property
    def name(self) -> str:
        """Short, for rows."""
        ...

    @property
    def plain(self) -> Step | None:
        """The window mean of the same reach, for a step that smooths."""
        ...

    def __call__(self, scores: Float[np.ndarray, " segment"], seen: Segmented) -> Float[np.ndarray, " segment"]:
        """Scores after the step.

        Parameters
        ----------
        scores
            Scores before it, NaN where unread.
        seen
            The video, its segments and features.

        Returns
        -------
        numpy.ndarray
            One for each segment.
        """
        ...


@dataclass(eq=False)
class Composed:
    """A segmenter, a reader and steps as one method.

    Parameters
    ----------
    name
        Its row.
    segmenter, reader, steps
        The parts.
    causal
        Whether no part looks at what comes after a segment's window.

    Examples
    --------
    >>> from headprobe.detection.blind import PositionReader
    >>> found = Composed("position", FixedSegments(1.0), PositionReader()).score(VideoView("a", 30, 10.0))
    >>> int(found.scores.argmax())
    1
    """

    name: str
    segmenter: Segmenter
    reader: Reader
    steps: Sequence[Step] = ()
    causal: bool = False
    needs: Needs = field(init=False)

    def __post_init__(self) -> None:
        self.needs = self.reader.needs
        # What a reader that is not fitted said, shared by all rows made of it.
        self._said: dict[tuple[Any, ...], tuple[list[Segment], Reading, float]] = {}

    @property
    def fingerprint(self) -> str:
        """Of all parts."""
        return fingerprint(repr(self.segmenter), self.reader.fingerprint, [repr(step) for step in self.steps])

    def fit(self, calibration: Calibration) -> Self:
        """Fit the reader.

        Parameters
        ----------
        calibration
            Videos, with what the reader needs to know of them.

        Returns
        -------
        Composed
            Itself.
        """
        self.reader = copy.copy(self.reader).fit(calibration, self.segmenter)
        if self.needs != "nothing":
            self._said = {}
        return self

    def score(self, video: VideoView) -> SegmentScores:
        """Cut, read, and take all steps.

        Parameters
        ----------
        video
            What can be seen of it.

        Returns
        -------
        SegmentScores
        """
        changed = video.path.stat().st_mtime_ns if video.path is not None and video.path.exists() else None
        key = (video.name, video.n_frames, video.fps, video.path, changed)
        if key not in self._said:
            began = time.perf_counter()
            cut = self.segmenter(video)
            self._said[key] = cut, self.reader.read(video, cut), time.perf_counter() - began
        cut, reading, spent = self._said[key]
        began = time.perf_counter()
        seen, scores = Segmented(video, cut, reading), np.asarray(reading.scores, np.float64)
        for step in self.steps:
            scores = step(scores, seen)
        return SegmentScores(
            [one.span for one in cut],
            scores,
            [one.window for one in cut],
            reading.texts,
            spent + time.perf_counter() - began,
            reading.calls,
        )

    def rows(self) -> list[Composed]:
        """A method for every prefix of the steps, and beside each that smooths one with its plain mean instead.

        Returns
        -------
        list of Composed
            From the reader alone to all steps.

        Examples
        --------
        >>> from headprobe.detection.blind import PositionReader
        >>> from headprobe.detection.steps import GaussianSmooth, Interpolate
        >>> whole = Composed("place", FixedSegments(1.0), PositionReader(), [Interpolate(), GaussianSmooth(2.0)])
        >>> [row.name for row in whole.rows()]
        ['place', 'place + interpolate', 'place + gaussian 2 s', 'place + mean 4 s']
        """
        made = [self._with(self.name, ())]
        for number_, step in enumerate(self.steps, start=1):
            made.append(self._with(f"{self.name} + {step.name}", self.steps[:number_]))
            if step.plain is not None:
                before = self.steps[: number_ - 1]
                made.append(self._with(f"{self.name} + {step.plain.name}", [*before, step.plain]))
        return made

    def _with(self, name: str, steps: Sequence[Any]) -> Composed:
        row = Composed(name, self.segmenter, self.reader, list(steps), self.causal)
        row._said = self._said
        return row
