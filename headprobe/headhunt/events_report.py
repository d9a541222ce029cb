"""The HTML report of a detection run: the detector, its heads, and every event with its explanation."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

from headprobe.errors import ArtefactError, VideoError
from headprobe.headhunt.detect import Detection, frame_edges, shown_name
from headprobe.headhunt.events_file import timeline_figure, write_json
from headprobe.headhunt.explain import Explanation, attention_figure, contributions_figure, explain_events
from headprobe.headhunt.locate import Event
from headprobe.provenance import Provenance
from headprobe.report import Bullets, Facts, Figure, Section, Table, write_report
from headprobe.video.decode import shared_reader

if TYPE_CHECKING:
    from headprobe.headhunt.hunt import Hunt
    from headprobe.models.model import Model

__all__ = ["detector_sections", "read_events", "report_events"]

LIMITS = (
    "A score says that a segment looks like the abnormal segments of the calibration, not that something bad happens.",
    "The description is what the model writes when asked; it does not know what the heads said, and the heads do not "
    "know what it writes.",
    "Attention shows where a head takes its input from, not why; an attention weight is no cause.",
    "Stability and significance were measured on the calibration videos that the heads were chosen on.",
)


def read_events(path: str | os.PathLike[str]) -> tuple[list[Detection], dict[str, str]]:
    """Detections from an ``events.json``, for the videos that are where they were.

    Parameters
    ----------
    path
        The file, or the folder that holds it.

    Returns
    -------
    detections : list of Detection
        In the order of the file.
    missing : dict
        Video to why it cannot be used: gone, or not the one that was scored.

    Raises
    ------
    ArtefactError
        The file is missing or no record of a run.
    """
    file = Path(path) / "events.json" if Path(path).is_dir() else Path(path)
    try:
        data: Any = json.loads(file.read_text(encoding="utf-8"))
        provenance = Provenance.from_dict(data["run"]) if data["videos"] else Provenance("")
        records = dict(data["videos"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtefactError(
            f"{file}: no record of a detection run ({type(error).__name__}: {error}); name what `headprobe detect` "
            "wrote"
        ) from error
    found: list[Detection] = []
    missing: dict[str, str] = {}
    for name, record in records.items():
        try:
            found.append(_detection(Path(name), record, provenance))
        except VideoError as error:
            missing[name] = error.reason
        except (KeyError, TypeError) as error:
            raise ArtefactError(f"{file}: {name}: {type(error).__name__}: {error}") from error
    return found, missing


def _detection(path: Path, record: Mapping[str, Any], provenance: Provenance) -> Detection:
    info = shared_reader(path).info
    if info.n_frames != record["n_frames"]:
        raise VideoError(path, f"it has {info.n_frames} frames now and had {record['n_frames']} when it was scored")
    segments: Sequence[Mapping[str, Any]] = record["segments"]
    return Detection(
        path,
        info,
        frame_edges(path),
        tuple((int(s["start_frame"]), int(s["end_frame"])) for s in segments),
        np.array([float(s["score"]) for s in segments]),
        np.array([float(s["smoothed"]) for s in segments]),
        tuple(Event(**event) for event in record["events"]),
        provenance,
        int(record["segment_frames"]),
    )


def report_events(
    hunter: Hunt,
    model: Model | None,
    events: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
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
    """
    source = Path(events)
    page = (source if source.is_dir() else source.parent) / "report.html" if out is None else Path(out)
    page.parent.mkdir(parents=True, exist_ok=True)
    detections, missing = read_events(events)
    explained: dict[str, list[Explanation]] = {}
    sections = detector_sections(hunter)
    for detection in tqdm(detections, desc="report", unit="video", disable=not progress):
        name = shown_name(detection.path)
        told: list[Explanation] = []
        if model is not None:
            told = explain_events(
                hunter, model, detection, prompt=prompt, max_new_tokens=max_new_tokens, max_events=max_events
            )
        explained[name] = told
        sections.append(_video_section(detection, hunter, model, told))
    if missing:
        lines = [f"{name}: {reason}" for name, reason in missing.items()]
        sections.append(Section("Videos that could not be read again", [Bullets(lines)]))
    sections += [Section("Limits", [Bullets(LIMITS)]), Section("Provenance", [_provenance(hunter, detections)])]
    n_events = sum(len(d.events) for d in detections)
    write_report(
        page,
        "Events in video",
        sections,
        summary=f"{n_events} events in {len(detections)} videos, found by {_short(hunter)}.",
    )
    write_json(
        page.with_name("explanations.json"),
        {name: [one.to_dict() for one in told] for name, told in explained.items()},
    )
    return page, explained


def _short(hunter: Any) -> str:
    where = f"the heads {', '.join(hunter.heads_.labels)}" if hunter.kind == "heads" else f"layer {hunter.layer_}"
    return f"{where} of {hunter.provenance_.model}"


def detector_sections(hunter: Any) -> list[Section]:
    """What a detector is, and how far what it reads can be relied on.

    Parameters
    ----------
    hunter
        Fitted `HeadHunt` or `LayerHunt`.
    """
    return [Section("Detector", [_facts(hunter)]), Section("What it reads", _reads(hunter))]


