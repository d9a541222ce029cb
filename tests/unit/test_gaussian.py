import numpy as np
import pytest
import torch
from sklearn.covariance import LedoitWolf

from headprobe.errors import InputError
from headprobe.metrics import gaussian as module
from headprobe.metrics.gaussian import _ledoit_wolf, _span_coordinates, kl, lda, lda_plain

Y = torch.tensor([False, False, True, True])


def head(rows):
    return torch.tensor([rows], dtype=torch.float64)


def test_hand_computed_lda_plain():
    # Means (0, 0) and (3, 2); scatter of 3 + 3 points below is diag(4, 4).
    x = head([[1, 0], [-1, 0], [0, 0], [3, 0], [3, 4], [3, 2]])
    x[0, :3, 1] = torch.tensor([0.0, 0.0, 0.0])
    y = torch.tensor([False] * 3 + [True] * 3)
    # S_W = diag(2, 8), so 3^2 / 2 + 2^2 / 8.
    assert lda_plain(x, y, ["L0H0"]).item() == pytest.approx(5.0, rel=1e-14)


def test_hand_computed_kl_in_one_dimension():
    # N(0, 1) against N(4, 4): 1/4 [1/4 + 4 - 2 + 16 (1 + 1/4)].
    x = head([[-1.0], [1.0], [2.0], [6.0]])
    assert kl(x, Y, ["L0H0"]).item() == pytest.approx((0.25 + 4 - 2 + 20) / 4, rel=1e-14)


