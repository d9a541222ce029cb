"""What metrics are given: shapes, checks, groups, and where scores go."""

import numpy as np
import pytest
import torch
from equality import close

from headprobe.activations import HeadActivations, _dense, example_table
from headprobe.errors import InputError
from headprobe.examples import Example
from headprobe.heads import HeadSet
from headprobe.metrics._features import (
    checked_features,
    chunks,
    example_groups,
    head_map,
    label_array,
    read_features,
    resolution,
)
from headprobe.provenance import Provenance


def activations(groups=("a", "a", "b", "b")):
    """Layer 0 has three heads of two numbers, layer 2 one head of four."""
    rng = np.random.default_rng(0)
    tensors = {
        HeadSet(["L0H0", "L0H1", "L0H2"]): torch.from_numpy(rng.normal(size=(2, 4, 3, 2))).float(),
        HeadSet(["L2H1"]): torch.from_numpy(rng.normal(size=(2, 4, 1, 4))).float(),
    }
    table = example_table([Example("x", id=f"e{i}", label=i % 2, group=g) for i, g in enumerate(groups)])
    heads = HeadSet([head for part in tensors for head in part])
    return HeadActivations(_dense(tensors), heads, {"ask": "", "tell": ""}, table, Provenance("m"))


def test_activations_and_arrays_are_read_alike():
    features, y = read_features(activations())
    assert (features.layers, features.heads, features.prompts) == ([0, 2], [0, 1, 2], ["ask", "tell"])
    assert features.ids == ["e0", "e1", "e2", "e3"]
    assert y.tolist() == [0, 1, 0, 1]
    assert dict(features.origin) == {"model": "m"}
    z = np.zeros((2, 4, 3, 5, 6))
    features, y = read_features(z, [1, 0, 1, 0])
    assert (features.layers, features.heads, features.prompts) == ([0, 1, 2], [0, 1, 2, 3, 4], ["p1", "p2"])
    assert y == [1, 0, 1, 0]
    assert dict(features.origin) == {}


def test_a_map_has_every_score_in_its_place_and_nan_where_there_is_no_head():
    features, _ = read_features(activations())
    scored = [(c, np.array([100 * c.prompt + 10 * h.layer + h.head for h in c.heads])) for c in chunks(features, 1)]
    found = head_map(features, scored, None, "place")
    nan = np.nan
    assert close(found.values, [[[0, 1, 2], [nan, 21, nan]], [[100, 101, 102], [nan, 121, nan]]])
    assert found.dims == ("prompt", "layer", "head")
    assert found["layer"].values.tolist() == [0, 2]
    assert (found.name, found.attrs) == ("place", {"model": "m"})
    both = head_map(features, [(c, np.stack([v, -v])) for c, v in scored], ["up", "down"], "place")
    assert close(both.sel(metric="down").values, -found.values)


def test_chunks_hold_every_head_once_whatever_their_size():
    features, _ = read_features(np.random.default_rng(0).normal(size=(2, 5, 2, 3, 4)), range(5))
    whole = [(c.prompt, name, x) for c in chunks(features, 1) for name, x in zip(c.names, c.x, strict=True)]
    assert [(p, n) for p, n, _ in whole] == [(p, f"L{i}H{j}") for p in (0, 1) for i in (0, 1) for j in (0, 1, 2)]
    for limit in (1, 2, 5):
        parts = [(c.prompt, n, x) for c in chunks(features, 1, limit) for n, x in zip(c.names, c.x, strict=True)]
        assert [item[:2] for item in parts] == [item[:2] for item in whole]
        assert all(close(a[2], b[2]) for a, b in zip(parts, whole, strict=True))


def test_checked_features_are_centred_and_of_size_1():
    z = np.array([[1.0, 10.0], [3.0, 10.0], [8.0, 40.0]]).reshape(3, 1, 1, 2)
    features, _ = read_features(z, [0, 1, 1])
    x, centre = checked_features(features, features.blocks[0], 0, slice(0, 1))
    # Means 4 and 20, the largest difference from them 20.
    np.testing.assert_allclose(x[0].numpy(), [[-0.15, -0.5], [-0.05, -0.5], [0.2, 1.0]])
    np.testing.assert_allclose(centre[0].numpy(), [0.2, 1.0])
    for factor in (1e-3, 7.0, 1e5):
        other, _ = read_features(factor * z, [0, 1, 1])
        scaled, _ = checked_features(other, other.blocks[0], 0, slice(0, 1))
        torch.testing.assert_close(scaled, x, rtol=1e-12, atol=0)


def test_errors_name_prompt_head_and_example():
    acts = activations()
    list(acts.tensors.values())[1][1, 2, 0, 3] = torch.inf
    features, _ = read_features(acts)
    with pytest.raises(InputError, match=r"under prompt 'tell', the first in head L2H1, example 'e2': find out why"):
        list(chunks(features, 1))
    list(acts.tensors.values())[1][1] = 5.0
    with pytest.raises(InputError, match=r"head L2H1 under prompt 'tell' has the same output for all 4 examples"):
        list(chunks(features, 1))
    with pytest.raises(InputError, match=r"z is empty: shape \(1, 0, 2, 3, 4\)"):
        read_features(np.zeros((0, 2, 3, 4)), [])


def test_groups_are_those_given_those_of_the_table_or_the_examples_that_rows_belong_to():
    acts = activations()
    assert example_groups(acts).tolist() == ["a", "a", "b", "b"]
    assert example_groups(acts, [1, 2, 3, 4]) == [1, 2, 3, 4]
    assert example_groups(np.zeros((4, 1, 1, 1))) is None
    lone = activations(groups=(None,) * 4)
    assert example_groups(lone) is None
    lone.examples["example"] = ["v", "v", "w", "w"]
    assert example_groups(lone).tolist() == ["v", "v", "w", "w"]
    lone.examples["example"] = ["t", "u", "v", "w"]
    assert example_groups(lone) is None
    with pytest.raises(InputError, match="2 of 4 examples have no group"):
        example_groups(activations(groups=("a", None, "b", None)))


def test_labels_keep_their_type_and_nan_is_named():
    assert label_array(["b", "a"], 2).tolist() == ["b", "a"]
    assert label_array(torch.tensor([0.5, 1.5]), 2).dtype == np.float32
    with pytest.raises(InputError, match=r"y must have one label per example, shape \(3,\), got shape \(2,\)"):
        label_array([0, 1], 3)
    with pytest.raises(InputError, match="NaN or infinite values, the first at example 1"):
        label_array([0.0, np.inf, np.nan], 3)


@pytest.mark.parametrize(
    ("z", "eps"),
    [
        (np.zeros(1, np.float32), 2.0**-23),
        (torch.zeros(1, dtype=torch.bfloat16), 2.0**-7),
        (np.zeros(1, np.int16), 0.0),
        (torch.zeros(1, dtype=torch.int32), 0.0),
    ],
)
def test_resolution(z, eps):
    assert resolution(z) == eps
