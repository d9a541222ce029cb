"""Scores of all heads under many labellings of the same examples.

What does not depend on the labels is computed once per head: the hat matrix of the probe, the eigenvectors of the
scatter, the clusters. A labelling then costs a matrix product.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headprobe.errors import InputError
from headprobe.metrics.gaussian import span_coordinates
from headprobe.metrics.linear_probe import loo_ridge_auroc
from headprobe.metrics.nmi import contingency_nmi, two_means
from headprobe.metrics.saliency import METRICS

__all__ = ["Metric", "bytes_per_head", "score_labellings"]

Metric = str | Callable[[Tensor, Tensor], Tensor]
"""Name of a metric, or a function of features `[head, example, d]` and labels `[example]` to scores `[head]`."""

# Closer to a singular scatter than this, the update formula of the LDA score has lost too many digits.
CANCELLED = 1e-6


def score_labellings(
    metric: Metric,
    x: Float[Tensor, "head example d"],
    labels: Float[np.ndarray, "labelling example"],
    groups: np.ndarray | None = None,
    names: Sequence[str] | None = None,
    random_state: int = 0,
) -> Float[np.ndarray, "head labelling"]:
    """Score heads under every labelling.

    Parameters
    ----------
    metric
        `"auroc"` (of `loo_ridge_auroc`; several classes: the mean over one class against the rest), a name out of
        `headprobe.metrics.saliency.METRICS`, or a function. `auroc`, `lda` and `nmi` take all labellings at once; the
        others are computed one labelling after the other.
    x
        `[head, example, d]`, float64, centred.
    labels
        `[labelling, example]`.
    groups
        `[example]`; what the probe of `auroc` leaves out together.
    names
        Labels of the heads, for error text.
    random_state
        Seed of metrics that draw.

    Returns
    -------
    numpy.ndarray
        `[head, labelling]`, float64.

    Raises
    ------
    InputError
        If the metric is unknown, not defined for the labels, or gives something that is not a finite number per head.

    Examples
    --------
    >>> x = torch.tensor([[[-3.0], [-1.0], [1.0], [3.0]]], dtype=torch.float64)
    >>> score_labellings("lda", x, np.array([[0, 0, 1, 1], [0, 1, 0, 1]])).round(6).tolist()
    [[4.0, 0.25]]
    """
    names = [f"number {i}" for i in range(len(x))] if names is None else names
    if metric == "auroc":
        return _auroc(x, labels, groups)
    if metric in ("lda", "nmi") and np.isin(labels, (0, 1)).all():
        y = torch.from_numpy(labels.astype(bool))
        return (_lda(x, y, names) if metric == "lda" else _nmi(x, y, random_state)).numpy()
    if isinstance(metric, str):
        if metric not in METRICS:
            raise InputError(f"unknown metric {metric!r}: known are {sorted({*METRICS, 'auroc'})}, or give a function")
        score = METRICS[metric]
        columns = [score(x, torch.from_numpy(row.astype(bool)), names, random_state) for row in labels]
    else:
        columns = [_checked(metric(x, torch.from_numpy(np.ascontiguousarray(row))), x) for row in labels]
    return torch.stack(columns, 1).to(torch.float64).numpy()


def bytes_per_head(n: int, d: int, labellings: int) -> int:
    """Rough working memory of `score_labellings` for one head, in bytes.

    Examples
    --------
    >>> bytes_per_head(200, 128, 1000) < 10e6
    True
    """
    small = min(n, d)
    return 8 * (4 * n * d + 6 * small * small + 2 * n * n + 3 * n * labellings)


def _auroc(x: Tensor, labels: np.ndarray, groups: Any) -> np.ndarray:
    values = np.unique(labels)
    positives = values[1:] if len(values) == 2 else values
    areas = [loo_ridge_auroc(x, torch.from_numpy((labels == v).astype(float)), groups) for v in positives]
    return torch.stack(areas).mean(0).numpy()


def _nmi(x: Tensor, labels: Tensor, random_state: int) -> Tensor:
    clusters, _ = two_means(x, random_state)
    return torch.stack([contingency_nmi(clusters, y) for y in labels], 1)


def _lda(x: Tensor, labels: Tensor, names: Sequence[str]) -> Tensor:
    """The score of `gaussian.lda` for all labellings, by an update of the total scatter T.

    With s the sum of the centred rows of class 1, the mean difference is n / (n1 n0) s and the within-class scatter
    T - n / (n1 n0) s s'. Both the shrinkage of Ledoit and Wolf and the inverse need s in the eigenvectors of T only.
    """
    n, d = x.shape[1:]
    rows = span_coordinates(x - x.mean(1, keepdim=True))
    values, vectors = torch.linalg.eigh(rows.mT @ rows)
    rows, values = rows @ vectors, values.clamp(min=0)[:, :, None]
    y = labels.to(x.dtype)
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
    mu = trace / d
    spread = (squared - d * mu.square()).clamp(min=0)
    noise = ((fourth - squared) / n).clamp(min=0).minimum(spread)
    shrinkage = torch.where(noise > 0, noise / torch.where(spread > 0, spread, 1.0), 0.0)
    # The inverse: Sherman and Morrison.
    kept, ridge = (1 - shrinkage) / n, shrinkage * mu
    # Directions without scatter carry nothing of s.
    empty = values <= values.amax(1, keepdim=True) * torch.finfo(x.dtype).eps * n
    damped = torch.where(empty, torch.inf, kept[:, None] * values + ridge[:, None])
    quadratic = (sums.square() / damped).sum(1)
    left = 1 - kept * pull * quadratic
    scores = pull.square() * quadratic / left / n
    # Near-singular labellings, where `gaussian.lda` decides whether there is a score at all.
    unsure = (left < CANCELLED) | ~scores.isfinite() | (ridge <= 0)
    for column in unsure.any(0).nonzero().flatten().tolist():
        some = unsure[:, column].nonzero().flatten()
        scores[some, column] = METRICS["lda"](x[some], labels[column], [names[i] for i in some.tolist()], 0)
    return scores


def _checked(scores: Any, x: Tensor) -> Tensor:
    tensor = torch.as_tensor(scores)
    if tensor.shape != (len(x),) or not tensor.isfinite().all():
        raise InputError(
            f"the metric has to give one finite score per head, shape ({len(x)},), got shape {tuple(tensor.shape)}"
            + ("" if tensor.isfinite().all() else " with NaN or infinite values")
        )
    return tensor
