"""Agreement of the classes with clusters found without labels, all heads at once."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headprobe.metrics.batch import Batch
from headprobe.metrics.clusters import k_means, two_means

__all__ = ["contingency_nmi", "k_means", "nmi", "two_means"]


def nmi(
    x: Float[Tensor, "head example d"] | Batch,
    y: Bool[Tensor, " example"] | Int[Tensor, " example"],
    random_state: int = 0,
    exact: bool | None = None,
) -> Float[Tensor, " head"]:
    """Normalised mutual information of the classes and of as many k-means clusters as there are classes.

    `I(Y, Yhat) / sqrt(H(Y) H(Yhat))` (arXiv 2512.17601, section 3, S_NMI, with two classes), `Yhat` the clusters of
    `two_means`, or of `k_means` with more classes.

    Parameters
    ----------
    x
        `[head, example, d]`, float64, not constant; or a batch.
    y
        `[example]`, True for class 1 of two; or class numbers from 0.
    random_state
        Seed of the starts. All heads use the same draws, so a head's score does not depend on its place.
    exact
        As in `two_means`, which finds the clusters of many examples in a quicker way.

    Returns
    -------
    Tensor
        `[head]`, 0 to 1, higher where the clusters are the classes. Free of shift, scale and rotation.

    Examples
    --------
    >>> x = torch.tensor([[[-0.6], [-0.5], [0.5], [0.6]]], dtype=torch.float64)
    >>> nmi(x, torch.tensor([False, False, True, True])).tolist()
    [1.0]
    """
    k = int(y.max()) + 1
    clusters, _ = two_means(x, random_state, exact=exact) if k == 2 else k_means(x, k, random_state, exact=exact)
    return contingency_nmi(clusters, y)


def contingency_nmi(
    clusters: Bool[Tensor, "head example"] | Int[Tensor, "head example"],
    y: Bool[Tensor, " example"] | Int[Tensor, " example"],
) -> Float[Tensor, " head"]:
    """Normalised mutual information, geometric mean of the entropies, of clusterings and one labelling.

    Parameters
    ----------
    clusters
        `[head, example]`, cluster numbers from 0; no two heads need the same number of clusters.
    y
        `[example]`, class numbers from 0, at least two of them.

    Returns
    -------
    Tensor
        `[head]`, 0 to 1.

    Examples
    --------
    >>> y = torch.tensor([False, False, True, True])
    >>> contingency_nmi(torch.stack([y, ~y, torch.tensor([True, False, True, False])]), y).tolist()
    [1.0, 1.0, 0.0]
    """
    n = y.shape[0]
    classes = torch.nn.functional.one_hot(y.long()).double()
    joint = torch.nn.functional.one_hot(clusters.long()).double().mT @ classes / n
    h_joint = torch.special.entr(joint).sum((1, 2))
    h_clusters = torch.special.entr(joint.sum(2)).sum(1)
    h_y = torch.special.entr(classes.mean(0)).sum()
    information = (h_y + h_clusters - h_joint).clamp(min=0)
    # Differences of entropies carry rounding of this size; scikit-learn cuts at the same place.
    information = torch.where(information > 4 * torch.finfo(torch.float64).eps, information, 0.0)
    return (information / (h_y * h_clusters).sqrt()).clamp(max=1)
