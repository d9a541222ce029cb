import numpy as np
import pytest

from headprobe.errors import InputError
from headprobe.metrics.stability import rss
from headprobe.scores import score_map


def test_hand_computed():
    m = score_map([[[1.0, 0.5]], [[0.0, 0.5]], [[0.5, 0.5]]], prompts=["a", "b", "c"])
    expected = 0.5 - 0.5 * np.sqrt(1 / 6)
    assert rss(m).dims == ("layer", "head")
    np.testing.assert_allclose(rss(m).values, [[expected, 0.5]], rtol=1e-15)


def test_no_penalty_is_the_mean_and_one_prompt_has_no_spread():
    m = score_map(np.random.default_rng(0).normal(size=(3, 2, 4)), prompts=["a", "b", "c"])
    assert np.array_equal(rss(m, 0).values, m.mean("prompt").values)
    one = m.isel(prompt=[1])
    assert np.array_equal(rss(one, 5.0).values, one.values[0])


@pytest.mark.parametrize("penalty", [-0.1, np.nan, np.inf])
def test_penalties_that_make_no_sense(penalty):
    with pytest.raises(InputError, match="instability_penalty must be 0 or more"):
        rss(score_map(np.zeros((1, 1, 1)), prompts=["a"]), penalty)


def test_other_dims_and_nan_are_refused():
    with pytest.raises(InputError, match=r"expected a score map with dims \('prompt', 'layer', 'head'\)"):
        rss(score_map(np.zeros((2, 2))))
    values = np.zeros((2, 1, 2))
    values[1, 0, 1] = np.nan
    with pytest.raises(InputError, match="the first at prompt=b, layer=0, head=1"):
        rss(score_map(values, prompts=["a", "b"]))
