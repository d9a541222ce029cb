"""What saliency scores of all heads cost beside a loop over the heads with scikit-learn, in one run.

    python analyses/benchmarks/saliency.py --full         # 40 examples; the loop on all 784 heads under all 5 prompts
    python analyses/benchmarks/saliency.py --starts 10    # the loop on a random part of the heads, fewer starts
    python analyses/benchmarks/saliency.py --starts 10 --examples 200
    python analyses/benchmarks/saliency.py --memory       # peak memory of 2000 examples, in a process of its own
    python analyses/benchmarks/saliency.py --busy         # the default number of threads against one, beside busy cores
    python analyses/benchmarks/saliency.py --table        # the README's table again, nothing measured

Both are timed in turns, with one thread or as many as `--threads` says, in wall-clock and in processor time; the
ratios of a busy machine are those of processor time. In high dimensions k-means ends in another optimum from almost
every start: 200 starts, as the numeric oracle of the tests takes, find the lowest inertia of most heads, 10 that of
half of them. The scores must be equal, those of k-means where the inertia is. Writes saliency.json beside itself and
the table of README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from readme_block import replace_block
from side_by_side import ratio, timed
from sklearn.cluster import KMeans
from sklearn.covariance import LedoitWolf
from sklearn.metrics import normalized_mutual_info_score
from sklearn.metrics.pairwise import euclidean_distances, rbf_kernel
from threadpoolctl import threadpool_limits

from headprobe.metrics.nmi import two_means
from headprobe.metrics.saliency import saliency

PROMPTS, LAYERS, HEADS, D = 5, 28, 28, 128


def lda(x: np.ndarray, y: np.ndarray) -> float:
    means = np.stack([x[y == c].mean(0) for c in (0, 1)])
    scatter = len(x) * LedoitWolf(assume_centered=True).fit(x - means[y]).covariance_
    delta = means[1] - means[0]
    return float(delta @ np.linalg.solve(scatter, delta))


def kl(x: np.ndarray, y: np.ndarray) -> float:
    normal, abnormal = (LedoitWolf().fit(x[y == c]) for c in (0, 1))

    def one_way(a: LedoitWolf, b: LedoitWolf) -> float:
        inverse = np.linalg.inv(b.covariance_)
        delta = b.location_ - a.location_
        log_ratio = np.linalg.slogdet(b.covariance_)[1] - np.linalg.slogdet(a.covariance_)[1]
        return 0.5 * (np.trace(inverse @ a.covariance_) + delta @ inverse @ delta - x.shape[1] + log_ratio)

    return 0.5 * (one_way(normal, abnormal) + one_way(abnormal, normal))


def mmd(x: np.ndarray, y: np.ndarray) -> float:
    distances = euclidean_distances(x, squared=True)
    kernel = rbf_kernel(x, gamma=1 / (2 * np.median(distances[distances > 0])))
    a, b = y == 1, y == 0
    return float(kernel[np.ix_(a, a)].mean() + kernel[np.ix_(b, b)].mean() - 2 * kernel[np.ix_(a, b)].mean())


def nmi(x: np.ndarray, y: np.ndarray, starts: int) -> tuple[float, float]:
    fit = KMeans(2, n_init=starts, random_state=0).fit(x)  # pyright: ignore
    score = normalized_mutual_info_score(y, fit.labels_, average_method="geometric")
    return float(score), float(fit.inertia_)  # pyright: ignore


def loop(z: np.ndarray, y: np.ndarray, places: np.ndarray, starts: int) -> np.ndarray:
    """lda, kl, mmd, nmi and inertia of some heads, one after the other, [head, 5]."""
    rows = []
    for prompt, layer, head in places:
        x = z[prompt, :, layer, head].astype(np.float64)
        rows.append((lda(x, y), kl(x, y), mmd(x, y), *nmi(x, y, starts)))
    return np.array(rows)


def features(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Heads with a decaying spectrum, some with a difference between the classes."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    z = np.empty((PROMPTS, n, LAYERS, HEADS, D), dtype=np.float32)
    for prompt in range(PROMPTS):
        z[prompt] = rng.normal(size=(n, LAYERS, HEADS, D)) * np.arange(1, D + 1) ** -0.5
        z[prompt, y == 1] += rng.choice([0, 0, 0.5, 2], (LAYERS, HEADS, 1)) * rng.normal(size=(LAYERS, HEADS, D)) * 0.1
    return z, y


def compare(z: np.ndarray, y: np.ndarray, places: np.ndarray, expected: np.ndarray) -> dict[str, Any]:
    """Largest relative differences, and how the inertia compares."""
    scores = saliency(torch.from_numpy(z), y).values
    found = scores[:, places[:, 0], places[:, 1], places[:, 2]].T
    worst = np.abs(found[:, :3] / expected[:, :3] - 1).max(0)
    rows = z[places[:, 0], :, places[:, 1], places[:, 2]].astype(np.float64)
    inertia = torch.cat([two_means(part)[1] for part in torch.from_numpy(rows).split(64)]).numpy()
    same = np.isclose(inertia, expected[:, 4], rtol=1e-9)
    difference = float(np.abs(found[same, 3] - expected[same, 3]).max()) if same.any() else None
    done = {
        "heads": len(places),
        "largest_relative_difference": dict(zip(("lda", "kl", "mmd"), worst.tolist(), strict=True)),
        "inertia_lower": int((inertia < expected[:, 4] * (1 - 1e-9)).sum()),
        "inertia_equal": int(same.sum()),
        "inertia_higher": int((inertia > expected[:, 4] * (1 + 1e-9)).sum()),
        "nmi_largest_difference_where_equal": difference,
    }
    assert worst.max() < 1e-5, done
    assert difference is None or difference < 1e-9, done
    return done


def measure(n: int, part: int | None, rounds: int, threads: list[int], starts: int) -> dict[str, Any]:
    """Times of both, the loop on `part` of the heads in every round, or on all of them, shared out to the rounds."""
    z, y = features(n)
    tensor = torch.from_numpy(z)
    every = np.argwhere(np.ones((PROMPTS, LAYERS, HEADS)))
    rng = np.random.default_rng(1)
    results: dict[str, Any] = {"examples": n, "starts": starts, "heads": len(every), "threads": {}}
    seen = []
    for count in threads:
        torch.set_num_threads(count)
        wall: dict[str, list[float]] = {"loop": [], "headprobe": []}
        process: dict[str, list[float]] = {"loop": [], "headprobe": []}
        drawn = (
            [rng.choice(len(every), part, replace=False) for _ in range(rounds)]
            if part is not None
            else np.array_split(rng.permutation(len(every)), rounds)
        )
        with threadpool_limits(count):
            saliency(tensor, y)
            loop(z, y, every[:1], starts)
            for numbers in drawn:
                places = every[np.sort(numbers)]
                # Before and after half of the loop, so that a busy moment does not meet one of the two alone.
                _, *first = timed(lambda: saliency(tensor, y))
                found, *slow = timed(lambda places=places: loop(z, y, places, starts))
                _, *second = timed(lambda: saliency(tensor, y))
                seen.append((places, found))
                for kept, a, b, c in zip((wall, process), first, second, slow, strict=True):
                    kept["headprobe"].append((a + b) / 2)
                    kept["loop"].append(c * len(every) / len(places))
        results["threads"][str(count)] = {
            "heads_in_loop": sum(len(numbers) for numbers in drawn),
            "median_seconds": {name: statistics.median(values) for name, values in wall.items()},
            "median_process_seconds": {name: statistics.median(values) for name, values in process.items()},
            "ratio": ratio(wall, "loop", "headprobe"),
            "process_ratio": ratio(process, "loop", "headprobe"),
        }
    results["equal"] = compare(z, y, np.concatenate([p for p, _ in seen]), np.concatenate([f for _, f in seen]))
    return results


def memory(n: int) -> dict[str, Any]:
    """Peak memory of a process that scores n examples of the heads of one layer, the input included.

    With so many examples heads are scored one after the other, so that more of them need no more memory.
    """

    def peak() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

    before = peak()
    rng = np.random.default_rng(0)
    z = np.empty((n, 1, HEADS, D), dtype=np.float32)
    for i in range(n):
        z[i] = rng.normal(size=(1, HEADS, D))
    start = time.perf_counter()
    saliency(z, np.arange(n) % 2)
    return {
        "examples": n,
        "heads": HEADS,
        "input_gib": z.nbytes / 2**30,
        "start_gib": before,
        "peak_gib": peak(),
        "seconds": time.perf_counter() - start,
    }


def beside_busy_cores(rounds: int, n: int = 40) -> dict[str, Any]:
    """Seconds on the clock of one prompt's heads with one thread and with torch's default, all cores but one busy."""
    z, y = features(n)
    tensor, default, busy = torch.from_numpy(z[0]), torch.get_num_threads(), max(1, (os.cpu_count() or 1) - 1)
    wall: dict[str, list[float]] = {"default": [], "one": []}
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
    try:
        for i in range(rounds + 1):
            for name in ("default", "one") if i % 2 else ("one", "default"):
                torch.set_num_threads(default if name == "default" else 1)
                seconds = timed(lambda: saliency(tensor, y))[1]
                if i:
                    wall[name].append(seconds)
    finally:
        torch.set_num_threads(default)
        for other in others:
            other.kill()
            other.wait()
    return {
        "examples": n,
        "heads": LAYERS * HEADS,
        "default_threads": default,
        "busy_processes": busy,
        "median_seconds": {name: statistics.median(values) for name, values in wall.items()},
        "ratio": ratio(wall, "default", "one"),
    }


def table(results: dict[str, Any]) -> str:
    """The README's table."""
    lines = [
        "| examples | k-means starts in the loop | heads in the loop | loop, s | headprobe, s | ratio | quartiles | "
        "lowest inertia: headprobe lower, equal, higher |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for run in results["runs"].values():
        equal = run["equal"]
        for timing in run["threads"].values():
            spread, seconds = timing["process_ratio"], timing["median_process_seconds"]
            lines.append(
                f"| {run['examples']} | {run['starts']} | {timing['heads_in_loop']} of {run['heads']} | "
                f"{seconds['loop']:.0f} | {seconds['headprobe']:.2f} | {spread['median']:.0f} | "
                f"{spread['lower_quartile']:.0f} to {spread['upper_quartile']:.0f} | "
                f"{equal['inertia_lower']}, {equal['inertia_equal']}, {equal['inertia_higher']} |"
            )
    first = next(iter(results["runs"].values()))
    worst = max(max(run["equal"]["largest_relative_difference"].values()) for run in results["runs"].values())
    lines += [
        "",
        f"All {first['heads']} are 784 heads of 128 dimensions under 5 prompts; the loop's seconds are for all of "
        f"them. The largest relative difference of `lda`, `kl` and `mmd` is {worst:.1g}. Median over "
        f"{next(iter(first['threads'].values()))['process_ratio']['rounds']} rounds, processor time, "
        f"{' or '.join(first['threads'])} thread, {results['device']}.",
    ]
    if "memory" in results:
        m = results["memory"]
        lines += [
            "",
            f"{m['examples']} examples of {m['heads']} heads: peak memory of the process {m['peak_gib']:.2f} GiB, of "
            f"which {m['input_gib']:.2f} GiB are z itself and {m['start_gib']:.2f} GiB the libraries; scoring takes "
            f"{m['peak_gib'] - m['input_gib'] - m['start_gib']:.2f} GiB (required: less than 2), and "
            "no more for more heads: with so many examples they are scored one by one.",
        ]
    if "busy" in results:
        b = results["busy"]
        spread, seconds = b["ratio"], b["median_seconds"]
        lines += [
            "",
            f"Beside a busy process on every core but one, seconds on the clock for {b['heads']} "
            f"heads: {seconds['default']:.2f} with the default of {b['default_threads']} threads, {seconds['one']:.2f} "
            f"with one; ratio {spread['median']:.2f} (quartiles {spread['lower_quartile']:.2f} to "
            f"{spread['upper_quartile']:.2f}, {spread['rounds']} rounds; required: at most 1.1).",
        ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Time of saliency scores beside a loop over the heads.")
    parser.add_argument("--examples", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--heads", type=int, default=112, help="heads that the loop goes through in every round")
    parser.add_argument("--starts", type=int, default=200, help="starts of k-means in the loop")
    parser.add_argument("--full", action="store_true", help="the loop on all heads, shared out to the rounds")
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--memory", action="store_true", help="only the peak memory of 2000 examples")
    parser.add_argument("--memory-here", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--busy", action="store_true", help="only the threads beside busy cores")
    parser.add_argument("--table", action="store_true", help="only the table of what was measured before")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    if options.memory_here:
        print(json.dumps(memory(2000)))
        return
    measured: dict[str, Any] = {}
    if options.memory:
        command = [sys.executable, __file__, "--memory-here"]
        measured["memory"] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    elif options.busy:
        measured["busy"] = beside_busy_cores(options.rounds)
    elif not options.table:
        run = measure(
            options.examples, None if options.full else options.heads, options.rounds, options.threads, options.starts
        )
        measured["runs"] = {f"{options.examples} examples, {options.starts} starts": run}
    # Read only now, so that two runs at once do not lose each other's numbers.
    results = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {"runs": {}}
    results["runs"] |= measured.pop("runs", {})
    results["runs"] = dict(sorted(results["runs"].items(), key=lambda item: (item[1]["examples"], -item[1]["starts"])))
    results |= measured | {"device": platform.machine(), "processors": os.cpu_count()}
    options.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    replace_block("saliency", table(results), Path(__file__).with_name("README.md"))
    print(table(results))


if __name__ == "__main__":
    main()
