import numpy as np
import pytest
from equality import close
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, rankdata

from headprobe.errors import InputError
from headprobe.metrics.consensus import EXACT_MAPS, _exact, robust_rank_aggregation
from headprobe.metrics.null import holm
from headprobe.scores import score_map


def stacked(rows):
    array = np.asarray(rows, dtype=float)
    return score_map(array[:, None], prompts=[f"p{i}" for i in range(len(array))])


def noise(rng, maps, heads):
    return stacked([rng.permutation(heads) for _ in range(maps)])


def test_two_maps_by_hand():
    # Head 0 is first of four twice: beta_1 = 1 - (3/4)^2, beta_2 = (1/4)^2; rho = 1/16.
    found = robust_rank_aggregation(stacked([[4.0, 3.0, 2.0, 1.0], [4.0, 1.0, 2.0, 3.0]]))
    rho = np.array([1 / 16, 0.75, 0.5625, 0.75])
    np.testing.assert_allclose(found.scores.values[0], -np.log10(rho))
    np.testing.assert_allclose(found.p_values.values[0], np.minimum(1, 2 * rho))
    np.testing.assert_allclose(found.adjusted.values[0], [0.5, 1, 1, 1])


def test_exact_p_of_two_maps_by_hand():
    # U the smaller and V the larger of two: P(1 - (1 - U)^2 <= r or V^2 <= r) = 1 - P(U > a and V > b)
    # = 1 - ((1 - a)^2 - (b - a)^2) with a = 1 - sqrt(1 - r), b = sqrt(r).
    for r in (1e-6, 0.05, 1 / 16, 0.5, 0.9):
        a, b = 1 - np.sqrt(1 - r), np.sqrt(r)
        assert _exact(np.array([r]), 2)[0] == pytest.approx(1 - ((1 - a) ** 2 - (b - a) ** 2), rel=1e-9)
    assert _exact(np.array([0.3]), 1)[0] == pytest.approx(0.3)
    assert _exact(np.array([1.0]), 5)[0] == 1


def test_exact_p_is_the_distribution_of_rho_under_the_null():
    rng = np.random.default_rng(0)
    for m in (3, 10):
        u = np.sort(rng.random((40_000, m)), axis=1)
        k = np.arange(1, m + 1)
        rho = beta.cdf(u, k, m - k + 1).min(1)
        at = np.quantile(rho, [0.01, 0.05, 0.3, 0.8])
        np.testing.assert_allclose(_exact(at, m), [0.01, 0.05, 0.3, 0.8], atol=4 * np.sqrt(0.25 / 40_000))


def test_exact_p_keeps_its_precision_where_it_is_tiny_and_lies_below_the_bound():
    rho = 10.0 ** -np.arange(1, 100, 7)
    for m in (2, 5, 20, EXACT_MAPS):
        p = _exact(rho, m)
        assert (p >= rho * (1 - 1e-9)).all()
        assert (p <= m * rho * (1 + 1e-9)).all()
        assert (np.diff(p) < 0).all()
        assert p[-1] == pytest.approx(m * rho[-1], rel=3e-3)  # where the bound takes over


def test_the_exact_p_goes_over_into_the_bound_without_a_step():
    rows = np.tile(np.arange(100)[::-1].astype(float), (EXACT_MAPS, 1))  # rho of the first head: 1e-100
    found = robust_rank_aggregation(stacked(rows), correction="exact")
    p = found.p_values.values[0]
    assert p[0] == pytest.approx(EXACT_MAPS * 1e-100)
    assert (np.diff(p[:60]) > 0).all()


@pytest.mark.parametrize("correction", ["bonferroni", "exact"])
def test_under_the_null_p_values_are_not_too_small(correction):
    rng = np.random.default_rng(2)
    alphas, runs, n = np.array([0.01, 0.05, 0.2]), 10, 4000
    found = [robust_rank_aggregation(noise(rng, 5, n), correction=correction) for _ in range(runs)]
    share = np.mean([(f.p_values.values.ravel()[:, None] <= alphas).mean(0) for f in found], axis=0)
    spread = np.sqrt(alphas * (1 - alphas) / (runs * n))  # heads of one map exclude each other: rather less
    assert (share <= alphas + 4 * spread).all()
    if correction == "exact":  # and not too large either, but for the discreteness of ranks
        assert (share > 0.8 * alphas).all()
    # Family-wise, few heads: 0.05 of 200 runs, standard deviation 3.1.
    found = [robust_rank_aggregation(noise(rng, 4, 30), correction=correction) for _ in range(200)]
    assert sum(bool((f.adjusted.values <= 0.05).any()) for f in found) <= 10 + 3 * 3.1


