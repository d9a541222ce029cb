"""Ranks of heads: how the scores fall off from the best head on, and where heads stand in several rankings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from headprobe.errors import InputError
from headprobe.heads import Head, HeadSet
from headprobe.metrics.ranks import ranks, repeats
from headprobe.metrics.stability import mean, rss, standard_deviation
from headprobe.plotting._canvas import (
    BLUE,
    GREY,
    SERIES,
    VERMILION,
    ink,
    legend_below,
    name_at_right,
    name_in_rows,
    name_points,
    new_axes,
    plain_frame,
    settle,
    size_in_points,
    small,
)
from headprobe.plotting._cells import as_map, best, check_scored, on_map, same_cells
from headprobe.scores import _check_k

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from xarray import DataArray

    from headprobe.metrics.significance import MaxStatistic

__all__ = ["consensus_plot", "null_plot", "rank_plot", "stability_plot"]


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
        _check_k(k, n)
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
        _check_k(k, n)
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
        _check_k(k, n)
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


def null_plot(
    result: MaxStatistic,
    mark: HeadSet | Iterable[Head | str | tuple[int, int]] | None = None,
    annotate_top: int = 3,
    ax: Axes | None = None,
    title: str | None = None,
    *,
    alpha: float | Sequence[float] = 0.05,
    prompt: str | None = None,
    bins: int = 40,
    label: str | None = None,
) -> Axes:
    """Draw the largest scores of relabelled data, the thresholds that follow from them, and the observed scores.

    Beside the distribution of the maxima over all heads stands that of single heads: a score that is rare for one
    head is common for the best of many.

    Parameters
    ----------
    result
        As from `headprobe.metrics.significance.max_statistic`.
    mark
        Heads to name, for example those that were chosen.
    annotate_top
        Name this many of the highest heads too.
    ax
        Where to draw; a figure of its own if not given.
    title
        Title of the Axes.
    alpha
        Levels of the family-wise error, each a line.
    prompt
        Whose heads to show, where the result has several prompts (None: the only one); the null is that of all.
    bins
        Number of bars over the whole range.
    label
        What the scores are; the metric's name if not given.

    Returns
    -------
    Axes
        A tick at the bottom for every head, longer and in another colour where its score is above the strictest
        threshold. Scores are in units of each head's own null where the result is studentised.

    Raises
    ------
    InputError
        If a level is out of range (`MaxStatistic.thresholds`), a head is not there, or the prompt is missing or
        unknown.

    Examples
    --------
    >>> from headprobe.metrics.significance import max_statistic
    >>> rng, y = np.random.default_rng(0), np.arange(40) % 2
    >>> z = rng.normal(size=(40, 2, 3, 4))
    >>> z[:, 1, 2] += 2 * y[:, None]
    >>> ax = null_plot(max_statistic(z, y, n_permutations=99), annotate_top=1)
    >>> [text.get_text() for text in ax.texts]
    ['L1H2']
    """
    levels = sorted({float(alpha)} if isinstance(alpha, int | float) else {float(a) for a in alpha}, reverse=True)
    if not levels:
        raise InputError("alpha is empty: give one level or more, such as 0.05")
    limits = [result.limit(level) for level in levels]
    observed, null = result.compared()
    name = result.one_prompt(prompt)
    if name is not None:
        observed, null = observed.sel(prompt=name, drop=True), null.sel(prompt=name, drop=True)
    shown = as_map(observed, "a null plot")
    marked, top = on_map(mark, shown), best(shown, annotate_top)
    check_scored(marked, shown)
    if ax is None:
        ax = new_axes(6.4, 3.4)

    scores = shown.values[np.isfinite(shown.values)]
    single = null.values[np.isfinite(null.values)]
    span = (min(single.min(), scores.min()), max(result.null_maxima.max(), scores.max()))
    edges = np.linspace(*span, bins + 1)
    ax.hist(single, edges, density=True, histtype="step", color=BLUE, lw=1.3, label="null, each head")
    ax.hist(
        result.null_maxima,
        edges,
        density=True,
        color="#bdbdbd",
        ec="#8a8a8a",
        lw=0.5,
        label=f"null, highest of {int(np.isfinite(result.scores.values).sum())}",
        zorder=1,
    )
    for number, (level, limit) in enumerate(zip(levels, limits, strict=True)):
        dashes: Any = ((0, (5, 2)), (0, (1, 1.2)), (0, (5, 1, 1, 1)), "-")[number % 4]
        ax.axvline(limit, color=ink(ax), lw=1.4, ls=dashes, label=f"family-wise {level:g}", zorder=2)
    tall = ax.get_ylim()[1]
    above = scores > limits[-1]
    count = int(above.sum())
    words = f"observed: {len(scores) - count} heads"
    ax.vlines(scores[~above], 0, 0.05 * tall, color=GREY, lw=1, zorder=3, label=words)
    words = f"observed: {count} above {levels[-1]:g}"
    ax.vlines(scores[above], 0, 0.1 * tall, color=VERMILION, lw=1.6, zorder=3, label=words)
    room = 0.03 * (span[1] - span[0])
    ax.set_xlim(span[0] - room, span[1] + room)
    ax.set_ylim(0, 1.08 * tall)
    name = label if label is not None else result.metric
    ax.set_xlabel(f"{name} (in spreads of the head's own null)" if result.studentised else name)
    ax.set_ylabel("density")
    ax.tick_params(axis="y", labelsize=small())
    if title is not None:
        ax.set_title(title, loc="left")
    plain_frame(ax)
    legend_below(ax)
    named = [*marked, *(one for one in top if one not in marked)]
    points = []
    for row, column, head in named:
        score = float(shown.values[row, column])
        points.append((score, (0.1 if score > limits[-1] else 0.05) * tall, head.label))
    name_in_rows(ax, points)
    return ax
