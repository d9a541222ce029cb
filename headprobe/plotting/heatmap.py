"""A score for each head as a map: layers upwards, heads across; and several maps side by side."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from headprobe.errors import InputError
from headprobe.heads import Head, HeadSet
from headprobe.plotting.canvas import BLUE, VERMILION, new_axes, settle, small
from headprobe.plotting.cells import beyond, color_bar, color_norm, finish, paint
from headprobe.plotting.maps import Map, as_map, best, on_map, same_cells

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from xarray import DataArray

__all__ = ["heatmap"]


def heatmap(
    score_map: DataArray | Float[np.ndarray, "layer head"],
    mark: HeadSet | Iterable[Head | str | tuple[int, int]] | None = None,
    annotate_top: int = 0,
    ax: Axes | None = None,
    title: str | None = None,
    *,
    p_values: DataArray | Float[np.ndarray, "layer head"] | None = None,
    alpha: float = 0.05,
    marginals: bool = False,
    label: str | None = None,
    cmap: str | None = None,
    vmin: float | None = None,
    vmax: float | None = None,
    center: float | None = None,
    colorbar: bool = True,
) -> Axes:
    """Draw a score map with layer 0 at the bottom, a colour bar, and the chosen heads outlined and named.

    Parameters
    ----------
    score_map
        Scores [layer, head]: an xarray.DataArray with these dimensions, whose coordinates give the numbers of
        layers and heads, or a numpy array, which starts at layer 0 and head 0. NaN means no score: behind a
        layer's last score it is left blank, as heads that this layer does not have (layers can differ in their
        heads, and a layer can have none); before it, the cell is grey with a cross.
    mark
        Heads to outline and name, for example the expert heads.
    annotate_top
        Name this many of the highest heads too, with a dotted outline.
    ax
        Where to draw; a figure of its own if not given.
    title
        Title of the Axes.
    p_values
        p- or q-values of the same heads: those above `alpha` are hatched, as not significant. The legend calls
        them by the DataArray's name.
    alpha
        Level of significance.
    marginals
        Whether to draw each layer's highest and mean score beside the map. These Axes are the last of
        ``ax.child_axes``.
    label
        What the scores are, at the colour bar; the DataArray's name and, in brackets, its ``attrs["units"]`` if not
        given.
    cmap
        A matplotlib colour map. By default viridis, which keeps its order in grey and for colour-blind readers, and
        with a `center` PuOr, which diverges.
    vmin, vmax
        Range of the colours; that of the scores if not given.
    center
        A value that gets the middle colour, for scores with a sign. Cells below it carry a dash where there is room,
        for print without colours.
    colorbar
        Whether to draw the colour bar. It belongs to ``ax.images[0]``.

    Returns
    -------
    Axes

    Raises
    ------
    InputError
        If the map is not two-dimensional [layer, head], has no finite score, a head to mark is not on it, the p-values
        are not those of its heads, or `alpha` is not between 0 and 1.

    Examples
    --------
    >>> ax = heatmap(np.arange(12.0).reshape(3, 4), mark=["L2H3"], label="RSS")
    >>> ax.get_xlabel(), ax.get_ylabel(), [text.get_text() for text in ax.texts]
    ('head', 'layer', ['L2H3'])
    """
    shown = as_map(score_map)
    marked, top = on_map(mark, shown), best(shown, annotate_top)
    weak = _not_significant(shown, p_values, alpha)
    n_layers, n_heads = shown.values.shape
    if ax is None:
        cell = float(np.clip(8.0 / max(n_layers, n_heads), 0.11, 0.5))
        width = max(n_heads * cell, 2.4) * (1.25 if marginals else 1.0)
        ax = new_axes(width + 1.7, max(n_layers * cell, 1.8) + 1.1 + 0.2 * (weak is not None))
    if cmap is None:
        cmap = "viridis" if center is None else "PuOr"
    image = paint(ax, shown, cmap, color_norm(shown.values, vmin, vmax, center))
    if title is not None:
        ax.set_title(title)
    if marginals:
        _marginals(ax, shown)
    if colorbar:
        color_bar(ax, image, shown.label(label), extend=beyond(shown.values, image))
    settle(ax)
    finish(ax, shown, marked, top, weak)
    return ax


def _not_significant(shown: Map, p_values: Any, alpha: float) -> tuple[np.ndarray, str] | None:
    """The cells to hatch, if that was asked for, and what the hatching means."""
    if not 0 < alpha < 1:
        raise InputError(f"alpha must be between 0 and 1, got {alpha!r}")
    if p_values is None:
        return None
    p = same_cells(p_values, shown, "p-values")
    name = str(getattr(p_values, "name", None) or "p")
    name = "p" if name == "score" else name  # as `headprobe.scores.score_map` calls what it is not told the name of
    return np.isfinite(shown.values) & (p > alpha), f"not significant: {name} > {alpha:g}"


def _marginals(ax: Axes, shown: Map) -> None:
    """Highest and mean score of each layer, on the map's rows."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a layer without any score has neither
        highest, mean = np.nanmax(shown.values, 1), np.nanmean(shown.values, 1)
    side = ax.inset_axes((1.02, 0, 0.2, 1), sharey=ax)
    rows = np.arange(len(shown.layers))
    size = 3.5 if len(rows) <= 40 else 2.0
    side.plot(mean, rows, color=BLUE, marker="o", ms=size, lw=1, label="mean")
    side.plot(highest, rows, color=VERMILION, marker=">", ms=size, lw=1, ls=(0, (4, 1.5)), label="highest")
    side.tick_params(axis="y", left=False, labelleft=False)
    side.tick_params(axis="x", labelsize=small())
    side.locator_params(axis="x", nbins=2)
    side.grid(False)
    side.grid(axis="x", color="#e4e4e4", lw=0.8)
    side.set_axisbelow(True)
    for edge in ("top", "right"):
        side.spines[edge].set_visible(False)
    side.legend(
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        frameon=False,
        fontsize=small(),
        borderaxespad=0.2,
        borderpad=0,
        handlelength=1.6,
        labelspacing=0.2,
    )
