"""What a cell of a heatmap shows besides its colour: no such head, no score, not significant, below the centre."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float

from headprobe.plotting.canvas import ink, size_in_points

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

__all__ = ["hatch", "show_gaps", "show_sign"]

_NOT_SCORED = "#d9d9d9"
_ROOM = 9  # points that a cell must have for a dash
_NEAR = 0.05  # of the range to either side: what lies closer to the centre has next to no colour


def show_gaps(ax: Axes, values: Float[np.ndarray, "layer head"]) -> bool:
    """Draw what has no score: heads that a layer does not have are left blank behind a line, others crossed out.

    A layer ends at its last head with a score.

    Parameters
    ----------
    ax
        Where the map is drawn.
    values
        Scores.

    Returns
    -------
    bool
        Whether a head was crossed out.

    Examples
    --------
    >>> from headprobe.plotting.canvas import new_axes
    >>> show_gaps(new_axes(3, 2), np.array([[1.0, 2.0], [3.0, np.nan]]))
    False
    """
    from matplotlib.patches import Rectangle

    n_layers, n_heads = values.shape
    there = np.isfinite(values)
    ends = np.where(there.any(1), n_heads - there[:, ::-1].argmax(1), 0)
    if (ends < n_heads).any():
        edges = np.arange(n_layers + 1) - 0.5
        ax.stairs(ends - 0.5, edges, orientation="horizontal", baseline=None, color=ink(ax), lw=0.8, zorder=3)
    rows, columns = np.nonzero(~there & (np.arange(n_heads) < ends[:, None]))
    for row, column in zip(rows, columns, strict=True):
        ax.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fc=_NOT_SCORED, ec="none", zorder=0.5))
    if rows.size:
        width, height = size_in_points(ax)
        size = min(width / n_heads, height / n_layers)
        ax.scatter(
            columns,
            rows,
            s=(0.5 * size) ** 2,
            marker="x",
            color="#808080",
            linewidths=0.8,
            label="no score",
        )
    return bool(rows.size)


def hatch(ax: Axes, cells: Bool[np.ndarray, "layer head"], rgba: Float[np.ndarray, "layer head 4"], label: str) -> None:
    """Hatch cells, dark on light ones and light on dark ones.

    Parameters
    ----------
    ax
        Where the map is drawn.
    cells
        Which.
    rgba
        The colours of the map.
    label
        What the hatching means, for a legend.

    Examples
    --------
    >>> from headprobe.plotting.canvas import new_axes
    >>> ax = new_axes(3, 2)
    >>> hatch(ax, np.array([[True, False]]), np.ones((1, 2, 4)), "not significant")
    >>> [patch.get_hatch() for patch in ax.patches]
    ['////']
    """
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    width, height = size_in_points(ax)
    lines = "////" if min(width / cells.shape[1], height / cells.shape[0]) > 16 else "//////"
    light = rgba[..., :3] @ np.array([0.2126, 0.7152, 0.0722]) > 0.4
    corners = np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5), (-0.5, -0.5)])
    codes = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY]
    for chosen, colour in ((cells & light, "#404040"), (cells & ~light, "#e0e0e0")):
        places = np.argwhere(chosen)[:, ::-1]
        if not len(places):
            continue
        path = Path((places[:, None] + corners).reshape(-1, 2), codes * len(places))
        patch = PathPatch(path, fc="none", ec=colour, lw=0, hatch=lines, zorder=2, label=label)
        if hasattr(patch, "set_hatch_linewidth"):  # from matplotlib 3.10 on; else it is that of the theme
            patch.set_hatch_linewidth(0.7)
        ax.add_patch(patch)


def show_sign(ax: Axes, values: Float[np.ndarray, "layer head"], image: AxesImage, named: Collection[tuple]) -> int:
    """Put a dash on cells below the centre of a diverging scale, whose two halves look alike without colours.

    There is none where the cells are too small for it, on a cell that has a name, nor close to the centre.

    Parameters
    ----------
    ax
        Where the map is drawn, at its final size.
    values
        Scores.
    image
        The painted map; its range must have a centre.
    named
        Row and column of cells with a name.

    Returns
    -------
    int
        Number of dashes.

    Examples
    --------
    >>> from matplotlib.colors import CenteredNorm
    >>> from headprobe.plotting.canvas import new_axes
    >>> ax, values = new_axes(3, 2), np.array([[1.0, -1.0], [-0.01, 0.5]])
    >>> show_sign(ax, values, ax.imshow(values, norm=CenteredNorm(0), cmap="PuOr"), ())
    1
    """
    from matplotlib.colors import CenteredNorm

    n_layers, n_heads = values.shape
    width, height = size_in_points(ax)
    size = min(width / n_heads, height / n_layers)
    if size < _ROOM:
        return 0
    norm = image.norm
    assert isinstance(norm, CenteredNorm)
    assert norm.halfrange is not None
    low = np.isfinite(values) & (values < norm.vcenter - _NEAR * norm.halfrange)
    places = [place for place in zip(*np.nonzero(low), strict=True) if place not in named]
    if places:
        rows, columns = np.array(places).T
        colors = np.asarray(image.cmap(norm(values[rows, columns])))
        bright = colors[:, :3] @ (0.299, 0.587, 0.114) > 0.45
        dashes = np.where(bright, "#202020", "#ffffff")
        ax.scatter(columns, rows, s=(0.3 * size) ** 2, marker="_", c=dashes, lw=1.0, zorder=2)
    return len(places)
