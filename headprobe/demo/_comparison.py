"""Side by side: hunted heads and what they must beat, over calibration draws, on one untouched test set."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from sklearn.utils.parallel import Parallel, delayed
from tqdm.auto import tqdm

from headprobe.detection.benchmark import draw_videos
from headprobe.errors import HeadprobeWarning, InputError
from headprobe.evaluation import blind_scores, evaluate, to_frames
from headprobe.headhunt._held_out import by_video, fold_numbers
from headprobe.headhunt.headhunt import _identified, _identify_labellings, identify
from headprobe.headhunt.scorer import features
from headprobe.heads import HeadSet
from headprobe.metrics.intervals import corrected_interval
from headprobe.probing.probe import HeadProbe

if TYPE_CHECKING:
    from headprobe.activations import HeadActivations

HUNTED = "hunted heads"
NEVER_TRAINED = "never-trained model, hunted heads"
N_RANDOM = 5  # random head sets averaged per draw
RANDOM = f"random heads (mean of {N_RANDOM} sets)"
SAME_LAYERS = f"random heads of the same layers (mean of {N_RANDOM} sets)"
SHUFFLED = f"shuffled labels, hunted heads (mean of {N_RANDOM} shuffles)"
_KEYS = ("auc", "ap", "within_auc")
Features = Float[np.ndarray, "segment feature"]
Warned = tuple[str, type[Warning], str, int]


@dataclass(frozen=True, eq=False)
class Material:
    """Everything the comparison reads; rows of all arrays are the segments of the two activation sets."""

    calibration: HeadActivations
    test: HeadActivations
    untrained_calibration: HeadActivations
    untrained_test: HeadActivations
    motion_calibration: Features
    motion_test: Features
    text_test: Mapping[str, Float[np.ndarray, " segment"]]
    event_of_video: Mapping[str, str]
    frame_truth: Mapping[str, np.ndarray]
    subsets: Mapping[str, Sequence[str]] = field(default_factory=dict)


def compare(
    material: Material,
    *,
    k: int,
    n_draws: int,
    n_videos: int,
    normal: str,
    random_state: int = 0,
    progress: bool = True,
    workers: int = 1,
    meanwhile: Callable[[], Any] = lambda: None,
) -> tuple[list[dict[str, Any]], dict[str, list[dict[str, float]]], list[list[str]]]:
    """Rows of the comparison, the per-draw numbers behind them, and the heads hunted in each draw.

    ``meanwhile`` is called once, while other processes are at work on the draws.
    """
    if n_draws < 2:
        raise InputError(f"n_draws is {n_draws}; spread and intervals over draws need at least 2")
    m = material
    table: dict[str, list[dict[str, float]]] = {}
    hunted: list[list[str]] = []
    groups = m.calibration.groups
    plan = list(
        draw_videos(
            {v: m.event_of_video[v] for v in dict.fromkeys(groups.tolist())},
            n_draws,
            n_videos,
            normal,
            random_state,
        )
    )
    jobs = (delayed(_one_draw)(m, videos, k, random_state * 1000 + number) for number, videos in enumerate(plan))
    # As many draws at a time as are each process's own: the material is sent with every batch.
    each: Any = math.ceil(len(plan) / workers)
    done: Any = Parallel(n_jobs=workers, return_as="generator", batch_size=each)(jobs)
    meanwhile()
    for numbers, heads, told in tqdm(done, total=len(plan), desc="compare", unit="draw", disable=not progress):
        hunted.append(heads)
        for name, result in numbers.items():
            table.setdefault(name, []).append(result)
        for one in told:
            warnings.warn_explicit(*one)
    for name, scores in m.text_test.items():
        table[name] = [evaluate_segments(m, scores)]
    for name, frames in _blind(m).items():
        table[name] = [_evaluate_frames(m, frames)]
    return [summary(name, results) for name, results in table.items()], table, hunted


def workers(n: int, least: int) -> int:
    """Processes for n equal jobs: one for each core, and none that would have fewer than ``least`` of them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, n // least))


@contextmanager
def recorded() -> Iterator[list[Warned]]:
    """Within it, warnings are not shown; afterwards the list holds them, for `warnings.warn_explicit` anywhere."""
    told: list[Warned] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", HeadprobeWarning)
        yield told
    told += [(str(one.message), one.category, one.filename, one.lineno) for one in caught]


def _one_draw(
    m: Material, videos: Sequence[str], k: int, seed: int
) -> tuple[dict[str, dict[str, float]], list[str], list[Warned]]:
    """Every method on one draw, in any process: frame measures, the hunted heads, and what was warned of."""
    rows = np.flatnonzero(np.isin(m.calibration.groups, videos))
    with recorded() as told:
        # Said once, when the detector is fitted, and not for every draw.
        warnings.filterwarnings("ignore", ".*alone holds", HeadprobeWarning)
        labels, groups = m.calibration.labels[rows], m.calibration.groups[rows]
        methods, heads = _methods(m, rows, labels, groups, k, seed)
        numbers = {name: _mean([evaluate_segments(m, s) for s in scores]) for name, scores in methods.items()}
    return numbers, heads, told