def _facts(hunter: Any) -> Facts:
    balance, held_out, locator = hunter.balance_, hunter.held_out_, hunter.locator_
    facts: dict[str, Any] = {
        "Reads": _short(hunter),
        "Prompt": hunter.prompt_,
        "Segments": f"{hunter.segment_frames} frames, {hunter.sample_frames} of them shown to the model"
        + ("" if hunter.fps_ is None else f", at {hunter.fps_:g} frames per second"),
        "Calibration": f"{balance['normal']} normal and {balance['abnormal']} abnormal clips of {balance['videos']} "
        f"videos ({balance['videos_with_abnormal']} with abnormal clips)",
        "Scorer": f"{hunter.scorer_.kind}, "
        + ("classes weighted to count the same" if hunter.class_weight else "clips weighted alike"),
        "Probabilities": "calibrated on held-out calibration videos"
        if hunter.scorer_.platt_ is not None
        else "not calibrated",
    }
    if held_out:
        facts["Held-out calibration videos"] = (
            f"AUC {held_out['auc']:.3f}, Brier score {held_out['brier']:.3f}, calibration error {held_out['ece']:.3f} "
            f"over {held_out['n']:.0f} clips"
        )
    if locator is not None:
        facts["Locator"] = (
            f"threshold {locator.tau:g}, smoothing {locator.sigma:g} segments, release {locator.release:g}, at least "
            f"{locator.min_seconds:g} s"
        )
    return Facts(facts)


def _reads(hunter: Any) -> list[Any]:
    if hunter.kind == "layer":
        folds = ", ".join(map(str, hunter.fold_layers_)) or "none"
        names = ", ".join(hunter.curves_.metric.values)
        return [
            Figure(
                hunter.plot(),
                alt=f"Curves of {names} over layers; layer {hunter.layer_} is chosen.",
                caption="Each figure over the layers, brought to 0 to 1. Their combination is this project's choice.",
                dpi=110,
            ),
            f"Layers chosen without one fold of the videos each: {folds}.",
        ]
    from matplotlib.figure import Figure as Canvas

    from headprobe.plotting.heatmap import heatmap

    figure = Canvas(figsize=(6.4, 4.6), layout="constrained")
    heatmap(
        hunter.rss_,
        mark=list(hunter.heads_.labels),
        ax=figure.add_subplot(),
        title="Stability-adjusted saliency of every head",
        label="RSS",
        p_values=hunter.experts_.p_values,
    )
    experts = hunter.experts_
    rows = [
        [None if isinstance(value, float) and np.isnan(value) else value for value in row]
        for row in experts.table.itertuples(index=False)
    ]
    return [
        Figure(
            figure,
            alt=f"Heatmap of RSS over layers and heads; {', '.join(hunter.heads_.labels)} are marked.",
            caption="RSS on the calibration videos. Hatched: not above chance for any head (family-wise p above 0.05).",
            dpi=110,
        ),
        Table(
            ["rank", "head", "RSS", "mean", "sd over prompts", "in folds", "in resamples", "AUROC", "p (family-wise)"],
            rows,
            caption="The expert heads on the calibration videos: how high, how stable, how significant.",
        ),
        experts.sentence() or "Stability and significance were not computed.",
    ]


def _video_section(detection: Detection, hunter: Hunt, model: Model | None, told: Sequence[Explanation]) -> Section:
    name = shown_name(detection.path.name)
    blocks: list[Any] = [
        Figure(
            timeline_figure(detection, hunter, thumbnails=6),
            alt=f"Timeline of {name}: score of every segment, with {len(detection.events)} events.",
            caption="Score of every segment, smoothed score, threshold and detected events.",
            dpi=110,
        )
    ]
    if not detection.events:
        blocks.append("No event was found.")
    else:
        blocks.append(
            Table(
                ["event", "from, s", "to, s", "peak"],
                [
                    [number, event.start_seconds, event.end_seconds, event.peak]
                    for number, event in enumerate(detection.events, 1)
                ],
                caption="Events, by the times of the video's frames.",
                digits=2,
            )
        )
    for one in told:
        assert one.event is not None
        number = detection.events.index(one.event) + 1
        end = "" if one.finished else " (cut off at the most tokens allowed)"
        said = f'"{one.text}"{end}' if one.text else "nothing"
        blocks.append(f"Event {number}. Asked: {one.prompt} The model says: {said}")
        blocks += [f"Event {number}: {note}" for note in one.notes]
        if model is not None:
            what = "where each expert head looks" if one.attention is not None else "the frames shown"
            blocks.append(
                Figure(
                    attention_figure(one, model),
                    alt=f"Frames of event {number} and {what}.",
                    caption=f"Event {number}, segment at {one.seconds[0]:.1f} s (score {one.score:.2f}): {what}.",
                    dpi=110,
                )
            )
        if one.heads:
            pairs = ", ".join(f"{h} {v:+.2f}" for h, v in zip(one.heads, one.contributions, strict=True))
            blocks.append(
                Figure(
                    contributions_figure(one),
                    alt=f"What each head adds to the decision: {pairs}.",
                    caption=f"Event {number}: what each expert head adds to the decision.",
                    dpi=110,
                )
            )
    return Section(name, blocks)


def _provenance(hunter: Any, detections: Sequence[Detection]) -> Facts:
    fitted = hunter.provenance_
    return Facts(
        {
            "Model": fitted.model,
            "Weights": fitted.weights_hash,
            "Prompts of the hunt": list(fitted.prompts.values()),
            "Fingerprint of the calibration": fitted.fingerprint,
            "Versions": detections[0].provenance.versions if detections else fitted.versions,
        }
    )