def test_lda_plain_is_refused_where_the_scatter_is_singular():
    x = torch.randn(1, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with pytest.raises(InputError, match="needs n - 2 >= d_head, got 6 examples for d_head 5"):
        lda_plain(x, torch.tensor([False, True] * 3), ["L0H0"])
    flat = torch.randn(2, 12, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    flat[1, :, 2] = flat[1, :, 0] - flat[1, :, 1]
    with pytest.raises(InputError, match="head L4H2: the within-class scatter is singular"):
        lda_plain(flat, torch.tensor([False, True] * 6), ["L4H1", "L4H2"])


def test_kl_is_not_defined_with_two_examples_of_a_class_in_many_dimensions():
    x = torch.randn(1, 8, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([True, True] + [False] * 6)
    with pytest.raises(InputError, match=r"head L0H0: the covariance of the 2 examples of class 1 is singular"):
        kl(x, y, ["L0H0"])
    with pytest.raises(InputError, match=r"the 2 examples of class 0"):
        kl(x, ~y, ["L0H0"])


def test_classes_that_collapse_to_points_are_refused():
    x = head([[0.0, 1.0], [0.0, 1.0], [2.0, 1.0], [2.0, 1.0]])
    with pytest.raises(InputError, match=r"head L5H6: the within-class covariance is singular .* 'lda'"):
        lda(x, Y, ["L5H6"])


def test_shrinkage_lies_between_0_and_1_and_covers_what_the_span_leaves_out():
    rows = torch.randn(5, 6, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rows -= rows.mean(1, keepdim=True)
    full, small = _ledoit_wolf(rows, 40), _ledoit_wolf(_span_coordinates(rows), 40)
    assert ((full.shrinkage > 0) & (full.shrinkage <= 1)).all()
    torch.testing.assert_close(small.shrinkage, full.shrinkage)
    torch.testing.assert_close(small.ridge, full.ridge)
    expected = torch.linalg.eigvalsh(full.matrix)
    found = torch.cat([small.ridge[:, None].expand(-1, 34), torch.linalg.eigvalsh(small.matrix)], dim=1)
    torch.testing.assert_close(found.sort(1).values, expected, rtol=1e-10, atol=1e-12)


def test_span_coordinates_keep_inner_products():
    x = torch.randn(3, 5, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    small = _span_coordinates(x)
    assert small.shape == (3, 5, 5)
    torch.testing.assert_close(small @ small.mT, x @ x.mT)
    wide = x[:, :, :4]
    assert _span_coordinates(wide) is wide


def test_identical_classes_have_no_divergence():
    rows = np.random.default_rng(0).normal(size=(6, 3))
    x = torch.from_numpy(np.concatenate([rows, rows])[None])
    y = torch.tensor([False] * 6 + [True] * 6)
    assert lda(x, y, ["L0H0"]).item() == pytest.approx(0, abs=1e-14)
    assert kl(x, y, ["L0H0"]).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("classes", [2, 3, 4])
@pytest.mark.parametrize("score", [lda, kl])
def test_inner_products_give_the_same_as_covariances(monkeypatch, score, classes):
    rng = np.random.default_rng(classes)
    y = torch.from_numpy(rng.permutation(np.arange(24) % classes))
    x = torch.from_numpy(rng.normal(size=(6, 24, 30)) * np.arange(1, 31) ** -np.arange(6.0)[:, None, None])
    x[2] += 5 * y[:, None]
    found = score(x, y)
    monkeypatch.setattr(module, "WOODBURY", 1.0)
    torch.testing.assert_close(found, score(x, y), rtol=1e-9, atol=0)


def test_a_head_that_hardly_needs_shrinking_loses_no_digits():
    # All examples lie at the same distance of their class mean in nearly one direction.
    rng = np.random.default_rng(0)
    rows = 1e-4 * rng.normal(size=(20, 60))
    rows[:, 0] += np.tile([1, -1], 10)
    y = torch.arange(20) >= 8
    rows[8:, 0] += 3
    x = torch.from_numpy(np.stack([rows, rng.normal(size=rows.shape)]))
    within = x - torch.where(y[:, None], x[:, y].mean(1, True), x[:, ~y].mean(1, True))
    shrinkage = _ledoit_wolf(within, 60).shrinkage
    assert shrinkage[0] < module.WOODBURY * 60 < shrinkage[1]
    for head, found in zip(x.numpy(), lda(x, y).tolist(), strict=True):
        means = np.stack([head[~y].mean(0), head[y].mean(0)])
        scatter = 20 * LedoitWolf(assume_centered=True).fit(head - means[y.long()]).covariance_
        delta = means[1] - means[0]
        assert found == pytest.approx(delta @ np.linalg.solve(scatter, delta), rel=1e-6)


@pytest.mark.parametrize(
    ("score", "shape"),
    [(lda, (3, 40, 5)), (lda, (3, 12, 30)), (kl, (3, 40, 5)), (kl, (3, 12, 30)), (lda_plain, (3, 40, 5))],
)
def test_two_classes_by_number_are_two_by_truth_and_pairs_are_averaged(score, shape):
    x = torch.from_numpy(np.random.default_rng(0).normal(size=shape))
    two = torch.arange(shape[1]) % 2
    torch.testing.assert_close(score(x, two), score(x, two == 1), rtol=1e-10, atol=0)
    if score is kl:
        y = torch.arange(shape[1]) % 3
        pairs = [score(x[:, y != c], torch.unique(y[y != c], return_inverse=True)[1]) for c in range(3)]
        torch.testing.assert_close(score(x, y), torch.stack(pairs).mean(0), rtol=1e-9, atol=0)


def test_lda_of_several_classes_is_the_mean_over_pairs_in_the_pooled_scatter():
    x, y = np.random.default_rng(0).normal(size=(30, 4)), np.arange(30) % 3
    means = np.stack([x[y == c].mean(0) for c in range(3)])
    scatter = (rows := x - means[y]).T @ rows
    deltas = [means[a] - means[b] for a, b in ((0, 1), (0, 2), (1, 2))]
    expected = np.mean([d @ np.linalg.solve(scatter, d) for d in deltas])
    found = lda_plain(torch.from_numpy(x[None]), torch.from_numpy(y))
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_a_class_without_covariance_is_named_among_several():
    x = torch.randn(1, 8, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with pytest.raises(InputError, match=r"head L0H0: .* of the 2 examples of class 1 \(counted from 0\) is singular"):
        kl(x, torch.tensor([0, 0, 0, 1, 1, 2, 2, 2]), ["L0H0"])


def test_of_many_examples_the_moments_of_the_classes_give_what_rows_give(monkeypatch):
    x = torch.randn(3, 450, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for y in (torch.arange(450) % 3 == 0, torch.arange(450) % 3):
        x[1:, y == 1] += 3
        found = lda(x, y), kl(x, y)
        with monkeypatch.context() as patch:
            patch.setattr(module, "is_large", lambda n, d: False)
            expected = lda(x, y), kl(x, y)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=0)
