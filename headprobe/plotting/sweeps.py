"""A score over a setting - calibration size, number of heads, penalty - and scores over layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from headprobe.errors import InputError
from headprobe.heads import Head, HeadSet
from headprobe.plotting.canvas import (
    BLUE,
    GREEN,
    SERIES,
    VERMILION,
    ink,
    legend_below,
    new_axes,
    plain_frame,
    size_in_points,
)
from headprobe.plotting.cells import number_axis
from headprobe.plotting.maps import as_map, best, check_scored, on_map
from headprobe.plotting.names import name_points

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from xarray import DataArray

__all__ = ["layers", "sweep"]

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
