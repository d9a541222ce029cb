from __future__ import annotations

import numpy as np
import pytest
from equality import same_bits
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import FLEXIBLE, PACKING, make_clips

from headprobe.errors import InputError
from headprobe.models._pixels import PixelPacking, pack, smart_resize


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
    assert same_bits(
        pack(clip, packing).patches, pack(np.concatenate([clip, clip[-1:]]), packing).patches, of="pixels of one clip"
    )


def test_frames_are_resized_to_the_fixed_size():
    packing = PixelPacking.from_config(PACKING)
    flat = np.full((2, 100, 75, 3), 128, np.uint8)
    packed = pack(flat, packing)
    assert packed.grid == (1, 4, 6)
    assert same_bits(
        packed.patches, pack(np.full((2, 32, 48, 3), 128, np.uint8), packing).patches, of="pixels of one clip"
    )


@given(
    st.integers(8, 2000),
    st.integers(8, 2000),
    st.sampled_from([16, 28, 32]),
    st.integers(1, 40),
    # Growing rounds both sides up, in the published rule too, and can overshoot limits that lie close together:
    # 8 x 52 between 40 and 50 tokens of 16 pixels becomes 48 x 272, which is 51. Checkpoints' limits are far apart.
    st.integers(200, 800),
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


def test_smart_resize_overshoots_close_limits_as_the_published_rule_does():
    assert smart_resize(8, 52, 16, 40 * 256, 50 * 256) == (48, 272)


def test_smart_resize_refuses_a_sliver():
    with pytest.raises(InputError, match="2 x 500 pixels is too elongated"):
        smart_resize(2, 500, 16, 256, 4096)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"image_mean": None}, "lacks image_mean"),
        ({"patch_size": None, "merge_size": None}, "lacks patch_size, merge_size"),
        ({"headprobe_fixed_size": None}, "lacks min_pixels and max_pixels"),
        ({"headprobe_fixed_size": {"height": 40, "width": 48}}, r"\(40, 48\) must be a multiple of 16 pixels"),
        ({"do_normalize": False}, "switches do_normalize off"),
        ({"resample": 2}, r"resample is 2; only bicubic \(3\)"),
        (
            {"headprobe_fixed_size": None, "min_pixels": 256, "max_pixels": 512, "cap_pixels_per_frame": True},
            "lacks max_video_tokens for cap_pixels_per_frame",
        ),
    ],
)
def test_a_packing_fills_in_nothing(changes, text):
    with pytest.raises(InputError, match=text):
        PixelPacking.from_config(PACKING | changes)


def test_pixel_limits_come_from_either_spelling():
    by_size = {k: v for k, v in FLEXIBLE.items() if "pixels" not in k}
    by_size["size"] = {"shortest_edge": 16 * 16, "longest_edge": 64 * 64}
    assert PixelPacking.from_config(by_size) == PixelPacking.from_config(FLEXIBLE)


def test_a_cap_gives_every_frame_its_share_of_the_tokens_of_a_clip():
    """100 tokens of 16 x 16 pixels: 0.9 * 25600 pixels for the time steps of two frames each."""
    packing = PixelPacking.from_config(FLEXIBLE | {"cap_pixels_per_frame": True, "max_video_tokens": 100})
    assert packing.frame_size(64, 64, 4) == (64, 64)  # 11520 for each frame, more than its own limit of 64 x 64
    assert packing.frame_size(64, 64, 20) == (48, 48)  # 2304
    assert packing.frame_size(64, 64, 1000) == (16, 16)  # 46, but never below 1.05 * 256


def whole_clip(**changes):
    size = {"shortest_edge": 8 * 256, "longest_edge": 64 * 256}
    config = {k: v for k, v in FLEXIBLE.items() if "pixels" not in k} | {"size": size} | changes
    return PixelPacking.from_config(config, whole_clip=True)


def test_limits_of_a_whole_clip_are_shared_by_its_frames():
    packing = whole_clip()
    assert packing.frame_size(64, 64, 4) == (64, 64)  # 4 * 4096 is the limit
    assert packing.frame_size(64, 64, 5) == (64, 64)  # five frames are two steps of two
    assert packing.frame_size(64, 64, 16) == (32, 32)
    assert packing.frame_size(16, 16, 2) == (32, 32)  # 4 * 256 pixels for each of two frames are the least
    assert packing.frame_size(8, 24, 16) == (16, 48)  # a short side is first brought to that of a token
    with pytest.raises(InputError, match="The clip has 1 frames; the model takes 2 at a time"):
        packing.frame_size(64, 64, 1)


def test_a_cap_on_the_frames_of_a_whole_clip():
    capped = whole_clip(cap_pixels_per_frame=True, max_video_tokens=9)
    assert capped.frame_size(64, 64, 2) == (48, 48)  # 9 tokens of 256 pixels
    assert capped.frame_size(64, 64, 64) == (32, 32)  # 256 pixels each, but never below 1.05 * 2048
    assert whole_clip().frame_size(64, 64, 64) == (16, 16)


def test_the_older_spelling_of_the_limits_is_not_read_for_whole_clips():
    assert whole_clip(min_pixels=1, max_pixels=2) == whole_clip()
