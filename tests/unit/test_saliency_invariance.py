"""What must not change a score: examples that are there twice, and for small helpers the cases by hand."""

import numpy as np
import pytest
import torch
from equality import same_bits
from hypothesis import given, settings
from hypothesis import strategies as st

from headprobe.errors import InputError
from headprobe.metrics._features import Batch
from headprobe.metrics.gaussian import _check_definite, _Covariance, _ledoit_wolf, _shrinkage_of, lda_plain
from headprobe.metrics.mmd import mmd, rbf_kernel
from headprobe.metrics.nmi import _contingency_nmi, nmi
from headprobe.metrics.probe_scores import _check_groups, _one_against_rest, probe_auroc, probe_r2, sav


def drawn(seed, n=18, d=4, heads=3):
    rng = np.random.default_rng(seed)
    y = torch.arange(n) % 2
    x = torch.from_numpy(rng.normal(size=(heads, n, d))) + 0.5 * y[:, None]
    return x, y == 1, torch.arange(n) // 3


@given(st.integers(0, 2**16))
@settings(max_examples=10, deadline=None)
def test_examples_that_are_there_twice_in_their_group_change_no_held_out_score(seed):
    x, y, groups = drawn(seed)
    double, labels, both = torch.cat([x, x], 1), torch.cat([y, y]), torch.cat([groups, groups])
    torch.testing.assert_close(probe_auroc(double, labels, both), probe_auroc(x, y, groups), rtol=0, atol=1e-9)
    torch.testing.assert_close(sav(double, labels, both), sav(x, y, groups), rtol=0, atol=1e-12)
    number = x[0, :, 0] + x[1, :, 2]
    found = probe_r2(double, torch.cat([number, number]), both)
    torch.testing.assert_close(found, probe_r2(x, number, groups), rtol=1e-7, atol=1e-9)


def test_examples_that_are_there_twice_without_a_group_leak_into_a_probe():
    x, y, _ = drawn(0, n=20, d=15, heads=50)
    x = torch.from_numpy(np.random.default_rng(1).normal(size=x.shape))
    leaking = probe_auroc(torch.cat([x, x], 1), torch.cat([y, y])).mean().item()
    assert abs(probe_auroc(x, y).mean().item() - 0.5) < 0.05
    assert leaking > 0.7


@given(st.integers(0, 2**16))
@settings(max_examples=10, deadline=None)
def test_examples_that_are_there_twice_halve_the_plain_lda(seed):
    x, y, _ = drawn(seed)
    twice = lda_plain(torch.cat([x, x], 1), torch.cat([y, y]))
    torch.testing.assert_close(2 * twice, lda_plain(x, y), rtol=1e-9, atol=0)


@given(st.integers(0, 2**16))
@settings(max_examples=10, deadline=None)
def test_plain_lda_does_not_depend_on_the_axes_of_a_head(seed):
    x, y, _ = drawn(seed)
    mixing = torch.from_numpy(np.random.default_rng(seed).normal(size=(4, 4)) + 3 * np.eye(4))
    torch.testing.assert_close(lda_plain(x @ mixing + 5, y), lda_plain(x, y), rtol=1e-6, atol=0)


def test_clusters_that_are_clear_are_the_same_with_every_example_twice():
    x, y, _ = drawn(0)
    x[1] += 30 * y[:, None]
    x[2] += 30 * (torch.arange(18) < 5)[:, None]
    twice = nmi(torch.cat([x, x], 1), torch.cat([y, y]))
    torch.testing.assert_close(twice[1:], nmi(x, y)[1:], rtol=1e-9, atol=1e-12)


