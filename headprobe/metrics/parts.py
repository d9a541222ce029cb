"""Parts of the examples: halves of the groups, and the scores of all heads on each part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Int

from headprobe.errors import InputError
from headprobe.metrics.batch import Batch
from headprobe.metrics.features import Chunk, head_map
from headprobe.metrics.labellings import Data, bytes_per_head, score_labellings
from headprobe.metrics.metric import Metric
from headprobe.metrics.resampling import check_count, check_seed, group_subsets
from headprobe.metrics.threads import over_heads

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["group_halves", "score_parts"]

GROUPS_PER_HALF = 2
"""Groups of every class that a half needs: one shows no variation, and a probe that leaves it out has none left."""


def group_halves(
    y: np.ndarray, fold: Int[np.ndarray, " example"], n_splits: int, random_state: int = 0, stratify: bool = True
) -> list[tuple[Int[np.ndarray, " row"], Int[np.ndarray, " row"]]]:
    """Split the groups into two halves, again and again, each with about the same share of every class.

    Parameters
    ----------
    y
        `[example]`, classes.
    fold
        `[example]`, number of the group of each example (`headprobe.metrics.linear_probe.fold_index`).
    n_splits
        Number of splits.
    random_state
        Seed.
    stratify
        Whether to share out the classes; False for a target that is numbers.

    Returns
    -------
    list of (ndarray, ndarray)
        Positions of the examples of both halves, ascending.

    Raises
    ------
    InputError
        If there is one class only, or a class has too few groups for both halves.

    Examples
    --------
    >>> [(a.tolist(), b.tolist()) for a, b in group_halves(np.arange(8) % 2, np.arange(8), 1)]
    [([0, 3, 4, 7], [1, 2, 5, 6])]
    """
    check_count(n_splits, "n_splits")
    check_seed(random_state)
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
        (first,) = group_subsets(y, fold, [n_groups // 2], int(seed), stratify)  # pyright: ignore
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
    """Score all heads on several parts of the examples; features are read and checked once.

    Parameters
    ----------
    data
        As from `headprobe.metrics.labellings.read_data`.
    metric
        As in `headprobe.metrics.labellings.score_labellings`.
    parts
        Positions of the examples of each part, all classes in each; an example may be in it several times, and is then
        one group.
    random_state
        Seed of metrics that draw.
    progress
        Whether to show a bar of the heads done, if it takes longer than some seconds.

    Returns
    -------
    xarray.DataArray
        Dims (part, [prompt,] layer, head).

    Raises
    ------
    InputError
        As in `headprobe.metrics.features.chunks` and `score_labellings`; the part is named.

    Examples
    --------
    >>> from headprobe.metrics.labellings import read_data
    >>> from headprobe.metrics.metric import METRICS
    >>> data = read_data(np.random.default_rng(0).normal(size=(12, 1, 2, 3)), np.arange(12) % 2)
    >>> score_parts(data, METRICS["lda"], [np.arange(12), np.arange(6)]).dims
    ('part', 'layer', 'head')
    """
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
