import math

import numpy as np
import pytest
import torch
from equality import close
from hypothesis import given, settings
from hypothesis import strategies as st

from headprobe.metrics._features import Batch
from headprobe.metrics.mmd import _distances, mmd, mmd_unbiased


def test_hand_computed():
    # Squared distances 1, 9, 16 (0-1, 1-4, 0-4) ... with y = 0, 0, 1, 1 at 0, 1, 4, 4.
    x = torch.tensor([[[0.0], [1.0], [4.0], [4.0]]], dtype=torch.float64)
    y = torch.tensor([False, False, True, True])
    gamma = 1 / (2 * 9)  # non-zero squared distances: 1, 9, 9, 16, 16
    k = [math.exp(-gamma * d) for d in (1, 9, 16)]
    expected = (2 + 2 * k[0]) / 4 + 1 - 2 * (2 * k[1] + 2 * k[2]) / 4
    assert mmd(x, y).item() == pytest.approx(expected, rel=1e-14)
    # Without the pairs of an example with itself.
    expected = k[0] + 1 - 2 * (2 * k[1] + 2 * k[2]) / 4
    assert mmd_unbiased(x, y).item() == pytest.approx(expected, rel=1e-14)


@given(st.integers(0, 2**16), st.integers(2, 12), st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_distances_equal_differences_even_for_near_and_equal_examples(seed, n, d):
    rng = np.random.default_rng(seed)
    x = rng.integers(-2, 3, size=(3, n, d)) + rng.choice([0.0, 1e-7, 1e3], size=(3, n, 1))
    i, j = np.triu_indices(n, 1)
    expected = ((x[:, i] - x[:, j]) ** 2).sum(-1)
    found = _distances(Batch.of(torch.from_numpy(x)))[0].numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert ((found == 0) == (expected == 0)).all()


def test_heads_with_different_numbers_of_equal_examples_share_a_batch():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 9, 2))
    x[1, 4:] = x[1, 4]
    x[2, :3] = x[2, 8]
    y = torch.arange(9) % 2 == 0
    together = mmd(torch.from_numpy(x.copy()), y)
    apart = torch.cat([mmd(torch.from_numpy(x[h : h + 1].copy()), y) for h in range(3)])
    torch.testing.assert_close(together, apart, rtol=1e-12, atol=0)


def test_classes_with_the_same_examples_have_no_discrepancy():
    x = torch.tensor([[[0.0], [1.0], [0.0], [1.0]]], dtype=torch.float64)
    assert mmd(x, torch.tensor([False, False, True, True])).item() == pytest.approx(0, abs=1e-15)


def test_the_unbiased_statistic_has_mean_0_on_noise_and_the_other_has_not():
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(500, 20, 3)))
    y = torch.arange(20) % 2 == 0
    unbiased = mmd_unbiased(x, y)
    assert abs(unbiased.mean().item()) < 3 * unbiased.std().item() / 500**0.5
    assert mmd(x, y).mean() > 0.05


def test_several_classes_are_the_mean_over_pairs_with_one_kernel():
    x, y = np.random.default_rng(0).normal(size=(15, 4)), np.arange(15) % 3
    distances = ((x[:, None] - x[None]) ** 2).sum(-1)
    kernel = np.exp(-distances / (2 * np.median(distances[distances > 0])))

    def pair(a, b):
        blocks = [kernel[np.ix_(y == c, y == e)].mean() for c, e in ((a, a), (b, b), (a, b))]
        return blocks[0] + blocks[1] - 2 * blocks[2]

    expected = np.mean([pair(0, 1), pair(0, 2), pair(1, 2)])
    found = mmd(torch.from_numpy(x[None]), torch.from_numpy(y))
    assert found.item() == pytest.approx(expected, rel=1e-12)
    two = torch.arange(15) % 2
    torch.testing.assert_close(mmd(torch.from_numpy(x[None]), two), mmd(torch.from_numpy(x[None]), two == 1))


def many(seed=0, heads=12, n=900, d=16):
    """Heads of which each separates the classes more than the one before it."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(n) < n // 3
    x = rng.normal(size=(heads, n, d)) * np.arange(1, d + 1) ** -0.5
    x[:, y] += rng.normal(size=(heads, 1, d)) * np.linspace(0, 0.4, heads)[:, None, None]
    return torch.from_numpy(x), torch.from_numpy(y)


def test_up_to_400_examples_all_pairs_are_looked_at_and_above_the_time_is_linear():
    x, y = many(n=400)
    assert close(mmd(x, y), mmd(x, y, exact=True), torch.float32)
    assert not close(mmd(x, y), mmd(x, y, exact=False), torch.float32)
    x, y = many(n=401)
    assert close(mmd(x, y), mmd(x, y, exact=False), torch.float32)
    # Unless a head has so many dimensions that there is little to gain.
    x, y = many(heads=2, n=500, d=250)
    assert close(mmd(x, y), mmd(x, y, exact=True), torch.float32)
    large = Batch.of(torch.zeros(1, 5000, 4, dtype=torch.float64).index_fill_(1, torch.arange(0, 5000, 2), 1.0))
    mmd(large, torch.arange(5000) < 2500)
    assert large._gram is None  # 5000 x 5000 inner products


@pytest.mark.parametrize("statistic", [mmd, mmd_unbiased])
def test_random_features_are_near_all_pairs_whatever_the_seed(statistic):
    x, y = many()
    exact = statistic(x, y, exact=True)
    for seed in range(3):
        found = statistic(x, y, seed)
        # The features are off by a share of the biased statistic, which on noise is 1 / 300 + 1 / 600.
        torch.testing.assert_close(found, exact, rtol=0.12, atol=0.2 * (1 / 300 + 1 / 600))
        assert close(found, statistic(x, y, seed), torch.float32)
    assert not close(statistic(x, y, 0), statistic(x, y, 1), torch.float32)


def test_of_many_examples_neither_scale_nor_shift_nor_the_order_of_heads_nor_class_names_count():
    x, y = many(heads=6, n=450, d=5)
    scores = mmd(x, y)
    torch.testing.assert_close(mmd(1000 * x + 7, y), scores, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(mmd(x.flip(0), y), scores.flip(0), rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(mmd(x, ~y), scores, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(mmd(x, y.long()), scores, rtol=1e-5, atol=1e-8)


def test_of_many_examples_with_one_far_away_or_most_of_them_equal():
    x, y = many(heads=1, n=450, d=3)
    x[0, 0] += 1e7  # far beyond what float32 tells apart beside the others
    torch.testing.assert_close(mmd(x, y), mmd(x, y, exact=True), rtol=0.15, atol=1e-3)
    few = torch.zeros(1, 450, 3, dtype=torch.float64)
    few[0, :2] = 1
    torch.testing.assert_close(mmd(few, y), mmd(few, y, exact=True), rtol=0.1, atol=1e-6)


def test_some_of_many_rows_share_what_was_computed_of_all():
    x, y = many(heads=3)
    whole = Batch.of(x)
    rows = torch.from_numpy(np.random.default_rng(1).choice(900, 800))
    some = whole.rows(rows)
    torch.testing.assert_close(mmd(some, y[rows]), mmd(x[:, rows], y[rows]), rtol=1e-4, atol=1e-7)
    taken = [name for name in whole._taken if name[0] == "angles"]
    assert len(taken) == 1
    mmd(whole.rows(rows[:700]), y[rows[:700]])
    assert [name for name in whole._taken if name[0] == "angles"] == taken
