"""Figures and the HTML report of a demo run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headprobe._files import replacing
from headprobe.demo._claims import HOLDS, chosen_in, findings
from headprobe.demo._comparison import HUNTED
from headprobe.headhunt._detect import timeline_figure
from headprobe.headhunt._report import missed_events
from headprobe.heads import OTHER_SAMPLES
from headprobe.report.report import Facts, Figure, Report, Table

if TYPE_CHECKING:
    from xarray import DataArray

    from headprobe.demo._run import Demo
    from headprobe.headhunt.headhunt import Identification

DPI = 110


def heatmap_figure(rss: DataArray, heads: Sequence[str], p_values: DataArray | None = None) -> Any:
    """The layer-by-head heatmap of RSS with the expert heads marked, and hatched what chance reaches."""
    from matplotlib.figure import Figure as Canvas

    from headprobe.plotting.heatmap import heatmap

    figure = Canvas(figsize=(6.4, 4.6), layout="constrained")
    heatmap(
        rss,
        mark=list(heads),
        ax=figure.add_subplot(),
        title="Stability-adjusted saliency of every head",
        label="RSS",
        p_values=p_values,
    )
    return figure


def write_first_look(found: Identification, n_videos: int, path: Path) -> Path:
    """The map of the heads on the first videos, under one prompt, as a PNG file."""
    figure = heatmap_figure(found.rss, found.heads.labels)
    figure.axes[0].set_title(f"A first look: saliency of every head, one prompt, {n_videos} videos", fontsize=10)
    with replacing(path, ".png") as part:
        figure.savefig(part, dpi=DPI, bbox_inches="tight")
    return path


def comparison_figure(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Frame AUC of every row, on seen and on held-out events."""
    from matplotlib.figure import Figure as Canvas

    from headprobe.plotting.curves import comparison

    figure = Canvas(figsize=(11.5, 0.42 * len(rows) + 1.6), layout="constrained")
    names = {"auc": "frame AUC, seen events", "held_out_auc": "frame AUC, held-out events"}
    comparison(rows, ax=figure.add_subplot(), second="held_out_auc", names=names, highlight=[HUNTED])
    return figure


def write_figures(demo: Demo) -> dict[str, Path]:
    """Write heatmap, comparison and timelines as PNG files; returns their paths by name."""
    found = demo.detector.identification_
    assert found is not None
    truth = {v.name: v for v in demo.test_videos}
    drawn: dict[str, Any] = {
        "heatmap": heatmap_figure(found.rss, demo.detector.heads_.labels, demo.detector.experts_.p_values),
        "comparison": comparison_figure(demo.results["rows"]),
    }
    for name, detection in demo.detections.items():
        video = truth[name]
        drawn[f"timeline_{video.event}"] = timeline_figure(
            detection, demo.detector, truth=video.truth, title=f"{name}: {video.event} ({video.scene})"
        )
    paths = {}
    for name, figure in drawn.items():
        paths[name] = demo.folder / f"{name}.png"
        with replacing(paths[name], ".png") as part:
            figure.savefig(part, dpi=DPI, bbox_inches="tight")
    return paths


