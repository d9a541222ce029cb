"""Threads: the same work on many heads, spread over the processors."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch
from tqdm.auto import tqdm

from headprobe.metrics.features import CHUNK_BYTES, Chunk, Features, chunks

__all__ = ["BAR_DELAY", "in_threads", "one_thread", "over_heads"]

BAR_DELAY = 3.0
"""Seconds before a bar is shown: most work is done by then."""

Item = TypeVar("Item")
Done = TypeVar("Done")


@contextmanager
def one_thread() -> Iterator[None]:
    """Set torch to one thread, and back afterwards.

    The operations on small chunks of heads are over before a second thread has woken, and beside a busy core every one
    of them waits until the scheduler lets that thread run.

    Examples
    --------
    >>> with one_thread():
    ...     torch.get_num_threads()
    1
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def in_threads(function: Callable[[Item], Done], items: Iterable[Item]) -> Iterator[Done]:
    """Apply a function to items, on as many threads as torch uses, and give the results in order.

    Small matrix products gain nothing from several threads each, and lose much on a busy machine, where the threads of
    one product wait for each other. So every item has one thread, and torch is set to one thread until all are done.
    Gradients are not recorded. One item more than there are threads is read ahead, no more.

    Parameters
    ----------
    function
        Called once per item; it should spend its time outside the interpreter.
    items
        Read in the calling thread, one after the other.

    Yields
    ------
    Done
        `function(item)`, in the order of the items. An exception of the function is raised in its place.

    Examples
    --------
    >>> list(in_threads(lambda n: n * n, [1, 2, 3]))
    [1, 4, 9]
    """

    def call(item: Item) -> Done:
        with torch.no_grad():  # a setting of each thread
            return function(item)

    threads = torch.get_num_threads()
    if threads == 1:
        yield from map(call, items)
        return
    pending: deque[Future[Done]] = deque()
    with one_thread(), ThreadPoolExecutor(threads) as pool:
        for item in items:
            pending.append(pool.submit(call, item))
            if len(pending) > threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def over_heads(
    function: Callable[[Chunk], np.ndarray],
    features: Features,
    bytes_per_head: int,
    doing: str,
    progress: bool = False,
) -> list[tuple[Chunk, np.ndarray]]:
    """Apply a function to the features of all heads under all prompts, some heads at a time, in threads.

    Parameters
    ----------
    function
        Called with a chunk of features (`headprobe.metrics.features.chunks`).
    features
        As from `headprobe.metrics.features.read_features`.
    bytes_per_head
        Memory that the function needs for one head.
    doing
        Name of the bar.
    progress
        Whether to show a bar of the heads done, if it takes longer than some seconds.

    Returns
    -------
    list of (Chunk, ndarray)
        Every chunk with its result, as `headprobe.metrics.features.head_map` takes them.

    Raises
    ------
    InputError
        As in `headprobe.metrics.features.chunks`, or as the function does.

    Examples
    --------
    >>> from headprobe.metrics.features import read_features
    >>> features, _ = read_features(np.arange(24.0).reshape(3, 1, 2, 4), [0, 1, 1])
    >>> [values.tolist() for _, values in over_heads(lambda chunk: chunk.x[:, 0, 0].numpy(), features, 1, "first")]
    [[-1.0, -1.0]]
    """
    n_heads = sum(len(block.heads) for block in features.blocks) * len(features.prompts or [None])
    parts = chunks(features, bytes_per_head, CHUNK_BYTES // torch.get_num_threads())
    done = []
    with tqdm(total=n_heads, desc=doing, unit="head", delay=BAR_DELAY, disable=not progress) as bar:
        for chunk, values in in_threads(lambda chunk: (chunk, function(chunk)), parts):
            done.append((chunk, values))
            bar.update(len(chunk.heads))
    return done
