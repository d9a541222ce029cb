"""PerceptionLM: square frames, and a vision tower of another package."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from families.perception_lm import FAMILIES, FRAMES

import headprobe
from headprobe.errors import InputError

(FAMILY,) = FAMILIES


@functools.cache
def model():
    return FAMILY.load()


def clip(n):
    return np.random.default_rng(n).integers(0, 256, (n, 20, 30, 3), dtype=np.uint8)


def test_the_heads_are_those_of_the_language_model_though_the_tower_carries_no_configuration():
    assert [site.path for site in model().sites] == [
        f"model.language_model.layers.{layer}.self_attn.o_proj" for layer in range(3)
    ]


@pytest.mark.parametrize(("lengths", "shape"), [((2, 2), (2, 2)), ((2, 5), (1, 7)), ((3,), (1, 3))])
def test_clips_are_stacked_where_they_can_be_and_stand_as_one_otherwise(lengths, shape):
    batch = model().adapter.prepare([clip(n) for n in lengths], "What?", model())
    assert batch.inputs["pixel_values_videos"].shape == (*shape, 3, 32, 32)
    assert batch.token_info.video.sum(1).tolist() == [n * 2 * 2 for n in lengths]


def test_pixels_come_in_the_number_type_of_the_model():
    rounded = FAMILY.load(dtype=torch.bfloat16)
    batch = rounded.adapter.prepare([clip(2)], "What?", rounded)
    assert batch.inputs["pixel_values_videos"].dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": {"height": 64, "width": 64}}, r"the model takes height and width \(32, 32\)"),
        ({"size": {"shortest_edge": 32}}, r"the model takes height and width \(32, 32\)"),
        ({"size": None}, r"the model takes height and width \(32, 32\)"),
        ({"do_center_crop": True}, "do_center_crop on, which is not supported"),
        ({"do_resize": False}, "do_resize off, which is not supported"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, message):
    loaded = headprobe.load(FAMILY.module(0), tokenizer=FAMILY.tokenizer(), processor_config=FRAMES | changes)
    with pytest.raises(InputError, match=message):
        loaded.adapter.encode(clip(2), "x", loaded)
