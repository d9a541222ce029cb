"""The cells of a heatmap: colours, gaps, hatching, outlines with names, numbers at the edges."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from headprobe._validation import count
from headprobe.errors import InputError
from headprobe.heads import Head, HeadSet
from headprobe.plotting._canvas import INK, ink, legend_below, name_points, size_in_points, small
from headprobe.scores import _cut, _say_tied

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.collections import QuadMesh

_NOT_SCORED = "#d9d9d9"
_ROOM = 9  # points that a cell must have for a dash
_NEAR = 0.05  # of the range to either side: what lies closer to the centre has next to no colour
Place = tuple[int, int, Head]
"""Row, column and the head that is there."""


def show_gaps(ax: Axes, values: Float[np.ndarray, "layer head"]) -> bool:
    """Draw what has no score: heads that a layer does not have are left blank behind a line, others crossed out."""
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
        ax.scatter(columns, rows, s=(0.5 * size) ** 2, marker="x", color="#808080", linewidths=0.8)
    return bool(rows.size)


def hatch(ax: Axes, cells: Bool[np.ndarray, "layer head"], rgba: Float[np.ndarray, "layer head 4"]) -> None:
    """Hatch cells, dark on light ones and light on dark ones."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    width, height = size_in_points(ax)
    lines = "////" if min(width / cells.shape[1], height / cells.shape[0]) > 16 else "//////"
    light = rgba[..., :3] @ np.array([0.2126, 0.7152, 0.0722]) > 0.4
    corners = np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5), (-0.5, -0.5)])
    for chosen, colour in ((cells & light, "#404040"), (cells & ~light, "#e0e0e0")):
        squares = [Path(place + corners, closed=True) for place in np.argwhere(chosen)[:, ::-1]]
        if squares:
            patch = PathPatch(Path.make_compound_path(*squares), fc="none", ec=colour, lw=0, hatch=lines, zorder=2)
            if hasattr(patch, "set_hatch_linewidth"):  # from matplotlib 3.10 on; else it is that of the theme
                patch.set_hatch_linewidth(0.7)
            ax.add_patch(patch)


def show_sign(ax: Axes, values: Float[np.ndarray, "layer head"], image: Any, named: Collection[tuple]) -> None:
    """Put a dash on cells below the centre of a diverging scale, whose two halves look alike without colours."""
    width, height = size_in_points(ax)
    size = min(width / values.shape[1], height / values.shape[0])
    low = np.isfinite(values) & (values < image.norm.vcenter - _NEAR * image.norm.halfrange)
    places = [place for place in zip(*np.nonzero(low), strict=True) if place not in named]
    if size >= _ROOM and places:
        rows, columns = np.array(places).T
        bright = np.asarray(image.cmap(image.norm(values[rows, columns])))[:, :3] @ (0.299, 0.587, 0.114) > 0.45
        dashes = np.where(bright, "#202020", "#ffffff")
        ax.scatter(columns, rows, s=(0.3 * size) ** 2, marker="_", c=dashes, lw=1.0, zorder=2)


class Map(NamedTuple):
    """A score map without xarray."""

    values: Float[np.ndarray, "layer head"]
    layers: list[int]
    heads: list[int]
    name: str

    def label(self, given: str | None, otherwise: str = "score") -> str:
        """The words for an axis: those given, else the map's own."""
        return given if given is not None else self.name or otherwise


def as_map(score_map: Any, what: str = "a heatmap") -> Map:
    """Read a score map or an array."""
    from xarray import DataArray

    if not hasattr(score_map, "dims"):
        values = np.asarray(score_map, np.float64)
        if values.ndim != 2:
            raise InputError(f"{what} shows an array [layer, head], got shape {values.shape}")
        score_map = DataArray(values, dims=("layer", "head"))
    if set(score_map.dims) != {"layer", "head"}:
        raise InputError(
            f"{what} shows one map with the dimensions (layer, head), got {tuple(map(str, score_map.dims))}; "
            'choose one with .sel(metric=...) or .sel(prompt=...), or average with .mean("prompt")'
        )
    score_map = score_map.transpose("layer", "head")
    values, name, unit = np.asarray(score_map.values, np.float64), score_map.name or "", score_map.attrs.get("units")
    if not np.isfinite(values).any():
        raise InputError(f"the map of shape {values.shape} has no finite score to draw")
    layers, heads = ([int(n) for n in score_map[dim].values] for dim in ("layer", "head"))
    return Map(values, layers, heads, f"{name or 'score'} ({unit})" if unit else str(name))


