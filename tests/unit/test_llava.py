from __future__ import annotations

import pytest
import torch
from equality import same, same_bits
from families import clips, llava_next_video, llava_onevision, video_llava

from headprobe import positions
from headprobe.models.sites import block_paths

FAMILIES = [module.FAMILIES[0] for module in (llava_onevision, llava_next_video, video_llava)]
each = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)


def embeddings(model, batch):
    """What enters the first block."""
    taken = []
    block = model.module.get_submodule(block_paths(model.module, model.sites)[0])
    hook = block.register_forward_pre_hook(
        lambda module, args, kwargs: taken.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    )
    with torch.no_grad():
        model.module(**batch.inputs, use_cache=False)
    hook.remove()
    return taken[0]


@each
def test_a_frame_changes_its_own_tokens_and_no_others(family):
    """The whole vision tower at work: all tokens of the frame, one that sums it up included."""
    model = family.load()
    clip = family.contents(2)[1]
    other = clip.copy()
    other[2] = 255 - other[2]
    batches = [model.adapter.prepare([one], "Why?", model) for one in (clip, other)]
    before, after = (embeddings(model, batch)[0] for batch in batches)
    assert same((before != after).any(1), batches[0].token_info.frame[0] == 2)


@each
def test_a_shorter_clip_gets_frames_whose_tokens_the_mask_hides(family):
    model = family.load()
    contents = clips(2, 30, 30, counts=(1, 3))
    batch = model.adapter.prepare(contents, "Why?", model)
    pixels, ids, mask = (batch.inputs[name] for name in ("pixel_values_videos", "input_ids", "attention_mask"))
    alone = [model.adapter.prepare([clip], "Why?", model) for clip in contents]
    assert not pixels[0, :2].any()
    assert same_bits(pixels[0, 2:], alone[0].inputs["pixel_values_videos"][0], of="pixels of one clip")
    assert same_bits(pixels[1], alone[1].inputs["pixel_values_videos"][0], of="pixels of one clip")
    video = model.adapter.video_token(model)
    assert set(ids[mask == 0].tolist()) == {video}
    assert not batch.token_info.video[mask == 0].any()
    assert same(ids[0][mask[0] == 1], alone[0].inputs["input_ids"][0])
    # With the hidden tokens every row has as many as the tower makes of its clip.
    assert (ids == video).sum(1).tolist() == [int((ids[1] == video).sum())] * 2


def test_onevision_halves_the_patches_upwards_and_ends_with_a_newline():
    model = llava_onevision.FAMILIES[0].load()
    batch = model.adapter.prepare(clips(1, 30, 30, counts=(2,)), "Why?", model)
    tokens, video = batch.token_info, batch.inputs["input_ids"][0] == model.config.video_token_id
    assert int(video.sum()) == 2 * 3 * 3 + 1  # 5 x 5 patches
    newline = int(video.nonzero()[-1])
    assert [int(getattr(tokens, name)[0, newline]) for name in ("frame", "row", "column")] == [-1, -1, -1]
    assert not tokens.video[0, newline]
    assert bool(tokens.video[0, video.nonzero()[:-1, 0]].all())


def test_video_llava_sums_up_every_frame_before_its_patches():
    model = video_llava.FAMILIES[0].load()
    contents = clips(2, 24, 24, counts=(2,))
    tokens = model.adapter.prepare(contents, "Why?", model).token_info
    places = torch.stack([tokens.frame, tokens.row, tokens.column], -1)[0][tokens.video[0]].tolist()
    grid = [[row, column] for row in range(3) for column in range(3)]
    assert places == [[frame, *place] for frame in range(2) for place in ([-1, -1], *grid)]
    assert positions.frame(1).mean().select(tokens).sum(1).tolist() == [10, 10]


def test_a_start_token_stands_once_at_the_start():
    model = llava_next_video.FAMILIES[0].load()
    texts = []
    for template in (llava_next_video.TEMPLATE, "<s>" + llava_next_video.TEMPLATE):
        model.tokenizer.chat_template = template
        ids = model.adapter.prepare(clips(1, 48, 48, counts=(1,)), "Why?", model).inputs["input_ids"][0]
        texts.append(model.tokenizer.decode(ids))
    assert texts == ["<s>USER: " + "<video>" * 9 + "\nWhy? ASSISTANT:"] * 2
