"""The HTML report of a detection run: the detector, its heads, and every event with its explanation."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike
from tqdm.auto import tqdm

from headprobe._files import write_json
from headprobe.headhunt.detect import Detection, shown_name
from headprobe.headhunt.detector_report import counted, describe_detector, detector_facts, read_by
from headprobe.headhunt.evaluate import VIDEO_ROWS
from headprobe.headhunt.events_file import Run, read_events, read_run, timeline_figure
from headprobe.headhunt.explain import Explanation, attention_figure, contributions_figure, explain_events
from headprobe.headhunt.judgement import SELF, Judgement, judge, labels_by_video
from headprobe.report import Figure, Report, Table

if TYPE_CHECKING:
    from headprobe.headhunt.detector import Detector
    from headprobe.models.model import Model

__all__ = ["read_events", "report_events"]

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
    hunter: Detector,
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
    """Write the report of a detection run.

    Parameters
    ----------
    hunter
        The detector that made it.
    model
        The model, to explain the events; None leaves explanations out.
    events
        ``events.json``, or the folder that holds it.
    out
        The HTML file; ``report.html`` beside ``events.json`` by default. What the model wrote is also put into
        ``explanations.json`` beside it.
    truth
        Ground truth: path of a video, or as much of its end as only one has, to ``[frame]`` 0 / 1, or to True or False
        where only the video's label is known. With it the page has numbers beside controls, and the timelines show what
        is true; see `headprobe.headhunt.judgement.truth_of` for annotation files.
    prompt, max_new_tokens
        As in `headprobe.headhunt.explain.explain`.
    max_events
        Events to explain per video, the highest first; None for all.
    progress
        Whether to show a progress bar.

    Returns
    -------
    path : Path
        The report.
    explanations : dict
        Video to the explanations of its events.

    Raises
    ------
    ArtefactError
        There is no record of a run.
    FingerprintError
        The model is not the one the detector was fitted on.
    InputError
        A video has another number of frames than its ground truth.
    """
    source = Path(events)
    page = (source if source.is_dir() else source.parent) / "report.html" if out is None else Path(out)
    page.parent.mkdir(parents=True, exist_ok=True)
    detections, missing = read_events(events)
    ran = read_run(events)
    hunter = _as_it_ran(hunter, ran)
    known = {} if truth is None else labels_by_video(detections, truth)
    judged = None if truth is None else judge(detections, known, hunter.calibration_groups_, hunter.calibration_files_)
    explained: dict[str, list[Explanation]] = {}
    report = Report("Events in video", _summary(hunter, detections, judged, ran))
    report.question(
        "Where in these videos is something abnormal, by a detector that reads a frozen model's insides, and what does "
        "the model say about it?",
        _videos(detections, judged),
        detector_facts(hunter),
    )
    report.found(*_found(detections, judged))
    describe_detector(report, hunter)
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
                hunter, model, detection, prompt=prompt, max_new_tokens=max_new_tokens, max_events=max_events
            )
        explained[name] = told
        own = known.get(name)
        _timeline(report, detection, hunter, None if own is None or np.ndim(own) == 0 else own)
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
    report.failed(failed | {name: f"cannot be read again: {reason}" for name, reason in missing.items()})
    report.limits(LIMITS)
    report.write(page)
    write_json(
        page.with_name("explanations.json"),
        {name: [one.to_dict() for one in told] for name, told in explained.items()},
    )
    return page, explained


def _as_it_ran(hunter: Detector, ran: Run) -> Detector:
    """The detector with the locator of the run, which may have been given another one."""
    hunter = copy(hunter)
    hunter.locator_ = ran.locator or hunter.locator_
    return hunter


def _summary(hunter: Detector, detections: Sequence[Detection], judged: Judgement | None, ran: Run) -> str:
    n_events = sum(len(d.events) for d in detections)
    text = f"{counted(n_events, 'event')} in {counted(len(detections), 'video')}, found by {read_by(hunter)}."
    if judged is not None and judged.rows:
        own = judged.rows[0]
        text += f" Frame AUC {own['auc']:.3f} on {counted(len(judged.videos), 'video')} with ground truth."
    elif judged is not None and judged.video_level:
        level = judged.video_level["max"]
        text += f" Video AUC {level['auc']:.3f} on {counted(level['n_videos'], 'video')} with a label."
    return f"{text} {ran.sentence()}".rstrip()


def _videos(detections: Sequence[Detection], judged: Judgement | None) -> Table:
    rows = []
    for detection in detections:
        name = shown_name(detection.path)
        row = [name, detection.info.n_frames, float(detection.edges[-1]), len(detection.spans), len(detection.events)]
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
        f"precision {_share(called['precision'])}, recall {_share(called['recall'])}, F1 "
        f"{_share(called['f1'])}, accuracy {_share(called['accuracy'])}, balanced accuracy "
        f"{_share(called['balanced_accuracy'])}.",
    )


def _share(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def _found(detections: Sequence[Detection], judged: Judgement | None) -> list[Any]:
    rows = [
        [shown_name(detection.path.name), event.start_seconds, event.end_seconds, event.peak]
        for detection in detections
        for event in detection.events
    ]
    blocks: list[Any] = [
        Table(["video", "from, s", "to, s", "peak"], rows, "The events, by the times of the videos' frames.", 2)
        if rows
        else "No event was found."
    ]
    if judged is not None and judged.rows:
        own = judged.rows[0]
        better = [str(row["name"]) for row in judged.rows[1:] if row["auc"] is not None and row["auc"] >= own["auc"]]
        n = len(judged.videos)
        blocks.append(
            f"On {counted(n, 'video')} with ground truth the frame AUC is {own['auc']:.3f}. Controls that reach it: "
            f"{', '.join(better) or 'none'}."
        )
    elif judged is not None and judged.video_level:
        own = judged.video_level["max"]
        blocks.append(
            f"On {counted(own['n_videos'], 'video')} with a label the AUC over videos, by the highest score, is "
            f"{own['auc']:.3f}."
        )
    return blocks


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.1f}"


def _timeline(report: Report, detection: Detection, hunter: Detector, truth: ArrayLike | None) -> None:
    name = shown_name(detection.path.name)
    events = detection.events
    found = "; ".join(f"{e.start_seconds:.1f} to {e.end_seconds:.1f} s (peak {e.peak:.2f})" for e in events)
    report.timeline(
        name,
        timeline_figure(
            detection, hunter, truth=None if truth is None else np.asarray(truth).astype(int), thumbnails=6
        ),
        caption=f"Events: {found}." if events else "No event was found.",
        alt=f"Timeline of {name}: score of every segment, with {counted(len(events), 'event')}.",
    )


def _explanation(report: Report, detection: Detection, one: Explanation, model: Model | None) -> None:
    assert one.event is not None
    name = shown_name(detection.path.name)
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
