"""Separation of classes under Gaussian models: the LDA and KL scores, all heads at once.

Both need covariances, and calibration sets often have fewer examples than a head has dimensions. The
covariances are therefore shrunk towards a multiple of the identity (Ledoit and Wolf 2004), and with n <= d
everything is computed from the inner products of the examples, by the Woodbury identity.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headprobe.errors import InputError
from headprobe.metrics._features import CLASSES, Batch, is_large, square
from headprobe.metrics.metric import Metric

__all__ = ["kl", "lda", "lda_plain", "rsa"]

# Where less than these shares of a labelling's scatter are left within its classes, the update formula of the LDA score
# has lost digits: about 1e-16 over the share is the relative error.
LEFT, LEFT_SQUARED = 1e-3, 1e-4

# Above this shrinkage the condition number is at most about d / shrinkage, so eigenvalues are not needed.
SAFE_SHRINKAGE = 1e-10


class _Covariance(NamedTuple):
    """Shrunk covariances in the coordinates given, and what they are on every direction outside of these."""

    matrix: Float[Tensor, "head m m"]
    ridge: Float[Tensor, " head"]
    shrinkage: Float[Tensor, " head"]


def _ledoit_wolf(rows: Float[Tensor, "head example m"], d: int) -> _Covariance:
    """`(1 - s) S + s mu I` of centred rows that span at most m of d dimensions (Ledoit and Wolf, "A well-conditioned
    estimator for large-dimensional covariance matrices", Journal of Multivariate Analysis 88 (2004), section 3.3)."""
    n = rows.shape[1]
    return _shrunk(rows.mT @ rows / n, rows.square().sum(-1).square().mean(-1), n, d)


def _shrunk(empirical: Float[Tensor, "head m m"], fourth: Float[Tensor, " head"], n: int, d: int) -> _Covariance:
    """`_ledoit_wolf` from the empirical covariance and the mean fourth power of the lengths of the centred rows."""
    trace, squared = empirical.diagonal(dim1=-2, dim2=-1).sum(-1), empirical.square().sum((-2, -1))
    shrinkage, ridge = _shrinkage_of(trace, squared, fourth, n, d)
    matrix = (1 - shrinkage)[:, None, None] * empirical
    matrix.diagonal(dim1=-2, dim2=-1).add_(ridge[:, None])
    return _Covariance(matrix, ridge, shrinkage)


def _span_coordinates(x: Float[Tensor, "head example d"]) -> Float[Tensor, "head example m"]:
    """Coordinates of the examples in an orthonormal basis of a space that holds them, where that is smaller."""
    if x.shape[1] >= x.shape[2]:
        return x
    return torch.linalg.qr(x.mT, mode="r").R.mT


def _shrinkage_of(trace: Tensor, squared: Tensor, fourth: Tensor, n: int, d: int) -> tuple[Tensor, Tensor]:
    """Shrinkage, and it times the mean variance, from trace and squared norm of a covariance and as in `_shrunk`."""
    mu = trace / d
    spread = (squared - d * mu.square()).clamp(min=0)
    noise = ((fourth - squared) / n).clamp(min=0).minimum(spread)
    shrinkage = torch.where(noise > 0, noise / torch.where(spread > 0, spread, 1.0), 0.0)
    return shrinkage, shrinkage * mu


def _check_definite(covariance: _Covariance, *, outside: bool, names: Sequence[str], what: str, metric: str) -> None:
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


# The Woodbury identity loses as many digits as d / shrinkage has: below this share of d, matrices of d x d are used.
WOODBURY = 1e-9
Labels = Bool[Tensor, " example"] | Int[Tensor, " example"]


def lda(
    x: Float[Tensor, "head example d"] | Batch, y: Labels, names: Sequence[str] | None = None
) -> Float[Tensor, " head"]:
    """Squared distance of the class means in the metric of the shrunk within-class scatter.

    `(mu_a - mu_n)^T S_W^-1 (mu_a - mu_n)`, the paper's S_LDA (arXiv 2512.17601, section 3), with `S_W = n *
    LedoitWolf(class-centred rows)`. The paper's own scatter is singular with fewer examples than dimensions,
    and adding a constant to it makes the score measure feature scale. With several classes, the mean over the pairs
    of classes: `trace(S_W^-1 B)`, `B` the mean outer product of the differences of two class means.

    Parameters
    ----------
    x
        `[head, example, d]`, float64; or a batch.
    y
        `[example]`, True for class 1 of two; or class numbers from 0.
    names
        Label of each head, for error text.

    Returns
    -------
    Tensor
        `[head]`, 0 to infinity, higher separates better. Free of shift, scale and rotation. The scatter is a sum, so
        the score falls as 1 / n, and twice the same examples are shrunk less: compare at one number of examples.

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
    batch = Batch.of(x, names)
    if not batch.wide:
        return _lda_rows(batch, y)
    within, to_means, means = _within_gram(batch, y)
    n, d = batch.n, batch.d
    shrinkage, ridge = _shrinkage_of_gram(within, n, d)
    weak = shrinkage <= WOODBURY * d
    ridge = n * ridge
    contrasts = _contrasts(len(means[0]), within)
    apart = (contrasts * (means @ contrasts)).sum((1, 2))
    half = _whiten((1 - shrinkage)[:, None, None] * within, ridge, to_means @ contrasts)
    scores = (apart - (1 - shrinkage) * half.square().sum((1, 2))) / ridge
    return _replace(scores, weak, batch, lambda part: _lda_rows(part, y))


def lda_plain(
    x: Float[Tensor, "head example d"] | Batch, y: Labels, names: Sequence[str] | None = None
) -> Float[Tensor, " head"]:
    """Squared distance of the class means in the metric of the plain within-class scatter.

    `(mu_a - mu_n)^T S_W^-1 (mu_a - mu_n)`, `S_W` the sum over the classes of the centred outer products
    (arXiv 2512.17601, section 3, S_LDA). Parameters, range, direction and several classes as in `lda`; free of any
    invertible linear map of the features, and twice the examples give half the score.

    Parameters
    ----------
    x
        Outputs of the heads, `[head, example, d]`, or a prepared batch of them.
    y
        Classes `[example]`: booleans or whole numbers, two or more different ones.
    names
        Names of the heads for errors; their numbers if not given.

    Returns
    -------
    Tensor
        `[head]`.

    Raises
    ------
    InputError
        If n less the number of classes is below d, where the scatter is always singular, or if it is singular for a
        head.

    Examples
    --------
    >>> x = torch.tensor([[[1.0], [3.0], [7.0], [9.0]]], dtype=torch.float64)
    >>> lda_plain(x, torch.tensor([False, False, True, True]), ["L0H0"]).tolist()
    [9.0]
    """
    batch = Batch.of(x, names)
    n, d, classes = batch.n, batch.d, int(y.max()) + 1
    if n - classes < d:
        raise InputError(
            f"lda_plain needs n - {classes} >= d_head, got {n} examples for d_head {d}: the within-class scatter is "
            "singular; use 'lda', which shrinks it, or more examples"
        )
    rows, means = _within(batch.x, y)
    scatter = rows.mT @ rows
    zero = scatter.new_zeros(batch.n_heads)
    plain = _Covariance(scatter, zero, zero)
    _check_definite(plain, outside=False, names=batch.names, what="within-class scatter", metric="lda_plain")
    return _quadratic(scatter, means.mT @ _contrasts(classes, scatter))


def kl(
    x: Float[Tensor, "head example d"] | Batch, y: Labels, names: Sequence[str] | None = None
) -> Float[Tensor, " head"]:
    """Symmetric Kullback-Leibler divergence of two Gaussians, half the sum of both directions.

    `1/2 [KL(N_a || N_n) + KL(N_n || N_a)]` (arXiv 2512.17601, section 3, S_KL) with a Ledoit-Wolf covariance
    per class; the log-determinants cancel in the sum. With several classes, the mean over the pairs of classes.
    Parameters as in `lda`.

    Parameters
    ----------
    x, y, names
        As in `lda_plain`.

    Returns
    -------
    Tensor
        `[head]`, nats, 0 to infinity, higher separates better. Free of shift, scale and rotation.

    Raises
    ------
    InputError
        If a class has a singular covariance even after shrinking: of two examples with d above 1 it always is.

    Examples
    --------
    >>> x = torch.tensor([[[-1.0], [1.0], [3.0], [5.0]]], dtype=torch.float64)
    >>> kl(x, torch.tensor([False, False, True, True]), ["L0H0"]).tolist()
    [8.0]
    """
    batch = Batch.of(x, names)
    if not batch.wide:
        return _kl_rows(batch, y)
    within, to_means, means = _within_gram(batch, y)
    d = batch.d
    members = [torch.nonzero(y == c)[:, 0] for c in range(len(means[0]))]
    weak = torch.zeros(batch.n_heads, dtype=torch.bool, device=within.device)
    fits = []
    for place in members:
        own = _block(within, place, place)
        shrinkage, ridge = _shrinkage_of_gram(own, len(place), d)
        weak |= shrinkage <= WOODBURY * d
        fits.append(((1 - shrinkage) / len(place), ridge, own))
    total = torch.zeros(batch.n_heads, dtype=within.dtype, device=within.device)
    for a, b in combinations(range(len(members)), 2):
        apart = means[:, a, a] + means[:, b, b] - 2 * means[:, a, b]
        for this, other in ((a, b), (b, a)):
            scale, ridge, own = fits[this]
            other_scale, other_ridge, other_own = fits[other]
            size = len(members[this])
            delta = to_means.index_select(1, members[this])
            delta = (delta[:, :, this] - delta[:, :, other])[:, :, None]
            cross = _block(within, members[this], members[other])
            eye = torch.eye(size, dtype=own.dtype, device=own.device).expand_as(own)
            half = _whiten(scale[:, None, None] * own, ridge, torch.cat([eye, cross, delta], 2)).square_().sum(1)
            inverse_trace, squared = half[:, :size].sum(1), half[:, size:-1].sum(1)
            mean = half[:, -1]
            other_trace = other_own.diagonal(dim1=1, dim2=2).sum(1)
            inside = size - ridge * inverse_trace
            trace = other_scale * (other_trace - scale * squared) + other_ridge * (d - inside)
            total += (trace + apart - scale * mean) / ridge - d
    pairs = len(members) * (len(members) - 1) / 2
    return _replace((total / (4 * pairs)).clamp(min=0), weak, batch, lambda part: _kl_rows(part, y))


def _lda_rows(batch: Batch, y: Tensor) -> Tensor:
    """`lda` with covariances in the dimensions of the features, or in the span of the examples."""
    if is_large(batch.n, batch.d):
        _, means, scatters, fourths = _class_moments(batch, y)
        covariance = _shrunk(scatters.sum(1) / batch.n, fourths.sum(1) / batch.n, batch.n, batch.d)
    else:
        rows, means = _within(_span_coordinates(batch.x), y)
        covariance = _ledoit_wolf(rows, batch.d)
    what, outside = "within-class covariance", batch.d > means.shape[2]
    _check_definite(covariance, outside=outside, names=batch.names, what=what, metric="lda")
    return _quadratic(covariance.matrix, means.mT @ _contrasts(means.shape[1], means)) / batch.n


def _kl_rows(batch: Batch, y: Tensor) -> Tensor:
    """`kl` with covariances in the dimensions of the features, or in the span of the examples."""
    d, coordinates = batch.d, _span_coordinates(batch.x)
    m = coordinates.shape[2]
    means, covariances, inverses = [], [], []
    for c in range(int(y.max()) + 1):
        if is_large(batch.n, d):
            sizes, about, scatters, fourths = _class_moments(batch, y)
            n, mean = sizes[c], about[:, c]
            covariance = _shrunk(scatters[:, c] / n, fourths[:, c] / n, n, d)
        else:
            rows = coordinates[:, y == c]
            n, mean = rows.shape[1], rows.mean(1)
            covariance = _ledoit_wolf(rows - mean[:, None], d)
        called = f"class {c}" if y.dtype == torch.bool else f"class {c} (counted from 0)"
        what = f"covariance of the {n} examples of {called}"
        _check_definite(covariance, outside=d > m, names=batch.names, what=what, metric="kl")
        means.append(mean)
        covariances.append(covariance)
        inverses.append(torch.cholesky_inverse(torch.linalg.cholesky(covariance.matrix)))
    scores = []
    for a, b in combinations(range(len(means)), 2):
        delta = (means[a] - means[b])[:, :, None]
        traces = (inverses[b] * covariances[a].matrix).sum((-2, -1))
        traces = traces + (inverses[a] * covariances[b].matrix).sum((-2, -1))
        if d > m:
            ratio = covariances[a].ridge / covariances[b].ridge
            traces = traces + (d - m) * (ratio + 1 / ratio)
        distance = (delta.mT @ (inverses[a] + inverses[b]) @ delta)[:, 0, 0]
        scores.append(((traces - 2 * d + distance) / 4).clamp(min=0))
    return torch.stack(scores).mean(0)


def _within(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Class-centred rows, and the class means [head, class, m]."""
    means = torch.stack([x[:, y == c].mean(1) for c in range(int(y.max()) + 1)], 1)
    return x - means[:, y.long()], means


def _class_moments(batch: Batch, y: Tensor) -> tuple[list[int], Tensor, Tensor, Tensor]:
    """Of every class: size, mean, scatter about it and the sum of fourth powers of the lengths about it."""
    if batch.moments is not None and batch.moments[0] is y:
        return batch.moments[1]
    sizes, means, scatters, fourths = [], [], [], []
    for c in range(int(y.max()) + 1):
        rows = batch.x.index_select(1, torch.nonzero(y == c)[:, 0])
        mean = rows.mean(1)
        rows -= mean[:, None]
        sizes.append(rows.shape[1])
        means.append(mean)
        scatters.append(rows.mT @ rows)
        fourths.append(torch.linalg.vector_norm(rows, dim=2).pow_(4).sum(1))
    found = sizes, torch.stack(means, 1), torch.stack(scatters, 1), torch.stack(fourths, 1)
    batch.moments = (y, found)
    return found


def _within_gram(batch: Batch, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Inner products of class-centred rows [example, example], of these with the class means, and of these."""
    if batch.within is not None and batch.within[0] is y:
        return batch.within[1]
    gram = batch.gram
    member = torch.nn.functional.one_hot(y.long()).to(gram.dtype)
    share = member / member.sum(0)
    to_means = gram @ share
    means = share.mT @ to_means
    own = means.index_select(1, y.long())
    # The products with the means, off rows and columns at once.
    half, member = to_means.sub(own, alpha=0.5), member.expand(len(gram), -1, -1)
    off = torch.baddbmm(gram, torch.cat([half, member], 2), torch.cat([member, half], 2).mT, alpha=-1)
    products = off, to_means - own, means
    batch.within = (y, products)
    return products


def _contrasts(classes: int, like: Tensor) -> Tensor:
    """Weights [class, contrast] of class means, whose squares add up to the mean over the pairs of classes."""
    if classes == 2:
        return torch.tensor([[-1.0], [1.0]], dtype=like.dtype, device=like.device)
    centred = torch.eye(classes, dtype=like.dtype, device=like.device) - 1 / classes
    return centred * (2 / (classes - 1)) ** 0.5


def _shrinkage_of_gram(gram: Tensor, n: int, d: int) -> tuple[Tensor, Tensor]:
    own = gram.diagonal(dim1=1, dim2=2)
    return _shrinkage_of(own.sum(1) / n, torch.linalg.matrix_norm(gram).square() / n**2, own.square().mean(1), n, d)


def _whiten(matrix: Tensor, ridge: Tensor, right: Tensor) -> Tensor:
    """`L^-1 right` with `L L^T = matrix + ridge I`, NaN where there is no such L; the matrix is changed."""
    matrix.diagonal(dim1=1, dim2=2).add_(ridge[:, None])
    return torch.linalg.solve_triangular(torch.linalg.cholesky_ex(matrix).L, right, upper=False)


def _block(matrices: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Some rows and columns of every matrix."""
    place = (rows[:, None] * matrices.shape[2] + columns).flatten()
    return matrices.flatten(1).index_select(1, place).unflatten(1, (len(rows), len(columns)))


def _replace(scores: Tensor, weak: Tensor, batch: Batch, slow: Callable[[Batch], Tensor]) -> Tensor:
    """The scores, those of some heads computed in a slower way."""
    place = weak.nonzero()[:, 0]
    if len(place):
        scores[place] = slow(batch.part(place.tolist()))
    return scores


def _quadratic(matrix: Tensor, vectors: Tensor) -> Tensor:
    return torch.linalg.solve_triangular(torch.linalg.cholesky(matrix), vectors, upper=False).square().sum((1, 2))


def _means_and_variances(
    x: Float[Tensor, "head example d"], y: Labels
) -> tuple[Float[Tensor, "class head d"], Float[Tensor, "class head d"]]:
    """Of every class and dimension, dividing by the number of examples."""
    own = [x[:, y == c] for c in range(int(y.max()) + 1)]
    return torch.stack([rows.mean(1) for rows in own]), torch.stack([rows.var(1, correction=0) for rows in own])


def rsa(
    x: Float[Tensor, "head example d"] | Batch,
    y: Bool[Tensor, " example"] | Int[Tensor, " example"],
    names: Sequence[str] | None = None,
) -> Float[Tensor, " head"]:
    """Squared distance of the class means over the sum of the variances of the classes.

    `|| mu_a - mu_n ||^2 / (var_a + var_n)`, the RSA of SteerVAD (ICLR 2026, arXiv 2602.24021), with `var` the mean
    squared distance of the examples of a class to their mean; that paper's code is not public, so dividing by the
    number of examples, and not by one less, is this project's reading. With several classes, the mean over the pairs
    of classes. Unlike `lda` it takes no account of directions: a signal in one of many dimensions is diluted.

    Parameters
    ----------
    x, y, names
        As in `lda`.

    Returns
    -------
    Tensor
        `[head]`, 0 to infinity, higher separates better. Free of shift, scale and rotation, and the same with every
        example twice.

    Raises
    ------
    InputError
        If the examples of each of two classes coincide, so that the ratio is infinite.

    Examples
    --------
    >>> x = torch.tensor([[[-1.0], [1.0], [3.0], [5.0]]], dtype=torch.float64)
    >>> rsa(x, torch.tensor([False, False, True, True])).tolist()
    [8.0]
    """
    batch = Batch.of(x, names)
    means, spreads = _means_and_variances(batch.x, y)
    variances, size = spreads.sum(2), batch.x.square().sum(2).mean(1)
    ratios = []
    for a, b in combinations(range(len(means)), 2):
        within = variances[a] + variances[b]
        singular = torch.nonzero(within <= 1e-13 * size)[:, 0].tolist()
        if singular:
            raise InputError(
                f"head {batch.names[singular[0]]}: all examples of class {a} are the same, and all of class {b}, so "
                "that the metric 'rsa' is not defined; use more varied examples or leave the head out"
            )
        ratios.append((means[a] - means[b]).square().sum(1) / within)
    return torch.stack(ratios).mean(0)


def _lda_together(batch: Batch, labels: Tensor) -> Tensor:
    """`lda` of two classes by an update of the total scatter T; of more, one labelling after the other."""
    if labels.dtype != torch.bool:
        return torch.stack([lda(batch, row) for row in labels], 1)
    n, d = batch.n, batch.d
    if batch.wide:
        values, vectors = torch.linalg.eigh(batch.gram)
        values = values.clamp(min=0)
        rows = vectors * values.sqrt()[:, None]
    else:
        values, vectors = torch.linalg.eigh(batch.x.mT @ batch.x)
        rows, values = batch.x @ vectors, values.clamp(min=0)
    values = values[:, :, None]
    y = labels.to(torch.float64)
    ones = y.sum(1)
    zeros = n - ones
    pull = n / (ones * zeros)
    sums = rows.mT @ y.T
    length = sums.square().sum(1)
    # The shrinkage: moments of the class-centred rows.
    squares = rows.square().sum(2)[:, :, None]
    own, along = 1 / torch.where(labels.T, ones, -zeros), rows @ sums
    fourth = (squares - 2 * own * along + own.square() * length[:, None]).square().mean(1)
    trace = (values.sum(1) - pull * length) / n
    bent = (values * sums.square()).sum(1)
    squared = (values.square().sum(1) - 2 * pull * bent + (pull * length).square()) / n**2
    shrinkage, ridge = _shrinkage_of(trace, squared, fourth, n, d)
    # The inverse: Sherman and Morrison.
    kept = (1 - shrinkage) / n
    # Directions without scatter carry nothing of s.
    empty = values <= values.amax(1, keepdim=True) * torch.finfo(values.dtype).eps * n
    damped = torch.where(empty, torch.inf, kept[:, None] * values + ridge[:, None])
    quadratic = (sums.square() / damped).sum(1)
    left = 1 - kept * pull * quadratic
    scores = pull.square() * quadratic / left / n
    # Near-singular labellings, where the metric itself decides whether there is a score at all.
    unsure = (
        (left < LEFT) | (squared * n**2 < LEFT_SQUARED * values.square().sum(1)) | ~scores.isfinite() | (ridge <= 0)
    )
    for column in unsure.any(0).nonzero().flatten().tolist():
        some = unsure[:, column].nonzero().flatten()
        scores[some, column] = lda(batch.part(some.tolist()), labels[column])
    return scores


METRICS = (
    Metric("lda", lda, CLASSES, rows=False, numbers=square, together=_lda_together),
    Metric("lda_plain", lda_plain, CLASSES, numbers=square),
    Metric("kl", kl, CLASSES, rows=False, numbers=square),
    Metric("rsa", rsa, CLASSES),
)
"""What this file adds to `headprobe.metrics.saliency.METRICS`."""
