"""Are heads' outputs better standardised before the scorer, or raw as in the published code? The same heads either way.

    python analyses/benchmarks/scaler.py [--data ../shared/data]

Rendered clips: draws of few calibration clips, test clips of other scenes. UCSD Ped2: half of the test videos against
the other half. Heads are hunted in each draw, then one logistic scorer is fitted on standardised
and one on centred features. Writes scaler.json and the README's sentence.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from readme_block import replace_block

import headprobe
from headprobe.datasets import frame_labels, parse_ped2_ground_truth
from headprobe.errors import HeadprobeWarning
from headprobe.headhunt.headhunt import identify
from headprobe.headhunt.prompts import default_prompts
from headprobe.headhunt.scorer import Scorer
from headprobe.trace.tracer import HeadTracer
from headprobe.video.clips import clip_examples
from headprobe.video.scenes import labelled_clips

HERE = Path(__file__).resolve().parent
K, DRAWS, SIZES, POOL, LENGTH, SHOWN, N_PROMPTS = 5, 20, (16, 64), 160, 16, 8, 2
HOWS = {"standardised": True, "raw": False}


def captured(model: headprobe.Model, clips: list, prompts: dict) -> tuple[headprobe.HeadActivations, np.ndarray]:
    """Head outputs of clips, and their labels."""
    acts = HeadTracer(model).capture(clips, prompts=prompts, batch_size=16)
    return acts, np.asarray(acts.labels)


def both(train: headprobe.HeadActivations, y: np.ndarray, test: headprobe.HeadActivations, truth: np.ndarray) -> dict:
    """AUC of the two scorers on the heads hunted on the training clips."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HeadprobeWarning)  # that one head sets a scale
        heads = identify(train, y, k=K, random_state=0).heads
    a, b = (one.select(heads)[0].double().numpy() for one in (train, test))
    return {
        name: float(roc_auc_score(truth, Scorer(class_weight="balanced", standardise=how).fit(a, y).decision(b)))
        for name, how in HOWS.items()
    }


def rendered(model: headprobe.Model, prompts: dict) -> dict[str, list[dict]]:
    """Draws of each size from a pool of rendered clips, tested on clips of other seeds."""
    pool, y = captured(model, labelled_clips(POOL, seed=1), prompts)
    test, truth = captured(model, labelled_clips(POOL, seed=2, split="test"), prompts)
    out: dict[str, list[dict]] = {}
    for size in SIZES:
        for draw in range(DRAWS):
            rng = np.random.default_rng([size, draw])
            rows = np.concatenate([rng.choice(np.flatnonzero(y == label), size // 2, False) for label in (0, 1)])
            out.setdefault(f"rendered, {size} clips", []).append(both(pool.subset(rows), y[rows], test, truth))
    return out


def ped2(model: headprobe.Model, prompts: dict, folder: Path) -> dict[str, list[dict]]:
    """Ten random halves of the test videos, both ways, by segments."""
    events = parse_ped2_ground_truth((folder / "ground_truth.m").read_text("utf-8"))
    clips = []
    for name, spans in events.items():
        cut = clip_examples(folder / f"{name}.mp4", LENGTH, SHOWN, label=0, group=name, name=name)
        labels = frame_labels(spans, max(e.span[1] for e in cut if e.span is not None))
        clips += [
            headprobe.Example(
                e.content, id=e.id, label=int(labels[slice(*e.span)].mean() >= 0.5), group=name, span=e.span
            )
            for e in cut
            if e.span is not None
        ]
    acts, y = captured(model, clips, prompts)
    mixed = [v for v in events if len(set(y[acts.groups == v].tolist())) == 2]
    out = []
    for draw in range(DRAWS // 2):
        rng = np.random.default_rng([7, draw])
        # Videos with both kinds of segments are shared out evenly, so that either half can be learned from.
        first = {*rng.permutation(mixed)[: len(mixed) // 2]}
        rest = [v for v in events if v not in mixed]
        first |= {*rng.permutation(rest)[: len(rest) // 2]}
        inside = np.isin(acts.groups, list(first))
        for train, test in ((inside, ~inside), (~inside, inside)):
            part, other = np.flatnonzero(train), np.flatnonzero(test)
            out.append(both(acts.subset(part), y[part], acts.subset(other), y[other]))
    return {f"UCSD Ped2, halves of {len(events)} videos": out}


def summary(found: dict[str, list[dict]]) -> dict:
    """Means over draws and the difference with its t interval."""
    rows = {}
    for name, draws in found.items():
        gap = np.array([one["raw"] - one["standardised"] for one in draws])
        half = float(stats.t.ppf(0.975, len(gap) - 1) * gap.std(ddof=1) / np.sqrt(len(gap)))
        rows[name] = {how: round(float(np.mean([one[how] for one in draws])), 3) for how in HOWS} | {
            "raw_minus_standardised": [round(float(v), 3) for v in (gap.mean(), gap.mean() - half, gap.mean() + half)],
            "draws": len(draws),
        }
    return rows


def table(rows: dict) -> str:
    """The README's block."""
    lines = ["| clips | standardised | raw | raw minus standardised, 95 % over draws |", "|---|---|---|---|"]
    for name, row in rows.items():
        mean, low, high = row["raw_minus_standardised"]
        lines.append(
            f"| {name} | {row['standardised']:.3f} | {row['raw']:.3f} | {mean:+.3f} ({low:+.3f} to {high:+.3f}) |"
        )
    return "\n".join([*lines, "", f"AUC over clips, embedded model, {K} heads hunted anew in each of {DRAWS} draws."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("HEADPROBE_DATA", "../shared/data")))
    folder = parser.parse_args().data / "ped2"
    torch.set_num_threads(1)
    model = headprobe.load("tiny")
    prompts = dict(list(default_prompts(model).items())[:N_PROMPTS])
    found = rendered(model, prompts)
    if folder.is_dir():
        found |= ped2(model, prompts, folder)
    rows = summary(found)
    print(table(rows))
    if not folder.is_dir():
        raise SystemExit(f"{folder} is not there: the rows of UCSD Ped2 are missing, nothing was written")
    (HERE / "scaler.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    replace_block("scaler", table(rows), HERE / "README.md")


if __name__ == "__main__":
    main()
