"""A cross-validated linear probe of every head at once, for one labelling or for thousands.

The probe is ridge regression on the labels, its predictions are those of the fold that leaves out the example (or
its whole group). For a fixed penalty both are linear in the labels: one matrix per head gives the held-out scores of
every labelling, so a permutation costs a matrix product and not a fit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from torch import Tensor

from headprobe._validation import number
from headprobe.errors import InputError

__all__ = [
    "PENALTY",
    "auroc",
    "fold_index",
    "loo_ridge_auroc",
    "loo_ridge_scores",
]

PENALTY = 0.1
"""Ridge penalty, in units of the mean non-zero eigenvalue of a head's scatter matrix."""

CHUNK_BYTES = 96 * 2**20
FACTORED = 2
ROWS_AT_ONCE = 128
LEVELS = 2**40
"""Scores are compared after rounding to this many steps of the largest: what rounding errors tell apart is a tie."""


class _Probe(NamedTuple):
    """What turns labels into held-out scores, less the mean label of the examples fitted on."""

    matrix: Tensor | None
    left: Tensor | None = None
    right: Tensor | None = None
    own: tuple[Tensor, ...] = ()
    single: Tensor | None = None

    def heads(self, size: int) -> Iterator[_Probe]:
        """The probes of some heads at a time."""
        some = self.matrix if self.matrix is not None else self.left
        assert some is not None
        for start in range(0, len(some), size):
            part = slice(start, start + size)
            matrix, left, right, single = (
                None if x is None else x[part] for x in (self.matrix, self.left, self.right, self.single)
            )
            yield _Probe(matrix, left, right, tuple(own[part] for own in self.own), single)


def fold_index(groups: ArrayLike | None, n: int) -> Int[np.ndarray, " example"]:
    """Number the folds: one per group, or one per example without groups.

    Parameters
    ----------
    groups
        `[example]`, any labels that can be compared, or None.
    n
        Number of examples.

    Returns
    -------
    numpy.ndarray
        `[example]`, whole numbers from 0 in the order in which the groups first occur.

    Raises
    ------
    InputError
        If `groups` has another length, a group is missing (None or NaN), or there are fewer than 2 groups.

    Examples
    --------
    >>> fold_index(["b", "a", "b"], 3).tolist()
    [0, 1, 0]
    """
    if groups is None:
        return np.arange(n)
    if not hasattr(groups, "__len__"):
        raise InputError(f"groups must be a sequence of one group per example, got {groups!r}")
    given: list[Any] = groups.tolist() if isinstance(groups, np.ndarray | Tensor) else list(groups)  # type: ignore[arg-type]
    if len(given) != n:
        raise InputError(f"groups has {len(given)} entries for {n} examples: give one per example")
    missing = [i for i, value in enumerate(given) if value is None or value != value]
    if missing:
        raise InputError(
            f"{len(missing)} of {n} examples have no group (first: example {missing[0]}): give every example one"
        )
    numbers: dict[Any, int] = {}
    index = np.array([numbers.setdefault(value, len(numbers)) for value in given])
    if len(numbers) < 2:
        raise InputError(f"there is 1 group ({given[0]!r}): whole groups are held out, so at least 2 are needed")
    return index


def _members(fold: Int[np.ndarray, " example"]) -> list[Int[np.ndarray, " row"]]:
    """Rows of each fold."""
    return np.split(np.argsort(fold, kind="stable"), np.cumsum(np.bincount(fold))[:-1])


def _rows_of(groups: ArrayLike | None, n: int, device: torch.device) -> list[Tensor]:
    return [torch.from_numpy(rows).to(device) for rows in _members(fold_index(groups, n))]


def _labellings(x: Tensor, y: Tensor) -> Float[Tensor, "labelling example"]:
    labels = torch.atleast_2d(y).to(x.device, torch.float64)
    if x.ndim != 3 or labels.ndim != 2 or labels.shape[1] != x.shape[1]:
        raise InputError(
            f"x must be [head, example, d] and y [labelling, example], got shapes {tuple(x.shape)} and {tuple(y.shape)}"
        )
    return labels


