"""Event level: are events found, how exactly, how late, and at the price of how many false alarms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from headprobe._validation import check_same_videos, choice, count, number
from headprobe.errors import InputError
from headprobe.evaluation.bootstrap import Interval, bootstrap
from headprobe.video.spans import Seconds, temporal_iou

__all__ = ["IOUS", "bootstrap_events", "evaluate_events"]

IOUS = tuple(round(0.1 * i, 1) for i in range(1, 10))
"""The temporal IoUs 0.1 to 0.9."""

_SLACK = 1e-6  # seconds by which an event may pass the end of its video, for rounding
_ROUNDING = 1e-9  # of a ratio of seconds, or of seconds


@dataclass(frozen=True, eq=False)
class _Tally:
    """Counts of one video; sums of them give every number of the event level but the median delay."""

    matched: np.ndarray
    n_found: int
    n_true: int
    delays: tuple[float, ...]
    n_false_alarms: int
    seconds: float


def evaluate_events(
    found: Mapping[str, Sequence[Seconds]],
    truth: Mapping[str, Sequence[Seconds]],
    seconds: Mapping[str, float],
    ious: Sequence[float] = IOUS,
) -> dict[str, Any]:
    """Compare the events that were found with the true ones.

    At each IoU a found and a true event of one video can be matched if their temporal IoU is that or more; each
    event is matched once, in the way that matches most of them, so that the order of events does not matter.

    Parameters
    ----------
    found, truth
        Video to its events (start, end) in seconds. Events of one mapping do not overlap inside a video.
    seconds
        Video to its duration, for videos without events too.
    ious
        Thresholds, above 0 and at most 1.

    Returns
    -------
    dict
        - `by_iou`: one row per threshold with `iou`, `n_matched`, `precision` (of the found events), `recall`
          (of the true ones) and `f1`; `mean_f1` is the mean of the last over the thresholds;
        - `n_detected`: true events that a found event overlaps at all; `n_missed`: the others;
        - `delay_mean`, `delay_median`: seconds from a detected event's start to the first moment inside it that a
          found event covers; 0 where the alarm was already on. Of detected events only, so read it beside
          `n_missed`. An offline smoother looks ahead, so for it this is no waiting time of a user;
        - `n_false_alarms`: found events that overlap no true one; `false_alarms_per_hour`: over the hours of all
          videos; `false_alarms_per_hour_normal`: those in videos without an event, over their hours;
        - `n_found`, `n_true`, `n_videos`, `hours`.

        A ratio with nothing below the line is None.

    Raises
    ------
    InputError
        If the mappings name other videos, an event is empty, not finite, beyond its video, or overlaps another, a
        duration is not positive, or a threshold is out of range.

    Examples
    --------
    >>> result = evaluate_events({"a": [(5, 9)], "b": [(1, 2)]}, {"a": [(4, 8)], "b": []}, {"a": 10, "b": 3590})
    >>> result["by_iou"][4]
    {'iou': 0.5, 'n_matched': 1, 'precision': 0.5, 'recall': 1.0, 'f1': 0.6666666666666666}
    >>> result["delay_mean"], result["false_alarms_per_hour"]
    (1.0, 1.0)
    """
    tallies = _tallies(found, truth, seconds, ious)
    matched = sum((t.matched for t in tallies), np.zeros(len(ious), dtype=np.int64))
    n_found, n_true = sum(t.n_found for t in tallies), sum(t.n_true for t in tallies)
    rows = [
        {
            "iou": float(iou),
            "n_matched": int(n),
            "precision": _ratio(int(n), n_found),
            "recall": _ratio(int(n), n_true),
            "f1": _ratio(2 * int(n), n_found + n_true),
        }
        for iou, n in zip(ious, matched, strict=True)
    ]
    delays = [delay for t in tallies for delay in t.delays]
    calm = [t for t in tallies if not t.n_true]
    return {
        "by_iou": rows,
        "mean_f1": float(np.mean([row["f1"] for row in rows])) if n_found + n_true else None,
        "n_detected": len(delays),
        "n_missed": n_true - len(delays),
        "delay_mean": float(np.mean(delays)) if delays else None,
        "delay_median": float(np.median(delays)) if delays else None,
        "n_false_alarms": sum(t.n_false_alarms for t in tallies),
        "false_alarms_per_hour": _per_hour(tallies),
        "false_alarms_per_hour_normal": _per_hour(calm),
        "n_found": n_found,
        "n_true": n_true,
        "n_videos": len(tallies),
        "hours": sum(t.seconds for t in tallies) / 3600,
    }


def bootstrap_events(
    found: Mapping[str, Sequence[Seconds]],
    truth: Mapping[str, Sequence[Seconds]],
    seconds: Mapping[str, float],
    metric: str = "f1",
    iou: float = 0.5,
    *,
    other: Mapping[str, Sequence[Seconds]] | None = None,
    n_resamples: int = 1000,
    confidence: float = 0.95,
    kind: str = "percentile",
    random_state: int = 0,
) -> Interval:
    """Interval of an event-level number, or of its difference between two methods, over resampled videos.

    Parameters
    ----------
    found, truth, seconds
        As in `evaluate_events`; at least two videos.
    metric
        `"precision"`, `"recall"`, `"f1"` at `iou`; `"mean_f1"` over IoU 0.1 to 0.9; `"delay_mean"`;
        `"false_alarms_per_hour"`.
    iou
        Threshold of the first three.
    other
        Events of another method on the same videos: the interval is then of `found` minus `other`, both on the same
        resamples.
    n_resamples, confidence, kind, random_state
        As in `bootstrap`.

    Returns
    -------
    Interval
        The value on all videos, with its interval.

    Raises
    ------
    InputError
        As in `evaluate_events` and `bootstrap`.

    Examples
    --------
    >>> truth = {str(i): [(2.0, 4.0)] for i in range(8)}
    >>> found = {str(i): [(2.0, 4.0)] if i % 2 else [] for i in range(8)}
    >>> interval = bootstrap_events(found, truth, dict.fromkeys(truth, 10.0), "recall")
    >>> interval.estimate, interval.low < 0.5 < interval.high
    (0.5, True)
    """
    known = ("precision", "recall", "f1", "mean_f1", "delay_mean", "false_alarms_per_hour")
    choice(metric, "metric", known)
    ious = IOUS if metric == "mean_f1" else (iou,)
    number = _resampled(_tallies(found, truth, seconds, ious), metric)
    if other is not None:
        second = _resampled(_tallies(other, truth, seconds, ious), metric)
        first = number

        def number(weight: np.ndarray) -> float | None:
            a, b = first(weight), second(weight)
            return None if a is None or b is None else a - b

    return bootstrap(
        number,
        len(truth),
        n_resamples,
        confidence,
        kind,
        random_state,
        strata=[bool(len(events)) for events in truth.values()],
        bounded=other is None and metric in ("precision", "recall", "f1", "mean_f1"),
    )


def _tallies(
    found: Mapping[str, Sequence[Seconds]],
    truth: Mapping[str, Sequence[Seconds]],
    seconds: Mapping[str, float],
    ious: Sequence[float],
) -> list[_Tally]:
    check_same_videos(found, truth, "the found events", "truth")
    check_same_videos(truth, seconds, "truth", "the durations")
    count(len(ious), "the number of IoU thresholds")
    for iou in ious:
        number(iou, "the IoU threshold", above=0, most=1)
    return [_tally(video, found[video], events, seconds[video], ious) for video, events in truth.items()]


def _tally(
    video: str, found: Sequence[Seconds], truth: Sequence[Seconds], length: float, ious: Sequence[float]
) -> _Tally:
    number(length, f"the duration of video {video!r}", above=0)
    found, truth = _checked(video, found, length, "found"), _checked(video, truth, length, "true")
    if not found or not truth:
        return _Tally(np.zeros(len(ious), dtype=np.int64), len(found), len(truth), (), len(found), length)
    # Seconds are quotients of frames and rates: 4.8 - 1.6 of 6.4 is half, and events that only touch share nothing.
    overlap = np.array([[temporal_iou(f, t) for t in truth] for f in found])
    overlap[overlap < _ROUNDING] = 0.0
    matched = np.array([_most_pairs(overlap >= iou - _ROUNDING) for iou in ious])
    delays = []
    for column, (start, _) in enumerate(truth):
        touching = np.flatnonzero(overlap[:, column])
        if len(touching):
            delays.append(max(0.0, found[touching[0]][0] - start))
    alarms = int((overlap.max(axis=1) == 0).sum())
    return _Tally(matched, len(found), len(truth), tuple(delays), alarms, length)


def _most_pairs(allowed: np.ndarray) -> int:
    """How many pairs a one-to-one matching can have at most."""
    if not allowed.any():
        return 0
    return int((maximum_bipartite_matching(csr_array(allowed), perm_type="column") >= 0).sum())


def _checked(video: str, events: Sequence[Seconds], length: float, kind: str) -> list[Seconds]:
    ordered = sorted((float(start), float(end)) for start, end in events)
    for place, (start, end) in enumerate(ordered):
        if not (math.isfinite(start) and math.isfinite(end)) or end <= start:
            raise InputError(f"video {video!r}: the {kind} event ({start}, {end}) is no stretch of time (start < end)")
        if start < 0 or end > length + _SLACK:
            raise InputError(
                f"video {video!r}: the {kind} event ({start}, {end}) lies beyond the video of {length} seconds; "
                "events and durations must be in the same unit"
            )
        if place and start < ordered[place - 1][1] - _ROUNDING:
            raise InputError(
                f"video {video!r}: the {kind} events {ordered[place - 1]} and ({start}, {end}) overlap: make them one"
            )
    return ordered


def _resampled(tallies: Sequence[_Tally], metric: str) -> Any:
    matched = np.array([t.matched for t in tallies])
    n_found, n_true, alarms = (
        np.array([getattr(t, n) for t in tallies]) for n in ("n_found", "n_true", "n_false_alarms")
    )
    delay, detected = np.array([sum(t.delays) for t in tallies]), np.array([len(t.delays) for t in tallies])
    length = np.array([t.seconds for t in tallies])

    def number(weight: np.ndarray) -> float | None:
        if metric == "delay_mean":
            return _ratio(float(weight @ delay), int(weight @ detected))
        if metric == "false_alarms_per_hour":
            return float(weight @ alarms) / float(weight @ length) * 3600
        hits, f, t = weight @ matched, int(weight @ n_found), int(weight @ n_true)
        below = {"precision": f, "recall": t}.get(metric, (f + t) / 2)
        return float(np.mean(hits / below)) if below else None

    return number


def _ratio(above: float, below: float) -> float | None:
    return above / below if below else None


def _per_hour(tallies: Sequence[_Tally]) -> float | None:
    return _ratio(sum(t.n_false_alarms for t in tallies) * 3600, sum(t.seconds for t in tallies))
