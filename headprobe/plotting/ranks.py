"""Ranks of heads: how the scores fall off from the best head on, and where heads stand in several rankings."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from headprobe.errors import InputError
from headprobe.heads import Head, HeadSet
from headprobe.metrics.ranks import ranks, repeats
from headprobe.plotting.canvas import BLUE, GREY, SERIES, VERMILION, ink, new_axes, plain_frame, small
from headprobe.plotting.maps import as_map, best, check_scored, on_map, same_cells
from headprobe.plotting.names import name_at_right, name_points
from headprobe.scores import check_k

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from xarray import DataArray

__all__ = ["consensus_plot", "rank_plot"]

_LOG_FROM = 100  # heads, from which ranks are drawn on a logarithmic axis
_BEHIND = 300  # heads that are drawn behind the chosen ones, at most


def rank_plot(
    score_map: DataArray | Float[np.ndarray, "layer head"],
    mark: HeadSet | Iterable[Head | str | tuple[int, int]] | None = None,
    annotate_top: int = 0,
    ax: Axes | None = None,
    title: str | None = None,
    *,
    k: int | None = None,
    spread: DataArray | Float[np.ndarray, "layer head"] | None = None,
    chance: float | None = None,
    label: str | None = None,
    log: bool | None = None,
) -> Axes:
    """Draw the scores from the best head to the worst: whether few heads stand out, and where the line was drawn.

    Parameters
    ----------
    score_map
        As in `headprobe.plotting.heatmap.heatmap`; heads without a score are left out.
    mark
        Heads to draw larger and to name.
    annotate_top
        Name this many of the highest heads too.
    ax
        Where to draw; a figure of its own if not given.
    title
        Title of the Axes.
    k
        Number of heads that were chosen: a line behind the k-th.
    spread
        What to draw to each side of a score, such as the standard deviation over prompts; the same heads.
    chance
        Score that chance gives, for a line.
    label
        What the scores are; the DataArray's name if not given.
    log
        Whether the axis of ranks is logarithmic; by default from 100 heads on.

    Returns
    -------
    Axes

    Raises
    ------
    InputError
        As in `heatmap`; a head to mark has no score, or k is not 1 to the number of heads.

    Examples
    --------
    >>> ax = rank_plot(np.array([[0.1, 0.9], [0.4, 0.2]]), mark=["L0H1"], k=1)
    >>> ax.lines[0].get_ydata().tolist()
    [0.9, 0.4, 0.2, 0.1]
    """
    from matplotlib.ticker import MaxNLocator

    shown = as_map(score_map, "a rank plot")
    places = best(shown, shown.values.size)
    n = len(places)
    rank = {head: number for number, (_, _, head) in enumerate(places, start=1)}
    on = on_map(mark, shown)
    check_scored(on, shown)
    marked = [head for _, _, head in on]
    if k is not None:
        check_k(k, n)
    top = [head for _, _, head in best(shown, annotate_top)]
    if ax is None:
        ax = new_axes(6.0, 3.4)
    rows, columns = [row for row, _, _ in places], [column for _, column, _ in places]
    scores, at = shown.values[rows, columns], np.arange(1, n + 1)
    log = n >= _LOG_FROM if log is None else log
    if chance is not None:
        ax.axhline(chance, color=ink(ax), lw=1, ls=(0, (4, 3)), label=f"chance ({chance:g})", zorder=1)
    if spread is not None:
        half = same_cells(spread, shown, "spreads")[rows, columns]
        ax.vlines(at, scores - half, scores + half, color=GREY, lw=0.8, alpha=0.6, zorder=1.5, label="± spread")
    size = 4.0 if n <= 60 else 2.5
    ax.plot(at, scores, color=BLUE, lw=0.8, marker="o", ms=size, zorder=2, label=f"{n} heads")
    if k is not None:
        edge = float(np.sqrt(k * (k + 1))) if log else k + 0.5
        ax.axvline(edge, color=ink(ax), lw=1.2, ls=":", label=f"the best {k}", zorder=1)
    if marked:
        where = [rank[head] for head in marked]
        heights = scores[np.array(where) - 1]
        ax.plot(where, heights, "D", color=VERMILION, mec="white", mew=0.7, ms=7, zorder=3, label="marked")
    if log:
        ax.set_xscale("log")
        ax.set_xlim(0.8, n * 1.25)
        ax.xaxis.set_major_formatter("{x:g}")
    else:
        ax.set_xlim(0, n + 1)
        ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    ax.margins(y=0.12)
    ax.set_xlabel("rank")
    ax.set_ylabel(shown.label(label))
    if title is not None:
        ax.set_title(title, loc="left")
    plain_frame(ax)
    ax.legend(frameon=False, fontsize=small(), loc="best")
    named = [*marked, *(head for head in top if head not in marked)]
    points = [(float(rank[head]), float(scores[rank[head] - 1]), head.label) for head in named]
    name_points(ax, points, (8, 8), others=np.column_stack([at, scores]))
    return ax


def consensus_plot(
    score_map: DataArray,
    heads: HeadSet | Iterable[Head | str | tuple[int, int]],
    ax: Axes | None = None,
    title: str | None = None,
    *,
    dim: str = "prompt",
    final: DataArray | None = None,
    k: int | None = None,
    log: bool | None = None,
) -> Axes:
    """Draw the rank of heads in each of several rankings, the chosen ones traced from one to the next.

    Parameters
    ----------
    score_map
        Dims (`dim`, layer, head): one ranking for each prompt, resample or model. Ties share their mean rank.
    heads
        The chosen heads; each gets a line, and its name where the lines end. From the eighth on, lines are dashed.
    ax
        Where to draw; a figure of its own if not given.
    title
        Title of the Axes.
    dim
        The dim of the rankings.
    final
        Dims (layer, head): scores that the rankings were brought together to, as from
        `headprobe.metrics.consensus.consensus_scores`, for a last ranking set apart.
    k
        Number of heads that a ranking would choose: a line below the k-th.
    log
        Whether the axis of ranks is logarithmic; by default from 100 heads on.

    Returns
    -------
    Axes
        Rank 1 is at the top. Behind the chosen heads stand the others, if there are not more than 300; of more heads,
        the axis ends at twice the lowest rank of a chosen one.

    Raises
    ------
    InputError
        The dims do not fit (`headprobe.metrics.ranks.repeats`), no head or one without a score is chosen, or k is not 1
        to the number of heads.

    Examples
    --------
    >>> from headprobe.scores import score_map
    >>> maps = score_map([[[0.1, 0.9, 0.5]], [[0.1, 0.4, 0.8]]], prompts=["p1", "p2"])
    >>> ax = consensus_plot(maps, ["L0H1"])
    >>> ax.lines[-1].get_ydata().tolist(), [text.get_text() for text in ax.texts]
    ([1.0, 2.0], ['L0H1'])
    """
    chosen = HeadSet(heads)
    if not chosen:
        raise InputError("no head is chosen: name the heads to trace")
    table = repeats(score_map, dim)
    n = len(table.heads)
    place = {head: number for number, head in enumerate(table.heads)}
    missing = [head.label for head in chosen if head not in place]
    if missing:
        raise InputError(f"{', '.join(missing)} has no score among the {n} heads that have one")
    if k is not None:
        check_k(k, n)
    present = np.isfinite(table.one.values)
    rank = ranks(score_map).values[:, present]
    at, names = np.arange(len(rank), dtype=float), list(table.names)
    if final is not None:
        values = same_cells(final, as_map(table.one), "final scores")
        rank = np.vstack([rank, ranks(table.one.copy(data=values)).values[present]])
        at, names = np.append(at, at[-1] + 1.4), [*names, str(final.name or "final")]
    if ax is None:
        ax = new_axes(min(2.2 + 1.1 * len(names), 11.0), 4.2)
    log = n >= _LOG_FROM if log is None else log
    # Where the others are not drawn, what lies far below the chosen ones would be an empty half.
    lowest = float(max(rank[:, [place[head] for head in chosen]].max(), k or 1))
    last = n if n <= _BEHIND else min(n, 2 * lowest)
    if log:
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter("{x:g}")
        ax.set_ylim(last * 1.15, 0.85)
    else:
        ax.set_ylim(last + 0.6, 0.4)
        ax.set_yticks([1, *(tick for tick in ax.get_yticks() if 1 < tick <= last and tick == int(tick))])
        ax.set_ylim(last + 0.6, 0.4)
    ax.set_xlim(-0.25, at[-1] + 0.25)
    if n <= _BEHIND:
        ax.plot(at, rank, color="#b5b5b5", lw=0.6, alpha=0.6, zorder=1)
    if k is not None:
        edge = float(np.sqrt(k * (k + 1))) if log else k + 0.5
        ax.axhline(edge, color=ink(ax), lw=1.2, ls=":", zorder=2)
        ax.annotate(
            f"best {k}",
            (0, edge),
            xycoords=("axes fraction", "data"),
            xytext=(3, -2),
            textcoords="offset points",
            va="top",
            fontsize=small(),
            color=ink(ax),
            zorder=4,
            bbox={"boxstyle": "round,pad=0.1", "fc": ax.get_facecolor(), "ec": "none", "alpha": 0.8},
        )
    ends: list[tuple[float, str, Any]] = []
    for number, head in enumerate(chosen):
        style = SERIES[number % len(SERIES)]
        heights = rank[:, place[head]]
        ax.plot(at, heights, **style._asdict(), lw=1.8, ms=6, mec="white", mew=0.7, zorder=3, clip_on=False)
        ends.append((float(heights[-1]), head.label, style.color))
    if final is not None:
        ax.axvline(at[-1] - 0.7, color=GREY, lw=0.8, zorder=0.5)
    ax.set_ylabel(f"rank of {n} heads")
    _name_rankings(ax, at, names, dim)
    if title is not None:
        ax.set_title(title, loc="left")
    plain_frame(ax)
    name_at_right(ax, ends)
    return ax


def _name_rankings(ax: Axes, at: np.ndarray, names: list[str], dim: str) -> None:
    """Names beneath the rankings, slanted where they are long; with very many, some of them."""
    room = ax.get_window_extent().width * 72 / ax.figure.dpi / len(names)
    step = int(np.ceil(1.4 * small() / room))
    keep = list(range(0, len(names), step))
    slant = max(len(name) for name in names) * 0.6 * small() > 0.95 * room * step
    turn: dict[str, Any] = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if slant else {}
    ax.set_xticks(at[keep], labels=[names[i] for i in keep], **turn)
    ax.tick_params(axis="x", labelsize=small())
    ax.set_xlabel(dim)
