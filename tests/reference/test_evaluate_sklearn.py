"""Frame-level numbers against scikit-learn, ties included."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_auc_score

from headprobe.headhunt.evaluate import evaluate


@given(st.integers(0, 2**16), st.integers(2, 6), st.sampled_from([0, 1, 15]))
@settings(max_examples=60, deadline=None)
def test_pooled_and_within_numbers(seed, videos, digits):
    rng = np.random.default_rng(seed)
    truth = {f"v{i}": rng.integers(0, 2, rng.integers(1, 40)) for i in range(videos)}
    truth["v0"] = np.r_[truth["v0"], 0, 1]
    scores = {v: np.round(rng.normal(size=len(t)) + 0.5 * t, digits) for v, t in truth.items()}
    y, s = np.concatenate(list(truth.values())), np.concatenate(list(scores.values()))
    precision, recall, _ = precision_recall_curve(y, s)
    both = [v for v, t in truth.items() if 0 < t.sum() < len(t)]
    result = evaluate(scores, truth)
    assert result["auc"] == pytest.approx(roc_auc_score(y, s), abs=1e-12)
    assert result["ap"] == pytest.approx(average_precision_score(y, s), abs=1e-12)
    assert result["pr_auc_trapezoid"] == pytest.approx(auc(recall, precision), abs=1e-12)
    assert result["within_auc"] == pytest.approx(np.mean([roc_auc_score(truth[v], scores[v]) for v in both]), abs=1e-12)
    assert result["n_within_videos"] == len(both)
