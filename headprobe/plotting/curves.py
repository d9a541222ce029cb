"""Curves: detectors compared, ROC and precision-recall, a score over a setting, scores over layers."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from headprobe.errors import InputError
from headprobe.heads import Head, HeadSet
from headprobe.plotting._canvas import (
    BLUE,
    GREEN,
    GREY,
    SERIES,
    VERMILION,
    chance_line,
    ink,
    legend_below,
    name_points,
    new_axes,
    plain_frame,
    size_in_points,
    small,
)
from headprobe.plotting._cells import as_map, marked_and_named, number_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from xarray import DataArray

__all__ = ["comparison", "layers", "precision_recall", "roc", "sweep"]

_MARKERS = 9  # of a curve, so that it is told apart without colour
_MARKS = (("o", BLUE), ("D", VERMILION))  # of the values of a comparison
_SETTINGS = {
    "calibration_size": ("calibration videos", True),
    "k": ("number of heads k", True),
    "lambda": ("instability penalty λ", False),
}
Repeats = float | Sequence[float] | np.ndarray


def sweep(
    values: Mapping[float, Repeats] | Mapping[str, Mapping[float, Repeats]],
    ax: Axes | None = None,
    title: str | None = None,
    *,
    over: str = "k",
    label: str = "score",
    chosen: float | None = None,
    chance: float | None = None,
    log: bool | None = None,
) -> Axes:
    """Draw a score over a setting: the mean of its repeats, a standard deviation to each side, and every repeat.

    Parameters
    ----------
    values
        Setting to score, or to the scores of its repeats (draws, seeds, folds); or name to such a mapping, for several
        methods. NaN is left out.
    ax, title
        Where to draw, a figure of its own if not given; title of the Axes.
    over
        What the setting is: ``calibration_size`` and ``k``, whose axis is logarithmic, ``lambda``, or other words for
        the axis, which is then linear.
    label
        What the scores are.
    chosen
        The setting that was used, for a line.
    chance
        Score that chance gives, for a line.
    log
        Whether the axis of settings is logarithmic, if not as `over` says.

    Returns
    -------
    Axes
        ``ax.containers`` is empty; the lines of means carry the names as labels.

    Raises
    ------
    InputError
        There is nothing to draw, or a setting cannot be on a logarithmic axis.

    Examples
    --------
    >>> ax = sweep({1: [0.8, 0.9], 5: [0.9, 0.94]}, over="k", label="AUC", chosen=5)
    >>> ax.get_xlabel(), ax.lines[0].get_ydata().round(3).tolist()
    ('number of heads k', [0.85, 0.92])
    """
    import seaborn

    named = _by_name(values)
    settings = sorted({x for one in named.values() for x in one})
    words, logarithmic = _SETTINGS.get(over, (over, False))
    logarithmic = logarithmic if log is None else log
    if logarithmic and settings[0] <= 0:
        raise InputError(f"the setting {settings[0]:g} cannot be on a logarithmic axis: use log=False")
    ax = new_axes(5.6, 3.6) if ax is None else ax
    several = False
    for number, (name, one) in enumerate(named.items()):
        style = SERIES[number % len(SERIES)]
        x, y = np.repeat(list(one), [len(scores) for scores in one.values()]), np.concatenate(list(one.values()))
        repeated = len(x) > len(one)
        several = several or repeated
        look: Any = {**style._asdict(), "lw": 1.8, "ms": 6, "mec": "white", "mew": 0.7, "zorder": 3}
        band = {"errorbar": "sd" if repeated else None, "err_kws": {"alpha": 0.15, "lw": 0}}
        seaborn.lineplot(x=x, y=y, **look, **band, label=name or None, legend=False, ax=ax)
        if repeated:
            ax.scatter(x, y, s=9, color=style.color, alpha=0.35, lw=0, zorder=2)
    chance_line(ax, chance)
    if chosen is not None:
        ax.axvline(chosen, color=ink(ax), lw=1.2, ls=":", label=f"chosen: {chosen:g}", zorder=1)
    _setting_axis(ax, settings, logarithmic)
    ax.set(xlabel=words, ylabel=label + (" (mean ± 1 SD)" if several else ""))
    plain_frame(ax, title=title)
    if ax.get_legend_handles_labels()[0]:
        legend_below(ax)
    return ax


def layers(
    score_map: DataArray | Float[np.ndarray, "layer head"],
    mark: HeadSet | Iterable[Head | str | tuple[int, int]] | None = None,
    annotate_top: int = 0,
    ax: Axes | None = None,
    title: str | None = None,
    *,
    label: str | None = None,
    chance: float | None = None,
) -> Axes:
    """Draw the score of every head over its layer, with each layer's mean and highest score.

    Parameters
    ----------
    score_map
        As in `headprobe.plotting.heatmap.heatmap`; heads without a score are left out.
    mark, annotate_top
        Heads to draw larger and to name, and how many of the highest to name too.
    ax, title, chance
        As in `sweep`.
    label
        What the scores are; the DataArray's name if not given.

    Returns
    -------
    Axes
        ``ax.collections[0]`` are the heads; the lines are mean and highest.

    Raises
    ------
    InputError
        As in `heatmap`, or a head to mark has no score.

    Examples
    --------
    >>> ax = layers(np.array([[0.1, 0.9], [0.4, 0.2]]), annotate_top=1)
    >>> ax.lines[0].get_ydata().round(2).tolist(), [text.get_text() for text in ax.texts]
    ([0.5, 0.3], ['L0H1'])
    """
    import seaborn

    shown = as_map(score_map, "a plot over layers")
    marked, named = marked_and_named(shown, mark, annotate_top)
    n_layers = len(shown.layers)
    ax = new_axes(float(np.clip(0.28 * n_layers + 2.0, 5.2, 9.0)), 3.4) if ax is None else ax
    few = n_layers <= 40
    rows, columns = np.nonzero(np.isfinite(shown.values))
    scores = shown.values[rows, columns]
    data: Any = {"x": rows, "y": scores, "ax": ax, "legend": False}
    seaborn.scatterplot(**data, s=14 if few else 6, color="#8f8f8f", alpha=0.6, lw=0, zorder=1.5)
    lines: Any = {**data, "errorbar": None, "mec": "auto", "ms": 5 if few else 3, "lw": 1.5, "zorder": 2}
    seaborn.lineplot(**lines, estimator="mean", color=BLUE, marker="o", label="mean of the layer")
    seaborn.lineplot(**lines, estimator="max", color=VERMILION, marker="^", linestyle=(0, (4, 1.5)), label="highest")
    if marked:
        at = np.array([(row, shown.values[row, column]) for row, column, _ in marked])
        ax.scatter(*at.T, s=58, marker="D", color=GREEN, ec="white", lw=0.8, zorder=3, label="marked")
    chance_line(ax, chance)
    ax.margins(y=0.12)
    ax.set_xlim(-0.6, n_layers - 0.4)
    number_axis(ax.xaxis, shown.layers, size_in_points(ax)[0])
    ax.set(xlabel="layer", ylabel=shown.label(label))
    plain_frame(ax, title=title)
    legend_below(ax)
    points = [(float(row), float(shown.values[row, column]), head.label) for row, column, head in named]
    name_points(ax, points, others=np.column_stack([rows, scores]).astype(float))
    return ax


def _by_name(values: Mapping[Any, Any]) -> dict[str, dict[float, np.ndarray]]:
    """Name (empty for a single curve) to setting to its finite scores."""
    if not isinstance(values, Mapping) or not values:
        raise InputError("a sweep needs a mapping from setting to scores, or from name to such mappings")
    several = [isinstance(one, Mapping) for one in values.values()]
    if any(several) and not all(several):
        raise InputError("some values are mappings and some are scores: give either all curves by name or one curve")
    named: dict[str, dict[float, np.ndarray]] = {}
    for name, one in (values if all(several) else {"": values}).items():
        curve = {}
        for setting, scores in one.items():
            array = np.atleast_1d(np.asarray(scores, np.float64)).ravel()
            array = array[np.isfinite(array)]
            if array.size:
                curve[float(setting)] = array
        if not curve:
            raise InputError(f"there is no score to draw{f' for {name!r}' if name else ''}")
        named[str(name)] = curve
    return named


def _setting_axis(ax: Axes, settings: Sequence[float], logarithmic: bool) -> None:
    """Ticks at the settings themselves, as many as have room."""
    from matplotlib.ticker import NullLocator

    if logarithmic:
        ax.set_xscale("log")
        ax.xaxis.set_minor_locator(NullLocator())
    places = np.log(settings) if logarithmic else np.asarray(settings)
    width = size_in_points(ax)[0] / ((places[-1] - places[0]) or 1.0)
    kept = [0]
    for number in range(1, len(settings)):
        if (places[number] - places[kept[-1]]) * width >= 26:
            kept.append(number)
    ax.set_xticks([settings[i] for i in kept], labels=[f"{settings[i]:g}" for i in kept])
    room = 0.05 * (places[-1] - places[0]) or (0.26 if logarithmic else 0.5)
    limits = np.array([places[0] - room, places[-1] + room])
    ax.set_xlim(*(np.exp(limits) if logarithmic else limits))


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
        `[example]`, higher for the positive class, finite; or a mapping from the name of each detector to its scores.
        For the frames of several videos, put them end to end.
    truth
        `[example]`, 0 or 1, both of which occur.
    ax, title
        Where to draw, a figure of its own if not given; title of the Axes.
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
        _draw(ax, number, false, true, name, f"AUC {roc_auc_score(y, values):.3f}")
        above = _above(values, tau, name)
        if above is not None:
            _dot(ax, number, above[y == 0].mean(), above[y == 1].mean())
    ax.plot([0, 1], [0, 1], color=ink(ax), lw=1, ls=(0, (4, 3)), label="chance", zorder=1)
    return _finish(ax, title, "false positive rate", "true positive rate", "lower right")


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
    for number, (name, values) in enumerate(curves.items()):
        precision, recall, _ = precision_recall_curve(y, values, drop_intermediate=True)
        _draw(ax, number, recall, precision, name, f"AP {average_precision_score(y, values):.3f}", "steps-post")
        above = _above(values, tau, name)
        if above is not None and above.any():
            _dot(ax, number, above[y == 1].mean(), y[above].mean())
    chance_line(ax, float(y.mean()), words="chance ({:.3f})")
    return _finish(ax, title, "recall", "precision", "best")


def _checked(scores: ArrayLike | Mapping[str, ArrayLike], truth: ArrayLike) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Scores by name (empty for a single detector) and labels."""
    y = np.asarray(truth)
    if y.ndim != 1 or not np.isin(y, (0, 1)).all() or len(np.unique(y)) < 2:
        values = textwrap.shorten(str(np.unique(y)[:4].tolist()), 80, placeholder="...")
        raise InputError(
            f"truth must be 0 or 1 for each example, with both among them; got shape {y.shape} with the values {values}"
        )
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


