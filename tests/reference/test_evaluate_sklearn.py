"""Numbers of the frame and video level against scikit-learn, ties included; BCa intervals against scipy."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import (
    accuracy_score,
    auc,
    average_precision_score,
    balanced_accuracy_score,
    f1_score,
    precision_recall_curve,
    precision_score,
    recall_score,
    roc_auc_score,
)

from headprobe.evaluation import bootstrap, evaluate, evaluate_by_class, evaluate_videos


def videos_of(seed, videos, digits):
    rng = np.random.default_rng(seed)
    truth = {f"v{i}": rng.integers(0, 2, rng.integers(1, 40)) * (i % 3 > 0) for i in range(videos)}
    truth["v0"] = np.r_[truth["v0"], 0, 1]
    return {v: np.round(rng.normal(size=len(t)) + 0.5 * t, digits) for v, t in truth.items()}, truth


def joined(names, *sides):
    return [np.concatenate([side[v] for v in names]) for side in sides]


@given(st.integers(0, 2**16), st.integers(2, 6), st.sampled_from([0, 1, 15]))
@settings(max_examples=60, deadline=None)
def test_pooled_and_within_numbers(seed, videos, digits):
    scores, truth = videos_of(seed, videos, digits)
    y, s = joined(truth, truth, scores)
    precision, recall, _ = precision_recall_curve(y, s)
    both = [v for v, t in truth.items() if 0 < t.sum() < len(t)]
    result = evaluate(scores, truth)
    assert result["auc"] == pytest.approx(roc_auc_score(y, s), abs=1e-12)
    assert result["ap"] == pytest.approx(average_precision_score(y, s), abs=1e-12)
    assert result["pr_auc_trapezoid"] == pytest.approx(auc(recall, precision), abs=1e-12)
    assert result["within_auc"] == pytest.approx(np.mean([roc_auc_score(truth[v], scores[v]) for v in both]), abs=1e-12)
    assert result["n_within_videos"] == len(both)
    abnormal = [v for v, t in truth.items() if t.any()]
    assert result["anomaly_videos_auc"] == pytest.approx(roc_auc_score(*joined(abnormal, truth, scores)), abs=1e-12)
    within = sum(t.sum() * (len(t) - t.sum()) for t in truth.values())
    assert result["within_weight"] == pytest.approx(within / (y.sum() * (len(y) - y.sum())), abs=1e-12)
    weight = result["within_weight"]
    cross = 0.0 if result["cross_auc"] is None else (1 - weight) * result["cross_auc"]
    assert weight * result["within_auc_pairs"] + cross == pytest.approx(roc_auc_score(y, s), abs=1e-9)


def test_numbers_of_each_class():
    scores, truth = videos_of(3, 9, 1)
    classes = {v: ["even" if int(v[1]) % 2 == 0 else "odd"] if t.any() else [] for v, t in truth.items()}
    by_class = evaluate_by_class(scores, truth, classes)
    assert list(by_class) == ["even", "odd"]
    for name, numbers in by_class.items():
        chosen = [v for v in truth if name in classes[v] or not classes[v]]
        y, s = joined(chosen, truth, scores)
        assert numbers["auc"] == pytest.approx(roc_auc_score(y, s), abs=1e-12)
        assert numbers["ap"] == pytest.approx(average_precision_score(y, s), abs=1e-12)


@given(st.integers(0, 2**16), st.integers(2, 30), st.sampled_from([0, 1, 15]))
@settings(max_examples=40, deadline=None)
def test_the_video_level(seed, videos, digits):
    rng = np.random.default_rng(seed)
    y = np.r_[0, 1, rng.integers(0, 2, videos)]
    s = np.round(rng.random(len(y)), digits)
    names = [f"v{i}" for i in range(len(y))]
    result = evaluate_videos(dict(zip(names, s, strict=True)), dict(zip(names, y.tolist(), strict=True)), 0.5)
    called = s >= 0.5
    assert result["auc"] == pytest.approx(roc_auc_score(y, s), abs=1e-12)
    assert result["ap"] == pytest.approx(average_precision_score(y, s), abs=1e-12)
    assert result["recall"] == pytest.approx(recall_score(y, called))
    assert (result["precision"] or 0.0) == pytest.approx(precision_score(y, called, zero_division=0))
    assert result["f1"] == pytest.approx(f1_score(y, called, zero_division=0))
    assert result["accuracy"] == pytest.approx(accuracy_score(y, called))
    assert result["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(y, called))


@pytest.mark.parametrize("kind", ["percentile", "bca"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_intervals_from_the_same_resamples(kind, seed):
    values = np.random.default_rng(seed).exponential(size=30)

    def skewed(w):
        return float((w @ values**3) / w.sum())

    rng = np.random.default_rng(seed)
    draws = [np.bincount(rng.integers(30, size=30), minlength=30) for _ in range(500)]
    drawn = np.array([skewed(w) for w in draws])
    ours = bootstrap(skewed, 30, 500, 0.9, kind, seed)
    theirs = stats.bootstrap(
        (values,),
        lambda x, axis: (x**3).mean(axis),
        confidence_level=0.9,
        n_resamples=0,
        method="BCa" if kind == "bca" else "percentile",
        bootstrap_result=SimpleNamespace(bootstrap_distribution=drawn),
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=1e-9)
