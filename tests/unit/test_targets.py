import numpy as np
import pytest
import torch

from headprobe.errors import InputError
from headprobe.metrics._features import read_target


@pytest.mark.parametrize(
    ("y", "kind", "values"),
    [
        ([0, 1, 1, 0], "binary", [False, True, True, False]),
        (np.array([1.0, 0.0, 1.0, 0.0]), "binary", [True, False, True, False]),
        ([True, False, True, False], "binary", [True, False, True, False]),
        (torch.tensor([0, 1, 0, 1]), "binary", [False, True, False, True]),
        ([3, 7, 7, 3, -1, -1], "multiclass", [1, 2, 2, 1, 0, 0]),
        ([2.0, 0.0, 1.0, 2.0, 0.0, 1.0], "multiclass", [2, 0, 1, 2, 0, 1]),
        (["run", "sit", "walk"] * 2, "multiclass", [0, 1, 2, 0, 1, 2]),
        ([0.5, 1.0, 3.0], "continuous", [0.5, 1.0, 3.0]),
    ],
)
def test_the_kind_follows_from_the_values(y, kind, values):
    target = read_target(y, len(y))
    assert target.kind == kind
    assert target.values.tolist() == values


def test_the_kind_can_be_given():
    assert read_target([1, 2, 3, 4], 4, "continuous").values.tolist() == [1.0, 2.0, 3.0, 4.0]
    assert read_target([0, 1, 0, 1], 4, "multiclass").values.dtype == torch.int64
    assert read_target(["b", "a", "a", "b"], 4, "multiclass").classes == ("a", "b")


@pytest.mark.parametrize(
    ("y", "kind", "text"),
    [
        ([0, 1, 0, 1], "ordinal", "target is 'ordinal'; choose one of 'binary', 'multiclass', 'continuous'\\."),
        ([0, 1, 2, 0, 1], None, "1 of 3 classes have one, the first is 2: .*target='continuous'"),
        ([5, 5, 5, 5], None, "must be 0 .* got 5 in 4 of 4 examples; three and more classes"),
        (["no", "ab", "no", "ab"], None, r"got 'no' in 4 of 4.* y = \[label == 'no' for label in y\]"),
        ([-1, 1, -1, 1], None, "got -1 in 2 of 4.*label == 1 "),
        ([1.0, float("nan"), 1.0, 1.0], None, "got nan in 1 of 4 examples; three and more"),
        ([5, 5, 5, 5], "multiclass", "all 4 examples are of class 5"),
        ([0.5, 0.5], "continuous", "the target is 0.5 for all 2 examples"),
        ([0.5, float("nan"), 1.5], "continuous", "finite numbers, got nan for example number 1"),
        (["a", "b", "c"], "continuous", "finite numbers, got 'a'"),
        ([0, 1, 2, 1], "binary", "must be 0 .* got 2 in 1 of 4"),
        (["a", None, "a", "b"], "multiclass", "1 examples have no class, the first is number 1"),
        (np.array(["a", 1, "a", 1], dtype=object), "multiclass", "all numbers or all texts"),
    ],
)
def test_targets_that_cannot_be_used(y, kind, text):
    with pytest.raises(InputError, match=text):
        read_target(y, len(y), kind)
