"""What choosing heads costs with many clips, and how far the choice is that of all pairs of clips, in one run.

    python analyses/benchmarks/selection.py            # time of 2400 clips, 784 heads, 5 prompts
    python analyses/benchmarks/selection.py --exact    # the quicker `mmd` and `nmi` beside those of all pairs
    python analyses/benchmarks/selection.py --table    # the README's table again, nothing measured

The clips come from videos, which have an offset of their own in every head; the spectrum of a head, the size of its
video offsets and that of its class difference are drawn, the last in a way that leaves no gap between heads with and
without one, and change from prompt to prompt. One prompt is in memory at a time. All pairs take a second for each head,
so that part of the heads and prompts are compared. Processor time of one thread; the machine's load is kept with it.
Writes selection.json beside itself and the table of README.md.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from readme_block import replace_block
from scipy.stats import spearmanr
from side_by_side import interleaved, ratio, timed

from headprobe.metrics.mmd import mmd
from headprobe.metrics.nmi import nmi
from headprobe.metrics.normalisation import combine
from headprobe.metrics.saliency import METRICS, Metric, saliency
from headprobe.metrics.stability import rss
from headprobe.scores import top_heads

CLIPS, VIDEOS, PROMPTS, LAYERS, HEADS, D = 2400, 300, 5, 28, 28, 128
EXACT_PROMPTS = 2
SECONDS_ALLOWED = 180.0
NAMES = ("lda", "kl", "mmd", "nmi")
K = 20
BESIDE, ROUNDS = 4, 3
ALL_PAIRS = {
    name: Metric(name, functools.partial(function, exact=True), ("binary",), numbers=METRICS[name].numbers)
    for name, function in (("mmd", mmd), ("nmi", nmi))
}


def features(prompt: int, layers: int, clips: int) -> tuple[torch.Tensor, np.ndarray]:
    """z of one prompt, [example, layer, head, d], and labels; a third of the videos are abnormal."""
    rng = np.random.default_rng(0)
    video = np.arange(clips) * VIDEOS // clips
    y = (rng.permutation(VIDEOS) < VIDEOS // 3).astype(int)[video]
    z = np.empty((clips, layers, HEADS, D), np.float32)
    for layer in range(layers):
        for head in range(HEADS):
            own = np.random.default_rng([1, layer, head])
            spectrum = np.arange(1, D + 1) ** -own.uniform(0.2, 1.0)
            apart, offsets = own.gamma(0.5, 0.25), own.uniform(0, 1)
            direction, places = own.normal(size=D), own.normal(size=(VIDEOS, D))
            now = np.random.default_rng([2, prompt, layer, head])
            noise = now.standard_normal((clips, D), np.float32)
            apart *= now.uniform(0.5, 1.5)
            z[:, layer, head] = spectrum * (noise + offsets * places[video] + apart * y[:, None] * direction)
    return torch.from_numpy(z), y


def scores_of(prompts: int, layers: int, clips: int, metrics: tuple[Any, ...]) -> tuple[Any, float]:
    """Score maps of the prompts, and the processor time they took."""
    import xarray as xr

    maps, seconds = [], 0.0
    for prompt in range(prompts):
        z, y = features(prompt, layers, clips)
        found, _, taken = timed(lambda z=z, y=y: saliency(z[None], y, metrics))
        maps.append(found.assign_coords(prompt=[f"p{prompt + 1}"]))
        seconds += taken
    return xr.concat(maps, "prompt").transpose("metric", "prompt", "layer", "head"), seconds


def cost(layers: int) -> dict[str, Any]:
    saliency(torch.randn(500, 1, 2, D), np.arange(500) % 2, NAMES)
    before = os.getloadavg()[0]
    _, seconds = scores_of(PROMPTS, layers, CLIPS, NAMES)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {
        "clips": CLIPS,
        "heads": LAYERS * HEADS,
        "prompts": PROMPTS,
        "heads_measured": layers * HEADS,
        "process_seconds": seconds * LAYERS / layers,
        "load": [before, os.getloadavg()[0]],
        "peak_gib": peak,
        "all_pairs": times_of_all_pairs(),
    }


def times_of_all_pairs() -> dict[str, float]:
    """How many times as long all pairs of the clips take, on a few heads in turns."""
    z, y = features(0, 1, CLIPS)
    few = z[None, :, :, :BESIDE]
    ways = {
        "all pairs": lambda: saliency(few, y, ("lda", "kl", *ALL_PAIRS.values())),
        "quicker": lambda: saliency(few, y, NAMES),
    }
    return ratio(interleaved(ways, ROUNDS), "all pairs", "quicker")


def beside_all_pairs(clips: int, layers: int) -> dict[str, Any]:
    """Errors and choices of the quicker metrics beside those of all pairs, with three seeds of the former."""
    exact, slow = scores_of(EXACT_PROMPTS, layers, clips, ("lda", "kl", *ALL_PAIRS.values()))
    chosen = top_heads(rss(combine(exact)), K)
    out: dict[str, Any] = {"clips": clips, "heads": layers * HEADS, "prompts": EXACT_PROMPTS}
    out |= {"exact_seconds": slow, "seeds": []}
    for seed in range(3):
        maps = []
        for prompt in range(EXACT_PROMPTS):
            z, y = features(prompt, layers, clips)
            maps.append(saliency(z[None], y, ("mmd", "nmi"), random_state=seed).values)
        quick = exact.copy(deep=True)
        quick.loc[{"metric": ["mmd", "nmi"]}] = np.concatenate(maps, 1)
        one: dict[str, Any] = {"top_20_shared": len(chosen & top_heads(rss(combine(quick)), K))}
        for name in ("mmd", "nmi"):
            a, b = exact.sel(metric=name).values, quick.sel(metric=name).values
            one[name] = {
                "spearman": min(
                    float(np.asarray(spearmanr(p.ravel(), q.ravel()))[0]) for p, q in zip(a, b, strict=True)
                ),
                "mean_difference": float(np.abs(a - b).mean()),
                "largest_difference": float(np.abs(a - b).max()),
                "median_relative_difference": float(np.median(np.abs(a - b) / a.clip(1e-12))),
                "top_20_shared": [
                    len(
                        top_heads(exact.sel(metric=name).isel(prompt=p, drop=True), K)
                        & top_heads(quick.sel(metric=name).isel(prompt=p, drop=True), K)
                    )
                    for p in range(EXACT_PROMPTS)
                ],
            }
        out["seeds"].append(one)
    return out


def table(results: dict[str, Any]) -> str:
    lines = []
    if "cost" in results:
        c = results["cost"]
        longer = c["all_pairs"]
        seconds = c["process_seconds"]
        part = "" if c["heads_measured"] == c["heads"] else f", multiplied up from {c['heads_measured']} heads"
        lines.append(
            f"{c['clips']} clips, {c['heads']} heads of {D} dimensions, {c['prompts']} prompts: a selection by `lda`, "
            f"`kl`, `mmd` and `nmi` takes {seconds:.0f} s of processor time of one thread{part} (required: less than "
            f"{SECONDS_ALLOWED:.0f}: {'met' if seconds < SECONDS_ALLOWED else 'missed'}), beside other work (load "
            f"{min(c['load']):.0f} to {max(c['load']):.0f} on {results['processors']} cores), with at most "
            f"{c['peak_gib']:.1f} GiB in memory, {c['heads_measured']} heads under one prompt among them. All pairs of "
            f"the clips take {longer['median']:.1f} times as long (quartiles {longer['lower_quartile']:.1f} to "
            f"{longer['upper_quartile']:.1f}, {longer['rounds']} rounds in turns on {BESIDE} heads)."
        )
    if "exact" in results:
        e = results["exact"]
        shared = [s["top_20_shared"] for s in e["seeds"]]
        each = {n: [v for s in e["seeds"] for v in s[n]["top_20_shared"]] for n in ("mmd", "nmi")}
        rho = {n: min(s[n]["spearman"] for s in e["seeds"]) for n in ("mmd", "nmi")}
        lines += [
            "",
            f"Beside all pairs of {e['clips']} clips, on {e['heads']} heads under {e['prompts']} prompts "
            f"({e['exact_seconds'] / e['heads'] / e['prompts']:.2f} s for each head and prompt), with "
            f"{len(e['seeds'])} seeds: of the 20 heads with the highest RSS, at least {min(shared)} are the "
            f"same; of the 20 with the highest `mmd` under a prompt at least {min(each['mmd'])}, with the highest "
            f"`nmi` at least {min(each['nmi'])}. Rank correlation over all heads: `mmd` at least "
            f"{rho['mmd']:.3f}, `nmi` at least {rho['nmi']:.3f}. Median relative difference of `mmd`: "
            f"{max(s['mmd']['median_relative_difference'] for s in e['seeds']):.1%}; mean difference of `nmi`: "
            f"{max(s['nmi']['mean_difference'] for s in e['seeds']):.4f}, largest "
            f"{max(s['nmi']['largest_difference'] for s in e['seeds']):.3f}.",
        ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Time of choosing heads among many clips, and what is approximate.")
    parser.add_argument("--exact", action="store_true", help="only the comparison with all pairs of clips")
    parser.add_argument("--layers", type=int, default=LAYERS, help="so many layers only; the time is multiplied up")
    parser.add_argument("--clips", type=int, default=CLIPS, help="with --exact: so many clips")
    parser.add_argument("--table", action="store_true", help="only the table of what was measured before")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    measured: dict[str, Any] = {}
    if options.exact:
        measured["exact"] = beside_all_pairs(options.clips, options.layers)
    elif not options.table:
        measured["cost"] = cost(options.layers)
    # Read only now, so that two runs at once do not lose each other's numbers.
    results = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {}
    results |= measured | {"device": platform.machine(), "processors": os.cpu_count()}
    options.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    replace_block("selection", table(results), Path(__file__).with_name("README.md"))
    print(table(results))


if __name__ == "__main__":
    main()
