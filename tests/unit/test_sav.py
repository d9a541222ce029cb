import numpy as np
import pytest
import torch
from equality import close

from headprobe.errors import InputError
from headprobe.metrics._features import Batch
from headprobe.metrics.probe_scores import sav


def slow(x, y, groups):
    hits = 0.0
    for i in range(len(x)):
        rest = np.arange(len(x)) != i if groups is None else groups != groups[i]
        cosines = []
        for c in np.unique(y):
            mean = x[rest & (y == c)].mean(0)
            cosines.append(x[i] @ mean / np.linalg.norm(x[i]) / np.linalg.norm(mean))
        hits += np.argmax(cosines) == y[i]
    return hits / len(x)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("grouped", [False, True])
def test_it_equals_a_loop_over_examples(classes, grouped):
    rng = np.random.default_rng(0)
    y = np.arange(24) % classes
    groups = rng.permutation(24) // 3 if grouped else None
    x = rng.normal(size=(5, 24, 4)) + 2 + np.eye(classes, 4)[y]
    y_tensor = torch.from_numpy(y) if classes == 3 else torch.from_numpy(y == 1)
    found = sav(torch.from_numpy(x), y_tensor, None if groups is None else torch.from_numpy(groups))
    np.testing.assert_allclose(found.numpy(), [slow(head, y, groups) for head in x], rtol=1e-12)


def test_an_example_is_not_part_of_its_own_class_mean():
    # In as many dimensions as examples, each alone in its direction: with itself in the mean, all would be right.
    x = torch.eye(4, dtype=torch.float64)[None] + 0.01
    assert sav(x, torch.tensor([False, False, True, True])).item() < 0.5


def test_equal_cosines_share_the_point():
    x = torch.tensor([[[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]], dtype=torch.float64)
    x = torch.cat([x, x], 1)
    y = torch.tensor([False, False, True, True, False, False, True, True])
    with pytest.raises(InputError, match="head number 0: the mean of class 0 without example number 2 is zero"):
        sav(x, y)
    x = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]], dtype=torch.float64)
    assert sav(x, torch.tensor([False, False, True, True])).item() == 0.5


def test_cosines_are_about_zero_and_not_about_the_mean():
    rng = np.random.default_rng(0)
    x, y = torch.from_numpy(rng.normal(size=(1, 20, 3))), torch.arange(20) % 2 == 0
    moved = x + torch.tensor([100.0, 0.0, 0.0], dtype=torch.float64)
    assert sav(moved, y) != sav(x, y)
    assert close(sav(1e5 * x, y), sav(x, y))
    rotation = torch.from_numpy(np.linalg.qr(rng.normal(size=(3, 3)))[0])
    assert close(sav(x @ rotation, y), sav(x, y))
    assert close(sav(Batch(x - x.mean(1, keepdim=True), centre=x.mean(1)), y), sav(x, y))


def test_an_output_of_zero_is_named():
    x = torch.randn(2, 8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x[1, 5] = 0
    with pytest.raises(InputError, match="head L0H1 gives zero for 1 examples, the first is number 5"):
        sav(Batch.of(x, ["L0H0", "L0H1"]), torch.arange(8) % 2 == 0)


def test_a_class_in_one_group_only_is_refused():
    x = torch.randn(1, 4, 3)
    with pytest.raises(InputError, match="class 0 is found in one group only"):
        sav(x, torch.tensor([False, False, True, True]), torch.tensor([0, 0, 1, 2]))
