"""How often 95 % intervals over videos hold the number they are about, by how many videos there are.

    python analyses/benchmarks/coverage.py [--runs 300]

Videos are drawn from a model: a level of its own for each, an event of 8 of 20 frames in the abnormal ones, noise. The
true number is the mean over many sets of 400 videos. Writes coverage.json and its table in the README.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from readme_block import replace_block

from headprobe.errors import InputError
from headprobe.evaluation import bootstrap_videos, evaluate

HERE = Path(__file__).resolve().parent
METRICS = {"auc": "AUC", "ap": "average precision", "within_auc": "AUC within videos"}
KINDS = ("percentile", "t")
SETS = ((12, 1.0), (20, 0.5), (120, 0.5))  # videos, share of abnormal ones
N_FRAMES, EVENT, TRUE_SETS, TRUE_VIDEOS, RESAMPLES = 20, 8, 25, 400, 200


def drawn(n_videos: int, share: float, *seed: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Scores and labels [frame] of videos drawn from the model."""
    rng = np.random.default_rng(seed)
    scores, truth = {}, {}
    for number in range(n_videos):
        abnormal = rng.random() < share
        labels = np.zeros(N_FRAMES, dtype=int)
        if abnormal:
            start = rng.integers(N_FRAMES - EVENT)
            labels[start : start + EVENT] = 1
        truth[str(number)] = labels
        scores[str(number)] = rng.normal() + 0.8 * abnormal + 0.7 * labels + 0.7 * rng.normal(size=N_FRAMES)
    return scores, truth


def covered(n_videos: int, share: float, n_runs: int) -> list[dict]:
    """Share of the runs whose interval holds the true number, by metric and kind of interval."""
    sets = [evaluate(*drawn(TRUE_VIDEOS, share, 1, i)) for i in range(TRUE_SETS)]
    true = {metric: float(np.mean([one[metric] for one in sets])) for metric in METRICS}
    held: dict[tuple[str, str], list[bool]] = {(metric, kind): [] for metric in METRICS for kind in KINDS}
    for run in range(n_runs):
        scores, truth = drawn(n_videos, share, 2, run, n_videos)
        for metric, kind in held:
            try:
                found = bootstrap_videos(scores, truth, metric, n_resamples=RESAMPLES, random_state=run, kind=kind)
            except InputError:
                continue  # no interval is given for these videos; how many there were is in the results
            held[metric, kind].append(found.low <= true[metric] <= found.high)
    return [
        {
            "videos": n_videos,
            "abnormal": share,
            "metric": metric,
            "kind": kind,
            "true": true[metric],
            "coverage": float(np.mean(runs)),
            "runs": len(runs),
        }
        for (metric, kind), runs in held.items()
    ]


def table(results: dict) -> str:
    """The README's block."""
    lines = ["| videos | number | " + " | ".join(KINDS) + " |", "|---|---|" + "---|" * len(KINDS)]
    cells = {(r["videos"], r["metric"], r["kind"]): f"{r['coverage']:.3f}" for r in results["rows"]}
    for n_videos, share in SETS:
        kinds = "all abnormal" if share == 1 else f"{share:.0%} abnormal".replace("%", " %")
        for metric, name in METRICS.items():
            found = " | ".join(cells[n_videos, metric, kind] for kind in KINDS)
            lines.append(f"| {n_videos}, {kinds} | {name} | {found} |")
    return "\n".join([*lines, "", f"{results['runs']} runs each, {RESAMPLES} resamples in each of the resampled ones."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=300)
    runs = parser.parse_args().runs
    results = {"runs": runs, "rows": [row for n, share in SETS for row in covered(n, share, runs)]}
    (HERE / "coverage.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    text = table(results)
    print(text)
    replace_block("coverage", text, HERE / "README.md")


if __name__ == "__main__":
    main()
