"""Gemma 4: frame sizes, heads of two sizes, and layers that use the keys and values of others."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from equality import close
from families.gemma4 import FAMILIES, PATCHES

import headprobe
from headprobe import Frames, HeadTracer, positions
from headprobe.errors import InputError
from headprobe.models.families.gemma4 import _fitted_size
from headprobe.models.sites import block_paths
from headprobe.trace import edits
from headprobe.trace.generate import generate

FAMILY, LARGE = FAMILIES
pytestmark = pytest.mark.filterwarnings("ignore:.*uses the times of the frames:headprobe.errors.HeadprobeWarning")


@functools.cache
def model():
    return FAMILY.load()


@functools.cache
def large():
    return LARGE.load()


@pytest.mark.parametrize(
    ("height", "width", "rows", "columns"),
    [
        (7, 10, 7, 10),  # 70 tokens exactly
        (700, 1000, 7, 10),
        (100, 100, 8, 8),  # the root of 70 is 8.4
        (10, 2000, 1, 70),  # less than one row: one, and at most 70 columns
        (2000, 10, 70, 1),
        (10, 690, 1, 69),
        (1, 100, 1, 70),
    ],
)
def test_a_frame_is_fitted_to_the_budget_of_tokens(height, width, rows, columns):
    assert _fitted_size(height, width, 8, 70) == (8 * rows, 8 * columns)


def test_no_frame_exceeds_the_budget():
    rng = np.random.default_rng(0)
    for height, width in rng.integers(1, 3000, (500, 2)).tolist():
        rows, columns = (side // 48 for side in _fitted_size(height, width, 48, 70))
        assert 35 <= rows * columns <= 70, (height, width)


def test_frames_are_padded_to_the_budget_and_introduced_by_their_times():
    clip = Frames(np.zeros((2, 30, 30, 3), np.uint8), [59.9, 61.0])
    encoded = model().adapter.encode(clip, "x", model())
    soft = "<|image>" + "<|video|>" * 64 + "<image|>"
    assert encoded.text == f"00:59 {soft} 01:01 {soft}"
    assert encoded.inputs["pixel_values_videos"].shape == (2, 280, 48)
    positions_of = encoded.inputs["video_position_ids"]
    assert positions_of[1, :17].tolist() == [[x, 0] for x in range(16)] + [[0, 1]]
    assert bool((positions_of[:, 256:] == -1).all())
    assert not encoded.inputs["pixel_values_videos"][:, 256:].any()


def test_heads_have_the_sizes_of_their_layers():
    assert [(site.n_heads, site.head_dim, site.n_kv_heads) for site in model().sites] == [(4, 8, 2), (4, 16, 2)] * 2
    assert [(site.n_heads, site.head_dim, site.n_kv_heads) for site in large().sites] == [(4, 8, 2)] * 2 + [(4, 16, 1)]


def test_asking_for_answers_does_not_change_what_is_read():
    """transformers leaves all tokens but the last out of the last layers when it is asked for the last logits."""
    tracer, clips = HeadTracer(model()), FAMILY.contents(2)
    where = positions.video_tokens().mean()
    plain = tracer.capture(clips, "What?", positions=where, progress=False)
    answered = tracer.capture(clips, "What?", positions=where, answers=["a", "b"], progress=False)
    for size, part in plain.by_size().items():
        assert close(part.values, answered.by_size()[size].values)


def test_edits_of_video_tokens_reach_generation_in_the_layers_that_share_keys():
    tracer, clips = HeadTracer(model()), FAMILY.contents(2)
    shared = [head for head in model().heads if head.layer >= 2]
    before = tracer.capture(clips, "What?", heads=shared, progress=False)
    with edits.zero(model(), shared, positions.video_tokens()):
        at_video = tracer.capture(clips, "What?", heads=shared, progress=False)
        made = generate(tracer, clips, "What?", max_new_tokens=2, heads=shared, progress=False)
    # These layers' keys come from the layers before, so an edit of other tokens cannot change the last one.
    firsts = np.cumsum([0, *(len(tokens) for tokens in made.tokens[:-1])])
    for size, part in at_video.by_size().items():
        assert close(part.values, before.by_size()[size].values)
        assert torch.allclose(made.activations.by_size()[size].values[0, firsts], part.values[0], atol=1e-5)


def test_tokens_of_one_frame_see_each_other_in_sliding_layers():
    """The model learns which tokens are video from an input that the adapter has to give."""
    clip = Frames(np.random.default_rng(0).integers(0, 256, (2, 56, 80, 3), dtype=np.uint8), [0.0, 1.0])
    changed = clip.pixels.copy()
    changed[1, -8:, -8:] = 255 - changed[1, -8:, -8:]  # the last token of the second frame
    second = block_paths(large().module, large().sites)[1]
    seen = []
    hook = large().module.get_submodule(second).register_forward_pre_hook(lambda module, args: seen.append(args[0][0]))
    for pixels in (clip.pixels, changed):
        with torch.no_grad():
            large().module(**large().adapter.prepare([Frames(pixels, clip.seconds)], "What?", large()).inputs)
    hook.remove()
    frame = large().adapter.prepare([clip], "What?", large()).token_info.frame[0]
    change = (seen[0] - seen[1]).abs().amax(1)
    assert change[frame == 0].max() < 1e-6
    assert change[frame == 1].min() > 1e-6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_size": 8}, "has patch_size 8, the model 4"),
        ({"pooling_kernel_size": 3}, "has pooling_kernel_size 3, the model 2"),
        ({"max_soft_tokens": None}, "lacks max_soft_tokens"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, message):
    loaded = headprobe.load(FAMILY.module(0), tokenizer=FAMILY.tokenizer(), processor_config=PATCHES | changes)
    with pytest.raises(InputError, match=message):
        loaded.adapter.encode(np.zeros((2, 32, 48, 3), np.uint8), "x", loaded)
