"""Run as a program by the tests of faults: children that append to a store and are killed while they do."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import sys
import time
import zlib
from pathlib import Path

import torch
from equality import same_bits

from headprobe.activations import HeadActivations, example_table
from headprobe.errors import StoreError
from headprobe.examples import Example
from headprobe.heads import HeadSet
from headprobe.provenance import Provenance
from headprobe.store import Store, verify

HEADS = HeadSet([(layer, head) for layer in range(2) for head in range(2)])
MADE = Provenance("m", prompts={"p1": "a?", "p2": "b?"})
KEYS = [f"v{i:05d}" for i in range(3000)]


def make(ids: list[str]) -> HeadActivations:
    """Activations whose values follow from the ids."""
    seeds = torch.tensor([float(zlib.crc32(name.encode()) % 1000) for name in ids])
    values = seeds.view(1, -1, 1, 1) + torch.arange(2 * 4 * 8).view(2, 1, 4, 8)
    table = example_table([Example("x", id=name, label=1) for name in ids])
    return HeadActivations(values, HEADS, MADE.prompts, table, MADE)


def append_forever(folder: Path, packing: bool, batch: int = 3) -> None:
    """Append what is missing, in order, two examples to a shard; and pack in between."""
    store = Store.resume(folder, MADE, HEADS)
    waiting = store.missing(KEYS)
    for number, begin in enumerate(range(0, len(waiting), batch)):
        if packing and number % 2 == 0:
            store.pack(remove_shards=number % 4 == 0)
        store.append(make(waiting[begin : begin + batch]), shard_examples=2)


def fork(work, *arguments) -> int:
    """Run a function in a child process that ends with it."""
    child = os.fork()
    if child:
        return child
    try:
        work(*arguments)
        os._exit(0)
    except BaseException as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        sys.stderr.flush()
        os._exit(1)


def killed(folder: Path, runs: int, longest: float, seed: int, packing: bool = False) -> dict[str, object]:
    """Kill so many runs at random times; what was seen after each, and what a last run makes of it."""
    rng = random.Random(seed)
    seen: dict[str, int] = {
        "kills": 0,
        "with_part": 0,
        "manifest_behind": 0,
        "added_nothing": 0,
        "no_manifest": 0,
        "packs": 0,
    }
    before = 0
    for _ in range(runs):
        child = fork(append_forever, folder, packing)
        time.sleep(rng.uniform(0, longest))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        seen["kills"] += os.WIFSIGNALED(status)
        seen["with_part"] += any(folder.glob(".*.part"))
        if not (folder / "manifest.json").exists():
            seen["no_manifest"] += 1
            continue
        store = Store.open(folder)
        listed = len(json.loads((folder / "manifest.json").read_text())["shards"])
        seen["manifest_behind"] += listed < len(store.files)
        seen["added_nothing"] += len(store) == before
        seen["packs"] += any(entry.name.startswith("pack") for entry in store.files)
        before = len(store)
        assert store.keys() == [(key, prompt) for key in KEYS[:before] for prompt in MADE.prompts], "not a prefix"
    store = Store.resume(folder, MADE, HEADS)
    wanted = KEYS[: before + 7]
    store.append(make(store.missing(wanted)))
    return {**seen, **checked(folder, wanted), "parts_left": len(list(folder.glob(".*.part")))}


def checked(folder: Path, wanted: list[str]) -> dict[str, object]:
    """Whether a store holds every key once, with the right values, and nothing is corrupt."""
    store = Store.open(folder)
    report = verify(folder)
    ids = store.examples["id"].tolist()
    return {
        "examples": len(ids),
        "shards": len(store.files),
        "once": sorted(store.keys()) == [(key, prompt) for key in sorted(wanted) for prompt in MADE.prompts],
        "values": same_bits(store.activations().values, make(ids).values, of="the arrays that were stored"),
        "problems": report.problems,
    }


def together(folder: Path, processes: int, n: int) -> dict[str, object]:
    """Several processes append the same keys at once, and one of them is killed on the way."""
    Store.create(folder, MADE, HEADS)

    def work(number: int) -> None:
        store = Store.open(folder)
        order = KEYS[:n]
        random.Random(number).shuffle(order)
        refused = 0
        while waiting := store.missing(order):
            try:
                store.append(make(waiting[:2]))
            except StoreError as error:
                if "in the store already" not in str(error):
                    raise
                refused += 1
        (folder / f"refused-{number}").write_text(str(refused))

    children = [fork(work, number) for number in range(processes)]
    time.sleep(0.05)
    os.kill(children[0], signal.SIGKILL)
    ends = [os.waitpid(child, 0)[1] for child in children]
    refused = sum(int(path.read_text()) for path in folder.glob("refused-*"))
    return {"ends": ends[1:], "refused": refused, **checked(folder, KEYS[:n])}


def limited(folder: Path, limit: int) -> dict[str, object]:
    """No file may be larger than a limit: what is said, and what holds afterwards."""
    store = Store.create(folder, MADE, HEADS)
    store.append(make(KEYS[:3]))
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        store.append(make(KEYS[3:400]))
        text = "nothing was refused"
    except StoreError as error:
        text = str(error)
    after = checked(folder, KEYS[:3])
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    store.append(make(store.missing(KEYS[:400])))
    names = [path.name for path in folder.glob(".*.part")]
    return {"text": text, "after": after, "names": names, **checked(folder, KEYS[:400])}


if __name__ == "__main__":
    torch.set_num_threads(1)
    base, runs, longest, seed = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
    first = Store.create(base / "warm", MADE, HEADS)
    first.append(make(KEYS[:2]))  # imports what is imported late, before there are children
    start = time.monotonic()
    for i in range(2, 6):
        first.append(make(KEYS[i : i + 1]))
    longest = max(longest, 2.0 * (time.monotonic() - start))  # on a slow disk, too, some appends are finished
    works = {  # side by side, since most of the time is spent waiting to kill
        "killed": lambda folder: killed(folder, runs, longest, seed),
        "packing": lambda folder: killed(folder, runs // 2, 2 * longest, seed, packing=True),
        "together": lambda folder: together(folder, 3, 60),
        "limited": lambda folder: limited(folder, 20_000),
    }

    def told(name: str) -> None:
        (base / f"{name}.json").write_text(json.dumps(works[name](base / name)))

    children = [fork(told, name) for name in works]
    if any([os.waitpid(child, 0)[1] for child in children]):  # of all of them
        sys.exit(1)
    print(json.dumps({name: json.loads((base / f"{name}.json").read_text()) for name in works}))
