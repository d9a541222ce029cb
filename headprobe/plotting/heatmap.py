"""A score for each head as a map: layers upwards, heads across."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from headprobe.errors import InputError
from headprobe.heads import Head, HeadSet
from headprobe.plotting.canvas import INK, new_axes, size_in_points

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from xarray import DataArray

__all__ = ["heatmap"]

_FONT = 8.0  # points
_NOT_SCORED = "#d9d9d9"


def heatmap(
    score_map: DataArray | Float[np.ndarray, "layer head"],
    mark: HeadSet | Iterable[Head | str | tuple[int, int]] | None = None,
    annotate_top: int = 0,
    ax: Axes | None = None,
    title: str | None = None,
    *,
    label: str | None = None,
    cmap: str = "viridis",
    vmin: float | None = None,
    vmax: float | None = None,
    center: float | None = None,
) -> Axes:
    """Draw a score map with layer 0 at the bottom, a colour bar, and the chosen heads outlined and named.

    Parameters
    ----------
    score_map
        Scores [layer, head]: an xarray.DataArray with these dimensions, whose coordinates give the numbers of
        layers and heads, or a numpy array, which starts at layer 0 and head 0. NaN is drawn grey with a
        cross: not scored.
    mark
        Heads to outline and name, for example the expert heads.
    annotate_top
        Name this many of the highest heads too, with a dotted outline.
    ax
        Where to draw; a figure of its own if not given.
    title
        Title of the Axes.
    label
        What the scores are, at the colour bar; the DataArray's name if not given.
    cmap
        A matplotlib colour map. The default, viridis, keeps its order in grey and for colour-blind readers.
    vmin, vmax
        Range of the colours; that of the scores if not given.
    center
        A value that gets the middle colour, for maps that diverge from it (use with `cmap="PuOr"`, for
        example).

    Returns
    -------
    Axes

    Raises
    ------
    InputError
        If the map is not two-dimensional [layer, head], has no finite score, or a head to mark is not on it.

    Examples
    --------
    >>> ax = heatmap(np.arange(12.0).reshape(3, 4), mark=["L2H3"], label="RSS")
    >>> ax.get_xlabel(), ax.get_ylabel(), [text.get_text() for text in ax.texts]
    ('head', 'layer', ['L2H3'])
    """
    values, layers, heads, name = _as_map(score_map)
    marked = list(HeadSet(mark or ()))
    rows = {layer: row for row, layer in enumerate(layers)}
    columns = {head: column for column, head in enumerate(heads)}
    for one in marked:
        if one.layer not in rows or one.head not in columns:
            raise InputError(
                f"{one} is to be marked, but the map has layers {layers[0]} to {layers[-1]} "
                f"and heads {heads[0]} to {heads[-1]}"
            )
    if not 0 <= annotate_top <= values.size:
        raise InputError(f"annotate_top must be 0 to the {values.size} heads of the map, got {annotate_top}")
    if ax is None:
        n_layers, n_heads = values.shape
        cell = float(np.clip(8.0 / max(n_layers, n_heads), 0.11, 0.32))
        ax = new_axes(max(n_heads * cell, 2.4) + 1.7, max(n_layers * cell, 1.8) + 1.1)
    image = ax.imshow(
        np.ma.masked_invalid(values),
        origin="lower",
        aspect="auto",
        interpolation="nearest",
        cmap=cmap,
        norm=_norm(values, vmin, vmax, center),
    )
    _cross_out(ax, values)
    _number(ax.xaxis, heads, size_in_points(ax)[0])
    _number(ax.yaxis, layers, size_in_points(ax)[1])
    ax.set_xlabel("head")
    ax.set_ylabel("layer")
    if title is not None:
        ax.set_title(title)
    bar = ax.figure.colorbar(image, ax=ax, pad=0.02)
    bar.set_label(label if label is not None else name or "score")
    bar.outline.set_visible(False)

    order = np.argsort(-np.where(np.isfinite(values), values, -np.inf), axis=None, kind="stable")
    order = [at for at in order[:annotate_top] if np.isfinite(values.flat[at])]
    top = [Head(layers[at // len(heads)], heads[at % len(heads)]) for at in order]
    for one in marked:
        _outline(ax, columns[one.head], rows[one.layer], "-")
    for one in top:
        if one not in marked:
            _outline(ax, columns[one.head], rows[one.layer], ":")
    named = [*marked, *(one for one in top if one not in marked)]
    _name(ax, [(columns[one.head], rows[one.layer], one.label) for one in named])
    return ax


def _as_map(score_map: Any) -> tuple[Float[np.ndarray, "layer head"], list[int], list[int], str]:
    """Values [layer, head], the numbers of layers and heads, and the map's name."""
    dims = getattr(score_map, "dims", None)
    if dims is not None:
        if set(dims) != {"layer", "head"}:
            raise InputError(
                f"a heatmap shows one map with the dimensions (layer, head), got {tuple(map(str, dims))}; "
                'choose one with .sel(metric=...) or .sel(prompt=...), or average with .mean("prompt")'
            )
        score_map = score_map.transpose("layer", "head")
        numbers = [
            [int(n) for n in score_map[dim].values] if dim in score_map.coords else range(score_map.sizes[dim])
            for dim in ("layer", "head")
        ]
        values, name = np.asarray(score_map.values, np.float64), str(score_map.name or "")
    else:
        values, name = np.asarray(score_map, np.float64), ""
        if values.ndim != 2:
            raise InputError(f"a heatmap shows an array [layer, head], got shape {values.shape}")
        numbers = [range(size) for size in values.shape]
    if not np.isfinite(values).any():
        raise InputError(f"the map of shape {values.shape} has no finite score to draw")
    return values, list(numbers[0]), list(numbers[1]), name