def loo_ridge_scores(
    x: Float[Tensor, "head example d"],
    y: Float[Tensor, "labelling example"],
    groups: ArrayLike | None = None,
    penalty: float = PENALTY,
    weights: Float[Tensor, " example"] | None = None,
) -> Float[Tensor, "head labelling example"]:
    """Scores of every example by a ridge probe that was fitted without it, or without its whole group.

    The score is the prediction less the mean label of the examples fitted on. Without this correction, leaving out
    an example of one class lowers the mean of the others, and pooled held-out scores of pure noise rank below chance.
    The block form of the leave-one-out identity is used: the errors of a held-out group are
    `(I - H_gg)^-1 (y_g - H_g y)`, with `H` the hat matrix of ridge regression with a free intercept
    (Cook and Weisberg, "Residuals and Influence in Regression", 1982, section 2.2).

    Parameters
    ----------
    x
        `[head, example, d]`. The penalty is relative to the scatter of all examples of the head, so the scores do not
        change when a head's output is shifted, scaled or rotated.
    y
        `[labelling, example]` or `[example]`; labels as numbers.
    groups
        `[example]`; whole groups are left out. Default: single examples.
    penalty
        Ridge penalty in units of the mean non-zero eigenvalue of the centred scatter matrix, above 0.
    weights
        `[example]`, above 0: how often each example is there, all copies of it in the same fold. Default: once.

    Returns
    -------
    Tensor
        `[head, labelling, example]`, float64; without the labelling axis if y has none.

    Raises
    ------
    InputError
        If shapes do not fit, the penalty or a weight is not above 0.

    Examples
    --------
    >>> x = torch.tensor([[[-2.0], [-1.0], [1.0], [2.0]]])
    >>> loo_ridge_scores(x, torch.tensor([0.0, 0.0, 1.0, 1.0])).sign().tolist()
    [[-1.0, -1.0, 1.0, 1.0]]
    """
    labels, n = _labellings(x, y), x.shape[1]
    folds = _rows_of(groups, n, x.device)
    w = torch.ones(n, dtype=torch.float64, device=x.device) if weights is None else weights.to(x.device, torch.float64)
    if w.shape != (n,) or not bool((w > 0).all()):
        raise InputError(f"weights must be one number above 0 per example, shape ({n},), got shape {tuple(w.shape)}")
    parts = _chunks(x, len(labels))
    scores = torch.cat([_apply(_fit(part, folds, penalty, w), labels, folds, w) for part in parts])
    return scores if y.ndim == 2 else scores[:, 0]


