"""Ranks of heads: how the scores fall off from the best head on, and where heads stand in several rankings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from headprobe._validation import count
from headprobe.errors import InputError
from headprobe.heads import Head, HeadSet
from headprobe.metrics.ranks import ranks, repeats
from headprobe.metrics.stability import mean, rss, standard_deviation
from headprobe.plotting._canvas import (
    BLUE,
    GREY,
    SERIES,
    VERMILION,
    chance_line,
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
from headprobe.plotting._cells import as_map, best, marked_and_named, same_cells

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
    mark, annotate_top
        Heads to draw larger and to name, and how many of the highest to name too.
    ax, title
        Where to draw, a figure of its own if not given; title of the Axes.
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
    marked, named = marked_and_named(shown, mark, annotate_top)
    if k is not None:
        count(k, "k", 1, n)
    ax = new_axes(6.0, 3.4) if ax is None else ax
    rows, columns = np.array([place[:2] for place in places]).T
    scores, at = shown.values[rows, columns], np.arange(1, n + 1)
    points = {head: (float(rank), float(score)) for (*_, head), rank, score in zip(places, at, scores, strict=True)}
    log = n >= _LOG_FROM if log is None else log
    chance_line(ax, chance)
    if spread is not None:
        half = same_cells(spread, shown, "spreads")[rows, columns]
        ax.vlines(at, scores - half, scores + half, color=GREY, lw=0.8, alpha=0.6, zorder=1.5, label="± spread")
    ax.plot(at, scores, color=BLUE, lw=0.8, marker="o", ms=4.0 if n <= 60 else 2.5, zorder=2, label=f"{n} heads")
    if k is not None:
        ax.axvline(_behind(k, log), color=ink(ax), lw=1.2, ls=":", label=f"the best {k}", zorder=1)
    if marked:
        where = zip(*(points[head] for *_, head in marked), strict=True)
        ax.plot(*where, "D", color=VERMILION, mec="white", mew=0.7, ms=7, zorder=3, label="marked")
    if log:
        ax.set(xscale="log", xlim=(0.8, n * 1.25))
        ax.xaxis.set_major_formatter("{x:g}")
    else:
        ax.set_xlim(0, n + 1)
        ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    ax.margins(y=0.12)
    ax.set(xlabel="rank", ylabel=shown.label(label))
    plain_frame(ax, title=title)
    ax.legend(frameon=False, fontsize=small(), loc="best")
    name_points(ax, [(*points[head], head.label) for *_, head in named], others=np.column_stack([at, scores]))
    return ax


def _behind(k: int, log: bool) -> float:
    """Where the line behind the k-th rank stands."""
    return float(np.sqrt(k * (k + 1))) if log else k + 0.5


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
    ax, title, log
        As in `rank_plot`.
    dim
        The dim of the rankings.
    final
        Dims (layer, head): scores that the rankings were brought together to, as from
        `headprobe.metrics.consensus.consensus_scores`, for a last ranking set apart.
    k
        Number of heads that a ranking would choose: a line below the k-th.

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
        count(k, "k", 1, n)
    present = np.isfinite(table.one.values)
    rank = ranks(score_map).values[:, present]
    at, names = np.arange(len(rank), dtype=float), list(table.names)
    if final is not None:
        values = same_cells(final, as_map(table.one), "final scores")
        rank = np.vstack([rank, ranks(table.one.copy(data=values)).values[present]])
        at, names = np.append(at, at[-1] + 1.4), [*names, str(final.name or "final")]
    ax = new_axes(min(2.2 + 1.1 * len(names), 11.0), 4.2) if ax is None else ax
    log = n >= _LOG_FROM if log is None else log
    # Where the others are not drawn, what lies far below the chosen ones would be an empty half.
    traced = rank[:, [place[head] for head in chosen]]
    last = n if n <= _BEHIND else min(n, 2 * max(float(traced.max()), k or 1))
    if log:
        ax.set(yscale="log", ylim=(last * 1.15, 0.85))
        ax.yaxis.set_major_formatter("{x:g}")
    else:
        ax.set_ylim(last + 0.6, 0.4)
        ax.set_yticks([1, *(tick for tick in ax.get_yticks() if 1 < tick <= last and tick == int(tick))])
        ax.set_ylim(last + 0.6, 0.4)
    ax.set_xlim(-0.25, at[-1] + 0.25)
    if n <= _BEHIND:
        ax.plot(at, rank, color="#b5b5b5", lw=0.6, alpha=0.6, zorder=1)
    if k is not None:
        ax.axhline(_behind(k, log), color=ink(ax), lw=1.2, ls=":", zorder=2)
        ax.annotate(
            f"best {k}",
            (0, _behind(k, log)),
            xycoords=("axes fraction", "data"),
            xytext=(3, -2),
            textcoords="offset points",
            va="top",
            fontsize=small(),
            color=ink(ax),
            zorder=4,
            bbox={"boxstyle": "round,pad=0.1", "fc": ax.get_facecolor(), "ec": "none", "alpha": 0.8},
        )
    styles = [SERIES[number % len(SERIES)] for number in range(len(chosen))]
    for style, heights in zip(styles, traced.T, strict=True):
        ax.plot(at, heights, **style._asdict(), lw=1.8, ms=6, mec="white", mew=0.7, zorder=3, clip_on=False)
    if final is not None:
        ax.axvline(at[-1] - 0.7, color=GREY, lw=0.8, zorder=0.5)
    ax.set_ylabel(f"rank of {n} heads")
    _name_rankings(ax, at, names, dim)
    plain_frame(ax, title=title)
    name_at_right(
        ax, [(float(y), head.label, one.color) for y, head, one in zip(traced[-1], chosen, styles, strict=True)]
    )
    return ax


def _name_rankings(ax: Axes, at: np.ndarray, names: list[str], dim: str) -> None:
    """Names beneath the rankings, slanted where they are long; with very many, some of them."""
    room = size_in_points(ax)[0] / len(names)
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
    mark, annotate_top
        Heads to draw larger and to name, and how many of the highest RSS to name too.
    ax, title, label
        As in `rank_plot`.
    dim
        The dim of the repeats.
    instability_penalty
        lambda of the robust saliency score, mean - lambda * standard deviation
        (`headprobe.metrics.stability.rss`): the slope of the lines.
    k
        Number of heads that were chosen: a heavier line through the k-th highest RSS.

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
    marked, named = marked_and_named(score, mark, annotate_top)
    n = len(table.heads)
    if k is not None:
        count(k, "k", 1, n)
    ax = new_axes(5.6, 4.2) if ax is None else ax
    there = np.isfinite(center)
    dots = np.column_stack([spread[there], center[there]])
    few = n <= 200
    ax.scatter(*dots.T, s=22 if few else 7, color=BLUE, alpha=0.8 if few else 0.5, lw=0, zorder=2)
    if marked:
        rows, columns = np.array([place[:2] for place in marked]).T
        x, y = spread[rows, columns], center[rows, columns]
        ax.scatter(x, y, s=58, marker="D", color=VERMILION, ec="white", lw=0.8, zorder=3)
    low, high = dots.min(0), dots.max(0)
    room = 0.1 * (high[1] - low[1]) or 0.1
    widest = high[0] * 1.08 or 1.0
    ax.set_xlim(0 if n <= 1 or low[0] < 0.3 * widest else None, widest)
    ax.set_ylim(low[1] - room, high[1] + room)
    ax.set_xlabel(f"standard deviation over {len(table.names)} {dim}s")
    ax.set_ylabel(f"mean {label if label is not None else score_map.name or 'score'}")
    plain_frame(ax, title=title)
    settle(ax)
    cut = None if k is None else float(np.sort(score.values[there])[-k])
    _equal_lines(ax, instability_penalty, cut, k)
    points = [(float(spread[row, column]), float(center[row, column]), head.label) for row, column, head in named]
    name_points(ax, points, others=dots, settled=True)
    return ax


def _equal_lines(ax: Axes, slope: float, cut: float | None, k: int | None) -> None:
    """Lines mean = RSS + slope * sd within the limits, each with its RSS beside its right end."""
    from matplotlib.ticker import MaxNLocator

    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    to_points = np.array(size_in_points(ax)) / (right - left, top - bottom)
    levels = MaxNLocator(7, steps=[1, 2, 5, 10]).tick_values(bottom - slope * right, top - slope * left)
    lines: list[Any] = [(float(level), GREY, 0.7, "-", f"{level:.4g}") for level in levels if level != cut]
    if cut is not None:
        lines.append((cut, ink(ax), 1.6, (0, (5, 2)), f"{cut:.3g}: {k} heads"))
    taken: list[np.ndarray] = []
    for level, colour, width, dashes, words in reversed(lines):
        ax.axline((0, level), slope=slope, color=colour, lw=width, ls=dashes, zorder=1)
        # The right end: where the line leaves the plot, at the side or at the top.
        x = min(right, (top - level) / slope) if slope > 0 else right
        y = level + slope * x
        place = np.array([x, y]) * to_points
        hidden = any((np.abs(place - other) < (2.2 * small(), 1.3 * small())).all() for other in taken)
        if hidden or not (left <= x and bottom < y <= top + 1e-9):
            continue
        taken.append(place)
        ax.annotate(
            words,
            (x, y),
            xytext=(4, 0) if x == right else (0, 3),
            textcoords="offset points",
            ha="left" if x == right else "center",
            va="center" if x == right else "bottom",
            fontsize=small(),
            color=colour,
            annotation_clip=False,
        )
    words = f"RSS = mean − {slope:g} sd" if slope else "RSS = mean"
    ax.text(0.985, 0.02, words, transform=ax.transAxes, ha="right", va="bottom", fontsize=small(), color=GREY)


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
    mark, annotate_top
        Heads to name, for example those that were chosen, and how many of the highest to name too.
    ax, title
        Where to draw, a figure of its own if not given; title of the Axes.
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
    name = result._one_prompt(prompt)
    if name is not None:
        observed, null = observed.sel(prompt=name, drop=True), null.sel(prompt=name, drop=True)
    import seaborn

    shown = as_map(observed, "a null plot")
    _, named = marked_and_named(shown, mark, annotate_top)
    ax = new_axes(6.4, 3.4) if ax is None else ax

    scores = shown.values[np.isfinite(shown.values)]
    single = null.values[np.isfinite(null.values)]
    low, high = min(single.min(), scores.min()), max(result.null_maxima.max(), scores.max())
    edges = np.linspace(low, high, bins + 1)
    drawn: Any = {"bins": edges, "stat": "density", "ax": ax, "legend": False}
    seaborn.histplot(single, **drawn, element="step", fill=False, color=BLUE, lw=1.3, label="null, each head")
    words = f"null, highest of {int(np.isfinite(result.scores.values).sum())}"
    seaborn.histplot(result.null_maxima, **drawn, color="#bdbdbd", ec="#8a8a8a", lw=0.5, alpha=1, label=words, zorder=1)
    for number, (level, limit) in enumerate(zip(levels, limits, strict=True)):
        dashes: Any = ((0, (5, 2)), (0, (1, 1.2)), (0, (5, 1, 1, 1)), "-")[number % 4]
        ax.axvline(limit, color=ink(ax), lw=1.4, ls=dashes, label=f"family-wise {level:g}", zorder=2)
    tall = ax.get_ylim()[1]
    above = scores > limits[-1]
    words = f"observed: {int((~above).sum())} heads"
    ax.vlines(scores[~above], 0, 0.05 * tall, color=GREY, lw=1, zorder=3, label=words)
    words = f"observed: {int(above.sum())} above {levels[-1]:g}"
    ax.vlines(scores[above], 0, 0.1 * tall, color=VERMILION, lw=1.6, zorder=3, label=words)
    room = 0.03 * (high - low)
    ax.set(xlim=(low - room, high + room), ylim=(0, 1.08 * tall), ylabel="density")
    name = label if label is not None else result.metric
    ax.set_xlabel(f"{name} (in spreads of the head's own null)" if result.studentised else name)
    ax.tick_params(axis="y", labelsize=small())
    plain_frame(ax, title=title)
    handles = ax.get_legend_handles_labels()[0]
    legend_below(ax, [handles[0], handles[-1], *handles[1:-1]])  # bars come last, wherever they were drawn
    found = [(float(shown.values[row, column]), head.label) for row, column, head in named]
    name_in_rows(ax, [(x, (0.1 if x > limits[-1] else 0.05) * tall, words) for x, words in found])
    return ax
