"""What the plots share: a figure without pyplot, sizes in points, and marks that colour-blind readers tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
    """Axes in a figure of their own, `width` by `height` inches, that pyplot does not keep."""
    return floating_figure(width, height).subplots()


def floating_figure(width: float, height: float) -> Any:
    """A figure, `width` by `height` inches, that pyplot does not keep; larger under a theme of larger words."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    more = max(small() / _SMALL, 1.0)
    figure = Figure(figsize=(width * more, height * more), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def small() -> float:
    """Size in points of small text under the theme in use."""
    from matplotlib.font_manager import FontProperties

    return float(FontProperties(size="small").get_size_in_points())


def ink(ax: Axes) -> Any:
    """The colour of the theme's text, for lines and words that stand on the page or in an empty part of the plot."""
    return ax.xaxis.label.get_color()


def settle(ax: Axes) -> None:
    """Let the figure's layout engine, if there is one, place its Axes now, so that their sizes hold."""
    figure: Any = ax.figure.figure  # of a subfigure, the figure; of a figure, itself
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)


def size_in_points(ax: Axes) -> tuple[float, float]:
    """Width and height of the Axes in points (1/72 inch), as the figure stands now."""
    box, dpi = ax.get_window_extent(), ax.figure.dpi
    return float(72 * box.width / dpi), float(72 * box.height / dpi)


def below(ax: Axes, points: float) -> Any:
    """A transform like `ax.transAxes`, moved down by a number of points (up if negative)."""
    from matplotlib.transforms import ScaledTranslation

    return ax.transAxes + ScaledTranslation(0, -points / 72, ax.figure.dpi_scale_trans)


def under_axis(ax: Axes) -> float:
    """Points from the lower edge of the Axes to below the horizontal axis' numbers and name."""
    numbers = [float(label.get_fontsize()) for label in ax.get_xticklabels()]
    points = 7 + 1.25 * max(numbers, default=0.0)
    if ax.get_xlabel():
        points += ax.xaxis.labelpad + 1.25 * float(ax.xaxis.label.get_fontsize())
    return float(points)


def legend_below(ax: Axes, handles: Sequence[Any] | None = None, *, columns: int | None = None) -> Any:
    """A legend without a frame beneath the horizontal axis, where it covers nothing."""
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
    """Take away the lines around the plot that carry no numbers, and the theme's grid."""
    for side in sides:
        ax.spines[side].set_visible(False)
    ax.grid(False)


_GLYPH = 0.66  # width of a capital or digit over the size of its font


def name_points(
    ax: Axes,
    points: Sequence[tuple[float, float, str]],
    size: tuple[float, float] = (6.0, 6.0),
    *,
    others: Float[np.ndarray, "other 2"] | None = None,
    inside: bool = False,
    settled: bool = False,
) -> None:
    """Write a name at each point, in the order given: the first takes the best place."""
    if not points:
        return
    if not settled:
        settle(ax)
    font = small()
    area = size_in_points(ax)
    middles = _in_points(ax, np.array([(x, y) for x, y, _ in points], float))
    marks = _boxes(middles, size)
    crowd = np.empty((0, 4)) if others is None else _boxes(_in_points(ax, np.asarray(others, float)), (3.0, 3.0))
    taken, lines = np.empty((0, 4)), np.empty((0, 4))
    for (x, y, text), middle in zip(points, middles, strict=True):
        box = (_GLYPH * font * len(text) + 3, 1.5 * font)
        at, shrink = np.zeros(2), 0.0
        if not inside or box[0] + 4 > size[0] or box[1] + 4 > size[1]:
            at = _place(middle, size, box, marks, taken, crowd, lines, area)
            lines = np.vstack([lines, _boxes(middle + np.linspace(0.2, 0.8, 7)[:, None] * at, (1.0, 1.0))])
            # The line ends where the mark begins, so that it hides nothing of it.
            far = float(np.hypot(*at))
            shrink = far * min(size[0] / 2 / max(abs(at[0]), 1e-9), size[1] / 2 / max(abs(at[1]), 1e-9))
        taken = np.vstack([taken, _boxes((middle + at)[None], box)])
        _write(ax, (x, y, text), (float(at[0]), float(at[1])), shrink=shrink, line=shrink > 0)


def name_at_right(ax: Axes, ends: Sequence[tuple[float, str, Any]]) -> None:
    """Write names to the right of the Axes, each at its height or as near as the others allow."""
    if not ends:
        return
    settle(ax)
    font = small()
    order = sorted(range(len(ends)), key=lambda i: _in_points(ax, np.array([[0.0, ends[i][0]]]))[0, 1])
    heights = np.array([_in_points(ax, np.array([[0.0, ends[i][0]]]))[0, 1] for i in order])
    placed = _spread(heights, 1.25 * font)
    for i, height, at in zip(order, heights, placed, strict=True):
        y, text, colour = ends[i]
        ax.annotate(
            text,
            (1, y),
            xycoords=("axes fraction", "data"),
            xytext=(14, float(at - height)),
            textcoords="offset points",
            va="center",
            fontsize=font,
            color=ink(ax),
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.9, "shrinkA": 0, "shrinkB": 0, "relpos": (0, 0.5)},
        )