def write_demo_report(demo: Demo, figures: Mapping[str, Path]) -> Path:
    """Write ``report.html``."""
    r = demo.results
    hunted = next(row for row in r["rows"] if row["name"] == HUNTED)
    size = r["provenance"]["size"]
    summary = (
        f"{size['k']} of the {r['n_heads']} heads of the model {r['provenance']['model']['model']}, hunted on "
        f"{size['videos_per_draw']} videos: frame AUC {hunted['auc']:.3f} on seen and {hunted['held_out_auc']:.3f} on "
        f"held-out kinds of event; the best controls reach {_best(r['rows'], 'auc')} and "
        f"{_best(r['rows'], 'held_out_auc')} (means of {size['n_draws']} draws). The detector in the folder detector "
        f"was hunted on the whole calibration pool and uses {', '.join(r['experts'])}."
    )
    report = Report("Hunting heads for anomalies in video", summary)
    report.question(_question(r), *_data(r)).found(*_found(r)).add("provenance", _provenance(r))
    report.add("heatmaps", _heatmap(r, figures))
    found = demo.detector.identification_
    assert found is not None
    report.heads(
        demo.detector.heads_,
        found.combined,
        split="all calibration videos",
        instability_penalty=demo.detector.instability_penalty,
        p_values=demo.detector.experts_.p_values,
        significance_note="p is that of a linear probe's AUROC on the head, on calibration videos that it was not "
        f"fitted to. {demo.detector.experts_.sentence()} Chosen in: share of the {size['n_draws']} draws of "
        f"{size['videos_per_draw']} calibration videos that choose the head. {OTHER_SAMPLES}",
        chosen_in=chosen_in(r["experts_per_draw"]),
    )
    report.add("controls", *_comparison(r, figures))
    _timelines(report, r, figures)
    # A video that could not be rendered or read would have ended the run.
    report.failed({}, _did_not_hold(demo)).limits([*LIMITS, *map(_as_sentence, r["warnings"])])
    return report.write(demo.folder / "report.html")


def _best(rows: Sequence[Mapping[str, Any]], key: str) -> str:
    """The highest number of what does not read hunted heads, with its name."""
    others = [row for row in rows if not row["name"].startswith(("hunted", "the saved"))]
    best = max(others, key=lambda row: row[key])
    return f"{best[key]:.3f} ({best['name']})"


def _did_not_hold(demo: Demo) -> list[tuple[str, str]]:
    """Claims that are reversed or not decided, bars that were not met, and events that the detector missed."""
    r = demo.results
    claims = [
        (
            f"hunted heads {f.claim}",
            f"seen events: {f.verdict} {f.seen}; held-out events: {f.held_out_verdict} {f.held_out}",
        )
        for f in findings(r["paired_differences"])
        if {f.verdict, f.held_out_verdict} != {HOLDS}
    ]
    unmet = [(b["name"], f"{b['measured']:.3f}, required {b['required']}") for b in r["bars"] if not b["met"]]
    truth = {video.name: video.truth.astype(int) for video in demo.test_videos}
    named = [replace(one, path=Path(name)) for name, one in demo.detections.items()]
    return [*claims, *unmet, *missed_events(named, truth)]


LIMITS = (
    "The videos are rendered, and the model is small and trained on footage of the same renderer: in such a model "
    "nearly every head carries the events, so random heads are a strong baseline. The numbers say nothing about "
    "surveillance video in the wild.",
    "Calibration uses segment labels (abnormal: at least half of the segment); the paper uses video labels.",
    "Smoothing and threshold enter only the detections, not the table.",
    "Draws overlap: they are taken from one pool of calibration videos, and all are judged on the same test videos. "
    "The intervals are too narrow for that, and the verdicts are not corrected for their number.",
    "The words of the vague prompt occur in no question that the model was trained on; that its answer is poor follows "
    "from that. The direct questions name the trained events.",
    "Panic is several people running, and running is trained; explosion has no such relative. Both are given apart.",
)


def _question(r: Mapping[str, Any]) -> str:
    return (
        "Do a few attention heads of a frozen video model tell abnormal from normal, better than what they must beat? "
        f"The {r['provenance']['size']['k']} heads with the highest stability-adjusted saliency over five prompts are "
        "hunted on calibration videos; a logistic regression on their outputs scores the segments of test videos. The "
        "test videos show other scenes, and some show explosions or panics, which neither the model's training nor the "
        "calibration contained."
    )


def _found(r: Mapping[str, Any]) -> list[Any]:
    size = r["provenance"]["size"]
    rows = [[f.claim, f.seen, f.verdict, f.held_out, f.held_out_verdict] for f in findings(r["paired_differences"])]
    return [
        Table(
            ["hunted heads ...", "seen events", "verdict", "held-out events", "verdict"],
            rows,
            caption="Paired difference in frame AUC on test videos, mean and 95 % t interval over calibration draws.",
        ),
        Table(
            ["required beforehand", "required", "measured", "met"],
            [[b["name"], b["required"], b["measured"], "yes" if b["met"] else "no"] for b in r["bars"]],
            caption="Bars that were set before the run; means over draws.",
        ),
        f"There were {size['n_draws']} draws of {size['videos_per_draw']} calibration videos. The test videos are the "
        "same in every draw, so the intervals say nothing about other test videos. "
        "Not decided: the interval contains 0.",
    ]


