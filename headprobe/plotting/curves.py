"""Curves: detectors compared, ROC and precision-recall, a score over a setting, scores over layers.

The functions stand in modules of their own and are imported here: `headprobe.plotting.curves`,
`headprobe.plotting.curves` and `headprobe.plotting.curves`.
"""

from __future__ import annotations

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
    below,
    ink,
    legend_below,
    name_points,
    new_axes,
    plain_frame,
    size_in_points,
    small,
    under_axis,
)
from headprobe.plotting._cells import as_map, best, check_scored, number_axis, on_map

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from xarray import DataArray

__all__ = ["comparison", "layers", "precision_recall", "roc", "sweep"]


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
    ax
        Where to draw; a figure of its own if not given.
    title
        Title of the Axes.
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
    named = _by_name(values)
    settings = sorted({x for one in named.values() for x in one})
    words, logarithmic = _SETTINGS.get(over, (over, False))
    logarithmic = logarithmic if log is None else log
    if logarithmic and settings[0] <= 0:
        raise InputError(f"the setting {settings[0]:g} cannot be on a logarithmic axis: use log=False")
    if ax is None:
        ax = new_axes(5.6, 3.6)
    several = False
    for number, (name, one) in enumerate(named.items()):
        style = SERIES[number % len(SERIES)]
        x = np.array(sorted(one))
        mean = np.array([np.mean(one[at]) for at in x])
        spread = np.array([np.std(one[at], ddof=1) if len(one[at]) > 1 else np.nan for at in x])
        ax.plot(x, mean, **style._asdict(), lw=1.8, ms=6, mec="white", mew=0.7, zorder=3, label=name or None)
        if np.isfinite(spread).any():
            several = True
            half = np.nan_to_num(spread)
            ax.fill_between(x, mean - half, mean + half, color=style.color, alpha=0.15, lw=0, zorder=1)
            for at in x:
                ax.scatter([at] * len(one[at]), one[at], s=9, color=style.color, alpha=0.35, lw=0, zorder=2)
    if chance is not None:
        ax.axhline(chance, color=ink(ax), lw=1, ls=(0, (4, 3)), label=f"chance ({chance:g})", zorder=1)
    if chosen is not None:
        ax.axvline(chosen, color=ink(ax), lw=1.2, ls=":", label=f"chosen: {chosen:g}", zorder=1)
    _setting_axis(ax, settings, logarithmic)
    ax.set_xlabel(words)
    ax.set_ylabel(label + (" (mean ± 1 SD)" if several else ""))
    if title is not None:
        ax.set_title(title, loc="left")
    plain_frame(ax)
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
    mark
        Heads to draw larger and to name.
    annotate_top
        Name this many of the highest heads too.
    ax
        Where to draw; a figure of its own if not given.
    title
        Title of the Axes.
    label
        What the scores are; the DataArray's name if not given.
    chance
        Score that chance gives, for a line.

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
    shown = as_map(score_map, "a plot over layers")
    marked, top = on_map(mark, shown), best(shown, annotate_top)
    check_scored(marked, shown)
    n_layers = len(shown.layers)
    if ax is None:
        ax = new_axes(float(np.clip(0.28 * n_layers + 2.0, 5.2, 9.0)), 3.4)
    rows, columns = np.nonzero(np.isfinite(shown.values))
    scores = shown.values[rows, columns]
    ax.scatter(rows, scores, s=14 if n_layers <= 40 else 6, color="#8f8f8f", alpha=0.6, lw=0, zorder=1.5)
    there = [row for row in range(n_layers) if row in set(rows.tolist())]
    mean = [float(np.nanmean(shown.values[row])) for row in there]
    highest = [float(np.nanmax(shown.values[row])) for row in there]
    size = 5 if n_layers <= 40 else 3
    ax.plot(there, mean, color=BLUE, marker="o", ms=size, lw=1.5, label="mean of the layer", zorder=2)
    ax.plot(there, highest, color=VERMILION, marker="^", ms=size, lw=1.5, ls=(0, (4, 1.5)), label="highest", zorder=2)
    if marked:
        at = [(row, shown.values[row, column]) for row, column, _ in marked]
        ax.scatter(*np.array(at).T, s=58, marker="D", color=GREEN, ec="white", lw=0.8, zorder=3, label="marked")
    if chance is not None:
        ax.axhline(chance, color=ink(ax), lw=1, ls=(0, (4, 3)), label=f"chance ({chance:g})", zorder=1)
    ax.margins(y=0.12)
    ax.set_xlim(-0.6, n_layers - 0.4)
    number_axis(ax.xaxis, shown.layers, size_in_points(ax)[0])
    ax.set_xlabel("layer")
    ax.set_ylabel(shown.label(label))
    if title is not None:
        ax.set_title(title, loc="left")
    plain_frame(ax)
    legend_below(ax)
    named = [*marked, *(one for one in top if one not in marked)]
    points = [(float(row), float(shown.values[row, column]), head.label) for row, column, head in named]
    name_points(ax, points, (8, 8), others=np.column_stack([rows, scores]).astype(float))
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
    low, high = settings[0], settings[-1]
    places = [np.log(x) for x in settings] if logarithmic else list(settings)
    width = size_in_points(ax)[0] / ((places[-1] - places[0]) or 1.0)
    kept = [0]
    for number in range(1, len(settings)):
        if (places[number] - places[kept[-1]]) * width >= 26:
            kept.append(number)
    ax.set_xticks([settings[i] for i in kept], labels=[f"{settings[i]:g}" for i in kept])
    if logarithmic:
        room = (high / low) ** 0.05 if high > low else 1.3
        ax.set_xlim(low / room, high * room)
    else:
        room = 0.05 * (high - low) or 0.5
        ax.set_xlim(low - room, high + room)


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