def name_in_rows(ax: Axes, points: Sequence[tuple[float, float, str]]) -> None:
    """Write names in a row above marks that stand along the lower edge, in more rows where one has no room."""
    if not points:
        return
    settle(ax)
    font = small()
    ordered = sorted(points, key=lambda point: point[0])
    at = _in_points(ax, np.array([(x, y) for x, y, _ in ordered], float))
    wide = _GLYPH * font * max(len(text) for _, _, text in ordered) + 8
    width = size_in_points(ax)[0]
    n_rows = int(np.ceil(len(ordered) * wide / max(width, wide)))
    base = float(at[:, 1].max()) + 1.6 * font
    for row in range(n_rows):
        mine = list(range(row, len(ordered), n_rows))
        placed = _spread(at[mine, 0], wide)
        placed -= max(placed[-1] + wide / 2 - width, 0)
        placed += max(wide / 2 - placed[0], 0)
        for i, x in zip(mine, placed, strict=True):
            offset = (float(x - at[i, 0]), float(base + row * 1.9 * font - at[i, 1]))
            _write(ax, ordered[i], offset, shrink=0.0, line=True)


def _write(
    ax: Axes, point: tuple[float, float, str], offset: tuple[float, float], *, shrink: float, line: bool
) -> None:
    """A name in a white box, with a line to what it names."""
    ax.annotate(
        point[2],
        point[:2],
        xytext=offset,
        textcoords="offset points",
        ha="center",
        va="center",
        fontsize=small(),
        color=INK,
        zorder=6,
        annotation_clip=False,
        bbox={"boxstyle": "round,pad=0.15", "fc": "white", "ec": INK, "lw": 0.5},
        arrowprops={"arrowstyle": "-", "color": INK, "lw": 0.9, "shrinkA": 0, "shrinkB": shrink} if line else None,
    )


def _spread(heights: np.ndarray, distance: float) -> np.ndarray:
    """Ascending heights moved as little as needed (least squares) to stand at least a distance apart."""
    from scipy.optimize import isotonic_regression

    steps = distance * np.arange(len(heights))
    return np.asarray(isotonic_regression(heights - steps).x) + steps


def _in_points(ax: Axes, data: np.ndarray) -> np.ndarray:
    """Data coordinates as points from the lower left corner of the Axes."""
    corner = ax.get_window_extent()
    return (ax.transData.transform(data) - (corner.x0, corner.y0)) * 72 / ax.figure.dpi


def _boxes(middles: np.ndarray, size: tuple[float, float]) -> np.ndarray:
    """Boxes (left, bottom, right, top) of one size around their middles."""
    half = np.array(size) / 2
    return np.hstack([middles - half, middles + half])


def _place(
    middle: np.ndarray,
    size: tuple[float, float],
    box: tuple[float, float],
    marks: np.ndarray,
    taken: np.ndarray,
    crowd: np.ndarray,
    lines: np.ndarray,
    area: tuple[float, float],
) -> np.ndarray:
    """The offset in points of a name from the middle of what it names."""
    w, h = box
    best, least = np.zeros(2), np.inf
    for reach in (5.0, 5.0 + h, 5.0 + 2 * h, 5.0 + 4 * h):
        dx, dy = size[0] / 2 + w / 2 + reach, size[1] / 2 + h / 2 + reach
        for offset in ((dx, 0), (-dx, 0), (0, dy), (0, -dy), (dx, dy), (-dx, dy), (dx, -dy), (-dx, -dy)):
            here = _boxes((middle + offset)[None], box)[0]
            outside = here[0] < 0 or here[1] < 0 or here[2] > area[0] or here[3] > area[1]
            cost = 1000 * outside + 100 * _met(here, taken) + 30 * _met(here, marks) + 3 * _met(here, crowd)
            # Its line crosses no name, and it covers no other's line.
            way = _boxes(middle + np.linspace(0.2, 1.0, 7)[:, None] * offset, (1.0, 1.0))
            cost += 60 * any(_met(one, taken) for one in way) + 15 * _met(here, lines) + 0.1 * reach
            if cost < least:
                best, least = np.array(offset, float), cost
    return best


def _met(box: np.ndarray, boxes: np.ndarray) -> int:
    """How many boxes a box overlaps."""
    apart = (boxes[:, :2] >= box[2:]) | (boxes[:, 2:] <= box[:2])
    return int((~apart.any(1)).sum())
