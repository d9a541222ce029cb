"""Maximum mean discrepancy between classes, all heads at once."""

from __future__ import annotations

from functools import lru_cache
from itertools import combinations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headprobe.metrics._features import CLASSES, Batch, is_large
from headprobe.metrics.metric import Metric

__all__ = ["mmd", "mmd_unbiased", "rbf_kernel"]

# Below this share of the squared norms, |a|^2 + |b|^2 - 2 ab has lost half of its digits: take differences.
CANCELLED = 1e-8
PAIRS_AT_ONCE = 1 << 16
# Random features of many examples: directions, and how many pairs of each example the bandwidth is found from.
DIRECTIONS = 128
PAIRS_OF_EACH = 2
# Below this share of the largest squared length, the bandwidth asks for more digits than float32 has.
FINE = 1e-6


def mmd(
    x: Float[Tensor, "head example d"] | Batch,
    y: Bool[Tensor, " example"] | Int[Tensor, " example"],
    random_state: int = 0,
    exact: bool | None = None,
) -> Float[Tensor, " head"]:
    """Squared maximum mean discrepancy with an RBF kernel, as a V-statistic.

    `|| mean phi(X_a) - mean phi(X_n) ||^2` (arXiv 2512.17601, section 3, S_MMD; Gretton et al., "A kernel
    two-sample test", JMLR 13 (2012), eq. 5), `gamma = 1 / (2 median)` with the median of the non-zero squared
    distances over all classes together. With several classes, the mean over the pairs of classes.

    More than 400 examples, if they are more than twice the dimensions, would have too many pairs: there the kernel is
    that of 128 orthogonal random directions (Rahimi and Recht 2007; Yu et al. 2016), each with its cosine and sine, and
    the median that of two pairs for each example, so that the cost is linear in the examples. On 1200 made
    clips that was 2.3 % (median) from all pairs, with a rank correlation of heads of at least 0.997
    (`analyses/benchmarks/selection.py --exact`).

    Parameters
    ----------
    x
        `[head, example, d]`, float64, not constant; or a batch.
    y
        `[example]`, True for class 1 of two; or class numbers from 0.
    random_state
        Seed of the random directions and pairs, the same for all heads; without effect where it is exact.
    exact
        True: all pairs, whatever their number. False: random features. Default: as said above.

    Returns
    -------
    Tensor
        `[head]`, 0 to 2, higher separates better. Free of shift and scale; with all pairs also of rotation, and the
        same with every example twice. Positive on noise, more so with fewer examples: `mmd_unbiased` is not.

    Examples
    --------
    >>> x = torch.tensor([[[0.0], [0.0], [1.0], [1.0]]], dtype=torch.float64)
    >>> [round(v, 6) for v in mmd(x, torch.tensor([False, False, True, True])).tolist()]
    [0.786939]
    """
    return _mmd_together(x, y[None], random_state, exact)[:, 0]


def mmd_unbiased(
    x: Float[Tensor, "head example d"] | Batch,
    y: Bool[Tensor, " example"] | Int[Tensor, " example"],
    random_state: int = 0,
    exact: bool | None = None,
) -> Float[Tensor, " head"]:
    """Squared maximum mean discrepancy with an RBF kernel, as a U-statistic.

    `mmd` without the terms of an example with itself (Gretton et al. 2012, eq. 3), so that its mean is 0 where the
    classes have the same distribution and the kernel is fixed; here the median of the distances sets the kernel, as
    in `mmd`. Parameters as there.

    Parameters
    ----------
    x
        Outputs of the heads, `[head, example, d]`, or a prepared batch of them.
    y
        Classes `[example]`: two different ones.
    random_state, exact
        As in `mmd`.

    Returns
    -------
    Tensor
        `[head]`, above -1 and at most 2, higher separates better. Free of shift and scale; with all pairs of rotation.

    Examples
    --------
    >>> x = torch.tensor([[[0.0], [0.0], [1.0], [1.0]]], dtype=torch.float64)
    >>> [round(v, 6) for v in mmd_unbiased(x, torch.tensor([False, True, False, True])).tolist()]
    [-0.393469]
    """
    return _unbiased_together(x, y[None], random_state, exact)[:, 0]


def _mmd_together(
    x: Tensor | Batch, labels: Tensor, random_state: int = 0, exact: bool | None = None
) -> Float[Tensor, "head labelling"]:
    return _discrepancies(x, labels, random_state, exact, own_terms=True).clamp(min=0)


