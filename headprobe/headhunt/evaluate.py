"""Frame-level evaluation: ranking over all frames, within and across videos; and blind controls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from headprobe.errors import InputError
from headprobe.headhunt.frames import Span, check_spans, check_truth
from headprobe.headhunt.ranking import (
    Counts,
    FrameScores,
    count_videos,
    count_wins,
    merge,
    precision_recall,
    stack,
    ties,
    wins_and_pairs,
)

__all__ = [
    "FrameScores",
    "Interval",
    "bootstrap_videos",
    "constant_per_video",
    "evaluate",
    "position_prior",
    "to_frames",
]


@dataclass(frozen=True)
class Interval:
    """A percentile interval of a number over resampled videos.

    Parameters
    ----------
    estimate
        The number on the videos as they are.
    low, high
        Ends of the interval.
    confidence
        Its coverage, 0 to 1.
    n_resamples
        Resamples used.
    n_redrawn
        Draws thrown away because the number is not defined on them (one class only).
    """

    estimate: float
    low: float
    high: float
    confidence: float
    n_resamples: int
    n_redrawn: int


def to_frames(segment_scores: ArrayLike, spans: Sequence[Span], n_frames: int) -> Float[np.ndarray, " frame"]:
    """Give every frame the score of the one segment that holds it.

    Parameters
    ----------
    segment_scores
        `[segment]`.
    spans
        (start, end) of each segment in frames, end exclusive; together every frame of the video exactly once.
    n_frames
        Frames of the video.

    Returns
    -------
    numpy.ndarray
        `[n_frames]`, float64.

    Raises
    ------
    InputError
        If a frame is in no segment or in two.

    Examples
    --------
    >>> to_frames([0.2, 0.9], [(0, 3), (3, 5)], n_frames=5).tolist()
    [0.2, 0.2, 0.2, 0.9, 0.9]
    """
    values = np.asarray(segment_scores, dtype=np.float64)
    if values.ndim != 1:
        raise InputError(f"segment scores must be one number per segment, got shape {values.shape}")
    spans = check_spans(spans, len(values), n_frames=n_frames)
    return np.repeat(values, [end - start for start, end in spans])


def evaluate(scores: FrameScores, truth: FrameScores) -> dict[str, float | int | None]:
    """Rank all frames of all videos, and say how much of that is localisation.

    Parameters
    ----------
    scores
        Video name to scores `[frame]`, higher is more abnormal; finite.
    truth
        The same videos, labels `[frame]`, 0 (normal) or 1 (abnormal); over all videos both must occur.

    Returns
    -------
    dict
        - `auc`: area under the ROC curve over all frames, ties counted half (0 to 1; 0.5 is chance);
        - `ap`: average precision, as scikit-learn's `average_precision_score`; `pr_auc_trapezoid`: area under
          the precision-recall curve by the trapezoid rule, which some published numbers are;
        - `within_auc`: mean over the videos with both classes of the AUC inside that video,
          `n_within_videos` of them;
        - `within_auc_pairs`, `cross_auc`, `within_weight`: AUC over (abnormal, normal) frame pairs of the
          same video, of different videos, and the share of pairs in the same video: `auc = within_weight *
          within_auc_pairs + (1 - within_weight) * cross_auc`;
        - `n_videos`, `n_frames`, `n_abnormal_frames`.

        A number over no pair at all is None.

    Raises
    ------
    InputError
        If a video is in one mapping only, lengths differ, a score is not finite, or all frames are of one
        class.

    Examples
    --------
    >>> result = evaluate({"a": [0.1, 0.9], "b": [0.5, 0.5]}, {"a": [0, 1], "b": [0, 0]})
    >>> result["auc"], result["within_auc"], result["cross_auc"], result["n_frames"]
    (1.0, 1.0, 1.0, 4)
    """
    videos = count_videos(scores, truth)
    pooled = merge(videos)
    wins, pairs = wins_and_pairs(pooled)
    inside = [(w, p) for w, p in map(wins_and_pairs, videos) if p]
    within_wins, within_pairs = sum(w for w, _ in inside), sum(p for _, p in inside)
    cross_pairs = pairs - within_pairs
    ap, trapezoid = precision_recall(pooled.abnormal, pooled.normal)
    n_abnormal, n_normal = int(pooled.abnormal.sum()), int(pooled.normal.sum())
    return {
        "auc": wins / (2 * pairs),
        "ap": ap,
        "pr_auc_trapezoid": trapezoid,
        "within_auc": float(np.mean([w / (2 * p) for w, p in inside])) if inside else None,
        "within_auc_pairs": within_wins / (2 * within_pairs) if within_pairs else None,
        "cross_auc": (wins - within_wins) / (2 * cross_pairs) if cross_pairs else None,
        "within_weight": within_pairs / pairs,
        "n_within_videos": len(inside),
        "n_videos": len(videos),
        "n_frames": n_abnormal + n_normal,
        "n_abnormal_frames": n_abnormal,
    }


def bootstrap_videos(
    scores: FrameScores,
    truth: FrameScores,
    metric: str = "auc",
    n_resamples: int = 1000,
    confidence: float = 0.95,
    random_state: int = 0,
) -> Interval:
    """Say how far a number moves when other videos of the same kind had been drawn.

    Whole videos are resampled with replacement (frames of a video are not independent), and the percentile
    interval is taken (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, section 13.3).
    Resamples on which the number is not defined are drawn again and counted.

    Parameters
    ----------
    scores, truth
        As in `evaluate`; at least two videos.
    metric
        `"auc"`, `"ap"` or `"within_auc"`.
    n_resamples
        Resamples, at least 1.
    confidence
        Coverage, between 0 and 1.
    random_state
        Seed.

    Returns
    -------
    Interval
        The estimate with its interval. The work grows with the distinct scores per video, not with the
        frames.

    Raises
    ------
    InputError
        As in `evaluate`, or if there is one video only, or the number is not defined on the videos.

    Examples
    --------
    >>> truth = {v: [0, 0, 1, 1] for v in "abcd"}
    >>> scores = {v: [0.1, 0.6, 0.4, i / 4] for i, v in enumerate("abcd")}
    >>> interval = bootstrap_videos(scores, truth, n_resamples=200)
    >>> interval.low <= interval.estimate <= interval.high
    True
    """
    if metric not in ("auc", "ap", "within_auc"):
        raise InputError(f"metric must be 'auc', 'ap' or 'within_auc', got {metric!r}")
    if n_resamples < 1 or not 0 < confidence < 1:
        raise InputError(
            f"n_resamples must be at least 1 and confidence between 0 and 1, got {n_resamples} and {confidence}"
        )
    videos = count_videos(scores, truth)
    if len(videos) < 2:
        raise InputError("one video cannot be resampled: give at least two")
    number = _within_number(videos) if metric == "within_auc" else _pooled_number(videos, metric)
    estimate = number(np.ones(len(videos), dtype=np.int64))
    if estimate is None:
        raise InputError(f"{metric} is not defined: no video has both classes")
    rng = np.random.default_rng(random_state)
    drawn: list[float] = []
    redrawn = 0
    while len(drawn) < n_resamples:
        value = number(np.bincount(rng.integers(len(videos), size=len(videos)), minlength=len(videos)))
        if value is None:
            redrawn += 1
        else:
            drawn.append(value)
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Interval(estimate, float(low), float(high), confidence, n_resamples, redrawn)


def constant_per_video(truth: FrameScores) -> dict[str, Float[np.ndarray, " frame"]]:
    """Score every frame of an abnormal video 1 and of a normal video 0: a control that knows no time.

    Parameters
    ----------
    truth
        Video name to labels `[frame]`.

    Returns
    -------
    dict
        Video name to scores `[frame]`. Times `position_prior` it is the second control.

    Examples
    --------
    >>> constant_per_video({"a": [0, 1, 0], "b": [0, 0]})["a"].tolist()
    [1.0, 1.0, 1.0]
    """
    checked = {video: check_truth(labels, video) for video, labels in truth.items()}
    return {video: np.full(len(labels), float(labels.any())) for video, labels in checked.items()}


def position_prior(n_frames: int) -> Float[np.ndarray, " frame"]:
    """Score the frames of a video by their position alone: `exp(-1/2 ((t - n // 2) / (n / 2))^2)`.

    Parameters
    ----------
    n_frames
        n, at least 1.

    Returns
    -------
    numpy.ndarray
        `[n_frames]`, above 0, at most 1.

    Raises
    ------
    InputError
        If there is no frame.

    Examples
    --------
    >>> position_prior(4).round(3).tolist()
    [0.607, 0.882, 1.0, 0.882]
    """
    if n_frames < 1:
        raise InputError(f"a video has at least one frame, got n_frames {n_frames}")
    return np.exp(-0.5 * ((np.arange(n_frames) - n_frames // 2) / (n_frames / 2)) ** 2)


def _pooled_number(videos: list[Counts], metric: str) -> Callable[[np.ndarray], float | None]:
    stacked = stack(videos)
    starts = ties(stacked.score)

    def number(weight: np.ndarray) -> float | None:
        of_row = weight[stacked.video]
        abnormal, normal = (np.add.reduceat(c * of_row, starts) for c in (stacked.abnormal, stacked.normal))
        n_abnormal, n_normal = int(abnormal.sum()), int(normal.sum())
        if not n_abnormal or not n_normal:
            return None
        if metric == "auc":
            return count_wins(abnormal, normal) / (2 * n_abnormal * n_normal)
        return precision_recall(abnormal, normal)[0]

    return number


def _within_number(videos: list[Counts]) -> Callable[[np.ndarray], float | None]:
    wins, pairs = np.array([wins_and_pairs(c) for c in videos]).T
    both = pairs > 0
    aucs = wins[both] / (2 * pairs[both])

    def number(weight: np.ndarray) -> float | None:
        total = weight[both].sum()
        return float((weight[both] * aucs).sum() / total) if total else None

    return number
