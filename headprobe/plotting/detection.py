"""Detectors at every threshold: ROC and precision-recall curves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from headprobe.errors import InputError
from headprobe.plotting.canvas import SERIES, ink, new_axes, plain_frame, small

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["precision_recall", "roc"]

_MARKERS = 9  # of a curve, so that it is told apart without colour


def roc(
    scores: ArrayLike | Mapping[str, ArrayLike],
    truth: ArrayLike,
    ax: Axes | None = None,
    title: str | None = None,
    *,
    tau: float | Mapping[str, float] | None = None,
) -> Axes:
    """Draw the true against the false positive rate over all thresholds, with the area under each curve.

    Parameters
    ----------
    scores
        `[example]`, higher is more abnormal, finite; or a mapping from the name of each detector to its scores. For
        the frames of several videos, put them end to end.
    truth
        `[example]`, 0 or 1, both of which occur.
    ax
        Where to draw; a figure of its own if not given.
    title
        Title of the Axes.
    tau
        Threshold in use, or one for each name: a dot where the detector stands, counting scores of `tau` as positive.

    Returns
    -------
    Axes
        One line for each detector, in order; the open dots of `tau`; and the line of chance.

    Raises
    ------
    InputError
        Scores that are not finite or not as many as the labels, labels other than 0 and 1, or of one class only.

    Examples
    --------
    >>> ax = roc({"heads": [0.1, 0.4, 0.35, 0.8], "text": [0.4, 0.1, 0.3, 0.2]}, [0, 0, 1, 1])
    >>> ax.get_legend_handles_labels()[1]
    ['heads: AUC 0.750', 'text: AUC 0.500', 'chance']
    """
    from sklearn.metrics import roc_auc_score, roc_curve

    curves, y = _checked(scores, truth)
    ax = new_axes(4.4, 4.4) if ax is None else ax
    for number, (name, values) in enumerate(curves.items()):
        false, true, _ = roc_curve(y, values)
        words = f"AUC {roc_auc_score(y, values):.3f}"
        _draw(ax, number, false, true, f"{name}: {words}" if name else words)
        level = tau.get(name) if isinstance(tau, Mapping) else tau
        if level is not None:
            above = values >= level
            _dot(ax, number, float(above[y == 0].mean()), float(above[y == 1].mean()))
    ax.plot([0, 1], [0, 1], color=ink(ax), lw=1, ls=(0, (4, 3)), label="chance", zorder=1)
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    ax.set(xlabel="false positive rate", ylabel="true positive rate")
    return _finish(ax, title, "lower right")


def precision_recall(
    scores: ArrayLike | Mapping[str, ArrayLike],
    truth: ArrayLike,
    ax: Axes | None = None,
    title: str | None = None,
    *,
    tau: float | Mapping[str, float] | None = None,
) -> Axes:
    """Draw precision against recall over all thresholds, with the average precision of each curve.

    The curves are steps: between two thresholds no precision in between is reached.

    Parameters
    ----------
    scores, truth, ax, title, tau
        As in `roc`.

    Returns
    -------
    Axes
        As in `roc`; chance is the share of positives.

    Raises
    ------
    InputError
        As in `roc`.

    Examples
    --------
    >>> ax = precision_recall([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1])
    >>> ax.get_legend_handles_labels()[1]
    ['AP 0.833', 'chance (0.500)']
    """
    from sklearn.metrics import average_precision_score, precision_recall_curve

    curves, y = _checked(scores, truth)
    ax = new_axes(4.4, 4.4) if ax is None else ax
    share = float(y.mean())
    for number, (name, values) in enumerate(curves.items()):
        precision, recall, _ = precision_recall_curve(y, values, drop_intermediate=True)
        words = f"AP {average_precision_score(y, values):.3f}"
        _draw(ax, number, recall, precision, f"{name}: {words}" if name else words, drawstyle="steps-post")
        level = tau.get(name) if isinstance(tau, Mapping) else tau
        if level is not None and (values >= level).any():
            above = values >= level
            _dot(ax, number, float(above[y == 1].mean()), float(y[above].mean()))
    ax.axhline(share, color=ink(ax), lw=1, ls=(0, (4, 3)), label=f"chance ({share:.3f})", zorder=1)
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    ax.set(xlabel="recall", ylabel="precision")
    return _finish(ax, title, "best")


def _checked(scores: ArrayLike | Mapping[str, ArrayLike], truth: ArrayLike) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Scores by name (empty for a single detector) and labels."""
    y = np.asarray(truth)
    if y.ndim != 1 or not np.isin(y, (0, 1)).all() or len(np.unique(y)) < 2:
        raise InputError(f"truth must be 0 or 1 for each example, with both among them; got {_briefly(y)}")
    named = dict(scores) if isinstance(scores, Mapping) else {"": scores}
    if not named:
        raise InputError("there are no scores to draw")
    curves = {}
    for name, values in named.items():
        array = np.asarray(values, np.float64)
        what = f"the scores of {name!r}" if name else "the scores"
        if array.shape != y.shape:
            raise InputError(f"{what} have the shape {array.shape}, but there are {len(y)} labels")
        if not np.isfinite(array).all():
            raise InputError(f"{what} hold {int((~np.isfinite(array)).sum())} values that are not finite")
        curves[str(name)] = array
    return curves, y.astype(int)


def _briefly(y: np.ndarray) -> str:
    values = str(np.unique(y)[:4].tolist())
    return f"shape {y.shape} with the values {values if len(values) <= 80 else values[:77] + '...'}"


def _draw(ax: Axes, number: int, x: np.ndarray, y: np.ndarray, label: str, drawstyle: str = "default") -> None:
    style = SERIES[number % len(SERIES)]
    # Marks at even distances along the curve, beginning elsewhere for each, so that they do not hide each other.
    every = (0.02 * (number % 5), 1 / _MARKERS)
    ax.plot(
        x, y, **style._asdict(), lw=1.7, ms=5, mec="white", mew=0.5, markevery=every, label=label, drawstyle=drawstyle
    )


def _dot(ax: Axes, number: int, x: float, y: float) -> None:
    ax.plot([x], [y], "o", ms=9, mfc="none", mec=SERIES[number % len(SERIES)].color, mew=2, zorder=4)


def _finish(ax: Axes, title: str | None, place: Any) -> Axes:
    if title is not None:
        ax.set_title(title, loc="left")
    plain_frame(ax)
    ax.legend(frameon=False, fontsize=small(), loc=place)
    return ax
