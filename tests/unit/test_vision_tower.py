from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
import transformers
from equality import close
from families.vision_tower import CLIP, FAMILIES, SIGLIP, SIZES, contents

import headprobe
from headprobe import HeadTracer, positions
from headprobe.errors import InputError, PaddingError
from headprobe.models.adapter import _check_inputs
from headprobe.models.sites import block_paths
from headprobe.models.vision_tower import PictureSettings

CLIP_FAMILY, SIGLIP_FAMILY, *PLAIN = FAMILIES
each = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)


def first_block_input(model, batch) -> torch.Tensor:
    seen: list[torch.Tensor] = []
    hook = model.module.get_submodule(block_paths(model.module, model.sites)[0]).register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    )
    with torch.no_grad():
        model.module(**batch.inputs)
    hook.remove()
    return seen[0]


@each
def test_the_map_says_which_patch_of_the_picture_every_token_is(family):
    model = family.load()
    picture = contents(2)[1]
    assert picture.shape == (1, 32, 32, 3)  # neither resized nor cropped
    base = model.adapter.prepare([picture], "", model)
    tokens = base.token_info
    before = first_block_input(model, base)
    assert tokens.mask.shape == before.shape[:2]
    assert int(tokens.video.sum()) == 16
    for row in range(4):
        for column in range(4):
            changed = picture.copy()
            changed[:, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] ^= 255
            after = first_block_input(model, model.adapter.prepare([changed], "", model))
            (token,) = (after != before).any(2)[0].nonzero().flatten().tolist()
            assert bool(tokens.video[0, token])
            place = [int(getattr(tokens, axis)[0, token]) for axis in ("frame", "row", "column")]
            assert place == [0, row, column]


def test_clips_class_token_is_the_first_and_no_patch():
    model = CLIP_FAMILY.load()
    batch = model.adapter.prepare(contents(3), "", model)
    assert batch.token_info.video[:, 0].tolist() == [False] * 3
    assert batch.token_info.frame[:, 0].tolist() == [-1] * 3
    acts = HeadTracer(model).capture(contents(3), positions=positions.first(), progress=False)
    assert acts.z.shape == (1, 3, 3, 4, 8)
    assert acts.provenance.positions == "first()"
    model = SIGLIP_FAMILY.load()
    assert model.adapter.prepare(contents(1), "", model).token_info.video.all()


@pytest.mark.parametrize("family", PLAIN, ids=lambda family: family.name)
def test_plain_vision_transformers_have_an_adapter(family):
    model = family.load()
    n_before = {"vit": 1, "deit": 2, "dinov2": 1}[family.name]
    video = model.adapter.prepare(contents(2), "", model).token_info.video
    assert video.tolist() == [[False] * n_before + [True] * 16] * 2
    assert len(model.heads) == 12


def test_dinov2_takes_pictures_of_any_whole_number_of_patches():
    module = FAMILIES[-1].module(0)
    model = headprobe.load(module, processor_config=CLIP | {"crop_size": 24})
    assert HeadTracer(model).capture(contents(1), positions=positions.first(), progress=False).z.shape == (
        1,
        1,
        3,
        4,
        8,
    )
    assert model.adapter.prepare(contents(1), "", model).token_info.mask.shape == (1, 1 + 9)
    odd = headprobe.load(module, processor_config=CLIP | {"crop_size": 25})
    with pytest.raises(InputError, match=r"makes pictures of \(25, 25\) pixels"):
        odd.adapter.prepare(contents(1), "", odd)


@each
def test_patches_are_read_like_the_tokens_of_a_video(family):
    model = family.load()
    tracer, pictures = HeadTracer(model), contents(2)
    pooled = tracer.capture(pictures, positions=positions.video_tokens().mean(), progress=False).values
    seen: list[torch.Tensor] = []
    hook = model.module.get_submodule(model.sites[0].path).register_forward_pre_hook(
        lambda _, args: seen.append(args[0])
    )
    with torch.no_grad():
        model.module(**model.adapter.prepare(pictures, "", model).inputs)
    hook.remove()
    by_hand = seen[0][:, -16:].mean(1).unflatten(-1, (4, 8))
    assert torch.allclose(pooled[0, :, :4], by_hand, atol=1e-6)
    frame = tracer.capture(pictures, positions=positions.frame(0).mean(), progress=False).values
    assert close(frame, pooled)


