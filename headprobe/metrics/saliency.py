"""Saliency: how well a head's output goes with labels or numbers, for every head at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from torch import Tensor
from tqdm.auto import tqdm

from headprobe._validation import seed
from headprobe.errors import InputError
from headprobe.heads import Head
from headprobe.metrics import gaussian, mmd, nmi, probe_scores, spectrum
from headprobe.metrics._features import (
    BAR_DELAY,
    Batch,
    Features,
    example_groups,
    head_map,
    is_large,
    label_array,
    read_features,
    read_target,
    score_heads,
    subset,
)
from headprobe.metrics.linear_probe import fold_index
from headprobe.metrics.metric import Metric
from headprobe.metrics.normalisation import combine, min_max

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "METRICS",
    "Metric",
    "combine",
    "min_max",
    "saliency",
]

METRICS: dict[str, Metric] = {
    metric.name: metric for file in (gaussian, mmd, nmi, spectrum, probe_scores) for metric in file.METRICS
}
"""Metrics by name."""


def _find_metrics(metrics: Sequence[str | Metric | Callable[..., Any]], kind: str | None = None) -> list[Metric]:
    """Look up metrics, and check that they are defined for a kind of target."""
    if isinstance(metrics, str):
        raise InputError(f"metrics must be a sequence of names, got the text {metrics!r}: write ({metrics!r},)")
    unknown = [m for m in metrics if not (callable(m) or (isinstance(m, str) and m in METRICS))]
    found = [] if unknown else [_metric(m) for m in metrics]
    if unknown or not found or len({m.name for m in found}) != len(found):
        given = [m if isinstance(m, str) else getattr(m, "name", getattr(m, "__name__", repr(m))) for m in metrics]
        raise InputError(f"metrics must be different names out of {list(METRICS)}, or functions, got {given}")
    wrong = [m.name for m in found if kind is not None and kind not in m.targets]
    if wrong:
        fitting = [m.name for m in METRICS.values() if kind in m.targets]
        raise InputError(f"the metrics {wrong} are not defined for a {kind} target; these are: {fitting}")
    return found


def _metric(metric: str | Metric | Callable[..., Any]) -> Metric:
    if isinstance(metric, Metric):
        return metric
    if isinstance(metric, str):
        return METRICS[metric]

    def scores(heads: Batch, y: Tensor) -> Any:
        x = heads.x
        labels = y if y.is_floating_point() else y.long()
        return metric(x / x.abs().amax((1, 2), keepdim=True), labels)

    return Metric(getattr(metric, "__name__", repr(metric)), scores)


# A head that varies less over a part of the examples than so much of all of it is looked at on its own.
ROUNDING = 1e-6


def saliency(
    acts_or_z: Any,
    y: ArrayLike | Tensor | None = None,
    metrics: Sequence[str | Metric | Callable[..., Any]] = ("lda", "kl", "mmd", "nmi"),
    groups: Sequence[Any] | np.ndarray | Tensor | bool | None = None,
    random_state: int = 0,
    *,
    target: str | None = None,
    leave_out: Sequence[Head | str | tuple[int, int]] = (),
    progress: bool = False,
) -> xr.DataArray:
    """Score every head by how well its output goes with the labels of the examples.

    Parameters
    ----------
    acts_or_z
        `HeadActivations`, or an array or tensor `[example, layer, head, d_head]`, or with a leading prompt
        axis. A tensor is scored on its device.
    y
        `[example]`: 0 or 1, three or more classes as whole numbers or texts, or other numbers; at least two examples
        of each class. Default: the labels of the activations.
    metrics
        Names: of the paper `lda` (shrunk), `kl`, `mmd` (squared, V-statistic) and `nmi`; `lda_plain`,
        `mmd_unbiased`, `rsa`, `ldr`, `entropy`, `cka`, `auroc`, `selectivity`, `sav` and `r2`. `METRICS` holds them;
        the function of each gives its formula, source, range and invariances. A function of features
        `[head, example, d]` and labels `[example]` that returns `[head]`, or a `Metric`, may stand among them.
    groups
        Group (such as the video) of each example, for the metrics that fit on one part of the examples and score on
        another: `auroc`, `sav` and `r2` never split a group, `selectivity` gives its control labels by group.
        Default: those of the activations (`headprobe.metrics._features.example_groups`), if there are any; `False`:
        none. The other metrics do not use groups.
    random_state
        Seed of the k-means starts of `nmi`, of the control labels of `selectivity` and, with more than 400 examples,
        of the random features of `mmd`; the other metrics are deterministic.
    target
        `"binary"`, `"multiclass"` or `"continuous"`; default: as the labels say (0 and 1; whole numbers or texts;
        numbers of which some are not whole). Ratings on a scale of whole numbers need `"continuous"`.
    leave_out
        Heads that are not scored, such as constant ones, by name: `["L0H3"]`. Their scores are NaN, or their layer is
        not there if none of its heads is left.
    progress
        Whether to show a bar of the heads done, with the time that is left, if it takes longer than some seconds.

    Returns
    -------
    xarray.DataArray
        Dims (metric, [prompt,] layer, head), float64. Higher goes better with the labels. No score changes when a
        head's output is scaled, nor (`sav` apart) shifted, nor (`ldr` and an approximated `mmd` apart) rotated. Heads
        of different sizes are scored each in its own size; NaN stands where a layer has no head of this number, or none
        that was read. Of activations the attributes `model`, `revision` and `weights_hash` say which model was scored,
        as far as known. `mmd`, `mmd_unbiased` and `nmi` look at all pairs of up to 400 examples (or twice d_head, where
        that is more); of more they are approximated in linear time. On 1200 made clips the median error of `mmd` was
        2.3 %, the mean error of `nmi` 0.0003 (`analyses/benchmarks/selection.py --exact`). Memory beyond the input
        stays below 1 GB for 2000 examples.

    Raises
    ------
    InputError
        If z holds NaN or infinite values or a head that is the same for every example (both named), if a class has
        fewer than two examples, if shapes do not fit, or if a metric is unknown, not defined for the kind of
        labels, or not defined for a head.

    References
    ----------
    HeadHunt-VAD, arXiv 2512.17601, section 3.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> y = np.arange(20) % 2
    >>> z = rng.normal(size=(20, 2, 3, 4))
    >>> z[:, 1, 2] += 5 * y[:, None]
    >>> scores = saliency(z, y)
    >>> scores.dims, scores.sel(metric="lda").argmax(...)["layer"].item()
    (('metric', 'layer', 'head'), 1)
    """
    _find_metrics(metrics)
    seed(random_state)
    features, y = read_features(acts_or_z, y, leave_out)
    n = len(features.ids)
    wanted = read_target(y, n, target)
    chosen = _find_metrics(metrics, wanted.kind)
    numbers = _groups(acts_or_z, groups, n, used=any("groups" in metric.takes for metric in chosen))

    def score(batch: Batch) -> list[Tensor]:
        labels = wanted.values.to(batch.device)
        own = None if numbers is None else numbers.to(batch.device)
        return [metric(batch, labels, batch.names, random_state, own) for metric in chosen]

    values = _scored(score, features, chosen, progress)
    return head_map(values, features, [metric.name for metric in chosen], "saliency")


def _saliency_of_labellings(
    acts_or_z: Any,
    labellings: Sequence[ArrayLike | Tensor],
    metrics: Sequence[str | Metric | Callable[..., Any]] = ("lda", "kl", "mmd", "nmi"),
    random_state: int = 0,
    *,
    progress: bool = False,
) -> xr.DataArray:
    """Score every head under several labellings of the examples, each as `saliency` does; kernels and clusters once."""
    import xarray as xr

    features, _ = read_features(acts_or_z, labellings[0])
    n = len(features.ids)
    targets = [read_target(y, n) for y in labellings]
    chosen = _find_metrics(metrics, targets[0].kind)
    numbers = _groups(acts_or_z, None, n, used=any("groups" in metric.takes for metric in chosen))

    def score(batch: Batch) -> list[Tensor]:
        labels = torch.stack([target.values for target in targets]).to(batch.device)
        own = None if numbers is None else numbers.to(batch.device)
        scores = [metric._over_labellings(batch, labels, random_state, own) for metric in chosen]
        return list(torch.stack(scores).permute(2, 0, 1).flatten(0, 1))

    values = np.split(_scored(score, features, chosen, progress), len(targets))
    names = [metric.name for metric in chosen]
    maps = [head_map(part, features, names, "saliency") for part in values]
    return xr.concat(maps, "labelling", combine_attrs="override")


def _saliency_of_parts(
    acts_or_z: Any,
    y: ArrayLike | Tensor | None,
    parts: Sequence[Int[np.ndarray, " row"]],
    metrics: Sequence[str | Metric | Callable[..., Any]] = ("lda", "kl", "mmd", "nmi"),
    random_state: int = 0,
    *,
    progress: bool = False,
) -> xr.DataArray:
    """Score every head on parts of the examples, such as folds and resamples, each as `saliency` does."""
    import xarray as xr

    features, y = read_features(acts_or_z, y)
    n = len(features.ids)
    labels = label_array(y, n)
    targets = [read_target(labels[rows], len(rows)) for rows in parts]
    chosen = _find_metrics(metrics, targets[0].kind)
    sizes = [block.z.shape[-1] for block in features.blocks]
    maps: list[xr.DataArray] = []
    if not any("groups" in metric.takes for metric in chosen) and is_large(min(map(len, parts)), max(sizes)):
        rows = [torch.from_numpy(np.asarray(part)) for part in parts]

        def score(batch: Batch) -> list[Tensor]:
            done = []
            for place, wanted in zip(rows, targets, strict=True):
                some = batch.rows(place.to(batch.device))
                spread = torch.linalg.vector_norm(some.x, dim=(1, 2)) > ROUNDING * torch.linalg.vector_norm(batch.x)
                if not bool(spread.all()):
                    raise _NearlyConstant
                done += [m(some, wanted.values.to(batch.device), batch.names, random_state) for m in chosen]
            return done

        try:
            values = _scored(score, features, chosen, progress)
            names = [metric.name for metric in chosen]
            maps = [head_map(part, features, names, "saliency") for part in np.split(values, len(parts))]
        except _NearlyConstant:  # on its own a part is checked in full
            maps = []
    if not maps:
        for part in tqdm(parts, desc="parts", delay=BAR_DELAY, disable=not progress):
            maps.append(saliency(subset(acts_or_z, part), labels[part], metrics, random_state=random_state))
    return xr.concat(maps, "part", combine_attrs="override")


class _NearlyConstant(Exception):
    """A head hardly varies over a part of the examples."""


def _groups(acts_or_z: Any, groups: Any, n: int, used: bool) -> Tensor | None:
    """Group numbers, if any metric uses them; otherwise only their number is checked."""
    if groups is True or (groups is not None and groups is not False and not hasattr(groups, "__len__")):
        raise InputError(
            f"groups must be one per example, None for those of the activations, or False for none, got {groups!r}"
        )
    if groups is False or (groups is None and not used):
        return None
    if not used:
        if len(groups) != n:  # pyright: ignore
            raise InputError(f"groups has {len(groups)} entries for {n} examples: give one per example")  # pyright: ignore
        return None
    found = example_groups(acts_or_z, groups)
    return None if found is None else torch.from_numpy(fold_index(found, n))


def _scored(
    score: Callable[[Batch], list[Tensor]], features: Features, chosen: Sequence[Metric], progress: bool
) -> Float[np.ndarray, "score prompt layer head"]:
    """Scores of all heads, in one thread where the features lie."""
    rows = any(metric.rows for metric in chosen)

    def memory(n: int, d: int) -> int:
        # The features while they are read, the inner products, and what the most demanding metric works with.
        read, products = n * d * (rows or n > d), n * n * (not is_large(n, d))
        return 8 * (read + products + max(metric.numbers(n, d) for metric in chosen))

    def numbers(batch: Batch) -> np.ndarray:
        return torch.stack(score(batch)).cpu().numpy()

    return score_heads(numbers, features, memory, "score heads", progress, rows=rows, threaded=False)
