"""Everything that is reported of one method on one test set, as one table of plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from headprobe.headhunt.evaluate.bootstrap import bootstrap_difference, bootstrap_videos
from headprobe.headhunt.evaluate.controls import blind_scores, controls
from headprobe.headhunt.evaluate.event_level import evaluate_events
from headprobe.headhunt.evaluate.frame_level import evaluate, evaluate_by_class
from headprobe.headhunt.evaluate.spans import events_above, spans_in_seconds
from headprobe.headhunt.evaluate.video_level import evaluate_videos, video_labels, video_scores
from headprobe.headhunt.ranking import FrameScores
from headprobe.video.stretches import stretches

__all__ = ["full_evaluation"]


def full_evaluation(
    scores: FrameScores,
    truth: FrameScores,
    *,
    classes: Mapping[str, Sequence[str] | str] | None = None,
    tau: float | None = None,
    fps: float | None = None,
    n_resamples: int = 0,
    kind: str = "percentile",
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
        Resamples for `intervals`; 0 for none.
    kind
        Of the intervals, `"percentile"` or `"bca"`.
    random_state
        Seed of resamples and of the random controls.

    Returns
    -------
    dict
        The numbers of `evaluate`; `controls`; `video_level` by the highest and the mean score, None if all videos are
        of one kind; `by_class`; `events`; `intervals` of `auc`, `ap`, `within_auc`, and of `auc` and `within_auc` minus
        those of the constant and the position prior.

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
    labels = video_labels(truth)
    both = len(set(labels.values())) == 2
    hows = ("max", "mean")
    out["video_level"] = {how: evaluate_videos(video_scores(scores, how), labels) for how in hows} if both else None
    if classes is not None:
        out["by_class"] = evaluate_by_class(scores, truth, classes)
    if tau is not None:
        found = {v: spans_in_seconds(events_above(values, tau), fps=fps) for v, values in scores.items()}
        true = {v: spans_in_seconds(stretches(t), fps=fps) for v, t in truth.items()}
        length = {v: spans_in_seconds([(0, len(np.asarray(t)))], fps=fps)[0][1] for v, t in truth.items()}
        out["events"] = {"tau": tau, "fps": fps} | evaluate_events(found, true, length)
    if n_resamples:
        out["intervals"] = _intervals(scores, truth, n_resamples, kind, random_state, bool(out["n_within_videos"]))
    return out


def _intervals(
    scores: FrameScores, truth: FrameScores, n_resamples: int, kind: str, seed: int, within: bool
) -> dict[str, Any]:
    settings: dict[str, Any] = {"n_resamples": n_resamples, "kind": kind, "random_state": seed}
    blind = blind_scores(truth)
    metrics = ("auc", "ap", "within_auc") if within else ("auc", "ap")
    out = {metric: asdict(bootstrap_videos(scores, truth, metric, **settings)) for metric in metrics}
    pairs = [("auc", "constant_per_video"), *([("within_auc", "position_prior")] if within else [])]
    for metric, name in pairs:
        difference = bootstrap_difference(scores, blind[name], truth, metric, **settings)
        out[f"{metric}_minus_{name}"] = asdict(difference)
    return out
