from __future__ import annotations

import numpy as np
import pytest
from equality import close
from tiny_models import DECODERS, TEXTS, VOCABULARY, make_model

from headprobe import HeadTracer
from headprobe.errors import InputError


def ids(text: str) -> list[int]:
    return [VOCABULARY[word] for word in text.split()]


@pytest.mark.parametrize("family", DECODERS)
def test_decoders_are_padded_on_the_left_with_positions_from_the_first_real_token(family):
    model = make_model(family)
    batch = model.adapter.prepare(["a man walks", "car"], "", model)
    assert batch.inputs["input_ids"].tolist() == [ids("a man walks"), [0, 0, *ids("car")]]
    assert batch.attention_mask.tolist() == [[1, 1, 1], [0, 0, 1]]
    assert batch.inputs["position_ids"].tolist() == [[0, 1, 2], [0, 0, 0]]
    assert batch.padding_side == "left"


def test_encoders_are_padded_on_the_right_with_their_special_tokens():
    model = make_model("bert")
    batch = model.adapter.prepare(["a man walks", "car"], "", model)
    assert batch.inputs["input_ids"].tolist() == [[2, *ids("a man walks"), 3], [2, *ids("car"), 3, 0, 0]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert "position_ids" not in batch.inputs
    assert batch.padding_side == "right"


def test_a_prompt_is_a_template():
    model = make_model("llama")
    batch = model.adapter.prepare(["a man walks"], "does anything odd happens : {text} ?", model)
    assert batch.inputs["input_ids"].tolist() == [ids("does anything odd happens : a man walks ?")]


def test_braces_in_a_template_or_text_are_left_alone():
    model = make_model("llama")
    batch = model.adapter.prepare(["{0} {text}"], "{ {text} }", model)
    assert model.tokenizer.convert_ids_to_tokens(batch.inputs["input_ids"][0]) == ["<unk>"] * 4


def test_a_template_without_a_place_for_the_text_is_refused_before_anything_runs():
    with pytest.raises(InputError, match=r"Prompt 'p2' is 'a man'; .* must contain \{text\}"):
        HeadTracer(make_model("llama")).capture(TEXTS, ["{text} ?", "a man"], progress=False)


def test_templates_give_the_activations_of_the_filled_text():
    tracer = HeadTracer(make_model("qwen2"))
    acts = tracer.capture(["car", "a dog"], {"plain": "{text}", "ask": "what happens : {text}"}, progress=False)
    filled = tracer.capture(["what happens : car", "what happens : a dog"], progress=False)
    assert close(acts.values[1], filled.values[0])
    assert close(acts.values[0], tracer.capture(["car", "a dog"], progress=False).values[0])


def test_a_clip_is_refused():
    with pytest.raises(InputError, match="Example '0' is a ndarray, but LlamaForCausalLM takes text"):
        HeadTracer(make_model("llama")).capture([np.zeros((2, 4, 4, 3), np.uint8)], progress=False)


def test_a_text_without_tokens_is_refused():
    with pytest.raises(InputError, match="The text '' has no tokens"):
        HeadTracer(make_model("llama")).capture(["car", ""], progress=False)


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_a_text_longer_than_the_model_is_refused_not_cut(family):
    with pytest.raises(InputError, match=r"A text has \d+ tokens, but .* has 64 positions; shorten it"):
        HeadTracer(make_model(family)).capture(["car " * 80], progress=False)


def test_a_tokenizer_without_padding_token_still_pads_under_the_mask():
    model = make_model("gpt2")
    expected = HeadTracer(model).capture(TEXTS, progress=False).values
    model.tokenizer.pad_token = None
    batch = model.adapter.prepare(TEXTS, "", model)
    assert batch.pad_id is None
    assert batch.inputs["input_ids"][2, 0] == VOCABULARY["</s>"]
    assert close(HeadTracer(model).capture(TEXTS, progress=False).values, expected)
