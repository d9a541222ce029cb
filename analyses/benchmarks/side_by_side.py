"""Times of several ways to do the same thing, interleaved in one run so that a busy machine slows all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch


def interleaved(ways: Mapping[str, Callable[[], object]], rounds: int, device: str = "cpu") -> dict[str, list[float]]:
    """Seconds of every way in every round; each way runs once before, unmeasured.

    On the CPU these are seconds of processor time of this process, which other processes hardly change; on a GPU they
    are seconds on the clock, with everything queued finished.
    """
    clock = time.process_time if device == "cpu" else time.perf_counter

    def wait() -> None:
        if device.startswith("cuda"):
            torch.cuda.synchronize()

    for way in ways.values():
        way()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for i in range(rounds):
        # The order turns, so that no way always runs after the same other one.
        for name in names[i % len(names) :] + names[: i % len(names)]:
            wait()
            start = clock()
            ways[name]()
            wait()
            seconds[name].append(clock() - start)
    return seconds


def timed(call: Callable[[], Any]) -> tuple[Any, float, float]:
    """What a call returns, and its seconds: on the clock, and of processor time."""
    wall, process = time.perf_counter(), time.process_time()
    result = call()
    return result, time.perf_counter() - wall, time.process_time() - process


def ratio(seconds: Mapping[str, list[float]], way: str, against: str) -> dict[str, float]:
    """Median over rounds of a way's time over another's in the same round, with the quartiles."""
    ratios = sorted(a / b for a, b in zip(seconds[way], seconds[against], strict=True))
    low, middle, high = statistics.quantiles(ratios * 2 if len(ratios) == 1 else ratios, n=4, method="inclusive")
    return {"median": middle, "lower_quartile": low, "upper_quartile": high, "rounds": len(ratios)}
