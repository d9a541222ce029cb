"""Bootstrap intervals: how far scores, ranks and RSS would move with other groups of examples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from headprobe.errors import InputError
from headprobe.metrics.features import Features, chunks, example_groups, head_map, label_array, read_features
from headprobe.metrics.labellings import Metric, bytes_per_head
from headprobe.metrics.linear_probe import fold_index, loo_ridge_scores, resampled_auroc
from headprobe.metrics.parts import score_parts
from headprobe.metrics.ranks import ranks
from headprobe.metrics.resampling import group_resamples
from headprobe.metrics.stability import rss

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["bootstrap_intervals"]


def bootstrap_intervals(
    acts_or_z: Any,
    y: ArrayLike | Tensor | None = None,
    metric: Metric | Sequence[str] = "auroc",
    groups: Sequence[Any] | np.ndarray | None = None,
    n_resamples: int = 1000,
    level: float = 0.95,
    instability_penalty: float = 0.5,
    refit: bool = False,
    kind: str = "percentile",
    random_state: int = 0,
) -> xr.Dataset:
    """Bootstrap intervals of every head's score, its rank among all heads and, with prompts, its RSS.

    Whole groups are drawn with replacement, within classes (`headprobe.metrics.resampling.group_resamples`); all heads
    and prompts see the same resamples.

    Parameters
    ----------
    acts_or_z, y, metric, groups
        As in `headprobe.metrics.significance.max_statistic`. Several names: every metric is brought to 0 to 1 over the
        heads and averaged, in every resample anew (`headprobe.metrics.normalisation.combine`).
    n_resamples
        Number of resamples.
    level
        Share of the resamples inside the interval, 0 to 1.
    instability_penalty
        lambda of RSS, 0 or more; only with a prompt axis.
    refit
        Only for `"auroc"`: whether to fit the probe to every resample anew. By default the held-out scores are computed
        once and these are resampled, which takes the probes as given: about 1000 times quicker, and the interval does
        not hold what other training examples would have changed. Other metrics are always computed anew.
    kind
        `"percentile"`, or `"basic"` (the percentiles mirrored at the observed score) for scores; ranks always have
        percentiles.
    random_state
        Seed of the resamples, and of metrics that draw.

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
    observed score; their ranks suffer less. Prefer `auroc` for intervals of a score.

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
    _check_arguments(metric, level, kind, refit)
    features, y = read_features(acts_or_z, y)
    groups = example_groups(acts_or_z, groups)
    n = len(features.ids)
    labels = label_array(y, n)
    fold = fold_index(groups, n)
    rows = group_resamples(labels, None if groups is None else fold, n_resamples, random_state)
    if metric == "auroc" and not refit:
        maps = _held_out_resampled(features, labels, fold, rows)
    else:
        parts = [np.arange(n), *rows]
        names = [metric] if isinstance(metric, str) or callable(metric) else list(metric)
        each = [score_parts(features, labels, parts, name, fold, random_state) for name in names]
        maps = each[0] if len(each) == 1 else sum(_zero_to_one(one) for one in each) / len(each)
    maps = maps.rename(part="resample")
    result = {**_bounds(maps, "score", level, kind), **_bounds(ranks(maps), "rank", level, "percentile")}
    if "prompt" in maps.dims:
        robust = rss(maps, instability_penalty)
        result |= {**_bounds(robust, "rss", level, kind), **_bounds(ranks(robust), "rss_rank", level, "percentile")}
    import xarray as xr

    attrs = {"level": level, "n_resamples": n_resamples, "kind": kind, "random_state": random_state}
    return xr.Dataset(result, attrs=attrs)


def _check_arguments(metric: Any, level: float, kind: str, refit: bool) -> None:
    if not 0 < level < 1:
        raise InputError(f"level must be between 0 and 1, such as 0.95, got {level!r}")
    if kind not in ("percentile", "basic"):
        raise InputError(f"unknown kind of interval {kind!r}: known are 'percentile' and 'basic'")
    if refit and metric != "auroc":
        raise InputError(f"refit is for metric 'auroc' only, got {metric!r}: other metrics are always computed anew")
    if not isinstance(metric, str) and not callable(metric) and not list(metric):
        raise InputError("metric must be a name, a function or several names, got none")


def _held_out_resampled(
    features: Features, labels: np.ndarray, fold: np.ndarray, rows: list[np.ndarray]
) -> xr.DataArray:
    """Area under the curve of the held-out scores: observed, then of every resample of these scores."""
    n = len(labels)
    weights = np.stack([np.ones(n), *(np.bincount(part, minlength=n) for part in rows)])
    values = np.unique(labels)
    positives = values[1:] if len(values) == 2 else values
    d = max(block.z.shape[-1] for block in features.blocks)
    scored = []
    with torch.no_grad():
        for chunk in chunks(features, bytes_per_head(n, d, 1) + 8 * n * n):
            areas = []
            for value in positives:
                positive = labels == value
                scores = loo_ridge_scores(chunk.x, torch.from_numpy(positive.astype(float)), fold).numpy()
                areas.append(resampled_auroc(scores, positive, weights))
            scored.append((chunk, np.mean(areas, axis=0).T))
    maps = head_map(features, scored, [str(i) for i in range(len(weights))], "score")
    return maps.rename(metric="part")


def _zero_to_one(maps: xr.DataArray) -> xr.DataArray:
    """Min-max over the heads of every map (`headprobe.metrics.normalisation.min_max`, without its warning each time)."""
    low, high = maps.min(("layer", "head")), maps.max(("layer", "head"))
    if bool((low == high).any()):
        raise InputError("all heads score the same in some resample, so min-max has no scale: use one metric only")
    return (maps - low) / (high - low)


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
