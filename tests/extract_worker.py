"""Run as a program by the tests of faults: extractions that are killed while they run, and what they leave."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from equality import close
from tiny_models import make_model

from headprobe.extraction.extract import extract
from headprobe.store import Store, verify
from headprobe.video.decode import write_video

PROMPTS = {"odd": "does anything odd", "what": "what happens"}
SMALL: dict[str, Any] = {"segments": 8, "frames": 4, "batch_size": 2, "videos_per_unit": 2, "workers": 1}
N_VIDEOS = 6


def go(folder: Path, model: Any, out: Path) -> Store:
    return extract(folder, model, PROMPTS, out, resume=True, shard_examples=4, progress=False, **SMALL).store


def killed(folder: Path, kills: int, seed: int) -> dict[str, object]:
    """Kill extractions at random times, each going on where the last ended, a new store whenever one is complete."""
    source = folder / "videos"
    source.mkdir()
    for i in range(N_VIDEOS):
        frames = np.random.default_rng(i).integers(0, 256, (40 + i, 32, 48, 3), dtype=np.uint8)
        write_video(source / f"v{i:02d}.mp4", frames, fps=10)
    model, rng = make_model("qwen2_vl"), random.Random(seed)
    start = time.monotonic()
    whole = go(source, model, folder / "whole")
    longest = time.monotonic() - start
    expected = whole.activations()
    ids = expected.examples["id"].tolist()
    seen: dict[str, Any] = {"kills": 0, "stores": 0, "clips": len(ids), "gained": [], "wrong": []}
    while seen["kills"] < kills:
        out, complete = folder / f"z{seen['stores']}", False
        seen["stores"] += 1
        while not complete:
            before = len(Store.open(out)) if (out / "manifest.json").exists() else 0
            child = os.fork()
            if not child:
                try:
                    go(source, model, out)
                    os._exit(0)
                except BaseException as error:
                    sys.stderr.write(f"{type(error).__name__}: {error}\n")
                    sys.stderr.flush()
                    os._exit(1)
            if seen["kills"] < kills:
                time.sleep(rng.uniform(0, longest))
                os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            if os.WIFSIGNALED(status):
                seen["kills"] += 1
                seen["gained"].append((len(Store.open(out)) if (out / "manifest.json").exists() else 0) - before)
            complete = os.WIFEXITED(status)
            if complete and os.WEXITSTATUS(status):
                seen["wrong"].append(f"a run ended with {os.WEXITSTATUS(status)}")
        store, report = Store.open(out), verify(out)
        seen["wrong"] += report.problems
        if sorted(store.keys()) != sorted(whole.keys()):
            seen["wrong"].append(f"{out.name} holds other keys, or one of them twice")
            continue
        acts = store.activations(examples=ids)
        if not close(acts.values, expected.values) or not acts.examples.equals(expected.examples):
            seen["wrong"].append(f"{out.name} holds other values")
    return seen


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(killed(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
