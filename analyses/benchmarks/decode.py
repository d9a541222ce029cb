"""What it costs to decode the clips of a video, in several ways side by side in one run.

    python analyses/benchmarks/decode.py              # 320x240 and 1280x720, rendered here
    python analyses/benchmarks/decode.py FILE...      # own videos

Segments of 48 frames, 16 sampled from each. Ways: the file opened again for every segment, as the reference
implementation does; opened once in this process; and decoded ahead by one and by two processes, as extraction does.
Writes decode.json beside itself and the table in README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from readme_block import replace_block

from headprobe.extraction._decoding import Batch, DecodeAhead
from headprobe.extraction._sources import Settings, Video, units_of
from headprobe.video.clips import sample_indices, segments
from headprobe.video.decode import VideoReader, probe, read_frames, write_video

LENGTH, FRAMES = 48, 16
SIZES = {"320x240": (240, 320, 1440, 6), "1280x720": (720, 1280, 480, 4)}  # height, width, frames, files


def render(path: Path, height: int, width: int, n: int) -> Path:
    """A textured scene with a moving part and some camera noise, which is what a surveillance video costs."""
    rng = np.random.default_rng(0)
    scene = np.kron(rng.integers(0, 256, (height // 8, width // 8, 3)), np.ones((8, 8, 1))).astype(np.int16)

    def frames() -> Any:
        for i in range(n):
            picture = scene.copy()
            left = (i * 3) % (width - 64)
            picture[height // 3 : height // 3 + 64, left : left + 48] = 255 - picture[:64, :48]
            picture += rng.integers(-6, 7, picture.shape, dtype=np.int16)
            yield picture.clip(0, 255).astype(np.uint8)

    return write_video(path, frames(), fps=30, crf=23)


def reopened(paths: list[Path]) -> int:
    count = 0
    for path in paths:
        for segment in segments(probe(path).n_frames, LENGTH):
            read_frames(path, sample_indices(segment.window, FRAMES))
            count += 1
    return count


def opened_once(paths: list[Path]) -> int:
    count = 0
    for path in paths:
        with VideoReader(path) as reader:
            for segment in segments(len(reader), LENGTH):
                reader.read(sample_indices(segment.window, FRAMES))
                count += 1
    return count


def ahead(workers: int) -> Callable[[list[Path]], int]:
    def run(paths: list[Path]) -> int:
        videos = [Video(str(path), f"{i}") for i, path in enumerate(paths)]
        with DecodeAhead(units_of(videos, 1), Settings(LENGTH, FRAMES, 16, workers)) as events:
            return sum(len(event.clips) for event in events if isinstance(event, Batch))

    return run


WAYS: dict[str, Callable[[list[Path]], int]] = {
    "opened for each segment": reopened,
    "opened once": opened_once,
    "1 process ahead": ahead(1),
    "2 processes ahead": ahead(2),
}


def cpu() -> float:
    """Processor seconds of this process and of those that have ended under it."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    )


def measure(paths: list[Path], rounds: int) -> dict[str, Any]:
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in WAYS}
    counts = {name: way(paths) for name, way in WAYS.items()}  # unmeasured, and brings the files into memory
    assert len(set(counts.values())) == 1, counts
    n = counts["opened once"]
    for i in range(rounds):
        for name in list(WAYS)[i % len(WAYS) :] + list(WAYS)[: i % len(WAYS)]:
            clock, processor = time.perf_counter(), cpu()
            WAYS[name](paths)
            seconds[name].append((time.perf_counter() - clock, cpu() - processor))
    rows = {
        name: {
            "clips_per_second": n / statistics.median(clock for clock, _ in values),
            "clips_per_processor_second": n / statistics.median(processor for _, processor in values),
        }
        for name, values in seconds.items()
    }
    return {"clips": n, "files": len(paths), "ways": rows}


def table(results: dict[str, Any]) -> str:
    """The ways side by side, for every size of video."""
    sizes = list(SIZES)
    head = [f"{size}, {results[size]['clips']} clips: by processor second | by second" for size in sizes]
    lines = [f"| way | {' | '.join(head)} |", "|---" * (1 + 2 * len(sizes)) + "|"]
    for way in WAYS:
        found = [results[size]["ways"][way] for size in sizes]
        cells = [f"{one['clips_per_processor_second']:.3g} | {one['clips_per_second']:.3g}" for one in found]
        lines.append(f"| {way} | {' | '.join(cells)} |")
    lines.append(f"\n{results['rounds']} interleaved rounds, {results['cores']} cores, {results['machine']}.")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    results: dict[str, Any] = {"cores": os.cpu_count(), "machine": platform.machine(), "rounds": options.rounds}
    with tempfile.TemporaryDirectory() as folder:
        if options.files:
            results["files"] = measure(options.files, options.rounds)
        else:
            for name, size in SIZES.items():
                *shape, n_files = size
                copies = [render(Path(folder) / f"{name}-0.mp4", *shape)]
                for i in range(1, n_files):
                    copies.append(copies[0].with_name(f"{name}-{i}.mp4"))
                    copies[i].write_bytes(copies[0].read_bytes())
                results[name] = measure(copies, options.rounds)
    out = options.out or Path(__file__).with_name("decode.json")
    if options.out or not options.files:
        out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    if not options.out and not options.files:
        replace_block("decode", table(results), Path(__file__).with_name("README.md"))
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
