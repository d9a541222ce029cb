"""Scores of examples that were not fitted on, what they come to, and scores in the order of the videos."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int
from numpy.typing import ArrayLike

from headprobe.errors import HeadprobeWarning, InputError
from headprobe.evaluation import bootstrap_difference, bootstrap_videos

if TYPE_CHECKING:
    from headprobe.activations import HeadActivations


@contextmanager
def quiet_scales() -> Iterator[None]:
    """Within it, no warning that one head sets the scale of a min-max normalisation, or that heads tie at the cut."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*alone holds", HeadprobeWarning)
        warnings.filterwarnings("ignore", ".*ties go to the lower", HeadprobeWarning)
        yield


def fold_numbers(
    y: ArrayLike, groups: ArrayLike, n_folds: int = 4, random_state: int = 0
) -> Int[np.ndarray, " example"]:
    """The fold that each example is held out in; groups stay together, and folds have both labels in proportion."""
    from sklearn.model_selection import StratifiedGroupKFold

    y, groups = np.asarray(y), np.asarray(groups)
    holding = [len(set(groups[y == label].tolist())) for label in (0, 1)]
    folds = min(n_folds, *holding)
    if folds < 2:
        raise InputError(
            f"{holding[0]} videos hold normal and {holding[1]} abnormal segments; held-out scores need two of each"
        )
    numbers = np.full(len(y), -1)
    split = StratifiedGroupKFold(folds, shuffle=True, random_state=random_state)
    for number, (_, test) in enumerate(split.split(np.zeros((len(y), 1)), y, groups)):
        numbers[test] = number
    return numbers


def by_video(
    scores: ArrayLike, acts: HeadActivations
) -> tuple[dict[str, np.ndarray], dict[str, list[tuple[int, int]]]]:
    """Segment scores and spans per video, in temporal order."""
    values, groups = np.asarray(scores), acts.groups
    if bool(acts.examples["start"].isna().to_numpy().any()):
        raise InputError("some segments have no span; make them with headprobe.video.clips.clip_examples")
    starts, ends = acts.examples["start"].to_numpy(int), acts.examples["end"].to_numpy(int)
    per_video: dict[str, np.ndarray] = {}
    spans: dict[str, list[tuple[int, int]]] = {}
    for video in dict.fromkeys(groups.tolist()):
        rows = np.flatnonzero(groups == video)
        rows = rows[np.argsort(starts[rows])]
        per_video[video] = values[rows]
        spans[video] = [(int(starts[i]), int(ends[i])) for i in rows]
    return per_video, spans


def auc_row(name: str, scores: np.ndarray, y: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    """AUC over clips, with its interval over videos where there are enough."""
    row = mean_row(name, [scores], y, groups)
    del row["auc_sd"]
    try:
        found = bootstrap_videos(_by_group(scores, groups), _by_group(y, groups), kind="t")
    except InputError as error:  # too few videos for an interval; the row then says why it has none
        return row | {"no_interval": str(error)}
    return row | {"auc_low": found.low, "auc_high": found.high}


def mean_row(name: str, scores: Sequence[np.ndarray], y: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    """Mean AUC over clips of several scores, and its standard deviation over them."""
    from sklearn.metrics import roc_auc_score

    each = [roc_auc_score(y, one) for one in scores]
    return {
        "name": name,
        "auc": float(np.mean(each)),
        "auc_sd": float(np.std(each, ddof=1)) if len(each) > 1 else None,
        "n_clips": len(y),
        "n_videos": len(set(groups.tolist())),
    }


def paired_rows(
    names: Sequence[str], scores: Sequence[np.ndarray], y: np.ndarray, groups: np.ndarray
) -> list[dict[str, Any]]:
    """The rows of two scores of the same clips, with their difference in the second."""
    first, second = (auc_row(name, one, y, groups) for name, one in zip(names, scores, strict=True))
    second["difference"] = first["auc"] - second["auc"]
    own, other = (_by_group(one, groups) for one in scores)
    try:
        found = bootstrap_difference(own, other, _by_group(y, groups), kind="t")
        second |= {"difference_low": found.low, "difference_high": found.high}
    except InputError as error:  # too few videos for an interval; the row then says why it has none
        second["no_interval"] = str(error)
    return [first, second]


def _by_group(values: np.ndarray, groups: np.ndarray) -> dict[str, np.ndarray]:
    return {str(group): values[groups == group] for group in dict.fromkeys(groups.tolist())}