def on_map(heads: HeadSet | Iterable[Head | str | tuple[int, int]] | None, shown: Map) -> list[Place]:
    """Rows and columns of heads."""
    rows = {layer: row for row, layer in enumerate(shown.layers)}
    columns = {head: column for column, head in enumerate(shown.heads)}
    found = []
    for one in HeadSet(heads if heads is not None else ()):
        if one.layer not in rows or one.head not in columns:
            raise InputError(
                f"{one} is to be marked, but the map has layers {shown.layers[0]} to {shown.layers[-1]} "
                f"and heads {shown.heads[0]} to {shown.heads[-1]}"
            )
        found.append((rows[one.layer], columns[one.head], one))
    return found


def best(shown: Map, k: int) -> list[Place]:
    """The highest heads, fewer where fewer have a score; ties go to the lower (layer, head)."""
    values = shown.values
    count(k, "annotate_top", 0, values.size)
    rows, columns = np.nonzero(np.isfinite(values))
    if not k or not len(rows):
        return []
    layers, heads = np.array(shown.layers)[rows], np.array(shown.heads)[columns]
    order, tied = _cut(values[rows, columns], layers, heads, k)
    named = [(int(rows[i]), int(columns[i]), Head(int(layers[i]), int(heads[i]))) for i in order[:k]]
    _say_tied(HeadSet([head for *_, head in named], tied=[(int(layers[i]), int(heads[i])) for i in tied]))
    return named


def same_cells(other: Any, shown: Map, what: str) -> Float[np.ndarray, "layer head"]:
    """Values of a second map that has to fit the first, head by head."""
    second = as_map(other, f"a map of {what}")
    if (second.layers, second.heads) != (shown.layers, shown.heads):
        raise InputError(
            f"the {what} are for {len(second.layers)} layers and {len(second.heads)} heads, the scores for "
            f"{len(shown.layers)} and {len(shown.heads)}, or their numbers differ: give them for the same heads"
        )
    missing = np.argwhere(np.isfinite(shown.values) & ~np.isfinite(second.values))
    if len(missing):
        head = Head(shown.layers[missing[0][0]], shown.heads[missing[0][1]])
        raise InputError(f"{len(missing)} heads have a score but none of the {what}, the first is {head}")
    return second.values


def marked_and_named(
    shown: Map, mark: HeadSet | Iterable[Head | str | tuple[int, int]] | None, annotate_top: int, *, gaps: bool = False
) -> tuple[list[Place], list[Place]]:
    """The heads to mark, and those to name: the marked ones and the highest; with `gaps`, some may have no score."""
    marked, top = on_map(mark, shown), best(shown, annotate_top)
    without = [head.label for row, column, head in marked if not np.isfinite(shown.values[row, column])]
    if without and not gaps:
        raise InputError(f"{', '.join(without)} is to be marked, but has no score")
    return marked, [*marked, *(one for one in top if one not in marked)]


def paint(
    ax: Axes,
    shown: Map,
    scale: np.ndarray,
    cmap: Any = None,
    vmin: float | None = None,
    vmax: float | None = None,
    center: float | None = None,
) -> QuadMesh:
    """Draw the colours of a map, layer 0 at the bottom, in the range of `scale`, and name the axes."""
    import seaborn
    from matplotlib.colors import CenteredNorm, Normalize
    from matplotlib.transforms import Affine2D

    low = float(np.nanmin(scale[np.isfinite(scale)]) if vmin is None else vmin)
    high = float(np.nanmax(scale[np.isfinite(scale)]) if vmax is None else vmax)
    if center is None:
        norm, cmap = Normalize(low, high), cmap or "viridis"
    else:
        norm, cmap = CenteredNorm(center, max(high - center, center - low) or 1.0), cmap or "PuOr"
    n_layers, n_heads = shown.values.shape
    figure: Any = ax.figure.figure
    visible = figure.get_visible()
    # seaborn renders a visible figure at every call, to turn labels that we do not let it write.
    figure.set_visible(False)
    seaborn.heatmap(shown.values, cmap=cmap, norm=norm, cbar=False, ax=ax, xticklabels=False, yticklabels=False)
    figure.set_visible(visible)
    image: Any = ax.collections[-1]
    # A cell stands at its own row and column, not between them, and layer 0 at the bottom.
    image.set_transform(Affine2D().translate(-0.5, -0.5) + ax.transData)
    ax.set(xlim=(-0.5, n_heads - 0.5), ylim=(-0.5, n_layers - 0.5), xlabel="head", ylabel="layer")
    ax.spines[:].set_visible(True)
    ax.grid(False)
    return image


