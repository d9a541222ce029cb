"""Rank correlations against scipy, the probabilities of robust rank aggregation against its binomial form."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, kendalltau, spearmanr, weightedtau

from headprobe.metrics.agreement import rank_correlation
from headprobe.metrics.consensus import robust_rank_aggregation
from headprobe.scores import score_map

SCIPY = {"spearman": spearmanr, "kendall": kendalltau, "weighted": weightedtau}


@pytest.mark.parametrize("method", SCIPY)
@given(seed=st.integers(0, 2**16), ties=st.booleans())
@settings(max_examples=25, deadline=None)
def test_rank_correlations(method, seed, ties):
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 5, size=(3, 4, 5)).astype(float) if ties else rng.normal(size=(3, 4, 5))
    found = rank_correlation(score_map(values, prompts=["a", "b", "c"]), method).values
    for i in range(3):
        for j in range(3):
            expected = SCIPY[method](values[i].ravel(), values[j].ravel()).statistic if i != j else 1.0
            assert found[i, j] == pytest.approx(expected, abs=1e-12)


def test_rho_is_the_smallest_binomial_tail():
    """The k-th smallest of m uniform numbers is below r exactly if at least k of them are."""
    rng = np.random.default_rng(0)
    m, n = 7, 24
    orders = np.stack([rng.permutation(n) for _ in range(m)])  # rank - 1 of each head
    maps = score_map(-orders.reshape(m, 4, 6).astype(float), prompts=[str(i) for i in range(m)])
    share = np.sort((orders + 1) / n, axis=0)
    rho = np.stack([binom.sf(k - 1, m, share[k - 1]) for k in range(1, m + 1)]).min(0)
    found = robust_rank_aggregation(maps)
    np.testing.assert_allclose(10 ** -found.scores.values.ravel(), rho, rtol=1e-10)
    np.testing.assert_allclose(found.p_values.values.ravel(), np.minimum(1, m * rho), rtol=1e-10)
