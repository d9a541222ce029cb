"""The permutation null beside the observed heads: how high the best of many scores by chance."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from headprobe.errors import InputError
from headprobe.heads import Head, HeadSet
from headprobe.plotting.canvas import BLUE, GREY, VERMILION, ink, legend_below, new_axes, plain_frame, small
from headprobe.plotting.maps import as_map, best, check_scored, on_map
from headprobe.plotting.names import name_in_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from headprobe.metrics.significance import MaxStatistic

__all__ = ["null_plot"]


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