def _comparison(r: Mapping[str, Any], figures: Mapping[str, Path]) -> list[Any]:
    return [
        _table(r["rows"], ""),
        _table(r["rows"], "held_out_"),
        Table(
            ["method", "explosion", "panic"],
            [[row["name"], row["explosion_auc"], row["panic_auc"]] for row in r["rows"]],
            caption="Frame AUC on normal test videos and one held-out kind of event each; means over draws.",
        ),
        Figure(
            figures["comparison"],
            alt="Frame AUC of every method as a dot with its spread over calibration draws.",
            dpi=DPI,
            caption="Frame AUC, mean and standard deviation over calibration draws; diamonds: held-out events. "
            "Rows of random heads are means of several sets within a draw, which makes their spread smaller.",
        ),
        "All learned rows are unsmoothed scores under the first prompt. The rows called oracle know from the truth "
        "which videos are abnormal and look at no frame: pooled AUC hardly measures localisation, "
        "within-video AUC does.",
    ]


def _heatmap(r: Mapping[str, Any], figures: Mapping[str, Path]) -> Figure:
    experts = ", ".join(r["experts"])
    return Figure(
        figures["heatmap"],
        alt=f"Heatmap of RSS over layers and heads; {experts} are marked.",
        caption="RSS = mean over five prompts minus 0.5 standard deviations, on all calibration videos. Hatched: heads "
        "that are not above chance (family-wise p above 0.05), if there are any.",
        dpi=DPI,
    )


def _timelines(report: Report, r: Mapping[str, Any], figures: Mapping[str, Path]) -> None:
    report.add(
        "timelines",
        "One test video of each kind, scored by the detector in the folder detector (threshold "
        f"{r['locator']['tau']:g}, smoothing {r['locator']['sigma']:g} segments, both from calibration videos).",
    )
    for name, path in figures.items():
        if name.startswith("timeline_"):
            kind = name.removeprefix("timeline_")
            report.timeline(kind.capitalize(), path, alt=f"Timeline of a test video: {kind}.", dpi=DPI)


def _data(r: Mapping[str, Any]) -> list[Any]:
    data = r["data"]
    keys = ("scenes", "frames", "abnormal_frames", "segments", "abnormal_segments")
    rows = [
        [part, sum(data[part]["videos"].values()), *(data[part][k] for k in keys)] for part in ("calibration", "test")
    ]
    columns = ["", "videos", *(key.replace("_", " ") for key in keys)]
    return [
        Table(columns, rows, caption=f"Rendered videos by split; scenes in both splits: {data['scenes_shared']}."),
        Facts(
            {
                "Calibration videos": data["calibration"]["videos"],
                "Test videos": data["test"]["videos"],
                "Segment": f"{data['segment_frames']} frames, {data['sample_frames']} of them shown to the model",
            }
        ),
    ]


def _provenance(r: Mapping[str, Any]) -> Facts:
    p = r["provenance"]
    return Facts(
        {
            "Seed": p["seed"],
            "Fingerprint": p["fingerprint"],
            "Model": p["model"]["model"],
            "Weights": p["model"]["weights_hash"],
            "Prompts": list(p["prompts"].values()),
            "Versions": p["versions"],
            "Seconds": r["seconds"],
        }
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
    )


def _as_sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:].rstrip('.')}."


def write_full_table(rows: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Every method with every measure, its spread over draws, and the number of draws, as CSV."""
    import pandas as pd

    with replacing(path, ".csv") as part:
        pd.DataFrame(list(rows)).to_csv(part, index=False, float_format="%.6f")
    return path
