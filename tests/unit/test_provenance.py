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
    edits=("zero(L0H0)",),
    sampling="48 to 16",
    read={"p1": {"reads": 2, "tokens": {"</s>": 2}}},
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
    "edits": ("zero(L0H1)",),
    "sampling": "48 to 8",
}
# What this base hashed to before there were edits and sampling.
BEFORE_EDITS = "69e14f7d201e229ac75e3359924e28c5ad15038a53929b60f7e885e7fe631795"


def test_every_field_is_tried():
    assert {*CHANGES, "read"} == {field.name for field in dataclasses.fields(Provenance)}


@pytest.mark.parametrize("name", CHANGES)
def test_every_field_changes_the_fingerprint(name):
    other = dataclasses.replace(BASE, **{name: CHANGES[name]})
    assert other.fingerprint != BASE.fingerprint
    assert BASE.differences(other) == [name]


def test_the_order_of_prompts_changes_the_fingerprint():
    other = dataclasses.replace(BASE, prompts={"p2": "y", "p1": "x"})
    assert other.fingerprint != BASE.fingerprint
    assert BASE.differences(other) == ["prompts"]


def test_what_was_read_is_a_record_and_no_difference():
    other = dataclasses.replace(BASE, read={"p1": {"reads": 9, "pooled": [1, 4]}})
    assert other == BASE
    assert other.fingerprint == BASE.fingerprint
    assert BASE.differences(other) == []
    assert other.to_dict() != BASE.to_dict()


def test_without_edits_the_fingerprint_is_what_it_was_before_there_were_any():
    assert dataclasses.replace(BASE, edits=(), sampling="").fingerprint == BEFORE_EDITS


def test_an_artefact_written_before_these_fields_existed_is_read():
    data = {name: value for name, value in BASE.to_dict().items() if name not in ("edits", "sampling", "read")}
    again = Provenance.from_dict(json.loads(json.dumps(data)))
    assert again == dataclasses.replace(BASE, edits=(), sampling="")
    assert (again.edits, again.sampling, again.read) == ((), "", {})


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("edits", "zero(L0H0)", "edits of a provenance must be a list of texts; got 'zero"),
        ("edits", [1], r"must be a list of texts; got \[1\]"),
        ("sampling", 3, "sampling of a provenance must be text; got 3"),
        ("read", [], r"must be a dictionary per prompt; got \[\]"),
        ("read", {"p1": 3}, "must be a dictionary per prompt"),
    ],
)
def test_damaged_edits_and_reads_are_refused(field, value, text):
    with pytest.raises(ArtefactError, match=text):
        Provenance.from_dict(BASE.to_dict() | {field: value})


def test_it_survives_json():
    again = Provenance.from_dict(json.loads(json.dumps(BASE.to_dict())))
    assert again == BASE
    assert again.read == BASE.read
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