def loo_ridge_auroc(
    x: Float[Tensor, "head example d"],
    y: Float[Tensor, "labelling example"],
    groups: ArrayLike | None = None,
    penalty: float = PENALTY,
) -> Float[Tensor, "head labelling"]:
    """Area under the ROC curve of the held-out scores of `loo_ridge_scores`, over all folds together.

    Parameters
    ----------
    x, groups, penalty
        As in `loo_ridge_scores`.
    y
        `[labelling, example]` or `[example]`, 0 or 1; both classes in every labelling.

    Returns
    -------
    Tensor
        `[head, labelling]`, float64, 0 to 1, without the labelling axis if y has none. Without signal the mean lies
        near 0.5 with many dimensions and below it with few, 0.43 to 0.46 with one and 20 to 100 examples: the scores of
        a pair of examples share what was fitted. Compare with relabelled examples
        (`headprobe.metrics.significance.max_statistic`), not with 0.5.

    Raises
    ------
    InputError
        As in `loo_ridge_scores`, or if a labelling has one class only.

    Examples
    --------
    >>> x = torch.tensor([[[-2.0], [-1.0], [1.0], [2.0]]])
    >>> loo_ridge_auroc(x, torch.tensor([0.0, 0.0, 1.0, 1.0])).tolist()
    [1.0]
    """
    labels = _labellings(x, y)
    folds = _rows_of(groups, x.shape[1], x.device)
    w = torch.ones(x.shape[1], dtype=torch.float64, device=x.device)
    positive = labels.cpu().numpy() > 0.5
    _check_classes(positive)

    # What is sorted at a time stays near the processor.
    size = max(1, ROWS_AT_ONCE // len(labels))
    rows = [slice(start, start + ROWS_AT_ONCE) for start in range(0, len(labels), ROWS_AT_ONCE)]
    areas = []
    for part in _chunks(x, len(labels)):
        for probe in _fit(part, folds, penalty, w).heads(size):
            scores = _apply(probe, labels, folds, w).cpu().numpy()
            areas.append(np.concatenate([auroc(scores[:, r], positive[r], check=False) for r in rows], axis=1))
    result = torch.from_numpy(np.concatenate(areas))
    return result if y.ndim == 2 else result[:, 0]


def auroc(
    scores: Float[np.ndarray, "... example"], y: Float[np.ndarray, "... example"], *, check: bool = True
) -> Float[np.ndarray, ...]:
    """Area under the ROC curve of many score vectors at once; a tie counts one half.

    Equal to the Mann-Whitney statistic over the number of pairs. Scores closer than 2^-40 of the largest count as
    tied. The label goes into the lowest bit of the rounded score, so one plain sort ranks both classes.

    Parameters
    ----------
    scores
        `[..., example]`.
    y
        0 or 1, of the same shape or broadcast to it.
    check
        Whether to make sure of finite scores and two classes.

    Returns
    -------
    numpy.ndarray
        `[...]`, 0 to 1.

    Raises
    ------
    InputError
        If a score is not finite or a labelling has one class only.

    Examples
    --------
    >>> auroc(np.array([[0.1, 0.4, 0.35, 0.8], [1.0, 1.0, 1.0, 1.0]]), np.array([0, 0, 1, 1])).tolist()
    [0.75, 0.5]
    """
    positive = np.asarray(y) > 0.5
    if check:
        if not np.isfinite(scores).all():
            raise InputError("scores hold NaN or infinite values: leave these examples out")
        _check_classes(positive)
    n = scores.shape[-1]
    packed = _levels(scores)
    packed <<= 1
    packed |= positive
    packed.sort(axis=-1)
    label = (packed & 1).astype(np.float64)
    ones = label.sum(-1)
    ranks = label @ np.arange(1.0, n + 1)
    # Neighbours that differ in the lowest bit only are tied and of different classes.
    tied = ((packed[..., 1:] ^ packed[..., :-1]) == 1).any(-1)
    if tied.any():
        from scipy.stats import rankdata

        average = rankdata(packed[tied] >> 1, axis=-1)
        ranks = np.array(ranks)
        ranks[tied] = (average * label[tied]).sum(-1)
    return (ranks - ones * (ones + 1) / 2) / (ones * (n - ones))


def _resampled_auroc(
    scores: Float[np.ndarray, "head example"],
    y: Float[np.ndarray, " example"],
    weights: Float[np.ndarray, "resample example"],
) -> Float[np.ndarray, "head resample"]:
    """Area under the ROC curve with weighted examples, for many weightings: the bootstrap of given scores."""
    positive = np.asarray(y) > 0.5
    ones, zeros = weights[:, positive], weights[:, ~positive]
    pairs = ones.sum(1) * zeros.sum(1)
    if (pairs == 0).any():
        raise InputError(f"resample {np.argmax(pairs == 0)} has one class only: a ROC curve needs both")
    areas = np.empty((len(scores), len(weights)))
    for head, level in enumerate(_levels(scores)):
        above, below = level[positive, None], level[~positive]
        wins = (above > below) + 0.5 * (above == below)
        areas[head] = ((ones @ wins) * zeros).sum(1) / pairs
    return areas


def _levels(scores: np.ndarray) -> np.ndarray:
    """Scores rounded to whole numbers of at most 41 bits."""
    largest = np.maximum(scores.max(-1, keepdims=True), -scores.min(-1, keepdims=True))
    step = np.divide(LEVELS, largest, out=np.zeros_like(largest), where=largest > 0)
    scaled = scores * step
    return np.rint(scaled, out=scaled).astype(np.int64)


def _check_classes(positive: np.ndarray) -> None:
    ones = positive.sum(-1)
    bad = np.argwhere((ones == 0) | (ones == positive.shape[-1]))
    if len(bad):
        where = f"labelling {bad[0][0]}" if positive.ndim > 1 else "the labelling"
        raise InputError(f"{where} has one class only: a ROC curve needs both")


def _chunks(x: Tensor, labellings: int) -> Iterator[Tensor]:
    n, d = x.shape[1:]
    per_head = 8 * (4 * n * min(n, d) + n * d + n * n + 2 * n * labellings)
    size = max(1, CHUNK_BYTES // per_head)
    for start in range(0, len(x), size):
        yield x[start : start + size].to(torch.float64)


def _fit(x: Tensor, folds: list[Tensor], penalty: float, weights: Tensor) -> _Probe:
    """Fit all heads of a part; x is float64 [head, example, d]. Rows are multiplied by the root of their weight."""
    number(penalty, "penalty", above=0)
    n, d = x.shape[1:]
    tiny = torch.finfo(x.dtype).tiny
    total, root = weights.sum(), weights.sqrt()
    x = x - (weights / total) @ x[:, None]
    # At a size near 1, tiny and huge activations stay away from the ends of the number range.
    x = x / x.abs().amax((1, 2), keepdim=True).clamp(min=tiny) * root[:, None]
    wide = d > n
    # The smaller of the two Gram matrices; both have the same non-zero eigenvalues.
    gram = x @ x.mT if wide else x.mT @ x
    rank = min(float(total) - 1, d)
    ridge = (penalty / rank * gram.diagonal(dim1=-2, dim2=-1).sum(-1)).clamp(min=tiny)
    damped = gram.clone()
    damped.diagonal(dim1=-2, dim2=-1).add_(ridge[:, None])
    factor = torch.linalg.cholesky(damped)
    intercept = root / total.sqrt()
    if wide:
        return _dense(torch.cholesky_solve(gram, factor) + intercept[:, None] * intercept, folds, weights)
    half = torch.linalg.solve_triangular(factor, x.mT, upper=False).mT
    half = torch.cat([half, intercept[:, None].expand(len(half), -1, -1)], 2)
    if n <= FACTORED * half.shape[2]:
        return _dense(half @ half.mT, folds, weights)
    if len(folds) == n:
        inverse = 1 / (1 - half.square().sum(2))
        return _Probe(None, inverse[:, :, None] * half / root[:, None], half * root[:, None], single=1 - inverse)
    left = torch.empty_like(half)
    own = []
    for fold in folds:
        rows = half[:, fold]
        one = torch.eye(len(fold), dtype=x.dtype, device=x.device)
        inverse = torch.linalg.inv(one - rows @ rows.mT)
        left[:, fold] = inverse @ rows / root[fold, None]
        own.append((one - inverse) * root[fold] / root[fold, None])
    return _Probe(None, left, half * root[:, None], tuple(own))


def _dense(hat: Tensor, folds: list[Tensor], weights: Tensor) -> _Probe:
    """The matrix of held-out scores from the hat matrix [head, example, example], intercept included."""
    total, root = weights.sum(), weights.sqrt()
    if len(folds) == hat.shape[-1]:
        leverage = hat.diagonal(dim1=-2, dim2=-1)
        matrix = hat / ((1 - leverage) * root)[:, :, None] * root - weights / (total - weights)[:, None]
        matrix.diagonal(dim1=-2, dim2=-1).zero_()
        return _Probe(matrix)
    matrix = torch.empty_like(hat)
    for fold in folds:
        rows = hat[:, fold]
        error = torch.eye(len(fold), dtype=hat.dtype, device=hat.device) - rows[:, :, fold]
        rows = torch.linalg.solve(error, rows) * root / root[fold, None] - weights / (total - weights[fold].sum())
        rows[:, :, fold] = 0.0
        matrix[:, fold] = rows
    return _Probe(matrix)


def _apply(probe: _Probe, y: Tensor, folds: list[Tensor], weights: Tensor) -> Tensor:
    """Held-out scores [head, labelling, example] of labels [labelling, example]."""
    if probe.matrix is not None:
        return y @ probe.matrix.mT
    assert probe.left is not None
    assert probe.right is not None
    scores = (y @ probe.right) @ probe.left.mT
    weighted = y * weights
    total = weighted.sum(1, keepdim=True)
    if probe.single is not None:
        others = (total - weighted) / (weights.sum() - weights)
        return scores.addcmul_(y, probe.single[:, None]).sub_(others)
    for fold, own in zip(folds, probe.own, strict=True):
        others = (total - weighted[:, fold].sum(1, keepdim=True)) / (weights.sum() - weights[fold].sum())
        scores[:, :, fold] += y[:, fold] @ own.mT - others
    return scores