def test_the_tower_of_a_clip_model_is_loaded_from_the_pair():
    pair = transformers.CLIPModel(transformers.CLIPConfig(vision_config=SIZES, text_config=SIZES | {"vocab_size": 50}))
    model = headprobe.load(pair.vision_model, processor_config=CLIP)
    assert model.adapter.name == "clip-vision"
    assert [site.path for site in model.sites] == [f"encoder.layers.{i}.self_attn.out_proj" for i in range(3)]


@pytest.mark.parametrize(
    ("content", "options", "text"),
    [
        (np.zeros((2, 8, 8, 3), np.uint8), {}, r"has 2 frames, but .* one picture at a time; give every frame"),
        ("a picture of a dog", {}, "is text, but CLIPVisionModel takes pictures"),
        (
            contents(1)[0],
            {"prompts": ["what is it?"]},
            "Prompt 'p1' is 'what is it.', but a vision tower takes no text",
        ),
        (contents(1)[0], {"answers": ["yes"]}, "takes pictures and no text; got 'yes'"),
    ],
)
def test_what_a_tower_cannot_take_is_refused(content, options, text):
    with pytest.raises(InputError, match=text):
        HeadTracer(CLIP_FAMILY.load()).capture([content], progress=False, **options)


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (None, "has no preprocessor configuration"),
        (
            SIGLIP | {"size": {"height": 64, "width": 64}},
            r"makes pictures of \(64, 64\) pixels, but .* takes \(32, 32\)",
        ),
        (SIGLIP | {"size": {"longest_edge": 32}}, "has size {'longest_edge': 32}; give a number"),
        (CLIP | {"do_center_crop": False}, "makes pictures of 32 pixels"),
        (CLIP | {"crop_size": None}, "crops the middle, but has crop_size None"),
        (CLIP | {"image_mean": None}, "lacks image_mean"),
    ],
)
def test_settings_that_do_not_fit_are_refused(config, text):
    with pytest.raises(InputError, match=text):
        headprobe.load(CLIP_FAMILY.module(0), processor_config=config).adapter.prepare(
            contents(1), "", headprobe.load(CLIP_FAMILY.module(0), processor_config=config)
        )


def test_old_configurations_give_plain_numbers():
    old = CLIP | {"size": 32, "crop_size": 32}
    assert PictureSettings.from_config(old) == PictureSettings.from_config(CLIP)


@pytest.mark.parametrize("family", PLAIN, ids=lambda family: family.name)
def test_one_number_is_both_sides_of_vit_and_deit_and_the_shorter_one_of_the_others(family):
    square = {"vit": True, "deit": True, "dinov2": False}[family.name]
    model = headprobe.load(family.module(0), processor_config=CLIP | {"size": 40, "crop_size": 32})
    found = model.adapter.settings(model)
    assert found.size == ((40, 40) if square else 40)
    assert found.crop == (32, 32)


@pytest.mark.parametrize("family", PLAIN, ids=lambda family: family.name)
def test_a_filter_that_is_not_named_is_that_of_the_family(family):
    config = {name: value for name, value in CLIP.items() if name != "resample"}
    model = headprobe.load(family.module(0), processor_config=config | {"size": {"height": 32, "width": 32}})
    assert model.adapter.settings(model).normalisation.resample == (2 if family.name == "vit" else 3)


def test_a_batch_that_claims_to_have_no_padding_is_checked():
    model = CLIP_FAMILY.load()
    batch = model.adapter.prepare(contents(2), "", model)
    _check_inputs(batch)
    holes = dataclasses.replace(batch.token_info, mask=batch.token_info.mask & (torch.arange(17) > 0))
    with pytest.raises(PaddingError, match="marks tokens as padding, but padding_side is None"):
        _check_inputs(dataclasses.replace(batch, token_info=holes))
    with pytest.raises(PaddingError, match="hold input_ids, which have a padding side"):
        _check_inputs(dataclasses.replace(batch, inputs={"input_ids": batch.ids}))
    with pytest.raises(InputError, match="need token_ids, one for each token"):
        _check_inputs(dataclasses.replace(batch, token_ids=None))


def test_a_folder_without_tokenizer_is_enough(tmp_path):
    model = CLIP_FAMILY.load()
    model.module.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(CLIP))
    again = headprobe.load(tmp_path)
    assert again.processor_hash == model.processor_hash
    assert again.tokenizer.convert_ids_to_tokens([0, 1]) == ["<class>", "<patch>"]
    with pytest.raises(InputError, match="takes pictures and no text; got 'dog'"):
        again.tokenizer("dog")
