"""The cells of a heatmap: colours, gaps, hatching, outlines with names, numbers at the edges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool

from headprobe.plotting.canvas import INK, legend_below, size_in_points, small
from headprobe.plotting.maps import Map, Place
from headprobe.plotting.names import name_points
from headprobe.plotting.textures import hatch, show_gaps, show_sign

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.image import AxesImage

__all__ = ["beyond", "color_bar", "color_norm", "finish", "hatch", "number_axis", "outline", "paint", "show_gaps"]


def paint(ax: Axes, shown: Map, cmap: Any, norm: Normalize) -> AxesImage:
    """Draw the colours of a map, layer 0 at the bottom, and name the axes.

    Parameters
    ----------
    ax
        Where to draw.
    shown
        The map.
    cmap, norm
        Colour map and range.

    Returns
    -------
    AxesImage

    Examples
    --------
    >>> from headprobe.plotting.canvas import new_axes
    >>> from headprobe.plotting.maps import as_map
    >>> one = as_map(np.eye(2))
    >>> paint(new_axes(3, 2), one, "viridis", color_norm(one.values, None, None, None)).origin
    'lower'
    """
    image = ax.imshow(
        np.ma.masked_invalid(shown.values), origin="lower", aspect="auto", interpolation="nearest", cmap=cmap, norm=norm
    )
    ax.grid(False)
    ax.set_xlabel("head")
    ax.set_ylabel("layer")
    return image


def color_bar(ax: Axes, image: AxesImage, words: str, *, beside: Sequence[Axes] = (), extend: str = "neither") -> Any:
    """Draw a slim colour bar to the right.

    Parameters
    ----------
    ax
        Whose height it takes.
    image
        Whose colours it explains.
    words
        What they stand for.
    beside
        All Axes that it serves, if there are several.
    extend
        ``max`` for an arrow at the upper end: there are values above; ``min``, ``both`` or ``neither``.

    Returns
    -------
    matplotlib.colorbar.Colorbar

    Examples
    --------
    >>> from headprobe.plotting.canvas import new_axes
    >>> ax = new_axes(3, 2)
    >>> color_bar(ax, ax.imshow(np.eye(2)), "RSS").ax.get_ylabel()
    'RSS'
    """
    figure: Any = ax.figure
    # A layout that places colour bars keeps them off the Axes within `ax`, to its right; the others do not.
    engine = figure.figure.get_layout_engine()
    pad = 0.02 if not ax.child_axes or (engine is not None and not engine.adjust_compatible) else 0.28
    owners = list(beside) or [ax]
    tall = (max(a.get_position().y1 for a in owners) - min(a.get_position().y0 for a in owners)) * figure.bbox.height
    aspect = float(np.clip(tall / figure.dpi * 72 / 11, 10, 80))
    bar = figure.colorbar(image, ax=owners if len(owners) > 1 else owners[0], pad=pad, aspect=aspect, extend=extend)
    bar.set_label(words)
    bar.outline.set_visible(False)
    return bar


def finish(
    ax: Axes,
    shown: Map,
    marked: Sequence[Place] = (),
    top: Sequence[Place] = (),
    weak: tuple[Bool[np.ndarray, "layer head"], str] | None = None,
) -> None:
    """Draw what depends on the size of the cells: numbers, gaps, hatching, signs, outlines and names.

    Parameters
    ----------
    ax
        Axes with the painted map, at their final size.
    shown
        The map.
    marked, top
        Heads to outline and name, with a solid and with a dotted line.
    weak
        Cells to hatch, and what that means.

    Examples
    --------
    >>> from headprobe.plotting.canvas import new_axes
    >>> from headprobe.plotting.maps import as_map, on_map
    >>> ax, one = new_axes(3, 2), as_map(np.eye(2))
    >>> image = paint(ax, one, "viridis", color_norm(one.values, None, None, None))
    >>> finish(ax, one, on_map(["L0H0"], one))
    >>> [text.get_text() for text in ax.texts]
    ['L0H0']
    """
    from matplotlib.colors import CenteredNorm
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    width, height = size_in_points(ax)
    number_axis(ax.xaxis, shown.heads, width)
    number_axis(ax.yaxis, shown.layers, height)
    handles: list[Any] = []
    if weak is not None:
        image = ax.images[0]
        hatch(ax, weak[0], np.asarray(image.cmap(image.norm(shown.values))), weak[1])
        handles.append(Patch(fc="white", ec="#404040", hatch="////", lw=0.5, label=weak[1]))
    if show_gaps(ax, shown.values):
        handles.append(Line2D([], [], ls="none", marker="x", color="#808080", label="no score"))
    if handles:
        legend_below(ax, handles)
    named = [*marked, *(one for one in top if one not in marked)]
    if isinstance(ax.images[0].norm, CenteredNorm):
        show_sign(ax, shown.values, ax.images[0], {(row, column) for row, column, _ in named})
    for row, column, head in named:
        outline(ax, row, column, "-" if (row, column, head) in marked else ":")
    cell = (width / shown.values.shape[1], height / shown.values.shape[0])
    name_points(
        ax, [(float(column), float(row), head.label) for row, column, head in named], cell, inside=True, settled=True
    )


def color_norm(values: np.ndarray, vmin: float | None, vmax: float | None, center: float | None) -> Normalize:
    """From scores to 0..1 for the colours.

    Parameters
    ----------
    values
        Scores; NaN is left out.
    vmin, vmax
        Range; that of the scores if None.
    center
        The value in the middle; None for none.

    Returns
    -------
    matplotlib.colors.Normalize

    Examples
    --------
    >>> norm = color_norm(np.array([-1.0, 3.0]), None, None, center=0.0)
    >>> [float(norm(value)) for value in (-3, 0, 3)]
    [0.0, 0.5, 1.0]
    """
    from matplotlib.colors import CenteredNorm, Normalize

    finite = values[np.isfinite(values)]
    low = float(finite.min() if vmin is None else vmin)
    high = float(finite.max() if vmax is None else vmax)
    if center is not None:
        return CenteredNorm(center, max(high - center, center - low) or 1.0)
    return Normalize(low, high)


def beyond(values: np.ndarray, image: AxesImage) -> str:
    """Say on which side of the colours' range there are scores, which then get the colour of its end.

    Parameters
    ----------
    values
        Scores; NaN is left out.
    image
        Whose colours they get.

    Returns
    -------
    str
        ``neither``, ``min``, ``max`` or ``both``, as `color_bar` takes it.

    Examples
    --------
    >>> from headprobe.plotting.canvas import new_axes
    >>> beyond(np.array([0.2, 0.9]), new_axes(3, 2).imshow(np.eye(2), vmin=0.5, vmax=1.0))
    'min'
    """
    finite = values[np.isfinite(values)]
    low, high = (float(end) for end in image.get_clim() if end is not None)
    # A range that the scores themselves have set may miss them by rounding.
    slack = 1e-9 * max(abs(low), abs(high))
    below, above = bool((finite < low - slack).any()), bool((finite > high + slack).any())
    return {(False, False): "neither", (True, False): "min", (False, True): "max"}.get((below, above), "both")


def outline(ax: Axes, row: int, column: int, style: str) -> None:
    """Outline a cell by a dark line inside a white one, which stands out on every colour of the map.

    Around a cell of few points, the line keeps off what it shows.

    Parameters
    ----------
    ax
        Where the map is drawn.
    row, column
        The cell.
    style
        Line style of the dark line.

    Examples
    --------
    >>> from headprobe.plotting.canvas import new_axes
    >>> ax = new_axes(3, 2)
    >>> outline(ax, 0, 0, "-")
    >>> len(ax.patches)
    2
    """
    from matplotlib.patches import Rectangle

    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    width, height = size_in_points(ax)
    x, y = abs(right - left) / width, abs(top - bottom) / height  # cells to a point
    room = 1.8 if min(1 / x, 1 / y) < 12 else 0.0
    for colour, line_width, line in (("white", 3.2, "-"), (INK, 1.4, style)):
        ax.add_patch(
            Rectangle(
                (column - 0.5 - room * x, row - 0.5 - room * y),
                1 + 2 * room * x,
                1 + 2 * room * y,
                fill=False,
                ec=colour,
                lw=line_width,
                ls=line,
                zorder=4,
                clip_on=False,
            )
        )


def number_axis(axis: Any, numbers: Sequence[int], points: float) -> None:
    """Put whole numbers at an even distance, as many as the space carries.

    Parameters
    ----------
    axis
        ``ax.xaxis`` or ``ax.yaxis``.
    numbers
        The number of each cell.
    points
        Length of the axis in points.

    Examples
    --------
    >>> from headprobe.plotting.canvas import new_axes
    >>> ax = new_axes(3, 2)
    >>> number_axis(ax.xaxis, range(64), 100)
    >>> [label.get_text() for label in ax.get_xticklabels()]
    ['0', '16', '32', '48']
    """
    fit = max(int(points / (2.2 * small())), 1)
    step = next(s for s in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 4096) if len(numbers) / s <= fit or s == 4096)
    axis.set_ticks(range(0, len(numbers), step), labels=[str(n) for n in numbers[::step]])
    axis.set_tick_params(length=2, labelsize=small())
