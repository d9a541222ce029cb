"""Stretches of a video, in frames and in seconds."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
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
