"""The scores that HiProbe-VAD picks a layer by, for heads: local discriminant ratio and entropy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headprobe.errors import InputError
from headprobe.metrics._features import CLASSES, KINDS, Batch, square
from headprobe.metrics.gaussian import _means_and_variances
from headprobe.metrics.metric import Metric

__all__ = ["cka", "entropy", "ldr"]


def ldr(
    x: Float[Tensor, "head example d"] | Batch,
    y: Bool[Tensor, " example"] | Int[Tensor, " example"],
    names: Sequence[str] | None = None,
) -> Float[Tensor, " head"]:
    """Local discriminant ratio: squared difference of the class means over the sum of the variances, per dimension.

    `(mu_a - mu_b)^2 / (var_a + var_b)` (HiProbe-VAD, ACM MM 2025, arXiv 2507.17394), here in every dimension of the
    head, and the mean over dimensions; that paper's code is not public, so taking the mean, and variances over the
    number of examples, is this project's reading. Dimensions that are the same for all examples have no ratio and are
    left out. With several classes, the mean over the pairs of classes.

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
        `[head]`, 0 to infinity, higher separates better. Free of shift and of the scale of every dimension, but not
        of rotation; the same with every example twice.

    Raises
    ------
    InputError
        If a dimension differs between two classes and not within them, so that its ratio is infinite.

    Examples
    --------
    >>> x = torch.tensor([[[-1.0, 0.0], [1.0, 1.0], [3.0, 0.0], [5.0, 1.0]]], dtype=torch.float64)
    >>> ldr(x, torch.tensor([False, False, True, True])).tolist()
    [4.0]
    """
    batch = Batch.of(x, names)
    rows = batch.x
    means, variances = _means_and_variances(rows, y)
    size = rows.square().mean(1)
    # Rounding of a dimension that does not vary, beside the features it was centred with.
    varies = size > (1e-15 * (batch.centre.abs() + rows.abs().amax((1, 2))[:, None])).square()
    ratios = []
    for a, b in combinations(range(len(means)), 2):
        within = variances[a] + variances[b]
        singular = torch.nonzero(varies & (within <= 1e-13 * size)).tolist()
        for head, k in singular:
            if abs(float(means[a][head, k] - means[b][head, k])) > 1e-6 * float(size[head, k]) ** 0.5:
                raise InputError(
                    f"head {batch.names[head]}: dimension {k} is the same for all examples of class {a}, and for all "
                    f"of class {b}, so that the metric 'ldr' is not defined; use more varied examples or leave the "
                    "head out"
                )
        there = varies & (within > 1e-13 * size)
        ratio = torch.where(there, (means[a] - means[b]).square() / torch.where(there, within, 1.0), 0.0)
        ratios.append(ratio.sum(1) / there.sum(1))
    return torch.stack(ratios).mean(0)


def entropy(
    x: Float[Tensor, "head example d"] | Batch, y: Tensor | None = None, names: Sequence[str] | None = None
) -> Float[Tensor, " head"]:
    """How far a head's variance is concentrated in few directions: one less its normalised spectral entropy.

    `1 - H(p) / ln m`, `p` the eigenvalues of the covariance over all examples, divided by their sum, and `m` the
    number that can differ from 0, the smaller of d and n - 1. HiProbe-VAD (ACM MM 2025, arXiv 2507.17394) looks at
    the entropy of a layer as the concentration of its features and does not publish how it is computed; taking the
    spectrum, which makes it free of rotation, is this project's choice. It does not look at the labels.

    Parameters
    ----------
    x, names
        As in `ldr`.
    y
        Not used.

    Returns
    -------
    Tensor
        `[head]`, 0 (the same variance in all directions) to 1 (in one), higher is more concentrated. Free of shift,
        scale and rotation. It depends on the number of examples: compare heads only where that is the same.

    Raises
    ------
    InputError
        If there is only one direction.

    Examples
    --------
    >>> x = torch.tensor([[[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]], dtype=torch.float64)
    >>> entropy(x).abs().tolist(), entropy(x * torch.tensor([1.0, 0.0])).tolist()
    ([0.0], [1.0])
    """
    batch = Batch.of(x, names)
    m = min(batch.n - 1, batch.d)
    if m < 2:
        raise InputError(
            f"entropy needs two directions, got d_head {batch.d} and {batch.n} examples: leave the metric out"
        )
    scatter = batch.gram if batch.wide else batch.x.mT @ batch.x
    spectrum = torch.linalg.eigvalsh(scatter).clamp(min=0)
    spread = torch.special.entr(spectrum / spectrum.sum(1, keepdim=True)).sum(1)
    return (1 - spread / math.log(m)).clamp(min=0, max=1)


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


METRICS = (
    Metric("ldr", ldr, CLASSES),
    Metric("entropy", entropy, KINDS, rows=False, numbers=square),
    Metric("cka", cka, KINDS, rows=False, numbers=square),
)
"""What this file adds to `headprobe.metrics.saliency.METRICS`."""