def _above(values: np.ndarray, tau: float | Mapping[str, float] | None, name: str) -> np.ndarray | None:
    """Which scores reach the threshold in use, where there is one."""
    level = tau.get(name) if isinstance(tau, Mapping) else tau
    return None if level is None else values >= level


def _draw(
    ax: Axes, number: int, x: np.ndarray, y: np.ndarray, name: str, words: str, drawstyle: Any = "default"
) -> None:
    # Marks at even distances along the curve, beginning elsewhere for each, so that they do not hide each other.
    marks: Any = {"ms": 5, "mec": "white", "mew": 0.5, "markevery": (0.02 * (number % 5), 1 / _MARKERS)}
    label = f"{name}: {words}" if name else words
    ax.plot(x, y, **SERIES[number % len(SERIES)]._asdict(), lw=1.7, **marks, label=label, drawstyle=drawstyle)


def _dot(ax: Axes, number: int, x: float, y: float) -> None:
    ax.plot([x], [y], "o", ms=9, mfc="none", mec=SERIES[number % len(SERIES)].color, mew=2, zorder=4)


def _finish(ax: Axes, title: str | None, x: str, y: str, place: Any) -> Axes:
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal", xlabel=x, ylabel=y)
    plain_frame(ax, title=title)
    ax.legend(frameon=False, fontsize=small(), loc=place)
    return ax


