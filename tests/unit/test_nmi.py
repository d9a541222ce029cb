import itertools
import math

import numpy as np
import pytest
import torch
from equality import close, same

from headprobe.metrics import nmi as clusters_module
from headprobe.metrics._features import Batch
from headprobe.metrics.nmi import _contingency_nmi, k_means, nmi, two_means


def inertia_of(x, members):
    parts = (x[members], x[~members])
    return sum(((p - p.mean(0)) ** 2).sum() for p in parts)


def test_the_best_of_all_splits_is_found_for_few_examples():
    for seed in range(60):
        rng = np.random.default_rng(seed)
        n, d = int(rng.integers(2, 9)), int(rng.integers(1, 5))
        x = rng.normal(size=(n, d))
        if seed % 3 == 0:
            x = np.round(x) + np.eye(n, d) * 0.5
        splits = [np.array(s) for s in itertools.product([True, False], repeat=n) if 0 < sum(s) < n]
        best = min(inertia_of(x, s) for s in splits)
        clusters, inertia = two_means(torch.from_numpy(x[None]))
        assert inertia.item() == pytest.approx(best, rel=1e-9, abs=1e-12)
        assert inertia_of(x, clusters[0].numpy()) == pytest.approx(best, rel=1e-9, abs=1e-12)


def test_the_inertia_is_that_of_the_clusters_and_no_single_move_lowers_it():
    x = torch.randn(4, 50, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    clusters, inertia = two_means(x)
    for h in range(4):
        rows, members = x[h].numpy(), clusters[h].numpy()
        assert inertia[h].item() == pytest.approx(inertia_of(rows, members), rel=1e-12)
        for i in range(50):
            moved = members.copy()
            moved[i] = ~moved[i]
            assert inertia_of(rows, moved) >= inertia[h].item() * (1 - 1e-12)


def test_two_distant_groups_are_found_whatever_the_seed():
    x = torch.randn(1, 30, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = torch.arange(30) < 11
    x[0, y] += 20
    for seed in range(10):
        assert nmi(x, y, seed).item() == pytest.approx(1.0, rel=1e-12)


def test_hand_computed_contingency():
    # 4 examples, y = 0 0 1 1, clusters 0 0 0 1: I = h(1/4) - 1/2 * ln 2 ... with H(Y) = ln 2.
    y = torch.tensor([False, False, True, True])
    clusters = torch.tensor([[False, False, False, True]])
    h_clusters = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    information = h_clusters - 0.5 * math.log(2)
    assert _contingency_nmi(clusters, y).item() == pytest.approx(
        information / math.sqrt(h_clusters * math.log(2)), rel=1e-13
    )


def named(clusters: torch.Tensor) -> torch.Tensor:
    """Clusters by the first of their examples: which of equally good starts gives the names is a matter of rounding."""
    return (clusters[:, :, None] == clusters[:, None]).int().argmax(2)


def test_a_head_does_not_influence_another():
    x = torch.randn(6, 40, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    together, _ = two_means(x)
    for h in range(6):
        alone, _ = two_means(x[h : h + 1])
        assert same(named(alone)[0], named(together)[h])


def test_examples_that_are_mostly_equal_still_split():
    x = torch.zeros(1, 12, 3, dtype=torch.float64)
    x[0, 0] = 1
    clusters, inertia = two_means(x)
    assert clusters[0].sum().item() in (1, 11)
    assert inertia.item() == pytest.approx(0, abs=1e-14)


def test_the_best_of_all_splits_into_three_is_found_for_few_examples():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        n, d = int(rng.integers(3, 8)), int(rng.integers(1, 4))
        x = rng.normal(size=(n, d))
        best = min(
            sum(((x[s == c] - x[s == c].mean(0)) ** 2).sum() for c in range(3))
            for s in map(np.array, itertools.product(range(3), repeat=n))
            if len(set(s)) == 3
        )
        clusters, inertia = k_means(torch.from_numpy(x[None]), 3)
        assert inertia.item() == pytest.approx(best, rel=1e-9, abs=1e-12)
        labels = clusters[0].numpy()
        own = sum(((x[labels == c] - x[labels == c].mean(0)) ** 2).sum() for c in set(labels.tolist()))
        assert own == pytest.approx(best, rel=1e-9, abs=1e-12)


def test_two_clusters_in_either_way():
    x = torch.randn(20, 30, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    # From so many starts that neither way misses the lowest inertia.
    torch.testing.assert_close(k_means(x, 2, restarts=64)[1], two_means(x, restarts=64)[1], rtol=1e-9, atol=0)


def test_more_clusters_than_different_examples():
    x = torch.zeros(1, 12, 3, dtype=torch.float64)
    x[0, 0], x[0, 1:5] = 1, 2
    for k in (3, 4, 6):
        clusters, inertia = k_means(x, k)
        assert inertia.item() == pytest.approx(0, abs=1e-12)
        assert len({int(clusters[0, i]) for i in (0, 1, 5)}) == 3


def test_equal_examples_end_and_split_whatever_their_size():
    for size in (1e-8, 1.0, 1e8):
        x = size * torch.tensor([[[0.1], [0.1], [0.3], [0.3], [0.3]]], dtype=torch.float64).expand(3, -1, -1)
        clusters, inertia = two_means(x)
        assert (clusters[:, 0] != clusters[:, 2]).all()
        assert (inertia < 1e-12 * size**2).all()
        assert (k_means(x, 3)[1] < 1e-12 * size**2).all()


def test_many_heads_at_once_are_the_same_as_few(monkeypatch):
    from headprobe.metrics import nmi as module

    x = torch.randn(9, 20, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    whole = two_means(x), k_means(x, 3)
    monkeypatch.setattr(module, "TOGETHER_BYTES", 1)
    monkeypatch.setattr(module, "K_MEANS_BYTES", 1)
    for expected, found in zip(whole, (two_means(x), k_means(x, 3)), strict=True):
        assert same(named(expected[0]), named(found[0]))
        torch.testing.assert_close(expected[1], found[1], rtol=1e-12, atol=0)


def test_nmi_of_three_distant_groups_is_1_and_of_two_of_them_together_below():
    x = torch.randn(1, 30, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = torch.arange(30) % 3
    x[0] += 20 * torch.eye(5, dtype=torch.float64)[y]
    assert nmi(x, y).item() == pytest.approx(1.0, rel=1e-12)
    h = math.log(3)
    two = _contingency_nmi((y > 0)[None], y).item()
    joint = -(1 / 3 * math.log(1 / 3) + 2 / 3 * math.log(2 / 3))
    assert two == pytest.approx(joint / math.sqrt(joint * h), rel=1e-12)


def test_of_many_examples_the_inertia_is_about_the_lowest_and_that_of_the_clusters():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 900, 8, dtype=torch.float64, generator=generator) * torch.arange(1, 9) ** -0.5
    x[3:, :200] += torch.tensor([1.0, 2.0, 4.0])[:, None, None]
    for k in (2, 3):
        exact = two_means(x, exact=True) if k == 2 else k_means(x, k, exact=True)
        clusters, inertia = two_means(x) if k == 2 else k_means(x, k)
        assert (inertia <= exact[1] * 1.002).all()
        for h in range(6):
            parts = [x[h, clusters[h].long() == c] for c in range(k)]
            own = sum((part - part.mean(0)).square().sum() for part in parts)
            assert inertia[h].item() == pytest.approx(own.item(), rel=1e-5)


def test_up_to_400_examples_one_move_at_a_time_and_above_no_inner_products_of_all():
    x = torch.randn(2, 401, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    few = x[:, :400]
    assert close(two_means(few)[1], two_means(few, exact=True)[1])
    batch = Batch.of(x)
    clusters, inertia = two_means(batch)
    assert batch._gram is None
    assert close(inertia, two_means(x, exact=False)[1], torch.float32)
    assert same(clusters, two_means(x)[0])  # the same seed, the same clusters


def test_of_many_examples_a_head_alone_scaled_or_elsewhere_has_the_same_clusters():
    x = torch.randn(4, 450, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    y = torch.arange(450) % 3 == 0
    x[1:, y] += torch.tensor([1.0, 2.0, 6.0])[:, None, None]
    scores = nmi(x, y)
    torch.testing.assert_close(nmi(x.flip(0), y), scores.flip(0), rtol=0, atol=1e-3)
    torch.testing.assert_close(nmi(1024 * x, ~y), scores, rtol=0, atol=1e-3)
    torch.testing.assert_close(nmi(x[3:], y), scores[3:], rtol=0, atol=1e-3)
    assert scores[3].item() == pytest.approx(1.0)


def test_one_of_many_examples_apart_from_all_others_is_found_though_starts_are_tried_on_some():
    x = torch.zeros(1, 1200, 2, dtype=torch.float64)
    x[0, 7] = 5
    clusters, inertia = two_means(x)
    assert clusters[0].sum().item() in (1, 1199)
    assert inertia.item() == pytest.approx(0, abs=1e-2)


def test_of_many_examples_the_starts_that_are_gone_on_with_differ(monkeypatch):
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(1, 900, 3)) + 6 * np.eye(3)[np.arange(900) % 3])
    given = []

    def seen(rows, number, k, steps, descend=clusters_module._descend):
        given.append(number.clone())
        return descend(rows, number, k, steps)

    monkeypatch.setattr(clusters_module, "_descend", seen)
    two_means(x)
    first, second, alone = given[1].bool()
    # Splitting off another one of the three groups, not the same with the numbers of the clusters exchanged.
    assert 0.2 < (first != second).double().mean() < 0.8
    assert alone.sum() == 1


def test_some_rows_of_a_batch_have_the_clusters_of_the_rows_alone():
    x = torch.randn(40, 900, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    # About the mean of all, another example would be the farthest from it.
    x[:, 800:] += 40
    rows = torch.arange(800)
    together, alone = nmi(Batch.of(x).rows(rows), rows % 3 == 0), nmi(x[:, :800], rows % 3 == 0)
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)
