import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headprobe.errors import InputError
from headprobe.metrics.probe_scores import probe_auroc, probe_r2


def test_hand_computed_area():
    # Four points on a line, each predicted from the straight line through the other three.
    x = torch.tensor([[[0.0], [2.0], [1.0], [3.0]]], dtype=torch.float64)
    y = torch.tensor([False, False, True, True])
    scores = []
    for i in range(4):
        others = [j for j in range(4) if j != i]
        slope, _ = np.polyfit(x[0, others, 0], y[others].double(), 1)
        scores.append(slope * float(x[0, i, 0] - x[0, others, 0].mean()))
    pairs = [np.sign(round(scores[p] - scores[q], 9)) / 2 + 0.5 for p in (2, 3) for q in (0, 1)]
    assert probe_auroc(x, y, penalty=1e-12).item() == pytest.approx(np.mean(pairs))


def test_noise_has_an_area_of_one_half_with_and_without_groups():
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(400, 24, 10)))
    y = torch.arange(24) % 2 == 0
    assert probe_auroc(x, y).mean().item() == pytest.approx(0.5, abs=0.02)
    videos = torch.arange(24) // 4
    x = x + torch.from_numpy(rng.normal(size=(400, 6, 10)))[:, videos]
    assert probe_auroc(x, videos % 2 == 0, videos).mean().item() == pytest.approx(0.5, abs=0.04)
    # The same probe with one example left out at a time knows the video.
    assert probe_auroc(x, videos % 2 == 0).mean().item() > 0.8


@given(st.integers(0, 2**16))
@settings(max_examples=10, deadline=None)
def test_exchanging_the_classes_changes_nothing(seed):
    x = torch.from_numpy(np.random.default_rng(seed).normal(size=(3, 15, 4)))
    y = torch.arange(15) % 3 == 0
    torch.testing.assert_close(probe_auroc(x, y), probe_auroc(x, ~y))


def test_several_classes_are_the_mean_of_one_against_the_rest():
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(4, 21, 5)))
    y, groups = torch.arange(21) % 3, torch.arange(21) // 2
    each = torch.stack([probe_auroc(x, y == c, groups) for c in range(3)]).mean(0)
    torch.testing.assert_close(probe_auroc(x, y, groups), each)
    torch.testing.assert_close(probe_auroc(x, (y > 0).long()), probe_auroc(x, y > 0))


def test_a_class_in_one_group_only_is_refused():
    x, y = torch.randn(1, 8, 3), torch.arange(8) < 4
    with pytest.raises(InputError, match="class 1 is found in one group only"):
        probe_auroc(x, y, torch.tensor([0, 0, 0, 0, 1, 1, 2, 2]))


@pytest.mark.parametrize("groups", [None, torch.tensor([0, 0, 1, 1, 1, 2, 3, 3, 3, 3])])
def test_r2_equals_fits_repeated_by_hand(groups):
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(10, 2)), rng.normal(size=10)
    folds = np.arange(10) if groups is None else groups.numpy()
    centred = x - x.mean(0)
    strength = 0.1 * np.trace(centred.T @ centred) / 2
    wrong, plain = 0.0, 0.0
    for fold in np.unique(folds):
        train, test = folds != fold, folds == fold
        about, mean = x[train].mean(0), y[train].mean()
        rows = x[train] - about
        weights = np.linalg.solve(rows.T @ rows + strength * np.eye(2), rows.T @ (y[train] - mean))
        wrong += ((y[test] - mean - (x[test] - about) @ weights) ** 2).sum()
        plain += ((y[test] - mean) ** 2).sum()
    found = probe_r2(torch.from_numpy(x[None]), torch.from_numpy(y), groups)
    assert found.item() == pytest.approx(1 - wrong / plain, rel=1e-10)


def test_r2_of_a_linear_target_is_near_1_and_of_noise_not_above_0():
    rng = np.random.default_rng(2)
    x = torch.from_numpy(rng.normal(size=(50, 40, 5)))
    y = x[0] @ torch.tensor([1.0, -2.0, 0.0, 0.0, 3.0], dtype=torch.float64)
    scores = probe_r2(x, y)
    assert scores[0] > 0.95
    assert scores[1:].mean() < 0
    torch.testing.assert_close(probe_r2(x * 1e3 - 5, 2 * y + 7), scores, rtol=1e-6, atol=1e-9)
