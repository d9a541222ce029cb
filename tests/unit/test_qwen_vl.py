from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import PACKING, VOCABULARY, make_clips, make_model, make_module, make_tokenizer

import headprobe
from headprobe import HeadTracer, positions
from headprobe.errors import InputError, PositionError
from headprobe.models.qwen_vl import PackedClip, PixelPacking, pack, smart_resize

FLEXIBLE = {k: v for k, v in PACKING.items() if k != "headprobe_fixed_size"} | {
    "min_pixels": 16 * 16,
    "max_pixels": 64 * 64,
}
VIDEO = VOCABULARY["<|video_pad|>"]


def words(model, ids):
    return model.tokenizer.convert_ids_to_tokens(ids)


def test_a_patch_holds_the_pixels_of_its_place():
    """Every pixel of the clip lies where the grid says, checked one patch at a time."""
    packing = PixelPacking.from_config(PACKING)
    clip = make_clips(1, frames=4)[0]
    packed = pack(clip, packing)
    assert packed.grid == (2, 4, 6)
    assert packed.n_tokens(2) == 12
    mean, std = np.array(PACKING["image_mean"]), np.array(PACKING["image_std"])
    normal = (clip / 255 - mean) / std
    row = 0
    for t in range(2):
        for big_h in range(2):
            for big_w in range(3):
                for h in (2 * big_h, 2 * big_h + 1):
                    for w in (2 * big_w, 2 * big_w + 1):
                        block = normal[2 * t : 2 * t + 2, 8 * h : 8 * h + 8, 8 * w : 8 * w + 8]
                        expected = block.transpose(3, 0, 1, 2).ravel()  # channel, frame, row, column
                        np.testing.assert_allclose(packed.patches[row].numpy(), expected, atol=2e-6)
                        row += 1
    assert row == len(packed.patches)


def test_an_odd_number_of_frames_repeats_the_last():
    packing = PixelPacking.from_config(PACKING)
    clip = make_clips(1, frames=3)[0]
    assert torch.equal(pack(clip, packing).patches, pack(np.concatenate([clip, clip[-1:]]), packing).patches)


def test_frames_are_resized_to_the_fixed_size():
    packing = PixelPacking.from_config(PACKING)
    flat = np.full((2, 100, 75, 3), 128, np.uint8)
    packed = pack(flat, packing)
    assert packed.grid == (1, 4, 6)
    assert torch.equal(packed.patches, pack(np.full((2, 32, 48, 3), 128, np.uint8), packing).patches)


@given(
    st.integers(8, 2000),
    st.integers(8, 2000),
    st.sampled_from([16, 28, 32]),
    st.integers(1, 40),
    st.integers(50, 400),
)
def test_smart_resize_keeps_to_its_rules(height, width, factor, low, high):
    min_pixels, max_pixels = low * factor * factor, high * factor * factor
    if max(height, width) / min(height, width) > 20:
        return
    h, w = smart_resize(height, width, factor, min_pixels, max_pixels)
    assert h % factor == w % factor == 0
    assert h >= factor
    assert w >= factor
    if min(h, w) > factor:
        assert min_pixels <= h * w <= max_pixels


def test_smart_resize_refuses_a_sliver():
    with pytest.raises(InputError, match="2 x 500 pixels is too elongated"):
        smart_resize(2, 500, 16, 256, 4096)


def test_pixel_limits_give_clips_of_different_grids_in_one_batch():
    model = headprobe.load(make_module("qwen2_vl"), tokenizer=make_tokenizer(chat=True), processor_config=FLEXIBLE)
    clips = [*make_clips(1, frames=2, height=30, width=70), *make_clips(1, frames=4, height=200, width=120)]
    batch = model.adapter.prepare(clips, "what happens ?", model)
    grids = batch.inputs["video_grid_thw"].tolist()
    assert grids == [[1, 4, 8], [2, 10, 6]]
    together = HeadTracer(model).capture(clips, "what happens ?", progress=False).values
    alone = [HeadTracer(model).capture([clip], "what happens ?", progress=False).values for clip in clips]
    assert (together - torch.cat(alone, 1)).abs().max() < 1e-5


def test_the_video_token_map_covers_exactly_the_video_tokens():
    model = make_model("qwen2_vl")
    clips = [*make_clips(1, frames=2), *make_clips(1, frames=6)]
    batch = model.adapter.prepare(clips, "what happens ?", model)
    tokens, ids = batch.token_info, batch.inputs["input_ids"]
    assert torch.equal(tokens.video, ids == VIDEO)
    assert tokens.video.sum(1).tolist() == [6, 18]
    assert torch.equal(batch.inputs["mm_token_type_ids"], (ids == VIDEO) * 2)
    for name in ("frame", "row", "column"):
        assert torch.equal(getattr(tokens, name) >= 0, tokens.video), name
    places = torch.stack([tokens.frame, tokens.row, tokens.column], -1)[1][tokens.video[1]].tolist()
    assert places == [[2 * t, h, w] for t in range(3) for h in range(2) for w in range(3)]
    assert tokens.frames_per_token == 2


