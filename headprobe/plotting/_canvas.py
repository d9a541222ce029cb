"""What the plots share: a figure without pyplot, sizes in points, and marks that colour-blind readers tell apart."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# From the palette of Okabe and Ito (2008), "Color universal design".
BLUE, VERMILION, GREEN = "#0072B2", "#D55E00", "#009E73"
INK, GREY = "#222222", "#767676"
_COLOURS = (BLUE, VERMILION, GREEN, "#A0527E", "#B8860B", "#3B3B3B", "#2F9BD6")
_SMALL = 8.33  # points of small words without a theme
_NAME = 100  # what it costs to cover a name, over 3 for a mark among others
_GLYPH = 0.66  # width of a capital or digit over the size of its font


class Series(NamedTuple):
    """How one of several curves is drawn; no two share colour, marker and dashes, so that none needs colour."""

    color: str
    marker: str
    linestyle: Any


SERIES = tuple(
    Series(colour, marker, dashes)
    for dashes, markers in (("-", "oDs^vPX"), ((0, (4, 1.5)), "sXoD^Pv"))
    for colour, marker in zip(_COLOURS, markers, strict=True)
)
"""Fourteen series: seven dark enough for lines on white, then the same colours dashed."""


class _ShownFigure(Figure):
    """A figure that shows itself as the last value of a cell, whatever the notebook does about pyplot."""

    def _repr_png_(self) -> bytes:
        with io.BytesIO() as file:
            self.savefig(file, format="png", dpi=100, bbox_inches="tight")
            return file.getvalue()


class _ShownAxes(Axes):
    """Axes that show their figure as the last value of a cell."""

    def _repr_png_(self) -> bytes:
        figure: Any = self.figure.figure
        return figure._repr_png_()


class ShownDict(dict[Any, Axes]):
    """Axes of one figure by name, which show it as the last value of a cell."""

    def _repr_png_(self) -> bytes | None:
        shown = getattr(next(iter(self.values()), None), "_repr_png_", None)
        return shown() if shown else None


def new_axes(width: float, height: float) -> Axes:
    """Axes in a figure of their own, `width` by `height` inches, that pyplot does not keep."""
    return subplots(floating_figure(width, height)).item()


def subplots(figure: Figure, rows: int = 1, columns: int = 1) -> np.ndarray:
    """A grid of Axes that show their figure."""
    return figure.subplots(rows, columns, squeeze=False, subplot_kw={"axes_class": _ShownAxes})


def floating_figure(width: float, height: float) -> Any:
    """A figure, `width` by `height` inches, that pyplot does not keep; larger under a theme of larger words."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    more = max(small() / _SMALL, 1.0)
    figure = _ShownFigure(figsize=(width * more, height * more), layout="constrained")
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


def legend_below(
    ax: Axes, handles: Sequence[Any] | None = None, *, columns: int | None = None, above: bool = False
) -> Any:
    """A legend without a frame beneath the horizontal axis, or above the plot, where it covers nothing."""
    from matplotlib.transforms import ScaledTranslation

    handles = ax.get_legend_handles_labels()[0] if handles is None else list(handles)
    if columns is None:
        longest = max(len(str(handle.get_label())) for handle in handles)
        fit = size_in_points(ax)[0] // (0.56 * small() * longest + 34)
        columns = int(min(max(fit, 1), len(handles)))
    down = -4 if above else under_axis(ax) + 3
    return ax.legend(
        handles=handles,
        loc="lower left" if above else "upper left",
        bbox_to_anchor=(0, int(above)),
        bbox_transform=ax.transAxes + ScaledTranslation(0, -down / 72, ax.figure.dpi_scale_trans),
        ncols=columns,
        frameon=False,
        fontsize=small(),
        borderaxespad=0,
        borderpad=0,
        columnspacing=1.4,
    )


def under_axis(ax: Axes) -> float:
    """Points from the lower edge of the Axes to below the horizontal axis' numbers and name."""
    numbers = [float(label.get_fontsize()) for label in ax.get_xticklabels()]
    points = 7 + 1.25 * max(numbers, default=0.0)
    if ax.get_xlabel():
        points += ax.xaxis.labelpad + 1.25 * float(ax.xaxis.label.get_fontsize())
    return float(points)


def plain_frame(ax: Axes, sides: Sequence[str] = ("top", "right"), title: str | None = None) -> None:
    """Take away the lines around the plot that carry no numbers, and the theme's grid; write the title at the left."""
    for side in sides:
        ax.spines[side].set_visible(False)
    ax.grid(False)
    if title is not None:
        ax.set_title(title, loc="left")


