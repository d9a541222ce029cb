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
from headprobe.headhunt.datasets import (
    NORMAL,
    Dataset,
    frame_labels,
    from_folders,
    from_table,
    list_folder,
    ped2,
    read_text,
    ucf_crime,
    xd_violence,
)
from headprobe.headhunt.datasets.catalogue import RENAMED
from headprobe.headhunt.datasets.grammar import match_names, name_of, one_each
from headprobe.headhunt.datasets.pedestrians import ped2_name
from headprobe.headhunt.datasets.xd_violence import parse_xd_violence_temporal, xd_violence_classes
from headprobe.headhunt.detect import Detection, shown_name
from headprobe.headhunt.evaluate import (
    Interval,
    bootstrap_videos,
    controls,
    evaluate,
    evaluate_events,
    evaluate_videos,
    rank_videos,
    to_frames,
    video_scores,
)
from headprobe.headhunt.frames import check_truth
from headprobe.headhunt.material import file_digest
from headprobe.video.stretches import stretches

__all__ = ["SELF", "Judgement", "judge", "labels_by_video", "truth_of"]

SELF = "this detector, smoothed"
METRICS = ("auc", "ap", "within_auc")
TRUTHS = ("ucf-crime", "xd-violence", "ped2", "shanghaitech", "folder", "table")
"""Data sets whose annotation `truth_of` reads."""


