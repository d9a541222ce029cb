"""The metrics by name, and what each of them is defined for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from headprobe.errors import InputError
from headprobe.metrics.batch import Batch, is_large
from headprobe.metrics.cka import cka
from headprobe.metrics.clusters import RESTARTS
from headprobe.metrics.gaussian import kl, lda, lda_plain
from headprobe.metrics.layer_scores import entropy, ldr
from headprobe.metrics.mmd import DIRECTIONS, mmd, mmd_unbiased
from headprobe.metrics.nmi import nmi
from headprobe.metrics.probe_scores import probe_auroc, probe_r2
from headprobe.metrics.rsa import rsa
from headprobe.metrics.sav import sav
from headprobe.metrics.selectivity import CONTROLS, selectivity
from headprobe.metrics.targets import KINDS

__all__ = ["METRICS", "Metric", "find_metrics"]

CLASSES = ("binary", "multiclass")


@dataclass(frozen=True)
class Metric:
    """A score of how well a head's output goes with a target, computed for many heads at once.

    Parameters
    ----------
    name
        What the metric is called in score maps.
    function
        Takes a `headprobe.metrics.batch.Batch` of heads and the target `[example]`, and the arguments named by
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


def find_metrics(metrics: Sequence[str | Metric | Callable[..., Any]], kind: str | None = None) -> list[Metric]:
    """Look up metrics, and check that they are defined for a kind of target.

    Parameters
    ----------
    metrics
        Names out of `METRICS`; metrics; or functions of features `[head, example, d]` (float64, centred, the largest
        of size 1) and the target `[example]` (class numbers, or float64) that return `[head]`, which go by their own
        names.
    kind
        Kind of the target, checked if given.

    Returns
    -------
    list of Metric

    Raises
    ------
    InputError
        If a name is not known or comes twice, there is none, or a metric is not defined for the kind.

    Examples
    --------
    >>> [metric.name for metric in find_metrics(["lda", "auroc"], "binary")]
    ['lda', 'auroc']
    """
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
