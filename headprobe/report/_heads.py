"""Parts of a report about heads: their maps, and the chosen ones with stability and significance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from headprobe.errors import InputError
from headprobe.heads import Head, HeadSet
from headprobe.report._blocks import Figure, Table
from headprobe.report._html import drawn

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
    return [drawn(Figure(ax, words, caption))]


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
    ranked = rss(scores, instability_penalty) if repeated else scores
    columns: dict[str, list[Any]] = {
        "head": list(chosen.labels),
        "RSS" if repeated else str(scores.name or "score"): _at(ranked, chosen),
    }
    if repeated:
        columns["mean"] = _at(mean(scores), chosen)
        columns[f"SD over {scores.sizes['prompt']} prompts"] = _at(standard_deviation(scores), chosen)
    # 1 for the highest; heads of equal score share the best rank.
    columns["rank"] = [1 + int((ranked.values > value).sum()) for value in _at(ranked, chosen)]
    if repeated:
        single = zip(*(_at(one, chosen) for one in ranks(scores)), strict=True)
        columns["ranks under single prompts"] = [", ".join(f"{rank:g}" for rank in own) for own in single]
    if chosen_in is not None:
        columns["chosen in"] = [f"{100 * chosen_in.get(label, 0):.0f} %" for label in chosen.labels]
    if significance is not None:
        p_values = significance.p_step_down
        p_values = p_values.min("prompt") if "prompt" in p_values.dims else p_values
    if p_values is not None:
        columns["p (family-wise)"] = _at(p_values, chosen)
    count = int(np.isfinite(scores.values).any(tuple(range(scores.ndim - 2))).sum())
    caption = f"The {len(chosen)} chosen of {count} heads; scores from {split}."
    if repeated:
        caption += f" RSS = mean - {instability_penalty:g} SD over prompts; SD is what the prompt's words change."
    return Table(list(columns), [list(row) for row in zip(*columns.values(), strict=True)], caption)


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
        figures.append(drawn(Figure(ax, words, caption)))
        ax = consensus_plot(scores, chosen, k=len(chosen))
        words = f"Ranks of {named} under each of {scores.sizes['prompt']} prompts."
        caption = f"Rank of the chosen heads under each prompt: level lines are stable, {split}."
        figures.append(drawn(Figure(ax, words, caption)))
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
        figures.append(drawn(Figure(ax, words, caption)))
    return figures


def _at(scores: DataArray, heads: HeadSet) -> list[float]:
    layers, numbers = scores.coords["layer"].values.tolist(), scores.coords["head"].values.tolist()
    values = []
    for head in heads:
        if head.layer not in layers or head.head not in numbers:
            raise InputError(f"{head} is among the chosen heads, but the scores have no such head")
        values.append(float(scores.sel(layer=head.layer, head=head.head)))
        if not np.isfinite(values[-1]):
            raise InputError(f"{head} is among the chosen heads, but it has no score")
    return values
