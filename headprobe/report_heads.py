"""Parts of a report about heads: their maps, and the chosen ones with stability and significance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from headprobe.errors import InputError
from headprobe.heads import Head, HeadSet
from headprobe.report_blocks import Figure, Table
from headprobe.report_pictures import figure_png

if TYPE_CHECKING:
    from xarray import DataArray

    from headprobe.metrics.significance import MaxStatistic

__all__ = ["heads_figures", "heads_table", "map_figures"]


def map_figures(
    maps: DataArray | Mapping[str, DataArray],
    split: str,
    mark: HeadSet | Iterable[Head | str | tuple[int, int]] = (),
    p_values: DataArray | None = None,
    alpha: float = 0.05,
    label: str | None = None,
) -> list[Figure]:
    """Heatmaps of one map, of each prompt or metric, or of several maps by name.

    Parameters
    ----------
    maps
        Dims (layer, head), with one or two more of prompt and metric, or a mapping from name to such maps.
    split
        What the scores were computed on, for the captions.
    mark
        Heads to outline and name.
    p_values
        Dims (layer, head): where they are above `alpha`, the map of one score per head is hatched.
    alpha
        Level of significance.
    label
        What the scores are; the map's own name if not given.

    Returns
    -------
    list of Figure
        Drawn.

    Raises
    ------
    InputError
        As in `headprobe.plotting.heatmap.heatmap` and `headprobe.plotting.grid.heatmap_grid`.

    Examples
    --------
    >>> from headprobe.scores import score_map
    >>> (one,) = map_figures(score_map([[0.1, 0.9]], name="RSS"), "calibration videos", ["L0H1"])
    >>> one.caption, one.alt
    ('RSS, calibration videos.', 'Heatmap of RSS over 1 layers and 2 heads. Highest: L0H1. Marked: L0H1.')
    """
    from headprobe.plotting.grid import heatmap_grid
    from headprobe.plotting.heatmap import heatmap
    from headprobe.plotting.maps import as_map, best

    marked = HeadSet(mark)
    if isinstance(maps, Mapping):
        return [
            figure
            for name, one in maps.items()
            for figure in map_figures(one, split, marked, p_values, alpha, label or str(name))
        ]
    name = label or str(maps.name or "score")
    if set(maps.dims) == {"layer", "head"}:
        ax = heatmap(maps, mark=marked, p_values=p_values, alpha=alpha, label=label)
        sizes = f"{maps.sizes['layer']} layers and {maps.sizes['head']} heads"
        highest = ", ".join(head.label for _, _, head in best(as_map(maps), 1))
        words = f"Heatmap of {name} over {sizes}. Highest: {highest}."
        caption = f"{name}, {split}."
    else:
        # Metrics have units of their own, prompts share one.
        axes = heatmap_grid(maps, mark=marked, label=label, scale="each" if "metric" in maps.dims else "shared")
        ax = next(iter(axes.values()))
        others = " and ".join(str(dim) for dim in maps.dims if dim not in ("layer", "head"))
        words = f"Heatmaps of {name} over layers and heads, one for each {others}."
        caption = f"{name} by {others}, {split}."
    words += f" Marked: {', '.join(marked.labels)}." if marked else ""
    return [_drawn(ax, words, caption)]


def heads_table(
    heads: HeadSet | Iterable[Head | str | tuple[int, int]],
    scores: DataArray,
    split: str,
    instability_penalty: float = 0.5,
    significance: MaxStatistic | None = None,
    chosen_in: Mapping[str, float] | None = None,
    p_values: DataArray | None = None,
) -> Table:
    """The chosen heads: score, stability over prompts, ranks, how often chosen, and family-wise p.

    Parameters
    ----------
    heads
        The chosen heads, best first.
    scores
        Dims (prompt, layer, head), or (layer, head) for a score without repeats.
    split
        What the scores were computed on.
    instability_penalty
        lambda of RSS = mean - lambda * standard deviation (`headprobe.metrics.stability.rss`).
    significance
        A test of all heads; of several prompts, the smallest of a head's p-values is given.
    chosen_in
        Share of draws or resamples, 0 to 1, in which each head was chosen, by label; 0 for those not named.
    p_values
        Dims (layer, head): family-wise p-values, where the test itself is not at hand.

    Returns
    -------
    Table

    Raises
    ------
    InputError
        No head is chosen, or one has no score or no p-value.

    Examples
    --------
    >>> from headprobe.scores import score_map
    >>> maps = score_map([[[1.0, 0.8]], [[0.0, 0.6]]], prompts=["p1", "p2"])
    >>> table = heads_table(["L0H1"], maps, "calibration videos")
    >>> [float(round(x, 2)) if isinstance(x, float) else x for x in table.rows[0]]
    ['L0H1', 0.65, 0.7, 0.1, 1, '2, 1']
    """
    from headprobe.metrics.ranks import ranks
    from headprobe.metrics.stability import mean, rss, standard_deviation

    chosen = HeadSet(heads)
    if not chosen:
        raise InputError("no head is chosen: name the heads of the report")
    repeated = "prompt" in scores.dims
    columns: dict[str, dict[Head, Any]] = {}
    if repeated:
        stable, n = rss(scores, instability_penalty), scores.sizes["prompt"]
        single = ranks(scores)
        columns["RSS"] = {head: _at(stable, head) for head in chosen}
        columns["mean"] = {head: _at(mean(scores), head) for head in chosen}
        columns[f"SD over {n} prompts"] = {head: _at(standard_deviation(scores), head) for head in chosen}
        columns["rank"] = {head: _rank(stable, head) for head in chosen}
        columns["ranks under single prompts"] = {
            head: ", ".join(f"{_at(single.isel(prompt=i), head):g}" for i in range(n)) for head in chosen
        }
    else:
        columns[str(scores.name or "score")] = {head: _at(scores, head) for head in chosen}
        columns["rank"] = {head: _rank(scores, head) for head in chosen}
    if chosen_in is not None:
        columns["chosen in"] = {head: f"{100 * chosen_in.get(head.label, 0):.0f} %" for head in chosen}
    if significance is not None:
        p_values = significance.p_step_down
        p_values = p_values.min("prompt") if "prompt" in p_values.dims else p_values
    if p_values is not None:
        columns["p (family-wise)"] = {head: _at(p_values, head) for head in chosen}
    count = int(np.isfinite(scores.values).any(tuple(range(scores.ndim - 2))).sum())
    caption = f"The {len(chosen)} chosen of {count} heads; scores from {split}."
    if repeated:
        caption += f" RSS = mean - {instability_penalty:g} SD over prompts; SD is what the prompt's words change."
    rows = [[head.label, *(values[head] for values in columns.values())] for head in chosen]
    return Table(["head", *columns], rows, caption)


def heads_figures(
    heads: HeadSet | Iterable[Head | str | tuple[int, int]],
    scores: DataArray,
    split: str,
    instability_penalty: float = 0.5,
    significance: MaxStatistic | None = None,
) -> list[Figure]:
    """Pictures of stability over prompts, where there are several, and of the permutation null, where there is a test.

    Parameters
    ----------
    heads, scores, split, instability_penalty, significance
        As in `heads_table`.

    Returns
    -------
    list of Figure
        Drawn.

    Raises
    ------
    InputError
        As in `headprobe.plotting.stability.stability_plot`, `headprobe.plotting.ranks.consensus_plot` and
        `headprobe.plotting.null.null_plot`.

    Examples
    --------
    >>> from headprobe.scores import score_map
    >>> maps = score_map([[[1.0, 0.8]], [[0.0, 0.6]]], prompts=["p1", "p2"])
    >>> [figure.caption.split(":")[0] for figure in heads_figures(["L0H1"], maps, "calibration videos")]
    ['Mean over prompts against standard deviation', 'Rank of the chosen heads under each prompt']
    """
    from headprobe.plotting.null import null_plot
    from headprobe.plotting.ranks import consensus_plot
    from headprobe.plotting.stability import stability_plot

    chosen, figures = HeadSet(heads), []
    named = ", ".join(chosen.labels)
    if "prompt" in scores.dims and scores.sizes["prompt"] > 1:
        ax = stability_plot(scores, mark=chosen, instability_penalty=instability_penalty, k=len(chosen))
        words = f"Each head's mean score over prompts against its standard deviation, {named} marked."
        caption = (
            "Mean over prompts against standard deviation: heads at the upper left are high and stable; lines of "
            f"equal RSS, {split}."
        )
        figures.append(_drawn(ax, words, caption))
        ax = consensus_plot(scores, chosen, k=len(chosen))
        words = f"Ranks of {named} under each of {scores.sizes['prompt']} prompts."
        figures.append(
            _drawn(ax, words, f"Rank of the chosen heads under each prompt: level lines are stable, {split}.")
        )
    if significance is not None:
        prompt = None
        if "prompt" in significance.scores.dims:
            best = significance.p_step_down.min(("layer", "head"))
            prompt = str(best.coords["prompt"].values[int(np.argmin(best.values))])
        ax = null_plot(significance, mark=chosen, annotate_top=0, prompt=prompt)
        under = f" under the prompt {prompt}" if prompt is not None else ""
        words = f"Null distribution of the highest {significance.metric} of all heads, and the observed scores{under}."
        caption = (
            f"Permutation test of {significance.metric}{under}, {significance.n_permutations} relabellings: grey is "
            f"what the best of all heads reaches by chance, {split}."
        )
        figures.append(_drawn(ax, words, caption))
    return figures


def _drawn(source: Any, alt: str, caption: str = "", dpi: int = 150) -> Figure:
    """A figure as it stands now."""
    return Figure(figure_png(source, dpi), alt, caption, dpi)


def _at(scores: DataArray, head: Head) -> float:
    layers, numbers = scores.coords["layer"].values.tolist(), scores.coords["head"].values.tolist()
    if head.layer not in layers or head.head not in numbers:
        raise InputError(f"{head} is among the chosen heads, but the scores have no such head")
    value = float(scores.sel(layer=head.layer, head=head.head))
    if not np.isfinite(value):
        raise InputError(f"{head} is among the chosen heads, but it has no score")
    return value


def _rank(scores: DataArray, head: Head) -> int:
    """1 for the highest; heads of equal score share the best rank."""
    return 1 + int((scores.values > _at(scores, head)).sum())
