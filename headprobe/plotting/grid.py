"""Several score maps side by side: prompts, metrics or models, on one scale."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from headprobe.errors import InputError
from headprobe.heads import Head, HeadSet
from headprobe.plotting.canvas import floating_figure, settle
from headprobe.plotting.cells import beyond, color_bar, color_norm, finish, paint
from headprobe.plotting.maps import as_map, best, on_map

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from xarray import DataArray

__all__ = ["heatmap_grid"]


def heatmap_grid(
    score_maps: DataArray | Mapping[str, Any],
    mark: HeadSet | Iterable[Head | str | tuple[int, int]] | None = None,
    annotate_top: int = 0,
    axes: Sequence[Axes] | np.ndarray | None = None,
    *,
    columns: int | None = None,
    scale: Literal["shared", "each"] = "shared",
    label: str | None = None,
    cmap: str | None = None,
    vmin: float | None = None,
    vmax: float | None = None,
    center: float | None = None,
) -> dict[Any, Axes]:
    """Draw a heatmap for every prompt, metric, or both, with one colour bar for all.

    Parameters
    ----------
    score_maps
        DataArray with the dims layer, head and one or two others, such as (prompt, layer, head): one panel for each
        entry; or (metric, prompt, layer, head): metrics are rows, prompts are columns. Or a mapping from name to map,
        for maps of different shapes.
    mark, annotate_top, label, cmap, vmin, vmax, center
        As in `headprobe.plotting.heatmap.heatmap`; the heads have to be on every map.
    axes
        Where to draw, one for each panel in the order of the result; a figure of its own if not given.
    columns
        Panels side by side; by default all up to four, and with two other dims the length of the second.
    scale
        ``shared``: the same colour means the same score everywhere, which metrics of different units do not allow;
        ``each``: a scale and a colour bar for every panel.

    Returns
    -------
    dict of Axes
        By entry, such as ``axes["p1"]``, or with two other dims by both, ``axes["lda", "p1"]``.

    Raises
    ------
    InputError
        As in `heatmap`; the dims do not fit, or there are not as many Axes as panels.

    Examples
    --------
    >>> from headprobe.scores import score_map
    >>> maps = score_map([[[0.1, 0.9]], [[0.4, 0.2]]], prompts=["p1", "p2"])
    >>> axes = heatmap_grid(maps)
    >>> list(axes), axes["p1"].get_title(), axes["p2"].images[0].get_clim()
    (['p1', 'p2'], 'p1', (0.1, 0.9))
    """
    if scale not in ("shared", "each"):
        raise InputError(f"scale must be 'shared' or 'each', got {scale!r}")
    panels, given = _panels(score_maps)
    shown = {key: as_map(one) for key, one in panels.items()}
    marked = {key: on_map(mark, one) for key, one in shown.items()}
    top = {key: best(one, annotate_top) for key, one in shown.items()}
    across = given or columns or -(-len(panels) // -(-len(panels) // 4))
    if not 1 <= across <= len(panels):
        raise InputError(f"columns must be 1 to the {len(panels)} panels, got {across}")
    if axes is None:
        axes = _own_axes([one.values.shape for one in shown.values()], across, each=scale == "each")
    flat = list(np.asarray(axes, dtype=object).ravel())
    if len(flat) != len(panels):
        raise InputError(f"there are {len(panels)} panels to draw, but {len(flat)} axes")
    drawn: dict[Any, Axes] = dict(zip(panels, flat, strict=True))
    if cmap is None:
        cmap = "viridis" if center is None else "PuOr"
    everything = np.concatenate([one.values.ravel() for one in shown.values()])
    alike = len({(tuple(one.layers), tuple(one.heads)) for one in shown.values()}) == 1
    for number, (key, ax) in enumerate(drawn.items()):
        one = shown[key]
        image = paint(ax, one, cmap, color_norm(everything if scale == "shared" else one.values, vmin, vmax, center))
        row, column = divmod(number, across)
        last_of_row = column == across - 1 or number == len(drawn) - 1
        if scale == "each":
            words = one.label(label) if last_of_row or not alike else ""
            color_bar(ax, image, words, extend=beyond(one.values, image))
        if given:
            ax.set_title(str(key[1]) if row == 0 else "")
            ax.set_ylabel(f"{key[0]}\nlayer" if column == 0 else "")
        else:
            ax.set_title(str(key))
        if alike:
            _share(ax, first=column == 0, last=number + across >= len(drawn))
    if scale == "shared":
        image, words = flat[0].images[0], next(iter(shown.values())).label(label)
        color_bar(flat[0], image, words, beside=flat, extend=beyond(everything, image))
    settle(flat[0])
    for key, ax in drawn.items():
        finish(ax, shown[key], marked[key], top[key])
    return drawn


def _panels(score_maps: Any) -> tuple[dict[Any, Any], int | None]:
    """Maps by name, and the columns that two other dims call for."""
    if isinstance(score_maps, Mapping):
        if not score_maps:
            raise InputError("a grid needs one map or more, got an empty mapping")
        return dict(score_maps), None
    dims = tuple(str(dim) for dim in getattr(score_maps, "dims", ()))
    others = [dim for dim in dims if dim not in ("layer", "head")]
    if not {"layer", "head"} <= set(dims) or len(others) not in (1, 2):
        raise InputError(
            "a grid shows a DataArray with the dims layer, head and one or two others, such as (prompt, layer, head), "
            f"or a mapping from name to map; got {dims or type(score_maps).__name__}"
        )
    names = [
        score_maps.coords[dim].values.tolist() if dim in score_maps.coords else list(range(score_maps.sizes[dim]))
        for dim in others
    ]
    if len(others) == 1:
        return {name: score_maps.isel({others[0]: i}, drop=True) for i, name in enumerate(names[0])}, None
    panels = {
        (first, second): score_maps.isel({others[0]: i, others[1]: j}, drop=True)
        for i, first in enumerate(names[0])
        for j, second in enumerate(names[1])
    }
    return panels, len(names[1])


def _own_axes(shapes: Sequence[tuple[int, ...]], columns: int, each: bool) -> list[Axes]:
    rows = -(-len(shapes) // columns)
    layers, heads = max(shape[0] for shape in shapes), max(shape[1] for shape in shapes)
    cell = float(np.clip(9.0 / max(layers * rows, heads * columns), 0.06, 0.4))
    width = columns * (max(heads * cell, 1.5) + (1.1 if each else 0.3)) + 1.3
    height = rows * (max(layers * cell, 1.2) + 0.45) + 0.5
    grid = floating_figure(width, height).subplots(rows, columns, squeeze=False).ravel()
    for ax in grid[len(shapes) :]:
        ax.remove()
    return list(grid[: len(shapes)])


def _share(ax: Axes, *, first: bool, last: bool) -> None:
    """Write numbers and names of axes at the edge of the grid only."""
    ax.tick_params(labelleft=first, labelbottom=last)
    if not first:
        ax.set_ylabel("")
    if not last:
        ax.set_xlabel("")
