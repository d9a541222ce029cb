"""What a capture costs beside the plain forward pass and beside raw hooks, in one run.

    python analyses/benchmarks/tracing.py                       # the sizes of the README, on the CPU
    python analyses/benchmarks/tracing.py --full-size --device cuda   # 28 layers, 28 heads of 128, bfloat16

Writes tracing.json (or tracing-<card>.json) beside itself.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from models import FULL_28, SMALL_12, SMALL_24, SMALL_28, Size, text_model, video_model
from readme_block import replace_block
from side_by_side import interleaved, ratio

from headprobe import HeadSet, HeadTracer
from headprobe.models.model import Model

PROMPTS = [f"w{i} w{i + 1} w{i + 2} w{i + 3}" for i in range(0, 50, 10)]


class Stop(Exception):
    """Leaves a forward pass early, as raw hooks do it."""


def raw_hooks(model: Model, arguments: dict[str, Any], layers: Sequence[int], early: bool = False) -> list[Any]:
    """The same copies as a capture at the last position, by plain hooks."""
    kept: list[torch.Tensor] = []
    sites = [site for site in model.sites if site.layer in layers]

    def hook(module: Any, given: tuple[torch.Tensor, ...]) -> None:
        kept.append(given[0][:, -1].clone())
        if early and len(kept) == len(sites):
            raise Stop

    handles = [model.module.get_submodule(site.path).register_forward_pre_hook(hook) for site in sites]
    try:
        with torch.no_grad():
            model.module(**arguments)
    except Stop:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return [value.float().cpu() for value in kept]


def plain(model: Model, arguments: dict[str, Any]) -> None:
    with torch.no_grad():
        model.module(**arguments)


def text_batch(model: Model, n_tokens: int) -> tuple[Any, dict[str, Any]]:
    text = " ".join(f"w{i % 500}" for i in range(n_tokens))
    batch = model.adapter.prepare([text], "", model)
    assert batch.inputs["input_ids"].shape == (1, n_tokens)
    arguments: dict[str, Any] = {name: value.to(model.device) for name, value in batch.inputs.items()}
    return batch, arguments | {"use_cache": False, "logits_to_keep": 1}


def all_heads(size: Size, rounds: int, device: str, dtype: torch.dtype, n_tokens: int = 512) -> dict[str, Any]:
    """All heads at the last position, beside the plain pass and raw hooks."""
    model = text_model(size, device, dtype)
    tracer = HeadTracer(model)
    batch, arguments = text_batch(model, n_tokens)
    layers = range(size.layers)
    expected = torch.stack(raw_hooks(model, arguments, layers), 1).flatten(1)
    assert torch.equal(tracer.read(batch).z.flatten(1), expected)
    seconds = interleaved(
        {
            "plain": lambda: plain(model, arguments),
            "hooks": lambda: raw_hooks(model, arguments, layers),
            "hooks, early stop": lambda: raw_hooks(model, arguments, layers, early=True),
            "headprobe": lambda: tracer.read(batch),
        },
        rounds,
        device,
    )
    return report(seconds, n_tokens, ("headprobe", "plain"), ("headprobe", "hooks"), ("headprobe", "hooks, early stop"))


def few_heads(size: Size, rounds: int, device: str, dtype: torch.dtype, n_tokens: int = 512) -> dict[str, Any]:
    """Five heads, the deepest at layer 23 of 28, beside the plain pass."""
    model = text_model(size, device, dtype)
    tracer = HeadTracer(model)
    batch, arguments = text_batch(model, n_tokens)
    heads = HeadSet(["L3H1", "L9H0", "L14H5", "L18H4", "L23H2"])
    seconds = interleaved(
        {
            "plain": lambda: plain(model, arguments),
            "hooks, early stop": lambda: raw_hooks(model, arguments, heads.layers, early=True),
            "headprobe": lambda: tracer.read(batch, heads),
        },
        rounds,
        device,
    )
    return report(seconds, n_tokens, ("headprobe", "plain"), ("headprobe", "hooks, early stop"))


def five_prompts(size: Size, rounds: int, device: str, dtype: torch.dtype, frames: int, side: int) -> dict[str, Any]:
    """Five prompts about one clip with a shared prefix, beside five full passes."""
    model = video_model(size, device, dtype)
    tracer = HeadTracer(model)
    clip = np.random.default_rng(0).integers(0, 256, (frames, side, side, 3), dtype=np.uint8)
    encoded = model.adapter.encode(clip, "clip", model)
    batches = [model.adapter.prepare([encoded], prompt, model) for prompt in PROMPTS]
    video = [float(b.token_info.video.sum() / b.token_info.mask.sum()) for b in batches]  # type: ignore[union-attr]
    assert min(video) >= 0.9, video
    full = [tracer.read(batch).z for batch in batches]
    shared = [reading.z for reading in tracer.read_prompts(batches)]
    worst = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(shared, full, strict=True))
    seconds = interleaved(
        {
            "full passes": lambda: [tracer.read(batch) for batch in batches],
            "shared prefix": lambda: tracer.read_prompts(batches),
        },
        rounds,
        device,
    )
    n_tokens = int(batches[0].token_info.lengths[0])
    done = report(seconds, n_tokens * len(PROMPTS), ("full passes", "shared prefix"))
    return done | {"video_share": min(video), "largest_relative_difference": worst, "tokens_per_prompt": n_tokens}


def report(seconds: dict[str, list[float]], n_tokens: int, *pairs: tuple[str, str]) -> dict[str, Any]:
    medians = {name: float(np.median(values)) for name, values in seconds.items()}
    return {
        "median_seconds": medians,
        "tokens_per_second": {name: n_tokens / value for name, value in medians.items()},
        "ratios": {f"{a} / {b}": ratio(seconds, a, b) for a, b in pairs},
    }


def matrix_peak(device: str, dtype: torch.dtype, rounds: int = 10) -> float:
    """Multiply-adds times two per second that a large matrix product reaches on this device."""
    n = 8192 if device.startswith("cuda") else 2048
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    seconds = interleaved({"product": lambda: a @ b}, rounds, device)["product"]
    return 2 * n**3 / float(np.median(seconds))


def matrix_share(size: Size, n_tokens: int, seconds: float, peak: float) -> float:
    """Share of the matrix peak that a pass reaches, counting the projections and the attention's products."""
    kv = size.kv_heads * size.head_dim
    weights = size.width * (2 * size.width + 2 * kv) + 3 * size.width * size.intermediate
    attention = 2 * n_tokens * size.width
    return 2 * size.layers * n_tokens * (weights + attention) / seconds / peak


