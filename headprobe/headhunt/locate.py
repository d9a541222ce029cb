"""The locator: segment scores, smoothed and cut at a threshold, become events in time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike

from headprobe._validation import check_same_videos, check_spans, check_truth, number
from headprobe.errors import InputError
from headprobe.video.spans import Span

__all__ = ["Event", "Locator", "calibrate_locator", "events", "smooth"]


@dataclass(frozen=True)
class Event:
    """One stretch of a video that is called abnormal.

    Parameters
    ----------
    start_frame, end_frame
        0-based; the end is exclusive.
    start_seconds, end_seconds
        The same in seconds: by the video's timestamps where they are known, else by its frame rate.
    peak
        Highest (smoothed) segment score within the event.
    """

    start_frame: int
    end_frame: int
    start_seconds: float
    end_seconds: float
    peak: float


@dataclass(frozen=True)
class Locator:
    """Smoothing width and threshold that turn segment scores into events.

    Parameters
    ----------
    sigma
        Width of the Gaussian in segments, 0 (no smoothing) or more. The paper uses 1.5.
    tau
        A segment whose smoothed score is at or above it is abnormal. The paper uses 0.65.
    release
        Hysteresis: an event that was started by tau goes on, to both sides, while the smoothed score is at or above
        `release * tau`. 1 is no hysteresis.
    min_seconds
        Events that are shorter are left out; 0 keeps all.

    Examples
    --------
    >>> locator = Locator(sigma=0.0, tau=0.5)
    >>> locator.events([0.1, 0.9, 0.8], [(0, 48), (48, 96), (96, 110)], fps=24.0)[0].end_frame
    110
    """

    sigma: float
    tau: float
    release: float = 1.0
    min_seconds: float = 0.0

    def __post_init__(self) -> None:
        number(self.sigma, "sigma", 0)
        number(self.tau, "tau")
        _check_options(self.release, self.min_seconds)

    def smooth(self, scores: ArrayLike) -> Float[np.ndarray, " segment"]:
        """Smooth the scores of one video, `[segment]`, by this locator's sigma.

        Parameters
        ----------
        scores
            Raw scores `[segment]`, in order of time.

        Returns
        -------
        numpy.ndarray
            Float `[segment]`.
        """
        return smooth(scores, self.sigma)

    def events(
        self, scores: ArrayLike, spans: Sequence[Span], fps: float, edges: ArrayLike | None = None
    ) -> list[Event]:
        """Find the events of one video from its raw scores: smooth, then cut at tau; see `events`.

        Parameters
        ----------
        scores
            Raw scores `[segment]`, in order of time.
        spans
            (start, end) of each segment in frames.
        fps
            Frames per second.
        edges
            Seconds at which frames begin, `[frame + 1]`, for videos of changing rate.

        Returns
        -------
        list of Event
            In order of time.
        """
        return events(self.smooth(scores), spans, fps, self.tau, self.release, self.min_seconds, edges)


def smooth(scores: ArrayLike, sigma: float) -> Float[np.ndarray, " segment"]:
    """Smooth the segment scores of one video with a Gaussian whose weights sum to 1 everywhere.

    At the edges the kernel is cut and renormalised: nothing is assumed beyond the video, so a constant stays
    constant.

    Parameters
    ----------
    scores
        `[segment]`, at least one, finite, in temporal order.
    sigma
        Width in segments; 0 returns the scores unchanged. The kernel is cut at 4 sigma.

    Returns
    -------
    numpy.ndarray
        `[segment]`, float64, as many as were given, between the least and the largest of them.

    Raises
    ------
    InputError
        If a score is NaN or infinite, there is none, or sigma is negative.

    Examples
    --------
    >>> smooth([0.0, 1.0, 0.0], 1.0).round(3).tolist()
    [0.348, 0.452, 0.348]
    """
    values = _scores(scores)
    number(sigma, "sigma", 0)
    radius = min(math.ceil(4 * sigma), len(values) - 1)
    if radius == 0:
        return values
    offsets = np.arange(-radius, radius + 1)
    with np.errstate(over="ignore", under="ignore"):
        kernel = np.exp(-0.5 * (offsets / sigma) ** 2)
    # About the first score, so that rounding leaves a constant exactly as it is.
    level = values[0]
    inner = slice(radius, radius + len(values))
    total = np.convolve(values - level, kernel)[inner]
    weight = np.convolve(np.ones(len(values)), kernel)[inner]
    return np.clip(level + total / weight, values.min(), values.max())


def events(
    scores: ArrayLike,
    spans: Sequence[Span],
    fps: float,
    tau: float,
    release: float = 1.0,
    min_seconds: float = 0.0,
    edges: ArrayLike | None = None,
) -> list[Event]:
    """Join consecutive segments with a score at or above the threshold into events.

    Parameters
    ----------
    scores
        `[segment]`, used as they are: smooth them first.
    spans
        (start, end) of each segment in frames, end exclusive, in temporal order and without overlap. Segments
        with a gap between them (frames that were never seen) are not joined.
    fps
        Frame rate of this video, in frames per second.
    tau
        Threshold.
    release, min_seconds
        Hysteresis and minimum duration, as in `Locator`.
    edges
        Seconds at which each frame begins and the last one ends, `[frame + 1]`; by default, and where frames are
        evenly spaced, the number of the frame over fps.

    Returns
    -------
    list of Event
        In temporal order.

    Raises
    ------
    InputError
        If scores and spans differ in number, spans are out of order, fps is not positive, or the edges are too few or
        not ascending.

    Examples
    --------
    >>> events([0.2, 0.7, 0.9, 0.1], [(0, 48), (48, 96), (96, 144), (144, 150)], fps=24.0, tau=0.5)
    [Event(start_frame=48, end_frame=144, start_seconds=2.0, end_seconds=6.0, peak=0.9)]
    """
    values = _scores(scores)
    number(tau, "tau")
    _check_options(release, min_seconds)
    spans = check_spans(spans, len(values))
    number(fps, "fps", above=0)
    times = None if edges is None else _edges(edges, spans[-1][1])
    positive = _positive(values, spans, tau, release)
    found: list[Event] = []
    for (start, end), score, inside in zip(spans, values.tolist(), positive.tolist(), strict=True):
        if not inside:
            continue
        first, peak = start, score
        if found and found[-1].end_frame == start:
            last = found.pop()
            first, peak = last.start_frame, max(last.peak, score)
        begins, ends = (first / fps, end / fps) if times is None else (float(times[first]), float(times[end]))
        found.append(Event(first, end, begins, ends, peak))
    # A tenth of a millisecond, so that rounding of timestamps does not decide.
    return [event for event in found if event.end_seconds - event.start_seconds >= min_seconds - 1e-4]


def _positive(
    values: Float[np.ndarray, " segment"], spans: Sequence[Span], tau: float, release: float
) -> Bool[np.ndarray, " segment"]:
    """Segments at or above tau, and those beside them, without a gap, at or above ``release * tau``."""
    high = values >= tau
    if release == 1:
        return high
    low = high | (values >= release * tau)
    # Runs of low segments that touch; one with a high segment in it is an event.
    joined = low[1:] & low[:-1] & np.array([a[1] == b[0] for a, b in pairwise(spans)], bool)
    run = np.concatenate([[0], np.cumsum(~joined)])
    return low & np.isin(run, run[high])


def calibrate_locator(
    scores_per_video: Mapping[str, ArrayLike],
    spans_per_video: Mapping[str, Sequence[Span]],
    frame_labels_per_video: Mapping[str, ArrayLike],
    sigmas: Sequence[float],
    taus: Sequence[float],
    *,
    release: float = 1.0,
    min_seconds: float = 0.0,
    fps: Mapping[str, float] | None = None,
) -> Locator:
    """Choose the smoothing width and the threshold with the best frame F1 on calibration videos.

    F1 is pooled over the frames of all videos. On ties the smallest sigma wins, and then the middle one of
    its tied thresholds (the lower of two middle ones), away from both edges of a plateau.

    Parameters
    ----------
    scores_per_video
        Video name to raw segment scores `[segment]`.
    spans_per_video
        Video name to the segments' (start, end) in frames; together they cover every frame of the video once.
    frame_labels_per_video
        Video name to `[frame]`, 0 (normal) or 1 (abnormal). Over all videos both must occur.
    sigmas, taus
        The grid.
    release, min_seconds
        Hysteresis and minimum duration, as in `Locator`, under which the grid is searched.
    fps
        Video name to frames per second; needed for a minimum duration.

    Returns
    -------
    Locator
        The best pair of the grid.

    Raises
    ------
    InputError
        If the videos of the three mappings differ, a video is not covered, the frames are of one class only,
        the grid is empty, no pair of the grid hits an abnormal frame, or a minimum duration comes without frame
        rates. Nothing falls back to a default.

    Examples
    --------
    >>> calibrate_locator(
    ...     {"a": [0.1, 0.8, 0.2]},
    ...     {"a": [(0, 2), (2, 4), (4, 6)]},
    ...     {"a": [0, 0, 1, 1, 0, 0]},
    ...     sigmas=[0.0, 1.0],
    ...     taus=[0.1, 0.3, 0.5, 0.7],
    ... )
    Locator(sigma=0.0, tau=0.5, release=1.0, min_seconds=0.0)
    """
    check_same_videos(scores_per_video, frame_labels_per_video, "scores", "frame labels")
    check_same_videos(scores_per_video, spans_per_video, "scores", "spans")
    sigmas, taus = sorted({float(s) for s in sigmas}), sorted({float(t) for t in taus})
    if not sigmas or not taus:
        raise InputError(f"the grid is empty: sigmas {sigmas}, taus {taus}")
    for value in sigmas:
        number(value, "sigma", 0)
    for value in taus:
        number(value, "tau")
    _check_options(release, min_seconds)
    if min_seconds and (fps is None or not set(scores_per_video) <= set(fps)):
        raise InputError("a minimum duration in seconds needs the frame rate of every video: give fps=")
    videos: list[np.ndarray] = []
    names: list[tuple[str, list[Span]]] = []
    abnormal, length = [], []
    for video, scores in scores_per_video.items():
        truth = check_truth(frame_labels_per_video[video], video)
        values = _scores(scores, video)
        spans = check_spans(spans_per_video[video], len(values), n_frames=len(truth), video=video)
        videos.append(values)
        names.append((video, spans))
        starts = [start for start, _ in spans]
        abnormal.append(np.add.reduceat(truth.astype(np.int64), starts))
        length.append(np.diff([*starts, len(truth)]))
    hits, frames = np.concatenate(abnormal), np.concatenate(length)
    n_abnormal, n_frames = int(hits.sum()), int(frames.sum())
    if n_abnormal in (0, n_frames):
        kind = "abnormal" if n_abnormal else "normal"
        raise InputError(
            f"all {n_frames} calibration frames are {kind}: a locator needs abnormal and normal frames to be calibrated"
        )
    f1 = np.empty((len(sigmas), len(taus)))
    for i, sigma in enumerate(sigmas):
        smoothed = [smooth(values, sigma) for values in videos]
        for j, tau in enumerate(taus):
            positive = np.concatenate(
                [
                    _kept(values, spans, tau, release, min_seconds, fps[video] if fps else 1.0)
                    for values, (video, spans) in zip(smoothed, names, strict=True)
                ]
            )
            f1[i, j] = 2 * hits[positive].sum() / (frames[positive].sum() + n_abnormal)
    best = f1.max()
    if best == 0:
        raise InputError(
            f"no pair of the grid (sigmas {sigmas}, taus {taus}) finds an abnormal frame; the scores reach "
            f"from {min(v.min() for v in videos):.4g} to {max(v.max() for v in videos):.4g}: "
            "give thresholds in that range"
        )
    row = int(np.argmax((f1 == best).any(1)))
    tied = np.flatnonzero(f1[row] == best)
    return Locator(sigmas[row], taus[int(tied[(len(tied) - 1) // 2])], release, min_seconds)


def _kept(
    values: np.ndarray, spans: Sequence[Span], tau: float, release: float, min_seconds: float, fps: float
) -> Bool[np.ndarray, " segment"]:
    """Segments that lie in an event."""
    positive = _positive(values, spans, tau, release)
    if not min_seconds:
        return positive
    found = events(values, spans, fps, tau, release, min_seconds)
    return np.array([any(e.start_frame <= start < e.end_frame for e in found) for start, _ in spans], bool)


def _scores(scores: ArrayLike, video: str | None = None) -> Float[np.ndarray, " segment"]:
    values = np.array(scores, dtype=np.float64)
    where = f"video {video!r}: " if video is not None else ""
    if values.ndim != 1 or len(values) == 0:
        raise InputError(f"{where}segment scores must be one number per segment, at least one, got {values.shape}")
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise InputError(
            f"{where}segment {bad[0]} has the score {values[bad[0]]}: a segment that could not be scored is "
            "left out, never given a number"
        )
    return values


def _edges(edges: ArrayLike, n_frames: int) -> Float[np.ndarray, " edge"]:
    times = np.asarray(edges, dtype=np.float64)
    if times.ndim != 1 or len(times) <= n_frames or not np.isfinite(times).all() or (np.diff(times) < 0).any():
        raise InputError(
            f"edges must be ascending seconds, one for the beginning of each of {n_frames} frames and one for the end "
            f"of the last, got shape {times.shape}"
        )
    return times


def _check_options(release: float, min_seconds: float) -> None:
    number(release, "release", above=0, most=1)
    number(min_seconds, "min_seconds", 0)
