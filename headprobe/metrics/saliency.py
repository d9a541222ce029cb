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

from headprobe.activations import HeadActivations
from headprobe.errors import InputError
from headprobe.heads import Head
from headprobe.metrics.batch import Batch, is_large, load_batch
from headprobe.metrics.features import Features, example_groups, label_array, read_features
from headprobe.metrics.linear_probe import fold_index
from headprobe.metrics.metric import METRICS, Metric, find_metrics
from headprobe.metrics.normalisation import combine, min_max
from headprobe.metrics.resampling import check_seed
from headprobe.metrics.targets import read_target
from headprobe.metrics.threads import BAR_DELAY, one_thread
from headprobe.scores import score_map

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["METRICS", "Metric", "combine", "min_max", "saliency", "saliency_of_parts"]

# Working memory of the heads that are scored at a time, on the processor and on other devices: more than needed to
# keep the overhead of small batches low would leave the caches.
CHUNK_BYTES = 64 * 2**20
DEVICE_CHUNK_BYTES = 2**30
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
        Default: those of the activations (`headprobe.metrics.features.example_groups`), if there are any; `False`:
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
    find_metrics(metrics)
    check_seed(random_state)
    features, y = read_features(acts_or_z, y, leave_out)
    n = len(features.ids)
    wanted = read_target(y, n, target)
    chosen = find_metrics(metrics, wanted.kind)
    numbers = _groups(acts_or_z, groups, n, used=any("groups" in metric.takes for metric in chosen))

    def score(batch: Batch) -> list[Tensor]:
        labels = wanted.values.to(batch.device)
        own = None if numbers is None else numbers.to(batch.device)
        return [metric(batch, labels, batch.names, random_state, own) for metric in chosen]

    values = _over_heads(score, features, chosen, len(chosen), progress)
    return _as_map(values, features, chosen)


def saliency_of_parts(
    acts_or_z: Any,
    y: ArrayLike | Tensor | None,
    parts: Sequence[Int[np.ndarray, " row"]],
    metrics: Sequence[str | Metric | Callable[..., Any]] = ("lda", "kl", "mmd", "nmi"),
    random_state: int = 0,
    *,
    progress: bool = False,
) -> xr.DataArray:
    """Score every head on parts of the examples, such as folds and resamples, each as `saliency` does.

    Where all parts are of so many examples that `mmd` and `nmi` are approximated, every head is read, checked and
    projected once for all parts.

    Parameters
    ----------
    acts_or_z, y, metrics, random_state, progress
        As in `saliency`; groups are those of the activations.
    parts
        Rows of each part; a row may be there several times.

    Returns
    -------
    xarray.DataArray
        Dims (part, metric, [prompt,] layer, head).

    Raises
    ------
    InputError
        As `saliency` does for a part.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> parts = [np.arange(10), np.arange(5, 20)]
    >>> saliency_of_parts(rng.normal(size=(20, 2, 3, 4)), np.arange(20) % 2, parts).dims
    ('part', 'metric', 'layer', 'head')
    """
    import xarray as xr

    features, y = read_features(acts_or_z, y)
    n = len(features.ids)
    labels = label_array(y, n)
    targets = [read_target(labels[rows], len(rows)) for rows in parts]
    chosen = find_metrics(metrics, targets[0].kind)
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
            values = _over_heads(score, features, chosen, len(chosen) * len(parts), progress)
            maps = [_as_map(part, features, chosen) for part in np.split(values, len(parts))]
        except _NearlyConstant:  # on its own a part is checked in full
            maps = []
    if not maps:
        for part in tqdm(parts, desc="parts", delay=BAR_DELAY, disable=not progress):
            z = acts_or_z.subset(part) if isinstance(acts_or_z, HeadActivations) else acts_or_z[..., part, :, :, :]
            maps.append(saliency(z, labels[part], metrics, random_state=random_state))
    return xr.concat(maps, "part", combine_attrs="override")


class _NearlyConstant(Exception):
    """A head hardly varies over a part of the examples."""


def _over_heads(
    score: Callable[[Batch], list[Tensor]],
    features: Features,
    chosen: Sequence[Metric],
    n_scores: int,
    progress: bool,
) -> Float[np.ndarray, "score prompt layer head"]:
    """Scores of all heads under all prompts, some heads at a time."""
    n, layers, heads = len(features.ids), features.layers, features.heads
    prompts = range(len(features.prompts or [None]))
    values = np.full((n_scores, len(prompts), len(layers), len(heads)), np.nan)
    rows = any(metric.rows for metric in chosen)
    total = len(prompts) * sum(len(block.heads) for block in features.blocks)
    with (
        torch.no_grad(),
        one_thread(),
        tqdm(total=total, desc="score heads", unit="head", delay=BAR_DELAY, disable=not progress, leave=False) as bar,
    ):
        for block in features.blocks:
            row = np.array([layers.index(head.layer) for head in block.heads])
            column = np.array([heads.index(head.head) for head in block.heads])
            size = _heads_at_once(n, block.z, chosen, rows)
            for p in prompts:
                for start in range(0, len(block.heads), size):
                    part = range(start, min(start + size, len(block.heads)))
                    batch = load_batch(features, block, p, part, rows)
                    for s, scores in enumerate(score(batch)):
                        values[s, p, row[part], column[part]] = scores.cpu().numpy()
                    bar.update(len(part))
    return values


def _as_map(values: np.ndarray, features: Features, chosen: Sequence[Metric]) -> xr.DataArray:
    return score_map(
        values if features.prompts else values[:, 0],
        metrics=[metric.name for metric in chosen],
        prompts=features.prompts,
        layers=features.layers,
        heads=features.heads,
        name="saliency",
    ).assign_attrs(features.origin)


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


def _heads_at_once(n: int, z: Any, metrics: Sequence[Metric], rows: bool) -> int:
    d = z.shape[-1]
    # The features while they are read, the inner products, and what the most demanding metric works with.
    numbers = (
        (n * d if rows or n > d else 0)
        + (0 if is_large(n, d) else n * n)
        + max(metric.numbers(n, d) for metric in metrics)
    )
    on_device = isinstance(z, Tensor) and z.device.type not in ("cpu", "mps")
    return max(1, (DEVICE_CHUNK_BYTES if on_device else CHUNK_BYTES) // (8 * numbers))
