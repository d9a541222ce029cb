"""Presets: the method as published, and as this project runs it.

>>> preset("paper")["calibrate"], preset("default")["calibrate"]
(False, True)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from headprobe.errors import InputError
from headprobe.metrics._features import Batch
from headprobe.metrics.saliency import METRICS, Metric

__all__ = ["LDA_RIDGE", "PRESETS", "lda_ridge", "preset"]

RIDGE = 1e-6


def lda_ridge(x: Float[Tensor, "head example d"] | Batch, y: Tensor) -> Float[Tensor, " head"]:
    """The published S_LDA with the constant that its public code adds: kept to repeat published settings, not to use.

    `(mu_a - mu_n)^T (S_W + 1e-6 I)^-1 (mu_a - mu_n)`, `S_W` the sum over classes of the centred outer products
    (HeadHunt-VAD, arXiv 2512.17601, section 3). With fewer examples than dimensions `S_W` is singular, and the score is
    the squared difference of the class means outside of its span, times a million: it measures how large a head's
    features are, not how far the classes are apart. `lda` shrinks the covariance instead.

    Parameters
    ----------
    x
        `[head, example, d]`, float64; or a batch.
    y
        `[example]`, True for the abnormal class.

    Returns
    -------
    Tensor
        `[head]`, 0 to infinity. Free of shift and rotation, NOT of scale.

    Examples
    --------
    >>> x = torch.tensor([[[1.0], [3.0], [7.0], [9.0]]], dtype=torch.float64)
    >>> lda_ridge(x, torch.tensor([False, False, True, True])).round(decimals=3).tolist()
    [9.0]
    """
    rows = Batch.of(x).x
    labels = y.bool()
    normal, abnormal = rows[:, ~labels], rows[:, labels]
    apart = abnormal.mean(1) - normal.mean(1)
    centred = torch.cat([normal - normal.mean(1, keepdim=True), abnormal - abnormal.mean(1, keepdim=True)], 1)
    scatter = centred.mT @ centred + RIDGE * torch.eye(rows.shape[2], dtype=rows.dtype, device=rows.device)
    return (apart * torch.linalg.solve(scatter, apart)).sum(1)


LDA_RIDGE = Metric("lda_ridge", lda_ridge, ("binary",))
"""`lda_ridge` as a metric; `HeadHunt` knows it by its name."""

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "metrics": ("lda_ridge", "kl", "mmd", "nmi"),
        "calibration_clips": "whole_video",
        "class_weight": None,
        "standardise": False,
        "calibrate": False,
        "match_frame_rate": False,
    },
    "default": {
        "metrics": ("lda", "kl", "mmd", "nmi"),
        "calibration_clips": "segments",
        "class_weight": "balanced",
        "standardise": True,
        "calibrate": True,
        "match_frame_rate": True,
    },
}
"""Settings in which the presets differ; all others are the same in both. `docs/concepts/presets.md` says why."""


def preset(name: str) -> dict[str, Any]:
    """Settings of a preset, for `HeadHunt(**preset(name))`.

    Parameters
    ----------
    name
        `"paper"`: as published (HeadHunt-VAD, arXiv 2512.17601), formulas included. `"default"`: as `HeadHunt()`.

    Returns
    -------
    dict

    Raises
    ------
    InputError
        There is no such preset.

    Examples
    --------
    >>> preset("paper")["calibrate"], preset("default")["calibrate"]
    (False, True)
    """
    if name not in PRESETS:
        raise InputError(f"there is no preset {name!r}: known are {list(PRESETS)}")
    return dict(PRESETS[name])


def _metrics_by_name(metrics: Any) -> list[str | Metric | Callable[..., Any]]:
    """Metrics as `headprobe.saliency` takes them, with `lda_ridge` looked up."""
    if isinstance(metrics, str):
        raise InputError(f"metrics must be a sequence of names, got the text {metrics!r}: write ({metrics!r},)")
    return [LDA_RIDGE if metric == "lda_ridge" and "lda_ridge" not in METRICS else metric for metric in metrics]
