"""What a linear probe of every head gets right on examples that it was not fitted to."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headprobe.errors import InputError
from headprobe.metrics._features import CLASSES, Batch, square
from headprobe.metrics.linear_probe import PENALTY, loo_ridge_auroc, loo_ridge_scores
from headprobe.metrics.metric import Metric

__all__ = [
    "CONTROLS",
    "probe_auroc",
    "probe_r2",
    "sav",
    "selectivity",
]


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
        _check_groups(y, groups)
    labels = _one_against_rest(y)
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
    return _r2_together(x, y[None], groups, penalty)[:, 0]


def _r2_together(
    x: Tensor | Batch, labels: Tensor, groups: Tensor | None = None, penalty: float = PENALTY
) -> Float[Tensor, "head labelling"]:
    y = labels.to(torch.float64)
    fold = torch.arange(y.shape[1], device=y.device) if groups is None else groups
    size = torch.bincount(fold)
    own = y.new_zeros(len(y), len(size)).index_add_(1, fold, y)
    others = (y.sum(1, keepdim=True) - own) / (y.shape[1] - size)
    apart = y - others[:, fold]
    scores = loo_ridge_scores(Batch.of(x).x, y, fold, penalty)
    return 1 - (apart - scores).square().sum(2) / apart.square().sum(1)


def _auroc_together(batch: Batch, labels: Tensor, groups: Tensor | None) -> Float[Tensor, "head labelling"]:
    if groups is not None:
        _check_groups(labels[0], groups)
    # Class after class: the held-out scores of all would be large.
    tasks = torch.stack([_one_against_rest(row) for row in labels], 1)
    return torch.stack([loo_ridge_auroc(batch.x, task, groups) for task in tasks]).mean(0)


def _one_against_rest(
    y: Bool[Tensor, " example"] | Int[Tensor, " example"],
) -> Float[Tensor, "class example"]:
    """Labels 0 and 1 of every class against the rest; with two classes, of the second alone."""
    labels = torch.nn.functional.one_hot(y.long()).T.to(torch.float64)
    return labels[1:] if len(labels) == 2 else labels


def _check_groups(y: Bool[Tensor, " example"] | Int[Tensor, " example"], groups: Int[Tensor, " example"]) -> None:
    """Raise if a class is found in one group only, so that leaving this out leaves none of it."""
    place = y.long()
    for c in range(int(place.max()) + 1):
        if len(torch.unique(groups[place == c])) < 2:
            raise InputError(
                f"class {c} is found in one group only, so that nothing can be fitted without this group: give at "
                "least two groups of each class"
            )


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
        _check_groups(y, groups)
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


CONTROLS = 20
"""Default number of control tasks."""


def selectivity(
    x: Float[Tensor, "head example d"] | Batch,
    y: Bool[Tensor, " example"] | Int[Tensor, " example"],
    groups: Int[Tensor, " example"] | None = None,
    random_state: int = 0,
    controls: int = CONTROLS,
    penalty: float = PENALTY,
) -> Float[Tensor, " head"]:
    """Score of a linear probe on the classes less its mean score on control tasks.

    Hewitt and Liang, "Designing and interpreting probes with control tasks", EMNLP 2019, section 2: a control task
    gives every type (there, of word) a random label, which only a probe that knows the types apart can predict. Here
    the types are the groups, such as videos, and the score is the area under the ROC curve of the probe of
    `headprobe.metrics.linear_probe`. As there, what is scored may share its group with what was fitted: one example is
    left out at a time,
    in the classes and in the controls. A head that merely tells the videos apart scores high on both. Without groups
    every example is of its own type, the controls score about 0.5, and little is learnt beyond `probe_auroc`.

    Parameters
    ----------
    x
        `[head, example, d]`, float64; or a batch.
    y
        `[example]`, True for class 1 of two; or class numbers from 0, one against the rest.
    groups
        `[example]`, numbers of the groups that the control labels are constant in.
    random_state
        Seed of the control labels, which all heads share.
    controls
        Number of control tasks.
    penalty
        As in `loo_ridge_scores` there.

    Returns
    -------
    Tensor
        `[head]`, -1 to 1, higher is more about the classes. Free of shift, scale and rotation.

    Examples
    --------
    >>> x = torch.tensor([[[0.0], [1.0], [4.0], [5.0]]], dtype=torch.float64)
    >>> 0 < selectivity(x, torch.tensor([False, False, True, True])).item() <= 1
    True
    """
    drawn = _control_labels(y, groups, random_state, controls)
    tasks = [_one_against_rest(task) for task in (y.cpu(), *drawn)]
    areas = loo_ridge_auroc(Batch.of(x).x, torch.cat(tasks), None, penalty)
    areas = areas.unflatten(1, (1 + controls, -1)).mean(2).to(y.device)
    return areas[:, 0] - areas[:, 1:].mean(1)


def _control_labels(
    y: Bool[Tensor, " example"] | Int[Tensor, " example"],
    groups: Int[Tensor, " example"] | None,
    random_state: int,
    controls: int,
) -> Int[Tensor, "control example"]:
    """Random labels that are constant in every group, on the CPU."""
    labels = y.long().cpu().numpy()
    place = np.arange(len(labels)) if groups is None else np.unique(groups.cpu().numpy(), return_inverse=True)[1]
    n_groups, shares = place.max() + 1, np.bincount(labels) / len(labels)
    # Class of the group at each quantile; the first groups make up for classes too rare to get one.
    drawn = np.searchsorted(np.cumsum(shares), (np.arange(n_groups) + 0.5) / n_groups).clip(max=len(shares) - 1)
    for missing in np.setdiff1d(np.arange(len(shares)), drawn):
        counts = np.bincount(drawn, minlength=len(shares))
        drawn[np.flatnonzero(drawn == counts.argmax())[0]] = missing
    rng = np.random.default_rng(random_state)
    return torch.from_numpy(np.stack([rng.permutation(drawn)[place] for _ in range(controls)]))


METRICS = (
    Metric("auroc", probe_auroc, CLASSES, ("groups",), rows=False, numbers=square, together=_auroc_together),
    Metric(
        "selectivity",
        selectivity,
        CLASSES,
        ("groups", "random_state"),
        rows=False,
        numbers=lambda n, d: square(n, d) + 8 * n * CONTROLS,
    ),
    Metric("sav", sav, CLASSES, ("groups",), numbers=lambda n, d: 8 * n * d),
    Metric("r2", probe_r2, ("continuous",), ("groups",), rows=False, numbers=square, together=_r2_together),
)
"""What this file adds to `headprobe.metrics.saliency.METRICS`."""