def _unbiased_together(
    x: Tensor | Batch, labels: Tensor, random_state: int = 0, exact: bool | None = None
) -> Float[Tensor, "head labelling"]:
    return _discrepancies(x, labels, random_state, exact, own_terms=False)


def rbf_kernel(x: Float[Tensor, "head example d"] | Batch) -> Float[Tensor, "head example example"]:
    """The kernel of `mmd`: `exp(-gamma |x_i - x_j|^2)`, `gamma = 1 / (2 median)` of the non-zero squared distances.

    Parameters
    ----------
    x
        Outputs of the heads, `[head, example, d]`, or a prepared batch of them.

    Returns
    -------
    Tensor
        `[head, example, example]`, between 0 and 1, with 1 on the diagonal, and exactly symmetric.

    Examples
    --------
    >>> rbf_kernel(torch.tensor([[[0.0], [1.0]]], dtype=torch.float64))[0, 0].log().tolist()
    [0.0, -0.5]
    """
    batch = Batch.of(x)
    pairs, i, j = _distances(batch)
    values = (pairs * (-0.5 / _median_of_positive(pairs))[:, None]).exp_()
    # Every pair is computed once: a product of matrices need not be symmetric to the last bit. Last, the diagonal.
    values = torch.cat([values, values.new_ones(len(values), 1)], 1)
    place = torch.full((batch.n, batch.n), len(i), device=i.device)
    place[i, j] = place[j, i] = torch.arange(len(i), device=i.device)
    return values.index_select(1, place.flatten()).unflatten(1, (batch.n, batch.n))


