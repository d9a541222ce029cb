"""Results side by side: a dot for each detector, its spread, and what chance would give."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from headprobe.errors import InputError
from headprobe.plotting.canvas import BLUE, GREY, VERMILION, below, ink, new_axes, small, under_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["comparison"]

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
