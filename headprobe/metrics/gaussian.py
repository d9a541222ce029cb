"""Separation of two classes under Gaussian models: the LDA and KL scores, all heads at once.

Both need covariances, and calibration sets often have fewer examples than a head has dimensions. The
covariances are therefore shrunk towards a multiple of the identity (Ledoit and Wolf 2004), and with n < d
everything is computed in the span of the examples: a rotation into n coordinates changes none of the scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headprobe.errors import InputError

__all__ = ["Covariance", "kl", "lda", "lda_plain", "ledoit_wolf", "span_coordinates"]

# Above this shrinkage the condition number is at most about d / shrinkage, so eigenvalues are not needed.
SAFE_SHRINKAGE = 1e-10


class Covariance(NamedTuple):
    """Shrunk covariances in the coordinates given, and what they are on every direction outside of these."""

    matrix: Float[Tensor, "head m m"]
    ridge: Float[Tensor, " head"]
    shrinkage: Float[Tensor, " head"]


def ledoit_wolf(rows: Float[Tensor, "head example m"], d: int) -> Covariance:
    """Ledoit-Wolf covariance of centred rows that span at most m of `d` dimensions.

    Parameters
    ----------
    rows
        `[head, example, m]`, float64, centred by the caller; coordinates in any orthonormal basis of a space
        that holds the rows.
    d
        Dimension of the full space, at least m.

    Returns
    -------
    Covariance
        `matrix` is `(1 - s) S + s mu I` with `S` the empirical covariance and `mu = trace(S) / d`; `ridge` is
        `s mu`, its value on the d - m directions that the coordinates leave out; `shrinkage` is s, 0 to 1.

    References
    ----------
    Ledoit and Wolf, "A well-conditioned estimator for large-dimensional covariance matrices", Journal of
    Multivariate Analysis 88 (2004), section 3.3.

    Examples
    --------
    >>> rows = torch.tensor([[[1.0, 0.0], [-1.0, 0.0], [0.0, 2.0], [0.0, -2.0]]], dtype=torch.float64)
    >>> [round(v, 4) for v in ledoit_wolf(rows, 2).matrix[0].diag().tolist()]
    [1.2083, 1.2917]
    """
    n = rows.shape[1]
    empirical = rows.mT @ rows / n
    mu = empirical.diagonal(dim1=-2, dim2=-1).sum(-1) / d
    squared = empirical.square().sum((-2, -1))
    fourth = rows.square().sum(-1).square().mean(-1)
    spread = (squared - d * mu.square()).clamp(min=0)
    noise = ((fourth - squared) / n).clamp(min=0).minimum(spread)
    shrinkage = torch.where(noise > 0, noise / torch.where(spread > 0, spread, 1.0), 0.0)
    ridge = shrinkage * mu
    matrix = (1 - shrinkage)[:, None, None] * empirical
    matrix.diagonal(dim1=-2, dim2=-1).add_(ridge[:, None])
    return Covariance(matrix, ridge, shrinkage)


def lda(
    x: Float[Tensor, "head example d"], y: Bool[Tensor, " example"], names: Sequence[str]
) -> Float[Tensor, " head"]:
    """Squared distance of the class means in the metric of the shrunk within-class scatter.

    `(mu_a - mu_n)^T S_W^-1 (mu_a - mu_n)`, the paper's S_LDA (arXiv 2512.17601, section 3), with `S_W = n *
    LedoitWolf(class-centred rows)`. The paper's own scatter is singular with fewer examples than dimensions,
    and adding a constant to it makes the score measure feature scale.

    Parameters
    ----------
    x
        `[head, example, d]`, float64.
    y
        `[example]`, True for the abnormal class.
    names
        Label of each head, for error text.

    Returns
    -------
    Tensor
        `[head]`, non-negative, free of scale.

    Raises
    ------
    InputError
        If the examples of each class of a head coincide, so that the scatter stays singular.

    Examples
    --------
    >>> x = torch.tensor([[[1.0], [3.0], [7.0], [9.0]]], dtype=torch.float64)
    >>> lda(x, torch.tensor([False, False, True, True]), ["L0H0"]).tolist()
    [9.0]
    """
    rows, delta = _within(span_coordinates(x), y)
    covariance = ledoit_wolf(rows, x.shape[2])
    _definite(
        covariance,
        outside=x.shape[2] > rows.shape[2],
        names=names,
        what="within-class covariance",
        metric="lda",
    )
    return _quadratic(covariance.matrix, delta) / x.shape[1]


def lda_plain(
    x: Float[Tensor, "head example d"], y: Bool[Tensor, " example"], names: Sequence[str]
) -> Float[Tensor, " head"]:
    """Squared distance of the class means in the metric of the plain within-class scatter.

    `(mu_a - mu_n)^T S_W^-1 (mu_a - mu_n)`, `S_W` the sum over both classes of the centred outer products
    (arXiv 2512.17601, section 3, S_LDA). Parameters and result as in `lda`.

    Raises
    ------
    InputError
        If n - 2 < d, where the scatter is always singular, or if it is singular for a head.

    Examples
    --------
    >>> x = torch.tensor([[[1.0], [3.0], [7.0], [9.0]]], dtype=torch.float64)
    >>> lda_plain(x, torch.tensor([False, False, True, True]), ["L0H0"]).tolist()
    [9.0]
    """
    n, d = x.shape[1:]
    if n - 2 < d:
        raise InputError(
            f"lda_plain needs n - 2 >= d_head, got {n} examples for d_head {d}: the within-class scatter is "
            "singular; use 'lda', which shrinks it, or more examples"
        )
    rows, delta = _within(x, y)
    scatter = rows.mT @ rows
    zero = torch.zeros(x.shape[0], dtype=x.dtype)
    plain = Covariance(scatter, zero, zero)
    _definite(plain, outside=False, names=names, what="within-class scatter", metric="lda_plain")
    return _quadratic(scatter, delta)


def kl(x: Float[Tensor, "head example d"], y: Bool[Tensor, " example"], names: Sequence[str]) -> Float[Tensor, " head"]:
    """Symmetric Kullback-Leibler divergence of two Gaussians, half the sum of both directions.

    `1/2 [KL(N_a || N_n) + KL(N_n || N_a)]` (arXiv 2512.17601, section 3, S_KL) with a Ledoit-Wolf covariance
    per class; the log-determinants cancel in the sum. Parameters as in `lda`.

    Returns
    -------
    Tensor
        `[head]`, nats, non-negative, free of scale.

    Raises
    ------
    InputError
        If a class has a singular covariance even after shrinking: it always has with two examples.

    Examples
    --------
    >>> x = torch.tensor([[[-1.0], [1.0], [3.0], [5.0]]], dtype=torch.float64)
    >>> kl(x, torch.tensor([False, False, True, True]), ["L0H0"]).tolist()
    [8.0]
    """
    d = x.shape[2]
    coordinates = span_coordinates(x)
    m = coordinates.shape[2]
    means, covariances = [], []
    for name, members in (("normal (0)", ~y), ("abnormal (1)", y)):
        rows = coordinates[:, members]
        mean = rows.mean(1)
        covariance = ledoit_wolf(rows - mean[:, None], d)
        what = f"covariance of the {int(members.sum())} {name} examples"
        _definite(covariance, outside=d > m, names=names, what=what, metric="kl")
        means.append(mean)
        covariances.append(covariance)
    normal, abnormal = covariances
    inverse_n, inverse_a = (torch.cholesky_inverse(torch.linalg.cholesky(c.matrix)) for c in covariances)
    delta = (means[1] - means[0])[:, :, None]
    traces = (inverse_n * abnormal.matrix).sum((-2, -1)) + (inverse_a * normal.matrix).sum((-2, -1))
    if d > m:
        traces = traces + (d - m) * (abnormal.ridge / normal.ridge + normal.ridge / abnormal.ridge)
    distance = (delta.mT @ (inverse_n + inverse_a) @ delta)[:, 0, 0]
    return ((traces - 2 * d + distance) / 4).clamp(min=0)


def span_coordinates(x: Float[Tensor, "head example d"]) -> Float[Tensor, "head example m"]:
    """Coordinates of the examples in an orthonormal basis of a space that holds them, where that is smaller.

    Parameters
    ----------
    x
        `[head, example, d]`.

    Returns
    -------
    Tensor
        `[head, example, min(example, d)]`, with the same inner products.

    Examples
    --------
    >>> x = torch.tensor([[[3.0, 4.0, 0.0]]])
    >>> span_coordinates(x).abs().tolist()
    [[[5.0]]]
    """
    if x.shape[1] >= x.shape[2]:
        return x
    return torch.linalg.qr(x.mT, mode="r").R.mT


def _within(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    mean_n, mean_a = x[:, ~y].mean(1), x[:, y].mean(1)
    rows = x - torch.where(y[None, :, None], mean_a[:, None], mean_n[:, None])
    return rows, mean_a - mean_n


def _quadratic(matrix: Tensor, vector: Tensor) -> Tensor:
    half = torch.linalg.solve_triangular(torch.linalg.cholesky(matrix), vector[:, :, None], upper=False)
    return half.square().sum((-2, -1))


def _definite(covariance: Covariance, *, outside: bool, names: Sequence[str], what: str, metric: str) -> None:
    """Raise where a covariance is singular to the rounding of float64."""
    for index in torch.nonzero(covariance.shrinkage < SAFE_SHRINKAGE).flatten().tolist():
        eigenvalues = torch.linalg.eigvalsh(covariance.matrix[index])
        smallest, largest = float(eigenvalues[0]), float(eigenvalues[-1])
        if outside:
            smallest = min(smallest, float(covariance.ridge[index]))
        if smallest <= 1e-13 * len(eigenvalues) * largest:
            raise InputError(
                f"head {names[index]}: the {what} is singular (eigenvalues {smallest:.3g} to {largest:.3g}), "
                f"so the metric {metric!r} is not defined; use more, and more varied, examples per class "
                "or leave the head out"
            )
