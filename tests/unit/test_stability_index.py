import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headprobe.errors import InputError
from headprobe.heads import HeadSet
from headprobe.metrics.ranks import from_head_sets
from headprobe.metrics.stability import kuncheva, nogueira
from headprobe.scores import score_map


def selection(rows):
    """[map, head] of 1 and 0 as a stack of maps."""
    array = np.asarray(rows, dtype=float)
    return score_map(array[:, None], prompts=[f"p{i}" for i in range(len(array))])


def test_by_hand():
    # Three sets of 2 out of 5: overlaps 2, 1, 1; the index of a pair is (5 r - 4) / 6.
    maps = selection([[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [1, 0, 1, 0, 0]])
    expected = (6 / 6 + 1 / 6 + 1 / 6) / 3
    assert kuncheva(maps).value == pytest.approx(expected)
    # Shares 1, 2/3, 1/3, 0, 0: 1 - (3/2 * (2/9 + 2/9) / 5) / (0.4 * 0.6).
    assert nogueira(maps).value == pytest.approx(1 - (1.5 * 4 / 9 / 5) / 0.24)
    assert nogueira(maps).value == pytest.approx(expected)
    assert (nogueira(maps).n_sets, nogueira(maps).n_heads, nogueira(maps).mean_size) == (3, 5, 2)


def test_sets_of_different_sizes_by_hand():
    # Two sets, {0} and {0, 1}, of 4: shares 1, 1/2; mean size 1.5; variance 2 * 1/4.
    maps = selection([[1, 0, 0, 0], [1, 1, 0, 0]])
    share = 1.5 / 4
    value = 1 - (0.5 / 4) / (share * (1 - share))
    found = nogueira(maps)
    assert found.value == pytest.approx(value)
    # phi_i, term by term.
    phi = []
    for overlap, size in ((1.0, 1), (1.5, 2)):
        rest = value / 2 * (2 * size * 1.5 / 16 - size / 4 - share + 1)
        phi.append((overlap / 4 - size * 1.5 / 16 + rest) / (share * (1 - share)))
    variance = 4 / 4 * sum((p - np.mean(phi)) ** 2 for p in phi)
    assert found.variance == pytest.approx(variance)
    assert found.upper - found.value == pytest.approx(1.959964 * np.sqrt(variance), rel=1e-6)
    assert found.value - found.lower == pytest.approx(found.upper - found.value)


def test_equal_sets_give_one_and_disjoint_halves_the_lowest_value():
    same = selection([[1, 0, 1, 0]] * 4)
    for index in (kuncheva, nogueira):
        found = index(same)
        assert (found.value, found.variance, found.lower, found.upper) == pytest.approx((1, 0, 1, 1))
    opposite = selection([[1, 1, 0, 0], [0, 0, 1, 1]])
    assert kuncheva(opposite).value == pytest.approx(-1)
    assert nogueira(opposite).value == pytest.approx(-1)  # -1 / (sets - 1)


@given(st.integers(0, 2**16), st.integers(2, 7), st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_with_one_size_the_two_indices_are_the_same_number(seed, n_sets, k):
    rng = np.random.default_rng(seed)
    m = score_map(rng.normal(size=(n_sets, 2, 3)), prompts=[str(i) for i in range(n_sets)])
    a, b = kuncheva(m, k), nogueira(m, k)
    assert a.value == pytest.approx(b.value)
    assert (a.variance, a.lower, a.upper) == (b.variance, b.lower, b.upper)
    assert -1 / (n_sets - 1) - 1e-12 <= b.value <= 1 + 1e-12
    order = rng.permutation(3)
    assert nogueira(m.isel(head=order), k).value == pytest.approx(b.value)
    assert nogueira(np.exp(m), k).variance == pytest.approx(b.variance)
    assert nogueira(m.isel(prompt=rng.permutation(n_sets)), k).value == pytest.approx(b.value)


def test_random_sets_give_about_zero_whatever_their_size():
    rng = np.random.default_rng(0)
    for share in (0.1, 0.5, 0.9):
        found = nogueira(selection(rng.random((200, 50)) < share))
        assert abs(found.value) < 0.02
        assert found.lower < 0.01


def test_the_interval_covers_the_true_stability_and_the_variance_is_right():
    rng = np.random.default_rng(1)
    chance = rng.beta(0.5, 1.0, size=20)
    share = chance.mean()
    truth = 1 - np.mean(chance * (1 - chance)) / (share * (1 - share))
    found = [nogueira(selection(rng.random((60, 20)) < chance)) for _ in range(300)]
    covered = np.mean([f.lower <= truth <= f.upper for f in found])
    assert 0.91 <= covered <= 0.98  # 0.95 +- 2.5 standard errors of 300 draws, and a little for the approximation
    estimates = np.array([f.value for f in found])
    assert abs(estimates.mean() - truth) < 0.01
    assert 0.8 < np.mean([f.variance for f in found]) / estimates.var() < 1.25


def test_confidence_sets_the_width():
    maps = selection(np.random.default_rng(0).random((30, 10)) < 0.4)
    narrow, wide = nogueira(maps, confidence=0.5), nogueira(maps, confidence=0.99)
    assert wide.upper - wide.value == pytest.approx((narrow.upper - narrow.value) * 2.5758 / 0.67449, rel=1e-4)
    with pytest.raises(InputError, match=r"confidence is 1.*; it must be a number above 0 and below 1"):
        nogueira(maps, confidence=1)


def test_degenerate_sets_are_named():
    with pytest.raises(InputError, match="all 2 sets are empty, so there is no selection"):
        nogueira(selection([[0, 0], [0, 0]]))
    with pytest.raises(InputError, match="all 2 sets hold all 2 heads"):
        nogueira(selection([[1, 1], [1, 1]]))
    with pytest.raises(InputError, match="all 2 sets hold all 2 heads"):
        kuncheva(selection([[0.3, 0.1], [0.2, 0.4]]), 2)
    with pytest.raises(InputError, match="prompt=p1: no head is chosen"):
        kuncheva(selection([[1, 0], [0, 0]]))
    with pytest.raises(InputError, match=r"needs sets of one size, got \[1, 2\]: use nogueira"):
        kuncheva(selection([[1, 0, 0], [1, 1, 0]]))
    with pytest.raises(InputError, match="2 or more maps along 'prompt' are needed, got 1"):
        nogueira(selection([[1, 0, 0]]))


def test_head_sets_of_any_selector():
    candidates = score_map(np.zeros((2, 2)))
    sets = {"a": HeadSet(["L0H0", "L1H1"]), "b": HeadSet(["L1H1", "L0H0"]), "c": HeadSet()}
    found = nogueira(from_head_sets(sets, candidates, "selector"), dim="selector")
    share = (4 / 3) / 4
    assert found.value == pytest.approx(1 - 1.5 * (2 * 2 / 9 / 4) / (share * (1 - share)))
