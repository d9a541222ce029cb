"""Agreement of the classes with two clusters found without labels, all heads at once."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headprobe.metrics.gaussian import span_coordinates

__all__ = ["contingency_nmi", "nmi", "two_means"]

RESTARTS = 32
REFINED = 8
MAX_STEPS = 1000


def nmi(
    x: Float[Tensor, "head example d"], y: Bool[Tensor, " example"], random_state: int = 0
) -> Float[Tensor, " head"]:
    """Normalised mutual information of the classes and of two k-means clusters.

    `I(Y, Yhat) / sqrt(H(Y) H(Yhat))` (arXiv 2512.17601, section 3, S_NMI), `Yhat` the best clusters of
    `two_means`.

    Parameters
    ----------
    x
        `[head, example, d]`, float64, not constant.
    y
        `[example]`, True for the abnormal class.
    random_state
        Seed of the k-means++ starts. All heads use the same draws, so a head's score does not depend on its
        place.

    Returns
    -------
    Tensor
        `[head]`, 0 to 1, free of scale.

    Examples
    --------
    >>> x = torch.tensor([[[0.0], [0.1], [1.0], [1.1]]], dtype=torch.float64)
    >>> nmi(x, torch.tensor([False, False, True, True])).tolist()
    [1.0]
    """
    clusters, _ = two_means(x, random_state)
    return contingency_nmi(clusters, y)


def two_means(
    x: Float[Tensor, "head example d"],
    random_state: int = 0,
    restarts: int = RESTARTS,
    refined: int = REFINED,
) -> tuple[Bool[Tensor, "head example"], Float[Tensor, " head"]]:
    """Split the examples of every head into two clusters of small inertia.

    k-means++ seeding (Arthur and Vassilvitskii 2007) and Lloyd steps until nothing moves; then, for the best
    few restarts, single moves as long as they lower the inertia (Hartigan and Wong 1979), which leave many of
    Lloyd's poor optima. The best of these is kept, the earliest on ties.

    Parameters
    ----------
    x
        `[head, example, d]`, float64; each head needs two different examples.
    random_state
        Seed of the starts.
    restarts, refined
        Number of starts, and of those that are refined by single moves.

    Returns
    -------
    clusters, inertia
        `[head, example]` bool, and `[head]`, the sum of squared distances to the cluster means.

    Examples
    --------
    >>> clusters, inertia = two_means(torch.tensor([[[0.0], [2.0], [9.0]]], dtype=torch.float64))
    >>> (clusters[0] == clusters[0, 0]).tolist(), inertia.tolist()
    ([True, True, False], [2.0])
    """
    # About the mean the two cluster sums are S and -S: S and the cluster sizes say everything.
    x = span_coordinates(x - x.mean(1, keepdim=True))
    member, between = _lloyd(x, _seed(x, random_state, restarts))
    # Many starts end in the same optimum: refine different ones, the repeated ones last.
    ordered, order = torch.sort(between, dim=1, descending=True, stable=True)
    repeated = torch.zeros_like(ordered, dtype=torch.uint8)
    repeated[:, 1:] = ordered[:, 1:] >= ordered[:, :-1] * (1 - 1e-12)
    best = order.gather(1, torch.argsort(repeated, dim=1, stable=True)[:, :refined])
    member = member.gather(2, best[:, None].expand(-1, x.shape[1], -1))
    member, between = _refine(x, member)
    # Equal solutions differ by rounding: take the first within it, so that the choice is stable.
    top = between.amax(1, keepdim=True)
    choice = (between >= top * (1 - 1e-12)).to(torch.uint8).argmax(1)
    clusters = member[torch.arange(len(x)), :, choice] > 0
    return clusters, x.square().sum((1, 2)) - top[:, 0] * x.shape[1]


def contingency_nmi(clusters: Bool[Tensor, "head example"], y: Bool[Tensor, " example"]) -> Float[Tensor, " head"]:
    """Normalised mutual information, geometric mean of the entropies, of two two-valued labellings.

    Examples
    --------
    >>> y = torch.tensor([False, False, True, True])
    >>> contingency_nmi(torch.stack([y, ~y, torch.tensor([True, False, True, False])]), y).tolist()
    [1.0, 1.0, 0.0]
    """
    n = y.shape[0]
    on = y.to(torch.float64)
    in_one = clusters.to(torch.float64)
    both = in_one @ on
    one, positive = in_one.sum(1), on.sum()
    joint = torch.stack([both, one - both, positive - both, n - one - positive + both], dim=1) / n
    h_joint, h_y = _entropy(joint), _entropy(torch.stack([positive, n - positive])[None] / n)
    h_clusters = _entropy(torch.stack([one, n - one], dim=1) / n)
    information = (h_y + h_clusters - h_joint).clamp(min=0)
    # Differences of entropies carry rounding of this size; scikit-learn cuts at the same place.
    information = torch.where(information > 4 * torch.finfo(torch.float64).eps, information, 0.0)
    return (information / (h_y * h_clusters).sqrt()).clamp(max=1)


def _entropy(p: Float[Tensor, "row outcome"]) -> Float[Tensor, " row"]:
    return torch.special.entr(p).sum(1)


def _seed(x: Tensor, random_state: int, restarts: int) -> Tensor:
    """Membership [head, example, restart] after k-means++ seeding, 0.0 or 1.0."""
    heads, n, _ = x.shape
    draws = torch.from_numpy(np.random.default_rng(random_state).random((2, restarts)))
    first = (draws[0] * n).long()
    norms = x.square().sum(-1)
    distance = (norms[:, :, None] + norms[:, None, first] - 2 * x @ x[:, first].mT).clamp_(min=0)
    distance[:, first, torch.arange(restarts)] = 0
    reached = distance.cumsum(1)
    second = (reached <= draws[1] * reached[:, -1:]).sum(1).clamp(max=n - 1)
    centre = x[torch.arange(heads)[:, None], second]
    other = x[:, first]
    threshold = (centre.square().sum(-1) - other.square().sum(-1)) / 2
    member = (x @ (centre - other).mT > threshold[:, None]).to(x.dtype)
    member.scatter_(1, second[:, None], 1.0)
    member[:, first, torch.arange(restarts)] = 0.0
    return member


def _lloyd(x: Tensor, member: Tensor) -> tuple[Tensor, Tensor]:
    """Lloyd steps until nothing moves; members, and the between-cluster scatter over n."""
    n = x.shape[1]
    between = torch.empty(member.shape[0], member.shape[2], dtype=x.dtype)
    active = torch.arange(len(x))
    rows, old = x, member
    for _ in range(MAX_STEPS):
        ones = old.sum(1)
        zeros = n - ones
        sums = rows.mT @ old
        length = sums.square().sum(1)
        between[active] = length / (ones * zeros)
        new = (rows @ sums > (length * (zeros - ones) / (2 * ones * zeros))[:, None]).to(x.dtype)
        size = new.sum(1)
        # Only rounding can empty a cluster (two means that coincide): such a start stays where it is.
        emptied = (size == 0) | (size == n)
        if emptied.any():
            new = torch.where(emptied[:, None], old, new)
        moved = (new != old).any(1).any(1)
        member[active] = new
        if not moved.all():
            active, rows, new = active[moved], rows[moved], new[moved]
            if not len(active):
                break
        old = new
    return member, between


def _refine(x: Tensor, member: Tensor) -> tuple[Tensor, Tensor]:
    """Best single moves while they lower the inertia; members, and the between-cluster scatter over n."""
    n = x.shape[1]
    between = torch.empty(member.shape[0], member.shape[2], dtype=x.dtype)
    active = torch.arange(len(x))
    rows, old = x, member
    norms = x.square().sum(-1)[:, :, None]
    ones = old.sum(1)
    sums = rows.mT @ old
    projection = rows @ sums
    length = sums.square().sum(1)
    while True:
        zeros = n - ones
        here = length / (ones * zeros)
        between[active] = here
        sign = 1 - 2 * old
        after = torch.addcmul(norms + length[:, None], sign, projection, value=2)
        after /= (ones[:, None] + sign) * (zeros[:, None] - sign)
        # A move that empties a cluster divides by zero.
        after.nan_to_num_(nan=-1.0, posinf=-1.0, neginf=-1.0)
        gain, move = after.max(1)
        better = gain > here * (1 + 1e-12)
        moved = better.any(1)
        if not moved.all():
            active = active[moved]
            if not len(active):
                return member, between
            rows, norms, old, projection = rows[moved], norms[moved], old[moved], projection[moved]
            ones, length, move, better = ones[moved], length[moved], move[moved], better[moved]
        place = move[:, None]
        step = torch.where(better, 1 - 2 * old.gather(1, place)[:, 0], 0.0)
        chosen = rows[torch.arange(len(rows))[:, None], move]
        length = length + 2 * step * projection.gather(1, place)[:, 0] + step.abs() * chosen.square().sum(-1)
        projection = torch.baddbmm(projection, rows, (chosen * step[:, :, None]).mT)
        ones = ones + step
        old = old.scatter_add(1, place, step[:, None])
        member[active] = old
