"""Published outputs of VADTree and CoReVAD on UCF-Crime, beside plain means and position: one command, no model.

    python analyses/published_systems/run.py [--data FOLDER] [--redraw]

--data (or the variable HEADPROBE_DATA) holds `published` and `ground_truth`. Writes results.json, table.png and the
README's numbers; --redraw does without the data.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from readme_block import replace_block
from rounding import rounded

from headprobe.baselines.corevad import corevad
from headprobe.baselines.ratings import node_ratings
from headprobe.datasets import read_truth
from headprobe.detection.benchmark import Benchmark, BenchmarkVideos
from headprobe.detection.blind import ScoreFile
from headprobe.detection.ensemble import VarianceEnsemble
from headprobe.detection.method import AnnotatedVideo, Method
from headprobe.detection.steps import NodeRefine
from headprobe.detection.table import Comparison
from headprobe.evaluation import bootstrap_difference, evaluate
from headprobe.evaluation.controls import position_prior
from headprobe.provenance import versions

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
METRICS = ("auc", "ap", "within_auc")
REFERENCE = "both, refined, beta 0"


def test_videos(data: Path) -> list[AnnotatedVideo]:
    """The 290 test videos of UCF-Crime."""
    labels = data / "ground_truth"
    given = read_truth("ucf-crime", labels / "ucf_crime_temporal.txt", labels / "ucf_crime_frame_counts.txt")
    return [AnnotatedVideo(name, truth, 30.0) for name, truth in given.truth().items()]


def frames(method: Method, videos: list[AnnotatedVideo]) -> dict[str, np.ndarray]:
    """Scores of all frames."""
    return {video.name: method.score(video.view).frames(len(video.truth)) for video in videos}


def at_every_frame(name: str, method: Method, videos: list[AnnotatedVideo]) -> ScoreFile:
    """A method times the position prior, frame by frame, as published."""
    placed = {video: values * position_prior(len(values)) for video, values in frames(method, videos).items()}
    return ScoreFile(placed, name=name)


def rows(config: Mapping[str, Any], data: Path, videos: list[AnnotatedVideo]) -> list[Method]:
    """Every row, by name."""
    files = {name: data / "published" / file for name, file in config["files"].items()}
    plain = NodeRefine(config["reach"], compatible=True).plain
    out: list[Method] = []
    parts: dict[str, dict[str, Method]] = {"raw": {}, "plain mean": {}, "refined": {}}
    for which in ("coarse", "fine"):
        raw, refined = files[f"{which}_raw"], files[f"{which}_refined"]
        parts["raw"][which] = node_ratings(raw, name=f"VADTree {which}, raw")
        parts["plain mean"][which] = node_ratings(raw, steps=[plain], name=f"VADTree {which}, plain mean")
        parts["refined"][which] = node_ratings(refined, name=f"VADTree {which}, refined")
        out += [part[which] for part in parts.values()]
    for kind, part in parts.items():
        for beta in (0, 0.2, -0.4) if kind == "refined" else (0,):
            out.append(VarianceEnsemble(part["coarse"], part["fine"], beta, f"both, {kind}, beta {beta}"))
    best = next(one for one in out if one.name == REFERENCE)
    out.append(at_every_frame(f"{REFERENCE}, x position", best, videos))
    replies = corevad(files["corevad"], compatible=True).rows()
    for one, name in zip(replies, ("CoReVAD, labels", "CoReVAD, Gaussian", "CoReVAD, plain mean"), strict=True):
        one.name = name
    out += replies
    out.append(at_every_frame("CoReVAD, Gaussian x position", replies[1], videos))
    return out


def differences(config: Mapping[str, Any], scores: Mapping[str, Any], truth: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Paired differences with t intervals by video that hold together for all pairs."""
    out, confidence = [], 1 - (1 - config["confidence"]) / len(config["differences"])
    for pair in config["differences"]:
        row: dict[str, Any] = dict(pair)
        for metric in METRICS:
            first, second = scores[pair["first"]], scores[pair["second"]]
            wide = bootstrap_difference(first, second, truth, metric, confidence=confidence, kind="t")
            row[metric] = [wide.estimate, wide.low, wide.high]
        out.append(row)
    return out


