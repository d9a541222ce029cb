from __future__ import annotations

import pytest
import torch
import transformers
from equality import same_bits
from families import clips, internvl

import headprobe
from headprobe.errors import InputError
from headprobe.models.sites import discover


@pytest.fixture(scope="module")
def model():
    return internvl.FAMILIES[0].load()


def test_every_frame_is_a_numbered_picture(model):
    batch = model.adapter.prepare(clips(1, 20, 30, counts=(2,)), "Why?", model)
    picture = "<img>" + "<IMG_CONTEXT>" * 9 + "</img>"
    assert model.tokenizer.decode(batch.inputs["input_ids"][0]) == (
        f"<|im_start|>user\nFrame1: {picture}\nFrame2: {picture}\nWhy?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert batch.inputs["pixel_values"].shape == (2, 3, 48, 48)
    assert batch.token_info.frames_per_token == 1


def test_the_frames_of_a_batch_follow_one_another(model):
    contents = clips(2, 20, 30, counts=(3, 1))
    together = model.adapter.prepare(contents, "", model)
    alone = [model.adapter.prepare([clip], "", model).inputs["pixel_values"] for clip in contents]
    assert same_bits(together.inputs["pixel_values"], torch.cat(alone), of="same pixels, packed twice")
    assert [int(frame.max()) for frame in together.token_info.frame] == [2, 0]


def test_another_downsampling_makes_another_grid():
    module = internvl.internvl("qwen2")(0)
    module.config.downsample_ratio = 1.0  # the adapter reads it; the weights would not fit
    family = internvl.FAMILIES[0]
    model = headprobe.load(module, tokenizer=family.tokenizer(), processor_config=family.processor_config)
    tokens = model.adapter.prepare(family.contents(1), "", model).token_info
    assert (int(tokens.row.max()), int(tokens.column.max())) == (5, 5)


@pytest.mark.parametrize("word", ["<video>", "<IMG_CONTEXT>"])
def test_a_prompt_with_a_token_for_pictures_is_refused(model, word):
    with pytest.raises(InputError, match="must not contain"):
        model.adapter.prepare(internvl.contents(1), f"What is {word}?", model)


def test_a_tokenizer_that_does_not_name_its_tokens_is_refused():
    family = internvl.FAMILIES[0]
    model = family.load()
    model.tokenizer = internvl.byte_tokenizer(internvl.SPECIAL, internvl.TEMPLATE)
    with pytest.raises(InputError, match="has no start_image_token; InternVL needs"):
        model.adapter.prepare(family.contents(1), "", model)


def test_frames_that_the_vision_tower_does_not_take_are_refused():
    family = internvl.FAMILIES[0]
    config = internvl.FRAMING | {"size": {"height": 64, "width": 64}}
    model = headprobe.load(family.module(0), tokenizer=family.tokenizer(), processor_config=config)
    with pytest.raises(InputError, match=r"pictures of \(64, 64\) pixels; the vision tower of .* takes \(48, 48\)"):
        model.adapter.prepare(family.contents(1), "", model)


def test_the_heads_of_the_original_repository_are_found_by_structure():
    """Its code wraps a vision tower and a causal language model, and calls the latter's configuration llm_config."""
    ours = internvl.internvl("qwen2")(0)

    class InternVLChatConfig(transformers.PreTrainedConfig):
        model_type = "internvl_chat"

    class InternVLChatModel(transformers.PreTrainedModel):
        config_class = InternVLChatConfig

        def __init__(self, config):
            super().__init__(config)
            self.vision_model = ours.model.vision_tower
            self.mlp1 = ours.model.multi_modal_projector
            self.language_model = transformers.Qwen2ForCausalLM(config.llm_config)

    config = InternVLChatConfig()
    config.llm_config = ours.config.text_config
    sites = discover(InternVLChatModel(config))
    assert [site.path for site in sites] == [f"language_model.model.layers.{i}.self_attn.o_proj" for i in range(3)]
    assert {(site.n_heads, site.head_dim, site.kind) for site in sites} == {(4, 8, "softmax")}
