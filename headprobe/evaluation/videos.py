"""Video level: whether a video is abnormal at all, from one score per video."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from headprobe._validation import check_same_videos, check_truth, choice, number
from headprobe.errors import InputError
from headprobe.evaluation.frames import FrameScores, evaluate

__all__ = ["VIDEO_ROWS", "evaluate_videos", "rank_videos", "video_labels", "video_scores"]


def video_scores(
    scores: Mapping[str, ArrayLike], how: Literal["max", "mean", "top"] = "max", top: float = 0.1
) -> dict[str, float]:
    """One score per video from the scores of its frames or segments.

    Parameters
    ----------
    scores
        Video to scores `[frame]` or `[segment]`; finite, at least one.
    how
        `"max"`, `"mean"`, or `"top"`: the mean of the highest share.
    top
        That share, above 0 and at most 1; at least one score is taken.

    Returns
    -------
    dict
        Name to score.

    Raises
    ------
    InputError
        If a video has no scores or one is not finite.

    Examples
    --------
    >>> video_scores({"a": [0.0, 0.5, 1.0]}, "mean"), video_scores({"a": [0.0, 0.5, 1.0]})
    ({'a': 0.5}, {'a': 1.0})
    """
    choice(how, "how", ("max", "mean", "top"))
    number(top, "top", above=0, most=1)
    out = {}
    for video, given in scores.items():
        values = np.asarray(given, dtype=np.float64)
        if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
            raise InputError(f"video {video!r}: expected one finite score or more, got shape {values.shape}")
        if how == "top":
            values = np.sort(values)[-max(1, int(np.ceil(top * len(values)))) :]
        out[video] = float(values.max() if how == "max" else values.mean())
    return out


def video_labels(truth: FrameScores) -> dict[str, int]:
    """1 for the videos with an abnormal frame, 0 for the others.

    Parameters
    ----------
    truth
        Name of each video to its labels `[frame]`.

    Returns
    -------
    dict
        Name to 0 or 1.

    Examples
    --------
    >>> video_labels({"a": [0, 1], "b": [0]})
    {'a': 1, 'b': 0}
    """
    return {video: int(check_truth(labels, video).any()) for video, labels in truth.items()}


VIDEO_ROWS = {"max": "highest score", "mean": "mean score", "length": "length of the video, a control"}
"""Rows of the video level, and what they are called."""


def rank_videos(
    scores: Mapping[str, ArrayLike], labels: Mapping[str, int], lengths: Mapping[str, float] | None = None
) -> dict[str, dict[str, float | int | None]] | None:
    """Rank the videos by the highest and the mean of their scores, beside their length, which looks at no frame.

    Parameters
    ----------
    scores
        Video to its scores `[frame]` or `[segment]`.
    labels
        The same videos, 0 or 1.
    lengths
        Video to its length in any unit; without it there is no control.

    Returns
    -------
    dict or None
        `max`, `mean` and, with lengths, `length`, each as from `evaluate_videos`; None where all videos are of one
        label, which cannot be ranked.

    Raises
    ------
    InputError
        As in `video_scores` and `evaluate_videos`.

    Examples
    --------
    >>> found = rank_videos({"a": [0.2, 0.9], "b": [0.4]}, {"a": 1, "b": 0}, {"a": 20, "b": 30})
    >>> {row: numbers["auc"] for row, numbers in found.items()}
    {'max': 1.0, 'mean': 1.0, 'length': 0.0}
    """
    if len(set(labels.values())) < 2:
        check_same_videos(scores, labels, "scores", "labels")
        return None
    by_row = {"max": video_scores(scores, "max"), "mean": video_scores(scores, "mean")}
    if lengths is not None:
        by_row["length"] = {video: float(length) for video, length in lengths.items()}
    return {row: evaluate_videos(values, labels) for row, values in by_row.items()}


def evaluate_videos(
    scores: Mapping[str, float], labels: Mapping[str, int], threshold: float | None = None
) -> dict[str, float | int | None]:
    """Rank the videos, and with a threshold count those told rightly.

    Parameters
    ----------
    scores
        One finite score per video, higher is more abnormal.
    labels
        The same videos, 0 or 1; both must occur.
    threshold
        Videos that score this or more are called abnormal.

    Returns
    -------
    dict
        `auc`, `ap`, `pr_auc_trapezoid` over the videos, `n_videos`, `n_abnormal_videos`; with a threshold also
        `threshold`, `precision` (None if nothing is called abnormal), `recall`, `f1`, `accuracy` and
        `balanced_accuracy`.

    Raises
    ------
    InputError
        If a video is in one mapping only, a score is not finite, a label neither 0 nor 1, all videos are of one
        label, or the threshold is not a number.

    Examples
    --------
    >>> result = evaluate_videos({"a": 0.9, "b": 0.4, "c": 0.6}, {"a": 1, "b": 0, "c": 0}, threshold=0.5)
    >>> result["auc"], result["precision"], result["recall"], result["balanced_accuracy"]
    (1.0, 0.5, 1.0, 0.75)
    """
    check_same_videos(scores, labels, "scores", "labels")
    if len(set(labels.values())) == 1 and set(labels.values()) <= {0, 1}:
        kind = "abnormal" if 1 in labels.values() else "normal"
        raise InputError(f"all {len(labels)} videos are {kind}: ranking videos needs both kinds")
    ranked = evaluate({v: [s] for v, s in scores.items()}, {v: [label] for v, label in labels.items()})
    out = {key: ranked[key] for key in ("auc", "ap", "pr_auc_trapezoid")}
    out |= {"n_videos": len(scores), "n_abnormal_videos": sum(labels.values())}
    if threshold is None:
        return out
    number(threshold, "threshold")
    called = {video for video, score in scores.items() if score >= threshold}
    abnormal = {video for video, label in labels.items() if label}
    hits, normal = len(called & abnormal), len(scores) - len(abnormal)
    right_normal = normal - len(called - abnormal)
    return out | {
        "threshold": threshold,
        "precision": hits / len(called) if called else None,
        "recall": hits / len(abnormal),
        "f1": 2 * hits / (len(called) + len(abnormal)),
        "accuracy": (hits + right_normal) / len(scores),
        "balanced_accuracy": (hits / len(abnormal) + right_normal / normal) / 2,
    }
