"""Whether rounding explains that a sum is not met exactly."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["ROUNDINGS", "closes"]

ROUNDINGS = 4
"""Roundings by which an element may miss the sum of its parts, of the sum of their sizes."""

_FACTOR = 0.01


def closes(total: Tensor, parts: Sequence[Tensor], eps: float) -> bool:
    """Whether a tensor is the sum of others, element by element, up to the rounding of a few additions.

    In half precision rounding can hide a factor near one; it does not hide that the error goes along with a part.

    Parameters
    ----------
    total
        The sum, any shape.
    parts
        The parts, of the same shape.
    eps
        Relative rounding of the number type the sum was taken in.

    Returns
    -------
    bool
        False also where a value is not finite.

    Examples
    --------
    >>> one = torch.ones(2)
    >>> closes(3 * one, [one, one, one], 1e-7), closes(3 * one, [one, one], 1e-7)
    (True, False)
    """
    error, size = total.double(), total.abs().double()
    for part in parts:
        error, size = error - part.double(), size + part.abs().double()
    if not bool((error.abs() <= ROUNDINGS * eps * size).all()):
        return False
    size = size.clamp_min(torch.finfo(torch.float64).tiny)
    for part in parts:
        relative = part.double() / size
        power = float(relative.square().sum())
        # Least squares: by how much the part's factor differs from one, and how much of that rounding explains.
        off, noise = abs(float((error / size * relative).sum())), eps * power**0.5
        if off > max(_FACTOR * power, ROUNDINGS * noise):
            return False
    return True
