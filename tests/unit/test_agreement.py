import numpy as np
import pytest
from equality import close, same_bits
from hypothesis import given, settings
from hypothesis import strategies as st

from headprobe.errors import InputError
from headprobe.heads import HeadSet
from headprobe.metrics.agreement import CORRELATIONS, jaccard, mean_agreement, rank_correlation
from headprobe.metrics.ranks import from_head_sets
from headprobe.scores import score_map


def stacked(rows):
    array = np.asarray(rows, dtype=float)
    return score_map(array[:, None], prompts=[f"p{i}" for i in range(len(array))])


def test_rank_correlations_by_hand():
    # Ranks 1 2 3 4 against 1 2 4 3: one of six pairs is discordant, squared rank differences sum to 2.
    maps = stacked([[4.0, 3.0, 2.0, 1.0], [4.0, 3.0, 1.0, 2.0]])
    assert rank_correlation(maps, "kendall").values[0, 1] == pytest.approx(4 / 6)
    assert rank_correlation(maps, "spearman").values[0, 1] == pytest.approx(1 - 6 * 2 / (4 * 15))
    # Pairs weighted by 1 / rank + 1 / rank: the discordant one has 1 / 3 + 1 / 4 of a total of 3 (1 + 1/2 + 1/3 + 1/4).
    assert rank_correlation(maps, "weighted").values[0, 1] == pytest.approx(1 - 2 * (7 / 12) / (3 * 25 / 12))


def test_ties_by_hand():
    # tau-b: pairs (0,1) (0,2) (1,2); concordant 2, tied in the second map 1: 2 / sqrt(3 * 2).
    maps = stacked([[3.0, 2.0, 1.0], [3.0, 1.0, 1.0]])
    assert rank_correlation(maps, "kendall").values[0, 1] == pytest.approx(2 / np.sqrt(6))
    assert rank_correlation(maps).values[0, 1] == pytest.approx(np.corrcoef([3, 2, 1], [3, 1.5, 1.5])[0, 1])


def test_the_best_heads_weigh_most_in_the_weighted_tau():
    top = stacked([[5.0, 4.0, 3.0, 2.0, 1.0], [4.0, 5.0, 3.0, 2.0, 1.0]])
    bottom = stacked([[5.0, 4.0, 3.0, 2.0, 1.0], [5.0, 4.0, 3.0, 1.0, 2.0]])
    assert rank_correlation(top, "kendall").values[0, 1] == rank_correlation(bottom, "kendall").values[0, 1]
    assert rank_correlation(top, "weighted").values[0, 1] < rank_correlation(bottom, "weighted").values[0, 1]


@pytest.mark.parametrize("method", CORRELATIONS)
@given(seed=st.integers(0, 2**16))
@settings(max_examples=15, deadline=None)
def test_properties_of_rank_correlations(method, seed):
    rng = np.random.default_rng(seed)
    m = score_map(rng.normal(size=(3, 2, 4)), prompts=["a", "b", "c"])
    r = rank_correlation(m, method)
    assert r.dims == ("prompt", "prompt_other")
    assert same_bits(r.values, r.values.T, of="one matrix and its transpose")
    assert close(np.diag(r.values), np.ones(len(r)))
    assert (np.abs(r.values) <= 1).all()
    other = 3 * m - 1 if method == "pearson" else np.exp(2 * m)
    np.testing.assert_allclose(rank_correlation(other, method).values, r.values, atol=1e-12)
    np.testing.assert_allclose(rank_correlation(m.isel(head=rng.permutation(4)), method).values, r.values, atol=1e-12)
    pair = stacked([m.values[0].ravel(), np.cbrt(m.values[0].ravel())])
    if method == "pearson":
        expected = np.corrcoef(*pair.values.reshape(2, -1))[0, 1]
        assert rank_correlation(pair, method).values[0, 1] == pytest.approx(expected)
    else:
        assert rank_correlation(pair, method).values[0, 1] == pytest.approx(1)
    pair = stacked([m.values[0].ravel(), -m.values[0].ravel()])
    assert rank_correlation(pair, method).values[0, 1] == pytest.approx(-1)


def test_heads_that_do_not_exist_are_left_out():
    nan = float("nan")
    maps = stacked([[4.0, nan, 3.0, 2.0, 1.0], [4.0, nan, 3.0, 1.0, 2.0]])
    assert rank_correlation(maps).values[0, 1] == pytest.approx(0.8)
    assert jaccard(maps, 3).values[0, 1] == pytest.approx(0.5)


def test_rank_correlation_refuses():
    maps = stacked([[4.0, 3.0], [1.0, 1.0]])
    with pytest.raises(InputError, match="prompt=p1: all 2 heads score the same, so they have no ranks to correlate"):
        rank_correlation(maps)
    with pytest.raises(InputError, match="method is 'tau'; choose one of 'spearman'"):
        rank_correlation(maps, "tau")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="2 or more maps along 'prompt' are needed, got 1"):
        rank_correlation(maps.isel(prompt=[0]))
    with pytest.raises(InputError, match="2 or more heads with a score are needed, got 1"):
        rank_correlation(maps.isel(head=[0]))


def test_jaccard_by_hand_from_scores_and_from_sets():
    maps = stacked([[5.0, 4.0, 3.0, 0.0], [5.0, 4.0, 1.0, 3.0], [0.0, 1.0, 5.0, 4.0]])
    found = jaccard(maps, 3)
    np.testing.assert_allclose(found.values, [[1, 0.5, 0.5], [0.5, 1, 0.5], [0.5, 0.5, 1]])
    assert found["prompt_other"].values.tolist() == ["p0", "p1", "p2"]
    sets = {0: HeadSet(["L0H0", "L0H1", "L0H2"]), 1: HeadSet(["L0H0", "L0H1", "L0H3"]), 2: HeadSet(["L0H3"])}
    expected = [[1, 0.5, 0], [0.5, 1, 1 / 3], [0, 1 / 3, 1]]
    np.testing.assert_allclose(jaccard(from_head_sets(sets, maps[0]), dim="resample").values, expected)


def test_jaccard_refuses():
    maps = stacked([[5.0, 4.0], [5.0, 4.0]])
    with pytest.raises(InputError, match=r"holds scores, not a selection of 1 and 0: say how many heads to take \(k="):
        jaccard(maps)
    with pytest.raises(InputError, match=r"k is 3; it must be an integer from 1 to 2"):
        jaccard(maps, 3)
    with pytest.raises(InputError, match="prompt=p1: no head is chosen"):
        jaccard(stacked([[1.0, 0.0], [0.0, 0.0]]))


def test_the_mean_over_pairs():
    pairs = jaccard(stacked([[5.0, 4.0, 3.0, 0.0], [5.0, 4.0, 1.0, 3.0], [0.0, 1.0, 5.0, 4.0]]), 2)
    assert pairs.values[0].tolist() == [1.0, 1.0, 0.0]
    assert mean_agreement(pairs) == pytest.approx(1 / 3)
    with pytest.raises(InputError, match=r"agreements of two or more maps with each other, got shape \(1, 1\)"):
        mean_agreement(pairs[:1, :1])
