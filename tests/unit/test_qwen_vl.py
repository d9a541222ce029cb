from __future__ import annotations

import pytest
import torch
from equality import close, same, same_bits
from tiny_models import FLEXIBLE, PACKING, VOCABULARY, make_clips, make_model, make_module, make_tokenizer

import headprobe
from headprobe import HeadTracer, positions
from headprobe.errors import InputError, PositionError
from headprobe.models.video_adapter import EncodedClip

VIDEO = VOCABULARY["<|video_pad|>"]


def words(model, ids):
    return model.tokenizer.convert_ids_to_tokens(ids)


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
    assert same(tokens.video, ids == VIDEO)
    assert tokens.video.sum(1).tolist() == [6, 18]
    assert same(batch.inputs["mm_token_type_ids"], (ids == VIDEO) * 2)
    for name in ("frame", "row", "column"):
        assert same(getattr(tokens, name) >= 0, tokens.video), name
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
    assert close(frames[0], frames[1])
    assert not close(frames[0], frames[2])
    whole = tracer.capture(clips, positions=positions.video_tokens().mean(), progress=False).values
    assert torch.allclose((frames[0] + frames[2]) / 2, whole, atol=1e-5)
    with pytest.raises(PositionError, match=r"frame\(4\) lies outside example 0 .* clip has 4 frames"):
        tracer.capture(clips, positions=positions.frame(4).mean(), progress=False)


def test_a_packed_clip_is_taken_as_it_is():
    model = make_model("qwen2_vl")
    clip = make_clips(1)[0]
    packed = model.adapter.encode(clip, "a", model)
    assert isinstance(packed, EncodedClip)
    a, b = (model.adapter.prepare([c], "", model).inputs["pixel_values_videos"] for c in (clip, packed))
    assert same_bits(a, b, of="pixels of one clip")


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
    with pytest.raises(InputError, match="has 2 places for a video"):
        HeadTracer(make_model("qwen2_vl")).capture(make_clips(1), "what <|video_pad|> ?", progress=False)
