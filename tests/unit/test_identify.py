import numpy as np
import pytest
import torch
from equality import close

from headprobe.activations import HeadActivations, _dense, example_table
from headprobe.errors import InputError
from headprobe.examples import Example
from headprobe.headhunt.headhunt import identify
from headprobe.heads import HeadSet
from headprobe.metrics.consensus import consensus
from headprobe.metrics.saliency import combine, saliency
from headprobe.provenance import Provenance


def prompted(seed=0, n=24, prompts=3, layers=3, heads=4, d=6):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    z = rng.normal(size=(prompts, n, layers, heads, d))
    z[:, :, 2, 1] += 4 * y[:, None]
    # A head that only some prompts bring out.
    z[0, :, 1, 3] += 8 * y[:, None]
    return z, y


def test_identify_is_made_of_the_generic_parts():
    z, y = prompted()
    found = identify(z, y, k=3, instability_penalty=0.5, random_state=2)
    assert close(found.saliency, saliency(z, y, random_state=2))
    assert close(found.combined, combine(found.saliency))
    assert found.heads == consensus(found.saliency, 3)
    assert found.heads.labels[0] == "L2H1"
    assert found.rss.dims == ("layer", "head")


def test_the_penalty_moves_an_unsteady_head_down():
    z, y = prompted()
    steady = identify(z, y, k=12, instability_penalty=2.0).heads.labels
    lenient = identify(z, y, k=12, instability_penalty=0.0).heads.labels
    assert steady.index("L1H3") > lenient.index("L1H3")


def test_z_without_prompts_gets_one():
    z, y = prompted()
    found = identify(z[1], y, k=1)
    assert found.combined.prompt.values.tolist() == ["none"]
    assert close(found.rss.values, found.combined.values[0])


def test_too_many_heads_are_refused():
    z, y = prompted()
    with pytest.raises(InputError, match="it must be an integer from 1 to 12"):
        identify(z, y, k=13)


def test_heads_of_a_model_whose_layers_have_different_heads():
    """Layer 0 has 4 heads of 6 numbers and layer 1 two of 3: there is no head L1H2 and no L1H3."""
    rng = np.random.default_rng(0)
    y = np.arange(24) % 2
    small, large = rng.normal(size=(2, 24, 2, 3)), rng.normal(size=(2, 24, 4, 6))
    small[:, :, 1] += 4 * y[:, None]
    tensors = {
        HeadSet([(0, head) for head in range(4)]): torch.from_numpy(large).float(),
        HeadSet([(1, head) for head in range(2)]): torch.from_numpy(small).float(),
    }
    heads = HeadSet([head for part in tensors for head in part])
    table = example_table([Example("x", id=str(i), label=int(label)) for i, label in enumerate(y)])
    acts = HeadActivations(_dense(tensors), heads, {"ask": "", "tell": ""}, table, Provenance("ragged"))
    found = identify(acts, k=6)
    assert set(found.heads) == set(heads)
    assert found.heads.labels[0] == "L1H1"
    assert np.isnan(found.rss.values).tolist() == [[False] * 4, [False, False, True, True]]
    assert found.heads == consensus(found.saliency, 6)
    assert found.rss.attrs == {"model": "ragged"}
    with pytest.raises(InputError, match=r"k is 7; it must be an integer from 1 to 6"):
        identify(acts, k=7)
