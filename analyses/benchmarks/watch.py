"""What a stream costs: from a segment's last frame to its score, and memory over a long run, on the embedded model.

    python analyses/benchmarks/watch.py

Rendered frames at 10 per second go round and round through `detector.stream`, as an iterable and as a live source
that is faster than the model. Latency beside the time that a segment lasts; memory of the process after a tenth of
the run and at its end. Writes watch.json beside itself, the lines in README.md and the sentence in
docs/howto/headhunt.md.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from readme_block import replace_block

import headprobe
from headprobe.headhunt.headhunt import HeadHunt
from headprobe.headhunt.locate import Locator
from headprobe.video.scenes import FPS, labelled_clips, untrimmed

ROOT = Path(__file__).resolve().parents[2]
LENGTH = 16  # frames of a segment


def resident() -> float:
    """Memory of this process in MB: now where the system says it, else the most so far."""
    pages = Path("/proc/self/statm")
    if pages.exists():
        return int(pages.read_text("ascii").split()[1]) * resource.getpagesize() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def detector(model: Any) -> HeadHunt:
    """Five heads hunted on rendered clips, with a locator that smooths."""
    fitted = HeadHunt(5, segment_frames=LENGTH, sample_frames=8, n_permutations=0)
    fitted.fit(model, labelled_clips(40, seed=0), fps=FPS, progress=False)
    fitted.locator_ = Locator(1.0, 0.5)
    return fitted


def quantiles(values: list[float]) -> dict[str, float]:
    """Median, 99th percentile and largest, in milliseconds."""
    found = np.quantile(values, [0.5, 0.99, 1.0]) * 1000
    return dict(zip(("median", "p99", "max"), np.round(found, 1).tolist(), strict=True))


def measure(n_segments: int) -> dict[str, Any]:
    """Both kinds of source."""
    model = headprobe.load("tiny")
    fitted = detector(model)
    frames = untrimmed(0, split="test", event="fight", n_frames=240).frames
    endless = itertools.cycle(range(len(frames)))
    steady = (frames[i].copy() for i in itertools.islice(endless, n_segments * LENGTH))
    latencies, early = [], 0.0
    for number, segment in enumerate(fitted.stream(model, steady, fps=FPS)):
        latencies.append(segment.latency)
        if number + 1 == n_segments // 10:
            early = resident()
    late = resident()
    n_live = n_segments // 4

    def hasty() -> Any:
        for i in itertools.islice(endless, n_live * LENGTH):
            time.sleep(0.0002)  # 5000 frames per second at most, far more than the model sees
            yield frames[i].copy()

    live = list(fitted.stream(model, hasty, fps=FPS, live=True, reconnect=0))
    seen = sum(part.end_frame - part.start_frame - part.n_dropped for part in live)
    return {
        "segments": len(latencies),
        "seconds_of_video": n_segments * LENGTH / FPS,
        "segment_seconds": LENGTH / FPS,
        "latency_ms": quantiles(latencies),
        "memory_mb": {"after_a_tenth": round(early, 1), "at_the_end": round(late, 1)},
        "live": {
            "frames": live[-1].end_frame,
            "looked_at": seen,
            "dropped": live[-1].total_dropped,
            "segments_scored": sum(part.score is not None for part in live),
            "segments_not_scored": sum(part.score is None for part in live),
            "latency_ms": quantiles([part.latency for part in live if part.score is not None]),
            "memory_mb": round(resident(), 1),
        },
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
    }


def sentence(results: dict[str, Any]) -> str:
    """What was measured, in words."""
    latency, memory, live = results["latency_ms"], results["memory_mb"], results["live"]
    minutes = results["seconds_of_video"] / 60
    growth = memory["at_the_end"] - memory["after_a_tenth"]
    return (
        f"Measured on the embedded model, {results['threads']} thread, {results['machine']}: a score comes "
        f"{latency['median']:.0f} ms after the last frame of its segment in the median and within "
        f"{latency['p99']:.0f} ms in 99 of 100; a segment lasts {results['segment_seconds'] * 1000:.0f} ms. Over "
        f"{results['segments']} segments ({minutes:.0f} minutes of video) the memory of the process grew by "
        f"{growth:.1f} MB after the first tenth. Of a live source that sends {live['frames']} frames faster than the "
        f"model sees them, {live['looked_at']} were looked at and {live['dropped']} dropped and counted."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--segments", type=int, default=2000)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = measure(options.segments)
    (options.out or Path(__file__).with_name("watch.json")).write_text(json.dumps(results, indent=2) + "\n", "utf-8")
    if not options.out:
        for page in (Path(__file__).with_name("README.md"), ROOT / "docs" / "howto" / "headhunt.md"):
            replace_block("watch", sentence(results), page)
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
