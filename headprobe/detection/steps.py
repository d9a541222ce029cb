"""Steps from the scores of a reader to those of a detector: filling gaps, smoothing, refining by likeness, a prior."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from headprobe._validation import count, number
from headprobe.detection.composed import Segmented
from headprobe.errors import InputError

__all__ = [
    "GaussianSmooth",
    "Interpolate",
    "NodeRefine",
    "PaddedGaussian",
    "PositionPrior",
    "SceneRefine",
    "SummaryRefine",
    "WindowMean",
]

Scores = Float[np.ndarray, " segment"]


@dataclass(frozen=True)
class Interpolate:
    """Fill unread segments linearly in time between those read; beyond the first and last, with the nearest.

    Where nothing was read in the whole video, nothing is filled.

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
        return scores if not there.any() else np.interp(seen.centres, seen.centres[there], scores[there])


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
class PaddedGaussian:
    """The Gaussian of VERA (15 segments, sigma 10) and CoReVAD (9, 5), to reproduce numbers; else `GaussianSmooth`.

    Its weights lie evenly from -(size // 2) - 1 to size // 2, so they are not symmetric, and beyond the ends it takes
    scores to be 0: a constant 1 becomes .53 at the end of a video. Unread segments make all that are near unread.

    Parameters
    ----------
    size
        Weights.
    sigma
        Standard deviation in segments.
    decimals
        Round the result, as VERA does (1); None: do not.

    Examples
    --------
    >>> from headprobe.detection.composed import FixedSegments, Reading
    >>> from headprobe.detection.method import VideoView
    >>> video = VideoView("a", 600, 10.0)
    >>> seen = Segmented(video, FixedSegments(1.0)(video), Reading(np.zeros(60)))
    >>> PaddedGaussian()(np.ones(60), seen)[[0, 30, 59]].round(2).tolist()
    [0.53, 1.0, 0.55]
    """

    size: int = 15
    sigma: float = 10.0
    decimals: int | None = None

    def __post_init__(self) -> None:
        count(self.size, "size", 2)
        number(self.sigma, "sigma", above=0)
        if self.decimals is not None:
            count(self.decimals, "decimals", 0)

    @property
    def name(self) -> str:
        """Short, for rows."""
        return f"padded gaussian {self.size}/{self.sigma:g}"

    @property
    def plain(self) -> _NodeMean:
        """The mean of as many segments."""
        return _NodeMean(self.size // 2)

    def __call__(self, scores: Scores, seen: Segmented) -> Scores:
        half = self.size // 2
        kernel = np.exp(-0.5 * (np.linspace(half - self.size, half, self.size) / self.sigma) ** 2)
        smooth = _level(np.convolve(scores, kernel / kernel.sum(), "same")[: len(scores)])
        return smooth if self.decimals is None else smooth.round(self.decimals)


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
    compatible
        As VERA's scripts for UCF-Crime: where the share is less than one segment, all are taken for alike.

    Examples
    --------
    >>> from headprobe.detection.composed import FixedSegments, Reading
    >>> from headprobe.detection.method import VideoView
    >>> video, features = VideoView("a", 40, 10.0), np.array([[1.0, 0], [0, 1], [1, 0], [0, 1]])
    >>> seen = Segmented(video, FixedSegments(1.0)(video), Reading(np.zeros(4), features=features))
    >>> SceneRefine(0.5)(np.array([1.0, 0.0, 0.5, 0.2]), seen).round(3).tolist()
    [0.75, 0.1, 0.75, 0.1]
    """

    share: float = 0.15
    sharpness: float = 10.0
    compatible: bool = False

    def __post_init__(self) -> None:
        number(self.share, "share", above=0, most=1)
        number(self.sharpness, "sharpness", above=0)

    @property
    def name(self) -> str:
        """Short, for rows."""
        return f"alike {self.share:g}"

    @property
    def plain(self) -> _NearestMean:
        """The mean of as many segments, those nearest in time."""
        return _NearestMean(self.share, self.compatible)

    def __call__(self, scores: Scores, seen: Segmented) -> Scores:
        near = np.ones((len(scores), len(scores)), bool)
        top = _top_share(self.share, len(scores), self.compatible)
        return _by_likeness(scores, _cosines(seen.features, seen.features), near, top, self.sharpness)


@dataclass(frozen=True)
class _NearestMean:
    share: float
    compatible: bool = False
    plain = None

    @property
    def name(self) -> str:
        return f"mean of the nearest {self.share:g}"

    def __call__(self, scores: Scores, seen: Segmented) -> Scores:
        near = np.ones((len(scores), len(scores)), bool)
        apart = np.abs(seen.centres[:, None] - seen.centres[None, :])
        return _by_likeness(scores, -apart, near, _top_share(self.share, len(scores), self.compatible), 0.0)


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
        As the reference: the window ends before i + `reach`, and an unread rating counts as the score -1.

    Examples
    --------
    >>> from headprobe.detection.composed import FixedSegments, Reading
    >>> from headprobe.detection.method import VideoView
    >>> video, features = VideoView("a", 40, 10.0), np.array([[1.0, 0], [0, 1], [1, 0], [0, 1]])
    >>> seen = Segmented(video, FixedSegments(1.0)(video), Reading(np.zeros(4), features=features))
    >>> NodeRefine(reach=2)(np.array([1.0, np.nan, 0.5, 0.2]), seen).round(3).tolist()
    [0.75, 0.2, 0.75, 0.2]
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
        given = np.nan_to_num(scores, nan=-1.0) if self.compatible else scores
        return _by_likeness(given, _cosines(seen.features, seen.features), near, self.top, self.sharpness)


@dataclass(frozen=True)
class _NodeMean:
    reach: int
    compatible: bool = False
    plain = None

    @property
    def name(self) -> str:
        return f"mean of {self.reach} to either side"

    def __call__(self, scores: Scores, seen: Segmented) -> Scores:
        given = np.nan_to_num(scores, nan=-1.0) if self.compatible else scores
        return _weighted(_neighbours(len(scores), self.reach, self.compatible).astype(float), given)


@dataclass(frozen=True)
class SummaryRefine:
    """Every segment takes the mean of the scores of the summaries, of the whole video, that fit what it looks like.

    LAVAD: the reader's features of a segment are compared with what was said of all segments, each text once, and
    counted with the score of the first segment that was read with it; the `top` texts are weighted by a softmax of the
    cosine times `sharpness`.

    Parameters
    ----------
    embedder
        Texts to features `[text, feature]` in the space of the segments' features. Two with the same `repr` do the
        same.
    top
        How many texts at most.
    sharpness
        Of the softmax; LAVAD's is 1.

    Examples
    --------
    >>> from headprobe.detection.composed import FixedSegments, Reading
    >>> from headprobe.detection.method import VideoView
    >>> def embed(texts):
    ...     return np.array([[1.0, 0] if text == "a fight" else [0, 1.0] for text in texts])
    >>> video, looks = VideoView("a", 30, 10.0), np.array([[0, 1.0], [1, 0], [1, 0]])
    >>> said = Reading(np.zeros(3), ["a road", "a fight", "a road"], looks)
    >>> seen = Segmented(video, FixedSegments(1.0)(video), said)
    >>> SummaryRefine(embed, top=1)(np.array([0.0, 0.9, 0.4]), seen).tolist()
    [0.0, 0.9, 0.9]
    """

    embedder: Callable[[Sequence[str]], Float[np.ndarray, "text feature"]]
    top: int = 10
    sharpness: float = 1.0

    def __post_init__(self) -> None:
        count(self.top, "top")
        number(self.sharpness, "sharpness", above=0)

    @property
    def name(self) -> str:
        """Short, for rows."""
        return f"fitting texts {self.top}"

    @property
    def plain(self) -> _NodeMean:
        """The mean of about as many segments, those nearest in time."""
        return _NodeMean(max(self.top // 2, 1))

    def __call__(self, scores: Scores, seen: Segmented) -> Scores:
        if len(seen.reading.texts) != len(scores):
            raise InputError(
                f"the reader said {len(seen.reading.texts)} texts of the {len(scores)} segments of "
                f"{seen.video.name!r}; refining by texts needs a reader that says one of each."
            )
        first: dict[str, float] = {}
        for text, score in zip(seen.reading.texts, scores, strict=True):
            if not np.isnan(score):
                first.setdefault(text, float(score))
        if not first:
            return np.full(len(scores), np.nan)
        likeness = _cosines(seen.features, np.asarray(self.embedder(list(first)), np.float64))
        return _by_likeness(np.array(list(first.values())), likeness, np.isfinite(likeness), self.top, self.sharpness)


@dataclass(frozen=True)
class PositionPrior:
    """Scores times a bump in the middle of the video. A row of its own wherever it is used: it looks at no frame.

    VERA and CoReVAD, on both of their data sets, use a standard deviation of half the video, but frame by frame, where
    this one takes the middle of each segment.

    Parameters
    ----------
    width
        Standard deviation as a share of the video's length.

    Raises
    ------
    InputError
        A score is below 0, which the bump would make higher at the ends.

    Examples
    --------
    >>> from headprobe.detection.composed import FixedSegments, Reading
    >>> from headprobe.detection.method import VideoView
    >>> video = VideoView("a", 40, 10.0)
    >>> seen = Segmented(video, FixedSegments(1.0)(video), Reading(np.zeros(4)))
    >>> PositionPrior()(np.ones(4), seen).round(3).tolist()
    [0.755, 0.969, 0.969, 0.755]
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
        if (scores < 0).any():
            raise InputError(
                f"a score of {seen.video.name!r} is {np.nanmin(scores):g}; a position prior needs scores of 0 or more, "
                "such as probabilities."
            )
        length = seen.video.seconds
        return scores * np.exp(-0.5 * ((seen.centres - length / 2) / (self.width * length)) ** 2)


def _weighted(weights: Float[np.ndarray, "segment other"], scores: Scores) -> Scores:
    """Weighted means over the segments that were read; NaN where none of them has a weight."""
    there = ~np.isnan(scores)
    kept = weights[:, there]
    total = kept.sum(1)
    found = kept @ scores[there] / np.where(total > 0, total, 1)
    return _level(np.where(total > 0, found, np.nan))


def _level(scores: Scores) -> Scores:
    """Scores to twelve digits of the largest, so that equal means tie whatever the order of their sums."""
    largest = np.abs(scores[~np.isnan(scores)]).max(initial=0)
    return scores.round(12 - int(np.ceil(np.log10(largest)))) if largest > 1e-200 else scores


def _neighbours(n: int, reach: int, compatible: bool) -> Bool[np.ndarray, "segment other"]:
    apart = np.arange(n)[None, :] - np.arange(n)[:, None]
    return (apart >= -reach) & ((apart < reach) if compatible else (apart <= reach))


def _top_share(share: float, n: int, compatible: bool) -> int:
    return int(share * n) or (n if compatible else 1)


def _cosines(
    segments: Float[np.ndarray, "segment feature"], others: Float[np.ndarray, "other feature"]
) -> Float[np.ndarray, "segment other"]:
    """Cosines of features; an error for those without a direction."""
    units = []
    for features in (segments, others):
        lengths = np.linalg.norm(features, axis=1, keepdims=True)
        if not (lengths > 0).all():
            raise InputError(f"features {int(np.argmin(lengths))} are zeros or no numbers, which have no direction.")
        units.append(features / lengths)
    return units[0] @ units[1].T


def _by_likeness(
    scores: Float[np.ndarray, " other"],
    likeness: Float[np.ndarray, "segment other"],
    near: Bool[np.ndarray, "segment other"],
    top: int,
    sharpness: float,
) -> Scores:
    """Softmax-weighted means of the `top` read scores that are most alike; ties go to the earlier."""
    likeness = np.where(near & ~np.isnan(scores)[None, :], likeness, -np.inf)
    best = np.argsort(-likeness, axis=1, kind="stable")[:, :top]
    chosen = np.take_along_axis(likeness, best, 1)
    there = np.isfinite(chosen)
    highest = np.where(there[:, :1], chosen[:, :1], 0)
    weights = np.zeros_like(likeness)
    np.put_along_axis(weights, best, np.exp(sharpness * np.where(there, chosen - highest, 0)) * there, 1)
    return _weighted(weights, scores)
