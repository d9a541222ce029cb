"""Covariances of few examples in many dimensions, all heads at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from headprobe.errors import InputError

__all__ = ["Covariance", "check_definite", "ledoit_wolf", "shrinkage_of", "shrunk", "span_coordinates"]

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
    return shrunk(rows.mT @ rows / n, rows.square().sum(-1).square().mean(-1), n, d)


def shrunk(empirical: Float[Tensor, "head m m"], fourth: Float[Tensor, " head"], n: int, d: int) -> Covariance:
    """`ledoit_wolf` from the empirical covariance and the mean fourth power of the lengths of the centred rows.

    Parameters
    ----------
    empirical, fourth
        `[head, m, m]` and `[head]`.
    n, d
        Number of rows, dimension of the full space.

    Returns
    -------
    Covariance

    Examples
    --------
    >>> rows = torch.tensor([[[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0]]], dtype=torch.float64)
    >>> lengths = rows.square().sum(-1)
    >>> found = shrunk(rows.mT @ rows / 4, lengths.square().mean(-1), n=4, d=2)
    >>> torch.allclose(found.shrinkage, ledoit_wolf(rows, 2).shrinkage)
    True
    """
    shrinkage, ridge = shrinkage_of(
        empirical.diagonal(dim1=-2, dim2=-1).sum(-1),
        empirical.square().sum((-2, -1)),
        fourth,
        n,
        d,
    )
    matrix = (1 - shrinkage)[:, None, None] * empirical
    matrix.diagonal(dim1=-2, dim2=-1).add_(ridge[:, None])
    return Covariance(matrix, ridge, shrinkage)


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


def shrinkage_of(
    trace: Float[Tensor, " head"],
    squared: Float[Tensor, " head"],
    fourth: Float[Tensor, " head"],
    n: int,
    d: int,
) -> tuple[Float[Tensor, " head"], Float[Tensor, " head"]]:
    """Ledoit and Wolf's shrinkage from moments of an empirical covariance.

    Parameters
    ----------
    trace, squared
        `[head]`, trace and squared Frobenius norm of the empirical covariance.
    fourth
        `[head]`, mean fourth power of the lengths of the centred rows.
    n, d
        Number of rows, dimension of the full space.

    Returns
    -------
    shrinkage, ridge
        `[head]`, 0 to 1; and it times the mean variance.

    Examples
    --------
    >>> moments = (torch.tensor([2.5]), torch.tensor([4.25]), torch.tensor([8.5]))
    >>> [round(v.item(), 4) for v in shrinkage_of(*moments, n=4, d=2)]
    [0.9444, 1.1806]
    """
    mu = trace / d
    spread = (squared - d * mu.square()).clamp(min=0)
    noise = ((fourth - squared) / n).clamp(min=0).minimum(spread)
    shrinkage = torch.where(noise > 0, noise / torch.where(spread > 0, spread, 1.0), 0.0)
    return shrinkage, shrinkage * mu


def check_definite(covariance: Covariance, *, outside: bool, names: Sequence[str], what: str, metric: str) -> None:
    """Raise where a covariance is singular to the rounding of float64.

    Parameters
    ----------
    covariance
        Of every head.
    outside
        Whether there are directions that the coordinates leave out.
    names
        Label of each head.
    what, metric
        What the covariance is of, and which metric wants its inverse, for the error text.

    Raises
    ------
    InputError
        Naming the first such head.

    Examples
    --------
    >>> flat = Covariance(torch.zeros(1, 2, 2), torch.zeros(1), torch.zeros(1))
    >>> check_definite(flat, outside=False, names=["L0H0"], what="scatter", metric="lda")
    Traceback (most recent call last):
    headprobe.errors.InputError: head L0H0: the scatter is singular ...
    """
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
