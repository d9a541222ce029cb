"""Event level with classes: mean average precision of events that are found, placed and named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from headprobe._validation import check_same_videos, count, number
from headprobe.errors import InputError
from headprobe.video.spans import Seconds, stretches, temporal_iou

__all__ = ["class_events", "segment_map"]

Found = tuple[float, float, str, float]
_ROUNDING = 1e-9


def class_events(
    scores: Float[np.ndarray, "row class"],
    classes: Sequence[str],
    seconds_per_row: float = 1.0,
    *,
    depth: float = 0.6,
    least: float = 0.0,
) -> list[Found]:
    """Events of every class in the curves of a video, by the rule of VadCLIP (AAAI 2024).

    A class's event is a stretch above its own curve's maximum less `depth` of the curve's range, so every class has one
    in every video whose curve is not flat; its score is the highest of the stretch plus .7 of the mean over the highest
    sixteenth of the video, and average precision ranks by it.

    Parameters
    ----------
    scores
        Curves of a video, finite.
    classes
        Names of the columns.
    seconds_per_row
        What a row stands for; events are in this unit.
    depth
        Share of a curve's range, above 0 and below 1.
    least
        Shortest event.

    Returns
    -------
    list of tuple
        (start, end, class, score).

    Raises
    ------
    InputError
        Names and columns differ in number, a score is not finite, or a number is out of range.

    Examples
    --------
    >>> class_events(np.array([[0.1], [0.9], [0.8], [0.1]]), ["fall"], least=2.0)
    [(1.0, 3.0, 'fall', 1.53)]
    """
    curves = np.asarray(scores, np.float64)
    number(seconds_per_row, "seconds_per_row", above=0)
    number(depth, "depth", above=0, below=1)
    number(least, "least", 0)
    if curves.ndim != 2 or not len(curves) or curves.shape[1] != len(classes) or not np.isfinite(curves).all():
        raise InputError(
            f"scores are of shape {curves.shape} with {len(classes)} classes; they must be finite numbers [row, class]."
        )
    found: list[Found] = []
    for curve, name in zip(curves.T, classes, strict=True):
        level = float(np.sort(curve)[-max(len(curve) // 16, 1) :].mean())
        above = curve > curve.max() - depth * (curve.max() - curve.min())
        for first, end in stretches(above):
            if (end - first) * seconds_per_row >= least - _ROUNDING:
                place = (first * seconds_per_row, end * seconds_per_row)
                found.append((*place, name, float(curve[first:end].max()) + 0.7 * level))
    return found


def segment_map(
    found: Mapping[str, Sequence[Found]],
    truth: Mapping[str, Sequence[tuple[float, float, str]]],
    ious: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.5),
) -> dict[str, Any]:
    """Mean average precision of named events, over the classes that occur in the truth.

    Found events are taken by falling score; each is a hit if a true event of its video and class that no other has
    taken overlaps it enough, and takes the one that it overlaps most.

    Parameters
    ----------
    found
        Video to its events (start, end, class, score), which may overlap; the higher the score, the surer.
    truth
        Video to its events (start, end, class), in the same unit; none for a normal video.
    ious
        Temporal IoUs from which on two events overlap enough, above 0 and at most 1.

    Returns
    -------
    dict
        `by_iou`: rows with `iou`, `map` and `ap` (class to average precision); `mean_map` over the rows; `n_true` by
        class; and `never_true`, classes that were found and do not occur, which count in no mean.

    Raises
    ------
    InputError
        The mappings name other videos, there is no true event, an event is no stretch of time, or a score not finite.

    Examples
    --------
    >>> found = {"a": [(0, 4, "fall", 0.9), (0, 4, "fight", 0.8)], "b": [(1, 2, "fall", 0.95)]}
    >>> result = segment_map(found, {"a": [(0, 5, "fall")], "b": []}, [0.5])
    >>> result["by_iou"], result["never_true"]
    ([{'iou': 0.5, 'map': 0.5, 'ap': {'fall': 0.5}}], ['fight'])
    """
    check_same_videos(found, truth, "the found events", "truth")
    count(len(ious), "the number of IoU thresholds")
    for video, events in truth.items():
        for event in events:
            _checked(video, event, 3)
    ranked: dict[str, list[tuple[str, Seconds, float]]] = {}
    for video, events in found.items():
        for event in events:
            start, end, name, score = _checked(video, event, 4)
            ranked.setdefault(name, []).append(
                (video, (start, end), number(score, f"the score of an event of {video}"))
            )
    for events in ranked.values():
        events.sort(key=lambda one: -one[2])
    names = sorted({name for events in truth.values() for _, _, name in events})
    if not names:
        raise InputError("no video has a true event; average precision needs one of a class or more.")
    true = {name: {v: [(a, b) for a, b, c in events if c == name] for v, events in truth.items()} for name in names}
    rows = []
    for iou in ious:
        number(iou, "the IoU threshold", above=0, most=1)
        ap = {name: _average_precision(ranked.get(name, []), true[name], iou) for name in names}
        rows.append({"iou": float(iou), "map": float(np.mean(list(ap.values()))), "ap": ap})
    return {
        "by_iou": rows,
        "mean_map": float(np.mean([row["map"] for row in rows])),
        "n_true": {name: sum(map(len, true[name].values())) for name in names},
        "never_true": sorted(set(ranked) - set(names)),
    }


def _average_precision(
    ranked: Sequence[tuple[str, Seconds, float]], true: Mapping[str, Sequence[Seconds]], iou: float
) -> float:
    left = {video: list(events) for video, events in true.items()}
    hits: list[bool] = []
    for video, event, _ in ranked:
        overlap = [temporal_iou(event, other) for other in left[video]]
        best = int(np.argmax(overlap)) if overlap else -1
        hits.append(best >= 0 and overlap[best] >= iou - _ROUNDING)
        if hits[-1]:
            del left[video][best]
    right = np.cumsum(hits)
    precision = right / np.arange(1, len(hits) + 1)
    return float((precision * hits).sum()) / sum(map(len, true.values()))


def _checked(video: str, event: Sequence[Any], n: int) -> Sequence[Any]:
    if len(event) != n or not isinstance(event[2], str) or not 0 <= event[0] < event[1] < np.inf:
        form = "(start, end, class, score)" if n == 4 else "(start, end, class)"
        raise InputError(f"video {video!r}: {event!r} is no event; it must be {form} with 0 <= start < end.")
    return event
