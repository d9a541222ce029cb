"""What saliency scores of all heads cost beside a loop over the heads with scikit-learn, in one run.

    python analyses/benchmarks/saliency.py                # 40 examples; the loop on a random part of the heads
    python analyses/benchmarks/saliency.py --full         # the loop on all 784 heads under all 5 prompts
    python analyses/benchmarks/saliency.py --examples 200
    python analyses/benchmarks/saliency.py --memory       # peak memory of 2000 examples, in a process of its own

Both are timed in turns, with one thread, where the loop is quickest, and with as many as the libraries take by
themselves; in wall-clock and in processor time. The results must be equal, and no inertia higher than the loop's.
Writes saliency.json beside itself.
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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from side_by_side import ratio
from sklearn.cluster import KMeans
from sklearn.covariance import LedoitWolf
from sklearn.metrics import normalized_mutual_info_score
from sklearn.metrics.pairwise import euclidean_distances, rbf_kernel
from threadpoolctl import threadpool_limits

from headprobe.metrics.clusters import two_means
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


def nmi(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    fit = KMeans(2, n_init=10, random_state=0).fit(x)
    return float(normalized_mutual_info_score(y, fit.labels_, average_method="geometric")), float(fit.inertia_)


def loop(z: np.ndarray, y: np.ndarray, places: np.ndarray) -> np.ndarray:
    """lda, kl, mmd, nmi and inertia of some heads, one after the other, [head, 5]."""
    rows = []
    for prompt, layer, head in places:
        x = z[prompt, :, layer, head].astype(np.float64)
        rows.append((lda(x, y), kl(x, y), mmd(x, y), *nmi(x, y)))
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


def timed(call: Callable[[], Any]) -> tuple[Any, float, float]:
    wall, process = time.perf_counter(), time.process_time()
    result = call()
    return result, time.perf_counter() - wall, time.process_time() - process


def compare(z: np.ndarray, y: np.ndarray, places: np.ndarray, expected: np.ndarray) -> dict[str, Any]:
    """Largest relative differences, and how the inertia compares."""
    scores = saliency(torch.from_numpy(z), y).values
    found = scores[:, places[:, 0], places[:, 1], places[:, 2]].T
    worst = np.abs(found[:, :3] / expected[:, :3] - 1).max(0)
    rows = z[places[:, 0], :, places[:, 1], places[:, 2]].astype(np.float64)
    inertia = torch.cat([two_means(part)[1] for part in torch.from_numpy(rows).split(64)]).numpy()
    same = np.isclose(inertia, expected[:, 4], rtol=1e-9)
    difference = np.abs(found[same, 3] - expected[same, 3]).max() if same.any() else None
    done = {
        "heads": len(places),
        "largest_relative_difference": dict(zip(("lda", "kl", "mmd"), worst.tolist(), strict=True)),
        "inertia_lower": int((inertia < expected[:, 4] * (1 - 1e-9)).sum()),
        "inertia_equal": int(same.sum()),
        "inertia_higher": int((inertia > expected[:, 4] * (1 + 1e-9)).sum()),
        "nmi_largest_difference_where_equal": difference,
    }
    assert worst.max() < 1e-5, done
    return done


def measure(n: int, part: int, rounds: int, threads: list[int]) -> dict[str, Any]:
    z, y = features(n)
    tensor = torch.from_numpy(z)
    every = np.argwhere(np.ones((PROMPTS, LAYERS, HEADS)))
    rng = np.random.default_rng(1)
    results: dict[str, Any] = {"examples": n, "heads": len(every), "heads_in_loop": part, "threads": {}}
    seen = []
    for count in threads:
        torch.set_num_threads(count)
        wall: dict[str, list[float]] = {"loop": [], "headprobe": []}
        process: dict[str, list[float]] = {"loop": [], "headprobe": []}
        with threadpool_limits(count):
            saliency(tensor, y)
            loop(z, y, every[:1])
            for _ in range(rounds):
                places = every[np.sort(rng.choice(len(every), part, replace=False))]
                # Before and after half of the loop, so that a busy moment does not meet one of the two alone.
                _, *first = timed(lambda: saliency(tensor, y))
                found, *slow = timed(lambda places=places: loop(z, y, places))
                _, *second = timed(lambda: saliency(tensor, y))
                seen.append((places, found))
                for kept, a, b, c in zip((wall, process), first, second, slow, strict=True):
                    kept["headprobe"].append((a + b) / 2)
                    kept["loop"].append(c * len(every) / part)
        results["threads"][str(count)] = {
            "median_seconds": {name: statistics.median(values) for name, values in wall.items()},
            "median_process_seconds": {name: statistics.median(values) for name, values in process.items()},
            "ratio": ratio(wall, "loop", "headprobe"),
            "process_ratio": ratio(process, "loop", "headprobe"),
        }
    results["equal"] = compare(z, y, np.concatenate([p for p, _ in seen]), np.concatenate([f for _, f in seen]))
    return results


def memory(n: int, whole: bool) -> dict[str, Any]:
    """Peak memory of a process that scores n examples of 784 heads under one prompt, the input included."""
    heads = (LAYERS, HEADS) if whole else (1, 4)
    rng = np.random.default_rng(0)
    z = np.empty((n, *heads, D), dtype=np.float32)
    for i in range(n):
        z[i] = rng.normal(size=(*heads, D))
    start = time.perf_counter()
    saliency(z, np.arange(n) % 2)
    return {
        "examples": n,
        "heads": heads[0] * heads[1],
        "input_gib": z.nbytes / 2**30,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "seconds": time.perf_counter() - start,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--heads", type=int, default=112, help="heads that the loop goes through in every round")
    parser.add_argument("--full", action="store_true", help="all heads in the loop, one round")
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, torch.get_num_threads()}))
    parser.add_argument("--memory", action="store_true", help="only the peak memory of 2000 examples")
    parser.add_argument("--memory-here", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    if options.memory_here:
        print(json.dumps(memory(2000, whole=True)))
        return
    results = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {}
    results |= {"device": platform.machine(), "processors": os.cpu_count()}
    if options.memory:
        command = [sys.executable, __file__, "--memory-here"]
        results["memory"] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    else:
        part, rounds = (PROMPTS * LAYERS * HEADS, 1) if options.full else (options.heads, options.rounds)
        name = f"{options.examples} examples" + (", all heads in the loop" if options.full else "")
        results[name] = measure(options.examples, part, rounds, options.threads)
    options.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
