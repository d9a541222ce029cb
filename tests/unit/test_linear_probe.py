"""The batched linear probe: hand-computed values, what must not matter, errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from equality import close

from headprobe.errors import InputError
from headprobe.metrics import linear_probe
from headprobe.metrics.linear_probe import _resampled_auroc, auroc, fold_index, loo_ridge_auroc, loo_ridge_scores


def features(heads: int = 3, n: int = 12, d: int = 5, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    return torch.from_numpy(rng.normal(size=(heads, n, d)) + 0.8 * y[:, None]), torch.from_numpy(y.astype(float))


def test_scores_by_hand() -> None:
    # x = -1, 0, 1 and y = 0, 0, 1; scatter 2, so the penalty is 1 * 2. Left out the first: mean x 0.5, centred -0.5 and
    # 0.5, slope 0.5 / (0.5 + 2) = 0.2, at x = -1: 0.2 * -1.5. Left out the second: slope 1 / (2 + 2) at 0 from mean 0.
    # Left out the third: both labels are 0, slope 0.
    x = torch.tensor([[[-1.0], [0.0], [1.0]]], dtype=torch.float64)
    scores = loo_ridge_scores(x, torch.tensor([0.0, 0.0, 1.0]), penalty=1.0)
    np.testing.assert_allclose(scores.numpy(), [[-0.3, 0.0, 0.0]], atol=1e-12)


@pytest.mark.parametrize("ones", [12, 3])
def test_noise_scores_near_one_half_however_unequal_the_classes(ones: int) -> None:
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(400, 24, 8)))
    y = torch.zeros(24, dtype=torch.float64)
    y[:ones] = 1
    assert abs(loo_ridge_auroc(x, y).mean() - 0.5) < 0.03
    assert abs(loo_ridge_auroc(x, y, penalty=100.0).mean() - 0.5) < 0.03
    # Predictions as they are rank noise far below: without an example, the others' mean moves away from its label.
    predictions = loo_ridge_scores(x, y, penalty=100.0) + (y.sum() - y) / 23
    assert auroc(predictions.numpy(), y.numpy()).mean() < 0.1


def test_noise_in_one_dimension_scores_below_one_half_as_the_docstring_says() -> None:
    rng = np.random.default_rng(0)
    y = torch.from_numpy((np.arange(24) % 2).astype(float))
    means = [loo_ridge_auroc(torch.from_numpy(rng.normal(size=(400, 24, d))), y).mean().item() for d in (1, 32)]
    assert 0.40 < means[0] < 0.47
    assert abs(means[1] - 0.5) < 0.02


def test_a_separable_head_scores_one() -> None:
    x, y = features()
    x[1] += 20 * y[:, None]
    assert loo_ridge_auroc(x, y)[1] == 1.0


@pytest.mark.parametrize("d", [2, 5, 40])
@pytest.mark.parametrize("groups", [None, [0, 0, 0, 1, 1, 2, 2, 3, 4, 4, 5, 5]])
def test_shift_scale_and_rotation_change_nothing(d: int, groups: list[int] | None) -> None:
    x, y = features(d=d)
    rotation = torch.linalg.qr(torch.from_numpy(np.random.default_rng(1).normal(size=(d, d))))[0]
    for changed in (x + 7, x * 1e-8, x * 1e8, x @ rotation):
        torch.testing.assert_close(
            loo_ridge_scores(changed, y, groups), loo_ridge_scores(x, y, groups), rtol=1e-6, atol=1e-9
        )


def test_permuting_heads_and_examples_permutes_scores() -> None:
    x, y = features()
    groups = np.repeat(np.arange(6), 2)
    rows = torch.from_numpy(np.random.default_rng(2).permutation(12))
    scores = loo_ridge_scores(x, y, groups)
    torch.testing.assert_close(loo_ridge_scores(x.flip(0), y, groups), scores.flip(0))
    torch.testing.assert_close(loo_ridge_scores(x[:, rows], y[rows], groups[rows.numpy()]), scores[:, rows])


def test_groups_of_one_are_the_same_as_no_groups() -> None:
    x, y = features()
    torch.testing.assert_close(loo_ridge_scores(x, y, list("abcdefghijkl")), loo_ridge_scores(x, y))


def test_a_held_out_label_does_not_change_its_own_score() -> None:
    x, y = features()
    groups = np.repeat(np.arange(4), 3)
    other = y.clone()
    other[3:6] = 1 - other[3:6]
    torch.testing.assert_close(loo_ridge_scores(x, other, groups)[:, 3:6], loo_ridge_scores(x, y, groups)[:, 3:6])


def test_all_labellings_at_once_are_the_same_as_one_by_one() -> None:
    x, y = features(n=30, d=4)
    labels = torch.stack([y, y.flip(0), y[torch.randperm(30, generator=torch.Generator().manual_seed(0))]])
    for groups in (None, np.repeat(np.arange(10), 3)):
        one_by_one = torch.stack([loo_ridge_auroc(x, row, groups) for row in labels], 1)
        assert close(loo_ridge_auroc(x, labels, groups), one_by_one)


@pytest.mark.parametrize("groups", [None, np.arange(60) // 4])
def test_the_two_forms_of_the_operator_agree(groups: np.ndarray | None, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = features(n=60, d=4)
    labels = torch.stack([y, y.flip(0)])
    factored = loo_ridge_scores(x, labels, groups)
    monkeypatch.setattr(linear_probe, "FACTORED", 1000)
    torch.testing.assert_close(factored, loo_ridge_scores(x, labels, groups))


@pytest.mark.parametrize(("n", "d"), [(12, 5), (12, 40), (60, 4)])
@pytest.mark.parametrize("size", [1, 3])
def test_a_weight_is_a_number_of_copies(n: int, d: int, size: int) -> None:
    x, y = features(n=n, d=d)
    groups = np.arange(n) // size
    weights = np.random.default_rng(0).integers(1, 4, n)
    rows = np.repeat(np.arange(n), weights)
    copies = loo_ridge_scores(x[:, torch.from_numpy(rows)], y[rows], groups[rows])
    first = np.unique(rows, return_index=True)[1]
    weighted = loo_ridge_scores(x, y, groups, weights=torch.from_numpy(weights))
    torch.testing.assert_close(weighted, copies[:, first])


def test_chunks_and_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = features(heads=7)
    whole = loo_ridge_auroc(x, torch.stack([y, y.flip(0)]))
    monkeypatch.setattr(linear_probe, "CHUNK_BYTES", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert close(loo_ridge_auroc(x, torch.stack([y, y.flip(0)])), whole)


def test_float32_features_are_computed_in_float64() -> None:
    x, y = features()
    assert close(loo_ridge_scores(x.float(), y), loo_ridge_scores(x.float().double(), y))


def test_auroc_by_hand_with_ties() -> None:
    y = np.array([0, 0, 1, 1])
    assert auroc(np.array([1.0, 2.0, 3.0, 4.0]), y) == 1.0
    assert auroc(np.array([4.0, 3.0, 2.0, 1.0]), y) == 0.0
    assert auroc(np.array([1.0, 2.0, 2.0, 3.0]), y) == 0.875
    assert auroc(np.array([-1.0, -2.0, -2.0, -3.0]), y) == 0.125
    assert auroc(np.zeros(4), y) == 0.5


def test_scores_told_apart_by_rounding_are_tied() -> None:
    assert auroc(np.array([0.3, 0.1 + 0.2, 1.0]), np.array([0, 1, 1])) == 0.75


def test_resampled_auroc_is_the_auroc_of_repeated_examples() -> None:
    rng = np.random.default_rng(0)
    scores, y = rng.integers(0, 5, size=(2, 10)).astype(float), np.arange(10) % 2
    rows = np.array([0, 0, 1, 3, 3, 3, 4, 6, 9, 9])
    weights = np.bincount(rows, minlength=10)[None].astype(float)
    np.testing.assert_allclose(_resampled_auroc(scores, y, weights)[:, 0], auroc(scores[:, rows], y[rows]))


def test_fold_index_keeps_the_order_of_occurrence() -> None:
    assert fold_index(["x", "b", "x", 3], 4).tolist() == [0, 1, 0, 2]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, y: loo_ridge_scores(x[0], y), r"x must be \[head, example, d\]"),
        (lambda x, y: loo_ridge_scores(x, y[:3]), r"got shapes \(3, 12, 5\) and \(3,\)"),
        (lambda x, y: loo_ridge_auroc(x, y[:3]), r"got shapes \(3, 12, 5\) and \(3,\)"),
        (lambda x, y: loo_ridge_scores(x, y, penalty=0.0), "penalty is 0.0; it must be a number above 0"),
        (lambda x, y: loo_ridge_scores(x, y, weights=y), "weights must be one number above 0 per example"),
        (lambda x, y: loo_ridge_scores(x, y, groups=[0, 1]), "groups has 2 entries for 12 examples"),
        (lambda x, y: loo_ridge_scores(x, y, groups=3), "groups must be a sequence of one group per example, got 3"),
        (lambda x, y: loo_ridge_scores(x, y, groups=["a"] * 12), r"there is 1 group \('a'\)"),
        (lambda x, y: loo_ridge_scores(x, y, groups=["a", None] * 6), "6 of 12 examples have no group"),
        (lambda x, y: loo_ridge_auroc(x, torch.stack([y, y * 0])), "labelling 1 has one class only"),
        (lambda x, y: auroc(np.array([np.nan, 1.0]), np.array([0, 1])), "scores hold NaN"),
        (lambda x, y: _resampled_auroc(np.zeros((1, 2)), np.array([0, 1]), np.eye(2)), "resample 0 has one class only"),
    ],
)
def test_errors(call, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call(*features())
