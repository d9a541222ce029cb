"""Exact ranking counts: how many abnormal and normal frames have each score."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from headprobe.errors import InputError
from headprobe.headhunt.frames import check_same_videos, check_truth

__all__ = [
    "Counts",
    "FrameScores",
    "count_videos",
    "count_wins",
    "merge",
    "precision_recall",
    "stack",
    "ties",
    "wins_and_pairs",
]

FrameScores = Mapping[str, ArrayLike]
"""Video name to one score (or one 0/1 label) per frame of that video."""


class Counts(NamedTuple):
    """Frames of one or more videos by score, ascending: score, frames of each class, number of the video."""

    score: Float[np.ndarray, " row"]
    abnormal: Int[np.ndarray, " row"]
    normal: Int[np.ndarray, " row"]
    video: Int[np.ndarray, " row"]


def count_videos(scores: FrameScores, truth: FrameScores) -> list[Counts]:
    """Count the frames of every video by distinct score, after all the checks that `evaluate` promises.

    Parameters
    ----------
    scores, truth
        Video name to `[frame]`.

    Returns
    -------
    list of Counts
        One per video, in the order of `scores`.

    Raises
    ------
    InputError
        If a video is in one mapping only, lengths differ, a score is not finite, or all frames are of one
        class.

    Examples
    --------
    >>> counts = count_videos({"a": [0.5, 0.1, 0.5]}, {"a": [1, 0, 0]})[0]
    >>> counts.score.tolist(), counts.abnormal.tolist(), counts.normal.tolist()
    ([0.1, 0.5], [0, 1], [1, 1])
    """
    check_same_videos(scores, truth, "scores", "truth")
    counted: list[Counts] = []
    for number, (video, given) in enumerate(scores.items()):
        labels, values = check_truth(truth[video], video), np.asarray(given, dtype=np.float64)
        if values.shape != labels.shape:
            raise InputError(
                f"video {video!r}: scores have shape {values.shape} but truth has {len(labels)} frames; "
                "every frame needs one score (to_frames gives them from segments)"
            )
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise InputError(
                f"video {video!r}: frame {bad[0]} has the score {values[bad[0]]}, expected a finite number"
            )
        distinct, index = np.unique(values, return_inverse=True)
        abnormal = np.bincount(index[labels], minlength=len(distinct))
        normal = np.bincount(index, minlength=len(distinct)) - abnormal
        counted.append(Counts(distinct, abnormal, normal, np.full(len(distinct), number)))
    n_abnormal, n_normal = (sum(int(c[i].sum()) for c in counted) for i in (1, 2))
    if not n_abnormal or not n_normal:
        kind = "abnormal" if n_abnormal else "normal"
        raise InputError(
            f"all {n_abnormal + n_normal} frames of the {len(counted)} videos are {kind}: "
            "ranking is not defined with one class, add videos of the other"
        )
    return counted


def stack(videos: Iterable[Counts]) -> Counts:
    """Counts of all videos in one table ordered by score; a score that two videos share has two rows.

    Parameters
    ----------
    videos
        Counts of each video.

    Returns
    -------
    Counts
        Rows by rising score.
    """
    score, abnormal, normal, video = (np.concatenate(parts) for parts in zip(*videos, strict=True))
    order = np.argsort(score, kind="stable")
    return Counts(score[order], abnormal[order], normal[order], video[order])


def ties(score: np.ndarray) -> np.ndarray:
    """Where each run of equal scores starts.

    Parameters
    ----------
    score
        Scores in order, `[row]`.

    Returns
    -------
    numpy.ndarray
        Indices `[run]`.
    """
    return np.flatnonzero(np.r_[True, score[1:] != score[:-1]])


def merge(videos: Iterable[Counts]) -> Counts:
    """Counts of all videos together, one row per distinct score.

    Parameters
    ----------
    videos
        Counts of each video.

    Returns
    -------
    Counts
        Rows by rising score.
    """
    stacked = stack(videos)
    starts = ties(stacked.score)
    abnormal, normal = (np.add.reduceat(c, starts) for c in (stacked.abnormal, stacked.normal))
    return Counts(stacked.score[starts], abnormal, normal, stacked.video[starts])


def wins_and_pairs(counts: Counts) -> tuple[int, int]:
    """Twice the (abnormal, normal) pairs in the right order, ties once; and the number of pairs; exact.

    Parameters
    ----------
    counts
        Frames by rising score.

    Returns
    -------
    tuple of int
        Wins, and pairs.
    """
    return count_wins(counts.abnormal, counts.normal), int(counts.abnormal.sum()) * int(counts.normal.sum())


def count_wins(abnormal: Int[np.ndarray, " row"], normal: Int[np.ndarray, " row"]) -> int:
    """Count twice the pairs in which the abnormal frame has the higher score, and once those that tie.

    Parameters
    ----------
    abnormal, normal
        Frames of each class by distinct score, ascending.

    Returns
    -------
    int
        Twice the number of pairs in the right order, ties once.

    Examples
    --------
    >>> count_wins(np.array([0, 2]), np.array([1, 3]))
    10
    """
    below = np.cumsum(normal) - normal
    return int((abnormal * (2 * below + normal)).sum())


def precision_recall(abnormal: Int[np.ndarray, " row"], normal: Int[np.ndarray, " row"]) -> tuple[float, float]:
    """Average precision, and the trapezoid area under the precision-recall curve from (0, 1) on.

    Parameters
    ----------
    abnormal, normal
        Frames of each class by distinct score, ascending; at least one abnormal frame.

    Returns
    -------
    tuple of float
        Average precision, and the area; 0 to 1.

    Examples
    --------
    >>> precision_recall(np.array([1, 1]), np.array([2, 0]))
    (0.75, 0.875)
    """
    hits = np.cumsum(abnormal[::-1])
    alarms = hits + np.cumsum(normal[::-1])
    seen = alarms > 0
    precision, recall = hits[seen] / alarms[seen], hits[seen] / hits[-1]
    steps = np.diff(recall, prepend=0.0)
    middle = (precision + np.r_[1.0, precision[:-1]]) / 2
    return float((steps * precision).sum()), float((steps * middle).sum())
