"""Figures and the HTML report of a demo run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headprobe.headhunt.comparison import HUNTED
from headprobe.headhunt.detect import timeline_figure
from headprobe.headhunt.findings import findings
from headprobe.report import Bullets, Facts, Figure, Section, Table, write_report

if TYPE_CHECKING:
    from headprobe.headhunt.demo import Demo
    from xarray import DataArray

__all__ = ["comparison_figure", "heatmap_figure", "write_demo_report", "write_figures"]


def heatmap_figure(rss: DataArray, heads: Sequence[str]) -> Any:
    """The layer-by-head heatmap of RSS with the expert heads marked."""
    from matplotlib.figure import Figure as Canvas

    from headprobe.plotting.heatmap import heatmap

    figure = Canvas(figsize=(6.4, 4.6), layout="constrained")
    heatmap(
        rss,
        mark=list(heads),
        ax=figure.add_subplot(),
        title="Stability-adjusted saliency of every head",
        label="RSS",
    )
    return figure


def comparison_figure(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Frame AUC of every row, on seen and on held-out events."""
    from matplotlib.figure import Figure as Canvas

    from headprobe.plotting.curves import comparison

    figure = Canvas(figsize=(8.2, 0.42 * len(rows) + 1.6), layout="constrained")
    names = {"auc": "frame AUC, seen events", "held_out_auc": "frame AUC, held-out events"}
    comparison(rows, ax=figure.add_subplot(), second="held_out_auc", names=names, highlight=[HUNTED])
    return figure


def write_figures(demo: Demo) -> dict[str, Path]:
    """Write heatmap, comparison and timelines as PNG files; returns their paths by name."""
    found = demo.hunter.identification_
    assert found is not None
    truth = {v.name: v for v in demo.test_videos}
    drawn: dict[str, Any] = {
        "heatmap": heatmap_figure(found.rss, demo.hunter.heads_.labels),
        "comparison": comparison_figure(demo.results["rows"]),
    }
    for name, detection in demo.detections.items():
        video = truth[name]
        drawn[f"timeline_{video.event}"] = timeline_figure(
            detection, demo.hunter, truth=video.truth, title=f"{name}: {video.event} ({video.scene})"
        )
    paths = {}
    for name, figure in drawn.items():
        paths[name] = demo.folder / f"{name}.png"
        figure.savefig(paths[name], dpi=110)
    return paths


def write_demo_report(demo: Demo, figures: Mapping[str, Path]) -> Path:
    """Write ``report.html``."""
    r = demo.results
    data, size = r["data"], r["provenance"]["size"]
    calibration, test = data["calibration"], data["test"]
    verdicts = findings(r["paired_differences"])
    sections = [
        Section("Question", [
            "Do a few attention heads of a frozen video model tell abnormal from normal, better than what they must beat? "
            f"The {size['k']} heads with the highest stability-adjusted saliency over five prompts are hunted on calibration "
            "videos; a logistic regression on their outputs scores the segments of test videos. The test videos show other "
            "scenes, and some show kinds of event that neither the model's training nor the calibration contained.",
        ]),
        Section("What was found", [Bullets([f.sentence for f in verdicts]),
            f"Mean and 95 % t interval of the paired difference in frame AUC over {size['n_draws']} calibration draws of "
            f"{size['videos_per_draw']} videos; the test videos are the same in every draw, so the intervals say nothing "
            "about other test videos."]),
        Section("Comparison", [_table(r["rows"], ""), _table(r["rows"], "held_out_"),
            Figure(figures["comparison"], alt="Frame AUC of every method as a dot with its spread over calibration draws.",
                   caption="Frame AUC, mean and standard deviation over calibration draws; diamonds: held-out events."),
            "All learned rows are unsmoothed scores under the first prompt. The rows called oracle know from the truth which "
            "videos are abnormal and look at no frame: pooled AUC hardly measures localisation, within-video AUC does."]),
        Section("The heads", [
            Figure(figures["heatmap"], alt=f"Heatmap of RSS over layers and heads; {', '.join(r['experts'])} are marked.",
                   caption="RSS = mean over five prompts minus 0.5 standard deviations, on all calibration videos."),
            Facts({"Expert heads": ", ".join(r["experts"]), "Times chosen over the draws": _frequency(r["experts_per_draw"])})]),
        Section("Detections on test videos", [
            "One test video of each kind, scored by the detector in the folder detector "
            f"(threshold {r['locator']['tau']}, smoothing {r['locator']['sigma']} segments, both from calibration videos).",
            *[Figure(path, alt=f"Timeline of the test video with {name.removeprefix('timeline_')}.",
                     caption=name.removeprefix("timeline_").capitalize())
              for name, path in figures.items() if name.startswith("timeline_")]]),
        Section("Data", [
            Table(["", "videos", "scenes", "frames", "abnormal frames", "segments", "abnormal segments"],
                  [[part, sum(d["videos"].values()), d["scenes"], d["frames"], d["abnormal_frames"], d["segments"],
                    d["abnormal_segments"]] for part, d in (("calibration", calibration), ("test", test))],
                  caption="Rendered videos by split; no scene is in both."),
            Facts({"Calibration videos": calibration["videos"], "Test videos": test["videos"],
                   "Segment": f"{data['segment_frames']} frames, {data['sample_frames']} of them shown to the model"})]),
        Section("Limits", [Bullets([
            "The videos are rendered, and the model is small and trained on footage of the same renderer: in such a model "
            "nearly every head carries the events, so random heads are a strong baseline. Numbers here say nothing about "
            "surveillance video in the wild.",
            "Calibration uses segment labels (at least half of the segment abnormal); the paper has video labels.",
            "Smoothing and threshold enter only the detections, not the table.",
        ])]),
        Section("Provenance", [Facts({
            "Seed": r["provenance"]["seed"], "Fingerprint": r["provenance"]["fingerprint"],
            "Model": r["provenance"]["model"]["model"], "Weights": r["provenance"]["model"]["weights_hash"],
            "Prompts": r["provenance"]["prompts"], "Versions": r["provenance"]["versions"], "Seconds": r["seconds"],
        })]),
    ]  # fmt: skip
    hunted = next(row for row in r["rows"] if row["name"] == HUNTED)
    summary = (
        f"{', '.join(r['experts'])} of {r['provenance']['model']['model']}: frame AUC {hunted['auc']:.3f} on seen and "
        f"{hunted['held_out_auc']:.3f} on held-out events."
    )
    return write_report(
        demo.folder / "report.html", "Hunting heads for anomalies in video", sections, summary=summary
    )


def _table(rows: Sequence[Mapping[str, Any]], prefix: str) -> Table:
    def cell(row: Mapping[str, Any], key: str) -> str:
        sd = row[f"{prefix}{key}_sd"]
        return f"{row[prefix + key]:.3f}" + ("" if sd is None else f" ± {sd:.3f}")

    what = "held-out kinds of event" if prefix else "kinds of event seen in calibration"
    return Table(
        ["method", "frame AUC", "frame AP", "within-video AUC", "draws"],
        [[row["name"], cell(row, "auc"), cell(row, "ap"), cell(row, "within_auc"), row["n_draws"]] for row in rows],
        caption=f"Test videos: normal ones and those with {what}; mean ± standard deviation over calibration draws.",
    )  # fmt: skip


def _frequency(per_draw: Sequence[Sequence[str]]) -> str:
    counts: dict[str, int] = {}
    for labels in per_draw:
        for label in labels:
            counts[label] = counts.get(label, 0) + 1
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{label} {n}" for label, n in ranked[:12]) + f" (of {len(per_draw)})"
