"""Rows without a model: a frame's place, motion, and scores that somebody else has computed."""

from __future__ import annotations

import copy
import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from headprobe._files import read_text
from headprobe._validation import choice
from headprobe.detection.composed import Composed, FixedSegments, Reader, Reading, Segmenter
from headprobe.detection.method import (
    Calibration,
    Method,
    Needs,
    SegmentScores,
    VideoView,
    fingerprint,
    make_method,
)
from headprobe.errors import InputError
from headprobe.evaluation.controls import frame_differences
from headprobe.evaluation.score_files import RESTS, content_of, read_scores
from headprobe.probing.probe import HeadProbe
from headprobe.video.clips import Segment, sample_indices
from headprobe.video.spans import Span

__all__ = ["Motion", "MotionReader", "Position", "PositionReader", "ScoreFile", "ShuffledLabels"]


class PositionReader(Reader):
    """The place of a segment in its video alone, highest in the middle; needs nothing and looks at nothing.

    Examples
    --------
    >>> video = VideoView("a", 48, 10.0)
    >>> PositionReader().read(video, FixedSegments(1.6)(video)).scores.round(2).tolist()
    [0.8, 1.0, 0.8]
    """

    needs: Needs = "nothing"

    @property
    def fingerprint(self) -> str:
        """Of nothing but its kind."""
        return fingerprint("position")

    def fit(self, calibration: Calibration, segmenter: Segmenter) -> Self:
        return self

    def read(self, video: VideoView, cut: Sequence[Segment]) -> Reading:
        middles = np.array([(one.start + one.end) / 2 for one in cut])
        return Reading(np.exp(-0.5 * ((middles - video.n_frames / 2) / (video.n_frames / 2)) ** 2))


class Position(Composed):
    """The place of a segment in its video alone.

    Parameters
    ----------
    seconds
        Length of a segment.
    name
        Its row.
    """

    def __init__(self, seconds: float = 1.6, name: str = "position in the video") -> None:
        super().__init__(name, FixedSegments(seconds), PositionReader())


class MotionReader(Reader):
    """A probe on how much the sampled frames of a segment change, fitted on labelled segments.

    Parameters
    ----------
    n_samples
        Frames of a segment that are decoded, at least 2.

    Examples
    --------
    >>> MotionReader().needs
    'segment labels'
    """

    needs: Needs = "segment labels"

    def __init__(self, n_samples: int = 8) -> None:
        self.n_samples = n_samples

    @property
    def fingerprint(self) -> str:
        """Of its settings."""
        return fingerprint("motion", self.n_samples)

    def fit(self, calibration: Calibration, segmenter: Segmenter) -> Self:
        rows, labels = [], []
        for video in calibration.videos:
            cut = segmenter(video)
            rows.append(self._features(video, cut))
            labels.append(calibration.segment_labels(video.name, [one.window for one in cut]))
        self.probe_ = HeadProbe().fit(np.concatenate(rows), np.concatenate(labels))
        return self

    def read(self, video: VideoView, cut: Sequence[Segment]) -> Reading:
        return Reading(self.probe_.decision_function(self._features(video, cut)))

    def _features(self, video: VideoView, cut: Sequence[Segment]) -> np.ndarray:
        return np.stack([frame_differences(video.frames(sample_indices(one.window, self.n_samples))) for one in cut])


class Motion(Composed):
    """Frame differences alone, the baseline that every reader of a model must beat.

    Parameters
    ----------
    seconds
        Length of a segment.
    n_samples
        Frames of a segment that are decoded.
    name
        Its row.
    """

    def __init__(self, seconds: float = 1.6, n_samples: int = 8, name: str = "frame differences") -> None:
        super().__init__(name, FixedSegments(seconds), MotionReader(n_samples), causal=True)


