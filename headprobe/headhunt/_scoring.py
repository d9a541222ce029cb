"""Scores of all heads from a store or a file, the best of them, and how they agree with a published list."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headprobe._files import read_text, replacing, write_file
from headprobe.errors import InputError
from headprobe.headhunt.headhunt import identify
from headprobe.headhunt.presets import _metrics_by_name
from headprobe.headhunt.published import Comparison, compare_heads, published
from headprobe.heads import HeadSet
from headprobe.metrics.stability import rss
from headprobe.scores import from_csv, from_json, to_csv, to_json, top_heads

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True, eq=False)
class Scored:
    """A score map, its best heads, and a comparison where one was asked for."""

    scores: xr.DataArray
    heads: HeadSet
    what: str
    comparison: Comparison | None = None
    source: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, without the map."""
        best = {h.label: float(self.scores.sel(layer=h.layer, head=h.head)) for h in self.heads}
        out: dict[str, Any] = {"scores": self.what, "heads": best}
        if self.comparison is not None:
            out["comparison"] = self.comparison.to_dict() | {"source": self.source}
        return out

    def lines(self) -> list[str]:
        """The same in words, a line each."""
        best = ", ".join(f"{label} {value:.3f}" for label, value in self.to_dict()["heads"].items())
        out = [f"{self.what}; best heads: {best}"]
        one = self.comparison
        if one is not None:
            shared = f" ({', '.join(one.shared)})" if one.shared else ""
            ranks = ", ".join(f"{label} {rank}" for label, rank in one.ranks.items())
            out += [
                f"compared with {one.name}: {self.source}",
                f"overlap of the best {one.k} with it: {one.overlap}{shared}; p = {one.p_overlap:.3g} by chance",
                f"ranks of its heads among {one.n_heads}: {ranks}; on average above {one.mean_percentile:.0%} of the "
                f"others; p = {one.p_rank:.3g} by chance",
            ]
        return out


def score_heads(
    source: str | os.PathLike[str],
    *,
    metrics: Sequence[Any] = ("lda", "kl", "mmd", "nmi"),
    instability_penalty: float = 0.5,
    k: int = 5,
    compare: str | None = None,
    out: str | os.PathLike[str] | None = None,
    figure: str | os.PathLike[str] | None = None,
    random_state: int = 0,
) -> Scored:
    """Score all heads of a store by how well they tell its labels apart, and compare with a published list."""
    for name, path, endings in (("out", out, (".csv", ".json")), ("figure", figure, (".png",))):
        if path is not None and Path(path).suffix.lower() not in endings:
            raise InputError(f"{name} must end in {' or '.join(endings)}, got {os.fspath(path)!r}")
    given = None if compare is None else published(compare)
    scores, what = _scores(Path(source), metrics, instability_penalty, k, random_state)
    heads = top_heads(scores, k)
    comparison = None if given is None else compare_heads(scores, given)
    if out is not None:
        if Path(out).suffix.lower() == ".csv":
            to_csv(scores, out)
        else:
            write_file(out, to_json(scores) + "\n")
    if figure is not None:
        from matplotlib.figure import Figure

        from headprobe.plotting.heatmap import heatmap

        canvas = Figure(figsize=(7.0, 5.0), layout="constrained")
        heatmap(scores, mark=heads, ax=canvas.add_subplot(), label=str(scores.name))
        with replacing(figure, ".png") as part:
            canvas.savefig(os.fspath(part), dpi=150)
    return Scored(scores, heads, what, comparison, "" if given is None else given.source)


def _scores(
    source: Path, metrics: Sequence[Any], penalty: float, k: int, random_state: int
) -> tuple[xr.DataArray, str]:
    ending = source.suffix.lower()
    if source.is_file() and ending in (".csv", ".json"):
        score_map = from_csv(source) if ending == ".csv" else from_json(read_text(source))
        if "metric" in score_map.dims:
            from headprobe.metrics.saliency import combine

            score_map = combine(score_map)
        if "prompt" in score_map.dims:
            return rss(score_map, penalty), f"RSS of {source.name}"
        return score_map, f"scores of {source.name}"
    from headprobe.store import Store

    acts = Store.open(source).activations()
    unlabelled = int(acts.examples["label"].isna().to_numpy().sum())
    if unlabelled:
        raise InputError(
            f"{unlabelled} of {len(acts.examples)} clips in {os.fspath(source)} have no label, so heads cannot be "
            "scored: extract from a table with a column label"
        )
    found = identify(
        acts,
        k=k,
        metrics=_metrics_by_name(metrics),
        instability_penalty=penalty,
        random_state=random_state,
    )
    prompts, n = len(acts.prompts), len(acts.examples)
    names = [one if isinstance(one, str) else getattr(one, "name", repr(one)) for one in metrics]
    return found.rss, f"RSS over {prompts} prompts ({', '.join(names)}) of {n} clips"
