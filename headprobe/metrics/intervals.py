"""Bootstrap intervals: how far scores, ranks and RSS would move with other groups of examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from headprobe._validation import choice, count, number
from headprobe.errors import InputError
from headprobe.heads import Head
from headprobe.metrics._features import Batch, head_map, score_heads
from headprobe.metrics._labellings import Data, group_halves, memory_of, read_data, score_parts
from headprobe.metrics.linear_probe import _resampled_auroc, loo_ridge_scores
from headprobe.metrics.metric import Metric
from headprobe.metrics.normalisation import _zero_to_one
from headprobe.metrics.probe_scores import _check_groups, _one_against_rest
from headprobe.metrics.ranks import ranks
from headprobe.metrics.resampling import group_resamples
from headprobe.metrics.saliency import METRICS, _find_metrics
from headprobe.metrics.stability import rss
from headprobe.scores import _top_heads_quietly

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["Interval", "WinnersCurse", "bootstrap_intervals", "corrected_interval", "winners_curse"]


def bootstrap_intervals(
    acts_or_z: Any,
    y: ArrayLike | Tensor | None = None,
    metric: str | Metric | Callable[..., Any] | Sequence[str] = "auroc",
    groups: Sequence[Any] | np.ndarray | Tensor | bool | None = None,
    n_resamples: int = 1000,
    level: float = 0.95,
    instability_penalty: float = 0.5,
    random_state: int = 0,
    *,
    refit: bool = True,
    kind: str = "percentile",
    target: str | None = None,
    leave_out: Sequence[Head | str | tuple[int, int]] = (),
    progress: bool = True,
) -> xr.Dataset:
    """Bootstrap intervals of every head's score, its rank among all heads and, with prompts, its RSS.

    Whole groups are drawn with replacement, within classes (`headprobe.metrics.resampling.group_resamples`); all heads
    and prompts see the same resamples.

    Parameters
    ----------
    acts_or_z, y, metric, groups, target, leave_out
        As in `headprobe.metrics.significance.max_statistic`. Several names: every metric is brought to 0 to 1 over the
        heads and averaged, in every resample anew (`headprobe.metrics.normalisation.combine`).
    n_resamples
        Number of resamples.
    level
        Share of the resamples inside the interval, 0 to 1.
    instability_penalty
        lambda of RSS, 0 or more; only with a prompt axis.
    random_state
        Seed of the resamples, and of metrics that draw.
    refit
        Only for `"auroc"`: whether to fit the probe to every resample anew. Without, the held-out scores are
        computed once and these are resampled: hundreds of times quicker, but what other training examples would have
        changed is left out, and the intervals are too narrow.
    kind
        `"percentile"`, or `"basic"` (the percentiles mirrored at the observed score) for scores; ranks always have
        percentiles.
    progress
        Whether to show a bar of the heads done, if it takes longer than some seconds.

    Returns
    -------
    xarray.Dataset
        `score`, `score_low`, `score_high`, `rank`, `rank_low`, `rank_high` with dims ([prompt,] layer, head), and with
        prompts the same of `rss` and `rss_rank` with dims (layer, head). Rank 1 is the best.

    Raises
    ------
    InputError
        If a class has fewer than three groups, or an argument is out of range; or as in `max_statistic`.

    Notes
    -----
    A resample repeats examples. Metrics without a held-out part (`lda`, `kl`, `mmd`, `nmi`) come out higher on repeated
    examples than on as many different ones, so their percentile interval lies too high and may not even hold the
    observed score; their ranks suffer less. `selectivity`, which leaves out one copy of an example and fits to the
    others, is drawn towards 0. Prefer `auroc` for intervals of a score.

    References
    ----------
    Davison and Hinkley, "Bootstrap Methods and their Application", 1997, sections 3.8 (groups) and 5.2 (intervals).

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> y = np.arange(40) % 2
    >>> z = rng.normal(size=(40, 1, 3, 4))
    >>> z[:, 0, 1] += 1.5 * y[:, None]
    >>> intervals = bootstrap_intervals(z, y, n_resamples=200)
    >>> best = intervals.sel(layer=0, head=1)
    >>> bool(best["score_low"] > 0.7), int(best["rank_high"])
    (True, 1)
    """
    several = not isinstance(metric, str | Metric) and not callable(metric)
    _check_arguments(metric, level, kind, refit)
    data = read_data(acts_or_z, y, groups, target, leave_out)
    chosen = _find_metrics(list(metric) if several else [metric], data.target.kind)  # pyright: ignore
    rows = group_resamples(data.labels, data.groups, n_resamples, random_state, bool(data.target.classes))  # pyright: ignore
    if metric == "auroc":
        maps = _probe_resampled(data, rows, refit, progress)
    else:
        parts = [np.arange(data.n), *rows]
        each = [score_parts(data, one, parts, random_state, progress) for one in chosen]
        maps = sum(_zero_to_one(one) for one in each) / len(each) if several else each[0]
    maps = maps.rename(part="resample")  # pyright: ignore
    result = {**_bounds(maps, "score", level, kind), **_bounds(ranks(maps), "rank", level, "percentile")}
    if "prompt" in maps.dims:
        robust = rss(maps, instability_penalty)
        result |= {**_bounds(robust, "rss", level, kind), **_bounds(ranks(robust), "rss_rank", level, "percentile")}
    import xarray as xr

    attrs = {"level": level, "n_resamples": n_resamples, "kind": kind, "random_state": random_state}
    return xr.Dataset(result, attrs=attrs)


def _check_arguments(metric: Any, level: float, kind: str, refit: bool) -> None:
    number(level, "level", above=0, below=1)
    choice(kind, "kind", ("percentile", "basic"))
    if not refit and metric != "auroc":
        raise InputError(f"refit=False is for metric 'auroc' only, got {metric!r}: other metrics have nothing to fit")


def _probe_resampled(data: Data, rows: list[np.ndarray], refit: bool, progress: bool) -> xr.DataArray:
    """Area under the curve of held-out scores: observed, then of every resample."""
    fold, n = data.fold, data.n
    weights = np.stack([np.ones(n), *(np.bincount(part, minlength=n) for part in rows)])
    tasks = _one_against_rest(data.target.values)
    if data.groups is not None:
        _check_groups(data.target.values, torch.from_numpy(fold))

    def areas(batch: Batch) -> np.ndarray:
        if refit:
            return np.stack([_weighted_auroc(batch.x, tasks, fold, own) for own in weights])
        scores = loo_ridge_scores(batch.x, tasks, fold).numpy()
        each = [_resampled_auroc(scores[:, i], task.numpy(), weights) for i, task in enumerate(tasks)]
        return np.mean(each, axis=0).T

    usual = memory_of(METRICS["auroc"])
    scored = score_heads(areas, data.features, lambda n, d: usual(n, d) + 8 * n * n, "resample", progress)
    maps = head_map(scored, data.features, range(len(weights)), "score")
    return maps.rename(metric="part")


def _weighted_auroc(x: Tensor, tasks: Tensor, fold: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean area over the tasks, [head], of probes fitted to one resample; copies of an example are never held apart."""
    there = np.flatnonzero(weights)
    index, own = torch.from_numpy(there), weights[there]
    scores = loo_ridge_scores(x[:, index], tasks[:, index], fold[there], weights=torch.from_numpy(own)).numpy()
    each = [_resampled_auroc(scores[:, i], task[index].numpy(), own[None])[:, 0] for i, task in enumerate(tasks)]
    return np.mean(each, axis=0)


