"""Saliency: how well a head's output goes with labels or numbers, for every head at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from headprobe.errors import InputError
from headprobe.heads import Head
from headprobe.metrics.batch import load_batch
from headprobe.metrics.features import example_groups, read_features
from headprobe.metrics.linear_probe import fold_index
from headprobe.metrics.metric import METRICS, Metric, find_metrics
from headprobe.metrics.normalisation import combine, min_max
from headprobe.metrics.resampling import check_seed
from headprobe.metrics.targets import read_target
from headprobe.metrics.threads import one_thread
from headprobe.scores import score_map

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["METRICS", "Metric", "combine", "min_max", "saliency"]

# Working memory of the heads that are scored at a time, on the processor and on other devices: more than needed to
# keep the overhead of small batches low would leave the caches.
CHUNK_BYTES = 64 * 2**20
DEVICE_CHUNK_BYTES = 2**30


def saliency(
    acts_or_z: Any,
    y: ArrayLike | Tensor | None = None,
    metrics: Sequence[str | Metric | Callable[..., Any]] = ("lda", "kl", "mmd", "nmi"),
    groups: Sequence[Any] | np.ndarray | Tensor | bool | None = None,
    random_state: int = 0,
    *,
    target: str | None = None,
    leave_out: Sequence[Head | str | tuple[int, int]] = (),
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
        Seed of the k-means starts of `nmi` and of the control labels of `selectivity`; the other metrics are
        deterministic.
    target
        `"binary"`, `"multiclass"` or `"continuous"`; default: as the labels say (0 and 1; whole numbers or texts;
        numbers of which some are not whole). Ratings on a scale of whole numbers need `"continuous"`.
    leave_out
        Heads that are not scored, such as constant ones, by name: `["L0H3"]`. Their scores are NaN, or their layer is
        not there if none of its heads is left.

    Returns
    -------
    xarray.DataArray
        Dims (metric, [prompt,] layer, head), float64. Higher goes better with the labels. No score changes when a
        head's output is scaled, nor (`sav` apart) shifted, nor (`ldr` apart) rotated. Heads of different sizes are
        scored each in its own size; NaN stands where a layer has no head of this number, or none that was read. Of
        activations the attributes `model`, `revision` and `weights_hash` say which model was scored, as far as known.
        Memory beyond the input stays below 1 GB for 2000 examples and grows with their square.

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
    layers, heads = features.layers, features.heads
    prompts = range(len(features.prompts or [None]))
    values = np.full((len(chosen), len(prompts), len(layers), len(heads)), np.nan)
    rows = any(metric.rows for metric in chosen)
    with torch.no_grad(), one_thread():
        for block in features.blocks:
            row = np.array([layers.index(head.layer) for head in block.heads])
            column = np.array([heads.index(head.head) for head in block.heads])
            size = _heads_at_once(n, block.z, chosen, rows)
            for p in prompts:
                for start in range(0, len(block.heads), size):
                    part = range(start, min(start + size, len(block.heads)))
                    batch = load_batch(features, block, p, part, rows)
                    labels = wanted.values.to(batch.device)
                    own = None if numbers is None else numbers.to(batch.device)
                    for m, metric in enumerate(chosen):
                        scores = metric(batch, labels, batch.names, random_state, own)
                        values[m, p, row[part], column[part]] = scores.cpu().numpy()
    return score_map(
        values if features.prompts else values[:, 0],
        metrics=[metric.name for metric in chosen],
        prompts=features.prompts,
        layers=layers,
        heads=heads,
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
    numbers = (n * d if rows or n > d else 0) + n * n + max(metric.numbers(n, d) for metric in metrics)
    on_device = isinstance(z, Tensor) and z.device.type not in ("cpu", "mps")
    return max(1, (DEVICE_CHUNK_BYTES if on_device else CHUNK_BYTES) // (8 * numbers))