def measured(config: Mapping[str, Any], data: Path) -> dict[str, Any]:
    """The table, the differences, and what the authors state beside what comes out here."""
    videos = test_videos(data)
    truth = {video.name: video.truth for video in videos}
    methods = rows(config, data, videos)
    table = Benchmark(BenchmarkVideos("UCF-Crime", videos), methods, reference=REFERENCE).run()
    if table.failed:
        raise SystemExit(f"rows failed: {dict(table.failed)}")
    scores = {one.name: frames(one, videos) for one in methods}
    stated = {}
    for name, (auc, pr) in config["stated"].items():
        found = evaluate(scores[name], truth)
        stated[name] = {"auc": [auc, found["auc"]], "trapezoid": [pr, found["pr_auc_trapezoid"]]}
    shown = [{k: v for k, v in row.items() if "seconds" not in k and "calls" not in k} for row in table.rows]
    return {
        "rows": shown,
        "settings": dict(table.settings),
        "differences": differences(config, scores, truth),
        "stated": stated,
        "config": config,
        "versions": versions(),
    }


def _signed(triple: list[float]) -> str:
    return f"{triple[0]:+.3f} [{triple[1]:+.3f}, {triple[2]:+.3f}]"


def block(results: Mapping[str, Any]) -> str:
    """Tables of the README."""
    lines = ["| row | AUC | 95 % interval | AP | AUC within videos | own mean only, AUC |", "|---|---|---|---|---|---|"]
    for row in results["rows"]:
        low, high, own = row.get("auc_low"), row.get("auc_high"), row.get("own_mean_auc")
        wide = "" if low is None else f"{low:.3f} to {high:.3f}"
        alone = "" if own is None else f"{own:.3f}"
        cells = [f"{row[metric]:.3f}" for metric in METRICS]
        lines.append(f"| {row['name']} | {cells[0]} | {wide} | {cells[1]} | {cells[2]} | {alone} |")
    lines += ["", "| difference | AUC | AP | AUC within videos |", "|---|---|---|---|"]
    for row in results["differences"]:
        cells = [_signed(row[metric]) for metric in METRICS]
        lines.append(f"| {row['first']} minus {row['second']} | {' | '.join(cells)} |")
    lines += ["", "| stated by the authors | AUC, stated | AUC, here | trapezoid, stated | trapezoid, here |"]
    lines.append("|---|---|---|---|---|")
    for name, one in results["stated"].items():
        cells = [f"{value:.4f}" for pair in (one["auc"], one["trapezoid"]) for value in pair]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(results: Mapping[str, Any], out: Path) -> None:
    """The rows with their intervals."""
    import matplotlib as mpl

    mpl.use("Agg")
    axes = Comparison(results["rows"], [], results["settings"]).plot(title="Published systems on UCF-Crime")
    axes.figure.savefig(out / "table.png", dpi=80, bbox_inches="tight", metadata={"Software": None})


def main() -> None:
    """Run, write and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("HEADPROBE_DATA", str(ROOT.parent / "shared" / "data"))
    parser.add_argument("--data", type=Path, default=Path(default))
    parser.add_argument("--out", type=Path, default=HERE, help="where results.json and the figure go")
    parser.add_argument("--redraw", action="store_true", help="only the figure and the README, from results.json")
    given = parser.parse_args()
    config = tomllib.loads((HERE / "config.toml").read_text(encoding="utf-8"))
    file = given.out / "results.json"
    if not given.redraw:
        file.write_text(json.dumps(rounded(measured(config, given.data)), indent=1) + "\n", encoding="utf-8")
    results = json.loads(file.read_text(encoding="utf-8"))
    draw(results, given.out)
    if given.out == HERE:
        replace_block("results", block(results), HERE / "README.md")


if __name__ == "__main__":
    main()