class ScoreFile(Method):
    """Scores that somebody else has computed.

    Parameters
    ----------
    path
        A file as for `headprobe.evaluation.score_files.read_scores`; or a mapping of video to scores `[frame]`, or to
        (first, last, score) rows, both frames included.
    name
        Its row.
    needs
        What the scores have seen, as whoever computed them says.
    frames_per_score, rest, order
        As in `headprobe.evaluation.score_files.read_scores`.

    Examples
    --------
    >>> ScoreFile({"a": [0.1, 0.1, 0.9]}, name="theirs").score(VideoView("a", 3, 10.0)).spans
    [(0, 2), (2, 3)]
    """

    causal = False

    def __init__(
        self,
        path: str | os.PathLike[str] | Mapping[str, ArrayLike],
        name: str = "",
        needs: Needs = "nothing",
        frames_per_score: int | None = None,
        rest: str = "exact",
        order: str | os.PathLike[str] | Sequence[str] | None = None,
    ) -> None:
        self.rest, self.order = choice(rest, "rest", RESTS), order
        self.name = name or (os.path.basename(path) if isinstance(path, str | os.PathLike) else "given scores")
        self.needs: Needs = needs
        self.path, self.frames_per_score = path, frames_per_score
        self._held: Mapping[str, ArrayLike] | None = path if isinstance(path, Mapping) else None

    @property
    def fingerprint(self) -> str:
        """Of the file's content."""
        if isinstance(self.path, Mapping):
            return fingerprint("scores", {video: np.asarray(one) for video, one in self.path.items()})
        order = self.order
        if isinstance(order, os.PathLike) or (isinstance(order, str) and order != "truth"):
            order = read_text(order)
        return fingerprint("score file", content_of(self.path), self.frames_per_score, self.rest, order)

    def fit(self, calibration: Calibration) -> Self:
        return copy.copy(self)

    def prepare(self, videos: Sequence[VideoView], folder: Path | None = None) -> None:
        """Read the file, by the names and lengths of all videos.

        Parameters
        ----------
        videos
            All videos of the benchmark.
        folder
            Not used.

        Raises
        ------
        InputError
            As in `headprobe.evaluation.score_files.parse_scores`.
        """
        if not isinstance(self.path, Mapping):
            lengths = {video.name: video.n_frames for video in videos}
            self._held = read_scores(self.path, lengths, self.frames_per_score, self.rest, self.order)

    def score(self, video: VideoView) -> SegmentScores:
        """The scores of a video, with equal neighbours as one segment.

        Parameters
        ----------
        video
            What can be seen of it.

        Returns
        -------
        SegmentScores

        Raises
        ------
        InputError
            The file does not have the video, or scores of another number of frames.
        """
        if self._held is None:
            raise InputError(f"{self.name} has not read its file; call prepare(videos) with all videos first.")
        if video.name not in self._held:
            raise InputError(f"{self.name} has no scores of {video.name!r}.")
        frames = np.asarray(self._held[video.name], np.float64)
        if frames.shape != (video.n_frames,):
            raise InputError(
                f"{self.name} has {len(frames)} scores of {video.name!r}, which has {video.n_frames} frames; give one "
                "per frame."
            )
        spans, values = _runs(frames)
        return SegmentScores(spans, values)


class ShuffledLabels(Method):
    """Any method, told labels of other videos: what is left is what its numbers owe to anything but the labels.

    Parameters
    ----------
    method
        The method, or the name of a registered one, which then gets the other settings.
    name
        Its row.
    repeats
        How often it is fitted in each draw.
    settings
        Of a method given by name.

    Examples
    --------
    >>> ShuffledLabels("motion").name
    'shuffled labels: frame differences'
    """

    def __init__(self, method: Method | str = "motion", name: str = "", repeats: int = 1, **settings: Any) -> None:
        self.method = make_method(method, **settings) if isinstance(method, str) else method
        self.name = name or f"shuffled labels: {self.method.name}"
        self.needs: Needs = self.method.needs
        self.causal = self.method.causal
        self.repeats, self.seed = repeats, 0

    @property
    def fingerprint(self) -> str:
        """Of the method and the seed."""
        return fingerprint("dealt out anew", self.method.fingerprint, self.seed)

    def seeded(self, number: int) -> Self:
        """The same with another seed.

        Parameters
        ----------
        number
            Of the repeat.

        Returns
        -------
        ShuffledLabels
        """
        other = copy.copy(self)
        other.seed = number
        return other

    def prepare(self, videos: Sequence[VideoView], folder: Path | None = None) -> None:
        """Prepare the method.

        Parameters
        ----------
        videos, folder
            As the method takes them.
        """
        prepare = getattr(self.method, "prepare", None)
        if prepare is not None:
            prepare(videos, folder)

    def fit(self, calibration: Calibration) -> Self:
        fitted = copy.copy(self)
        fitted.method = copy.copy(self.method).fit(calibration.shuffled(self.seed))
        return fitted

    def score(self, video: VideoView) -> SegmentScores:
        return self.method.score(video)


def _runs(frames: np.ndarray) -> tuple[list[Span], np.ndarray]:
    """Stretches of equal scores, NaN equal to itself."""
    same = (frames[1:] == frames[:-1]) | (np.isnan(frames[1:]) & np.isnan(frames[:-1]))
    edges = [0, *(np.flatnonzero(~same) + 1).tolist(), len(frames)]
    return list(itertools.pairwise(edges)), frames[edges[:-1]]
