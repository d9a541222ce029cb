"""Mean score against its spread: the heads that a ranking by the mean would choose, and those that are stable."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from headprobe.heads import Head, HeadSet
from headprobe.metrics.ranks import repeats
from headprobe.metrics.stability import mean, rss, standard_deviation
from headprobe.plotting.canvas import BLUE, GREY, VERMILION, ink, new_axes, plain_frame, settle, size_in_points, small
from headprobe.plotting.maps import as_map, best, check_scored, on_map
from headprobe.plotting.names import name_points
from headprobe.scores import check_k

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from xarray import DataArray

__all__ = ["stability_plot"]


def stability_plot(
    score_map: DataArray,
    mark: HeadSet | Iterable[Head | str | tuple[int, int]] | None = None,
    annotate_top: int = 0,
    ax: Axes | None = None,
    title: str | None = None,
    *,
    dim: str = "prompt",
    instability_penalty: float = 0.5,
    k: int | None = None,
    label: str | None = None,
) -> Axes:
    """Draw every head's mean over prompts (or other repeats) against its standard deviation, with lines of equal RSS.

    Parameters
    ----------
    score_map
        Dims (`dim`, layer, head); a head that is NaN in all maps is left out.
    mark
        Heads to draw larger and to name.
    annotate_top
        Name this many heads of the highest RSS too.
    ax
        Where to draw; a figure of its own if not given.
    title
        Title of the Axes.
    dim
        The dim of the repeats.
    instability_penalty
        lambda of the robust saliency score, mean - lambda * standard deviation
        (`headprobe.metrics.stability.rss`): the slope of the lines.
    k
        Number of heads that were chosen: a heavier line through the k-th highest RSS.
    label
        What the scores are; the DataArray's name if not given.

    Returns
    -------
    Axes
        The dots are ``ax.collections[0]``, (standard deviation, mean) of every head in the order of layer and head.

    Raises
    ------
    InputError
        As in `rss`; a head to mark is not there, or k is not 1 to the number of heads.

    Examples
    --------
    >>> from headprobe.scores import score_map
    >>> maps = score_map([[[1.0, 0.8]], [[0.0, 0.6]]], prompts=["p1", "p2"])
    >>> stability_plot(maps, mark=["L0H1"]).collections[0].get_offsets().round(3).tolist()
    [[0.5, 0.5], [0.1, 0.7]]
    """
    table = repeats(score_map, dim)
    score = as_map(rss(score_map, instability_penalty, dim))
    center, spread = mean(score_map, dim).values, standard_deviation(score_map, dim).values
    marked, top = on_map(mark, score), best(score, annotate_top)
    check_scored(marked, score)
    n = len(table.heads)
    if k is not None:
        check_k(k, n)
    if ax is None:
        ax = new_axes(5.6, 4.2)
    there = np.isfinite(center)
    dots = np.column_stack([spread[there], center[there]])
    ax.scatter(*dots.T, s=22 if n <= 200 else 7, color=BLUE, alpha=0.8 if n <= 200 else 0.5, lw=0, zorder=2)
    if marked:
        rows, columns = [row for row, _, _ in marked], [column for _, column, _ in marked]
        ax.scatter(
            spread[rows, columns],
            center[rows, columns],
            s=58,
            marker="D",
            color=VERMILION,
            ec="white",
            lw=0.8,
            zorder=3,
        )
    low, high = float(dots[:, 1].min()), float(dots[:, 1].max())
    room = 0.1 * (high - low) or 0.1
    widest = float(dots[:, 0].max()) * 1.08 or 1.0
    ax.set_xlim(0 if n <= 1 or dots[:, 0].min() < 0.3 * widest else None, widest)
    ax.set_ylim(low - room, high + room)
    ax.set_xlabel(f"standard deviation over {len(table.names)} {dim}s")
    name = str(score_map.name or "score") if label is None else label
    ax.set_ylabel(f"mean {name}")
    if title is not None:
        ax.set_title(title, loc="left")
    plain_frame(ax)
    settle(ax)
    cut = None
    if k is not None:
        cut = float(np.sort(score.values[np.isfinite(score.values)])[::-1][k - 1])
    _equal_lines(ax, instability_penalty, cut, k)
    named = [*marked, *(one for one in top if one not in marked)]
    points = [(float(spread[row, column]), float(center[row, column]), head.label) for row, column, head in named]
    name_points(ax, points, (8, 8), others=dots, settled=True)
    return ax


def _equal_lines(ax: Axes, slope: float, cut: float | None, k: int | None) -> None:
    """Lines mean = RSS + slope * sd within the limits, each with its RSS beside its right end."""
    from matplotlib.ticker import MaxNLocator

    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    width, height = size_in_points(ax)
    levels = MaxNLocator(7, steps=[1, 2, 5, 10]).tick_values(bottom - slope * right, top - slope * left)
    lines = [(float(level), GREY, 0.7, f"{level:.4g}") for level in levels if level != cut]
    if cut is not None:
        lines.append((cut, ink(ax), 1.6, f"{cut:.3g}: {k} heads"))
    taken: list[tuple[float, float]] = []
    for level, colour, line_width, words in reversed(lines):
        ax.axline(
            (0, level), slope=slope, color=colour, lw=line_width, ls="-" if colour == GREY else (0, (5, 2)), zorder=1
        )
        # The right end: where the line leaves the plot, at the side or at the top.
        end = min(right, (top - level) / slope) if slope > 0 else right
        x, y = end, level + slope * end
        if not (left <= x and bottom < y <= top + 1e-9):
            continue
        place = ((x - left) / (right - left) * width, (y - bottom) / (top - bottom) * height)
        if any(abs(place[0] - a) < 2.2 * small() and abs(place[1] - b) < 1.3 * small() for a, b in taken):
            continue
        taken.append(place)
        at_side = end == right
        ax.annotate(
            words,
            (x, y),
            xytext=(4, 0) if at_side else (0, 3),
            textcoords="offset points",
            ha="left" if at_side else "center",
            va="center" if at_side else "bottom",
            fontsize=small(),
            color=ink(ax) if colour != GREY else GREY,
            annotation_clip=False,
        )
    ax.annotate(
        f"RSS = mean − {slope:g} sd" if slope else "RSS = mean",
        (0.985, 0.02),
        xycoords="axes fraction",
        ha="right",
        va="bottom",
        fontsize=small(),
        color=GREY,
    )