REQUIRED = {
    ("all_heads", "headprobe / plain"): ("all heads of 24 layers (d 512), 512 tokens", "at most", 1.05),
    ("all_heads", "headprobe / hooks"): ("the same, beside raw hooks that do the same copies", "at most", 1.03),
    ("five_heads", "headprobe / plain"): ("5 heads, the deepest at layer 23 of 28", "at most", 0.88),
    ("small clip", "full passes / shared prefix"): ("5 prompts on one clip", "at least", 3.8),
    ("large clip", "full passes / shared prefix"): ("5 prompts on one larger clip", "at least", 3.8),
}


def table(results: dict[str, Any]) -> str:
    """The ratios beside what was required of them."""
    measured = results | results["five_prompts"]
    lines = ["| what | ratio | median | quartiles | required |", "|---|---|---|---|---|"]
    for (part, name), (what, bound, limit) in REQUIRED.items():
        found = measured[part]["ratios"][name]
        if "video_share" in measured[part]:
            given = measured[part]
            what += f" ({given['tokens_per_prompt']} tokens, {given['video_share']:.0%} of them video)"
        low, high = found["lower_quartile"], found["upper_quartile"]
        met = found["median"] <= limit if bound == "at most" else found["median"] >= limit
        required = f"{bound} {limit}: {'met' if met else 'NOT met'}"
        lines.append(f"| {what} | {name} | {found['median']:.3f} | {low:.3f} to {high:.3f} | {required} |")
    rounds = results["all_heads"]["ratios"]["headprobe / plain"]["rounds"]
    lines.append(
        f"\n{rounds} interleaved rounds, {results['threads']} thread, {results['dtype']}, {results['device']}."
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--full-size", action="store_true", help="28 layers, 28 heads of 128, random weights, bfloat16")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    dtype = torch.bfloat16 if options.full_size else torch.float32
    card = torch.cuda.get_device_name(options.device) if options.device.startswith("cuda") else platform.machine()
    sizes = (FULL_28,) * 3 if options.full_size else (SMALL_24, SMALL_28, SMALL_12)
    clips = (
        {"small clip": (16, 448), "large clip": (32, 448)}
        if options.full_size
        else {
            "small clip": (16, 224),
            "large clip": (16, 336),
        }
    )
    setting = (options.rounds, options.device, dtype)
    results: dict[str, Any] = {
        "device": card,
        "threads": torch.get_num_threads(),
        "dtype": str(dtype).removeprefix("torch."),
        "all_heads": all_heads(sizes[0], *setting),
        "five_heads": few_heads(sizes[1], *setting),
        "five_prompts": {
            name: five_prompts(sizes[2], *setting, frames=frames, side=side) for name, (frames, side) in clips.items()
        },
    }
    if options.full_size:
        peak = matrix_peak(options.device, dtype)
        seconds = results["all_heads"]["median_seconds"]
        results["matrix_peak_tflops"] = peak / 1e12
        results["share_of_peak"] = {name: matrix_share(sizes[0], 512, value, peak) for name, value in seconds.items()}
    suffix = f"-{card.replace(' ', '-')}" if options.device.startswith("cuda") else ""
    out = options.out or Path(__file__).with_name(f"tracing{suffix}.json")
    out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    text = table(results)
    if not options.full_size and options.out is None:
        replace_block("tracing", text, Path(__file__).with_name("README.md"))
    print(text)


if __name__ == "__main__":
    main()