def color_bar(ax: Axes, image: ScalarMappable, words: str, values: np.ndarray, *, beside: Sequence[Axes] = ()) -> None:
    """Draw a slim colour bar to the right, with an arrow at an end beyond which there are values."""
    figure: Any = ax.figure
    # A layout that places colour bars keeps them off the Axes within `ax`, to its right; the others do not.
    engine = figure.figure.get_layout_engine()
    pad = 0.02 if not ax.child_axes or (engine is not None and not engine.adjust_compatible) else 0.28
    owners = list(beside) or [ax]
    tall = (max(a.get_position().y1 for a in owners) - min(a.get_position().y0 for a in owners)) * figure.bbox.height
    aspect = float(np.clip(tall / figure.dpi * 72 / 11, 10, 80))
    finite = values[np.isfinite(values)]
    low, high = (float(end) for end in image.get_clim() if end is not None)
    # A range that the values themselves have set may miss them by rounding.
    slack = 1e-9 * max(abs(low), abs(high))
    beyond = (bool((finite < low - slack).any()), bool((finite > high + slack).any()))
    extend = {(True, False): "min", (False, True): "max", (True, True): "both"}.get(beyond, "neither")
    bar = figure.colorbar(image, ax=owners if len(owners) > 1 else owners[0], pad=pad, aspect=aspect, extend=extend)
    bar.set_label(words)
    bar.outline.set_visible(False)


def finish(
    ax: Axes,
    shown: Map,
    image: QuadMesh,
    marked: Sequence[Place],
    named: Sequence[Place],
    weak: tuple[Bool[np.ndarray, "layer head"], str] | None = None,
) -> None:
    """Draw what depends on the size of the cells: numbers, gaps, hatching, signs, outlines and names."""
    from matplotlib.colors import CenteredNorm
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    width, height = size_in_points(ax)
    number_axis(ax.xaxis, shown.heads, width)
    number_axis(ax.yaxis, shown.layers, height)
    handles: list[Any] = []
    if weak is not None:
        hatch(ax, weak[0], np.asarray(image.cmap(image.norm(shown.values))))
        handles.append(Patch(fc="white", ec="#404040", hatch="////", lw=0.5, label=weak[1]))
    if show_gaps(ax, shown.values):
        handles.append(Line2D([], [], ls="none", marker="x", color="#808080", label="no score"))
    if handles:
        legend_below(ax, handles)
    if isinstance(image.norm, CenteredNorm):
        show_sign(ax, shown.values, image, {(row, column) for row, column, _ in named})
    cell = np.array([width / len(shown.heads), height / len(shown.layers)])
    for place in named:
        _outline(ax, *place[:2], "-" if place in marked else ":", 1.8 / cell if cell.min() < 12 else np.zeros(2))
    names = [(float(column), float(row), head.label) for row, column, head in named]
    name_points(ax, names, (float(cell[0]), float(cell[1])), inside=True, settled=True)


def _outline(ax: Axes, row: int, column: int, style: str, room: np.ndarray) -> None:
    """Outline a cell by a dark line inside a white one, which stands out on every colour; with room around it."""
    from matplotlib.patches import Rectangle

    corner, size = np.array([column, row]) - 0.5 - room, 1 + 2 * room
    for colour, width, line in (("white", 3.2, "-"), (INK, 1.4, style)):
        ax.add_patch(Rectangle(tuple(corner), *size, fill=False, ec=colour, lw=width, ls=line, zorder=4, clip_on=False))


def number_axis(axis: Any, numbers: Sequence[int], points: float) -> None:
    """Put whole numbers at an even distance, as many as the space carries."""
    fit = max(int(points / (2.2 * small())), 1)
    step = next(s for s in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 4096) if len(numbers) / s <= fit or s == 4096)
    axis.set_ticks(range(0, len(numbers), step), labels=[str(n) for n in numbers[::step]])
    axis.set_tick_params(length=2, labelsize=small())