def chance_line(ax: Axes, chance: float | None, *, upright: bool = False, words: str = "chance ({:g})") -> None:
    """A dashed line at the score that chance gives, if it is known."""
    if chance is not None:
        draw = ax.axvline if upright else ax.axhline
        draw(chance, color=ink(ax), lw=1, ls=(0, (4, 3)), label=words.format(chance), zorder=1)


def name_points(
    ax: Axes,
    points: Sequence[tuple[float, float, str]],
    size: tuple[float, float] = (8.0, 8.0),
    *,
    others: Float[np.ndarray, "other 2"] | None = None,
    inside: bool = False,
    settled: bool = False,
) -> None:
    """Write a name at each point, in the order given: inside its mark if it fits, else beside it with a line to it."""
    if not points:
        return
    if not settled:
        settle(ax)
    font, area, marks = small(), np.array(size_in_points(ax)), np.array(size)
    middles = _in_points(ax, np.array([(x, y) for x, y, _ in points], float))
    crowd = np.empty((0, 2)) if others is None else _in_points(ax, np.asarray(others, float))
    boxes = np.vstack([_boxes(middles, marks), _boxes(crowd, 3.0)])
    costs = np.repeat([30, 3], [len(middles), len(crowd)])
    for point, middle in zip(points, middles, strict=True):
        box = np.array([_GLYPH * font * len(point[2]) + 3, 1.5 * font])
        at, shrink = np.zeros(2), 0.0
        if not inside or (box + 4 > marks).any():
            at = _place(middle, (marks + box) / 2, box, boxes, costs, area)
            way = _boxes(middle + np.linspace(0.2, 0.8, 7)[:, None] * at, 1.0)
            boxes, costs = np.vstack([boxes, way]), np.append(costs, [15] * 7)
            # The line ends where the mark begins, so that it hides nothing of it.
            shrink = float(np.hypot(*at) * (marks / 2 / np.maximum(np.abs(at), 1e-9)).min())
        boxes, costs = np.vstack([boxes, _boxes((middle + at)[None], box)]), np.append(costs, _NAME)
        _write(ax, point, at, shrink=shrink, line=shrink > 0)


def _place(
    middle: np.ndarray, reach: np.ndarray, box: np.ndarray, boxes: np.ndarray, costs: np.ndarray, area: np.ndarray
) -> np.ndarray:
    """The offset in points of a name: the nearest of 32 places that covers nothing, or the one that covers least."""

    def cost(place: tuple[float, tuple[int, int]]) -> float:
        offset = place[1] * (reach + place[0])
        here = _boxes((middle + offset)[None], box)[0]
        outside = bool((here[:2] < 0).any() or (here[2:] > area).any())
        way = _boxes(middle + np.linspace(0.2, 1.0, 7)[:, None] * offset, 1.0)
        crossed = any(_met(one, boxes[costs == _NAME]).any() for one in way)
        return 1000 * outside + 60 * crossed + 0.1 * place[0] + float(costs[_met(here, boxes)].sum())

    far = [5.0 + times * box[1] for times in (0, 1, 2, 4)]
    ways = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))
    distance, way = min(((a, b) for a in far for b in ways), key=cost)
    return way * (reach + distance)


def _met(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Which boxes a box overlaps."""
    return np.asarray(((boxes[:, :2] < box[2:]) & (boxes[:, 2:] > box[:2])).all(1))


def _boxes(middles: np.ndarray, size: Any) -> np.ndarray:
    """Boxes (left, bottom, right, top) of one size around their middles."""
    return np.hstack([middles - np.asarray(size) / 2, middles + np.asarray(size) / 2])


def name_at_right(ax: Axes, ends: Sequence[tuple[float, str, Any]]) -> None:
    """Write names to the right of the Axes, each at its height or as near as the others allow."""
    if not ends:
        return
    settle(ax)
    font = small()
    heights = _in_points(ax, np.array([(0.0, y) for y, _, _ in ends]))[:, 1]
    order = np.argsort(heights, kind="stable")
    for i, at in zip(order, _spread(heights[order], 1.25 * font), strict=True):
        y, text, colour = ends[i]
        ax.annotate(
            text,
            (1, y),
            xycoords=("axes fraction", "data"),
            xytext=(14, float(at - heights[i])),
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
            offset = np.array([x - at[i, 0], base + row * 1.9 * font - at[i, 1]])
            _write(ax, ordered[i], offset, shrink=0.0, line=True)


def _write(ax: Axes, point: tuple[float, float, str], offset: np.ndarray, *, shrink: float, line: bool) -> None:
    """A name in a white box, with a line to what it names."""
    ax.annotate(
        point[2],
        point[:2],
        xytext=tuple(offset.tolist()),
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
