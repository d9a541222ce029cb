"""How many examples go through the model at once, and what a long run will take: time, memory and disk."""

from __future__ import annotations

import gc
import importlib
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

import torch

from headprobe._validation import notice
from headprobe.errors import InputError, OutOfMemoryError

_log = logging.getLogger(__name__)


_START = {"cpu": 16}


_START_ELSEWHERE = 64


Item = TypeVar("Item")


Result = TypeVar("Result")


class BatchSize:
    """A number of examples per pass that shrinks when the memory does not suffice, and stays so."""

    def __init__(self, size: int | Literal["auto"], device: torch.device) -> None:
        self.auto = size == "auto"
        self.device = device
        if isinstance(size, str):
            if size != "auto":
                raise InputError(f"batch_size is {size!r}; give 'auto' or an integer of at least 1.")
            size = _START.get(device.type, _START_ELSEWHERE)
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise InputError(f"batch_size is {size!r}; give 'auto' or an integer of at least 1.")
        self.size = size

    @classmethod
    def of(cls, size: BatchSize | int | Literal["auto"], device: torch.device) -> BatchSize:
        """The batch size itself, or one of this size."""
        return size if isinstance(size, BatchSize) else cls(size, device)

    def over(self, items: Sequence[Item], work: Callable[[Sequence[Item]], Result]) -> Iterator[tuple[Any, Result]]:
        """Do work on items, as many at once as the size says."""
        start = 0
        while start < len(items):
            piece = items[start : start + self.size]
            done: list[Result] = []
            said = ""
            try:
                done.append(work(piece))
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not _is_out_of_memory(error):
                    raise
                said = _first_line(error)
            if done:
                yield piece, done.pop()
                start += len(piece)
                continue
            # Out of the except block, because the exception keeps the tensors of the failed pass.
            self._shrink(len(piece), said)

    def _shrink(self, failed: int, said: str) -> None:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        where = f"The memory of {self.device} does not suffice for"
        if failed == 1:
            raise OutOfMemoryError(
                f"{where} one example: take fewer frames or heads, dtype 'bfloat16', or device_map 'auto', which "
                f"spreads the model. ({said})"
            )
        if not self.auto:
            raise OutOfMemoryError(f"{where} {failed} examples at once; give a smaller batch_size or 'auto'. ({said})")
        self.size = failed // 2
        _log.info("out of memory with %d examples per pass: going on with %d", failed, self.size)


Batches = BatchSize | int | Literal["auto"]


"""What can say how many examples go through the model at once."""


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out; on the CPU torch has no type of its own for it."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)


@contextmanager
def memory_errors(doing: str) -> Iterator[None]:
    """Make an error of torch about memory one of headprobe."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if isinstance(error, OutOfMemoryError) or not _is_out_of_memory(error):
            raise
        raise OutOfMemoryError(
            f"The memory does not suffice for {doing}: take a smaller batch_size or 'auto', fewer frames, dtype "
            f"'bfloat16', or device_map 'auto', which spreads the model. ({_first_line(error)})"
        ) from error


_LONG_SECONDS = 30.0


_GB = 1e9


class Forecast:
    """What a run of many examples will take, said once its first batch is done and only where that is long."""

    def __init__(
        self,
        doing: str,
        device: torch.device,
        kept: int = 0,
        stored: int = 0,
        folder: str | os.PathLike[str] | None = None,
        batches: int = 1,
    ) -> None:
        self.doing, self.device, self.kept, self.stored, self.folder = doing, device, kept, stored, folder
        self._left = batches
        self._began = time.monotonic()

    def __call__(self, n_done: int, n_total: int) -> None:
        """Take note of a batch."""
        self._left -= 1
        if self._left or not 0 < n_done < n_total:
            return
        seconds = (time.monotonic() - self._began) / n_done * (n_total - n_done)
        kept, stored = self.kept * (n_total - n_done), self.stored * (n_total - n_done)
        if seconds >= _LONG_SECONDS:
            _log.info("%s", self._sentence(n_done, n_total, seconds, kept, stored))
        available = _available_memory()
        if available is not None and kept > available:
            notice(
                f"{self.doing}: {kept / _GB:.1f} GB of activations are still to be kept in memory and "
                f"{available / _GB:.1f} GB are free: read fewer heads or prompts, or use headprobe.extraction.extract, "
                "which keeps them on disk."
            )
        free = None if self.folder is None else shutil.disk_usage(self.folder).free
        if free is not None and stored > free:
            notice(
                f"{self.doing}: {stored / _GB:.1f} GB are still to be written and {free / _GB:.1f} GB are free in "
                f"{os.fspath(self.folder or '')}: read fewer heads or prompts, or name another folder."
            )

    def _sentence(self, n_done: int, n_total: int, seconds: float, kept: int, stored: int) -> str:
        peak = _peak_memory(self.device)
        parts = [f"about {_duration(seconds)} to go", f"about {(peak + kept) / _GB:.1f} GB of memory"]
        if self.device.type == "cuda":
            on_device = torch.cuda.max_memory_allocated(self.device)
            parts.append(f"{on_device / _GB:.1f} GB of it on {self.device} so far")
        if self.folder is not None:
            parts.append(f"{stored / _GB:.2f} GB of disk")
        return f"{self.doing}: {n_done} of about {n_total} examples done; {', '.join(parts)}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _peak_memory(device: torch.device) -> int:
    """The most memory that this process has taken, with that on its GPU; 0 where the system does not say."""
    on_device = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    try:
        resource = importlib.import_module("resource")
    except ImportError:  # Windows
        return on_device
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return on_device + peak * (1 if sys.platform == "darwin" else 1024)


def _available_memory() -> int | None:
    """Bytes that a process can still get; None where the system does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return None
