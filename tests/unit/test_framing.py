from __future__ import annotations

import numpy as np
import pytest
import torch
from equality import same_bits
from families import llava_next_video
from hypothesis import given
from hypothesis import strategies as st

import headprobe
from headprobe.errors import InputError, UnsupportedModelError
from headprobe.models.video_adapter import Framing, centre_crop

PLAIN = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3, "rescale_factor": 1.0}


def frames(height, width):
    """Two frames that say of every pixel in which row (red) and column (green) it lies."""
    rows, columns = np.mgrid[:height, :width]
    frame = np.stack([rows, columns, np.zeros_like(rows)], -1).astype(np.uint8)
    return np.stack([frame, frame])


def test_a_frame_of_the_right_size_is_left_as_it_is():
    framing = Framing.from_config(PLAIN | {"size": {"height": 5, "width": 7}})
    assert same_bits(
        framing.pictures(frames(5, 7)),
        torch.from_numpy(frames(5, 7)).permute(0, 3, 1, 2).float(),
        of="whole numbers kept as float32",
    )


def test_the_middle_is_cut_out_after_the_shorter_side_was_fitted():
    config = {"size": {"shortest_edge": 4}, "do_center_crop": True, "crop_size": {"height": 4, "width": 4}}
    wide = Framing.from_config(PLAIN | config).pictures(frames(4, 9))
    # Five columns are too many; two go on the left and three on the right.
    assert wide[0, 1].tolist() == [[2.0, 3.0, 4.0, 5.0]] * 4
    tall = Framing.from_config(PLAIN | config).pictures(frames(9, 4))
    assert tall[1, 0].tolist() == [[float(row)] * 4 for row in (2, 3, 4, 5)]


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 12), st.integers(1, 12))
def test_a_crop_has_its_size_and_keeps_the_middle(height, width, rows, columns):
    cropped = centre_crop(torch.ones(1, 3, height, width, dtype=torch.uint8), (rows, columns))
    assert cropped.shape == (1, 3, rows, columns)
    kept = cropped[0, 0].nonzero()
    assert len(kept) == min(height, rows) * min(width, columns)
    for axis, size in ((0, rows), (1, columns)):
        before, after = int(kept[:, axis].min()), size - 1 - int(kept[:, axis].max())
        assert after - before in (0, 1)


def test_the_other_side_is_rounded_down():
    framing = Framing.from_config(PLAIN | {"size": {"shortest_edge": 10}})
    assert framing.picture is None
    assert framing.pictures(frames(13, 31)).shape == (2, 3, 10, 23)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 48}, r"The size in the preprocessor configuration is 48; it must give height and width, or"),
        ({"size": None}, "is None"),
        ({"size": {"shortest_edge": 48, "longest_edge": 96}}, "longest_edge"),
        ({"crop_size": 48}, r"switches do_center_crop on, but its crop_size is 48"),
        ({"image_mean": None}, "lacks image_mean"),
        ({"do_resize": False}, "switches do_resize off"),
        ({"do_center_crop": False}, r"makes pictures of different sizes; the vision tower of .* takes \(48, 48\)"),
        ({"crop_size": {"height": 48, "width": 40}}, r"makes pictures of \(48, 40\) pixels"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(change, message):
    model = headprobe.load(
        llava_next_video.llava_next_video(0),
        tokenizer=llava_next_video.tokenizer(),
        processor_config=llava_next_video.FRAMING | change,
    )
    with pytest.raises(InputError, match=message):
        model.adapter.prepare(llava_next_video.contents(1), "Why?", model)


def test_a_vision_tower_that_is_not_square_is_refused():
    model = llava_next_video.FAMILIES[0].load()
    model.config.vision_config.image_size = [48, 96]
    with pytest.raises(UnsupportedModelError, match=r"image_size of the vision tower is \[48, 96\]; only squares"):
        model.adapter.prepare(llava_next_video.contents(1), "Why?", model)
