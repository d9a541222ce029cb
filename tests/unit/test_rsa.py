import numpy as np
import pytest
import torch

from headprobe.errors import InputError
from headprobe.metrics.gaussian import rsa


def test_hand_computed():
    # Means (0, 0) and (3, 4), mean squared distances 1 and 4.
    x = torch.tensor([[[1.0, 0.0], [-1.0, 0.0], [3.0, 6.0], [3.0, 2.0]]], dtype=torch.float64)
    assert rsa(x, torch.tensor([False, False, True, True])).item() == pytest.approx(25 / 5, rel=1e-14)


def test_several_classes_are_the_mean_over_pairs():
    x, y = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 12, 4))), torch.arange(12) % 3
    pairs = [rsa(x[:, (y == a) | (y == b)], y[(y == a) | (y == b)] == b) for a, b in ((0, 1), (0, 2), (1, 2))]
    torch.testing.assert_close(rsa(x, y), torch.stack(pairs).mean(0))


def test_every_example_twice_changes_nothing():
    x, y = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 12, 4))), torch.arange(12) % 2 == 0
    torch.testing.assert_close(rsa(torch.cat([x, x], 1), torch.cat([y, y])), rsa(x, y))


def test_classes_that_are_points_are_named():
    x = torch.randn(2, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x[1] = torch.tensor([[0.0], [0.0], [1.0], [1.0]])
    with pytest.raises(InputError, match="head L3H1: all examples of class 0 are the same, and all of class 1"):
        rsa(x, torch.tensor([False, False, True, True]), ["L3H0", "L3H1"])
