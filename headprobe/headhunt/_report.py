"""The HTML report of a detection run: the detector, its heads, and every event with its explanation."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool
from numpy.typing import ArrayLike
from tqdm.auto import tqdm

from headprobe._files import write_json
from headprobe._validation import check_truth, choice, counted
from headprobe.datasets import (
    NORMAL,
    Dataset,
    frame_labels,
    from_folders,
    from_table,
    list_folder,
    ped2,
    read_text,
    tad,
    ucf_crime,
    xd_violence,
)
from headprobe.datasets._annotations import match_names, name_of, one_each
from headprobe.datasets.catalogue import RENAMED
from headprobe.datasets.pedestrians import _ped2_name
from headprobe.datasets.xd_violence import _parse_xd_violence_temporal, xd_violence_classes
from headprobe.errors import InputError
from headprobe.evaluation import (
    VIDEO_ROWS,
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
from headprobe.headhunt._calibration_set import file_digest
from headprobe.headhunt._detect import Detection, Run, read_events, read_run, shown_name, timeline_figure
from headprobe.headhunt._explain import Explanation, attention_figure, contributions_figure, explain_events
from headprobe.report._heads import heads_figures
from headprobe.report.report import Facts, Figure, Link, Report, Table
from headprobe.video.spans import stretches

if TYPE_CHECKING:
    from headprobe.headhunt.detector import Detector
    from headprobe.models.model import Model

CALIBRATION = "the calibration videos"


def read_by(detector: Any) -> str:
    """What a detector reads, in a few words."""
    where = f"the heads {', '.join(detector.heads_.labels)}" if detector.kind == "heads" else f"layer {detector.layer_}"
    return f"{where} of {detector.provenance_.model}"


def detector_facts(detector: Any) -> Facts:
    """Settings of a detector and what it was calibrated on."""
    balance, held_out, locator = detector.balance_, detector.held_out_, detector.locator_
    facts: dict[str, Any] = {
        "Reads": read_by(detector),
        "Prompt": detector.prompt_,
        "Segments": f"{detector.segment_frames} frames, {detector.sample_frames} of them shown to the model"
        + ("" if detector.fps_ is None else f", at {detector.fps_:g} frames per second"),
        "Calibration": f"{balance['normal']} normal and {balance['abnormal']} abnormal clips of "
        f"{counted(balance['videos'], 'video')} ({balance['videos_with_abnormal']} with abnormal clips)",
        "Scorer": f"{detector.scorer_.kind}, "
        + ("classes weighted to count the same" if detector.class_weight else "clips weighted alike"),
        "Probabilities": "calibrated on held-out calibration videos"
        if detector.scorer_.platt_ is not None
        else "not calibrated",
    }
    if held_out:
        facts["Held-out calibration videos"] = (
            f"AUC {held_out['auc']:.3f}, Brier score {held_out['brier']:.3f}, calibration error {held_out['ece']:.3f} "
            f"over {counted(int(held_out['n']), 'clip')}"
        )
    facts["Locator"] = (
        "none: no threshold was calibrated"
        if locator is None
        else f"threshold {locator.tau:g}, smoothing {locator.sigma:g} segments, release {locator.release:g}, at least "
        f"{locator.min_seconds:g} s"
    )
    return Facts(facts)


def describe_detector(report: Report, detector: Any) -> Report:
    """Put provenance, heatmap and chosen heads (or layer) of a detector into a report."""
    fitted = detector.provenance_
    prompts = fitted.prompts.values()
    report.provenance(
        {
            "Model": fitted.model,
            "Revision": fitted.revision or "none",
            "Weights": fitted.weights_hash,
            "Number type": fitted.dtype,
            **{f"Prompt {number} of the hunt": text for number, text in enumerate(prompts, 1)},
            "Fingerprint of the calibration": fitted.fingerprint,
            "Seed": detector.random_state,
            "Versions": fitted.versions,
        }
    )
    if detector.kind == "layer":
        return _layer(report, detector)
    experts = detector.experts_
    report.heatmaps(
        detector.rss_,
        split=CALIBRATION,
        mark=detector.heads_,
        p_values=experts.p_values,
        label="Stability-adjusted saliency (RSS)",
    )
    columns = {
        "rank": "rank",
        "head": "head",
        "rss": "RSS",
        "mean": "mean",
        "sd": "sd over prompts",
        "in_folds": "in folds",
        "in_resamples": "in resamples",
        "auroc": "AUROC",
        "p": "p (family-wise)",
    }
    shown = [key for key in columns if not experts.table[key].isna().all()]
    rows = [[None if value != value else value for value in row] for row in experts.table[shown].values.tolist()]
    report.add(
        "heads",
        Table([columns[key] for key in shown], rows, f"The expert heads on {CALIBRATION}."),
        " ".join(text for key, text in _COLUMN_TEXTS.items() if key in shown),
        experts.sentence() or "Stability and significance were not computed.",
        experts.chosen_again(),
    )
    found = detector.identification_
    if found is not None and found.combined.sizes["prompt"] > 1:
        report.add("heads", *heads_figures(detector.heads_, found.combined, CALIBRATION, detector.instability_penalty))
    return report


_COLUMN_TEXTS = {
    "rss": "RSS is the mean saliency over the prompts less the instability penalty times its sd.",
    "in_folds": "In folds: share of the choices without one fold of the videos each that chose the head too.",
    "in_resamples": "In resamples: share of the choices on videos drawn with replacement that chose the head too.",
    "auroc": "AUROC: of a linear probe on the head alone, on videos that it was not fitted to.",
    "p": "p: the chance that any head at all reaches its AUROC when labels mean nothing.",
}
"""What the columns of the table of heads mean; only those that are there are explained."""


def _layer(report: Report, detector: Any) -> Report:
    folds = ", ".join(map(str, detector.fold_layers_)) or "none"
    names = ", ".join(detector.curves_.metric.values)
    report.add("heatmaps", "The detector reads one layer and no heads, so there is no map of heads.")
    return report.add(
        "heads",
        Figure(
            detector.plot(),
            alt=f"Curves of {names} over layers; layer {detector.layer_} is chosen.",
            caption=f"Each figure over the layers, brought to 0 to 1, on {CALIBRATION}. Their combination is this "
            "project's choice.",
            dpi=110,
        ),
        f"Layer {detector.layer_} was chosen. Layers chosen without one fold of the videos each: {folds}. Significance "
        "is not computed for layers.",
    )


SELF = "this detector, smoothed"
METRICS = ("auc", "ap", "within_auc")
TRUTHS = ("ucf-crime", "xd-violence", "ped2", "shanghaitech", "tad", "folder", "table")
"""Data sets whose annotation `truth_of` reads."""


@dataclass(frozen=True)
class Judgement:
    """What a run is worth on the videos whose ground truth is known."""

    rows: Sequence[Mapping[str, Any]] = ()
    events: Mapping[str, Any] = field(default_factory=dict)
    videos: Sequence[str] = ()
    video_level: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    labelled: Sequence[str] = ()
    seen: Sequence[str] = ()
    unknown: Sequence[str] = ()
    n_within: int = 0
    note: str = ""
    missed: Sequence[tuple[str, str]] = ()


def truth_of(
    dataset: str, ground_truth: str | os.PathLike[str], detections: Sequence[Detection], normal: str = NORMAL
) -> dict[str, Bool[np.ndarray, " frame"] | bool]:
    """Labels of the videos of a run, from the annotation of a data set and the lengths of the files."""
    choice(dataset, "the data set", TRUTHS)
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
        return ped2(text, {name: n for name, n in lengths.items() if _ped2_name(name) == name})
    if dataset == "tad":
        return tad(text)
    if dataset != "xd-violence":
        return from_table(text, dataset)
    annotated = _parse_xd_violence_temporal(text)
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
    """Evaluate a run on the videos that have ground truth and that the detector was not calibrated on."""
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
    left_out["video_level"] = _video_level_judgement(
        [d for d in detections if shown_name(d.path) in by_video], by_video
    )
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
    left_out["missed"] = missed_events(judged, labels)
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
    """Ground truth of the videos of a run, by their paths."""
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


def _video_level_judgement(detections: Sequence[Detection], labels: Mapping[str, int]) -> dict[str, dict[str, Any]]:
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


def missed_events(detections: Sequence[Detection], labels: Mapping[str, np.ndarray]) -> list[tuple[str, str]]:
    """The videos and times of true events that no found event overlaps."""
    return [
        (f"{shown_name(one.path)}, {start:.1f} to {end:.1f} s", "the event was missed")
        for one in detections
        for start, end in _seconds(one, labels[shown_name(one.path)])
        if not any(event.start_seconds < end and event.end_seconds > start for event in one.events)
    ]


def _row(name: str, numbers: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": name, **{metric: numbers[metric] for metric in METRICS}}


LIMITS = (
    "A score says that a segment looks like the abnormal segments of the calibration, not that something bad happens.",
    "The description is what the model writes when asked; it does not know what the heads said, and the heads do not "
    "know what it writes.",
    "Attention shows where a head takes its input from, not why; an attention weight is no cause.",
    "Stability and significance were measured on the calibration videos that the heads were chosen on.",
)
INTERVAL = (
    " In brackets: 95 % interval over videos (t, by leaving out one at a time); for the average precision of 20 videos "
    "or fewer it covers about 91 %."
)
TOO_FEW = " The videos are too few, or told apart too well, for an interval."
SHOWN_FRAMES = 4  # of the peak segment, in the strip beside the words
SHOWN_IOUS = (0.1, 0.3, 0.5, 0.7, 0.9)


def report_events(
    detector: Detector,
    model: Model | None,
    events: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    truth: Mapping[str, ArrayLike | bool] | None = None,
    prompt: str | None = None,
    max_new_tokens: int = 64,
    max_events: int | None = 3,
    progress: bool = True,
) -> tuple[Path, dict[str, list[Explanation]]]:
    """Write the report of a detection run."""
    source = Path(events)
    page = (source if source.is_dir() else source.parent) / "report.html" if out is None else Path(out)
    detections, missing = read_events(events)
    ran = read_run(events)
    page.parent.mkdir(parents=True, exist_ok=True)
    detector = _as_it_ran(detector, ran)
    known = {} if truth is None else labels_by_video(detections, truth)
    judged = (
        None if truth is None else judge(detections, known, detector.calibration_groups_, detector.calibration_files_)
    )
    explained: dict[str, list[Explanation]] = {}
    report = Report("Events in video", _summary(detector, detections, judged, ran))
    report.question(
        "Where in these videos is something abnormal, by a detector that reads a frozen model's insides, and what does "
        "the model say about it?",
        _videos(detections, judged),
        detector_facts(detector),
    )
    report.found(*_found(detections))
    describe_detector(report, detector)
    if detections:
        report.provenance(
            {"Fingerprint of this run": detections[0].provenance.fingerprint},
            **{"Versions in this run": detections[0].provenance.versions},
        )
    _controls(report, judged)
    for detection in tqdm(detections, desc="report", unit="video", disable=not progress):
        name = shown_name(detection.path)
        told: list[Explanation] = []
        if model is not None:
            told = explain_events(
                detector, model, detection, prompt=prompt, max_new_tokens=max_new_tokens, max_events=max_events
            )
        explained[name] = told
        own = known.get(name)
        _timeline(report, detection, detector, None if own is None or np.ndim(own) == 0 else own)
        for one in told:
            _explanation(report, detection, one, model)
    if model is None:
        report.add("explanations", "The model was not asked in this run.")
    elif not any(explained.values()):
        report.add("explanations", "There is no event to explain.")
    failed = dict(ran.failed)
    if ran.interrupted:
        failed = {"the run itself": ran.sentence()} | failed
    failed |= dict.fromkeys(ran.absent, "the run asked for it and has no result of it")
    failed |= {name: f"cannot be read again: {reason}" for name, reason in missing.items()}
    report.failed(failed, None if judged is None else _did_not_hold(judged))
    report.limits(LIMITS)
    report.write(page)
    write_json(
        page.with_name("explanations.json"),
        {name: [one.to_dict() for one in told] for name, told in explained.items()},
    )
    return page, explained


def _as_it_ran(detector: Detector, ran: Run) -> Detector:
    """The detector with the locator of the run, which may have been given another one."""
    detector = copy(detector)
    detector.locator_ = ran.locator or detector.locator_
    return detector


def _summary(detector: Detector, detections: Sequence[Detection], judged: Judgement | None, ran: Run) -> str:
    n_events = sum(len(d.events) for d in detections)
    text = f"{counted(n_events, 'event')} in {counted(len(detections), 'video')}, found by {read_by(detector)}."
    if judged is not None and judged.rows:
        own = judged.rows[0]
        text += f" Frame AUC {own['auc']:.3f} on {counted(len(judged.videos), 'video')} with ground truth"
        best = max((row for row in judged.rows[1:] if row["auc"] is not None), key=lambda row: row["auc"])
        text += f"; the best control, {best['name']}, reaches {best['auc']:.3f}."
    elif judged is not None and judged.video_level:
        level, length = judged.video_level["max"], judged.video_level["length"]
        text += f" Video AUC {level['auc']:.3f} on {counted(level['n_videos'], 'video')} with a label"
        text += f"; their length alone reaches {length['auc']:.3f}."
    return f"{text} {ran.sentence()}".rstrip()


def _videos(detections: Sequence[Detection], judged: Judgement | None) -> Table:
    rows = []
    for number, detection in enumerate(detections, 1):
        name = shown_name(detection.path)
        link = Link(name, f"timeline-{number}")
        row: list[Any] = [
            link,
            detection.info.n_frames,
            float(detection.edges[-1]),
            len(detection.spans),
            len(detection.events),
        ]
        if judged is not None:
            used = "calibration video, not judged" if name in judged.seen else "none"
            row.append("frames" if name in judged.videos else "label of the video" if name in judged.labelled else used)
        rows.append(row)
    columns = ["video", "frames", "seconds", "segments", "events"]
    return Table(columns if judged is None else [*columns, "ground truth"], rows, "The videos of this run.", digits=1)


def _controls(report: Report, judged: Judgement | None) -> None:
    if judged is None:
        report.add(
            "controls",
            "No ground truth was given, so nothing was evaluated: whether the events are right is not known.",
        )
        return
    if judged.seen:
        n = len(judged.seen)
        used = f"{counted(n, 'video')} {'was' if n == 1 else 'were'} used in the calibration"
        report.add("controls", f"{used} and left out of every number here.")
    if judged.unknown:
        n = len(judged.unknown)
        report.add("controls", f"{counted(n, 'video')} {'has' if n == 1 else 'have'} no ground truth.")
    if judged.note:
        report.add("controls", judged.note)
    _video_level(report, judged)
    if judged.rows:
        interval = INTERVAL if "auc_low" in judged.rows[0] else TOO_FEW
        report.controls(
            judged.rows,
            {"name": "scores", "auc": "frame AUC", "ap": "average precision", "within_auc": "AUC within videos"},
            split=f"{counted(len(judged.videos), 'video')} that no calibration saw",
            highlight=SELF,
        )
        n = judged.n_within
        report.add(
            "controls",
            "The constant and its product know from the truth which videos are abnormal and look at no frame; the rows "
            "called own are this detector's scores, averaged over a video or moved to another time or video. The AUC "
            f"within videos is the mean over {counted(n, 'video')} with normal and abnormal frames.{interval}",
        )
    if judged.events:
        found = judged.events
        rows = [
            [row["iou"], row["precision"], row["recall"], row["f1"]]
            for row in found["by_iou"]
            if round(row["iou"], 1) in SHOWN_IOUS
        ]
        report.add(
            "controls",
            Table(["temporal IoU at least", "precision", "recall", "F1"], rows, "Events found against true events."),
            f"{counted(found['n_found'], 'event')} found, {found['n_true']} true, {found['n_missed']} of them missed "
            f"altogether; mean delay {_number(found['delay_mean'])} s; "
            f"{counted(found['n_false_alarms'], 'false alarm')}, {_number(found['false_alarms_per_hour'])} per hour.",
        )
    report.add(
        "controls",
        "Random heads, a never-trained model and shuffled labels are controls of a fit, not of a run: each needs a "
        "detector of its own.",
    )


def _video_level(report: Report, judged: Judgement) -> None:
    """Which videos are abnormal at all: the table and the sentence, where there are both kinds."""
    level = judged.video_level
    if not level:
        return
    rows = [{**level[row], "name": f"by the {name}"} for row, name in VIDEO_ROWS.items()]
    n, called = level["max"]["n_videos"], level["called"]
    report.controls(
        rows,
        {"name": "videos ranked", "auc": "AUC over videos", "ap": "average precision"},
        split=f"{counted(n, 'video')} that no calibration saw, {level['max']['n_abnormal_videos']} of them abnormal",
    )
    only = f" Of {counted(len(judged.labelled), 'video')} only the label is known." if judged.labelled else ""
    report.add(
        "controls",
        "Whether a video is abnormal at all, by the smoothed scores of its frames; the last row looks at no frame."
        f"{INTERVAL if 'auc_low' in level['max'] else TOO_FEW}{only} Calling a video abnormal that has an event: "
        f"precision {_number(called['precision'], 3)}, recall {_number(called['recall'], 3)}, F1 "
        f"{_number(called['f1'], 3)}, accuracy {_number(called['accuracy'], 3)}, balanced accuracy "
        f"{_number(called['balanced_accuracy'], 3)}.",
    )


def _found(detections: Sequence[Detection]) -> list[Any]:
    rows = [
        [Link(shown_name(detection.path), f"timeline-{number}"), event.start_seconds, event.end_seconds, event.peak]
        for number, detection in enumerate(detections, 1)
        for event in detection.events
    ]
    caption = "The events, by the times of the videos' frames."
    return [Table(["video", "from, s", "to, s", "peak"], rows, caption, 2) if rows else "No event was found."]


def _did_not_hold(judged: Judgement) -> list[tuple[str, str]]:
    """Controls that are as good, events that were missed, and false alarms."""
    reaching = [row for row in judged.rows[1:] if row["auc"] is not None and row["auc"] >= judged.rows[0]["auc"]]
    better = [(f"the detector beats: {row['name']}", f"its frame AUC is {row['auc']:.3f}") for row in reaching]
    wrong = int(judged.events.get("n_false_alarms", 0))
    return [*better, *judged.missed, *([(counted(wrong, "false alarm"), "no true event there")] if wrong else [])]


def _number(value: float | None, digits: int = 1) -> str:
    return "none" if value is None else f"{value:.{digits}f}"


def _timeline(report: Report, detection: Detection, detector: Detector, truth: ArrayLike | None) -> None:
    name = shown_name(detection.path)
    events = detection.events
    found = "; ".join(f"{e.start_seconds:.1f} to {e.end_seconds:.1f} s (peak {e.peak:.2f})" for e in events)
    report.timeline(
        name,
        timeline_figure(
            detection, detector, truth=None if truth is None else np.asarray(truth).astype(int), thumbnails=6
        ),
        caption=f"Events: {found}." if events else "No event was found.",
        alt=f"Timeline of {name}: score of every segment, with {counted(len(events), 'event')}.",
    )


def _explanation(report: Report, detection: Detection, one: Explanation, model: Model | None) -> None:
    assert one.event is not None
    name = shown_name(detection.path)
    times = f"{one.event.start_seconds:.1f} to {one.event.end_seconds:.1f} s"
    n = len(one.frames)
    shown = np.unique(np.linspace(0, n - 1, min(SHOWN_FRAMES, n)).round().astype(int)).tolist()
    facts = {"Score of the segment": f"{one.score:.3f}", "Peak of the event, smoothed": f"{one.event.peak:.3f}"}
    if one.heads:
        added = [f"{head} {value:+.2f}" for head, value in zip(one.heads, one.contributions, strict=True)]
        if one.intercept is not None:
            added.append(f"intercept {one.intercept:+.2f}")
        together = "together the decision," if one.intercept is not None else "which need not add up to the decision,"
        facts["Added to the decision"] = f"{', '.join(added)}; {together} {one.decision:+.2f}"
    figures = []
    if model is not None and one.attention is not None:
        figures.append(
            Figure(
                attention_figure(one, model),
                alt=f"Frames of {name}, {times}, and where each expert head looks.",
                caption="Where each expert head looks on the frames of this segment, from the token that the scorer "
                "reads: its weight on each part of each frame, on one scale for all heads. What is missing to 1 "
                "goes to the words.",
                dpi=110,
            )
        )
    if one.heads:
        figures.append(
            Figure(
                contributions_figure(one),
                alt=f"What each head adds to the decision about {name}, {times}.",
                caption="What each expert head adds to the decision"
                + ("" if one.intercept is None else ", and the intercept, which no head adds")
                + ".",
                dpi=110,
            )
        )
    cut = bool(one.text) and not one.finished
    notes = [*(["The answer was cut off at the most tokens allowed."] if cut else []), *one.notes]
    report.explanation(
        f"{name}, {times}",
        one.text or "(nothing)",
        prompt=one.prompt,
        frames=[(f"{one.seconds[i]:.1f} s", one.frames[i]) for i in shown],
        facts=facts,
        figures=figures,
        note=" ".join(notes),
    )
