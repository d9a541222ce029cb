"""Saliency: how well a head's output goes with labels or numbers, for every head at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
from headprobe.metrics._batch import BAR_DELAY, Batch, is_large, load_batch, one_thread
from headprobe.metrics._features import KINDS, Features, example_groups, label_array, read_features, read_target
from headprobe.metrics.gaussian import kl, lda, lda_plain, rsa
from headprobe.metrics.linear_probe import fold_index
from headprobe.metrics.mmd import DIRECTIONS, mmd, mmd_unbiased
from headprobe.metrics.nmi import RESTARTS, nmi
from headprobe.metrics.normalisation import combine, min_max
from headprobe.metrics.probe_scores import CONTROLS, probe_auroc, probe_r2, sav, selectivity
from headprobe.metrics.resampling import _check_seed
from headprobe.metrics.spectrum import cka, entropy, ldr
from headprobe.scores import score_map

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "METRICS",
    "Metric",
    "combine",
    "min_max",
    "saliency",
]

CLASSES = ("binary", "multiclass")


@dataclass(frozen=True)
class Metric:
    """A score of how well a head's output goes with a target, computed for many heads at once.

    Parameters
    ----------
    name
        What the metric is called in score maps.
    function
        Takes a `headprobe.metrics._batch.Batch` of heads and the target `[example]`, and the arguments named by
        `takes`; returns `[head]`, higher for heads that go better with the target.
    targets
        Kinds of target it is defined for: the target comes as bool (`"binary"`), class numbers from 0
        (`"multiclass"`) or float64 (`"continuous"`).
    takes
        Names of further arguments: `groups` (group numbers `[example]`, or None) and `random_state`.
    rows
        Whether it needs the features themselves, and not only their inner products, with n <= d as well.
    numbers
        Rough working memory of one head as a function of n and d, in float64 numbers.

    Examples
    --------
    >>> peak = Metric("peak", lambda heads, y: heads.x.abs().amax((1, 2)), targets=("binary", "continuous"))
    >>> peak.targets
    ('binary', 'continuous')
    """

    name: str
    function: Callable[..., Tensor]
    targets: Sequence[str] = KINDS
    takes: Sequence[str] = ()
    rows: bool = True
    numbers: Callable[[int, int], int] = lambda n, d: 4 * n * d

    def __call__(
        self,
        heads: Float[Tensor, "head example d"] | Batch,
        y: Tensor,
        names: Sequence[str] | None = None,
        random_state: int = 0,
        groups: Tensor | None = None,
    ) -> Float[Tensor, " head"]:
        """Score some heads.

        Parameters
        ----------
        heads
            The features.
        y
            `[example]`, the target as said above.
        names
            Label of each head, for error text, where `heads` are bare features.
        random_state
            Seed.
        groups
            Group numbers `[example]`.

        Returns
        -------
        Tensor
            `[head]`, float64.

        Raises
        ------
        InputError
            If the result is not one finite number per head.
        """
        heads = Batch.of(heads, names)
        given = {"groups": groups, "random_state": random_state}
        scores = self.function(heads, y, **{name: given[name] for name in self.takes})
        if not isinstance(scores, Tensor) or scores.shape != (heads.n_heads,):
            found = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise InputError(f"the metric {self.name!r} must return a tensor [{heads.n_heads}], got {found}")
        wrong = torch.nonzero(~scores.isfinite())[:, 0].tolist()
        if wrong:
            raise InputError(
                f"the metric {self.name!r} is {float(scores[wrong[0]])} for {len(wrong)} heads, the first is "
                f"{heads.names[wrong[0]]}: leave the heads or the metric out"
            )
        return scores.to(torch.float64)


def _square(n: int, d: int) -> int:
    return 8 * min(n, d) ** 2 + 4 * n * d * (n > d)


def _kernel(n: int, d: int) -> int:
    return n * (4 * DIRECTIONS + 4 * d) if is_large(n, d) else 3 * n * n


def _clusters(n: int, d: int) -> int:
    return 2 * n * d if is_large(n, d) else n * n + 6 * n * RESTARTS


_BUILT_IN = (
    Metric("lda", lda, CLASSES, rows=False, numbers=_square),
    Metric("lda_plain", lda_plain, CLASSES, numbers=_square),
    Metric("kl", kl, CLASSES, rows=False, numbers=_square),
    Metric("mmd", mmd, CLASSES, ("random_state",), rows=False, numbers=_kernel),
    Metric("mmd_unbiased", mmd_unbiased, CLASSES, ("random_state",), rows=False, numbers=_kernel),
    Metric("nmi", nmi, CLASSES, ("random_state",), rows=False, numbers=_clusters),
    Metric("rsa", rsa, CLASSES),
    Metric("ldr", ldr, CLASSES),
    Metric("entropy", entropy, KINDS, rows=False, numbers=_square),
    Metric("cka", cka, KINDS, rows=False, numbers=_square),
    Metric("auroc", probe_auroc, CLASSES, ("groups",), rows=False, numbers=_square),
    Metric(
        "selectivity",
        selectivity,
        CLASSES,
        ("groups", "random_state"),
        rows=False,
        numbers=lambda n, d: _square(n, d) + 8 * n * CONTROLS,
    ),
    Metric("sav", sav, CLASSES, ("groups",), numbers=lambda n, d: 8 * n * d),
    Metric("r2", probe_r2, ("continuous",), ("groups",), rows=False, numbers=_square),
)

METRICS: dict[str, Metric] = {metric.name: metric for metric in _BUILT_IN}
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
    _check_seed(random_state)
    features, y = read_features(acts_or_z, y, leave_out)
    n = len(features.ids)
    wanted = read_target(y, n, target)
    chosen = _find_metrics(metrics, wanted.kind)
    numbers = _groups(acts_or_z, groups, n, used=any("groups" in metric.takes for metric in chosen))

    def score(batch: Batch) -> list[Tensor]:
        labels = wanted.values.to(batch.device)
        own = None if numbers is None else numbers.to(batch.device)
        return [metric(batch, labels, batch.names, random_state, own) for metric in chosen]

    values = _over_heads(score, features, chosen, len(chosen), progress)
    return _as_map(values, features, chosen)


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
