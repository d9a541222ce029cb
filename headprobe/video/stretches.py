"""Runs of labelled frames as (first, end) pairs."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["stretches"]


def stretches(labels: ArrayLike) -> list[tuple[int, int]]:
    """Where a label per frame is 1: (first frame, last frame + 1) of every run, in order.

    Parameters
    ----------
    labels
        ``[frame]``, 0 or 1.

    Returns
    -------
    list of tuple
        (start, end) in frames, end exclusive.

    Examples
    --------
    >>> stretches([0, 1, 1, 0, 1])
    [(1, 3), (4, 5)]
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[0], np.asarray(labels).astype(int), [0]])))
    return [(int(first), int(end)) for first, end in edges.reshape(-1, 2)]
