"""How many clips go through the model at once: a number, or as many as fit."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, TypeVar

import torch

from headprobe.errors import InputError

__all__ = ["BatchSize"]

_START = {"cpu": 16}
_START_ELSEWHERE = 64

Item = TypeVar("Item")
Result = TypeVar("Result")


class BatchSize:
    """A number of clips per pass that shrinks when the memory does not suffice.

    Parameters
    ----------
    size
        A number, which is kept to; or ``auto``: 16 on a CPU and 64 elsewhere, halved whenever a pass runs out of
        memory.
    device
        Where the model is.

    Attributes
    ----------
    size : int
        The number now.

    Raises
    ------
    InputError
        The size is neither ``auto`` nor an integer of at least 1.

    Examples
    --------
    >>> def work(chunk):
    ...     if len(chunk) > 5:
    ...         raise torch.OutOfMemoryError("too much")
    ...     return len(chunk)
    >>> size = BatchSize("auto", torch.device("cpu"))
    >>> [n for _, n in size.over(range(16), work)], size.size
    ([4, 4, 4, 4], 4)
    """

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

    def over(self, items: Sequence[Item], work: Callable[[Sequence[Item]], Result]) -> Iterator[tuple[Any, Result]]:
        """Do work on items, as many at once as the size says.

        Parameters
        ----------
        items
            What to work on.
        work
            Done again on fewer items if it runs out of memory.

        Yields
        ------
        (sequence, result)
            The items of each piece, and what the work gave.

        Raises
        ------
        InputError
            The memory does not suffice for the size given, or for a single item.
        """
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
                said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
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
        if failed == 1:
            raise InputError(f"The memory does not suffice for one clip: take fewer frames or heads. ({said})")
        if not self.auto:
            raise InputError(
                f"The memory does not suffice for {failed} clips at once; give a smaller batch_size or 'auto'. ({said})"
            )
        self.size = failed // 2


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out; on the CPU torch has no type of its own for it."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)
