"""What the plots share: a figure without pyplot, and colours that stay apart for colour-blind readers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["BLUE", "GREEN", "GREY", "INK", "VERMILION", "below", "new_axes", "size_in_points"]

# From the palette of Okabe and Ito (2008), "Color universal design".
BLUE, VERMILION, GREEN = "#0072B2", "#D55E00", "#009E73"
INK, GREY = "#222222", "#767676"


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
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure.subplots()


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