def _bounds(maps: xr.DataArray, name: str, level: float, kind: str) -> dict[str, xr.DataArray]:
    observed = maps.isel(resample=0, drop=True)
    low, high = np.quantile(maps.values[1:], [(1 - level) / 2, (1 + level) / 2], axis=0)
    if kind == "basic":
        low, high = 2 * observed.values - high, 2 * observed.values - low
    return {
        name: observed.rename(name),
        f"{name}_low": observed.copy(data=low).rename(f"{name}_low"),
        f"{name}_high": observed.copy(data=high).rename(f"{name}_high"),
    }


class Interval(NamedTuple):
    """A mean with its interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, eq=False, repr=False)
class WinnersCurse:
    """Scores of selected heads where they were selected, and on the groups held out.

    Attributes
    ----------
    table
        One row per split and direction: split, direction (0 or 1: which half selects), heads (labels, best first),
        n_tied (heads left out that score as high as the last selected one), selection_score and held_out_score (mean
        over the selected heads on the selecting half and on the other), gap (their difference), all_heads (mean over
        all heads on the other half), n_selection and n_held_out (examples).
    selection_score, held_out_score, gap, all_heads
        Means over the splits with intervals.
    level
        Level of the intervals.
    """

    table: pd.DataFrame
    selection_score: Interval
    held_out_score: Interval
    gap: Interval
    all_heads: Interval
    level: float

    def __repr__(self) -> str:
        def text(value: Interval) -> str:
            return f"{value.mean:.3f} [{value.low:.3f}, {value.high:.3f}]"

        return (
            f"WinnersCurse(selected at {text(self.selection_score)}, held out {text(self.held_out_score)}, gap "
            f"{text(self.gap)}, all heads {text(self.all_heads)}; {self.table['split'].nunique()} splits)"
        )


def winners_curse(
    acts_or_z: Any,
    y: ArrayLike | Tensor | None = None,
    metric: str | Metric | Callable[..., Any] = "auroc",
    k: int = 5,
    groups: Sequence[Any] | np.ndarray | Tensor | bool | None = None,
    n_splits: int = 50,
    level: float = 0.95,
    instability_penalty: float = 0.5,
    random_state: int = 0,
    *,
    target: str | None = None,
    leave_out: Sequence[Head | str | tuple[int, int]] = (),
    progress: bool = True,
) -> WinnersCurse:
    """Score the best heads of one half of the groups on the other half, over repeated splits.

    The same metric is computed on each half by itself, and the halves have equal numbers of groups, so for a head
    chosen beforehand both scores have the same expectation: what the selected heads lose is the effect of
    selecting. Both halves of a split select in turn.

    Parameters
    ----------
    acts_or_z, y, metric, groups, target, leave_out
        As in `headprobe.metrics.significance.max_statistic`.
    k
        Number of heads to select: the `k` highest scores, with prompts the `k` highest RSS.
    n_splits
        Number of splits.
    level
        Level of the intervals, 0 to 1.
    instability_penalty
        lambda of RSS; only with a prompt axis.
    random_state
        Seed of the splits, and of metrics that draw.
    progress
        Whether to show a bar of the heads done, if it takes longer than some seconds.

    Returns
    -------
    WinnersCurse
        The splits and their means.

    Raises
    ------
    InputError
        If there are fewer than four groups (of a class), so that a half has fewer than two, fewer than two splits, or a
        half that a metric cannot score.

    Notes
    -----
    Splits overlap, so the spread over them understates what is not known. The intervals use the variance corrected for
    it, `(1 / n_splits + n_held_out / n_selection) s^2` with one half each (Nadeau and Bengio, "Inference for the
    generalization error", Machine Learning 52 (2003)), and a t quantile; they are on the wide side.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> result = winners_curse(rng.normal(size=(40, 5, 8, 3)), np.arange(40) % 2, k=2, n_splits=10)
    >>> result.selection_score.mean > 0.7, abs(result.held_out_score.mean - 0.5) < 0.1
    (True, True)
    """
    count(n_splits, "n_splits", 2)  # one split has no spread
    number(level, "level", above=0, below=1)
    data = read_data(acts_or_z, y, groups, target, leave_out)
    (chosen,) = _find_metrics([metric], data.target.kind)
    pairs = group_halves(data.labels, data.fold, n_splits, random_state, stratify=bool(data.target.classes))
    halves = [rows for pair in pairs for rows in pair]
    maps = score_parts(data, chosen, halves, random_state, progress)
    if "prompt" in maps.dims:
        maps = rss(maps, instability_penalty)
    rows = []
    for split in range(n_splits):
        for direction in (0, 1):
            here, there = (maps.isel(part=2 * split + i, drop=True) for i in (direction, 1 - direction))
            heads = _top_heads_quietly(here, k)
            selection, held_out = (
                float(np.mean([float(half.sel(layer=head.layer, head=head.head)) for head in heads]))
                for half in (here, there)
            )
            rows.append(
                {
                    "split": split,
                    "direction": direction,
                    "heads": " ".join(heads.labels),
                    "n_tied": len(heads.tied),
                    "selection_score": selection,
                    "held_out_score": held_out,
                    "gap": selection - held_out,
                    "all_heads": float(there.mean()),
                    "n_selection": len(halves[2 * split + direction]),
                    "n_held_out": len(halves[2 * split + 1 - direction]),
                }
            )
    import pandas as pd

    table = pd.DataFrame(rows)
    means = table.groupby("split")[["selection_score", "held_out_score", "gap", "all_heads"]].mean()
    intervals = {name: corrected_interval(means[name].to_numpy(), 1.0, level) for name in means}  # pyright: ignore
    return WinnersCurse(table=table, level=level, **intervals)


def corrected_interval(values: np.ndarray, test_share: float, level: float = 0.95) -> Interval:
    """Interval of a mean over overlapping splits, with the corrected resampled variance.

    Parameters
    ----------
    values
        `[split]`, 2 or more.
    test_share
        Number of test examples over number of training examples of a split.
    level
        Level, 0 to 1.

    Returns
    -------
    Interval
        Mean and `mean -+ t sqrt((1 / n + test_share) s^2)`.

    References
    ----------
    Nadeau and Bengio, "Inference for the generalization error", Machine Learning 52 (2003), section 4.

    Examples
    --------
    >>> [round(v, 3) for v in corrected_interval(np.array([0.6, 0.7, 0.8]), 0.25)]
    [0.7, 0.371, 1.029]
    """
    from scipy.stats import t

    spread = np.sqrt((1 / len(values) + test_share) * np.var(values, ddof=1))
    reach = float(t.ppf((1 + level) / 2, len(values) - 1) * spread)
    mean = float(np.mean(values))
    return Interval(mean, mean - reach, mean + reach)
