"""Maximum mean discrepancy between two classes, all heads at once."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["mmd", "squared_distances"]

# Below this share of the squared norms, |a|^2 + |b|^2 - 2 ab has lost half of its digits: take differences.
CANCELLED = 1e-8
PAIRS_AT_ONCE = 1 << 16


def mmd(x: Float[Tensor, "head example d"], y: Bool[Tensor, " example"]) -> Float[Tensor, " head"]:
    """Squared maximum mean discrepancy with an RBF kernel, as a V-statistic.

    `|| mean phi(X_a) - mean phi(X_n) ||^2` (arXiv 2512.17601, section 3, S_MMD; Gretton et al., "A kernel
    two-sample test", JMLR 13 (2012), eq. 5), `gamma = 1 / (2 median)` with the median of the non-zero squared
    distances over both classes together.

    Parameters
    ----------
    x
        `[head, example, d]`, float64, not constant.
    y
        `[example]`, True for the abnormal class.

    Returns
    -------
    Tensor
        `[head]`, 0 to 2, free of scale.

    Examples
    --------
    >>> x = torch.tensor([[[0.0], [0.0], [1.0], [1.0]]], dtype=torch.float64)
    >>> [round(v, 6) for v in mmd(x, torch.tensor([False, False, True, True])).tolist()]
    [0.786939]
    """
    n = x.shape[1]
    distances = squared_distances(x)
    gamma = 0.5 / torch.from_numpy(_median_of_positive(distances.numpy()))
    kernel = distances.mul_(-gamma[:, None]).exp_()
    # One over a whole-number tensor would be float32.
    positive = y.to(x.dtype)
    weight = positive / positive.sum() - (1 - positive) / (1 - positive).sum()
    i, j = torch.triu_indices(n, n, offset=1)
    return (weight.square().sum() + 2 * kernel @ (weight[i] * weight[j])).clamp(min=0)


def squared_distances(x: Float[Tensor, "head example d"]) -> Float[Tensor, "head pair"]:
    """Squared distances of all pairs i < j, row by row of the upper triangle; equal examples give exactly 0.

    Examples
    --------
    >>> squared_distances(torch.tensor([[[0.0], [3.0], [3.0]]], dtype=torch.float64)).tolist()
    [[9.0, 9.0, 0.0]]
    """
    n = x.shape[1]
    i, j = torch.triu_indices(n, n, offset=1)
    norms = x.square().sum(-1)
    distances = (x @ x.mT).flatten(1).index_select(1, i * n + j).mul_(-2)
    total = norms.index_select(1, i).add_(norms.index_select(1, j))
    distances.add_(total)
    head, pair = torch.nonzero(distances <= total.mul_(CANCELLED), as_tuple=True)
    for some in range(0, len(head), PAIRS_AT_ONCE):
        h, p = head[some : some + PAIRS_AT_ONCE], pair[some : some + PAIRS_AT_ONCE]
        distances[h, p] = (x[h, i[p]] - x[h, j[p]]).square().sum(-1)
    return distances


def _median_of_positive(values: np.ndarray) -> np.ndarray:
    """Median of the positive entries of each row; every row has one."""
    n = values.shape[1]
    positive = np.count_nonzero(values > 0, axis=1)
    medians = np.empty(len(values))
    for count in np.unique(positive):
        rows = positive == count
        # The zeros come first in ascending order.
        low, high = n - count + (count - 1) // 2, n - count + count // 2
        ordered = np.partition(values[rows], (low, high), axis=1)
        medians[rows] = (ordered[:, low] + ordered[:, high]) / 2
    return medians
