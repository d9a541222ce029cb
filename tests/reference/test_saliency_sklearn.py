"""Saliency against scikit-learn, head by head, on generated data."""

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.covariance import LedoitWolf
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import normalized_mutual_info_score
from sklearn.metrics.pairwise import euclidean_distances, rbf_kernel

from headprobe.metrics.nmi import _contingency_nmi, two_means
from headprobe.metrics.saliency import saliency

# (examples of class 0, of class 1, d): n above and below d, unequal classes, one dimension.
SHAPES = [(30, 30, 8), (9, 25, 20), (7, 5, 40), (20, 3, 12), (10, 11, 1)]


def data(shape, seed=0):
    n0, n1, d = shape
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.r_[np.zeros(n0, int), np.ones(n1, int)])
    z = rng.normal(size=(n0 + n1, 2, 3, d)) @ rng.normal(size=(d, d)) + rng.normal(size=d) * 10
    z[:, 1] += y[:, None, None] * rng.normal(size=d)
    z[:, 0, 2] *= np.where(y, 3.0, 1.0)[:, None]
    return z, y


def per_head(function, z, y):
    return np.array([[function(z[:, i, j], y) for j in range(z.shape[2])] for i in range(z.shape[1])])


def lda_shrunk(x, y):
    means = np.array([x[y == c].mean(0) for c in (0, 1)])
    scatter = len(x) * LedoitWolf(assume_centered=True).fit(x - means[y]).covariance_
    delta = means[1] - means[0]
    return delta @ np.linalg.solve(scatter, delta)


def symmetric_kl(x, y):
    fits = [LedoitWolf().fit(x[y == c]) for c in (0, 1)]

    def one_way(a, b):
        inverse = np.linalg.inv(b.covariance_)
        delta = b.location_ - a.location_
        log_ratio = np.linalg.slogdet(b.covariance_)[1] - np.linalg.slogdet(a.covariance_)[1]
        return 0.5 * (np.trace(inverse @ a.covariance_) + delta @ inverse @ delta - x.shape[1] + log_ratio)

    return 0.5 * (one_way(*fits) + one_way(*fits[::-1]))


def squared_mmd(x, y):
    distances = euclidean_distances(x, squared=True)
    kernel = rbf_kernel(x, gamma=1 / (2 * np.median(distances[distances > 0])))
    a, b = y == 1, y == 0
    return kernel[np.ix_(a, a)].mean() + kernel[np.ix_(b, b)].mean() - 2 * kernel[np.ix_(a, b)].mean()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("metric", "reference"), [("lda", lda_shrunk), ("kl", symmetric_kl), ("mmd", squared_mmd)])
def test_closed_form_metrics(shape, metric, reference):
    z, y = data(shape)
    scores = saliency(z, y, metrics=(metric,)).values[0]
    np.testing.assert_allclose(scores, per_head(reference, z, y), rtol=1e-8)


def test_lda_plain_is_the_distance_of_the_classes_of_linear_discriminant_analysis():
    z, y = data((30, 30, 8))

    def distance(x, y):
        model = LinearDiscriminantAnalysis(solver="lsqr", store_covariance=True).fit(x, y)
        delta = model.means_[1] - model.means_[0]
        return delta @ np.linalg.solve(model.covariance_ * len(x), delta)

    scores = saliency(z, y, metrics=("lda_plain",)).values[0]
    np.testing.assert_allclose(scores, per_head(distance, z, y), rtol=1e-8)


@pytest.mark.parametrize("shape", SHAPES)
def test_two_means_is_at_least_as_good_as_kmeans_and_its_nmi_is_that_of_its_clusters(shape):
    z, y = data(shape)
    x = torch.from_numpy(z).flatten(1, 2).transpose(0, 1).contiguous()
    clusters, inertia = two_means(x)
    scores = saliency(z, y, metrics=("nmi",)).values[0].ravel()
    for h in range(6):
        reference = KMeans(2, n_init=20, random_state=0).fit(x[h].numpy())
        assert inertia[h].item() <= reference.inertia_ * (1 + 1e-9)
        nmi = normalized_mutual_info_score(y, clusters[h].numpy(), average_method="geometric")
        assert scores[h] == pytest.approx(nmi, rel=1e-9, abs=1e-12)


def test_nmi_of_random_contingencies():
    rng = np.random.default_rng(0)
    y = rng.random(30) < 0.4
    clusters = rng.random((50, 30)) < rng.uniform(0.1, 0.9, size=(50, 1))
    clusters = clusters[clusters.any(1) & ~clusters.all(1)]
    expected = [normalized_mutual_info_score(y, c, average_method="geometric") for c in clusters]
    found = _contingency_nmi(torch.from_numpy(clusters), torch.from_numpy(y))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9, atol=1e-14)
