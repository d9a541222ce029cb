"""Steps from the scores of a reader to those of a detector: filling gaps, smoothing, refining by likeness, a prior."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from headprobe._validation import count, number
from headprobe.detection.composed import Segmented
from headprobe.errors import InputError

__all__ = ["GaussianSmooth", "Interpolate", "NodeRefine", "PositionPrior", "SceneRefine", "WindowMean"]

Scores = Float[np.ndarray, " segment"]


@dataclass(frozen=True)
class Interpolate:
    """Fill unread segments linearly in time between those read; beyond the first and last, with the nearest.

    Raises
    ------
    InputError
        Nothing was read in the whole video.

    Examples
    --------
    >>> from headprobe.detection.composed import FixedSegments, Reading
    >>> from headprobe.detection.method import VideoView
    >>> video = VideoView("a", 40, 10.0)
    >>> seen = Segmented(video, FixedSegments(1.0)(video), Reading(np.zeros(4)))
    >>> Interpolate()(np.array([np.nan, 1.0, np.nan, 2.0]), seen).tolist()
    [1.0, 1.0, 1.5, 2.0]
    """

    name = "interpolate"
    plain = None

    def __call__(self, scores: Scores, seen: Segmented) -> Scores:
        there = ~np.isnan(scores)
        if not there.any():
            raise InputError(f"nothing was read in {seen.video.name!r}; there is nothing to interpolate between.")
        return np.interp(seen.centres, seen.centres[there], scores[there])


@dataclass(frozen=True)
class WindowMean:
    """The mean over all segments whose middle is within half a window; unread ones count in no mean.

    Parameters
    ----------
    seconds
        Length of the window.

    Examples
    --------
    >>> from headprobe.detection.composed import FixedSegments, Reading
    >>> from headprobe.detection.method import VideoView
    >>> video = VideoView("a", 40, 10.0)
    >>> seen = Segmented(video, FixedSegments(1.0)(video), Reading(np.zeros(4)))
    >>> WindowMean(2.0)(np.array([0.0, 3.0, 0.0, 1.0]), seen).round(2).tolist()
    [1.5, 1.0, 1.33, 0.5]
    """

    seconds: float
    plain = None

    def __post_init__(self) -> None:
        number(self.seconds, "seconds", above=0)

    @property
    def name(self) -> str:
        """Short, for rows."""
        return f"mean {self.seconds:g} s"

    def __call__(self, scores: Scores, seen: Segmented) -> Scores:
        apart = np.abs(seen.centres[:, None] - seen.centres[None, :])
        return _weighted(np.asarray(apart <= self.seconds / 2 + 1e-9, float), scores)


@dataclass(frozen=True)
class GaussianSmooth:
    """A mean with Gaussian weights in time, the same at the ends as in the middle: weights are of what is there.

    Parameters
    ----------
    seconds
        Standard deviation.

    Examples
    --------
    >>> from headprobe.detection.composed import FixedSegments, Reading
    >>> from headprobe.detection.method import VideoView
    >>> video = VideoView("a", 40, 10.0)
    >>> seen = Segmented(video, FixedSegments(1.0)(video), Reading(np.zeros(4)))
    >>> GaussianSmooth(1.0)(np.ones(4), seen).round(6).tolist()
    [1.0, 1.0, 1.0, 1.0]
    """

    seconds: float

    def __post_init__(self) -> None:
        number(self.seconds, "seconds", above=0)

    @property
    def name(self) -> str:
        """Short, for rows."""
        return f"gaussian {self.seconds:g} s"

    @property
    def plain(self) -> WindowMean:
        """The window mean that holds about as much: one standard deviation to either side."""
        return WindowMean(2 * self.seconds)

    def __call__(self, scores: Scores, seen: Segmented) -> Scores:
        apart = (seen.centres[:, None] - seen.centres[None, :]) / self.seconds
        return _weighted(np.exp(-0.5 * apart**2), scores)


@dataclass(frozen=True)
class SceneRefine:
    """Every segment takes the mean of the segments of its video that look most alike, itself among them.

    Weights are a softmax of the cosine times `sharpness` (VERA: a share of .15, sharpness 10).

    Parameters
    ----------
    share
        Of the video's segments that are alike; at least one, and never more than those read.
    sharpness
        Of the softmax.
    """

    share: float = 0.15
    sharpness: float = 10.0
    plain = None

    def __post_init__(self) -> None:
        number(self.share, "share", above=0, most=1)
        number(self.sharpness, "sharpness", above=0)

    @property
    def name(self) -> str:
        """Short, for rows."""
        return f"alike {self.share:g}"

    def __call__(self, scores: Scores, seen: Segmented) -> Scores:
        near = np.ones((len(scores), len(scores)), bool)
        return _by_likeness(scores, seen.features, near, max(int(self.share * len(scores)), 1), self.sharpness)


@dataclass(frozen=True)
class NodeRefine:
    """As `SceneRefine`, among the neighbours in time: the best `top` of the segments i - `reach` to i + `reach`.

    VADTree: reach 5 without the last, top 10, sharpness 10.

    Parameters
    ----------
    reach
        Segments to either side.
    top
        How many of them at most.
    sharpness
        Of the softmax of the cosines.
    compatible
        As the reference: the window ends before i + `reach`.
    """

    reach: int = 5
    top: int = 10
    sharpness: float = 10.0
    compatible: bool = False

    def __post_init__(self) -> None:
        count(self.reach, "reach")
        count(self.top, "top")
        number(self.sharpness, "sharpness", above=0)

    @property
    def name(self) -> str:
        """Short, for rows."""
        return f"alike near {self.reach}"

    @property
    def plain(self) -> _NodeMean:
        """The mean of the same neighbours, whatever they look like."""
        return _NodeMean(self.reach, self.compatible)

    def __call__(self, scores: Scores, seen: Segmented) -> Scores:
        near = _neighbours(len(scores), self.reach, self.compatible)
        return _by_likeness(scores, seen.features, near, self.top, self.sharpness)


@dataclass(frozen=True)
class _NodeMean:
    reach: int
    compatible: bool = False
    plain = None

    @property
    def name(self) -> str:
        return f"mean of {self.reach} to either side"

    def __call__(self, scores: Scores, seen: Segmented) -> Scores:
        return _weighted(_neighbours(len(scores), self.reach, self.compatible).astype(float), scores)


@dataclass(frozen=True)
class PositionPrior:
    """Scores times a bump in the middle of the video. A row of its own wherever it is used: it looks at no frame.

    Parameters
    ----------
    width
        Standard deviation as a share of the video's length.
    """

    width: float = 0.5
    plain = None

    def __post_init__(self) -> None:
        number(self.width, "width", above=0)

    @property
    def name(self) -> str:
        """Short, for rows."""
        return "position prior"

    def __call__(self, scores: Scores, seen: Segmented) -> Scores:
        length = seen.video.seconds
        return scores * np.exp(-0.5 * ((seen.centres - length / 2) / (self.width * length)) ** 2)


def _weighted(weights: Float[np.ndarray, "segment other"], scores: Scores) -> Scores:
    """Weighted means over the segments that were read; NaN where none of them has a weight."""
    there = ~np.isnan(scores)
    kept = weights[:, there]
    total = kept.sum(1)
    found = kept @ scores[there] / np.where(total > 0, total, 1)
    return np.where(total > 0, found, np.nan)


def _neighbours(n: int, reach: int, compatible: bool) -> np.ndarray:
    apart = np.arange(n)[None, :] - np.arange(n)[:, None]
    return (apart >= -reach) & ((apart < reach) if compatible else (apart <= reach))


def _by_likeness(
    scores: Scores, features: Float[np.ndarray, "segment feature"], near: np.ndarray, top: int, sharpness: float
) -> Scores:
    """Softmax-weighted means of the `top` read segments with the highest cosine; ties go to the earlier."""
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    if not (lengths > 0).all():
        raise InputError(f"segment {int(np.argmin(lengths))} has features of zeros, which have no direction.")
    likeness = (features / lengths) @ (features / lengths).T
    likeness = np.where(near & ~np.isnan(scores)[None, :], likeness, -np.inf)
    best = np.argsort(-likeness, axis=1, kind="stable")[:, :top]
    weights = np.zeros_like(likeness)
    chosen = np.take_along_axis(likeness, best, 1)
    highest = np.where(np.isfinite(chosen[:, :1]), chosen[:, :1], 0)
    np.put_along_axis(weights, best, np.exp(sharpness * (chosen - highest)), 1)
    return _weighted(weights, scores)
