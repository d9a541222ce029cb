"""What a head does with the examples: a projection, how well the classes are apart, the strongest examples."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

__all__ = ["View", "extremes", "head_view", "margins", "silhouette"]


class View(NamedTuple):
    """One head under one prompt.

    Parameters
    ----------
    points
        The first two principal components of the standardised outputs.
    shares
        Their shares of the variance, 0 to 1.
    silhouette
        Mean silhouette of the classes in all dimensions; NaN without labels.
    strength
        `margins`, or the first component where there are no labels.
    """

    points: Float[np.ndarray, "example 2"]
    shares: Float[np.ndarray, " 2"]
    silhouette: float
    strength: Float[np.ndarray, " example"]


def head_view(
    z: Float[np.ndarray, "example d_head"],
    y: Int[np.ndarray, " example"] | None,
    positive: int | None,
    groups: Int[np.ndarray, " example"],
) -> View:
    """Look at the outputs of one head.

    Parameters
    ----------
    z
        Outputs.
    y
        Labels of two classes or more; None for none.
    positive
        The class on whose side an example is strong; the others are the other side. None without labels.
    groups
        Numbers of what must not judge itself, such as the video of each example.

    Returns
    -------
    View

    Examples
    --------
    >>> rng, y = np.random.default_rng(0), np.arange(20) % 2
    >>> z = rng.normal(size=(20, 3)) + 8 * y[:, None] * [1, 0, 0]
    >>> seen = head_view(z, y, 1, np.arange(20))
    >>> seen.points.shape, ((seen.strength > 0) == y).all().item()
    ((20, 2), True)
    """
    x = np.asarray(z, np.float64)
    spread = x.std(0)
    x = (x - x.mean(0)) / np.where(spread > 0, spread, 1.0)
    points, shares = _components(x)
    if y is None or positive is None:
        return View(points, shares, np.nan, points[:, 0])
    return View(points, shares, silhouette(x, y), margins(x, y == positive, groups))


def _components(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first two principal components of centred features, each with its largest loading positive."""
    from scipy.linalg import eigh

    n, d = x.shape
    narrow = d <= n
    square = x.T @ x if narrow else x @ x.T
    top = min(2, len(square))
    values, vectors = eigh(square, subset_by_index=[len(square) - top, len(square) - 1])
    values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
    loadings = vectors if narrow else x.T @ vectors
    signs = np.sign(loadings[np.abs(loadings).argmax(0), np.arange(top)])
    points = x @ vectors if narrow else vectors * np.sqrt(values)
    points = points * np.where(signs == 0, 1.0, signs)
    shares = values / max(float((x**2).sum()), 1e-300)
    missing = 2 - top
    return np.pad(points, ((0, 0), (0, missing))), np.pad(shares, (0, missing))


def margins(
    x: Float[np.ndarray, "example d"], yes: Bool[np.ndarray, " example"], groups: Int[np.ndarray, " example"]
) -> Float[np.ndarray, " example"]:
    """How far each example lies on the side of a class: its distance to the plane midway between two class means.

    The means are those of the examples of all other groups, so that no example votes for itself. Above 0, the example
    is nearer to the mean of the class. This is the signed distance to the boundary of a nearest-mean classifier.

    Parameters
    ----------
    x
        Features.
    yes
        Whether an example belongs to the class.
    groups
        Numbers of what is left out together, such as videos.

    Returns
    -------
    numpy.ndarray [example]
        NaN where no other group has an example of one side, or both means are the same.

    Examples
    --------
    >>> x = np.array([[0.0], [2.0], [10.0], [12.0]])
    >>> margins(x, np.array([False, False, True, True]), np.arange(4)).tolist()
    [-6.5, -3.5, 3.5, 6.5]
    """
    _, group = np.unique(groups, return_inverse=True)
    means = []
    for side in (yes, ~yes):
        sums, counts = np.zeros((group.max() + 1, x.shape[1])), np.bincount(group[side], minlength=group.max() + 1)
        np.add.at(sums, group[side], x[side])
        left = (side.sum() - counts)[group]
        with np.errstate(invalid="ignore", divide="ignore"):
            means.append((x[side].sum(0) - sums[group]) / np.where(left > 0, left, np.nan)[:, None])
    direction = means[0] - means[1]
    with np.errstate(invalid="ignore", divide="ignore"):
        return ((x - (means[0] + means[1]) / 2) * direction).sum(1) / np.sqrt((direction**2).sum(1))


def silhouette(x: Float[np.ndarray, "example d"], y: Int[np.ndarray, " example"]) -> float:
    """The mean silhouette of the classes (Rousseeuw, Journal of Computational and Applied Mathematics 20, 1987).

    The same number as scikit-learn's, for thousands of heads.

    Parameters
    ----------
    x
        Features.
    y
        Labels, two classes or more.

    Returns
    -------
    float
        -1 to 1; an example that is alone in its class counts as 0.

    Examples
    --------
    >>> round(silhouette(np.array([[0.0], [1.0], [9.0], [10.0]]), np.array([0, 0, 1, 1])), 3)
    0.889
    """
    from scipy.spatial.distance import pdist, squareform

    distance = squareform(pdist(x))
    classes, which = np.unique(y, return_inverse=True)
    sums = np.stack([distance[:, which == number].sum(1) for number in range(len(classes))], 1)
    sizes = np.bincount(which)
    rows = np.arange(len(x))
    with np.errstate(invalid="ignore", divide="ignore"):
        within = sums[rows, which] / (sizes[which] - 1)
        others = np.where(which[:, None] == np.arange(len(classes)), np.inf, sums / sizes).min(1)
        value = (others - within) / np.maximum(within, others)
    return float(np.where(sizes[which] > 1, np.nan_to_num(value), 0.0).mean())


def extremes(
    strength: Float[np.ndarray, " example"], k: int
) -> tuple[Int[np.ndarray, "2 k"], Float[np.ndarray, "2 k"]]:
    """The k highest and the k lowest examples, the strongest first, no example on both sides.

    Parameters
    ----------
    strength
        NaN for none.
    k
        How many on each side.

    Returns
    -------
    (index, strength)
        Of the highest and of the lowest; -1 and NaN where there are not that many.

    Examples
    --------
    >>> extremes(np.array([0.1, 3.0, -2.0, np.nan, 1.0]), 2)[0].tolist()
    [[1, 4], [2, 0]]
    """
    there = np.flatnonzero(np.isfinite(strength))
    order = there[np.argsort(-strength[there], kind="stable")]
    high = order[: min(k, -(-len(order) // 2))]
    low = order[len(high) :][::-1][:k]
    index, values = np.full((2, k), -1), np.full((2, k), np.nan)
    for side, chosen in enumerate((high, low)):
        index[side, : len(chosen)], values[side, : len(chosen)] = chosen, strength[chosen]
    return index, values
