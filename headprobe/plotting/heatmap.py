"""A score for each head as a map: layers upwards, heads across; and several maps side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float

from headprobe._validation import choice, count, number
from headprobe.errors import InputError
from headprobe.heads import Head, HeadSet
from headprobe.plotting._canvas import (
    BLUE,
    VERMILION,
    ShownDict,
    floating_figure,
    legend_below,
    new_axes,
    plain_frame,
    settle,
    small,
    subplots,
)
from headprobe.plotting._cells import Map, as_map, color_bar, finish, marked_and_named, paint, same_cells

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from xarray import DataArray

__all__ = ["heatmap", "heatmap_grid"]


def heatmap(
    score_map: DataArray | Float[np.ndarray, "layer head"],
    mark: HeadSet | Iterable[Head | str | tuple[int, int]] | None = None,
    annotate_top: int = 0,
    ax: Axes | None = None,
    title: str | None = None,
    *,
    p_values: DataArray | Float[np.ndarray, "layer head"] | None = None,
    alpha: float = 0.05,
    marginals: bool = False,
    label: str | None = None,
    cmap: str | None = None,
    vmin: float | None = None,
    vmax: float | None = None,
    center: float | None = None,
    colorbar: bool = True,
) -> Axes:
    """Draw a score map with layer 0 at the bottom, a colour bar, and the chosen heads outlined and named.

    Parameters
    ----------
    score_map
        Scores [layer, head]: an xarray.DataArray with these dimensions, whose coordinates give the numbers of
        layers and heads, or a numpy array, which starts at layer 0 and head 0. NaN means no score: behind a
        layer's last score it is left blank, as heads that this layer does not have (layers can differ in their
        heads, and a layer can have none); before it, the cell is grey with a cross.
    mark, annotate_top
        Heads to outline and name, for example the chosen ones; and how many of the highest to name too, with a dotted
        outline.
    ax, title
        Where to draw, a figure of its own if not given; title of the Axes.
    p_values
        p- or q-values of the same heads: those above `alpha` are hatched, as not significant. The legend calls
        them by the DataArray's name.
    alpha
        Level of significance.
    marginals
        Whether to draw each layer's highest and mean score beside the map. These Axes are the last of
        ``ax.child_axes``.
    label
        What the scores are, at the colour bar; the DataArray's name and, in brackets, its ``attrs["units"]`` if not
        given.
    cmap
        A matplotlib colour map. By default viridis, which keeps its order in grey and for colour-blind readers, and
        with a `center` PuOr, which diverges.
    vmin, vmax
        Range of the colours; that of the scores if not given.
    center
        A value that gets the middle colour, for scores with a sign. Cells below it carry a dash where there is room,
        for print without colours.
    colorbar
        Whether to draw the colour bar. It belongs to ``ax.collections[0]``, the cells.

    Returns
    -------
    Axes

    Raises
    ------
    InputError
        If the map is not two-dimensional [layer, head], has no finite score, a head to mark is not on it, the p-values
        are not those of its heads, or `alpha` is not between 0 and 1.

    Examples
    --------
    >>> ax = heatmap(np.arange(12.0).reshape(3, 4), mark=["L2H3"], label="RSS")
    >>> ax.get_xlabel(), ax.get_ylabel(), [text.get_text() for text in ax.texts]
    ('head', 'layer', ['L2H3'])
    """
    shown = as_map(score_map)
    marked, named = marked_and_named(shown, mark, annotate_top, gaps=True)
    weak = _not_significant(shown, p_values, alpha)
    n_layers, n_heads = shown.values.shape
    if ax is None:
        cell = float(np.clip(8.0 / max(n_layers, n_heads), 0.11, 0.5))
        width = max(n_heads * cell, 2.4) * (1.25 if marginals else 1.0)
        ax = new_axes(width + 1.7, max(n_layers * cell, 1.8) + 1.1 + 0.2 * (weak is not None))
    image = paint(ax, shown, shown.values, cmap, vmin, vmax, center)
    if title is not None:
        ax.set_title(title)
    if marginals:
        _marginals(ax, shown)
    if colorbar:
        color_bar(ax, image, shown.label(label), shown.values)
    settle(ax)
    finish(ax, shown, image, marked, named, weak)
    return ax


def _not_significant(shown: Map, p_values: Any, alpha: float) -> tuple[np.ndarray, str] | None:
    """The cells to hatch, if that was asked for, and what the hatching means."""
    number(alpha, "alpha", above=0, most=1)
    if p_values is None:
        return None
    p = same_cells(p_values, shown, "p-values")
    name = str(getattr(p_values, "name", None) or "p")
    name = "p" if name == "score" else name  # as `headprobe.scores.score_map` calls what it is not told the name of
    return np.isfinite(shown.values) & (p > alpha), f"not significant: {name} > {alpha:g}"


def _marginals(ax: Axes, shown: Map) -> None:
    """Highest and mean score of each layer, on the map's rows."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a layer without any score has neither
        highest, mean = np.nanmax(shown.values, 1), np.nanmean(shown.values, 1)
    side = ax.inset_axes((1.02, 0, 0.2, 1), sharey=ax)
    rows = np.arange(len(shown.layers))
    size = 3.5 if len(rows) <= 40 else 2.0
    side.plot(mean, rows, color=BLUE, marker="o", ms=size, lw=1, label="mean")
    side.plot(highest, rows, color=VERMILION, marker=">", ms=size, lw=1, ls=(0, (4, 1.5)), label="highest")
    side.tick_params(axis="y", left=False, labelleft=False)
    side.tick_params(axis="x", labelsize=small())
    side.locator_params(axis="x", nbins=2)
    plain_frame(side)
    side.grid(axis="x", color="#e4e4e4", lw=0.8)
    side.set_axisbelow(True)
    legend_below(side, columns=1, above=True)


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
    >>> list(axes), axes["p1"].get_title(), axes["p2"].collections[0].get_clim()
    (['p1', 'p2'], 'p1', (0.1, 0.9))
    """
    choice(scale, "scale", ("shared", "each"))
    panels, given = _panels(score_maps)
    shown = {key: as_map(one) for key, one in panels.items()}
    chosen = {key: marked_and_named(one, mark, annotate_top, gaps=True) for key, one in shown.items()}
    across = given or -(-len(panels) // -(-len(panels) // 4))
    if columns is not None:
        across = count(columns, "columns", 1, len(panels))
    if axes is None:
        axes = _own_axes([one.values.shape for one in shown.values()], across, each=scale == "each")
    flat = list(np.asarray(axes, dtype=object).ravel())
    if len(flat) != len(panels):
        raise InputError(f"there are {len(panels)} panels to draw, but {len(flat)} axes")
    drawn: dict[Any, Axes] = dict(zip(panels, flat, strict=True))
    everything = np.concatenate([one.values.ravel() for one in shown.values()])
    alike = len({(tuple(one.layers), tuple(one.heads)) for one in shown.values()}) == 1
    images = {}
    for place, (key, ax) in enumerate(drawn.items()):
        one, (row, column) = shown[key], divmod(place, across)
        images[key] = paint(ax, one, everything if scale == "shared" else one.values, cmap, vmin, vmax, center)
        if scale == "each":
            last_of_row = column == across - 1 or place == len(drawn) - 1
            color_bar(ax, images[key], one.label(label) if last_of_row or not alike else "", one.values)
        ax.set_title(str(key) if not given else str(key[1]) if row == 0 else "")
        if given:
            ax.set_ylabel(f"{key[0]}\nlayer" if column == 0 else "")
        if alike:
            left, below = column == 0, place + across >= len(drawn)
            ax.tick_params(labelleft=left, labelbottom=below)
            ax.set(xlabel=ax.get_xlabel() if below else "", ylabel=ax.get_ylabel() if left else "")
    if scale == "shared":
        words = next(iter(shown.values())).label(label)
        color_bar(flat[0], next(iter(images.values())), words, everything, beside=flat)
    settle(flat[0])
    for key, ax in drawn.items():
        finish(ax, shown[key], images[key], *chosen[key])
    return ShownDict(drawn)


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
    names = [score_maps[dim].values.tolist() for dim in others]
    places = product(*(range(len(some)) for some in names))
    maps = [score_maps.isel(dict(zip(others, place, strict=True)), drop=True) for place in places]
    if len(others) == 1:
        return dict(zip(names[0], maps, strict=True)), None
    return dict(zip(product(*names), maps, strict=True)), len(names[1])


def _own_axes(shapes: Sequence[tuple[int, ...]], columns: int, each: bool) -> list[Axes]:
    rows = -(-len(shapes) // columns)
    layers, heads = max(shape[0] for shape in shapes), max(shape[1] for shape in shapes)
    cell = float(np.clip(9.0 / max(layers * rows, heads * columns), 0.06, 0.4))
    width = columns * (max(heads * cell, 1.5) + (1.1 if each else 0.3)) + 1.3
    height = rows * (max(layers * cell, 1.2) + 0.45) + 0.5
    grid = subplots(floating_figure(width, height), rows, columns).ravel()
    for ax in grid[len(shapes) :]:
        ax.remove()
    return list(grid[: len(shapes)])