def comparison(
    rows: Sequence[Mapping[str, Any]],
    ax: Axes | None = None,
    title: str | None = None,
    *,
    value: str = "auc",
    second: str | None = None,
    names: Mapping[str, str] | None = None,
    chance: float | None = 0.5,
    highlight: Collection[str] = (),
) -> Axes:
    """Draw a line for each row: a dot at its value, a standard deviation to each side, and the number.

    Parameters
    ----------
    rows
        From top to bottom: mappings with "name" and the value, and under the value's key with "_low" and "_high"
        added its interval, or with "_sd" its spread (absent or None: no bar). A value that is absent, None or NaN is
        drawn as "not measured".
    ax, title
        Where to draw, a figure of its own if not given; title of the Axes.
    value
        Key of the value.
    second
        Key of a second value to draw beneath, as a hollow diamond, for example "held_out_auc".
    names
        What to call the values at the axis and in the legend; for example {"auc": "frame AUC"}.
    chance
        Where to draw the line of chance, None for none.
    highlight
        Names of rows to set in bold.

    Returns
    -------
    Axes

    Raises
    ------
    InputError
        If there are no rows, two have one name, or no row has the value.

    Examples
    --------
    >>> ax = comparison([{"name": "hunted", "auc": 0.91, "auc_sd": 0.02}, {"name": "random", "auc": 0.85}])
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['hunted', 'random']
    """
    keys = [value] if second is None else [value, second]
    labels = [str(row["name"]) for row in rows]
    if len(set(labels)) != len(labels):
        twice = sorted({label for label in labels if labels.count(label) > 1})
        raise InputError(f"every row needs a name of its own, used twice: {', '.join(twice)}")
    # As numbers, None and what is missing are NaN.
    points = {key: np.array([row.get(key) for row in rows], float) for key in keys}
    spread = {key: np.array([_reach(row, key) for row in rows], float).T for key in keys}
    for key in keys:
        if not np.isfinite(points[key]).any():
            known = ", ".join(sorted({str(name) for row in rows for name in row})) or "none"
            raise InputError(f"no row has a value for {key!r}; the rows have the keys {known}")
    names = dict(names or {})
    ax = new_axes(7.2, 0.9 + (0.3 if second is None else 0.4) * len(rows) + 0.3 * bool(title)) if ax is None else ax

    at = np.arange(len(rows), dtype=float)
    chance_line(ax, chance, upright=True)
    ends = [] if chance is None else [chance]
    for number, key in enumerate(keys):
        y = at + (0.0 if second is None else (-0.17, 0.17)[number])
        marker, colour = _MARKS[number]
        known, bars = np.isfinite(points[key]), np.nan_to_num(spread[key])
        ax.errorbar(
            points[key][known],
            y[known],
            xerr=bars[:, known],
            fmt=marker,
            color=colour,
            ms=6,
            mfc=colour if number == 0 else "white",
            mew=1.5,
            lw=1.5,
            capsize=3,
            zorder=3,
            label=names.get(key, key) + _spread_words(rows, key, bool(bars.any())),
        )
        ends += [*(points[key] - bars[0])[known], *(points[key] + bars[1])[known]]
        for height, x, (below, above) in zip(y, points[key], spread[key].T, strict=True):
            ax.annotate(
                "not measured" if np.isnan(x) else f"{x:.3f}{_spread_text(x, below, above)}",
                (1, height),
                xycoords=("axes fraction", "data"),
                xytext=(6, 0),
                textcoords="offset points",
                va="center",
                fontsize=small(),
                color=GREY if np.isnan(x) else ink(ax),
                annotation_clip=False,
            )
    room = 0.06 * (max(ends) - min(ends)) or 0.05
    ax.set(xlim=(min(ends) - room, max(ends) + room), ylim=(len(rows) - 0.5, -0.5))
    ax.set_yticks(at, labels=labels)
    for tick in ax.get_yticklabels():
        if tick.get_text() in highlight:
            tick.set_fontweight("bold")
    ax.tick_params(axis="y", length=0)
    plain_frame(ax, ("top", "right", "left"), title=title)
    ax.grid(axis="y", color="#e4e4e4", lw=0.8)
    ax.set_axisbelow(True)
    ax.set_xlabel(names.get(value, value) if second is None else "")
    if second is not None or chance is not None:
        legend_below(ax, columns=3)
    return ax


def _reach(row: Mapping[str, Any], key: str) -> tuple[float, float]:
    """How far the bar of a row goes below and above its value; NaN for no bar."""
    low, high = row.get(f"{key}_low"), row.get(f"{key}_high")
    if low is not None and high is not None:
        return row[key] - low, high - row[key]
    return (math.nan, math.nan) if row.get(f"{key}_sd") is None else (row[f"{key}_sd"],) * 2


def _spread_words(rows: Sequence[Mapping[str, Any]], key: str, drawn: bool) -> str:
    if not drawn:
        return ""
    return " with its interval" if any(row.get(f"{key}_low") is not None for row in rows) else " ± 1 SD"


def _spread_text(x: float, below: float, above: float) -> str:
    if not np.isfinite(below):
        return ""
    return f" ± {below:.3f}" if below == above else f" ({x - below:.3f} to {x + above:.3f})"
