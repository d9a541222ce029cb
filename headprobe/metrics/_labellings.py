"""Scores of all heads under many labellings of the same examples.

What does not depend on the labels is computed once per head: the hat matrix of the probe, the eigenvectors of the
scatter, the kernel, the clusters. A labelling then costs a matrix product.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from headprobe.errors import InputError
from headprobe.metrics._batch import Batch, is_large, over_heads
from headprobe.metrics._features import Chunk, Features, Target, example_groups, head_map, read_features, read_target
from headprobe.metrics.linear_probe import fold_index, loo_ridge_auroc, loo_ridge_scores
from headprobe.metrics.mmd import _feature_sums, rbf_kernel
from headprobe.metrics.nmi import _contingency_nmi, k_means, two_means
from headprobe.metrics.probe_scores import _check_groups
from headprobe.metrics.resampling import _check_count, _check_seed, _group_subsets
from headprobe.metrics.saliency import METRICS, Metric

if TYPE_CHECKING:
    import xarray as xr

# Where less than these shares of a labelling's scatter are left within its classes, the update formula of the LDA score
# has lost digits: about 1e-16 over the share is the relative error.
LEFT, LEFT_SQUARED = 1e-3, 1e-4


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
    def d(self) -> int:
        """Largest d_head."""
        return max(block.z.shape[-1] for block in self.features.blocks)

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
    known = METRICS.get(metric.name) is metric
    labels, place = _distinct(labels, renamed=known)
    labels = labels.to(batch.device)
    together = _TOGETHER.get(metric.name) if known else None
    if together is None or (metric.name == "lda" and labels.dtype != torch.bool):
        columns = [metric(batch, row, batch.names, random_state, numbers) for row in labels]
        return torch.stack(columns, 1).cpu().numpy()[:, place]
    return together(batch, labels, numbers, random_state).cpu().numpy()[:, place]


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


def bytes_per_head(metric: Metric, n: int, d: int, labellings: int) -> int:
    """Rough working memory of `score_labellings` for one head, in bytes."""
    return 8 * (2 * n * d + n * n + metric.numbers(n, d) + 4 * n * labellings)


def _auroc(batch: Batch, labels: Tensor, groups: Tensor | None, random_state: int) -> Tensor:
    if groups is not None:
        _check_groups(labels[0], groups)
    classes = torch.nn.functional.one_hot(labels.long()).to(torch.float64)
    # Every class against the rest; with two classes, the second alone.
    tasks = classes.permute(2, 0, 1)[1 if classes.shape[2] == 2 else 0 :].contiguous()
    fold = None if groups is None else groups.cpu().numpy()
    return torch.stack([loo_ridge_auroc(batch.x, task, fold) for task in tasks]).mean(0)


def _r2(batch: Batch, labels: Tensor, groups: Tensor | None, random_state: int) -> Tensor:
    fold = torch.arange(batch.n, device=labels.device) if groups is None else groups
    member = torch.nn.functional.one_hot(fold).to(labels.dtype)
    own, size = labels @ member, member.sum(0)
    others = (labels.sum(1, keepdim=True) - own) / (batch.n - size)
    apart = labels - others[:, fold]
    scores = loo_ridge_scores(batch.x, labels, fold.cpu().numpy())
    return 1 - (apart - scores).square().sum(2) / apart.square().sum(1)


def _nmi(batch: Batch, labels: Tensor, groups: Tensor | None, random_state: int) -> Tensor:
    k = int(labels.max()) + 1
    clusters, _ = two_means(batch, random_state) if k == 2 else k_means(batch, k, random_state)
    return torch.stack([_contingency_nmi(clusters, row) for row in labels], 1)


def _mmd(batch: Batch, labels: Tensor, groups: Tensor | None, random_state: int) -> Tensor:
    return _kernel_scores(batch, labels, random_state, own_terms=True).clamp(min=0)


def _mmd_unbiased(batch: Batch, labels: Tensor, groups: Tensor | None, random_state: int) -> Tensor:
    return _kernel_scores(batch, labels, random_state, own_terms=False)


def _kernel_scores(batch: Batch, labels: Tensor, random_state: int, own_terms: bool) -> Tensor:
    """The scores of `headprobe.metrics.mmd`; the kernel times the classes of all labellings is one product."""
    classes = torch.nn.functional.one_hot(labels.long()).to(torch.float64)
    n_classes = classes.shape[2]
    if is_large(batch.n, batch.d):
        pulled = _feature_sums(batch, classes.mT.flatten(0, 1), random_state).unflatten(1, (-1, n_classes))
        sums = pulled @ pulled.mT
    else:
        pulled = (rbf_kernel(batch) @ classes.transpose(0, 1).flatten(1)).unflatten(2, (-1, n_classes))
        sums = torch.einsum("lnc,hnld->hlcd", classes, pulled)
    sizes = classes.sum(1)
    if own_terms:
        own = [sums[:, :, c, c] / sizes[:, c] ** 2 for c in range(n_classes)]
    else:
        own = [(sums[:, :, c, c] - sizes[:, c]) / (sizes[:, c] * (sizes[:, c] - 1)) for c in range(n_classes)]
    pairs = combinations(range(n_classes), 2)
    apart = [own[a] + own[b] - 2 * sums[:, :, a, b] / (sizes[:, a] * sizes[:, b]) for a, b in pairs]
    return torch.stack(apart).mean(0)


def _lda(batch: Batch, labels: Tensor, groups: Tensor | None, random_state: int) -> Tensor:
    """The score of `headprobe.metrics.gaussian.lda` for two classes, by an update of the total scatter T."""
    n, d = batch.n, batch.d
    if batch.wide:
        values, vectors = torch.linalg.eigh(batch.gram)
        values = values.clamp(min=0)
        rows = vectors * values.sqrt()[:, None]
    else:
        values, vectors = torch.linalg.eigh(batch.x.mT @ batch.x)
        rows, values = batch.x @ vectors, values.clamp(min=0)
    values = values[:, :, None]
    y = labels.to(torch.float64)
    ones = y.sum(1)
    zeros = n - ones
    pull = n / (ones * zeros)
    sums = rows.mT @ y.T
    length = sums.square().sum(1)
    # The shrinkage: moments of the class-centred rows.
    squares = rows.square().sum(2)[:, :, None]
    own, along = 1 / torch.where(labels.T, ones, -zeros), rows @ sums
    fourth = (squares - 2 * own * along + own.square() * length[:, None]).square().mean(1)
    trace = (values.sum(1) - pull * length) / n
    bent = (values * sums.square()).sum(1)
    squared = (values.square().sum(1) - 2 * pull * bent + (pull * length).square()) / n**2
    mu = trace / d
    spread = (squared - d * mu.square()).clamp(min=0)
    noise = ((fourth - squared) / n).clamp(min=0).minimum(spread)
    shrinkage = torch.where(noise > 0, noise / torch.where(spread > 0, spread, 1.0), 0.0)
    # The inverse: Sherman and Morrison.
    kept, ridge = (1 - shrinkage) / n, shrinkage * mu
    # Directions without scatter carry nothing of s.
    empty = values <= values.amax(1, keepdim=True) * torch.finfo(values.dtype).eps * n
    damped = torch.where(empty, torch.inf, kept[:, None] * values + ridge[:, None])
    quadratic = (sums.square() / damped).sum(1)
    left = 1 - kept * pull * quadratic
    scores = pull.square() * quadratic / left / n
    # Near-singular labellings, where the metric itself decides whether there is a score at all.
    unsure = (
        (left < LEFT) | (squared * n**2 < LEFT_SQUARED * values.square().sum(1)) | ~scores.isfinite() | (ridge <= 0)
    )
    for column in unsure.any(0).nonzero().flatten().tolist():
        some = unsure[:, column].nonzero().flatten()
        scores[some, column] = METRICS["lda"](batch.part(some.tolist()), labels[column])
    return scores


_TOGETHER: dict[str, Callable[[Batch, Tensor, Tensor | None, int], Tensor]] = {
    "auroc": _auroc,
    "lda": _lda,
    "mmd": _mmd,
    "mmd_unbiased": _mmd_unbiased,
    "nmi": _nmi,
    "r2": _r2,
}

GROUPS_PER_HALF = 2
"""Groups of every class that a half needs: one shows no variation, and a probe that leaves it out has none left."""


def group_halves(
    y: np.ndarray, fold: Int[np.ndarray, " example"], n_splits: int, random_state: int = 0, stratify: bool = True
) -> list[tuple[Int[np.ndarray, " row"], Int[np.ndarray, " row"]]]:
    """Split the groups into two halves, again and again, each with about the same share of every class."""
    _check_count(n_splits, "n_splits")
    _check_seed(random_state)
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
    for seed in np.random.SeedSequence(random_state).generate_state(n_splits, np.uint64):
        (first,) = _group_subsets(y, fold, [n_groups // 2], int(seed), stratify)  # pyright: ignore
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

    def score(chunk: Chunk) -> np.ndarray:
        columns = []
        for number, rows in enumerate(parts):
            index = torch.from_numpy(rows)
            x = chunk.x[:, index]
            mean = x.mean(1)
            batch = Batch(x - mean[:, None], chunk.names, centre=chunk.centre + mean)
            try:
                scores = score_labellings(metric, batch, labels[index][None], fold[rows], random_state)
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

    memory = bytes_per_head(metric, data.n, data.d, 1)
    scored = over_heads(score, data.features, memory, "score parts", progress)
    maps = head_map(data.features, scored, [str(i) for i in range(len(parts))], "score")
    return maps.rename(metric="part").assign_coords(part=range(len(parts)))
