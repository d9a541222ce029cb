"""Rankings of resampled videos without sorting again: counts per video, made once, that weights are applied to."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float
from scipy.sparse import csr_array

from headprobe.headhunt.ranking import Counts

__all__ = ["pair_wins", "weighted_precision"]

_BLOCK = 1 << 20  # entries of the table of running counts that are held at a time


def pair_wins(videos: Sequence[Counts]) -> Float[np.ndarray, "video video"]:
    """Count for all pairs of videos how often an abnormal frame of one outranks a normal frame of the other.

    Parameters
    ----------
    videos
        Frames of each video by score; at least one abnormal frame among them.

    Returns
    -------
    numpy.ndarray
        `[video, video]`, whole numbers as float64: twice the pairs (abnormal frame of the row's video, normal frame
        of the column's) in the right order, ties once. With `w` copies of each video, `w @ wins @ w` is twice the
        wins over all frames. Exact as long as all counts stay below 2^53.

    Examples
    --------
    >>> from headprobe.headhunt.ranking import count_videos
    >>> pair_wins(count_videos({"a": [0.9, 0.1], "b": [0.1, 0.1]}, {"a": [1, 0], "b": [0, 0]})).tolist()
    [[2.0, 4.0], [0.0, 0.0]]
    """
    n = len(videos)
    levels, abnormal = _abnormal_levels(videos)
    score, count, video = _rows(videos, "normal")
    # A normal frame counts once from the first level at or above it on, and once more from the first above it.
    rows = np.concatenate([np.searchsorted(levels, score, side) for side in ("left", "right")])
    inside = rows < len(levels)
    placed = (rows[inside], np.tile(video, 2)[inside])
    rises = csr_array((np.tile(count, 2)[inside], placed), shape=(len(levels), n))
    wins, below = np.zeros((n, n)), np.zeros(n)
    step = max(1, _BLOCK // n)
    for start in range(0, len(levels), step):
        running = rises[start : start + step].toarray()
        running[0] += below
        np.cumsum(running, axis=0, out=running)
        wins += abnormal[start : start + step].T @ running
        below = running[-1].copy()
    return wins


def weighted_precision(videos: Sequence[Counts]) -> Callable[[np.ndarray], tuple[float, float] | None]:
    """Prepare average precision and trapezoid area for any number of copies of each video.

    Only levels that hold an abnormal frame move recall, so counts are kept there alone.

    Parameters
    ----------
    videos
        Frames of each video by score; at least one abnormal frame among them.

    Returns
    -------
    callable
        From copies per video, `[video]`, to (average precision, trapezoid area) as `precision_recall` gives them
        for the copied videos; None if there is no abnormal or no normal frame among them.

    Examples
    --------
    >>> from headprobe.headhunt.ranking import count_videos
    >>> videos = count_videos({"a": [0.9, 0.1], "b": [0.9, 0.9]}, {"a": [1, 1], "b": [0, 0]})
    >>> number = weighted_precision(videos)
    >>> number(np.array([1, 1])), number(np.array([1, 0]))
    ((0.41666666666666663, 0.5416666666666666), None)
    """
    levels, abnormal = _abnormal_levels(videos)
    n_levels, n = len(levels), len(videos)
    score, count, video = _rows(videos, "normal")
    # Rows from the top: even ones hold the normal frames above a level (and below the one before), odd ones its ties.
    left, right = (np.searchsorted(levels, score, side) for side in ("left", "right"))
    place = 2 * (n_levels - right) + (right > left) * 1
    normal = csr_array((count, (place, video)), shape=(2 * n_levels + 2, n))
    from_top = abnormal[::-1].tocsr()

    def number(weight: np.ndarray) -> tuple[float, float] | None:
        w = weight.astype(np.float64)
        found, passed = from_top @ w, np.cumsum(normal @ w)
        if not found.any() or not passed[-1]:
            return None
        hits = np.cumsum(found)
        recall_step = found / hits[-1]
        precision = hits / np.maximum(hits + passed[1 : 2 * n_levels : 2], 1)
        before = hits - found
        alarms = before + passed[: 2 * n_levels : 2]
        earlier = np.where(alarms > 0, before / np.maximum(alarms, 1), 1.0)
        return float(recall_step @ precision), float(recall_step @ (precision + earlier) / 2)

    return number


def _abnormal_levels(videos: Sequence[Counts]) -> tuple[np.ndarray, csr_array]:
    """Distinct scores of abnormal frames, ascending, and how many of each video are at each."""
    score, count, video = _rows(videos, "abnormal")
    levels, place = np.unique(score, return_inverse=True)
    return levels, csr_array((count, (place, video)), shape=(len(levels), len(videos)))


def _rows(videos: Sequence[Counts], kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Score, frames and video of every distinct score of a video that has a frame of this kind."""
    held = [getattr(c, kind) > 0 for c in videos]
    score = np.concatenate([c.score[rows] for c, rows in zip(videos, held, strict=True)])
    count = np.concatenate([getattr(c, kind)[rows] for c, rows in zip(videos, held, strict=True)])
    video = np.repeat(np.arange(len(videos)), [int(rows.sum()) for rows in held])
    return score, count.astype(np.float64), video
