"""What a linear probe knows of the classes beyond what it can know of any labels of the groups."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headprobe.metrics.batch import Batch
from headprobe.metrics.linear_probe import PENALTY, loo_ridge_auroc
from headprobe.metrics.probe_scores import one_against_rest

__all__ = ["CONTROLS", "control_labels", "selectivity"]

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
    drawn = control_labels(y, groups, random_state, controls)
    tasks = [one_against_rest(task) for task in (y.cpu(), *drawn)]
    areas = loo_ridge_auroc(Batch.of(x).x, torch.cat(tasks), None, penalty)
    areas = areas.unflatten(1, (1 + controls, -1)).mean(2).to(y.device)
    return areas[:, 0] - areas[:, 1:].mean(1)


def control_labels(
    y: Bool[Tensor, " example"] | Int[Tensor, " example"],
    groups: Int[Tensor, " example"] | None,
    random_state: int,
    controls: int,
) -> Int[Tensor, "control example"]:
    """Random labels that are constant in every group, on the CPU.

    Parameters
    ----------
    y
        `[example]`, labels; the control tasks give about the same share of groups to each class as these give
        examples, and at least one.
    groups
        `[example]`, group numbers; default: every example is a group.
    random_state
        Seed.
    controls
        Number of control tasks.

    Returns
    -------
    Tensor
        `[control, example]`, class numbers.

    Examples
    --------
    >>> y, groups = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 1, 1])
    >>> [sorted(labels) for labels in control_labels(y, groups, 0, 2).tolist()]
    [[0, 0, 1, 1], [0, 0, 1, 1]]
    """
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
