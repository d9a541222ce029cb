"""Frames of a video: segment spans, 0/1 truth, and the checks they share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Bool
from numpy.typing import ArrayLike

from headprobe.errors import InputError

__all__ = ["Span", "check_same_videos", "check_spans", "check_truth"]

Span = tuple[int, int]
"""First frame and end (exclusive) of a stretch of a video, 0-based."""


def check_spans(
    spans: Sequence[Span], n_segments: int, *, n_frames: int | None = None, video: str | None = None
) -> list[Span]:
    """Return spans as integer pairs if they are in order, without overlap, and as many as there are scores.

    Parameters
    ----------
    spans
        (start, end) in frames, end exclusive.
    n_segments
        Number of scores the spans belong to.
    n_frames
        If given, the spans must also cover the frames 0 to n_frames, each exactly once.
    video
        Name for error text.

    Returns
    -------
    list of tuple
        (start, end) as whole numbers.

    Raises
    ------
    InputError
        Naming the first span that does not fit.

    Examples
    --------
    >>> check_spans([(0, 48), (48, 50)], 2, n_frames=50)
    [(0, 48), (48, 50)]
    """
    where = f"video {video!r}: " if video is not None else ""
    if len(spans) != n_segments:
        raise InputError(f"{where}{n_segments} segment scores but {len(spans)} spans: give one span per score")
    checked: list[Span] = []
    for number, span in enumerate(spans):
        start, end = int(span[0]), int(span[1])
        before = checked[-1][1] if checked else 0
        if (start, end) != (span[0], span[1]) or end <= start or start < before:
            raise InputError(
                f"{where}span {number} is {tuple(span)}; spans are (start, end) in whole frames, end "
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


def check_truth(truth: ArrayLike, video: str) -> Bool[np.ndarray, " frame"]:
    """Return the frame labels of a video as booleans if they are 0 and 1, one per frame.

    Parameters
    ----------
    truth
        `[frame]`, 0 (normal) or 1 (abnormal), at least one frame.
    video
        Name for error text.

    Returns
    -------
    numpy.ndarray
        Booleans `[frame]`.

    Raises
    ------
    InputError
        Naming the video and the first label that is neither 0 nor 1.

    Examples
    --------
    >>> check_truth([0, 1], "a").tolist()
    [False, True]
    """
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


def check_same_videos(first: Iterable[str], second: Iterable[str], first_name: str, second_name: str) -> None:
    """Raise unless two mappings hold the same videos.

    Parameters
    ----------
    first, second
        Names of videos.
    first_name, second_name
        What the two are, for the error.

    Raises
    ------
    InputError
        Naming the videos that one of them lacks.

    Examples
    --------
    >>> check_same_videos({"a": 1}, {"a": 2, "b": 3}, "scores", "truth")
    Traceback (most recent call last):
    headprobe.errors.InputError: 1 videos are in truth but not in scores: ['b']; ...
    """
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
