import numpy as np
import pytest
from equality import close
from hypothesis import given, settings
from hypothesis import strategies as st

from headprobe.errors import InputError
from headprobe.metrics.consensus import borda, median_rank, reciprocal_rank_fusion
from headprobe.scores import score_map

NAN = float("nan")
METHODS = [borda, median_rank, reciprocal_rank_fusion]


def stacked(rows):
    array = np.asarray(rows, dtype=float)
    return score_map(array[:, None], prompts=[f"p{i}" for i in range(len(array))])


# Ranks: 1 2.5 2.5 4 and 2 1 4 3 and 1 2 3 4.
MAPS = stacked([[9.0, 5.0, 5.0, 1.0], [3.0, 4.0, 1.0, 2.0], [4.0, 3.0, 2.0, 1.0]])


def test_borda_by_hand():
    np.testing.assert_allclose(borda(MAPS).values, [[8 / 9, 6.5 / 9, 2.5 / 9, 1 / 9]])


def test_median_rank_by_hand():
    np.testing.assert_allclose(median_rank(MAPS).values, [[1, 2 / 3, 1 / 3, 0]])
    np.testing.assert_allclose(median_rank(MAPS.isel(prompt=[0, 1])).values[0, 1], (4 - 1.75) / 3)


def test_reciprocal_rank_fusion_by_hand():
    expected = [1 / 61 + 1 / 62 + 1 / 61, 1 / 62.5 + 1 / 61 + 1 / 62, 1 / 62.5 + 1 / 64 + 1 / 63, 2 / 64 + 1 / 63]
    np.testing.assert_allclose(reciprocal_rank_fusion(MAPS).values, [expected])
    np.testing.assert_allclose(reciprocal_rank_fusion(MAPS, constant=0).values[0, 0], 2.5)
    with pytest.raises(InputError, match="constant is -1; it must be a number of at least 0"):
        reciprocal_rank_fusion(MAPS, constant=-1)


@pytest.mark.parametrize("method", METHODS)
@given(seed=st.integers(0, 2**16))
@settings(max_examples=20, deadline=None)
def test_properties(method, seed):
    rng = np.random.default_rng(seed)
    m = score_map(rng.integers(0, 6, size=(3, 2, 4)).astype(float), prompts=["a", "b", "c"])
    scores = method(m)
    assert scores.dims == ("layer", "head")
    order = rng.permutation(4)
    np.testing.assert_allclose(method(m.isel(head=order)).values, scores.values[:, order], rtol=1e-14)
    np.testing.assert_allclose(method(np.exp(m)).values, scores.values, rtol=1e-14)
    np.testing.assert_allclose(method(m.isel(prompt=[2, 0, 1])).values, scores.values, rtol=1e-14)
    # Copies of one map: the order of that map.
    same = method(m.isel(prompt=[1, 1, 1])).values.ravel()
    one = m.values[1].ravel()
    assert (np.sign(same[:, None] - same) == np.sign(one[:, None] - one)).all()


def test_borda_of_one_map_has_mean_one_half_and_known_ends():
    values = np.random.default_rng(0).permutation(12).reshape(1, 3, 4).astype(float)
    for method in (borda, median_rank):
        scores = method(score_map(values, prompts=["a"]))
        assert (scores.min(), scores.max()) == (0, 1)
        assert scores.mean() == pytest.approx(0.5)


@pytest.mark.parametrize("method", METHODS)
def test_heads_that_do_not_exist_and_other_dims(method):
    with_gap = stacked([[9.0, NAN, 5.0, 5.0, 1.0], [3.0, NAN, 4.0, 1.0, 2.0], [4.0, NAN, 3.0, 2.0, 1.0]])
    scores = method(with_gap).values
    assert np.isnan(scores[0, 1])
    assert close(scores[0, [0, 2, 3, 4]], method(MAPS).values[0])
    renamed = MAPS.rename(prompt="model")
    assert close(method(renamed, "model").values, method(MAPS).values)
    with pytest.raises(InputError, match=r"dims \('prompt', 'layer', 'head'\), got \('model', 'layer', 'head'\)"):
        method(renamed)
    with pytest.raises(InputError, match="2 or more heads with a score are needed, got 1"):
        method(MAPS.isel(head=[0]))
