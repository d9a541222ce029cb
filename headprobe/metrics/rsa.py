"""Distance of the class means over the spread within the classes: the score of SteerVAD."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headprobe.errors import InputError
from headprobe.metrics.batch import Batch

__all__ = ["rsa"]


def rsa(
    x: Float[Tensor, "head example d"] | Batch,
    y: Bool[Tensor, " example"] | Int[Tensor, " example"],
    names: Sequence[str] | None = None,
) -> Float[Tensor, " head"]:
    """Squared distance of the class means over the sum of the variances of the classes.

    `|| mu_a - mu_n ||^2 / (var_a + var_n)`, the RSA of SteerVAD (ICLR 2026, arXiv 2602.24021), with `var` the mean
    squared distance of the examples of a class to their mean; that paper's code is not public, so dividing by the
    number of examples, and not by one less, is this project's reading. With several classes, the mean over the pairs
    of classes. Unlike `lda` it takes no account of directions: a signal in one of many dimensions is diluted.

    Parameters
    ----------
    x
        `[head, example, d]`, float64; or a batch.
    y
        `[example]`, True for class 1 of two; or class numbers from 0.
    names
        Label of each head, for error text.

    Returns
    -------
    Tensor
        `[head]`, 0 to infinity, higher separates better. Free of shift, scale and rotation, and the same with every
        example twice.

    Raises
    ------
    InputError
        If the examples of each of two classes coincide, so that the ratio is infinite.

    Examples
    --------
    >>> x = torch.tensor([[[-1.0], [1.0], [3.0], [5.0]]], dtype=torch.float64)
    >>> rsa(x, torch.tensor([False, False, True, True])).tolist()
    [8.0]
    """
    batch = Batch.of(x, names)
    rows = batch.x
    means, variances = [], []
    for c in range(int(y.max()) + 1):
        own = rows[:, y == c]
        mean = own.mean(1)
        means.append(mean)
        variances.append((own - mean[:, None]).square().sum(2).mean(1))
    size = rows.square().sum(2).mean(1)
    ratios = []
    for a, b in combinations(range(len(means)), 2):
        within = variances[a] + variances[b]
        singular = torch.nonzero(within <= 1e-13 * size)[:, 0].tolist()
        if singular:
            raise InputError(
                f"head {batch.names[singular[0]]}: all examples of class {a} are the same, and all of class {b}, so "
                "that the metric 'rsa' is not defined; use more varied examples or leave the head out"
            )
        ratios.append((means[a] - means[b]).square().sum(1) / within)
    return torch.stack(ratios).mean(0)
