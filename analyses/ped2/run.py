"""The embedded model on real footage, UCSD Ped2: one command, resumable.

    python analyses/ped2/run.py [--data ../shared/data] [--runs runs/ped2] [--synthetic runs/headhunt_tiny]

--data (or the variable HEADPROBE_DATA) is a folder that holds `ped2`; --synthetic is where analyses/headhunt_tiny keeps
the features of rendered scenes, which are made where they are missing. Writes results.json, the figure and the
README's numbers.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import tomllib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "headhunt_tiny"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import footage
import streets
from readme_block import replace_block
from rounding import rounded

from headprobe import HeadSet
from headprobe.detection.benchmark import draw_videos as draws
from headprobe.errors import HeadprobeWarning
from headprobe.evaluation import blind_scores, evaluate, to_frames
from headprobe.evaluation.bootstrap import pair_wins
from headprobe.evaluation.frames import _count_videos, _merge, _precision_recall
from headprobe.headhunt.headhunt import identify
from headprobe.plotting._canvas import BLUE, GREEN, GREY, VERMILION, floating_figure, plain_frame
from headprobe.probing.probe import HeadProbe

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TINY = HERE.parent / "headhunt_tiny"

SHUFFLED = "shuffled labels, hunted heads"
METHODS = ("hunted heads", "random heads", "all heads", "never trained, hunted heads", SHUFFLED)
VIEWS = {"whole frames": "whole", "4 x 4 tiles": "tiles"}
WHERE = {"synthetic": "calibrated on synthetic scenes", "half": "calibrated on half of the Ped2 test videos"}
MOTION = "logistic regression on frame differences"

Scores = dict[str, np.ndarray]


def columns(chosen: HeadSet, z: torch.Tensor) -> np.ndarray:
    """Outputs of heads under the first prompt, [row, head, d_head], from [prompt, row, layer, head, d_head]."""
    return z[0][:, [h.layer for h in chosen], [h.head for h in chosen]].double().numpy()


def head_sets(name: str, z: torch.Tensor, y: np.ndarray, config: dict, seed: int) -> list[HeadSet]:
    """The heads of a method; several sets for the random one."""
    own = config["method"]
    everything = HeadSet([(layer, head) for layer in range(z.shape[2]) for head in range(z.shape[3])])
    if name == "all heads":
        return [everything]
    if name == "random heads":
        return [HeadSet.random(everything, own["k"], random_state=seed * 100 + i) for i in range(own["random_sets"])]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HeadprobeWarning)  # that one head sets a scale
        found = identify(z.numpy(), y, k=own["k"], instability_penalty=own["lambda"], random_state=config["seed"])
    return [found.heads]


def to_video_frames(bench: streets.Streets, segment_scores: np.ndarray, rows: np.ndarray) -> Scores:
    """Scores per frame of the videos that the rows belong to."""
    out = {}
    for number, name in enumerate(bench.truth):
        own = bench.video[rows] == number
        if own.any():
            out[name] = to_frames(segment_scores[own], bench.spans[name], len(bench.truth[name]))
    return out


def halves(bench: streets.Streets, n: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Random halves of the videos, those with both kinds of frames and those without shared out evenly."""
    mixed = np.array([0 < labels.mean() < 1 for labels in bench.truth.values()])
    out = []
    for split in range(n):
        rng = np.random.default_rng([seed, split])
        first = np.concatenate([rng.permutation(np.flatnonzero(kind))[: kind.sum() // 2] for kind in (mixed, ~mixed)])
        out.append((np.sort(first), np.setdiff1d(np.arange(len(mixed)), first)))
    return out


class Pairs:
    """Won pairs of frames summed over evaluations, [video, video], and the average precision of each evaluation."""

    def __init__(self, truth: Mapping[str, np.ndarray]) -> None:
        self.truth, self.names = truth, list(truth)
        n = len(self.names)
        self.abnormal = np.array([labels.sum() for labels in truth.values()], float)
        self.normal = np.array([len(labels) for labels in truth.values()]) - self.abnormal
        self.wins, self.all = np.zeros((n, n)), np.zeros((n, n))
        self.ap: list[float] = []
        self.auc_of_each: list[float] = []

    def add(self, scores: Scores) -> None:
        """Count the pairs among the videos that are scored."""
        counted = _count_videos(scores, {name: self.truth[name] for name in scores})
        at = [self.names.index(name) for name in scores]
        table = pair_wins(counted)
        pairs = 2 * np.outer(self.abnormal[at], self.normal[at])
        self.wins[np.ix_(at, at)] += table
        self.all[np.ix_(at, at)] += pairs
        pooled = _merge(counted)
        self.ap.append(_precision_recall(pooled.abnormal, pooled.normal)[0])
        self.auc_of_each.append(float(table.sum() / pairs.sum()))

    def auc(self, weights: np.ndarray) -> np.ndarray:
        """Pooled AUC, [resample], for weights [resample, video]."""
        return ((weights @ self.wins) * weights).sum(1) / ((weights @ self.all) * weights).sum(1)

    def within(self, weights: np.ndarray) -> np.ndarray:
        """Mean AUC inside the videos with both kinds of frames, [resample]; NaN where none of them was drawn."""
        both = np.diag(self.all) > 0
        own = np.diag(self.wins)[both] / np.diag(self.all)[both]
        total = weights[:, both].sum(1)
        with np.errstate(invalid="ignore"):
            return (weights[:, both] @ own) / total


def weights_of(n_videos: int, config: dict) -> np.ndarray:
    """How often each video is drawn in each resample; the first row takes each once."""
    rng = np.random.default_rng([config["seed"], 99])
    drawn = rng.multinomial(n_videos, np.full(n_videos, 1 / n_videos), size=config["intervals"]["resamples"])
    return np.concatenate([np.ones((1, n_videos)), drawn])


def quantiles(values: np.ndarray, level: float) -> list[float]:
    """The middle of some numbers, NaN left out."""
    return [float(v) for v in np.nanquantile(values, [(1 - level) / 2, (1 + level) / 2])]


def numbers(pairs: Pairs, config: dict) -> dict:
    """A row of results."""
    weights, level = weights_of(len(pairs.names), config), config["intervals"]["level"]
    auc, within = pairs.auc(weights), pairs.within(weights)
    out = {
        "auc": {"mean": float(auc[0]), "over_videos": quantiles(auc[1:], level)},
        "within_auc": {"mean": float(within[0]), "over_videos": quantiles(within[1:], level)},
        "ap": float(np.mean(pairs.ap)),
        "n_evaluations": len(pairs.ap),
    }
    if len(pairs.ap) > 1:
        out["auc"]["over_evaluations"] = quantiles(np.array(pairs.auc_of_each), level)
    return out


def difference(first: Pairs, second: Pairs, config: dict) -> dict:
    """One row minus another on the same resampled videos."""
    weights, level = weights_of(len(first.names), config), config["intervals"]["level"]
    out = {}
    for name in ("auc", "within"):
        gap = getattr(first, name)(weights) - getattr(second, name)(weights)
        out[name] = {"mean": float(gap[0]), "over_videos": quantiles(gap[1:], level)}
    return out


@dataclass(frozen=True, eq=False)
class Rendered:
    """Test segments of rendered scenes in the place of Ped2's, a whole frame being its only tile."""

    motion: np.ndarray
    whole: dict[str, torch.Tensor]
    tiles: dict[str, torch.Tensor]


def in_domain(
    scenes: Mapping[str, footage.Footage],
    tests: Mapping[str, footage.Footage],
    tiny: dict,
    config: dict,
    say: Callable[[str], None],
) -> dict[str, float]:
    """AUC over segments of rendered test scenes of the scorers that Ped2 gets: what they do where they come from."""
    z = {model: one.z[:5].flatten(1, 2) for model, one in tests.items()}
    test = tests["trained"]
    bench = Rendered(
        test.motion.reshape(-1, test.motion.shape[-1]), z, {name: one[:, :, None] for name, one in z.items()}
    )
    y = (test.segment_truth >= 0.5).ravel()
    found = from_synthetic(bench, scenes, tiny, config, say)
    return {
        method: float(np.mean([roc_auc_score(y, scores) for scores in drawn]))
        for (method, view), drawn in found.items()
        if view == "whole frames"
    }


def from_synthetic(
    bench: streets.Streets | Rendered,
    scenes: Mapping[str, footage.Footage],
    tiny: dict,
    config: dict,
    say: Callable[[str], None],
) -> dict[tuple[str, str], list[np.ndarray]]:
    """Segment scores of every method and view by scorers that saw rendered scenes only, one per draw and set."""
    listed = footage.plan(tiny, "calibration")
    number = {one.name: i for i, one in enumerate(listed)}
    own, n_prompts = config["synthetic"], 5
    events = {one.name: one.event for one in listed}
    out: dict[tuple[str, str], list[np.ndarray]] = {}
    for draw, names in enumerate(draws(events, own["draws"], own["videos"], footage.NORMAL, config["seed"])):
        say(f"synthetic: draw {draw}")
        videos = np.array(sorted(number[name] for name in names))
        for method in METHODS:
            model = "untrained" if method.startswith("never") else "trained"
            scene = scenes[model]
            y = (scene.segment_truth[videos] >= 0.5).astype(int)
            y = shuffled(y, config, draw) if method == SHUFFLED else y
            z = scene.z[:n_prompts, videos]
            # Heads are hunted on two segments of each video: metrics that compare all pairs are slow on 1500.
            rng = np.random.default_rng([config["seed"], draw])
            picked = _two_of_each(y, rng)
            hunt_z = torch.stack([z[:, np.arange(len(videos)), column] for column in picked.T], 2).flatten(1, 2)
            hunt_y = np.take_along_axis(y, picked, 1).ravel()
            for chosen in head_sets(method, hunt_z, hunt_y, config, draw):
                probe = HeadProbe().fit(columns(chosen, z.flatten(1, 2)), y.ravel())
                whole = probe.predict_proba(columns(chosen, bench.whole[model][:n_prompts]))[:, 1]
                tiles = probe.predict_proba(columns(chosen, bench.tiles[model][:n_prompts].flatten(1, 2)))[:, 1]
                out.setdefault((method, "whole frames"), []).append(whole)
                out.setdefault((method, "4 x 4 tiles"), []).append(tiles.reshape(len(whole), -1).max(1))
        scene = scenes["trained"]
        y = (scene.segment_truth[videos] >= 0.5).astype(int).ravel()
        probe = HeadProbe().fit(scene.motion[videos].reshape(len(y), -1), y)
        out.setdefault((MOTION, "whole frames"), []).append(probe.predict_proba(bench.motion)[:, 1])
    return out


def shuffled(y: np.ndarray, config: dict, number: int) -> np.ndarray:
    """The same labels in a random order: what is hunted and fitted on them knows nothing."""
    return np.random.default_rng([config["seed"], number, 7]).permutation(y.ravel()).reshape(y.shape)


def _two_of_each(y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Two segments of each video, one of them abnormal where there is one, [video, 2]."""
    out = []
    for labels in y:
        first = rng.choice(np.flatnonzero(labels == labels.max()))
        rest = np.flatnonzero(labels == labels.min())
        out.append([first, rng.choice(rest[rest != first])])
    return np.array(out)


def from_half(
    bench: streets.Streets, train: np.ndarray, test: np.ndarray, config: dict, seed: int
) -> dict[tuple[str, str], list[tuple[np.ndarray, np.ndarray]]]:
    """Segment scores of the test videos by scorers fitted on the segments of the others, with their rows."""
    rows, held = np.isin(bench.video, train), np.isin(bench.video, test)
    y = bench.labels[rows]
    out: dict[tuple[str, str], list[tuple[np.ndarray, np.ndarray]]] = {}
    for view, attribute in VIEWS.items():
        for method in METHODS:
            z = getattr(bench, attribute)["untrained" if method.startswith("never") else "trained"]
            # No label says which tile is abnormal, so that tiles are averaged.
            z = z.mean(2) if attribute == "tiles" else z
            told = shuffled(y, config, seed) if method == SHUFFLED else y
            for chosen in head_sets(method, z[:5, rows], told, config, seed):
                x = columns(chosen, z)
                scores = HeadProbe().fit(x[rows], told).predict_proba(x[held])[:, 1]
                out.setdefault((method, view), []).append((scores, np.flatnonzero(held)))
    probe = HeadProbe().fit(bench.motion[rows], y)
    out[MOTION, "whole frames"] = [(probe.predict_proba(bench.motion[held])[:, 1], np.flatnonzero(held))]
    return out


def analyse(
    bench: streets.Streets, scenes: Mapping[str, footage.Footage], tiny: dict, config: dict, say: Callable[[str], None]
) -> dict:
    """results.json."""
    names = list(bench.truth)
    splits = halves(bench, config["halves"]["splits"], config["seed"])
    ways = [way for first, second in splits for way in ((first, second), (second, first))]
    table: dict[str, Pairs] = {}
    apart: dict[str, Pairs] = {}

    def pairs(name: str, kept: dict[str, Pairs]) -> Pairs:
        return kept.setdefault(name, Pairs(bench.truth))

    synthetic = from_synthetic(bench, scenes, tiny, config, say)
    everything = np.arange(len(bench.video))
    whole_videos: dict[str, list[Scores]] = {
        f"{WHERE['synthetic']}: {method}, {view}": [to_video_frames(bench, s, everything) for s in scores]
        for (method, view), scores in synthetic.items()
    }
    whole_videos |= {f"frame differences, {kind}": [scores] for kind, scores in bench.frames.items()}
    blind = blind_scores(bench.truth)
    blind.pop("constant_times_position_prior")  # every test video holds an event, so that this is the prior
    whole_videos |= {name.replace("_", " "): [scores] for name, scores in blind.items()}
    for name, drawn in whole_videos.items():
        for scores in drawn:
            pairs(name, apart).add(scores)
            for _, test in ways:  # on the same halves as the scorers that Ped2 calibrates
                pairs(name, table).add({names[i]: scores[names[i]] for i in test})
    for number, (train, test) in enumerate(ways):
        say(f"half {number} of {len(ways)}")
        for (method, view), found in from_half(bench, train, test, config, number).items():
            for scores, rows in found:
                pairs(f"{WHERE['half']}: {method}, {view}", table).add(to_video_frames(bench, scores, rows))
    best = {where: f"{title}: {METHODS[0]}, 4 x 4 tiles" for where, title in WHERE.items()}
    plain = {where: f"{title}: {METHODS[0]}, whole frames" for where, title in WHERE.items()}
    baseline = "frame differences, mean square"
    compared = {}
    for where, title in WHERE.items():
        for view, hunted in (("4 x 4 tiles", best[where]), ("whole frames", plain[where])):
            others = [baseline, *(f"{title}: {method}, {view}" for method in METHODS[1:]), "position prior"]
            compared[hunted] = {other: difference(table[hunted], table[other], config) for other in others}
    labels = {name: [int(y.sum()), len(y)] for name, y in bench.truth.items()}
    order = sorted(table, key=lambda name: [name.startswith(title) for title in WHERE.values()], reverse=True)
    return {
        "on_the_halves": {name: numbers(table[name], config) for name in order},
        "on_all_twelve": {name: numbers(one, config) for name, one in apart.items()},
        "check": {name: evaluate(bench.frames[name], bench.truth)["auc"] for name in bench.frames},
        "differences": compared,
        "data": {
            "test_videos": len(names),
            "frames": int(sum(len(y) for y in bench.truth.values())),
            "abnormal_frames": int(sum(y.sum() for y in bench.truth.values())),
            "abnormal_and_all_frames": labels,
            "videos_with_both": sum(0 < a < n for a, n in labels.values()),
            "segments": len(bench.labels),
            "normal_segments": int((bench.labels == 0).sum()),
        },
        "config": config,
    }


RIVALS = {
    "never trained": "the never-trained model",
    "random heads": "random heads",
    "all heads": "all heads",
    "shuffled labels": "heads hunted on shuffled labels",
    "position prior": "the position prior",
    "frame differences": "frame differences",
}


def verdict(gap: dict) -> str:
    """What an interval of a difference says."""
    low, high = gap["over_videos"]
    return "above" if low > 0 else "below" if high < 0 else "not told apart from"


def cell(values: dict) -> str:
    """Mean and interval over videos."""
    return f"{values['mean']:.3f} [{values['over_videos'][0]:.2f}, {values['over_videos'][1]:.2f}]"


def readme_block(results: dict) -> str:
    """The table and what it says, as Markdown."""
    data, n = results["data"], results["config"]["halves"]["splits"]
    lines = [
        f"{data['test_videos']} test videos, {data['frames']} frames, {data['abnormal_frames']} abnormal; "
        f"{data['videos_with_both']} videos have both kinds. Every row on the same {2 * n} test halves "
        f"({n} random splits, both ways), pairs of frames pooled over them [95 % over resampled videos].",
        "",
        "| | AUC | AUC within videos | AP |",
        "|---|---|---|---|",
    ]
    for name, row in results["on_the_halves"].items():
        lines.append(f"| {name} | {cell(row['auc'])} | {cell(row['within_auc'])} | {row['ap']:.3f} |")
    settings = results["differences"].values()
    said = []
    for rival, title in RIVALS.items():
        verdicts = [verdict(gap["auc"]) for others in settings for name, gap in others.items() if rival in name]
        said.append(f"{verdicts.count('above')} above and {verdicts.count('below')} below {title}")
    lines += [
        "",
        f"Of the {len(settings)} settings of hunted heads, by intervals over videos: {'; '.join(said)}. One by one:",
        "",
    ]
    for hunted, others in results["differences"].items():
        said = [
            f"{verdict(gap['auc'])} {other.split(': ')[-1].split(',')[0] if ': ' in other else other} "
            f"({gap['auc']['mean']:+.3f} [{gap['auc']['over_videos'][0]:+.2f}, {gap['auc']['over_videos'][1]:+.2f}])"
            for other, gap in others.items()
        ]
        lines.append(f"- {hunted}: pooled AUC {'; '.join(said)}.")
    home = results["on_rendered_test_segments"]
    lines.append(
        "- The scorers of (a) do work where they come from: AUC over segments of rendered test scenes "
        + ", ".join(f"{value:.3f} ({name})" for name, value in home.items())
        + "."
    )
    whole = results["on_all_twelve"]["frame differences, mean square"]["auc"]["mean"]
    lines.append(f"- Frame differences (mean square, no calibration) reach {whole:.3f} on all twelve videos.")
    return "\n".join(lines)


def draw(results: dict, path: Path) -> None:
    """Pooled and within-video AUC of every row, with intervals over videos."""
    rows = results["on_the_halves"]
    figure = floating_figure(10.5, 0.25 * len(rows) + 1.1)
    axes = figure.subplots(1, 2, sharey=True)
    for ax, measure, title in zip(
        axes, ("auc", "within_auc"), ("AUC over all frames", "AUC within videos (8 videos)"), strict=True
    ):
        for place, (name, row) in enumerate(rows.items()):
            colour = BLUE if "synthetic" in name else VERMILION if "half" in name else GREEN
            colour = GREY if "constant" in name or "position" in name else colour
            ax.plot(row[measure]["over_videos"], [place, place], color=colour, lw=2, zorder=1)
            ax.plot(row[measure]["mean"], place, marker="o", color=colour, mec="white", ms=6, zorder=2)
        ax.axvline(0.5, color=GREY, lw=0.8, ls=(0, (4, 3)), zorder=0)
        ax.set_title(title, loc="left")
        plain_frame(ax)
    short = [name.replace("calibrated on ", "").replace(" of the Ped2 test videos", " of Ped2") for name in rows]
    axes[0].set_yticks(range(len(rows)), labels=short)
    axes[0].invert_yaxis()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("HEADPROBE_DATA", str(ROOT.parent / "shared" / "data"))
    parser.add_argument("--data", type=Path, default=Path(default))
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "ped2")
    parser.add_argument("--synthetic", type=Path, default=ROOT / "runs" / "headhunt_tiny")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # the same work whatever the machine has; numbers agree to rounding
    config = tomllib.loads((HERE / "config.toml").read_text(encoding="utf-8"))
    tiny = tomllib.loads((TINY / "config.toml").read_text(encoding="utf-8"))

    def say(text: str) -> None:
        print(f"{time.process_time():6.0f} s  {text}", file=sys.stderr, flush=True)

    openers = {name: footage.open_named(name, tiny, arguments.runs) for name in ("trained", "untrained")}
    prompts = dict(list(tiny["prompts"].items())[:5])
    bench = streets.read(arguments.data, config, prompts, openers, arguments.runs, say)
    scenes = {
        name: footage.features(tiny, name, "calibration", arguments.synthetic, opened, say)
        for name, opened in openers.items()
    }
    tests = {
        name: footage.features(tiny, name, "test", arguments.synthetic, opened, say) for name, opened in openers.items()
    }
    results = analyse(bench, scenes, tiny, config, say)
    results["on_rendered_test_segments"] = in_domain(scenes, tests, tiny, config, say)
    results = rounded(results)
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    draw(results, HERE / "comparison.png")
    replace_block("results", readme_block(results), HERE / "README.md")
    say("done")


if __name__ == "__main__":
    main()