@given(st.integers(0, 2**16))
@settings(max_examples=20, deadline=None)
def test_nmi_has_no_names_and_lies_between_0_and_1(seed):
    rng = np.random.default_rng(seed)
    clusters, y = torch.from_numpy(rng.integers(0, 3, size=(4, 20))), torch.from_numpy(rng.permutation(20) % 3)
    found = _contingency_nmi(clusters, y)
    assert ((found >= 0) & (found <= 1)).all()
    renamed = torch.tensor([2, 0, 1])
    torch.testing.assert_close(_contingency_nmi(renamed[clusters], renamed[y]), found, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(_contingency_nmi(torch.cat([clusters] * 2, 1), torch.cat([y, y])), found)


def test_the_kernel_by_hand_and_the_discrepancy_from_it():
    # Squared distances 1, 9 and 4: the median is 4.
    x = torch.tensor([[[0.0], [1.0], [3.0]]], dtype=torch.float64)
    kernel = rbf_kernel(x)[0]
    np.testing.assert_allclose(-8 * kernel.log().numpy(), [[0, 1, 9], [1, 0, 4], [9, 4, 0]], atol=1e-12)
    rows, y, _ = drawn(3)
    kernel = rbf_kernel(rows)
    assert same_bits(kernel, kernel.mT, of="one matrix and its transpose")
    # Also where the inner products are not, which is up to the library that multiplies.
    gram = rows @ rows.mT
    crooked = Batch(rows, gram=torch.where(torch.ones_like(gram).triu(1).bool(), gram * (1 + 2**-50), gram))
    assert not same_bits(crooked.gram, crooked.gram.mT, of="one matrix and its transpose")
    assert same_bits(rbf_kernel(crooked), rbf_kernel(crooked).mT, of="one matrix and its transpose")
    own = kernel[:, y][:, :, y].mean((1, 2)) + kernel[:, ~y][:, :, ~y].mean((1, 2))
    torch.testing.assert_close(mmd(rows, y), own - 2 * kernel[:, y][:, :, ~y].mean((1, 2)))


def test_shrinkage_by_hand():
    # Rows (1, 0), (-1, 0), (0, 2), (0, -2): S = diag(1/2, 2), mu = 5/4, |S|^2 = 17/4, mean |x|^4 = (1 + 16) / 2.
    rows = torch.tensor([[[1.0, 0.0], [-1.0, 0.0], [0.0, 2.0], [0.0, -2.0]]], dtype=torch.float64)
    # Spread of the rows about S: (17/2 - 17/4) / 4 = 17/16; of S about mu I: 17/4 - 2 (5/4)^2 = 9/8.
    expected = (17 / 16) / (9 / 8)
    found = _ledoit_wolf(rows, 2)
    assert found.shrinkage.item() == pytest.approx(expected)
    np.testing.assert_allclose(
        found.matrix[0].numpy(), np.diag([0.5, 2.0]) * (1 - expected) + np.eye(2) * 1.25 * expected
    )
    trace, square, fourth = (torch.tensor([v], dtype=torch.float64) for v in (2.5, 17 / 4, 17 / 2))
    shrinkage, ridge = _shrinkage_of(trace, square, fourth, 4, 2)
    assert (shrinkage.item(), ridge.item()) == (pytest.approx(expected), pytest.approx(1.25 * expected))


def test_a_singular_covariance_is_named():
    zero = torch.zeros(2, dtype=torch.float64)
    matrix = torch.stack([torch.eye(2, dtype=torch.float64), torch.ones(2, 2, dtype=torch.float64)])
    with pytest.raises(InputError, match=r"head b: the spread is singular .*, so the metric 'kl' is not defined; use"):
        _check_definite(_Covariance(matrix, zero, zero), outside=False, names=["a", "b"], what="spread", metric="kl")
    _check_definite(_Covariance(matrix[:1], zero[:1], zero[:1]), outside=False, names=["a"], what="spread", metric="kl")


def test_one_class_against_the_rest():
    assert _one_against_rest(torch.tensor([0, 2, 1, 2])).tolist() == [[1, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 1]]
    assert _one_against_rest(torch.tensor([True, False])).tolist() == [[1, 0]]


def test_a_class_in_one_group_is_named():
    _check_groups(torch.tensor([0, 1, 0, 1]), torch.tensor([0, 0, 1, 1]))
    with pytest.raises(InputError, match="class 1 is found in one group only, so that nothing can be fitted"):
        _check_groups(torch.tensor([0, 1, 0, 1]), torch.tensor([0, 2, 1, 2]))
