"""Frame level: ranking over all frames, inside and across videos, in abnormal videos alone, and by class."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from headprobe._validation import check_same_videos, check_spans, check_truth
from headprobe.errors import InputError
from headprobe.video.spans import Span

__all__ = ["FrameScores", "evaluate", "evaluate_by_class", "to_frames"]

FrameScores = Mapping[str, ArrayLike]
"""Video name to one score (or one 0/1 label) per frame of that video."""


class _Counts(NamedTuple):
    """Frames of one or more videos by score, ascending: score, frames of each class, number of the video."""

    score: Float[np.ndarray, " row"]
    abnormal: Int[np.ndarray, " row"]
    normal: Int[np.ndarray, " row"]
    video: Int[np.ndarray, " row"]


def _count_videos(scores: FrameScores, truth: FrameScores) -> list[_Counts]:
    """Count the frames of every video by distinct score, after all the checks that `evaluate` promises."""
    check_same_videos(scores, truth, "scores", "truth")
    counted: list[_Counts] = []
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
        counted.append(_Counts(distinct, abnormal, normal, np.full(len(distinct), number)))
    n_abnormal, n_normal = (sum(int(c[i].sum()) for c in counted) for i in (1, 2))
    if not n_abnormal or not n_normal:
        kind = "abnormal" if n_abnormal else "normal"
        raise InputError(
            f"all {n_abnormal + n_normal} frames of the {len(counted)} videos are {kind}: "
            "ranking is not defined with one class, add videos of the other"
        )
    return counted


def _stack(videos: Iterable[_Counts]) -> _Counts:
    """Counts of all videos in one table ordered by score; a score that two videos share has two rows."""
    score, abnormal, normal, video = (np.concatenate(parts) for parts in zip(*videos, strict=True))
    order = np.argsort(score, kind="stable")
    return _Counts(score[order], abnormal[order], normal[order], video[order])


def _ties(score: np.ndarray) -> np.ndarray:
    """Where each run of equal scores starts."""
    return np.flatnonzero(np.r_[True, score[1:] != score[:-1]])


def _merge(videos: Iterable[_Counts]) -> _Counts:
    """Counts of all videos together, one row per distinct score."""
    stacked = _stack(videos)
    starts = _ties(stacked.score)
    abnormal, normal = (np.add.reduceat(c, starts) for c in (stacked.abnormal, stacked.normal))
    return _Counts(stacked.score[starts], abnormal, normal, stacked.video[starts])


def _wins_and_pairs(counts: _Counts) -> tuple[int, int]:
    """Twice the (abnormal, normal) pairs in the right order, ties once; and the number of pairs; exact."""
    return _count_wins(counts.abnormal, counts.normal), int(counts.abnormal.sum()) * int(counts.normal.sum())


def _count_wins(abnormal: Int[np.ndarray, " row"], normal: Int[np.ndarray, " row"]) -> int:
    """Count twice the pairs in which the abnormal frame has the higher score, and once those that tie."""
    below = np.cumsum(normal) - normal
    return int((abnormal * (2 * below + normal)).sum())


def _precision_recall(abnormal: Int[np.ndarray, " row"], normal: Int[np.ndarray, " row"]) -> tuple[float, float]:
    """Average precision, and the trapezoid area under the precision-recall curve from (0, 1) on."""
    hits = np.cumsum(abnormal[::-1])
    alarms = hits + np.cumsum(normal[::-1])
    seen = alarms > 0
    precision, recall = hits[seen] / alarms[seen], hits[seen] / hits[-1]
    steps = np.diff(recall, prepend=0.0)
    middle = (precision + np.r_[1.0, precision[:-1]]) / 2
    return float((steps * precision).sum()), float((steps * middle).sum())


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
        - `anomaly_videos_auc`: `auc` over the frames of the abnormal videos alone (those with an abnormal frame);
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
    return _numbers(_count_videos(scores, truth))


def evaluate_by_class(
    scores: FrameScores, truth: FrameScores, classes: Mapping[str, Sequence[str] | str]
) -> dict[str, dict[str, float | int | None]]:
    """Evaluate each class of events on its own videos together with all normal ones.

    Parameters
    ----------
    scores, truth
        As in `evaluate`.
    classes
        The same videos: the classes of each abnormal one (a name, or several), none for a normal one. A video of
        several classes is evaluated under each of them. Whatever is given for a video without an abnormal frame
        must be empty.

    Returns
    -------
    dict
        Class, sorted, to the numbers of `evaluate`. Without any normal frame in its videos and without normal
        videos the numbers over pairs are None.

    Raises
    ------
    InputError
        As `evaluate`; if a video has no classes but abnormal frames, or classes but none.

    Examples
    --------
    >>> truth = {"a": [0, 1], "b": [1, 0], "c": [0, 0]}
    >>> scores = {"a": [0.1, 0.9], "b": [0.2, 0.8], "c": [0.1, 0.3]}
    >>> by_class = evaluate_by_class(scores, truth, {"a": "fall", "b": ["fight"], "c": []})
    >>> {name: numbers["within_auc"] for name, numbers in by_class.items()}
    {'fall': 1.0, 'fight': 0.0}
    """
    check_same_videos(scores, classes, "scores", "classes")
    counted = dict(zip(scores, _count_videos(scores, truth), strict=True))
    named: dict[str, tuple[str, ...]] = {}
    for video, given in classes.items():
        names = (given,) if isinstance(given, str) else tuple(given)
        abnormal = bool(counted[video].abnormal.any())
        if abnormal != bool(names):
            held = "abnormal frames but no class" if abnormal else f"the class {names[0]!r} but no abnormal frame"
            raise InputError(f"video {video!r} has {held}: truth and classes do not belong together")
        named[video] = names
    out: dict[str, dict[str, float | int | None]] = {}
    for name in sorted({name for names in named.values() for name in names}):
        out[name] = _numbers([c for video, c in counted.items() if name in named[video] or not named[video]])
    return out


def _numbers(videos: list[_Counts]) -> dict[str, float | int | None]:
    pooled = _merge(videos)
    wins, pairs = _wins_and_pairs(pooled)
    inside = [(w, p) for w, p in map(_wins_and_pairs, videos) if p]
    within_wins, within_pairs = sum(w for w, _ in inside), sum(p for _, p in inside)
    cross_pairs = pairs - within_pairs
    ap, trapezoid = _precision_recall(pooled.abnormal, pooled.normal)
    abnormal_videos = [c for c in videos if c.abnormal.any()]
    among = (wins, pairs) if len(abnormal_videos) == len(videos) else _wins_and_pairs(_merge(abnormal_videos))
    n_abnormal, n_normal = int(pooled.abnormal.sum()), int(pooled.normal.sum())
    return {
        "auc": _share(wins, pairs),
        "ap": ap,
        "pr_auc_trapezoid": trapezoid,
        "within_auc": float(np.mean([w / (2 * p) for w, p in inside])) if inside else None,
        "anomaly_videos_auc": _share(*among),
        "within_auc_pairs": _share(within_wins, within_pairs),
        "cross_auc": _share(wins - within_wins, cross_pairs),
        "within_weight": within_pairs / pairs if pairs else None,
        "n_within_videos": len(inside),
        "n_videos": len(videos),
        "n_frames": n_abnormal + n_normal,
        "n_abnormal_frames": n_abnormal,
    }


def _share(wins: int, pairs: int) -> float | None:
    """AUC from twice the wins and the pairs."""
    return wins / (2 * pairs) if pairs else None
