"""Intervals over test videos, for a number and for the difference of two methods: by resampling them, or by t."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.sparse import csr_array
from scipy.special import expit, logit, ndtr, ndtri
from scipy.stats import t as student

from headprobe import _validation
from headprobe.errors import InputError
from headprobe.evaluation.frames import FrameScores, _count_videos, _Counts, _wins_and_pairs

__all__ = [
    "METRICS",
    "Interval",
    "bootstrap",
    "bootstrap_difference",
    "bootstrap_videos",
    "pair_wins",
]


def pair_wins(videos: Sequence[_Counts], block: int = 1 << 20) -> Float[np.ndarray, "video video"]:
    """Count for all pairs of videos how often an abnormal frame of one outranks a normal frame of the other.

    Parameters
    ----------
    videos
        Frames of each video by score; at least one abnormal frame among them.
    block
        Entries of the table of running counts that are held at a time.

    Returns
    -------
    numpy.ndarray
        `[video, video]`, whole numbers as float64: twice the pairs (abnormal frame of the row's video, normal frame
        of the column's) in the right order, ties once. With `w` copies of each video, `w @ wins @ w` is twice the
        wins over all frames. Exact as long as all counts stay below 2^53.

    Examples
    --------
    >>> from headprobe.evaluation.frames import _count_videos as count_videos
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
    step = max(1, block // n)  # rows of the table of running counts that are held at a time
    for start in range(0, len(levels), step):
        running = rises[start : start + step].toarray()
        running[0] += below
        np.cumsum(running, axis=0, out=running)
        wins += abnormal[start : start + step].T @ running
        below = running[-1].copy()
    return wins


def _weighted_precision(videos: Sequence[_Counts]) -> Callable[[np.ndarray], tuple[float, float] | None]:
    """From copies per video, `[video]`, to average precision and trapezoid area; None where one class is missing."""
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


def _abnormal_levels(videos: Sequence[_Counts]) -> tuple[np.ndarray, csr_array]:
    """Distinct scores of abnormal frames, ascending, and how many of each video are at each."""
    score, count, video = _rows(videos, "abnormal")
    levels, place = np.unique(score, return_inverse=True)
    return levels, csr_array((count, (place, video)), shape=(len(levels), len(videos)))


def _rows(videos: Sequence[_Counts], kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Score, frames and video of every distinct score of a video that has a frame of this kind."""
    held = [getattr(c, kind) > 0 for c in videos]
    score = np.concatenate([c.score[rows] for c, rows in zip(videos, held, strict=True)])
    count = np.concatenate([getattr(c, kind)[rows] for c, rows in zip(videos, held, strict=True)])
    video = np.repeat(np.arange(len(videos)), [int(rows.sum()) for rows in held])
    return score, count.astype(np.float64), video


METRICS = (
    "auc",
    "ap",
    "pr_auc_trapezoid",
    "within_auc",
    "anomaly_videos_auc",
    "within_auc_pairs",
    "cross_auc",
)
"""Numbers of `evaluate` that can be resampled."""

KINDS = ("percentile", "bca", "t")
Number = Callable[[np.ndarray], float | None]


@dataclass(frozen=True)
class Interval:
    """An interval of a number over resampled videos.

    Parameters
    ----------
    estimate
        The number on the videos as they are.
    low, high
        Ends of the interval.
    confidence
        Its coverage, 0 to 1.
    n_resamples
        Resamples used; 0 for the t interval, which draws none.
    n_redrawn
        Draws thrown away because the number is not defined on them (one class only).
    kind
        `"percentile"`, `"bca"` or `"t"`.

    Examples
    --------
    >>> Interval(0.8, 0.7, 0.9, 0.95, 1000, 0).kind
    'percentile'
    """

    estimate: float
    low: float
    high: float
    confidence: float
    n_resamples: int
    n_redrawn: int
    kind: str = "percentile"


def bootstrap(
    number: Number,
    n_videos: int,
    n_resamples: int = 1000,
    confidence: float = 0.95,
    kind: str = "percentile",
    random_state: int = 0,
    *,
    strata: ArrayLike | None = None,
    bounded: bool = False,
) -> Interval:
    """Interval of a number over videos: by resampling whole videos with replacement, or by leaving out one at a time.

    Parameters
    ----------
    number
        From how often each video is drawn, `[video]`, to the number, or to None where it is not defined.
    n_videos
        At least 2.
    n_resamples
        Resamples, at least 1.
    confidence
        Coverage, between 0 and 1.
    kind
        `"percentile"`: quantiles of the resampled numbers (Efron and Tibshirani, "An Introduction to the Bootstrap",
        1993, section 13.3). `"bca"`: bias-corrected and accelerated (section 14.3), which shifts the quantiles
        where the resamples are biased or skewed; the acceleration comes from leaving out one video at a time. `"t"`:
        the standard error by leaving out one video at a time (the jackknife; of an AUC it is DeLong's, by video:
        Obuchowski, Biometrics 53, 1997) times the quantile of Student's t, with the degrees of freedom that
        Satterthwaite's formula gives for `strata`. With few videos it holds what it says where the other two do not
        (`analyses/benchmarks`, coverage).
    random_state
        Seed.
    strata
        For `"t"`: the kind of each video, `[video]`, such as normal and abnormal; None takes all for one kind.
    bounded
        For `"t"`: the number lies between 0 and 1, so that the interval is made on its log-odds and stays there.

    Returns
    -------
    Interval
        Resamples on which the number is not defined are drawn again and counted.

    Raises
    ------
    InputError
        If a setting is out of range, the number is not defined on the videos, on fewer than one in a hundred
        resamples, or, for BCa and t, without one of the videos; or, for t, it is the same without any of them.

    Examples
    --------
    >>> values = np.array([1.0, 2.0, 4.0, 5.0])
    >>> interval = bootstrap(lambda weight: float(weight @ values / weight.sum()), 4)
    >>> interval.estimate, interval.low < 3 < interval.high
    (3.0, True)
    """
    _validation.count(n_resamples, "n_resamples")
    if _validation.number(confidence, "confidence", above=0, most=1) == 1:
        raise InputError("confidence is 1; it must be a number below 1.")
    _validation.choice(kind, "kind", KINDS)
    if n_videos < 2:
        raise InputError("one video cannot be resampled: give at least two")
    once = np.ones(n_videos, dtype=np.int64)
    estimate = number(once)
    if estimate is None:
        raise InputError(
            "the number is not defined on these videos: it has no pair of frames, or no event, to be taken over"
        )
    if kind == "t":
        low, high = _by_t(number, estimate, n_videos, confidence, strata, bounded)
        return Interval(estimate, low, high, confidence, 0, 0, kind)
    rng = np.random.default_rng(random_state)
    drawn: list[float] = []
    redrawn = 0
    while len(drawn) < n_resamples:
        value = number(np.bincount(rng.integers(n_videos, size=n_videos), minlength=n_videos))
        if value is not None:
            drawn.append(value)
            continue
        redrawn += 1
        if redrawn > 100 * (n_resamples + 1):
            raise InputError(
                f"the number is defined on only {len(drawn)} of {len(drawn) + redrawn} resamples: "
                "too few videos carry it"
            )
    tail = (1 - confidence) / 2
    levels = [tail, 1 - tail]
    if kind == "bca":
        left_out = [number(once - row) for row in np.eye(n_videos, dtype=np.int64)]
        levels = _bca_levels(estimate, np.array(drawn), left_out, levels)
    low, high = np.quantile(drawn, levels)
    return Interval(estimate, float(low), float(high), confidence, n_resamples, redrawn, kind)


def bootstrap_videos(
    scores: FrameScores,
    truth: FrameScores,
    metric: str = "auc",
    n_resamples: int = 1000,
    confidence: float = 0.95,
    random_state: int = 0,
    kind: str = "percentile",
) -> Interval:
    """Say how far a number moves when other videos of the same kind had been drawn.

    Whole videos are resampled, because frames of a video are not independent. A video that is drawn twice counts as
    two videos.

    Parameters
    ----------
    scores, truth
        As in `evaluate`; at least two videos.
    metric
        One of `METRICS`.
    n_resamples, confidence, random_state, kind
        As in `bootstrap`.

    Returns
    -------
    Interval
        The estimate with its interval. The AUCs come from counts between videos, made once, and cost next to nothing
        per resample; `ap` and `pr_auc_trapezoid` pass over all distinct scores for each.

    Raises
    ------
    InputError
        As in `evaluate` and `bootstrap`.

    Examples
    --------
    >>> truth = {v: [0, 0, 1, 1] for v in "abcd"}
    >>> scores = {v: [0.1, 0.6, 0.4, i / 4] for i, v in enumerate("abcd")}
    >>> interval = bootstrap_videos(scores, truth, n_resamples=200)
    >>> interval.low <= interval.estimate <= interval.high
    True
    """
    _validation.choice(metric, "metric", METRICS)
    videos = _count_videos(scores, truth)
    settings = (n_resamples, confidence, kind, random_state)
    return _named(metric, _number(videos, metric), len(videos), settings, _kinds(videos), True)


def bootstrap_difference(
    first: FrameScores,
    second: FrameScores,
    truth: FrameScores,
    metric: str = "auc",
    n_resamples: int = 1000,
    confidence: float = 0.95,
    random_state: int = 0,
    kind: str = "percentile",
) -> Interval:
    """Interval of a number of one method minus that of another, on the same resamples of the same videos.

    Two methods are right and wrong on much the same videos, so the difference varies less than either: overlapping
    intervals of the two do not mean that they cannot be told apart.

    Parameters
    ----------
    first, second
        Scores of the two methods, as in `evaluate`.
    truth
        Labels of the same videos.
    metric, n_resamples, confidence, random_state, kind
        As in `bootstrap_videos`.

    Returns
    -------
    Interval
        Of `first` minus `second`. An interval on one side of 0 says that the sign would hold for other videos of
        this kind; it says nothing of other calibration draws.

    Raises
    ------
    InputError
        As in `bootstrap_videos`.

    Examples
    --------
    >>> truth = {v: [0, 0, 1, 1] for v in "abcd"}
    >>> good, bad = dict.fromkeys(truth, [0.1, 0.2, 0.8, 0.9]), dict.fromkeys(truth, [0.5, 0.5, 0.5, 0.5])
    >>> interval = bootstrap_difference(good, bad, truth)
    >>> interval.estimate, interval.low, interval.high
    (0.5, 0.5, 0.5)
    """
    _validation.choice(metric, "metric", METRICS)
    # In one order of videos, that of truth, so that a resample means the same videos for both.
    sides = [
        _count_videos({video: s[video] for video in truth if video in s} | dict(s), truth) for s in (first, second)
    ]
    one, other = (_number(side, metric) for side in sides)

    def difference(weight: np.ndarray) -> float | None:
        a, b = one(weight), other(weight)
        return None if a is None or b is None else a - b

    settings = (n_resamples, confidence, kind, random_state)
    return _named(metric, difference, len(sides[0]), settings, _kinds(sides[0]), False)


def _kinds(videos: Sequence[_Counts]) -> np.ndarray:
    """Whether each video has an abnormal frame: both kinds carry a number in their own way."""
    return np.array([bool(c.abnormal.sum()) for c in videos])


def _named(
    metric: str, number: Number, n_videos: int, settings: tuple[int, float, str, int], strata: ArrayLike, bounded: bool
) -> Interval:
    try:
        return bootstrap(number, n_videos, *settings, strata=strata, bounded=bounded)
    except InputError as error:
        raise InputError(f"{metric}: {error}") from error


def _number(videos: list[_Counts], metric: str) -> Number:
    if metric in ("ap", "pr_auc_trapezoid"):
        return _precision_number(videos, 0 if metric == "ap" else 1)
    wins, pairs = np.array([_wins_and_pairs(c) for c in videos], dtype=np.float64).T
    if metric == "within_auc":
        return _mean_number(wins, pairs)
    if metric == "within_auc_pairs":
        return lambda weight: _share(float(weight @ wins), float(weight @ pairs))
    abnormal, normal = (np.array([float(c[i].sum()) for c in videos]) for i in (1, 2))
    table = pair_wins(videos)

    def number(weight: np.ndarray) -> float | None:
        w = weight.astype(np.float64)
        if metric == "anomaly_videos_auc":
            w = w * (abnormal > 0)
        won, total = float(w @ table @ w), float((w @ abnormal) * (w @ normal))
        if metric == "cross_auc":
            won, total = won - float(w @ wins), total - float(w @ pairs)
        return _share(won, total)

    return number


def _share(wins: float, pairs: float) -> float | None:
    return wins / (2 * pairs) if pairs else None


def _mean_number(wins: np.ndarray, pairs: np.ndarray) -> Number:
    both = pairs > 0
    aucs = wins[both] / (2 * pairs[both])

    def number(weight: np.ndarray) -> float | None:
        total = weight[both].sum()
        return float((weight[both] * aucs).sum() / total) if total else None

    return number


def _precision_number(videos: list[_Counts], which: int) -> Number:
    areas = _weighted_precision(videos)

    def number(weight: np.ndarray) -> float | None:
        found = areas(weight)
        return None if found is None else found[which]

    return number


def _by_t(
    number: Number, estimate: float, n: int, confidence: float, strata: ArrayLike | None, bounded: bool
) -> tuple[float, float]:
    """Ends of the t interval from leaving out one video at a time."""
    once = np.ones(n, dtype=np.int64)
    left_out = [number(once - row) for row in np.eye(n, dtype=np.int64)]
    known = np.array([value for value in left_out if value is not None])
    if len(known) < n:
        raise InputError(
            f"the t interval leaves out one video at a time, and without one of {n - len(known)} of them the number is "
            "not defined: too few videos carry it"
        )
    away = (known - known.mean()) ** 2
    error = math.sqrt((n - 1) / n * away.sum())
    if error <= 1e-12 * max(abs(estimate), 1.0) or (bounded and not 0 < estimate < 1):
        raise InputError(
            f"the number is {estimate:.4g} whichever video is left out, so its spread over videos is not known: more "
            "videos, or harder ones, are needed for an interval"
        )
    kinds = np.zeros(n) if strata is None else np.asarray(strata)
    held = [away[kinds == kind] for kind in np.unique(kinds)]
    spread = [(float(one.sum()), max(len(one) - 1, 1)) for one in held]
    freedom = sum(part for part, _ in spread) ** 2 / sum(part**2 / df for part, df in spread)
    reach = float(student.ppf((1 + confidence) / 2, freedom)) * error
    if not bounded:
        return estimate - reach, estimate + reach
    middle, reach = float(logit(estimate)), reach / (estimate * (1 - estimate))
    return float(expit(middle - reach)), float(expit(middle + reach))


def _bca_levels(
    estimate: float, drawn: np.ndarray, left_out: Sequence[float | None], levels: Sequence[float]
) -> list[float]:
    """The levels at which BCa takes the quantiles: Efron and Tibshirani, equations 14.10 to 14.15."""
    known = np.array([value for value in left_out if value is not None])
    if len(known) < len(left_out):
        raise InputError(
            f"BCa leaves out one video at a time, and without one of {len(left_out) - len(known)} of them the number "
            "is not defined: take kind='percentile'"
        )
    below = float(np.mean(drawn < estimate) + np.mean(drawn == estimate) / 2)
    if not 0 < below < 1:
        raise InputError(
            f"BCa cannot correct a bias this large: all {len(drawn)} resamples lie on one side of the estimate; "
            "take more of them, or kind='percentile'"
        )
    bias = float(ndtri(below))
    away = known.mean() - known
    spread = float((away**2).sum())
    acceleration = float((away**3).sum()) / (6 * spread**1.5) if spread > 0 else 0.0
    shifted = [bias + float(ndtri(level)) for level in levels]
    out = [float(ndtr(bias + z / (1 - acceleration * z))) for z in shifted]
    if any(1 - acceleration * z <= 0 for z in shifted) or not all(math.isfinite(level) for level in out):
        raise InputError(
            f"BCa is not defined with an acceleration of {acceleration:.2f}: one video decides the number; take "
            "kind='percentile'"
        )
    return out
