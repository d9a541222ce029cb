"""What metrics are given: shapes, checks, groups, and where scores go."""

import numpy as np
import pytest
import torch
from equality import close

from headprobe.activations import HeadActivations, _dense, example_table
from headprobe.errors import InputError
from headprobe.examples import Example
from headprobe.heads import HeadSet
from headprobe.metrics import _features as module
from headprobe.metrics._features import (
    example_groups,
    head_map,
    label_array,
    load_batch,
    read_features,
    resolution,
    score_heads,
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


def places(batch):
    """10 times the layer and the number of each head."""
    return np.array([[10 * int(name[1]) + int(name[3]) for name in batch.names]])


def test_a_map_has_every_score_in_its_place_and_nan_where_there_is_no_head():
    features, _ = read_features(activations())
    scored = score_heads(
        lambda batch: np.concatenate([places(batch), -places(batch)]), features, lambda n, d: 1, "place"
    )
    found = head_map(scored, features, ["up", "down"], "place")
    nan = np.nan
    assert close(found.sel(metric="up").values, [[[0, 1, 2], [nan, 21, nan]]] * 2)
    assert close(found.sel(metric="down").values, -found.sel(metric="up").values)
    assert found.dims == ("metric", "prompt", "layer", "head")
    assert found["layer"].values.tolist() == [0, 2]
    assert (found.name, found.attrs) == ("place", {"model": "m"})


@pytest.mark.parametrize("threaded", [True, False])
def test_every_head_is_scored_once_whatever_their_number_at_a_time(threaded, monkeypatch):
    features, _ = read_features(np.random.default_rng(0).normal(size=(2, 5, 2, 3, 4)), range(5))
    for limit, most in ((1, 1), (2, 2), (5, 5), (100, 6)):
        monkeypatch.setattr(module, "THREADS_BYTES", limit * torch.get_num_threads())
        monkeypatch.setattr(module, "CHUNK_BYTES", limit)
        seen = []

        def score(batch, seen=seen):
            seen.append(batch.n_heads)
            return np.concatenate([places(batch), batch.x[:, 0, :1].T.numpy()])

        found = score_heads(score, features, lambda n, d: 1, "place", threaded=threaded)
        assert (sum(seen), max(seen)) == (12, most)
        assert close(found[0], [[[0, 1, 2], [10, 11, 12]]] * 2)
        z = features.blocks[0].z
        assert close(found[1], (z[:, 0] - z.mean(1))[..., 0])


def test_features_are_centred():
    z = np.array([[1.0, 10.0], [3.0, 10.0], [8.0, 40.0]]).reshape(3, 1, 1, 2)
    features, _ = read_features(z, [0, 1, 1])
    batch = load_batch(features, features.blocks[0], 0, range(1))
    np.testing.assert_allclose(batch.x[0].numpy(), [[-3, -10], [-1, -10], [4, 20]])
    np.testing.assert_allclose(batch.centre[0].numpy(), [4, 20])


def all_heads(features):
    score_heads(lambda batch: np.zeros((1, batch.n_heads)), features, lambda n, d: 1, "load")


def test_errors_name_prompt_head_and_example():
    acts = activations()
    list(acts.tensors.values())[1][1, 2, 0, 3] = torch.inf
    features, _ = read_features(acts)
    with pytest.raises(InputError, match=r"under prompt 'tell', the first in head L2H1, example 'e2': find out why"):
        all_heads(features)
    list(acts.tensors.values())[1][1] = 5.0
    with pytest.raises(InputError, match=r"head L2H1 under prompt 'tell' has the same output for all 4 examples"):
        all_heads(features)
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
