from __future__ import annotations

import pytest
import torch

from headprobe.errors import InputError, PaddingError, UnsupportedModelError
from headprobe.models.adapter import ModelInputs, TokenInfo, _check_inputs, adapter_for, families, pad

IDS = [[5, 6, 7], [0, 0, 8]]


def batch(mask=((1, 1, 1), (0, 0, 1)), ids=IDS, side="left", pad_id=0, info=None) -> ModelInputs:
    inputs = {"input_ids": torch.tensor(ids)}
    if mask is not None:
        inputs["attention_mask"] = torch.tensor(mask)
    info = torch.tensor(mask if mask is not None else ids) > 0 if info is None else info
    return ModelInputs(inputs, TokenInfo(info), side, pad_id)


def test_well_padded_inputs_pass():
    _check_inputs(batch())
    _check_inputs(batch(mask=[[1, 1, 1], [1, 0, 0]], ids=[[5, 6, 7], [8, 0, 0]], side="right"))


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        (batch(mask=None), "have no attention_mask; without one, padding is computed with"),
        (batch(mask=[[1, 1], [0, 1]]), r"shape \(2, 2\), but the input_ids have \(2, 3\)"),
        (batch(mask=[[1, 1, 1], [0, 0, 2]]), "values other than 0 and 1"),
        (
            batch(mask=[[1, 1, 1], [1, 0, 0]], ids=[[5, 6, 7], [8, 0, 0]]),
            "Example 1 of the batch is padded on the wrong side or in the middle; this family is padded on the left",
        ),
        (batch(side="right"), "this family is padded on the right"),
        (batch(mask=[[1, 0, 1], [0, 0, 1]]), "Example 0 .* in the middle"),
        (batch(mask=[[1, 1, 1], [0, 0, 0]]), "Example 1 of the batch has no real token"),
        (batch(mask=[[1, 1, 1], [0, 1, 1]]), r"Example 1 .* padding tokens \(id 0\) that the attention_mask marks"),
        (batch(mask=[[1, 1, 1], [1, 1, 1]]), r"Example 1 .* padding tokens \(id 0\)"),
        (batch(info=torch.ones(2, 3).bool()), "disagree about which tokens are real"),
    ],
)
def test_bad_padding_is_refused(bad, text):
    with pytest.raises(PaddingError, match=text):
        _check_inputs(bad)


def test_a_padding_id_that_can_be_text_is_not_held_against_it():
    _check_inputs(batch(mask=[[1, 1, 1], [1, 1, 1]], pad_id=None))


def test_inputs_without_ids_are_refused():
    with pytest.raises(InputError, match="need input_ids"):
        _check_inputs(ModelInputs({}, TokenInfo(torch.ones(1, 1).bool()), "left"))


def test_padding_goes_to_the_side_asked_for():
    assert pad([[1], [2, 3]], 9, "left").tolist() == [[9, 1], [2, 3]]
    assert pad([[1], [2, 3]], 9, "right").tolist() == [[1, 9], [2, 3]]


def test_the_registry_names_what_it_knows():
    assert set(families()) >= {"gpt2", "llama", "qwen2", "bert", "qwen2_vl"}
    with pytest.raises(UnsupportedModelError, match=r"no adapter for model type 'nothing'; .* lists the \d+ that"):
        adapter_for("nothing")
