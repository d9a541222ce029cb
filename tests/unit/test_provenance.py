from __future__ import annotations

import dataclasses
import json

import pytest

from headprobe.errors import ArtefactError
from headprobe.provenance import Provenance, versions

BASE = Provenance(
    model="m",
    revision="r",
    weights_hash="w",
    dtype="float32",
    attention="sdpa",
    adapter="a",
    processor="p",
    prompts={"p1": "x", "p2": "y"},
    positions="last()",
    frames=8,
    versions={"headprobe": "1"},
)
CHANGES = {
    "model": "n",
    "revision": None,
    "weights_hash": "v",
    "dtype": "bfloat16",
    "attention": "eager",
    "adapter": "b",
    "processor": "q",
    "prompts": {"p1": "x", "p2": "z"},
    "positions": "first()",
    "frames": None,
    "versions": {"headprobe": "2"},
}


def test_every_field_is_tried():
    assert set(CHANGES) == {field.name for field in dataclasses.fields(Provenance)}


@pytest.mark.parametrize("name", CHANGES)
def test_every_field_changes_the_fingerprint(name):
    other = dataclasses.replace(BASE, **{name: CHANGES[name]})
    assert other.fingerprint != BASE.fingerprint
    assert BASE.differences(other) == [name]


def test_the_order_of_prompts_changes_the_fingerprint():
    other = dataclasses.replace(BASE, prompts={"p2": "y", "p1": "x"})
    assert other.fingerprint != BASE.fingerprint
    assert BASE.differences(other) == ["prompts"]


def test_it_survives_json():
    again = Provenance.from_dict(json.loads(json.dumps(BASE.to_dict())))
    assert again == BASE
    assert again.fingerprint == BASE.fingerprint
    assert BASE.differences(again) == []


def test_the_fingerprint_is_a_sha256():
    assert len(BASE.fingerprint) == 64
    assert set(BASE.fingerprint) <= set("0123456789abcdef")


def test_missing_and_unknown_fields_are_named():
    data = BASE.to_dict()
    del data["dtype"]
    data["colour"] = "red"
    with pytest.raises(ArtefactError, match=r"missing \['dtype'\], unknown \['colour'\]"):
        Provenance.from_dict(data)


def test_versions_name_the_libraries_that_shape_activations():
    import torch

    assert set(versions()) == {"headprobe", "torch", "transformers", "nnsight"}
    assert torch.__version__.startswith(versions()["torch"])
