"""Scores of examples that were not fitted on, what they come to, and scores in the order of the videos."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from sklearn.model_selection import PredefinedSplit, StratifiedGroupKFold, cross_val_predict

from headprobe.errors import HeadprobeWarning, InputError
from headprobe.evaluation import bootstrap_difference, bootstrap_videos
from headprobe.headhunt._calibration_set import binary_labels, with_labels
from headprobe.headhunt.scorer import Platt, Scorer
from headprobe.heads import HeadSet

DETECTOR, MOTION, NEVER_TRAINED = "this detector", "frame differences", "a never-trained copy of the model"
"""Rows of `control_rows`."""

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


def control_rows(
    detector: Any, acts: HeadActivations, motion: np.ndarray | None, untrained: HeadActivations | None, n_random: int
) -> list[dict[str, Any]]:
    """The held-out AUC of a detector beside what it must beat, in the same folds of the same clips."""
    y, prompt = binary_labels(acts.labels), detector._prompt_index(acts)
    numbers = fold_numbers(y, acts.groups, detector.n_folds, detector.random_state)
    kept = detector._decisions
    decisions = detector._held_out(acts, y, prompt)[0] if kept is None or len(kept) != len(y) else kept
    rows = [auc_row(DETECTOR, decisions, y, acts.groups)]
    if detector.kind == "heads":
        rng = np.random.default_rng([detector.random_state, 7])
        sets = [HeadSet.random(acts.heads, len(detector.heads_), random_state=rng) for _ in range(n_random)]
        scored = [_folded(detector, acts.select(heads)[prompt].double().numpy(), y, numbers) for heads in sets]
        rows.append(mean_row(f"random heads (mean of {n_random} sets)", scored, y, acts.groups))
    if motion is not None:
        found = _folded(detector, np.asarray(motion, float)[:, None], y, numbers, kind="logistic")
        rows.append(auc_row(MOTION, found, y, acts.groups))
    if untrained is None:
        return rows
    ids = list(acts.examples["id"])
    missing = sorted(set(untrained.examples["id"]) - set(ids))
    if missing:
        raise InputError(f"the never-trained copy saw clips that the detector was not fitted on: {missing[:5]}")
    part = acts.subset([ids.index(one) for one in untrained.examples["id"]])
    labels = binary_labels(part.labels)
    copied = with_labels(untrained, labels, part.groups.tolist())
    both = [detector._held_out(one, labels, prompt)[0] for one in (part, copied)]
    names = (DETECTOR, NEVER_TRAINED) if len(labels) == len(y) else (f"{DETECTOR}, on these clips", NEVER_TRAINED)
    return rows + paired_rows(names, both, labels, part.groups)[len(labels) == len(y) :]


def _folded(
    detector: Any, z: Float[np.ndarray, "example k d"], y: np.ndarray, numbers: np.ndarray, **changes: Any
) -> Float[np.ndarray, " example"]:
    """Held-out decisions of the detector's scorer on fixed features, in these folds."""
    probe = detector._new_scorer().set_params(**changes)._probe()
    return np.asarray(cross_val_predict(probe, z, y, cv=PredefinedSplit(numbers), method="decision_function"))


def held_out_probabilities(
    scorer: Scorer, decisions: np.ndarray, numbers: np.ndarray, y: np.ndarray, calibrate: bool = True
) -> Float[np.ndarray, " example"]:
    """Probabilities of held-out decisions, by maps of the other folds; the scorer's own is fitted on all of them."""
    if not calibrate:
        return scorer.link(decisions)
    folds = sorted(set(numbers.tolist()))
    try:
        maps = [Platt.fit(decisions[numbers != fold], y[numbers != fold]) for fold in folds]
        scorer.calibrate(decisions, y)
    except InputError as error:
        warnings.warn(f"probabilities stay uncalibrated: {error}", HeadprobeWarning, stacklevel=3)
        return scorer.link(decisions)
    out = np.empty(len(y))
    for fold, calibration in zip(folds, maps, strict=True):
        out[numbers == fold] = calibration(decisions[numbers == fold])
    return out
