"""Alignment of the examples' similarities in a head with their similarities in the target."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from headprobe.metrics.batch import Batch

__all__ = ["cka"]


def cka(x: Float[Tensor, "head example d"] | Batch, y: Tensor) -> Float[Tensor, " head"]:
    """Linear centred kernel alignment of a head and the target.

    `|| X^T Y ||_F^2 / (|| X^T X ||_F || Y^T Y ||_F)` (Kornblith et al., "Similarity of neural network
    representations revisited", ICML 2019, eq. 4), `X` the centred features and `Y` the centred numbers, or one
    centred column for each class. It is the one metric here that takes classes and numbers alike.

    Parameters
    ----------
    x
        `[head, example, d]`, float64; or a batch.
    y
        `[example]`: bool, class numbers from 0, or float numbers.

    Returns
    -------
    Tensor
        `[head]`, 0 to 1, higher is more alike. Free of shift, scale and rotation, and the same with every example
        twice. Positive on noise, more so with fewer examples.

    Examples
    --------
    >>> x = torch.tensor([[[0.0], [0.0], [3.0], [3.0]]], dtype=torch.float64)
    >>> [round(v, 12) for v in cka(x, torch.tensor([False, False, True, True])).tolist()]
    [1.0]
    """
    batch = Batch.of(x)
    columns = y[:, None] if y.is_floating_point() else torch.nn.functional.one_hot(y.long())
    columns = columns.to(torch.float64)
    columns = columns - columns.mean(0)
    if batch.wide:
        shared = (columns * (batch.gram @ columns)).sum((1, 2))
        own = torch.linalg.matrix_norm(batch.gram)
    else:
        shared = (batch.x.mT @ columns).square().sum((1, 2))
        own = torch.linalg.matrix_norm(batch.x.mT @ batch.x)
    return (shared / (own * torch.linalg.matrix_norm(columns.T @ columns))).clamp(max=1)
