"""Learning from labels of whole videos: the few highest segments of a video stand for it."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from scipy.optimize import minimize
from scipy.special import expit, log_softmax

from headprobe.errors import InputError

__all__ = ["class_loss", "highest", "video_loss"]

_LEAST_GAIN = 1e-7  # of the loss, by which a restart of the search must lower it
_RESTARTS = 50


def highest(n_segments: int) -> int:
    """How many segments stand for a video: `int(n / 16 + 1)`, as in VadCLIP (AAAI 2024).

    Parameters
    ----------
    n_segments
        Segments of the video.

    Returns
    -------
    int
        At least 1.

    Examples
    --------
    >>> [highest(n) for n in (1, 15, 16, 40)]
    [1, 1, 2, 3]
    """
    return n_segments // 16 + 1


def video_loss(
    logits: Float[ArrayLike, " segment"], videos: Sequence[Hashable], y: Int[ArrayLike, " segment"]
) -> float:
    """Cross-entropy of the labels of videos, whose probability is the mean over their highest segments.

    Parameters
    ----------
    logits
        Of each segment.
    videos
        Its video.
    y
        0 or 1, the label of its video.

    Returns
    -------
    float
        Mean over the videos, in nats.

    Raises
    ------
    InputError
        Lengths differ, or a video has two labels.

    Examples
    --------
    >>> round(video_loss([2.0, -2.0, -2.0], ["a", "a", "b"], [1, 1, 0]), 3)
    0.127
    """
    values = np.asarray(logits, np.float64)
    places, labels = _videos(len(values), videos, np.asarray(y))
    likely = np.array([np.sort(expit(values[at]))[-highest(len(at)) :].mean() for at in places])
    return float(-np.where(labels == 1, _log(likely), _log(1 - likely)).mean())


def class_loss(
    logits: Float[ArrayLike, "segment class"], videos: Sequence[Hashable], classes: Float[ArrayLike, "segment class"]
) -> float:
    """Cross-entropy of the classes of videos, each with the mean logit of its own highest segments.

    Parameters
    ----------
    logits
        Of each segment and class.
    videos
        The segment's video.
    classes
        1 for the classes of its video, which share the weight, else 0; normal is a class of its own.

    Returns
    -------
    float
        Mean over the videos, in nats.

    Raises
    ------
    InputError
        Lengths differ, a video has two sets of classes, or none.

    Examples
    --------
    >>> round(class_loss([[4.0, 0.0], [0.0, 4.0]], ["a", "b"], [[1, 0], [1, 0]]), 3)
    2.018
    """
    values, wanted = np.asarray(logits, np.float64), np.asarray(classes, np.float64)
    if values.ndim != 2 or values.shape != wanted.shape or not (wanted.sum(1) > 0).all():
        raise InputError(
            f"logits are {values.shape} and classes {wanted.shape}; give [segment, class] both, one class or more each."
        )
    rows, codes = np.unique(wanted, axis=0, return_inverse=True)
    places, labels = _videos(len(values), videos, codes.ravel())
    mean = np.stack([np.sort(values[at], 0)[-highest(len(at)) :].mean(0) for at in places])
    share = rows[labels] / rows[labels].sum(1, keepdims=True)
    return float(-(share * log_softmax(mean, axis=1)).sum(1).mean())


def fit_videos(
    X: Float[np.ndarray, "segment feature"],
    y: Int[np.ndarray, " segment"],
    videos: Sequence[Hashable],
    weights: Float[np.ndarray, " feature"],
    intercept: float,
    C: float,
    balanced: bool,
    max_iter: int,
) -> tuple[Float[np.ndarray, " feature"], float, int, bool]:
    """Weights and intercept that lower `video_loss` with an L2 penalty from a start; steps taken, and whether done.

    The loss has kinks where the highest segments change, so the search is started again until that gains nothing.
    """
    places, labels = _videos(len(X), videos, y)
    sizes = np.bincount(labels, minlength=2)
    each = (len(labels) / 2 / sizes)[labels] if balanced else np.ones(len(labels))

    def loss(theta: np.ndarray) -> tuple[float, np.ndarray]:
        total, slope = 0.5 * float(theta[:-1] @ theta[:-1]), np.append(theta[:-1], 0.0)
        values = X @ theta[:-1] + theta[-1]
        for at, label, weight in zip(places, labels, each, strict=True):
            top = at[np.argsort(-values[at], kind="stable")[: highest(len(at))]]
            # Of 1 - p directly, which p rounded to 1 has lost.
            sign = 1.0 if label else -1.0
            right = expit(sign * values[top])
            mean = max(float(right.mean()), np.finfo(float).tiny)
            total -= C * weight * np.log(mean)
            pull = -C * weight * sign * right * expit(-sign * values[top]) / (mean * len(top))
            slope[:-1] += pull @ X[top]
            slope[-1] += pull.sum()
        return float(total), slope

    theta, steps, done = np.append(weights, intercept), 0, False
    before = loss(theta)[0]
    for _ in range(_RESTARTS):
        found = minimize(loss, theta, jac=True, method="L-BFGS-B", options={"maxiter": max_iter - steps})
        steps += int(found.nit)
        if found.fun < before:
            theta = found.x
        if before - found.fun <= _LEAST_GAIN * max(abs(before), 1.0):
            done = True
            break
        before = float(found.fun)
        if steps >= max_iter:
            break
    return theta[:-1], float(theta[-1]), steps, done


def _videos(n: int, videos: Sequence[Hashable], y: np.ndarray) -> tuple[list[np.ndarray], Int[np.ndarray, " video"]]:
    """Segments of each video, in the order in which videos come, and the label of each."""
    if len(videos) != n or y.shape != (n,):
        raise InputError(f"there are {n} segments, {len(videos)} videos and labels {y.shape}; give one of each.")
    found: dict[Hashable, list[int]] = {}
    for place, video in enumerate(videos):
        found.setdefault(video, []).append(place)
    for video, at in found.items():
        if len(np.unique(y[at])) > 1:
            raise InputError(
                f"video {video!r} has segments labelled {np.unique(y[at]).tolist()}; its segments must all have the "
                "label of the video."
            )
    return [np.array(at) for at in found.values()], np.array([y[at[0]] for at in found.values()])


def _log(p: np.ndarray) -> np.ndarray:
    """Logarithms, as cross-entropies of torch cut at -100."""
    with np.errstate(divide="ignore"):
        return np.maximum(np.log(p), -100.0)