_MARKS = (("o", BLUE), ("D", VERMILION))


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
        From top to bottom: mappings with "name" and the value, and its spread under the value's key with
        "_sd" added (absent or None: no bar). A value that is absent, None or NaN is drawn as "not measured".
    ax
        Where to draw; a figure of its own if not given.
    title
        Title of the Axes.
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
    points = {key: np.array([_number(row.get(key)) for row in rows]) for key in keys}
    spread = {key: np.array([_number(row.get(f"{key}_sd")) for row in rows]) for key in keys}
    for key in keys:
        if not np.isfinite(points[key]).any():
            raise InputError(f"no row has a value for {key!r}; the rows have the keys {_keys(rows)}")
    names = dict(names or {})
    if ax is None:
        ax = new_axes(7.2, 0.9 + (0.3 if second is None else 0.4) * len(rows) + (0.3 if title else 0))

    at = np.arange(len(rows), dtype=float)
    if chance is not None:
        ax.axvline(chance, color=ink(ax), lw=1, ls=(0, (4, 3)), zorder=1, label=f"chance ({chance:g})")
    low, high = [np.inf if chance is None else chance], [-np.inf if chance is None else chance]
    for number, key in enumerate(keys):
        shift = 0.0 if second is None else (-0.17, 0.17)[number]
        marker, colour = _MARKS[number]
        known = np.isfinite(points[key])
        bars = np.where(np.isfinite(spread[key]), spread[key], 0.0)
        ax.errorbar(
            points[key][known],
            at[known] + shift,
            xerr=bars[known],
            fmt=marker,
            color=colour,
            ms=6,
            mfc=colour if number == 0 else "white",
            mew=1.5,
            lw=1.5,
            capsize=3,
            zorder=3,
            label=names.get(key, key) + (" ± 1 SD" if bars.any() else ""),
        )
        low.append(float((points[key] - bars)[known].min()))
        high.append(float((points[key] + bars)[known].max()))
        for y, x, bar in zip(at + shift, points[key], spread[key], strict=True):
            text = "not measured" if np.isnan(x) else f"{x:.3f}" + (f" ± {bar:.3f}" if np.isfinite(bar) else "")
            ax.annotate(
                text,
                (1, y),
                xycoords=("axes fraction", "data"),
                xytext=(6, 0),
                textcoords="offset points",
                va="center",
                fontsize=small(),
                color=GREY if np.isnan(x) else ink(ax),
                annotation_clip=False,
            )
    room = 0.06 * (max(high) - min(low)) or 0.05
    ax.set_xlim(min(low) - room, max(high) + room)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_yticks(at, labels=labels)
    for tick in ax.get_yticklabels():
        if tick.get_text() in highlight:
            tick.set_fontweight("bold")
    ax.tick_params(axis="y", length=0)
    ax.grid(False)
    ax.grid(axis="y", color="#e4e4e4", lw=0.8)
    ax.set_axisbelow(True)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    ax.set_xlabel(names.get(value, value) if second is None else "")
    if title is not None:
        ax.set_title(title, loc="left")
    if second is not None or chance is not None:
        ax.legend(
            loc="upper left",
            bbox_to_anchor=(0, 0),
            bbox_transform=below(ax, under_axis(ax) + 3),
            frameon=False,
            fontsize=small(),
            ncols=3,
            borderaxespad=0,
            borderpad=0,
        )
    return ax


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _keys(rows: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(sorted({str(key) for row in rows for key in row})) or "none"