def _distances(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Squared distances of all pairs i < j, with i and j."""
    n, gram = batch.n, batch.gram
    norms = gram.diagonal(dim1=1, dim2=2)
    i, j = torch.triu_indices(n, n, offset=1, device=gram.device)
    pairs = gram.flatten(1).index_select(1, i * n + j).mul_(-2).add_(norms[:, i]).add_(norms[:, j])
    suspicious = torch.nonzero(pairs.amin(1) <= 2 * CANCELLED * norms.amax(1))[:, 0]
    if len(suspicious):
        total = norms[suspicious][:, i] + norms[suspicious][:, j]
        head, pair = torch.nonzero(pairs[suspicious] <= CANCELLED * total, as_tuple=True)
        head = suspicious[head]
        for some in range(0, len(head), PAIRS_AT_ONCE):
            h, p = head[some : some + PAIRS_AT_ONCE], pair[some : some + PAIRS_AT_ONCE]
            pairs[h, p] = (batch.x[h, i[p]] - batch.x[h, j[p]]).square().sum(-1)
    return pairs, i, j


def _feature_sums(
    batch: Batch, weights: Float[Tensor, "weighting example"], random_state: int = 0
) -> Float[Tensor, "head weighting feature"]:
    """Weighted sums over the examples of random features, whose inner products are about the kernel of `mmd`."""
    # Projected once for all parts of a batch: about the mean of all and in its unit, which leaves the kernel as it is.
    rows = batch.take("rows in float32", lambda whole: whole.single)
    bandwidth = _bandwidth(rows, batch, random_state)
    # Far from the mean, beside the distances that matter, angles in float32 have too few digits.
    if bool((bandwidth <= FINE * rows.square().sum(2).amax(1)).any()):
        rows = batch.take("rows in float64", lambda whole: whole.x)
        bandwidth = _bandwidth(rows, batch, random_state)
    frequencies = _directions(batch.d, random_state).to(rows)
    like = "single" if rows.dtype == torch.float32 else "x"
    angles = batch.take(("angles", random_state, like), lambda whole: getattr(whole, like) @ frequencies)
    angles = angles * bandwidth.rsqrt()[:, None, None]
    weights = weights.to(rows.dtype)
    sums = torch.cat([weights @ angles.cos(), weights @ angles.sin_()], 2)
    return sums.double() * DIRECTIONS**-0.5


@lru_cache(maxsize=8)
def _directions(d: int, random_state: int) -> Tensor:
    """Frequencies of an RBF kernel of bandwidth 1, [d, direction]."""
    from scipy.stats import chi

    rng = np.random.default_rng([random_state, 1])
    blocks = [np.linalg.qr(rng.normal(size=(d, d)))[0] for _ in range(-(-DIRECTIONS // d))]
    lengths = rng.permutation(chi.ppf((np.arange(DIRECTIONS) + 0.5) / DIRECTIONS, d))
    return torch.from_numpy(np.concatenate(blocks, 1)[:, :DIRECTIONS] * lengths)


def _bandwidth(rows: Tensor, batch: Batch, random_state: int) -> Tensor:
    """Median of the non-zero squared distances of some pairs, in which every example is as often as any other; 0 where
    float32 cannot tell examples apart that differ."""
    n = rows.shape[1]
    order = torch.from_numpy(np.random.default_rng([random_state, 2]).permutation(n)).to(rows.device)
    rows = rows.index_select(1, order)
    # Next to each other in a random circle, and so many places apart: not all are equal unless all examples are.
    steps = [1, *(n * s // (2 * PAIRS_OF_EACH - 1) for s in range(1, PAIRS_OF_EACH))]
    ends = [(rows[:, s:], rows[:, :-s], rows[:, :s], rows[:, -s:]) for s in steps]
    pairs = torch.cat([v for a, b, c, e in ends for v in ((a - b).square_().sum(2), (c - e).square_().sum(2))], 1)
    median = _median_of_positive(pairs)
    if rows.dtype == torch.float32:
        # An example may be there several times, as in a resample.
        head, pair = torch.nonzero(pairs == 0, as_tuple=True)
        first = pair % n
        second = (first + torch.tensor(steps, device=rows.device)[pair // n]) % n
        differ = (batch.x[head, order[first]] != batch.x[head, order[second]]).any(1)
        median[head[differ]] = 0
    return median


def _discrepancies(
    x: Tensor | Batch, labels: Tensor, random_state: int, exact: bool | None, own_terms: bool
) -> Float[Tensor, "head labelling"]:
    """Mean over the pairs of classes; the kernel times the classes of all labellings is one product."""
    batch = Batch.of(x)
    classes = torch.nn.functional.one_hot(labels.long()).to(torch.float64)
    n_classes = classes.shape[2]
    # Sums of the kernel over the examples of two classes, [head, labelling, class, class].
    if is_large(batch.n, batch.d) if exact is None else not exact:
        pulled = _feature_sums(batch, classes.mT.flatten(0, 1), random_state).unflatten(1, (-1, n_classes))
        sums = pulled @ pulled.mT
    else:
        pulled = (rbf_kernel(batch) @ classes.transpose(0, 1).flatten(1)).unflatten(2, (-1, n_classes))
        sums = torch.einsum("lnc,hnld->hlcd", classes, pulled)
    sizes = classes.sum(1)
    own = sums.diagonal(dim1=2, dim2=3)
    own = own / sizes**2 if own_terms else (own - sizes) / (sizes * (sizes - 1))
    pairs = combinations(range(n_classes), 2)
    apart = [own[:, :, a] + own[:, :, b] - 2 * sums[:, :, a, b] / (sizes[:, a] * sizes[:, b]) for a, b in pairs]
    return torch.stack(apart).mean(0)


def _median_of_positive(values: Tensor) -> Tensor:
    """Median of the positive entries of each row; every row has one."""
    n = values.shape[1]
    positive = (values > 0).sum(1)
    # The zeros come first in ascending order.
    high, even = n - positive + positive // 2, positive % 2 == 0
    if values.device.type != "cpu":
        ordered = values.sort(1).values
        upper, lower = ordered.gather(1, high[:, None])[:, 0], ordered.gather(1, (high[:, None] - 1).clamp(min=0))[:, 0]
    else:
        upper, lower = torch.empty_like(values[:, 0]), torch.empty_like(values[:, 0])
        for place in torch.unique(high).tolist():
            rows = torch.nonzero(high == place)[:, 0]
            some = values if len(rows) == len(values) else values[rows]
            ordered = torch.from_numpy(np.partition(some.numpy(), place, axis=1))
            upper[rows] = ordered[:, place]
            lower[rows] = ordered[:, :place].amax(1) if place else ordered[:, 0]
    return torch.where(even, (lower + upper) / 2, upper)


def _numbers(n: int, d: int) -> int:
    return n * (4 * DIRECTIONS + 4 * d) if is_large(n, d) else 3 * n * n


_SETTINGS = {"targets": CLASSES, "takes": ("random_state",), "rows": False, "numbers": _numbers}
METRICS = (
    Metric("mmd", mmd, together=_mmd_together, **_SETTINGS),
    Metric("mmd_unbiased", mmd_unbiased, together=_unbiased_together, **_SETTINGS),
)
"""What this file adds to `headprobe.metrics.saliency.METRICS`."""
