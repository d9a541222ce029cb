"""Calibration: from decisions to probabilities, fitted on decisions about examples that were never fitted on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

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
        from sklearn.linear_model import LogisticRegression

        target = np.where(labels == 1, (n1 + 1) / (n1 + 2), 1 / (n0 + 2))
        centre, unit = float(d.mean()), float(d.std())
        if unit == 0 or float(d[labels == 1].mean()) <= float(d[labels == 0].mean()):
            raise InputError(
                "the held-out decisions do not rise with the label, so they cannot be made probabilities: the heads "
                "know nothing of the labels, or there are too few calibration videos; calibrate=False goes on without"
            )
        # A soft target is both labels, each with its weight.
        rows, labelled = np.tile((d - centre) / unit, 2)[:, None], np.repeat([1, 0], len(d))
        fitted: Any = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-12, max_iter=_STEPS)
        fitted.fit(rows, labelled, sample_weight=np.concatenate([target, 1 - target]))
        slope = float(fitted.coef_[0, 0]) / unit
        return cls(slope, float(fitted.intercept_[0]) - slope * centre)


def expected_calibration_error(probability: ArrayLike, y: ArrayLike, n_bins: int = 10) -> float:
    """Mean distance between stated probability and observed share, over bins of equally many examples."""
    p, labels = np.asarray(probability, dtype=np.float64), np.asarray(y, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    parts = np.array_split(order, min(n_bins, len(p)))
    return float(sum(len(part) * abs(p[part].mean() - labels[part].mean()) for part in parts) / len(p))


def quality(probability: ArrayLike, y: ArrayLike) -> dict[str, float]:
    """How good and how calibrated probabilities are: ``n``, ``auc``, ``brier`` and ``ece``."""
    from sklearn.metrics import brier_score_loss, roc_auc_score

    return {
        "n": float(np.size(y)),
        "auc": float(roc_auc_score(y, probability)),
        "brier": float(brier_score_loss(y, probability)),
        "ece": expected_calibration_error(probability, y),
    }
