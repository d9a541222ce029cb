"""Accuracy of the nearest class mean, the score that picks sparse attention vectors."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headprobe.errors import InputError
from headprobe.metrics.batch import Batch
from headprobe.metrics.probe_scores import check_groups

__all__ = ["sav"]

# Cosines closer than this are the same up to rounding.
SAME = 1e-12


def sav(
    x: Float[Tensor, "head example d"] | Batch,
    y: Bool[Tensor, " example"] | Int[Tensor, " example"],
    groups: Int[Tensor, " example"] | None = None,
) -> Float[Tensor, " head"]:
    """Accuracy of giving every example to the class whose mean it has the largest cosine with, leaving it out.

    The share of examples with `argmax_c cos(x_i, mean_c) = y_i` (Mitra et al., "Sparse attention vectors", ICCV
    2025, arXiv 2412.00142, which ranks heads by it). There an example is part of its own class mean; here it is left
    out of it, with groups its whole group is left out of all means, and equal cosines share the point.

    Parameters
    ----------
    x
        `[head, example, d]`, float64, as the head gave it; or a batch.
    y
        `[example]`, True for class 1 of two; or class numbers from 0.
    groups
        `[example]`, numbers of groups that are left out together; each class must be found in at least two.

    Returns
    -------
    Tensor
        `[head]`, 0 to 1, higher separates better. Free of scale and rotation, but not of shift: cosines are taken
        about zero.

    Raises
    ------
    InputError
        If a head gives zero for an example, or the mean of a class is zero, so that a cosine is not defined; or if a
        class is found in one group only.

    Examples
    --------
    >>> x = torch.tensor([[[1.0, 0.0], [2.0, 0.1], [0.0, 1.0], [0.1, 3.0]]], dtype=torch.float64)
    >>> sav(x, torch.tensor([False, False, True, True])).tolist()
    [1.0]
    """
    batch = Batch.of(x)
    classes = torch.nn.functional.one_hot(y.long())
    if groups is not None:
        check_groups(y, groups)
    n = batch.n
    raw = batch.x + batch.centre[:, None]
    norms = torch.linalg.vector_norm(raw, dim=2)
    zero = torch.nonzero(norms == 0).tolist()
    if zero:
        head, example = zero[0]
        raise InputError(
            f"head {batch.names[head]} gives zero for {sum(h == head for h, _ in zero)} examples, the first is number "
            f"{example}: cosines, and with them 'sav', are not defined; leave the head or the examples out"
        )
    raw = raw / norms.amax(1)[:, None, None]
    member = None if groups is None else torch.nn.functional.one_hot(groups).to(raw.dtype)
    cosines = []
    for c in range(classes.shape[1]):
        own = classes[:, c].to(raw.dtype)
        # Sum over the class, less that over the part of it that is left out with each example.
        members = own[:, None] * raw
        left_out = members if member is None else (member.mT @ members)[:, groups]
        rest = members.sum(1, keepdim=True) - left_out
        length = torch.linalg.vector_norm(rest, dim=2)
        # Zero up to the rounding of the sums.
        undefined = torch.nonzero(length <= 1e-13 * n)
        if len(undefined):
            head, example = undefined[0].tolist()
            raise InputError(
                f"head {batch.names[head]}: the mean of class {c} without example number {example} is zero, so that "
                "its cosine, and with it 'sav', is not defined; leave the head out"
            )
        cosines.append((raw * rest).sum(2) / length)
    closeness = torch.stack(cosines, 2) / torch.linalg.vector_norm(raw, dim=2)[:, :, None]
    best = (closeness >= closeness.amax(2, keepdim=True) - SAME).to(raw.dtype)
    return ((best * classes).sum(2) / best.sum(2)).mean(1)
