"""Parts of a report about heads: their maps, and the chosen ones with stability and significance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from headprobe.errors import InputError
from headprobe.heads import Head, HeadSet
from headprobe.plotting._pictures import figure_png
from headprobe.report._blocks import Figure, Table

if TYPE_CHECKING:
    from xarray import DataArray

    from headprobe.metrics.significance import MaxStatistic


def map_figures(
    maps: DataArray | Mapping[str, DataArray],
    split: str,
    mark: HeadSet | Iterable[Head | str | tuple[int, int]] = (),
    p_values: DataArray | None = None,
    alpha: float = 0.05,
    label: str | None = None,
) -> list[Figure]:
    """Heatmaps of one map, of each prompt or metric, or of several maps by name."""
    from headprobe.plotting._cells import as_map, best
    from headprobe.plotting.heatmap import heatmap, heatmap_grid

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
    """The chosen heads: score, stability over prompts, ranks, how often chosen, and family-wise p."""
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
    """Pictures of stability over prompts and of the permutation null, where they exist."""
    from headprobe.plotting.ranks import consensus_plot, null_plot, stability_plot

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