@dataclass(frozen=True)
class Judgement:
    """What a run is worth on the videos whose ground truth is known.

    Parameters
    ----------
    rows
        The detector and its controls: ``name``, ``auc``, ``ap``, ``within_auc``, and the detector's intervals as
        ``auc_low`` and so on (95 %, t, over videos), where the videos are enough for one; empty where ranking is not
        defined.
    events
        As from `headprobe.headhunt.evaluate.evaluate_events`; empty without videos.
    videos
        The videos judged frame by frame.
    video_level
        As from `headprobe.headhunt.evaluate.rank_videos`, of all videos with a label, `max` and `mean` with the ends of
        the AUC's interval as ``auc_low`` and ``auc_high``; with ``called``, the numbers of calling a video abnormal
        that has an event (`headprobe.headhunt.evaluate.evaluate_videos`). Empty where all videos are of one label.
    labelled
        Videos of which only the label is known: they count at the level of videos alone.
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
    video_level: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    labelled: Sequence[str] = ()
    seen: Sequence[str] = ()
    unknown: Sequence[str] = ()
    n_within: int = 0
    note: str = ""


def truth_of(
    dataset: str, ground_truth: str | os.PathLike[str], detections: Sequence[Detection], normal: str = NORMAL
) -> dict[str, Bool[np.ndarray, " frame"] | bool]:
    """Labels of the videos of a run, from the annotation of a data set and the lengths of the files.

    Parameters
    ----------
    dataset
        One of `TRUTHS`.
    ground_truth
        The temporal annotation, as for `headprobe.headhunt.datasets.read_truth`.
    detections
        The run. Names of the annotation are paths from its folder, or as much of the end of a path as only one video of
        the run has.
    normal
        For `"folder"`: the folder of the normal videos.

    Returns
    -------
    dict
        Path of the video as text to its labels `[frame]`; to True for an abnormal video of which the annotation does
        not say when. Videos that the annotation does not name are left out.

    Raises
    ------
    InputError
        The data set is not known, or the file does not follow its grammar, an event lies beyond its video, or a name
        fits several videos.
    """
    if dataset not in TRUTHS:
        raise InputError(f"the data set must be one of {', '.join(TRUTHS)}, got {dataset!r}")
    paths = [shown_name(detection.path) for detection in detections]
    rename = RENAMED.get(dataset)
    own = [(rename(path) or path) if rename else path for path in paths]
    data = _dataset(
        dataset, Path(ground_truth), {name: d.info.n_frames for name, d in zip(own, detections, strict=True)}, normal
    )
    base = Path(ground_truth) if dataset == "folder" else Path(ground_truth).parent
    known = {video.name: video for video in data.videos}
    if rename:
        fits = {name: [i for i, one in enumerate(own) if one == name] for name in known}
    else:
        fits = match_names(known, own, base)
    named = one_each({name: places for name, places in fits.items() if places}, paths, os.fspath(ground_truth))
    out: dict[str, Bool[np.ndarray, " frame"] | bool] = {}
    for place in sorted(named):
        events, n_frames = known[named[place]].events, detections[place].info.n_frames
        out[paths[place]] = events is None or frame_labels(events, n_frames, max_overrun=data.max_overrun)
    return out


def _dataset(dataset: str, source: Path, lengths: Mapping[str, int], normal: str) -> Dataset:
    if dataset == "folder":
        return from_folders([video.path for video in list_folder(source).videos], source, normal=normal)
    text = read_text(source)
    if dataset == "ucf-crime":
        return ucf_crime(text)
    if dataset == "ped2":
        return ped2(text, {name: n for name, n in lengths.items() if ped2_name(name) == name})
    if dataset != "xd-violence":
        return from_table(text, dataset)
    annotated = parse_xd_violence_temporal(text)
    # The annotation lists abnormal videos only; the code in a name says which others are normal.
    names = [name_of(path) for path in lengths]
    calm = [name for name in names if name not in annotated and "_label_" in name and not xd_violence_classes(name)]
    return xd_violence(text, test_list="\n".join([*annotated, *dict.fromkeys(calm)]))


def judge(
    detections: Sequence[Detection],
    truth: Mapping[str, ArrayLike | bool],
    calibration_videos: Sequence[str] = (),
    calibration_files: Mapping[str, str] | None = None,
    *,
    random_state: int = 0,
) -> Judgement:
    """Evaluate a run on the videos that have ground truth and that the detector was not calibrated on.

    Parameters
    ----------
    detections
        The run.
    truth
        Name of the video to ``[frame]`` 0 / 1; or to True or False where only the label of the video is known. A name
        is the path, or as much of its end as only one video of the run has, with or without the ending.
    calibration_videos
        Names of the videos of the calibration, in the same way; their files are left out.
    calibration_files
        What the files of these videos hold (`headprobe.headhunt.material.file_digests`): names that stand here are not
        looked at, the files are.
    random_state
        Seed of the random controls.

    Returns
    -------
    Judgement

    Raises
    ------
    InputError
        A video has another number of frames than its ground truth, or a name fits several videos.

    Examples
    --------
    >>> judge([], {}).note
    'No video has ground truth and was not used in the calibration.'
    """
    labels: dict[str, np.ndarray] = {}
    judged: list[Detection] = []
    seen, unknown, by_video = [], [], {}
    known = labels_by_video(detections, truth)
    used = _used(detections, calibration_videos, calibration_files or {})
    for place, detection in enumerate(detections):
        name = shown_name(detection.path)
        own = known.get(name)
        if own is None:
            unknown.append(name)
        elif place in used:
            seen.append(name)
        elif np.ndim(own) == 0:
            by_video[name] = int(bool(own))
        else:
            labels[name] = check_truth(own, name).astype(int)
            judged.append(detection)
    left_out: dict[str, Any] = {
        "videos": tuple(labels),
        "labelled": tuple(by_video),
        "seen": tuple(seen),
        "unknown": tuple(unknown),
    }
    by_video |= {name: int(one.any()) for name, one in labels.items()}
    if not by_video:
        return Judgement(**left_out, note="No video has ground truth and was not used in the calibration.")
    left_out["video_level"] = _video_level([d for d in detections if shown_name(d.path) in by_video], by_video)
    if not judged:
        one_kind = "" if left_out["video_level"] else " All of them are of one label, so that they cannot be ranked."
        return Judgement(
            **left_out,
            note="Only labels of whole videos are known, so nothing can be said of frames and events." + one_kind,
        )
    events = evaluate_events(
        {shown_name(d.path): [(e.start_seconds, e.end_seconds) for e in d.events] for d in judged},
        {shown_name(d.path): _seconds(d, labels[shown_name(d.path)]) for d in judged},
        {shown_name(d.path): float(d.edges[-1]) for d in judged},
    )
    pooled = np.concatenate(list(labels.values()))
    if pooled.all() or not pooled.any():
        kind = "abnormal" if pooled.all() else "normal"
        untimed = sum(by_video.values()) - sum(int(one.any()) for one in labels.values())
        note = f"All frames are {kind}, so that scores cannot be ranked."
        if untimed:
            note = f"No file says when the events of {untimed} abnormal videos happen: frames cannot be ranked."
        return Judgement(**left_out, events=events, note=note)
    scores = {shown_name(d.path): to_frames(d.smoothed, d.spans, d.info.n_frames) for d in judged}
    own = evaluate(scores, labels)
    n_within = int(own["n_within_videos"] or 0)
    rows = [_row(SELF, own)]
    for metric in METRICS:
        if metric == "within_auc" and not n_within:
            continue
        found = _interval(scores, labels, metric)
        if found is not None:
            rows[0] |= {f"{metric}_low": found.low, f"{metric}_high": found.high}
    for name, numbers in controls(labels, scores, random_state=random_state).items():
        rows.append(_row(name.replace("_", " "), numbers))
    return Judgement(rows=rows, events=events, n_within=n_within, **left_out)


def labels_by_video(detections: Sequence[Detection], truth: Mapping[str, Any]) -> dict[str, Any]:
    """Ground truth of the videos of a run, by their paths.

    Parameters
    ----------
    detections
        The run.
    truth
        Name of a video to its label, or its labels `[frame]`, as in `judge`.

    Returns
    -------
    dict
        Path as text to the ground truth, for the videos that have one.

    Raises
    ------
    InputError
        A name fits several videos, or two names one.
    """
    paths = [shown_name(detection.path) for detection in detections]
    named = one_each(match_names(truth, paths), paths, "the ground truth")
    return {paths[place]: truth[name] for place, name in named.items()}


def _interval(scores: Mapping[str, ArrayLike], labels: Mapping[str, ArrayLike], metric: str) -> Interval | None:
    """The interval of a number that is defined; None where the videos are too few for one."""
    try:
        return bootstrap_videos(scores, labels, metric, kind="t")
    except InputError:
        return None


def _used(detections: Sequence[Detection], names: Sequence[str], files: Mapping[str, str]) -> set[int]:
    """Places of the videos that a detector was calibrated on: by what the files hold, else by name."""
    sizes = {entry.split(" ")[0] for entry in files}
    used = {
        place
        for place, one in enumerate(detections)
        if files and str(os.path.getsize(one.path)) in sizes and file_digest(one.path) in files
    }
    unknown = sorted(set(names) - set(files.values()))
    paths = [shown_name(detection.path) for detection in detections]
    return used | set(one_each(match_names(unknown, paths), paths, "the calibration"))


def _video_level(detections: Sequence[Detection], labels: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    """Numbers at the level of videos; empty where they are all of one label."""
    scores = {shown_name(d.path): to_frames(d.smoothed, d.spans, d.info.n_frames) for d in detections}
    ranked = rank_videos(scores, labels, {shown_name(d.path): float(d.edges[-1]) for d in detections})
    if ranked is None:
        return {}
    out: dict[str, dict[str, Any]] = {row: dict(numbers) for row, numbers in ranked.items()}
    each = {video: [label] for video, label in labels.items()}
    for how in ("max", "mean"):
        values = {video: [value] for video, value in video_scores(scores, how).items()}
        found = _interval(values, each, "auc")
        if found is not None:
            out[how] |= {"auc_low": found.low, "auc_high": found.high}
    called = {shown_name(d.path): float(bool(d.events)) for d in detections}
    out["called"] = dict(evaluate_videos(called, labels, threshold=0.5))
    return out


def _seconds(detection: Detection, labels: np.ndarray) -> list[tuple[float, float]]:
    if len(labels) != detection.info.n_frames:
        raise InputError(
            f"{shown_name(detection.path)} has {detection.info.n_frames} frames, but its ground truth {len(labels)}"
        )
    return [(float(detection.edges[a]), float(detection.edges[b])) for a, b in stretches(labels)]


def _row(name: str, numbers: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": name, **{metric: numbers[metric] for metric in METRICS}}
