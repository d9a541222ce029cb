"""A detection run held against ground truth: numbers at the level of frames and events, beside controls."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from numpy.typing import ArrayLike

from headprobe.errors import InputError
from headprobe.headhunt.datasets import Dataset, frame_labels, from_table, ped2, read_text, ucf_crime, xd_violence
from headprobe.headhunt.datasets.grammar import name_of
from headprobe.headhunt.datasets.pedestrians import ped2_name, shanghaitech_name
from headprobe.headhunt.datasets.xd_violence import parse_xd_violence_temporal, xd_violence_classes
from headprobe.headhunt.detect import Detection, shown_name
from headprobe.headhunt.evaluate import bootstrap_videos, controls, evaluate, evaluate_events, to_frames
from headprobe.headhunt.frames import check_truth
from headprobe.video.stretches import stretches

__all__ = ["SELF", "Judgement", "judge", "label_of", "truth_of"]

SELF = "this detector, smoothed"
METRICS = ("auc", "ap", "within_auc")
TRUTHS = ("ucf-crime", "xd-violence", "ped2", "shanghaitech", "table")
"""Data sets whose annotation `truth_of` reads."""


@dataclass(frozen=True)
class Judgement:
    """What a run is worth on the videos whose ground truth is known.

    Parameters
    ----------
    rows
        The detector and its controls: ``name``, ``auc``, ``ap``, ``within_auc``, and the detector's intervals as
        ``auc_low`` and so on; empty where ranking is not defined.
    events
        As from `headprobe.headhunt.evaluate.evaluate_events`; empty without videos.
    videos
        The videos judged.
    seen
        Videos left out because the detector was calibrated on them.
    unknown
        Videos without ground truth.
    n_within
        How many of them have normal and abnormal frames.
    note
        Why there are no rows.
    """

    rows: Sequence[Mapping[str, Any]] = ()
    events: Mapping[str, Any] = field(default_factory=dict)
    videos: Sequence[str] = ()
    seen: Sequence[str] = ()
    unknown: Sequence[str] = ()
    n_within: int = 0
    note: str = ""


def truth_of(
    dataset: str, ground_truth: str | os.PathLike[str], detections: Sequence[Detection]
) -> dict[str, Bool[np.ndarray, " frame"]]:
    """Labels per frame of the videos of a run, from the annotation of a data set and the lengths of the files.

    Parameters
    ----------
    dataset
        One of `TRUTHS`.
    ground_truth
        The temporal annotation, as for `headprobe.headhunt.datasets.read_truth`.
    detections
        The run; files are matched by name.

    Returns
    -------
    dict
        Path of the video as text to labels; videos that the annotation does not name, or of which it does not say
        when, are left out.

    Raises
    ------
    InputError
        The data set is not known, or the file does not follow its grammar, or an event lies beyond its video.
    """
    if dataset not in TRUTHS:
        raise InputError(f"the data set must be one of {', '.join(TRUTHS)}, got {dataset!r}")
    names = [_names(dataset, detection.path) for detection in detections]
    lengths = {each[0]: one.info.n_frames for each, one in zip(names, detections, strict=True)}
    data = _dataset(dataset, read_text(ground_truth), lengths)
    known = {video.name: video.events for video in data.videos}
    out: dict[str, Bool[np.ndarray, " frame"]] = {}
    for candidates, detection in zip(names, detections, strict=True):
        events = next((known[name] for name in candidates if name in known), None)
        if events is not None:
            out[shown_name(detection.path)] = frame_labels(
                events, detection.info.n_frames, max_overrun=data.max_overrun
            )
    return out


def _names(dataset: str, path: Path) -> list[str]:
    """What the annotation may call a file."""
    stem, name = shown_name(path.stem), shown_name(path.name)
    renamed = {"ped2": ped2_name, "shanghaitech": shanghaitech_name}.get(dataset)
    return [(renamed(stem) or stem) if renamed else stem, name]


def _dataset(dataset: str, text: str, lengths: Mapping[str, int]) -> Dataset:
    if dataset == "ucf-crime":
        return ucf_crime(text)
    if dataset == "ped2":
        return ped2(text, {name: n for name, n in lengths.items() if ped2_name(name) == name})
    if dataset != "xd-violence":
        return from_table(text, dataset)
    annotated = parse_xd_violence_temporal(text)
    # The annotation lists abnormal videos only; the code in a name says which others are normal.
    normal = [name for name in lengths if name not in annotated and "_label_" in name and not xd_violence_classes(name)]
    return xd_violence(text, test_list="\n".join([*annotated, *normal]))


def judge(
    detections: Sequence[Detection],
    truth: Mapping[str, ArrayLike],
    calibration_videos: Sequence[str] = (),
    *,
    n_resamples: int = 500,
    random_state: int = 0,
) -> Judgement:
    """Evaluate a run on the videos that have ground truth and that the detector was not calibrated on.

    Parameters
    ----------
    detections
        The run.
    truth
        Path of the video as text, or its name with or without the ending, to ``[frame]`` 0 / 1.
    calibration_videos
        Names of the videos of the calibration; files of these names, wherever they lie, are left out.
    n_resamples
        Bootstrap resamples of the videos for the intervals.
    random_state
        Seed of resamples and of the random controls.

    Returns
    -------
    Judgement

    Raises
    ------
    InputError
        A video has another number of frames than its ground truth.

    Examples
    --------
    >>> judge([], {}).note
    'No video has ground truth and was not used in the calibration.'
    """
    labels: dict[str, np.ndarray] = {}
    judged: list[Detection] = []
    seen, unknown = [], []
    known = {name_of(name) for name in calibration_videos}
    for detection in detections:
        name = shown_name(detection.path)
        own = label_of(detection, truth)
        if own is None:
            unknown.append(name)
        elif name_of(shown_name(detection.path.name)) in known:
            seen.append(name)
        else:
            labels[name] = check_truth(own, name).astype(int)
            judged.append(detection)
    left_out = {"videos": tuple(labels), "seen": tuple(seen), "unknown": tuple(unknown)}
    if not judged:
        return Judgement(**left_out, note="No video has ground truth and was not used in the calibration.")
    events = evaluate_events(
        {shown_name(d.path): [(e.start_seconds, e.end_seconds) for e in d.events] for d in judged},
        {shown_name(d.path): _seconds(d, labels[shown_name(d.path)]) for d in judged},
        {shown_name(d.path): float(d.edges[-1]) for d in judged},
    )
    pooled = np.concatenate(list(labels.values()))
    if pooled.all() or not pooled.any():
        kind = "abnormal" if pooled.all() else "normal"
        return Judgement(**left_out, events=events, note=f"All frames are {kind}, so that scores cannot be ranked.")
    scores = {shown_name(d.path): to_frames(d.smoothed, d.spans, d.info.n_frames) for d in judged}
    own = evaluate(scores, labels)
    n_within = int(own["n_within_videos"] or 0)
    rows = [_row(SELF, own)]
    for metric in METRICS:
        # Resamples of one video are all the same, and would pass for certainty.
        if n_resamples and (n_within if metric == "within_auc" else len(labels)) > 1:
            found = bootstrap_videos(scores, labels, metric, n_resamples=n_resamples, random_state=random_state)
            rows[0] |= {f"{metric}_low": found.low, f"{metric}_high": found.high}
    for name, numbers in controls(labels, scores, random_state=random_state).items():
        rows.append(_row(name.replace("_", " "), numbers))
    return Judgement(rows=rows, events=events, n_within=n_within, **left_out)


def label_of(detection: Detection, truth: Mapping[str, ArrayLike]) -> ArrayLike | None:
    """Ground truth of a video by its path, file name or name, whichever is there; None if none is.

    Parameters
    ----------
    detection
        What was found in a video.
    truth
        Name of a video to its label, or its labels `[frame]`.

    Returns
    -------
    array_like or None
        The ground truth.
    """
    path = detection.path
    names = (shown_name(path), shown_name(path.name), shown_name(path.stem))
    return next((truth[name] for name in names if name in truth), None)


def _seconds(detection: Detection, labels: np.ndarray) -> list[tuple[float, float]]:
    if len(labels) != detection.info.n_frames:
        raise InputError(
            f"{shown_name(detection.path)} has {detection.info.n_frames} frames, but its ground truth {len(labels)}"
        )
    return [(float(detection.edges[a]), float(detection.edges[b])) for a, b in stretches(labels)]


def _row(name: str, numbers: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": name, **{metric: numbers[metric] for metric in METRICS}}
