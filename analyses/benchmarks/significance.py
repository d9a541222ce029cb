"""What a permutation test of all heads costs beside scikit-learn's of a few, in one run.

    python analyses/benchmarks/significance.py              # 784 heads, 1000 permutations, 200 examples, d_head 128
    python analyses/benchmarks/significance.py --metrics    # also the others that score all labellings at once

scikit-learn tests a few heads with a few permutations, and its time is multiplied up: once with the probe that one
would write (standardised logistic regression, five folds), once with the same probe as headprobe (ridge regression, one
example left out), whose scores must be equal. Times are seconds on the clock and of processor time, of headprobe with
one thread and with two; the machine's load is kept with them, because it decides about the clock. Writes
significance.json beside itself.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from readme_block import replace_block
from side_by_side import ratio, timed
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import LeaveOneOut, permutation_test_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from headprobe.metrics.linear_probe import PENALTY
from headprobe.metrics.significance import MaxStatistic, max_statistic

LAYERS, HEADS, EXAMPLES, D, PERMUTATIONS = 28, 28, 200, 128, 1000
SECONDS_ALLOWED = 15.0
PLANTED = (17, 5)


def features() -> tuple[np.ndarray, np.ndarray]:
    """Noise with a decaying spectrum, and one head with a difference between the classes."""
    rng = np.random.default_rng(0)
    y = np.arange(EXAMPLES) % 2
    z = rng.normal(size=(EXAMPLES, LAYERS, HEADS, D)) * np.arange(1, D + 1) ** -0.5
    z[:, *PLANTED, 0] += 2 * y
    return z.astype(np.float32), y


def usual(x: np.ndarray, y: np.ndarray, permutations: int) -> None:
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    permutation_test_score(probe, x, y, cv=5, scoring="roc_auc", n_permutations=permutations, random_state=0)


def same_probe(x: np.ndarray, labellings: np.ndarray) -> list[float]:
    """Areas of ridge regression with one example left out, fitted one by one."""
    alpha = PENALTY * ((x - x.mean(0)) ** 2).sum() / min(len(x) - 1, x.shape[1])
    areas = []
    for y in labellings:
        scores = np.empty(len(x))
        for train, test in LeaveOneOut().split(x):
            scores[test] = Ridge(alpha=alpha).fit(x[train], y[train]).predict(x[test]) - y[train].mean()
        areas.append(roc_auc_score(y, scores))
    return areas


def found(result: MaxStatistic) -> dict[str, Any]:
    heads = result.significant(0.05)
    assert heads.labels == (f"L{PLANTED[0]}H{PLANTED[1]}",), heads
    return {
        "significant": list(heads.labels),
        "p": float(result.p_step_down[PLANTED]),
        "uncorrected": len(result.significant(0.05, "uncorrected")),
    }


def measure(threads: int, rounds: int, z: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    torch.set_num_threads(threads)
    wall: dict[str, list[float]] = {"headprobe": [], "usual": [], "same probe": []}
    process: dict[str, list[float]] = {name: [] for name in wall}
    load = []
    few, tests = 4, LAYERS * HEADS * (1 + PERMUTATIONS)
    rng = np.random.default_rng(1)
    with threadpool_limits(threads):
        max_statistic(z[:, :1], y, n_permutations=9)
        for _ in range(rounds):
            load.append(os.getloadavg()[0])
            layer, head = rng.integers(LAYERS), rng.integers(HEADS)
            x = z[:, layer, head].astype(np.float64)
            result, *ours = timed(lambda: max_statistic(z, y, n_permutations=PERMUTATIONS, progress=False))
            labellings = np.stack([y, rng.permutation(y)])
            # Loops over small problems are quickest with one thread.
            with threadpool_limits(1):
                _, *plain = timed(lambda x=x: usual(x, y, few))
                areas, *same = timed(lambda x=x, labellings=labellings: same_probe(x, labellings))
            assert abs(areas[0] - float(result.scores[layer, head])) < 1e-9, (areas, layer, head)
            for kept, a, b, c in zip((wall, process), ours, plain, same, strict=True):
                kept["headprobe"].append(a)
                kept["usual"].append(b * tests / (1 + few))
                kept["same probe"].append(c * tests / len(labellings))
    return {
        "seconds": wall,
        "process_seconds": process,
        "load_before": load,
        "ratios": {name: ratio(process, name, "headprobe") for name in ("usual", "same probe")},
        "found": found(result),
    }


def other_metrics(z: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Processor seconds of the other metrics that score all labellings at once."""
    torch.set_num_threads(1)
    with threadpool_limits(1):
        run = functools.partial(max_statistic, z, y, n_permutations=PERMUTATIONS, progress=False)
        return {metric: timed(functools.partial(run, metric=metric))[2] for metric in ("lda", "mmd", "nmi")}


def table(results: dict[str, Any]) -> str:
    lines = ["| threads | processor seconds | quickest on the clock, s | logistic, 5 folds | the same probe |"]
    lines.append("|---|---|---|---|---|")
    for threads, part in results["threads"].items():
        clock, process = min(part["seconds"]["headprobe"]), np.median(part["process_seconds"]["headprobe"])
        times = [f"{part['ratios'][name]['median']:,.0f} times" for name in ("usual", "same probe")]
        lines.append(f"| {threads} | {process:.1f} | {clock:.1f} | {times[0]} | {times[1]} |")
    part = results["threads"]["2"]
    # Both threads together: with two idle cores the clock shows less than this, whatever it shows beside other work.
    both = np.median(part["process_seconds"]["headprobe"])
    load = [f"{value:.1f}" for value in (min(part["load_before"]), max(part["load_before"]))]
    lines.append(
        f"\n{LAYERS * HEADS} heads, {PERMUTATIONS} permutations, {EXAMPLES} examples, d_head {D}, float64; median "
        f"processor time of {len(part['load_before'])} rounds, of all threads together, and the quickest round on the "
        f"clock, beside other work (load {load[0]} to {load[1]} on {results['machine']['cores']} cores). The last two "
        f"columns: processor time of scikit-learn's loops with one thread, multiplied up, over headprobe's. Required: "
        f"at most {SECONDS_ALLOWED:.0f} s on two cores; by processor time, which is the most that idle cores take: "
        f"{'met' if both <= SECONDS_ALLOWED else 'NOT met'}. One head has a signal: {part['found']['uncorrected']} "
        "heads have p < 0.05, the maximum statistic names that head and no other."
    )
    if "metrics" in results:
        others = ", ".join(f"`{name}` {seconds:.0f} s" for name, seconds in results["metrics"].items())
        lines.append(f"Other metrics, the same test, processor time of one thread: {others}.")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--metrics", action="store_true", help="time lda, mmd and nmi as well")
    options = parser.parse_args()
    z, y = features()
    results: dict[str, Any] = {"machine": {"processor": platform.machine(), "cores": os.cpu_count()}}
    results["machine"] |= {"torch": torch.__version__, "numpy": np.__version__}
    results["threads"] = {str(n): measure(n, options.rounds, z, y) for n in (1, 2)}
    if options.metrics:
        results["metrics"] = other_metrics(z, y)
    folder = Path(__file__).parent
    (folder / "significance.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    text = table(results)
    print(text)
    replace_block("significance", text, folder / "README.md")


if __name__ == "__main__":
    main()
