import math

import numpy as np
import pytest
import torch

from headprobe.errors import InputError
from headprobe.metrics.spectrum import entropy, ldr

Y = torch.tensor([False, False, True, True])


def test_hand_computed_ldr():
    # Dimension 0: means 0 and 4, variances 1 and 1; dimension 1: means 1 and 3, variances 1 and 9.
    x = torch.tensor([[[-1.0, 0.0], [1.0, 2.0], [3.0, 0.0], [5.0, 6.0]]], dtype=torch.float64)
    assert ldr(x, Y).item() == pytest.approx((16 / 2 + 4 / 10) / 2, rel=1e-14)


def test_dimensions_that_do_not_vary_are_left_out():
    x = torch.tensor([[[-1.0, 0.0], [1.0, 2.0], [3.0, 0.0], [5.0, 6.0]]], dtype=torch.float64)
    still = torch.cat([x, torch.full((1, 4, 2), 0.1, dtype=torch.float64)], 2)
    assert ldr(still, Y).item() == pytest.approx(ldr(x, Y).item(), rel=1e-14)


def test_a_dimension_that_only_differs_between_the_classes_is_named():
    x = torch.randn(2, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x[1, :, 2] = Y.double()
    with pytest.raises(InputError, match="head L0H7: dimension 2 is the same for all examples of class 0"):
        ldr(x, Y, ["L0H6", "L0H7"])


def test_ldr_of_several_classes_twice_the_examples_and_other_scales():
    x, y = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 12, 4))), torch.arange(12) % 3
    pairs = [ldr(x[:, (y == a) | (y == b)], y[(y == a) | (y == b)] == b) for a, b in ((0, 1), (0, 2), (1, 2))]
    torch.testing.assert_close(ldr(x, y), torch.stack(pairs).mean(0))
    torch.testing.assert_close(ldr(torch.cat([x, x], 1), torch.cat([y, y])), ldr(x, y))
    each = torch.tensor([1.0, 1e-3, 50.0, 7.0], dtype=torch.float64)
    torch.testing.assert_close(ldr(x * each + 3, y), ldr(x, y), rtol=1e-8, atol=0)


def test_hand_computed_entropy():
    # Variances in the ratio 3 to 1 in two directions.
    x = torch.tensor([[[3**0.5, 0.0], [-(3**0.5), 0.0], [0.0, 1.0], [0.0, -1.0]]], dtype=torch.float64)
    p = (0.75, 0.25)
    expected = 1 + sum(q * math.log(q) for q in p) / math.log(2)
    assert entropy(x).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("shape", [(2, 9, 20), (2, 30, 5)])
def test_entropy_equals_that_of_the_eigenvalues_of_the_covariance(shape):
    x = np.random.default_rng(0).normal(size=shape) * np.arange(1, shape[2] + 1)
    expected = []
    for head in x:
        values = np.linalg.eigvalsh(np.cov(head.T)).clip(1e-300)
        p = values / values.sum()
        expected.append(1 + (p * np.log(p)).sum() / math.log(min(shape[1] - 1, shape[2])))
    np.testing.assert_allclose(entropy(torch.from_numpy(x)).numpy(), expected, rtol=1e-8)


def test_entropy_needs_two_directions():
    with pytest.raises(InputError, match="two directions, got d_head 1 and 6 examples"):
        entropy(torch.randn(1, 6, 1))
