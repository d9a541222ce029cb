"""Calibration: from decisions to probabilities, fitted on decisions about examples that were never fitted on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.special import expit

from headprobe.errors import InputError

_STEPS = 100


@dataclass(frozen=True)
class Platt:
    """A probability as the logistic function of a decision, `1 / (1 + exp(-(slope * decision + intercept)))`."""

    slope: float
    intercept: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.slope) and self.slope > 0 and math.isfinite(self.intercept)):
            raise InputError(f"a calibration needs a positive slope and finite numbers, got {self}")

    def __call__(self, decision: ArrayLike) -> Float[np.ndarray, " example"]:
        """Turn decisions into probabilities."""
        return expit(self.slope * np.asarray(decision, dtype=np.float64) + self.intercept)

    @classmethod
    def fit(cls, decision: ArrayLike, y: ArrayLike) -> Platt:
        """Fit by maximum likelihood with Platt's smoothed targets."""
        d, labels = np.asarray(decision, dtype=np.float64), np.asarray(y)
        if d.ndim != 1 or d.shape != labels.shape or not np.isfinite(d).all():
            raise InputError(f"decisions must be one finite number per label, got {d.shape} and {labels.shape}")
        n1, n0 = int((labels == 1).sum()), int((labels == 0).sum())
        if not n1 or not n0 or n0 + n1 != len(d):
            raise InputError(f"labels must be 0 and 1, and both occur; got {n0} of 0 and {n1} of 1 among {len(d)}")
        target = np.where(labels == 1, (n1 + 1) / (n1 + 2), 1 / (n0 + 2))
        centre, unit = float(d.mean()), float(d.std())
        if unit == 0 or float(d[labels == 1].mean()) <= float(d[labels == 0].mean()):
            raise InputError(
                "the held-out decisions do not rise with the label, so they cannot be made probabilities: the heads "
                "know nothing of the labels, or there are too few calibration videos; calibrate=False goes on without"
            )
        x = np.stack([(d - centre) / unit, np.ones_like(d)], 1)
        w = np.array([1.0, math.log(n1 / n0)])
        for _ in range(_STEPS):  # Newton's method with steps halved until the loss falls
            p = expit(x @ w)
            gradient = x.T @ (p - target)
            hessian = (x * (p * (1 - p))[:, None]).T @ x + 1e-12 * np.eye(2)
            step = np.linalg.solve(hessian, gradient)
            size = 1.0
            while _loss(x @ (w - size * step), target) > _loss(x @ w, target) and size > 1e-8:
                size /= 2
            w = w - size * step
            if np.abs(step).max() * size < 1e-10:
                break
        return cls(float(w[0] / unit), float(w[1] - w[0] * centre / unit))


def _loss(margin: np.ndarray, target: np.ndarray) -> float:
    return float((np.logaddexp(0, margin) - target * margin).sum())


def brier_score(probability: ArrayLike, y: ArrayLike) -> float:
    """Mean squared difference of probability and label; 0 is best, and a constant base rate p gives p (1 - p)."""
    return float(np.mean((np.asarray(probability, dtype=np.float64) - np.asarray(y)) ** 2))


def expected_calibration_error(probability: ArrayLike, y: ArrayLike, n_bins: int = 10) -> float:
    """Mean distance between stated probability and observed share, over bins of equally many examples."""
    p, labels = np.asarray(probability, dtype=np.float64), np.asarray(y, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    parts = np.array_split(order, min(n_bins, len(p)))
    return float(sum(len(part) * abs(p[part].mean() - labels[part].mean()) for part in parts) / len(p))


def quality(probability: ArrayLike, y: ArrayLike) -> dict[str, float]:
    """How good and how calibrated probabilities are: ``n``, ``auc``, ``brier`` and ``ece``."""
    from sklearn.metrics import roc_auc_score

    return {
        "n": float(np.size(y)),
        "auc": float(roc_auc_score(y, probability)),
        "brier": brier_score(probability, y),
        "ece": expected_calibration_error(probability, y),
    }
