"""Held-out scores, several classes and numbers against scikit-learn, head by head; and the memory of many examples."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.covariance import LedoitWolf
from sklearn.linear_model import Ridge
from sklearn.metrics import normalized_mutual_info_score, r2_score, roc_auc_score
from sklearn.metrics.pairwise import cosine_similarity, euclidean_distances, rbf_kernel
from sklearn.model_selection import LeaveOneGroupOut

from headprobe.metrics.linear_probe import PENALTY
from headprobe.metrics.saliency import saliency

# (examples, d): more and fewer examples than dimensions.
SHAPES = [(30, 6), (18, 25)]


def data(shape, classes=2, seed=0):
    n, d = shape
    rng = np.random.default_rng(seed)
    groups = rng.permutation(np.repeat(np.arange(n // 3), 3))
    y = rng.permutation(np.arange(n) % classes)
    z = rng.normal(size=(n, 2, 2, d)) @ rng.normal(size=(d, d)) + rng.normal(size=d) * 10
    z[:, 1, 1] += 3 * rng.normal(size=(classes, d))[y]
    return z, y, groups


def per_head(function, z, *arguments):
    return np.array([[function(z[:, i, j], *arguments) for j in range(2)] for i in range(2)])


def held_out(x, y, groups):
    """Predictions of ridge regression without the example's group, less the mean it comes from; and this mean."""
    rows = x - x.mean(0)
    alpha = PENALTY * np.trace(rows.T @ rows) / min(len(x) - 1, x.shape[1])
    scores, means = np.empty(len(x)), np.empty(len(x))
    for train, test in LeaveOneGroupOut().split(x, y, groups):
        means[test] = y[train].mean()
        scores[test] = Ridge(alpha=alpha, solver="svd").fit(x[train], y[train]).predict(x[test]) - means[test]
    return scores, means


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("classes", [2, 3])
def test_area_of_a_cross_validated_probe(shape, grouped, classes):
    z, y, groups = data(shape, classes)
    groups = groups if grouped else np.arange(len(y))

    def area(x):
        targets = [1] if classes == 2 else range(classes)
        return np.mean([roc_auc_score(y == c, held_out(x, (y == c).astype(float), groups)[0]) for c in targets])

    scores = saliency(z, y, ["auroc"], groups=groups).values[0]
    np.testing.assert_allclose(scores, per_head(area, z), rtol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("grouped", [False, True])
def test_r2_of_a_cross_validated_probe(shape, grouped):
    z, _, groups = data(shape)
    groups = groups if grouped else np.arange(len(z))
    y = z[:, 0, 1, 0] + np.random.default_rng(1).normal(size=len(z))

    def share(x):
        scores, means = held_out(x, y, groups)
        # What is left of y after the mean of the others, against what is left after the probe.
        return 1 - ((y - means - scores) ** 2).sum() / ((y - means) ** 2).sum()

    scores = saliency(z, y, ["r2"], groups=groups).values[0]
    np.testing.assert_allclose(scores, per_head(share, z), rtol=1e-8)
    predicted = np.add(*held_out(z[:, 0, 1], y, groups))
    assert r2_score(y, predicted) == pytest.approx(scores[0, 1], abs=0.2)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("grouped", [False, True])
def test_nearest_class_mean_by_cosine(shape, grouped):
    z, y, groups = data(shape, 3)
    groups = groups if grouped else np.arange(len(y))

    def accuracy(x):
        right = 0
        for train, test in LeaveOneGroupOut().split(x, y, groups):
            means = np.stack([x[train][y[train] == c].mean(0) for c in range(3)])
            right += (cosine_similarity(x[test], means).argmax(1) == y[test]).sum()
        return right / len(y)

    scores = saliency(z, y, ["sav"], groups=groups).values[0]
    np.testing.assert_allclose(scores, per_head(accuracy, z), rtol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_closed_form_metrics_of_three_classes(shape):
    z, y, _ = data(shape, 3)
    pairs = [(0, 1), (0, 2), (1, 2)]

    def lda(x):
        means = np.stack([x[y == c].mean(0) for c in range(3)])
        scatter = len(x) * LedoitWolf(assume_centered=True).fit(x - means[y]).covariance_
        deltas = [means[a] - means[b] for a, b in pairs]
        return np.mean([d @ np.linalg.solve(scatter, d) for d in deltas])

    def kl(x):
        fits = [LedoitWolf().fit(x[y == c]) for c in range(3)]

        def both_ways(a, b):
            inverses = [np.linalg.inv(f.covariance_) for f in (a, b)]
            delta = a.location_ - b.location_
            traces = np.trace(inverses[0] @ b.covariance_) + np.trace(inverses[1] @ a.covariance_)
            return (traces - 2 * len(delta) + delta @ sum(inverses) @ delta) / 4

        return np.mean([both_ways(fits[a], fits[b]) for a, b in pairs])

    def mmd_unbiased(x):
        distances = euclidean_distances(x, squared=True)
        kernel = rbf_kernel(x, gamma=1 / (2 * np.median(distances[distances > 0])))
        np.fill_diagonal(kernel, np.nan)
        mean = [[np.nanmean(kernel[np.ix_(y == a, y == b)]) for b in range(3)] for a in range(3)]
        return np.mean([mean[a][a] + mean[b][b] - 2 * mean[a][b] for a, b in pairs])

    scores = saliency(z, y, ["lda", "kl", "mmd_unbiased"]).values
    for found, function in zip(scores, (lda, kl, mmd_unbiased), strict=True):
        np.testing.assert_allclose(found, per_head(function, z), rtol=1e-8)


def test_clusters_for_three_classes():
    z, y, _ = data((30, 6), 3)
    z[:, 1, 1] += 40 * np.eye(6)[y]

    def agreement(x):
        clusters = KMeans(3, n_init=20, random_state=0).fit_predict(x)
        return normalized_mutual_info_score(y, clusters, average_method="geometric")

    found = saliency(z, y, ["nmi"]).values[0]
    assert found[1, 1] == pytest.approx(agreement(z[:, 1, 1]), rel=1e-9)
    np.testing.assert_allclose(found, per_head(agreement, z), atol=0.25)


def test_2000_examples_need_less_than_1_gb_beyond_the_input():
    code = """
        import resource
        import numpy as np
        from headprobe.metrics.saliency import METRICS, saliency

        def peak():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

        y = np.arange(2000) % 2
        z = np.random.default_rng(0).normal(size=(2000, 1, 2, 128)).astype(np.float32)
        saliency(z[:40], y[:40])
        before = peak()
        saliency(z, y, [name for name, metric in METRICS.items() if name not in ("nmi", "r2")])
        saliency(z[:, :, :1], y, ["nmi"])
        print(peak() - before)
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True, timeout=300
    )
    assert float(run.stdout) < 1
