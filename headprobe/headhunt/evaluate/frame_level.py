"""Frame level: ranking over all frames, inside and across videos, in abnormal videos alone, and by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from headprobe.errors import InputError
from headprobe.headhunt.frames import Span, check_same_videos, check_spans
from headprobe.headhunt.ranking import Counts, FrameScores, count_videos, merge, precision_recall, wins_and_pairs

__all__ = ["evaluate", "evaluate_by_class", "to_frames"]


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
    return _numbers(count_videos(scores, truth))


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
    counted = dict(zip(scores, count_videos(scores, truth), strict=True))
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


def _numbers(videos: list[Counts]) -> dict[str, float | int | None]:
    pooled = merge(videos)
    wins, pairs = wins_and_pairs(pooled)
    inside = [(w, p) for w, p in map(wins_and_pairs, videos) if p]
    within_wins, within_pairs = sum(w for w, _ in inside), sum(p for _, p in inside)
    cross_pairs = pairs - within_pairs
    ap, trapezoid = precision_recall(pooled.abnormal, pooled.normal)
    abnormal_videos = [c for c in videos if c.abnormal.any()]
    among = (wins, pairs) if len(abnormal_videos) == len(videos) else wins_and_pairs(merge(abnormal_videos))
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
