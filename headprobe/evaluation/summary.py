"""Everything that is reported of one method on one test set, as one table of plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from headprobe.errors import InputError
from headprobe.evaluation.bootstrap import bootstrap_difference, bootstrap_videos
from headprobe.evaluation.controls import blind_scores, controls
from headprobe.evaluation.events import evaluate_events
from headprobe.evaluation.frames import FrameScores, evaluate, evaluate_by_class
from headprobe.evaluation.videos import rank_videos, video_labels, video_scores
from headprobe.video.spans import events_above, spans_in_seconds, stretches

__all__ = ["evaluate_by_label", "full_evaluation"]


def full_evaluation(
    scores: FrameScores,
    truth: FrameScores,
    *,
    classes: Mapping[str, Sequence[str] | str] | None = None,
    tau: float | None = None,
    fps: float | None = None,
    n_resamples: int = 0,
    kind: str | None = "percentile",
    random_state: int = 0,
) -> dict[str, Any]:
    """Frame level, controls, video level, and as asked for classes, events and intervals.

    Parameters
    ----------
    scores, truth
        As in `evaluate`.
    classes
        As in `evaluate_by_class`, for `by_class`.
    tau
        Threshold, for `events`: frames that score it or more, in runs.
    fps
        Frame rate of the videos, needed with `tau`.
    n_resamples
        Resamples for `intervals` by resampling; 0 for none.
    kind
        Of the intervals, as in `bootstrap`; `"t"` needs no resamples. None: no intervals.
    random_state
        Seed of resamples and of the random controls.

    Returns
    -------
    dict
        The numbers of `evaluate`; `controls`; `video_level` as from `rank_videos`, None if all videos are of one kind;
        `by_class`; `events`; `intervals` of `auc`, `ap`, `within_auc`, and of `auc` and `within_auc` minus
        those of the constant and the position prior; text in the place of a t interval says why there is none.

    Raises
    ------
    InputError
        As in the functions named.

    Examples
    --------
    >>> result = full_evaluation({"a": [0.1, 0.9], "b": [0.5, 0.5]}, {"a": [0, 1], "b": [0, 0]})
    >>> result["auc"], result["controls"]["constant_per_video"]["auc"], result["video_level"]["max"]["auc"]
    (1.0, 0.8333333333333334, 1.0)
    """
    out: dict[str, Any] = evaluate(scores, truth)
    out["controls"] = controls(truth, scores, random_state=random_state)
    out["video_level"] = rank_videos(scores, video_labels(truth), {v: len(np.asarray(t)) for v, t in truth.items()})
    if classes is not None:
        out["by_class"] = evaluate_by_class(scores, truth, classes)
    if tau is not None:
        found = {v: spans_in_seconds(events_above(values, tau), fps=fps) for v, values in scores.items()}
        true = {v: spans_in_seconds(stretches(t), fps=fps) for v, t in truth.items()}
        length = {v: spans_in_seconds([(0, len(np.asarray(t)))], fps=fps)[0][1] for v, t in truth.items()}
        out["events"] = {"tau": tau, "fps": fps} | evaluate_events(found, true, length)
    if kind == "t" or (n_resamples and kind is not None):
        out["intervals"] = _intervals(scores, truth, n_resamples, kind, random_state, bool(out["n_within_videos"]))
    return out


def evaluate_by_label(
    scores: Mapping[str, Sequence[float]],
    labels: Mapping[str, int],
    *,
    n_resamples: int = 0,
    kind: str | None = "t",
    random_state: int = 0,
) -> dict[str, Any]:
    """What can be said where only the label of each video is known: numbers over videos.

    Parameters
    ----------
    scores
        Video to its scores, one or more, of frames, segments or the whole.
    labels
        The same videos, 0 or 1; both must occur.
    n_resamples, kind, random_state
        As in `full_evaluation`.

    Returns
    -------
    dict
        `n_videos`, `n_abnormal_videos`, `video_level` as from `rank_videos`, and `intervals` of the AUC by the highest
        and by the mean score; text in the place of an interval says why there is none.

    Raises
    ------
    InputError
        As in `evaluate_videos`.

    Examples
    --------
    >>> found = evaluate_by_label({"a": [0.9], "b": [0.1], "c": [0.4], "d": [0.3]}, {"a": 1, "b": 0, "c": 0, "d": 1})
    >>> found["video_level"]["max"]["auc"], found["intervals"]["auc_by_max"]["kind"]
    (0.75, 't')
    """
    ranked = rank_videos(scores, labels)
    if ranked is None:
        raise InputError(f"all {len(labels)} videos have one label: ranking videos needs both kinds")
    out: dict[str, Any] = {"n_videos": len(labels), "n_abnormal_videos": sum(labels.values()), "video_level": ranked}
    if kind == "t" or (n_resamples and kind is not None):
        truth = {video: [label] for video, label in labels.items()}
        out["intervals"] = {
            f"auc_by_{how}": _interval_or_why(
                {video: [value] for video, value in video_scores(scores, how).items()},
                truth,
                "auc",
                {"n_resamples": n_resamples or 1, "kind": kind, "random_state": random_state},
            )
            for how in ("max", "mean")
        }
    return out


def _interval_or_why(
    scores: FrameScores, truth: FrameScores, metric: str, settings: Mapping[str, Any], other: FrameScores | None = None
) -> dict[str, Any] | str:
    """An interval of a number that is defined, or why these videos give none."""
    try:
        if other is None:
            return asdict(bootstrap_videos(scores, truth, metric, **settings))
        return asdict(bootstrap_difference(scores, other, truth, metric, **settings))
    except InputError as error:
        if settings["kind"] != "t":
            raise
        return str(error)


def _intervals(
    scores: FrameScores, truth: FrameScores, n_resamples: int, kind: str | None, seed: int, within: bool
) -> dict[str, Any]:
    settings: dict[str, Any] = {"n_resamples": n_resamples or 1, "kind": kind, "random_state": seed}
    blind = blind_scores(truth)
    metrics = ("auc", "ap", "within_auc") if within else ("auc", "ap")
    out: dict[str, Any] = {metric: _interval_or_why(scores, truth, metric, settings) for metric in metrics}
    pairs = [("auc", "constant_per_video"), *([("within_auc", "position_prior")] if within else [])]
    for metric, name in pairs:
        out[f"{metric}_minus_{name}"] = _interval_or_why(scores, truth, metric, settings, blind[name])
    return out
