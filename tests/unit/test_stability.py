import numpy as np
import pytest
from equality import close
from hypothesis import given, settings
from hypothesis import strategies as st

from headprobe.errors import InputError
from headprobe.metrics.resampling import stack_maps
from headprobe.metrics.stability import coefficient_of_variation, mean, rss, standard_deviation
from headprobe.scores import score_map


def test_hand_computed():
    m = score_map([[[1.0, 0.5]], [[0.0, 0.5]], [[0.5, 0.5]]], prompts=["a", "b", "c"])
    expected = 0.5 - 0.5 * np.sqrt(1 / 6)
    assert rss(m).dims == ("layer", "head")
    np.testing.assert_allclose(rss(m).values, [[expected, 0.5]], rtol=1e-15)
    np.testing.assert_allclose(mean(m).values, [[0.5, 0.5]], rtol=1e-15)
    np.testing.assert_allclose(standard_deviation(m).values, [[np.sqrt(1 / 6), 0]], rtol=1e-15)
    np.testing.assert_allclose(coefficient_of_variation(m).values, [[2 * np.sqrt(1 / 6), 0]], rtol=1e-15)


def test_no_penalty_is_the_mean_and_one_prompt_has_no_spread():
    m = score_map(np.random.default_rng(0).normal(size=(3, 2, 4)), prompts=["a", "b", "c"])
    assert close(rss(m, 0).values, m.mean("prompt").values)
    one = m.isel(prompt=[1])
    assert close(rss(one, 5.0).values, one.values[0])


@pytest.mark.parametrize("penalty", [-0.1, np.nan, np.inf])
def test_penalties_that_make_no_sense(penalty):
    with pytest.raises(InputError, match=r"instability_penalty is .*; it must be a number of at least 0"):
        rss(score_map(np.zeros((1, 1, 1)), prompts=["a"]), penalty)


@pytest.mark.parametrize("function", [mean, standard_deviation, coefficient_of_variation, rss])
def test_other_dims_and_nan_are_refused(function):
    with pytest.raises(InputError, match=r"expected a score map with dims \('prompt', 'layer', 'head'\)"):
        function(score_map(np.zeros((2, 2))))
    values = np.ones((2, 1, 2))
    values[1, 0, 1] = np.nan
    with pytest.raises(InputError, match="the first at prompt=b, layer=0, head=1"):
        function(score_map(values, prompts=["a", "b"]))


@pytest.mark.parametrize("dim", ["resample", "seed", "repeat", "dataset", "model"])
def test_any_named_dim_and_the_others_stay(dim):
    rng = np.random.default_rng(1)
    parts = {i: score_map(rng.random((2, 3, 4)), metrics=["a", "b"]) for i in range(5)}
    stacked = stack_maps(parts, dim)
    values = np.stack([p.values for p in parts.values()])
    found = rss(stacked, 0.3, dim=dim)
    assert found.dims == ("metric", "layer", "head")
    np.testing.assert_allclose(found.values, values.mean(0) - 0.3 * values.std(0), rtol=1e-13)
    with pytest.raises(InputError, match=f"dims \\('prompt', 'layer', 'head'\\), got \\('{dim}', 'metric'"):
        rss(stacked)


def test_a_head_that_is_nowhere_stays_without_a_score():
    m = score_map([[[1.0, np.nan]], [[3.0, np.nan]]], prompts=["a", "b"])
    for function, expected in ((mean, 2.0), (standard_deviation, 1.0), (coefficient_of_variation, 0.5), (rss, 1.5)):
        assert close(function(m).values, [[expected, np.nan]])


@given(st.integers(0, 2**16), st.floats(0, 3))
@settings(max_examples=30, deadline=None)
def test_heads_permute_scores_shift_and_scale(seed, penalty):
    rng = np.random.default_rng(seed)
    m = score_map(rng.random((4, 2, 3)), prompts=list("abcd"))
    order = rng.permutation(3)
    assert close(rss(m.isel(head=order), penalty).values, rss(m, penalty).values[:, order])
    assert close(rss(m.isel(head=order), penalty).sel(head=[0, 1, 2]).values, rss(m, penalty).values)
    np.testing.assert_allclose(rss(2 * m + 3, penalty).values, 2 * rss(m, penalty).values + 3, rtol=1e-12)
    np.testing.assert_allclose(coefficient_of_variation(7 * m).values, coefficient_of_variation(m).values, rtol=1e-12)
    assert (coefficient_of_variation(m) <= np.sqrt(3) + 1e-12).all()
    assert (rss(m, penalty) >= (1 - np.sqrt(1 + penalty**2)) / 2 - 1e-12).all()
    np.testing.assert_allclose(rss(m.isel(prompt=[2, 0, 3, 1]), penalty).values, rss(m, penalty).values, atol=1e-14)


def test_the_lowest_robust_score_of_scores_from_0_to_1():
    # One prompt of five with 1: mean 0.2, spread 0.4, the share at which lambda = 3/4 costs most.
    m = score_map(np.eye(5)[:, None, :1], prompts=list("abcde"))
    assert rss(m, 0.75).item() == pytest.approx(0.2 - 0.75 * 0.4)
    assert rss(m, 0.75).item() >= (1 - np.sqrt(1 + 0.75**2)) / 2
    m = score_map(np.repeat([1.0, 0.0], [1, 9])[:, None, None], prompts=list("abcdefghij"))
    # The bound is met where the share is (1 - 1 / sqrt(1 + lambda^2)) / 2: 0.1 for lambda = 3/4.
    assert rss(m, 0.75).item() == pytest.approx((1 - np.sqrt(1 + 0.75**2)) / 2)


def test_a_variation_without_a_positive_mean_names_the_head():
    m = score_map([[[1.0, -1.0], [2.0, 0.0]], [[1.0, 1.0], [2.0, -4.0]]], prompts=["a", "b"], layers=[3, 5])
    text = r"means above 0, but 2 heads have none, the first at layer=3, head=1 with 0: use standard_deviation"
    with pytest.raises(InputError, match=text):
        coefficient_of_variation(m)
