"""What the plots share: a figure without pyplot, sizes in points, and marks that colour-blind readers tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "BLUE",
    "GREEN",
    "GREY",
    "INK",
    "SERIES",
    "VERMILION",
    "Series",
    "below",
    "floating_figure",
    "ink",
    "legend_below",
    "new_axes",
    "plain_frame",
    "settle",
    "size_in_points",
    "small",
    "under_axis",
]

# From the palette of Okabe and Ito (2008), "Color universal design".
BLUE, VERMILION, GREEN = "#0072B2", "#D55E00", "#009E73"
INK, GREY = "#222222", "#767676"
_SMALL = 8.33  # points of small words without a theme


class Series(NamedTuple):
    """How one of several curves is drawn; no two share colour, marker and dashes, so that none needs colour."""

    color: str
    marker: str
    linestyle: Any


_COLOURS = (BLUE, VERMILION, GREEN, "#A0527E", "#B8860B", "#3B3B3B", "#2F9BD6")
SERIES = tuple(
    Series(colour, marker, dashes)
    for dashes, markers in (("-", "oDs^vPX"), ((0, (4, 1.5)), "sXoD^Pv"))
    for colour, marker in zip(_COLOURS, markers, strict=True)
)
"""Fourteen series: seven dark enough for lines on white, then the same colours dashed."""


def new_axes(width: float, height: float) -> Axes:
    """Axes in a figure of their own, `width` by `height` inches, that pyplot does not keep.

    Parameters
    ----------
    width, height
        Inches.

    Returns
    -------
    Axes

    Examples
    --------
    >>> new_axes(4, 3).figure.get_size_inches().tolist()
    [4.0, 3.0]
    """
    return floating_figure(width, height).subplots()


def floating_figure(width: float, height: float) -> Any:
    """A figure, `width` by `height` inches, that pyplot does not keep; larger under a theme of larger words.

    Parameters
    ----------
    width, height
        Inches, at matplotlib's own size of small words.

    Returns
    -------
    Figure

    Examples
    --------
    >>> floating_figure(4, 3).axes
    []
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    more = max(small() / _SMALL, 1.0)
    figure = Figure(figsize=(width * more, height * more), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def small() -> float:
    """Size in points of small text under the theme in use.

    Returns
    -------
    float

    Examples
    --------
    >>> 5 < small() < 20
    True
    """
    from matplotlib.font_manager import FontProperties

    return float(FontProperties(size="small").get_size_in_points())


def ink(ax: Axes) -> Any:
    """The colour of the theme's text, for lines and words that stand on the page or in an empty part of the plot.

    Parameters
    ----------
    ax
        The Axes.

    Returns
    -------
    A matplotlib colour.

    Examples
    --------
    >>> ink(new_axes(4, 3))
    'black'
    """
    return ax.xaxis.label.get_color()


def settle(ax: Axes) -> None:
    """Let the figure's layout engine, if there is one, place its Axes now, so that their sizes hold.

    Parameters
    ----------
    ax
        Axes of the figure.

    Examples
    --------
    >>> ax = new_axes(4, 3)
    >>> before = size_in_points(ax)
    >>> settle(ax)
    >>> size_in_points(ax) > before
    True
    """
    figure: Any = ax.figure.figure  # of a subfigure, the figure; of a figure, itself
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)


def size_in_points(ax: Axes) -> tuple[float, float]:
    """Width and height of the Axes in points (1/72 inch), as the figure stands now.

    Parameters
    ----------
    ax
        The Axes.

    Returns
    -------
    tuple of two floats

    Examples
    --------
    >>> width, height = size_in_points(new_axes(4, 3))
    >>> 100 < height < width < 4 * 72
    True
    """
    box, dpi = ax.get_window_extent(), ax.figure.dpi
    return float(72 * box.width / dpi), float(72 * box.height / dpi)


def below(ax: Axes, points: float) -> Any:
    """A transform like `ax.transAxes`, moved down by a number of points (up if negative).

    Parameters
    ----------
    ax
        The Axes.
    points
        1/72 inch.

    Returns
    -------
    matplotlib.transforms.Transform

    Examples
    --------
    >>> ax = new_axes(4, 3)
    >>> (ax.transAxes.transform((0, 0)) - below(ax, 72).transform((0, 0))).tolist() == [0, ax.figure.dpi]
    True
    """
    from matplotlib.transforms import ScaledTranslation

    return ax.transAxes + ScaledTranslation(0, -points / 72, ax.figure.dpi_scale_trans)


def under_axis(ax: Axes) -> float:
    """Points from the lower edge of the Axes to below the horizontal axis' numbers and name.

    Parameters
    ----------
    ax
        The Axes, with its name and numbers set.

    Returns
    -------
    float

    Examples
    --------
    >>> ax = new_axes(4, 3)
    >>> bare = under_axis(ax)
    >>> ax.set_xlabel("time (s)").get_text(), under_axis(ax) > bare
    ('time (s)', True)
    """
    numbers = [float(label.get_fontsize()) for label in ax.get_xticklabels()]
    points = 7 + 1.25 * max(numbers, default=0.0)
    if ax.get_xlabel():
        points += ax.xaxis.labelpad + 1.25 * float(ax.xaxis.label.get_fontsize())
    return float(points)


def legend_below(ax: Axes, handles: Sequence[Any] | None = None, *, columns: int | None = None) -> Any:
    """A legend without a frame beneath the horizontal axis, where it covers nothing.

    Parameters
    ----------
    ax
        The Axes, with its name and numbers set.
    handles
        Artists to explain; all that have a label if not given.
    columns
        Entries side by side; as many as the width carries if not given.

    Returns
    -------
    matplotlib.legend.Legend

    Examples
    --------
    >>> ax = new_axes(4, 3)
    >>> _ = ax.plot([0, 1], label="a")
    >>> [text.get_text() for text in legend_below(ax).get_texts()]
    ['a']
    """
    handles = ax.get_legend_handles_labels()[0] if handles is None else list(handles)
    if columns is None:
        longest = max(len(str(handle.get_label())) for handle in handles)
        fit = size_in_points(ax)[0] // (0.56 * small() * longest + 34)
        columns = int(min(max(fit, 1), len(handles)))
    return ax.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0, 0),
        bbox_transform=below(ax, under_axis(ax) + 3),
        ncols=columns,
        frameon=False,
        fontsize=small(),
        borderaxespad=0,
        borderpad=0,
        columnspacing=1.4,
    )


def plain_frame(ax: Axes, sides: Sequence[str] = ("top", "right")) -> None:
    """Take away the lines around the plot that carry no numbers, and the theme's grid.

    Parameters
    ----------
    ax
        The Axes.
    sides
        Lines to hide.

    Examples
    --------
    >>> ax = new_axes(4, 3)
    >>> plain_frame(ax)
    >>> ax.spines["top"].get_visible(), ax.spines["left"].get_visible()
    (False, True)
    """
    for side in sides:
        ax.spines[side].set_visible(False)
    ax.grid(False)
