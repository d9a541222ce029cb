from __future__ import annotations

import pytest
import torch
from equality import same_bits

from headprobe.activations import _dense, _each, _group, _select, _sizes
from headprobe.errors import InputError
from headprobe.heads import HeadSet

ALL = HeadSet(["L0H0", "L1H0", "L0H1", "L1H1"])
SMALL, LARGE = HeadSet(["L0H0", "L0H1"]), HeadSet(["L1H0", "L1H1"])
TENSORS = {SMALL: torch.randn(2, 3, 2, 4), LARGE: torch.randn(2, 3, 2, 8)}


def test_groups_of_sizes_are_kept_and_one_size_is_one_group():
    assert _group(TENSORS, ALL, (2, 3)) == TENSORS
    whole = torch.zeros(2, 3, 4, 5)
    assert _group(whole, ALL, (2, 3))[ALL] is whole


@pytest.mark.parametrize(
    ("tensors", "text"),
    [
        ({SMALL: TENSORS[SMALL]}, "of 2 heads of size 4; expected each of the 4 heads once"),
        ({SMALL: TENSORS[SMALL], LARGE: torch.zeros(2, 3, 2, 4)}, "one group per size"),
        ({HeadSet(["L0H1", "L0H0"]): TENSORS[SMALL], LARGE: TENSORS[LARGE]}, "in their order"),
        ({SMALL: TENSORS[SMALL], HeadSet(["L1H0", "L0H1"]): TENSORS[LARGE]}, "each of the 4 heads once"),
        ({SMALL: TENSORS[SMALL], HeadSet(["L1H0", "L2H0"]): TENSORS[LARGE]}, "each of the 4 heads once"),
        ({LARGE: TENSORS[LARGE], SMALL: TENSORS[SMALL]}, "in their order"),
        ({SMALL: TENSORS[SMALL], LARGE: torch.zeros(2, 3, 1, 8)}, r"\[2, 3, 2, d_head\]; got \[2, 3, 1, 8\]"),
        (torch.zeros(2, 3, 4), r"\[2, 3, 4, d_head\]; got \[2, 3, 4\]"),
    ],
)
def test_groups_that_do_not_fit_are_refused(tensors, text):
    with pytest.raises(InputError, match=text):
        _group(tensors, ALL, (2, 3))


def test_heads_of_one_size_are_selected_in_the_order_asked_for():
    assert same_bits(_select(TENSORS, ["L1H1", "L1H0"]), TENSORS[LARGE][:, :, [1, 0]], of="copies of one array")
    assert same_bits(_select(TENSORS, HeadSet(["L0H1"])), TENSORS[SMALL][:, :, [1]], of="copies of one array")
    with pytest.raises(InputError, match=r"different sizes \(L0H1 has 4, L1H0 has 8\); select heads of one size"):
        _select(TENSORS, ["L0H1", "L1H0"])
    with pytest.raises(InputError, match="L5H0 not among the 4 heads that were read"):
        _select(TENSORS, ["L0H0", "L5H0"])


def test_a_single_size_is_a_tensor_again():
    assert _dense({SMALL: TENSORS[SMALL]}) is TENSORS[SMALL]
    assert _dense(TENSORS) is TENSORS
    changed = _each(TENSORS, lambda values: values[:, :1])
    assert [tuple(tensor.shape) for tensor in changed.values()] == [(2, 1, 2, 4), (2, 1, 2, 8)]
    assert _sizes(TENSORS).startswith("These heads have different sizes (2 of size 4, 2 of size 8)")