def _norm(values: np.ndarray, vmin: float | None, vmax: float | None, center: float | None) -> Any:
    from matplotlib.colors import CenteredNorm, Normalize

    finite = values[np.isfinite(values)]
    low, high = (finite.min() if vmin is None else vmin), (finite.max() if vmax is None else vmax)
    if center is not None:
        return CenteredNorm(center, max(high - center, center - low) or 1.0)
    return Normalize(low, high)


def _cross_out(ax: Axes, values: np.ndarray) -> None:
    """Make heads without a score look like nothing on the colour bar."""
    rows, columns = np.nonzero(~np.isfinite(values))
    if rows.size:
        ax.set_facecolor(_NOT_SCORED)
        width, height = size_in_points(ax)
        size = min(width / values.shape[1], height / values.shape[0])
        ax.scatter(columns, rows, s=(0.5 * size) ** 2, marker="x", color="#808080", linewidths=0.8)


def _number(axis: Any, numbers: Sequence[int], points: float) -> None:
    """Whole numbers at an even distance, as many as the space carries."""
    fit = max(int(points / (2.2 * _FONT)), 1)
    step = next(s for s in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 4096) if len(numbers) / s <= fit or s == 4096)
    axis.set_ticks(range(0, len(numbers), step), labels=[str(n) for n in numbers[::step]])
    axis.set_tick_params(length=2, labelsize=_FONT)


def _outline(ax: Axes, column: int, row: int, style: str) -> None:
    """A dark line inside a white one stands out on every colour of the map."""
    from matplotlib.patches import Rectangle

    for colour, width, line in (("white", 3.2, "-"), (INK, 1.4, style)):
        ax.add_patch(
            Rectangle(
                (column - 0.5, row - 0.5),
                1,
                1,
                fill=False,
                ec=colour,
                lw=width,
                ls=line,
                zorder=4,
                clip_on=False,
            )
        )


def _name(ax: Axes, cells: list[tuple[int, int, str]]) -> None:
    """Write the names in their cells if they fit, else beside them, off other names and named cells."""
    width, height = size_in_points(ax)
    x0, x1, y0, y1 = *ax.get_xlim(), *ax.get_ylim()
    cell_w, cell_h = width / (x1 - x0), height / (y1 - y0)
    boxes = [((x - x0 - 0.5) * cell_w, (y - y0 - 0.5) * cell_h, cell_w, cell_h) for x, y, _ in cells]
    taken: list[tuple[float, float, float, float]] = []
    for (x, y, text), own in zip(cells, boxes, strict=True):
        w, h = 0.66 * _FONT * len(text) + 3, 1.5 * _FONT
        at, shrink = (0.0, 0.0), 0.0
        if w > cell_w or h > cell_h:
            at = _place(own, (w, h), boxes, taken, (width, height))
            # The line ends where the cell begins, so that it hides nothing of its colour.
            far = np.hypot(*at)
            shrink = far * min(cell_w / 2 / max(abs(at[0]), 1e-9), cell_h / 2 / max(abs(at[1]), 1e-9))
        taken.append((own[0] + cell_w / 2 + at[0] - w / 2, own[1] + cell_h / 2 + at[1] - h / 2, w, h))
        ax.annotate(
            text,
            (x, y),
            xytext=at,
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=_FONT,
            color=INK,
            zorder=5,
            annotation_clip=False,
            bbox={"boxstyle": "round,pad=0.15", "fc": "white", "ec": INK, "lw": 0.5},
            arrowprops={"arrowstyle": "-", "color": INK, "lw": 0.9, "shrinkA": 0, "shrinkB": shrink}
            if shrink
            else None,
        )


def _place(
    own: tuple[float, float, float, float],
    size: tuple[float, float],
    cells: Sequence[tuple[float, float, float, float]],
    taken: Sequence[tuple[float, float, float, float]],
    area: tuple[float, float],
) -> tuple[float, float]:
    """The offset in points of a name from the middle of its cell: near, and over nothing that counts."""
    w, h = size
    cx, cy = own[0] + own[2] / 2, own[1] + own[3] / 2
    best, least = (0.0, 0.0), np.inf
    for reach in (5.0, 5.0 + h, 5.0 + 2 * h, 5.0 + 4 * h):
        dx, dy = own[2] / 2 + w / 2 + reach, own[3] / 2 + h / 2 + reach
        for px, py in ((dx, 0), (-dx, 0), (0, dy), (0, -dy), (dx, dy), (-dx, dy), (dx, -dy), (-dx, -dy)):
            box = (cx + px - w / 2, cy + py - h / 2, w, h)
            outside = box[0] < 0 or box[1] < 0 or box[0] + w > area[0] or box[1] + h > area[1]
            cost = 1000 * outside + 100 * sum(_overlap(box, other) for other in taken)
            cost += 30 * sum(_overlap(box, other) for other in cells) + 0.1 * reach
            if cost < least:
                best, least = (px, py), cost
    return best


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[0] + b[2] and b[0] < a[0] + a[2] and a[1] < b[1] + b[3] and b[1] < a[1] + a[3]