def test_changing_one_place_of_a_clip_changes_the_embedding_of_that_token():
    """The map points at the right tokens: the model's own video embeddings are compared."""
    model = make_model("qwen2_vl")
    clip = make_clips(1, frames=4)[0]
    other = clip.copy()
    other[2:4, 16:32, 32:48] = 255 - other[2:4, 16:32, 32:48]  # time step 1, row 1, column 2
    inputs = [model.adapter.prepare([c], "", model) for c in (clip, other)]
    # one merged token of the vision tower sees its own patches through the patch embedding
    embed = model.module.model.visual.patch_embed
    patches = [embed(batch.inputs["pixel_values_videos"]) for batch in inputs]
    changed = (patches[0] != patches[1]).any(1).reshape(-1, 4).any(1)
    tokens = inputs[0].token_info
    at = tokens.video[0].nonzero().flatten()[changed]
    assert len(at) == 1
    assert [int(getattr(tokens, name)[0, at[0]]) for name in ("frame", "row", "column")] == [2, 1, 2]


def test_the_chat_template_surrounds_the_repeated_video_token():
    model = make_model("qwen2_vl")
    batch = model.adapter.prepare(make_clips(1, frames=2), "what happens ?", model)
    expected = ["<|im_start|>", "<|vision_start|>", *["<|video_pad|>"] * 6, "<|vision_end|>"]
    expected += ["what", "happens", "?", "</s>", "<|im_start|>"]
    assert words(model, batch.inputs["input_ids"][0].tolist()) == expected


def test_without_a_prompt_the_template_holds_the_video_alone():
    model = make_model("qwen2_vl")
    batch = model.adapter.prepare(make_clips(1, frames=2), "", model)
    assert words(model, batch.inputs["input_ids"][0].tolist())[-3:] == ["<|vision_end|>", "</s>", "<|im_start|>"]


def test_without_a_template_the_video_comes_first():
    model = make_model("qwen2_vl")
    model.tokenizer.chat_template = None
    batch = model.adapter.prepare(make_clips(1, frames=2), "what happens ?", model)
    expected = ["<|vision_start|>", *["<|video_pad|>"] * 6, "<|vision_end|>", "what", "happens", "?"]
    assert words(model, batch.inputs["input_ids"][0].tolist()) == expected


def test_positions_read_video_tokens():
    model = make_model("qwen2_vl")
    tracer = HeadTracer(model)
    clips = make_clips(2, frames=4)
    frames = [tracer.capture(clips, positions=positions.frame(i).mean(), progress=False).values for i in range(4)]
    assert torch.equal(frames[0], frames[1])
    assert not torch.equal(frames[0], frames[2])
    whole = tracer.capture(clips, positions=positions.video_tokens().mean(), progress=False).values
    assert torch.allclose((frames[0] + frames[2]) / 2, whole, atol=1e-5)
    with pytest.raises(PositionError, match=r"frame\(4\) lies outside example 0 .* clip has 4 frames"):
        tracer.capture(clips, positions=positions.frame(4).mean(), progress=False)


def test_a_packed_clip_is_taken_as_it_is():
    model = make_model("qwen2_vl")
    clip = make_clips(1)[0]
    packed = model.adapter.encode(clip, "a", model)
    assert isinstance(packed, PackedClip)
    a, b = (model.adapter.prepare([c], "", model).inputs["pixel_values_videos"] for c in (clip, packed))
    assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"image_mean": None}, "lacks image_mean"),
        ({"patch_size": None, "merge_size": None}, "lacks patch_size, merge_size"),
        ({"headprobe_fixed_size": None}, "lacks min_pixels and max_pixels"),
        ({"headprobe_fixed_size": {"height": 40, "width": 48}}, r"\(40, 48\) must be a multiple of 16 pixels"),
        ({"do_normalize": False}, "switches do_normalize off"),
        ({"resample": 2}, r"resample is 2; only bicubic \(3\)"),
        ({"cap_pixels_per_frame": True}, "cap_pixels_per_frame is not supported"),
    ],
)
def test_a_packing_fills_in_nothing(changes, text):
    with pytest.raises(InputError, match=text):
        PixelPacking.from_config(PACKING | changes)


def test_pixel_limits_come_from_either_spelling():
    by_size = {k: v for k, v in FLEXIBLE.items() if "pixels" not in k}
    by_size["size"] = {"shortest_edge": 16 * 16, "longest_edge": 64 * 64}
    assert PixelPacking.from_config(by_size) == PixelPacking.from_config(FLEXIBLE)


def test_a_packing_that_contradicts_the_model_is_refused():
    model = headprobe.load(
        make_module("qwen2_vl"),
        tokenizer=make_tokenizer(chat=True),
        processor_config=PACKING | {"patch_size": 16, "headprobe_fixed_size": {"height": 32, "width": 32}},
    )
    with pytest.raises(InputError, match=r"sizes \(16, 2, 2\), the model \(8, 2, 2\)"):
        HeadTracer(model).capture(make_clips(1), progress=False)


def test_text_and_templates_are_refused():
    tracer = HeadTracer(make_model("qwen2_vl"))
    with pytest.raises(InputError, match="Example '0' is text, but Qwen2VLForConditionalGeneration takes clips"):
        tracer.capture(["a man walks"], progress=False)
    with pytest.raises(InputError, match=r"Prompt 'p1' contains \{text\}; for a video model"):
        tracer.capture(make_clips(1), "{text} ?", progress=False)


def test_a_prompt_with_a_video_token_is_refused():
    with pytest.raises(InputError, match="has 2 video tokens"):
        HeadTracer(make_model("qwen2_vl")).capture(make_clips(1), "what <|video_pad|> ?", progress=False)
