"""What a store costs beside other ways to keep head outputs, in one run.

    python analyses/benchmarks/store.py             # 2000 examples, 784 heads of 128, float16: 401 MB each way
    python analyses/benchmarks/store.py --examples 200 --rounds 3

Every way keeps the same numbers as float16 and gives float32 back; every file is on the disk (fsync) before the
clock of writing stops. Reading is from the page cache. Writes store.json beside itself and the table in README.md.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from readme_block import replace_block

from headprobe import Example, HeadActivations, HeadSet
from headprobe.activations import example_table
from headprobe.provenance import Provenance
from headprobe.store import Store

LAYERS, HEADS, D_HEAD, SHARD = 28, 28, 128, 200
ALL = HeadSet([(layer, head) for layer in range(LAYERS) for head in range(HEADS)])
MADE = Provenance("a model", prompts={"p1": "what happens?"})


@dataclass
class Way:
    """One way to keep the numbers: how it writes a folder, and how it reads some heads of all examples."""

    name: str
    write: Callable[[Path, int], None]
    read: Callable[[Path, int, HeadSet], Tensor]
    slow: bool = False


@functools.cache
def batches(n: int) -> list[tuple[int, Tensor]]:
    """The same numbers for every way, made once, as a capture gives them: float32 [example, layer, head, d_head]."""
    generator = torch.Generator().manual_seed(0)
    return [
        (begin, torch.randn(min(SHARD, n - begin), LAYERS, HEADS, D_HEAD, generator=generator))
        for begin in range(0, n, SHARD)
    ]


def durably(path: Path, write: Callable[[Any], None]) -> None:
    with path.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())


def write_store(folder: Path, n: int) -> None:
    store = Store.create(folder, MADE, ALL)
    for begin, z in batches(n):
        table = example_table([Example("x", id=f"v{i}", label=i % 2) for i in range(begin, begin + len(z))])
        store.append(HeadActivations(z.flatten(1, 2)[None], ALL, MADE.prompts, table, MADE))


def write_packed(folder: Path, n: int) -> None:
    write_store(folder, n)
    Store.open(folder).pack(remove_shards=True)


OPEN: dict[Path, Store] = {}
READS = ("one_head_ms", "twenty_heads_ms", "open_and_one_head_ms")


def read_store(folder: Path, _n: int, heads: HeadSet) -> Tensor:
    if folder not in OPEN:
        OPEN[folder] = Store.open(folder)
    return OPEN[folder].heads(heads)[0]


def write_one_each(folder: Path, n: int) -> None:
    folder.mkdir()
    for begin, z in batches(n):
        for i, sample in enumerate(z.half()):
            save_file({"z": sample.contiguous()}, folder / f"{begin + i}.safetensors")
            with (folder / f"{begin + i}.safetensors").open("rb") as file:
                os.fsync(file.fileno())


def read_one_each(folder: Path, n: int, heads: HeadSet) -> Tensor:
    samples = []
    for i in range(n):
        with safe_open(folder / f"{i}.safetensors", "pt") as file:
            z = file.get_slice("z")
            samples.append(torch.stack([z[head.layer, head.head] for head in heads]))
    return torch.stack(samples).float()


def write_pickle(folder: Path, n: int) -> None:
    folder.mkdir()
    for begin, z in batches(n):
        for i, sample in enumerate(z.half()):
            durably(folder / f"{begin + i}.pt", lambda file, sample=sample: torch.save({"z": sample.clone()}, file))


def read_pickle(folder: Path, n: int, heads: HeadSet) -> Tensor:
    layers, columns = zip(*((head.layer, head.head) for head in heads), strict=True)
    samples = [torch.load(folder / f"{i}.pt", weights_only=True)["z"][layers, columns] for i in range(n)]
    return torch.stack(samples).float()


def write_memmap(folder: Path, n: int) -> None:
    """One array [layer, head, example, d_head]; no keys, no appending, nothing after a kill."""
    folder.mkdir()
    shape = (LAYERS, HEADS, n, D_HEAD)
    array = np.lib.format.open_memmap(folder / "z.npy", mode="w+", dtype=np.float16, shape=shape)
    for begin, z in batches(n):
        array[:, :, begin : begin + len(z)] = z.half().permute(1, 2, 0, 3).numpy()
    array.flush()


def read_memmap(folder: Path, _n: int, heads: HeadSet) -> Tensor:
    array = np.load(folder / "z.npy", mmap_mode="r")
    return torch.stack([torch.from_numpy(array[head.layer, head.head].copy()) for head in heads], 1).float()


WAYS = [
    Way("store, shards", write_store, read_store),
    Way("store, packed", write_packed, read_store),
    Way("one safetensors per sample", write_one_each, read_one_each, slow=True),
    Way("pickle (torch.save per sample)", write_pickle, read_pickle, slow=True),
    Way("one npy memmap", write_memmap, read_memmap),
]


def milliseconds(work: Callable[[], object], rounds: int) -> dict[str, float]:
    """Median over rounds on the clock and of processor time; one run before is not counted."""
    work()
    clock, busy = [], []
    for _ in range(rounds):
        start, used = time.perf_counter(), time.process_time()
        work()
        clock.append(1e3 * (time.perf_counter() - start))
        busy.append(1e3 * (time.process_time() - used))
    return {"clock": statistics.median(clock), "processor": statistics.median(busy), "best": min(clock)}


def measure(base: Path, n: int, rounds: int) -> list[dict[str, Any]]:
    twenty = HeadSet.random(ALL, 20, random_state=0)
    one = HeadSet(["L18H4"])
    expected = torch.cat([z[:, 18, 4].half().float() for _, z in batches(n)])
    rows = []
    for way in WAYS:
        folder = base / way.name
        start = time.perf_counter()
        way.write(folder, n)
        row: dict[str, Any] = {"way": way.name, "write_s": time.perf_counter() - start}
        row["MB"] = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
        row["files"] = sum(1 for path in folder.iterdir() if path.name != ".lock")
        assert torch.equal(way.read(folder, n, one)[:, 0], expected), way.name
        times = max(1, rounds // 10) if way.slow else rounds
        row["one_head_ms"] = milliseconds(lambda way=way, folder=folder: way.read(folder, n, one), times)
        row["twenty_heads_ms"] = milliseconds(lambda way=way, folder=folder: way.read(folder, n, twenty), times)
        if way.name.startswith("store"):
            fresh = milliseconds(lambda folder=folder: Store.open(folder).head("L18H4"), max(3, rounds // 3))
            row["open_and_one_head_ms"] = fresh
        rows.append(row)
        shutil.rmtree(folder)
    return rows


def table(result: dict[str, Any]) -> str:
    """The ways side by side, and the two times that are required of the store."""
    lines = [
        "| way | files | MB | write, s | one head, ms | 20 heads, ms | open and one head, ms |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        times = [f"{row[name]['clock']:.3g}" if name in row else "" for name in READS]
        lines.append(
            f"| {row['way']} | {row['files']} | {row['MB']:.0f} | {row['write_s']:.1f} | {' | '.join(times)} |"
        )
    verdicts = []
    for name, what, limit in (("one_head_ms", "one head", 5), ("twenty_heads_ms", "20 heads", 30)):
        found = result["rows"][0][name]["clock"]
        verdicts.append(f"{what} {found:.2f} ms (under {limit} ms: {'met' if found < limit else 'NOT met'})")
    machine = result["machine"]
    lines.append(
        f"\n{result['examples']} examples of {result['heads']} heads of {result['d_head']} numbers, float16, "
        f"{machine['threads']} thread, {machine['processor']}. Required of shards, warm: {'; '.join(verdicts)}."
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--examples", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--folder", type=Path, help="where to write; by default a temporary folder")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as base:
        rows = measure(Path(base), given.examples, given.rounds)
    print(f"{given.examples} examples x {len(ALL)} heads x {D_HEAD}, float16; milliseconds: median clock / processor")
    print(f"{'':32}{'write s':>9}{'MB':>7}{'files':>7}{'one head':>18}{'20 heads':>18}{'open + one head':>18}")
    for row in rows:
        cells = [f"{row[name]['clock']:.2f} / {row[name]['processor']:.2f}" if name in row else "" for name in READS]
        print(
            f"{row['way']:32}{row['write_s']:9.2f}{row['MB']:7.0f}{row['files']:7}" + "".join(f"{c:>18}" for c in cells)
        )
    result = {
        "examples": given.examples,
        "heads": len(ALL),
        "d_head": D_HEAD,
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "threads": torch.get_num_threads()},
        "torch": torch.__version__,
        "rows": rows,
    }
    if given.examples == 2000:
        (Path(__file__).parent / "store.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        replace_block("store", table(result), Path(__file__).with_name("README.md"))


if __name__ == "__main__":
    main()