def test_planted_heads_are_found():
    rng = np.random.default_rng(3)
    values = rng.normal(size=(6, 20, 20))
    values[:, 4, 5] += 4
    values[:4, 7, 8] += 6  # in four maps of six: robust to the other two
    found = robust_rank_aggregation(score_map(values, prompts=list("abcdef")))
    assert set(zip(*np.nonzero(found.adjusted.values < 0.05), strict=True)) == {(4, 5), (7, 8)}


def test_ties_get_the_worst_rank_so_that_nothing_is_found_in_them():
    flat = robust_rank_aggregation(stacked(np.zeros((4, 6))), correction="exact")
    assert (flat.p_values.values == 1).all()
    assert (flat.scores.values == 0).all()
    # Every head beside the first is tied; the first is first of six in all of four maps.
    rows = np.zeros((4, 6))
    rows[:, 0] = 1
    found = robust_rank_aggregation(stacked(rows))
    assert found.p_values.values[0, 0] == pytest.approx(4 * 6.0**-4)
    assert (found.p_values.values[0, 1:] == 1).all()
    # Half of the heads share the first places at random: mean ranks would make each of them look special.
    rng = np.random.default_rng(0)
    p = [
        robust_rank_aggregation(stacked([rng.permutation([1] * 5 + [0] * 5) for _ in range(4)]), correction="exact")
        for _ in range(60)
    ]
    assert np.mean([f.p_values.values <= 0.1 for f in p]) <= 0.1


def test_many_maps_do_not_underflow_into_ties():
    m, n = 400, 30
    rows = np.tile(np.arange(n)[::-1].astype(float), (m, 1))
    found = robust_rank_aggregation(stacked(rows))
    scores = found.scores.values[0]
    np.testing.assert_allclose(scores[0], m * np.log10(n))
    assert (np.diff(scores[:-1]) < 0).all()
    assert (found.p_values.values > 0).all()
    # Where nothing underflows, the sum is the distribution function itself.
    np.testing.assert_allclose(scores[20], -beta.logcdf(21 / n, m, 1) / np.log(10))


@given(st.integers(0, 2**16))
@settings(max_examples=25, deadline=None)
def test_properties(seed):
    rng = np.random.default_rng(seed)
    m = score_map(rng.normal(size=(4, 2, 5)), prompts=list("abcd"))
    found, exact = robust_rank_aggregation(m), robust_rank_aggregation(m, correction="exact")
    share = np.sort(rankdata(-m.values.reshape(4, -1), axis=1) / 10, axis=0)
    k = np.arange(1, 5)[:, None]
    rho = beta.cdf(share, k, 4 - k + 1).min(0).reshape(2, 5)
    np.testing.assert_allclose(found.scores.values, -np.log10(rho), rtol=1e-9, atol=1e-12)
    assert close(found.scores.values, exact.scores.values)
    assert (exact.p_values.values <= found.p_values.values + 1e-12).all()
    assert close(found.adjusted, holm(found.p_values))
    order = rng.permutation(5)
    assert close(robust_rank_aggregation(np.cbrt(m).isel(head=order)).scores.values, found.scores.values[:, order])


def test_refused():
    with pytest.raises(InputError, match=r"correction is 'none'; choose one of 'bonferroni', 'exact'"):
        robust_rank_aggregation(stacked([[1.0, 2.0]]), correction="none")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="exact p-value is computed for up to 50 maps, got 51: use 'bonferroni'"):
        robust_rank_aggregation(stacked(np.random.default_rng(0).random((51, 4))), correction="exact")
    with pytest.raises(InputError, match="2 or more heads with a score are needed, got 1"):
        robust_rank_aggregation(stacked([[1.0]]))


def test_heads_that_do_not_exist_are_not_counted():
    nan = float("nan")
    found = robust_rank_aggregation(stacked([[4.0, nan, 3.0, 2.0, 1.0], [4.0, nan, 1.0, 2.0, 3.0]]))
    np.testing.assert_allclose(found.p_values.values[0, 0], 1 / 8)
    assert np.isnan([found.scores.values[0, 1], found.p_values.values[0, 1], found.adjusted.values[0, 1]]).all()
