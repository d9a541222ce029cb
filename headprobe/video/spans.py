"""Frames of a video: segment spans, 0/1 truth, and the checks they share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike

from headprobe._validation import number
from headprobe.errors import InputError

__all__ = [
    "Seconds",
    "Span",
    "events_above",
    "spans_in_seconds",
    "stretches",
    "temporal_iou",
]

Span = tuple[int, int]
"""First frame and end (exclusive) of a stretch of a video, 0-based."""


def _check_spans(
    spans: Sequence[Span], n_segments: int, *, n_frames: int | None = None, video: str | None = None
) -> list[Span]:
    """Return spans as integer pairs if they are in order, without overlap, and as many as there are scores."""
    where = f"video {video!r}: " if video is not None else ""
    if len(spans) != n_segments:
        raise InputError(f"{where}{n_segments} segment scores but {len(spans)} spans: give one span per score")
    checked: list[Span] = []
    for place, span in enumerate(spans):
        start, end = int(span[0]), int(span[1])
        before = checked[-1][1] if checked else 0
        if (start, end) != (span[0], span[1]) or end <= start or start < before:
            raise InputError(
                f"{where}span {place} is {tuple(span)}; spans are (start, end) in whole frames, end "
                f"exclusive, in temporal order, and this one must start at {before} or later"
            )
        if n_frames is not None and start != before:
            raise InputError(
                f"{where}frames {before} to {start - 1} are in no span: every frame is scored exactly once"
            )
        checked.append((start, end))
    last = checked[-1][1] if checked else 0
    if n_frames is not None and last != n_frames:
        raise InputError(
            f"{where}the spans end at frame {last} but the video has {n_frames} frames: "
            "every frame is scored exactly once, the last ones included"
        )
    return checked


def _check_truth(truth: ArrayLike, video: str) -> Bool[np.ndarray, " frame"]:
    """Return the frame labels of a video as booleans if they are 0 and 1, one per frame."""
    array = np.asarray(truth)
    if array.ndim != 1 or len(array) == 0:
        raise InputError(f"video {video!r}: frame labels must be one 0 or 1 per frame, got shape {array.shape}")
    if array.dtype == bool:
        return array
    if array.dtype.kind not in "iuf":
        raise InputError(f"video {video!r}: frame labels must be numbers 0 or 1, got dtype {array.dtype}")
    wrong = np.flatnonzero((array != 0) & (array != 1))
    if len(wrong):
        raise InputError(
            f"video {video!r}: frame {wrong[0]} has the label {array[wrong[0]]}, expected 0 (normal) or 1 (abnormal)"
        )
    return array.astype(bool)


def _check_same_videos(first: Iterable[str], second: Iterable[str], first_name: str, second_name: str) -> None:
    """Raise unless two mappings hold the same videos."""
    a, b = list(first), list(second)
    for here, there, here_name, there_name in (
        (a, b, first_name, second_name),
        (b, a, second_name, first_name),
    ):
        known = set(there)
        missing = [video for video in here if video not in known]
        if missing:
            more = ", ..." if len(missing) > 5 else ""
            raise InputError(
                f"{len(missing)} videos are in {here_name} but not in {there_name}: {missing[:5]}{more}; "
                "no video is dropped silently, so remove or add them on both sides"
            )
    if not a:
        raise InputError(f"there are no videos in {first_name} and {second_name}")


def stretches(labels: ArrayLike) -> list[tuple[int, int]]:
    """Where a label per frame is 1: (first frame, last frame + 1) of every run, in order.

    Parameters
    ----------
    labels
        ``[frame]``, 0 or 1.

    Returns
    -------
    list of tuple
        (start, end) in frames, end exclusive.

    Examples
    --------
    >>> stretches([0, 1, 1, 0, 1])
    [(1, 3), (4, 5)]
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[0], np.asarray(labels).astype(int), [0]])))
    return [(int(first), int(end)) for first, end in edges.reshape(-1, 2)]


Seconds = tuple[float, float]
"""(start, end) of a stretch of time."""


def temporal_iou(first: Seconds, second: Seconds) -> float:
    """Length of the intersection of two stretches of time over that of their union; 0 to 1.

    Parameters
    ----------
    first, second
        (start, end) in seconds.

    Returns
    -------
    float
        0 to 1; 0 where they do not meet.

    Examples
    --------
    >>> temporal_iou((0.0, 4.0), (2.0, 6.0)) == 2 / 6
    True
    """
    shared = min(first[1], second[1]) - max(first[0], second[0])
    return 0.0 if shared <= 0 else shared / (max(first[1], second[1]) - min(first[0], second[0]))


def events_above(scores: ArrayLike, threshold: float) -> list[Span]:
    """The stretches of frames that score the threshold or more: (start, end) in frames, end exclusive.

    Parameters
    ----------
    scores
        `[frame]`, finite.
    threshold
        A finite number.

    Returns
    -------
    list of tuple
        (start, end) in frames, in order.

    Raises
    ------
    InputError
        If a score or the threshold is not finite.

    Examples
    --------
    >>> events_above([0.1, 0.8, 0.9, 0.2, 0.7], 0.7)
    [(1, 3), (4, 5)]
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or not np.isfinite(values).all() or not math.isfinite(threshold):
        raise InputError(
            f"expected finite scores, one per frame, and a finite threshold, got {values.shape}, {threshold!r}"
        )
    return stretches(values >= threshold)


def spans_in_seconds(
    spans: Sequence[Span], *, fps: float | None = None, edges: Float[ArrayLike, " edge"] | None = None
) -> list[Seconds]:
    """Stretches of frames as stretches of time.

    Parameters
    ----------
    spans
        (start, end) in frames, end exclusive.
    fps
        Frames per second, where the rate is constant.
    edges
        `[n_frames + 1]`: the time of every frame's start, and of the last one's end. Give this or `fps`.

    Returns
    -------
    list of tuple
        (start, end) in seconds, in order.

    Raises
    ------
    InputError
        If both or none are given, fps is not positive, or a span reaches beyond the edges.

    Examples
    --------
    >>> spans_in_seconds([(10, 20)], fps=10.0), spans_in_seconds([(0, 2)], edges=[0.0, 0.5, 2.0])
    ([(1.0, 2.0)], [(0.0, 2.0)])
    """
    if (fps is None) == (edges is None):
        raise InputError("give either fps or edges")
    if fps is not None:
        number(fps, "fps", above=0)
        return [(start / fps, end / fps) for start, end in spans]
    times = np.asarray(edges, dtype=np.float64)
    beyond = [span for span in spans if not 0 <= span[0] < span[1] < len(times)]
    if beyond:
        raise InputError(f"the span {beyond[0]} is not in a video of {len(times) - 1} frames")
    return [(float(times[start]), float(times[end])) for start, end in spans]
