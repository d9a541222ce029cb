"""Scores of all heads under many labellings of the same examples.

What does not depend on the labels is computed once per head by metrics that have `together`: the hat matrix of the
probe, the eigenvectors of the scatter, the kernel, the clusters. A labelling then costs a matrix product.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from headprobe._validation import count, seed
from headprobe.errors import InputError
from headprobe.metrics._features import (
    Batch,
    Features,
    Target,
    example_groups,
    head_map,
    read_features,
    read_target,
    score_heads,
)
from headprobe.metrics.linear_probe import fold_index
from headprobe.metrics.metric import Metric
from headprobe.metrics.resampling import _group_subsets
from headprobe.metrics.saliency import METRICS

if TYPE_CHECKING:
    import xarray as xr


class Data(NamedTuple):
    """What is scored: features, target, and the number of the group of each example, or None."""

    features: Features
    target: Target
    groups: Int[np.ndarray, " example"] | None

    @property
    def n(self) -> int:
        """Number of examples."""
        return len(self.features.ids)

    @property
    def labels(self) -> Shaped[np.ndarray, " example"]:
        """Names of the classes, or the numbers of a continuous target."""
        values = self.target.values
        return np.array(self.target.classes)[values.long().numpy()] if self.target.classes else values.numpy()

    @property
    def fold(self) -> Int[np.ndarray, " example"]:
        """Number of the group of each example; without groups, of the example."""
        return np.arange(self.n) if self.groups is None else self.groups


def read_data(
    acts_or_z: Any, y: Any = None, groups: Any = None, target: str | None = None, leave_out: Sequence[Any] = ()
) -> Data:
    """Read features, labels and groups."""
    features, labels = read_features(acts_or_z, y, leave_out)
    n = len(features.ids)
    found = None if groups is False else example_groups(acts_or_z, groups)
    return Data(features, read_target(labels, n, target), None if found is None else fold_index(found, n))


def score_labellings(
    metric: Metric,
    heads: Float[Tensor, "head example d"] | Batch,
    labels: Shaped[Tensor, "labelling example"],
    groups: Int[np.ndarray, " example"] | None = None,
    random_state: int = 0,
) -> Float[np.ndarray, "head labelling"]:
    """Score heads under every labelling."""
    batch = Batch.of(heads)
    numbers = None if groups is None else torch.from_numpy(groups).to(batch.device)
    labels, place = _distinct(labels, renamed=METRICS.get(metric.name) is metric)
    scores = metric._over_labellings(batch, labels.to(batch.device), random_state, numbers)
    return scores.cpu().numpy()[:, place]


def _distinct(labels: Tensor, renamed: bool) -> tuple[Tensor, Int[np.ndarray, " labelling"]]:
    """Different labellings, and which of them each one is; if `renamed`, up to the names of the classes."""
    rows = labels.cpu().numpy()
    if renamed and rows.dtype.kind != "f":
        # Classes get the names that they have in the first row, in the order in which they occur in each.
        codes = rows.astype(np.int64)
        n_classes = int(codes.max()) + 1
        first = np.stack(
            [np.where((codes == c).any(1), (codes == c).argmax(1), rows.shape[1]) for c in range(n_classes)]
        )
        order = np.argsort(first, axis=0, kind="stable").T
        names = np.empty_like(order)
        np.put_along_axis(names, order, np.broadcast_to(order[0], order.shape), 1)
        rows = np.take_along_axis(names, codes, 1).astype(rows.dtype)
    places: dict[bytes, int] = {}
    place = np.array([places.setdefault(row.tobytes(), len(places)) for row in np.ascontiguousarray(rows)])
    return torch.from_numpy(rows[np.unique(place, return_index=True)[1]]), place


def memory_of(metric: Metric, labellings: int = 1) -> Callable[[int, int], int]:
    """Rough working memory of `score_labellings` for one head, in bytes from n and d."""
    return lambda n, d: 8 * (2 * n * d + n * n + metric.numbers(n, d) + 4 * n * labellings)


GROUPS_PER_HALF = 2
"""Groups of every class that a half needs: one shows no variation, and a probe that leaves it out has none left."""


def group_halves(
    y: np.ndarray, fold: Int[np.ndarray, " example"], n_splits: int, random_state: int = 0, stratify: bool = True
) -> list[tuple[Int[np.ndarray, " row"], Int[np.ndarray, " row"]]]:
    """Split the groups into two halves, again and again, each with about the same share of every class."""
    count(n_splits, "n_splits")
    seed(random_state)
    classes, codes = np.unique(y if stratify else np.zeros(len(y), dtype=int), return_inverse=True)
    if stratify and len(classes) < 2:
        raise InputError(f"all labels are {classes[0]!r}: at least 2 classes are needed")
    counts = [len(np.unique(fold[codes == c])) for c in range(len(classes))]
    if min(counts) < 2 * GROUPS_PER_HALF:
        what = f"label {classes[int(np.argmin(counts))].item()!r} occurs in" if stratify else "there are"
        raise InputError(
            f"{what} {min(counts)} groups, but two halves need {2 * GROUPS_PER_HALF} groups"
            + " of every class" * stratify
        )
    n_groups = int(fold.max()) + 1
    halves = []
    for drawn in np.random.SeedSequence(random_state).generate_state(n_splits, np.uint64):
        (first,) = _group_subsets(y, fold, [n_groups // 2], int(drawn), stratify)  # pyright: ignore
        second = np.setdiff1d(np.arange(len(y)), first)
        for rows in (first, second):
            for c, label in enumerate(classes):
                if len(np.unique(fold[rows][codes[rows] == c])) < GROUPS_PER_HALF:
                    raise InputError(
                        f"a half of the groups holds label {label.item()!r} in fewer than {GROUPS_PER_HALF} groups: "
                        "give more groups of it"
                    )
        halves.append((first, second))
    return halves


def score_parts(
    data: Data,
    metric: Metric,
    parts: Sequence[Int[np.ndarray, " row"]],
    random_state: int = 0,
    progress: bool = False,
) -> xr.DataArray:
    """Score all heads on several parts of the examples; features are read and checked once."""
    fold, labels = data.fold, data.target.values

    def score(batch: Batch) -> np.ndarray:
        columns = []
        for number, rows in enumerate(parts):
            index = torch.from_numpy(rows)
            try:
                scores = score_labellings(metric, batch.rows(index), labels[index][None], fold[rows], random_state)
            except InputError as error:
                different = len(np.unique(rows))
                if different == data.n:
                    raise
                repeats = f" ({len(rows)} with repeats)" * (len(rows) > different)
                raise InputError(
                    f"part {number} of {len(parts)}, {different} of the {data.n} examples{repeats}: {error}"
                ) from error
            columns.append(scores[:, 0])
        return np.stack(columns)

    scored = score_heads(score, data.features, memory_of(metric), "score parts", progress)
    maps = head_map(scored, data.features, range(len(parts)), "score")
    return maps.rename(metric="part").assign_coords(part=range(len(parts)))