def _methods(
    m: Material, rows: Int[np.ndarray, " row"], y: np.ndarray, groups: np.ndarray, k: int, seed: int
) -> tuple[dict[str, list[np.ndarray]], list[str]]:
    """Test scores of every fitted method in one draw; several where random sets are averaged."""
    part = m.calibration.subset(rows)
    shuffler = np.random.default_rng([seed, 1])
    shuffled = [shuffler.permutation(y) for _ in range(N_RANDOM)]
    found, *by_chance = _identify_labellings(part, [y, *shuffled], k=k, random_state=seed)
    prompt = 0
    all_heads = m.calibration.heads

    def probe(train: Features, test: Features, labels: np.ndarray = y) -> np.ndarray:
        return HeadProbe().fit(train, labels).predict_proba(test)[:, 1]

    def heads_probe(heads: HeadSet, a: HeadActivations, b: HeadActivations) -> np.ndarray:
        return probe(features(a.select(heads)[prompt]), features(b.select(heads)[prompt]))

    def on(heads: HeadSet) -> np.ndarray:
        return heads_probe(heads, part, m.test)

    def hunted_with(heads: HeadSet, labels: np.ndarray) -> np.ndarray:
        return probe(features(part.select(heads)[prompt]), features(m.test.select(heads)[prompt]), labels)

    ranked = found.rss.stack(entry=("layer", "head")).sortby(found.rss.stack(entry=("layer", "head")))
    worst = HeadSet([(int(layer), int(head)) for layer, head in ranked.indexes["entry"][:k]])
    rng = np.random.default_rng(seed)
    anywhere = [HeadSet.random(all_heads, k, random_state=int(rng.integers(2**31))) for _ in range(N_RANDOM)]
    same_layers = [found.heads.random_of_same_layers(all_heads, rng) for _ in range(N_RANDOM)]

    assert part.resid_post is not None
    assert m.test.resid_post is not None
    resid, resid_test = part.resid_post[prompt].numpy(), m.test.resid_post[prompt].numpy()

    def held_out_auc(x: Features) -> float:
        folds = PredefinedSplit(fold_numbers(y, groups, random_state=seed))
        scores = np.asarray(cross_val_predict(HeadProbe(), x, y, cv=folds, method="predict_proba"))
        return float(roc_auc_score(y, scores[:, 1]))

    by_layer = [held_out_auc(resid[:, layer]) for layer in range(resid.shape[1])]
    best = int(np.argmax(by_layer))
    untrained = m.untrained_calibration.subset(rows)
    untrained_heads = identify(untrained, y, k=k, random_state=seed).heads
    by_lda = _identified(found.saliency.sel(metric=["lda"]), k).heads
    return {
        HUNTED: [on(found.heads)],
        "hunted by the LDA term alone": [on(by_lda)],
        RANDOM: [on(heads) for heads in anywhere],
        SAME_LAYERS: [on(heads) for heads in same_layers],
        "worst heads by RSS": [on(worst)],
        "all heads": [on(all_heads)],
        "last hidden state": [probe(resid[:, -1], resid_test[:, -1])],
        "best hidden state (layer chosen on calibration)": [probe(resid[:, best], resid_test[:, best])],
        NEVER_TRAINED: [heads_probe(untrained_heads, untrained, m.untrained_test)],
        SHUFFLED: [hunted_with(one.heads, labels) for one, labels in zip(by_chance, shuffled, strict=True)],
        "frame differences": [probe(m.motion_calibration[rows], m.motion_test)],
    }, list(found.heads.labels)


def evaluate_segments(m: Material, scores: Float[np.ndarray, " segment"]) -> dict[str, float]:
    """Frame measures of segment scores on the test videos, for every subset of ``m``."""
    values, spans = by_video(scores, m.test)
    frames = {video: to_frames(values[video], spans[video], len(m.frame_truth[video])) for video in values}
    return _evaluate_frames(m, frames)


def _evaluate_frames(m: Material, frames: Mapping[str, np.ndarray]) -> dict[str, float]:
    out: dict[str, float] = {}
    for subset, videos in m.subsets.items():
        prefix = "" if subset == "seen" else f"{subset}_"
        result = evaluate({v: frames[v] for v in videos}, {v: m.frame_truth[v] for v in videos})
        out |= {prefix + key: _number(result[key]) for key in _KEYS}
    return out


def _number(value: float | None) -> float:
    """An undefined measure (no video with both classes) as NaN."""
    return math.nan if value is None else float(value)


def _blind(m: Material) -> dict[str, dict[str, np.ndarray]]:
    """Controls that look at no frame; the first and last know from the truth which videos are abnormal."""
    videos = list(dict.fromkeys(m.test.groups.tolist()))
    truth = {v: m.frame_truth[v] for v in videos}
    names = ("oracle constant per video", "position prior", "oracle constant times position prior")
    return dict(zip(names, blind_scores(truth).values(), strict=True))


def _mean(results: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {key: float(np.mean([r[key] for r in results])) for key in results[0]}


def summary(name: str, results: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """One row: the mean of each measure over draws, its sample standard deviation (None for one draw), the count."""
    row: dict[str, Any] = {"name": name}
    for key in results[0]:
        values = np.array([r[key] for r in results])
        row[key] = float(values.mean())
        row[f"{key}_sd"] = float(values.std(ddof=1)) if len(values) > 1 else None
    return row | {"n_draws": len(results)}


def paired_differences(
    table: Mapping[str, Sequence[Mapping[str, float]]], reference: str = HUNTED, level: float = 0.95
) -> list[dict[str, Any]]:
    """Reference minus every other row, draw by draw: mean and t interval, for each measure."""
    base = table[reference]
    out: list[dict[str, Any]] = []
    for name, results in table.items():
        if name == reference:
            continue
        row: dict[str, Any] = {"minus": name}
        for key in base[0]:
            other = [r[key] for r in results]
            other = other if len(other) == len(base) else other * len(base)
            difference = np.array([a[key] - b for a, b in zip(base, other, strict=True)])
            row[key] = corrected_interval(difference, 0.0, level)._asdict()
        out.append(row)
    return out
