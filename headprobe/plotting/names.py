"""Names beside what they name: near it, over nothing that counts, with a line where they stand apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from headprobe.plotting.canvas import INK, ink, settle, size_in_points, small

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["name_at_right", "name_in_rows", "name_points"]

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
    """Write a name at each point, in the order given: the first takes the best place.

    Set the limits and scales of the axes before.

    Parameters
    ----------
    ax
        Where to write.
    points
        (x, y, text) in data coordinates.
    size
        Width and height of what is named, in points (1/72 inch).
    others
        Further places that a name should not cover, in data coordinates.
    inside
        Whether a name stands in the middle of what it names where it fits.
    settled
        Whether the figure's layout holds already (`headprobe.plotting.canvas.settle`).

    Examples
    --------
    >>> from headprobe.plotting.canvas import new_axes
    >>> ax = new_axes(4, 3)
    >>> name_points(ax, [(0.5, 0.5, "L1H2"), (0.52, 0.5, "L0H3")])
    >>> [(text.get_text(), text.xy) for text in ax.texts]
    [('L1H2', (0.5, 0.5)), ('L0H3', (0.52, 0.5))]
    """
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
    """Write names to the right of the Axes, each at its height or as near as the others allow.

    Set the limits and scales of the axes before.

    Parameters
    ----------
    ax
        Where to write.
    ends
        (y, text, colour), y in data coordinates; a line of this colour leads to the name.

    Examples
    --------
    >>> from headprobe.plotting.canvas import new_axes
    >>> ax = new_axes(4, 3)
    >>> name_at_right(ax, [(0.5, "L1H2", "C0"), (0.5, "L0H3", "C1")])
    >>> low, high = (text.get_position()[1] for text in ax.texts)
    >>> high - low > 5
    True
    """
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
    """Write names in a row above marks that stand along the lower edge, in more rows where one has no room.

    Set the limits and scales of the axes before.

    Parameters
    ----------
    ax
        Where to write.
    points
        (x, y, text), in data coordinates the upper end of each mark; a line leads from there to its name.

    Examples
    --------
    >>> from headprobe.plotting.canvas import new_axes
    >>> ax = new_axes(4, 3)
    >>> name_in_rows(ax, [(0.52, 0.1, "L1H2"), (0.5, 0.1, "L0H3")])
    >>> [text.get_text() for text in ax.texts]
    ['L0H3', 'L1H2']
    """
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
