"""What stands in the text for a video whose time steps carry their times: Qwen3-VL and GLM-4V."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from equality import same
from families import families

from headprobe import Frames
from headprobe.errors import HeadprobeWarning, InputError

SECONDS = [0.0, 0.5, 1.0, 1.75, 2.96]


@functools.cache
def loaded(name):
    return next(family for family in families() if family.name == name).load()


def said(model, seconds, prompt="Odd?", size=16):
    """The text of a clip whose frames make one token each step."""
    pixels = np.zeros((len(seconds), size, 2 * size, 3), np.uint8)
    batch = model.adapter.prepare([Frames(pixels, seconds)], prompt, model)
    return model.tokenizer.decode(batch.inputs["input_ids"][0]), batch.token_info


def test_qwen3_vl_writes_the_middle_of_a_step_before_it():
    text, tokens = said(loaded("qwen3_vl"), SECONDS)
    step = "<{} seconds><|vision_start|><|video_pad|><|video_pad|><|vision_end|>"
    video = "".join(step.format(time) for time in ("0.2", "1.4", "3.0"))
    assert f"<|im_start|>user\n<|vision_start|>{video}<|vision_end|>Odd?<|im_end|>\n" in text
    assert tokens.frame[0][tokens.video[0]].tolist() == [0, 0, 2, 2, 4, 4]
    assert tokens.column[0][tokens.video[0]].tolist() == [0, 1] * 3


@pytest.mark.parametrize(
    ("name", "times"), [("glm4v", ("0", "1", "2")), ("glm46v", ("0.0 seconds", "1.0 seconds", "3.0 seconds"))]
)
def test_glm_writes_the_time_of_its_first_frame_behind_a_step(name, times):
    text, tokens = said(loaded(name), SECONDS)
    video = "".join(f"<|begin_of_image|><|image|><|image|><|end_of_image|>{time}" for time in times)
    assert f"<|user|>\n<|begin_of_video|>{video}<|end_of_video|>Odd?<|assistant|>\n" in text
    assert tokens.frame[0][tokens.video[0]].tolist() == [0, 0, 2, 2, 4, 4]


def test_frames_without_times_are_24_a_second_and_it_is_said():
    model = loaded("qwen3_vl")
    pixels = np.zeros((26, 16, 32, 3), np.uint8)
    with pytest.warns(HeadprobeWarning, match=r"qwen3_vl uses the times.*24 frames per second are assumed"):
        bare = model.adapter.prepare([pixels], "Odd?", model)
    timed = model.adapter.prepare([Frames(pixels, np.arange(26) / 24)], "Odd?", model)
    assert same(bare.inputs["input_ids"], timed.inputs["input_ids"])
    assert "<1.0 seconds>" in model.tokenizer.decode(bare.inputs["input_ids"][0])


@pytest.mark.parametrize("name", ["qwen3_vl", "glm4v"])
def test_a_single_frame_is_less_than_a_time_step(name):
    with pytest.raises(InputError, match="1 frames; the model takes 2 at a time"):
        said(loaded(name), [0.0])


@pytest.mark.parametrize(
    ("name", "token"), [("qwen3_vl", "<|video_pad|>"), ("glm4v", "<|image|>"), ("glm4v", "<|video|>")]
)
def test_a_prompt_with_the_token_of_the_video_is_refused(name, token):
    with pytest.raises(InputError, match="must not contain"):
        said(loaded(name), [0.0, 1.0], prompt=f"Odd {token}?")


@pytest.mark.parametrize(("name", "start"), [("qwen3_vl", "<|vision_start|><0.5"), ("glm4v", "<|begin_of_video|>")])
def test_without_a_template_the_video_stands_between_its_marks(name, start):
    family = next(family for family in families() if family.name == name)
    model = family.load()
    model.tokenizer.chat_template = None
    text, _ = said(model, [0.0, 1.0])
    assert text.startswith(start)
    assert text.endswith(("<|vision_end|>Odd?", "<|end_of_video|>Odd?"))


def test_the_steps_of_qwen2_5_vl_last_as_long_as_their_frames_are_apart():
    model = loaded("qwen2_5_vl")
    for seconds, expected in (([0.0, 0.5, 1.0], 1.0), ([1.0, 1.0], 0.0), ([3.0], 0.0)):
        clip = Frames(np.zeros((len(seconds), 16, 32, 3), np.uint8), seconds)
        batch = model.adapter.prepare([clip], "Odd?", model)
        assert batch.inputs["second_per_grid_ts"].tolist() == [expected]
