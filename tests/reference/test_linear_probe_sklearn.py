"""The batched linear probe against scikit-learn's ridge regression, one fold after the other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import LeaveOneGroupOut

from headprobe.metrics.linear_probe import PENALTY, auroc, loo_ridge_auroc, loo_ridge_scores


@pytest.mark.parametrize(("n", "d"), [(20, 6), (20, 50), (70, 6)])
@pytest.mark.parametrize("size", [1, 3])
def test_equals_ridge_fitted_to_every_fold(n: int, d: int, size: int) -> None:
    rng = np.random.default_rng(n + d)
    x = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + 3
    y = rng.integers(0, 2, n)
    # Unequal groups, their examples apart from each other.
    groups = rng.permutation(np.arange(n) // size)
    centred = x - x.mean(0)
    alpha = PENALTY * (centred**2).sum() / min(n - 1, d)
    expected = np.empty(n)
    for train, test in LeaveOneGroupOut().split(x, y, groups):
        ridge = Ridge(alpha=alpha).fit(x[train], y[train])
        expected[test] = ridge.predict(x[test]) - y[train].mean()
    labels = torch.from_numpy(y.astype(float))
    scores = loo_ridge_scores(torch.from_numpy(x)[None], labels, groups)[0]
    np.testing.assert_allclose(scores, expected, rtol=1e-9, atol=1e-11)
    area = loo_ridge_auroc(torch.from_numpy(x)[None], labels, groups)[0]
    assert area == pytest.approx(roc_auc_score(y, expected), abs=1e-12)


def test_auroc_equals_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    scores = np.concatenate([rng.normal(size=(40, 31)), rng.integers(-2, 3, size=(40, 31)).astype(float)])
    y = rng.permuted(np.tile(np.arange(31) % 3 == 0, (80, 1)), axis=1)
    expected = [roc_auc_score(label, score) for label, score in zip(y, scores, strict=True)]
    np.testing.assert_allclose(auroc(scores, y), expected, atol=1e-12)
