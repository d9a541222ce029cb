"""What a linear probe of every head gets right on examples that it was not fitted to."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headprobe.errors import InputError
from headprobe.metrics.batch import Batch
from headprobe.metrics.linear_probe import PENALTY, loo_ridge_auroc, loo_ridge_scores

__all__ = ["check_groups", "one_against_rest", "probe_auroc", "probe_r2"]


def probe_auroc(
    x: Float[Tensor, "head example d"] | Batch,
    y: Bool[Tensor, " example"] | Int[Tensor, " example"],
    groups: Int[Tensor, " example"] | None = None,
    penalty: float = PENALTY,
) -> Float[Tensor, " head"]:
    """Area under the ROC curve of a cross-validated linear probe.

    Ridge regression on the class, fitted without the example it scores, or without its whole group
    (`headprobe.metrics.linear_probe.loo_ridge_scores`); the area is the share of pairs of one example of the class and
    one of another that the scores put in the right order, ties half (Mann and Whitney 1947). With several classes, the
    mean over one class against the rest.

    Parameters
    ----------
    x
        `[head, example, d]`; or a batch.
    y
        `[example]`, True for class 1 of two; or class numbers from 0.
    groups
        `[example]`, numbers of groups, such as videos, that are left out together; each class must be found in at
        least two.
    penalty
        As in `loo_ridge_scores`.

    Returns
    -------
    Tensor
        `[head]`, 0 to 1, about 0.5 on noise, higher separates better. Free of shift, scale and rotation. Examples that
        are there twice leak from one fold to another, unless they share a group.

    Raises
    ------
    InputError
        If a class is found in one group only, so that the probe would not see it.

    Examples
    --------
    >>> x = torch.tensor([[[0.0], [1.0], [4.0], [5.0]]], dtype=torch.float64)
    >>> probe_auroc(x, torch.tensor([False, False, True, True])).tolist()
    [1.0]
    """
    if groups is not None:
        check_groups(y, groups)
    labels = one_against_rest(y)
    return loo_ridge_auroc(Batch.of(x).x, labels, groups, penalty).mean(1).to(y.device)


def probe_r2(
    x: Float[Tensor, "head example d"] | Batch,
    y: Float[Tensor, " example"],
    groups: Int[Tensor, " example"] | None = None,
    penalty: float = PENALTY,
) -> Float[Tensor, " head"]:
    """Share of the variance of a number that a linear probe predicts on examples it was not fitted to.

    `1 - sum (y_i - f_-i(x_i))^2 / sum (y_i - mean_-i y)^2`, with `f` the ridge regression of
    `headprobe.metrics.linear_probe.loo_ridge_scores`: the predicted residual sum of squares (Allen 1974) against that
    of predicting the mean of the other examples.

    Parameters
    ----------
    x
        `[head, example, d]`; or a batch.
    y
        `[example]`, the numbers to predict.
    groups
        `[example]`, numbers of groups that are left out together.
    penalty
        As in `loo_ridge_scores`.

    Returns
    -------
    Tensor
        `[head]`, below 0 (worse than the mean) to 1, higher predicts better. Free of shift, scale and rotation.

    Examples
    --------
    >>> x = torch.tensor([[[0.0], [1.0], [2.0], [3.0]]], dtype=torch.float64)
    >>> y = torch.tensor([0.0, 1.0, 2.0, 3.0], dtype=torch.float64)
    >>> probe_r2(x, y, penalty=1e-9).round(decimals=6).tolist()
    [1.0]
    """
    y = y.to(torch.float64)
    n = len(y)
    if groups is None:
        apart = (y * n - y.sum()) / (n - 1)
    else:
        sums = torch.zeros(int(groups.max()) + 1, dtype=y.dtype, device=y.device).index_add_(0, groups, y)
        apart = y - ((y.sum() - sums) / (n - torch.bincount(groups)))[groups]
    scores = loo_ridge_scores(Batch.of(x).x, y, groups, penalty)
    return 1 - (apart - scores).square().sum(1) / apart.square().sum()


def one_against_rest(
    y: Bool[Tensor, " example"] | Int[Tensor, " example"],
) -> Float[Tensor, "class example"]:
    """Labels 0 and 1 of every class against the rest; with two classes, of the second alone.

    Parameters
    ----------
    y
        `[example]`, class numbers from 0.

    Returns
    -------
    Tensor
        `[class, example]`, float64.

    Examples
    --------
    >>> one_against_rest(torch.tensor([0, 1, 2])).shape, one_against_rest(torch.tensor([False, True])).tolist()
    (torch.Size([3, 3]), [[0.0, 1.0]])
    """
    labels = torch.nn.functional.one_hot(y.long()).T.to(torch.float64)
    return labels[1:] if len(labels) == 2 else labels


def check_groups(y: Bool[Tensor, " example"] | Int[Tensor, " example"], groups: Int[Tensor, " example"]) -> None:
    """Raise if a class is found in one group only, so that leaving this out leaves none of it.

    Parameters
    ----------
    y
        `[example]`, class numbers from 0.
    groups
        `[example]`, group numbers.

    Raises
    ------
    InputError
        Naming the first such class by its number.

    Examples
    --------
    >>> check_groups(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1]))
    """
    place = y.long()
    for c in range(int(place.max()) + 1):
        if len(torch.unique(groups[place == c])) < 2:
            raise InputError(
                f"class {c} is found in one group only, so that nothing can be fitted without this group: give at "
                "least two groups of each class"
            )
