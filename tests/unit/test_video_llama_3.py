"""VideoLLaMA3: which tokens are kept, and where they are."""

from __future__ import annotations

import functools
import re

import numpy as np
import pytest
import torch
from families.video_llama_3 import FAMILY, PACKING, halted, still

import headprobe
from headprobe import Frames, HeadTracer
from headprobe.errors import InputError
from headprobe.models._pixels import PackedClip, PixelPacking, pack
from headprobe.models.families.video_llama_3 import _changed_tokens
from headprobe.models.sites import block_paths


@functools.cache
def model():
    return FAMILY.load()


def load(**changes):
    module = FAMILY.module(0)
    return headprobe.load(module, tokenizer=FAMILY.tokenizer(), processor_config=PACKING | changes)


def test_a_token_is_kept_where_its_patches_change_by_more_than_the_threshold():
    # Three frames of two tokens, each of four patches with two numbers.
    patches = torch.zeros(3, 2, 4, 2)
    patches[1, 0, 3, 0] = 8 * 0.09 / 255  # the mean change times 255 is 0.09
    patches[1, 1, 1, 1] = 8 * 0.11 / 255
    patches[2] = patches[1]
    clip = PackedClip(patches.reshape(24, 2), (3, 2, 4))
    # In the last frame nothing changes; its first token stays.
    assert _changed_tokens(clip, 2).tolist() == [[True, True], [False, True], [True, False]]


def test_a_single_frame_keeps_all_of_its_tokens():
    clip = PackedClip(torch.zeros(4, 3), (1, 2, 2))
    assert _changed_tokens(clip, 1).tolist() == [[True] * 4]


def test_the_places_are_those_of_the_tokens_that_stay():
    clip = halted(Frames(np.random.default_rng(0).integers(0, 256, (3, 32, 64, 3), dtype=np.uint8), [0.0, 0.5, 1.26]))
    encoded = model().adapter.encode(clip, "x", model())
    # A grid of 2 x 4 tokens; the left half of the second frame repeats, the third frame repeats as a whole.
    whole = [[0, row, column] for row in range(2) for column in range(4)]
    assert encoded.places.tolist() == [*whole, [1, 0, 2], [1, 0, 3], [1, 1, 2], [1, 1, 3], [2, 0, 0]]
    assert encoded.inputs["video_compression_mask"].sum() == len(encoded.places)
    pad = "<|video_pad|>"
    assert encoded.text == f"Time 0.0s:{pad * 8},Time 0.5s:{pad * 4},Time 1.3s:{pad}"


def test_pixels_of_a_place_change_the_token_that_the_map_puts_there():
    module = FAMILY.module(0)
    still(module)
    loaded = headprobe.load(module, tokenizer=FAMILY.tokenizer(), processor_config=PACKING)
    clip = halted(Frames(np.random.default_rng(0).integers(0, 256, (3, 32, 48, 3), dtype=np.uint8), [0.0, 1.0, 2.0]))
    changed = clip.pixels.copy()
    changed[1, 16:, 32:] = 255 - changed[1, 16:, 32:]
    changed[2] = changed[1]
    block = block_paths(loaded.module, loaded.sites)[0]
    seen = []
    hook = loaded.module.get_submodule(block).register_forward_pre_hook(lambda module, args: seen.append(args[0][0]))
    batches = [loaded.adapter.prepare([one], "What?", loaded) for one in (clip, Frames(changed, clip.seconds))]
    with torch.no_grad():
        for batch in batches:
            loaded.module(**batch.inputs)
    hook.remove()
    tokens = batches[0].token_info
    top = int((seen[0] - seen[1]).abs().amax(1).argmax())
    assert [int(axis[0, top]) for axis in (tokens.frame, tokens.row, tokens.column)] == [1, 1, 2]


def test_a_capture_reads_clips_with_dropped_tokens_and_leaves_them_whole_if_told():
    rng = np.random.default_rng(0)
    clips = [halted(Frames(rng.integers(0, 256, (n, 32, 48, 3), dtype=np.uint8), range(n))) for n in (2, 4)]
    acts = HeadTracer(model()).capture(clips, "What?", progress=False)
    alone = HeadTracer(model()).capture(clips[1:], "What?", progress=False)
    assert torch.allclose(acts.values[:, 1], alone.values[:, 0], atol=1e-4)
    whole = load(use_token_compression=False)
    assert [len(whole.adapter.encode(clip, "x", whole).places) for clip in clips] == [2 * 6, 4 * 6]
    assert model().processor_hash != whole.processor_hash


def test_the_frames_of_a_clip_share_the_upper_limit_of_pixels():
    frames = np.zeros((4, 64, 96, 3), np.uint8)
    limits = {"size": {"shortest_edge": 16 * 16, "longest_edge": 4 * 32 * 48}}
    loaded = load(**limits)
    grid = loaded.adapter.encode(Frames(frames, range(4)), "x", loaded).inputs["video_grid_thw"]
    expected = pack(frames, PixelPacking.from_config(PACKING | {"size": {"shortest_edge": 256, "longest_edge": 1536}}))
    assert grid.tolist() == [list(expected.grid)] == [[4, 4, 6]]


@pytest.mark.parametrize("changes", [{"patch_size": 14}, {"temporal_patch_size": 2}])
def test_settings_that_contradict_the_model_are_refused(changes):
    loaded = load(**changes)
    given = (changes.get("patch_size", 8), changes.get("temporal_patch_size", 1))
    with pytest.raises(InputError, match=re.escape(f"sizes {given}, the model (8, 1)")):
        loaded.adapter.encode(Frames(np.zeros((2, 32, 48, 3), np.uint8), [0.0, 1.0]), "x", loaded)
