"""SmolVLM: the text around the frames, and their size."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from families.smolvlm import FAMILY, PICTURES

import headprobe
from headprobe import Frames
from headprobe.errors import InputError
from headprobe.models.families.smolvlm import _number_words


def load(**changes):
    return headprobe.load(FAMILY.module(0), tokenizer=FAMILY.tokenizer(), processor_config=PICTURES | changes)


model = functools.cache(load)


def frames(seconds):
    return Frames(np.zeros((len(seconds), 16, 24, 3), np.uint8), seconds)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (1, "one"),
        (13, "thirteen"),
        (20, "twenty"),
        (64, "sixty-four"),
        (100, "one hundred"),
        (101, "one hundred and one"),
        (999, "nine hundred and ninety-nine"),
        (1000, "one thousand"),
        (1001, "one thousand and one"),
        (1100, "one thousand, one hundred"),
        (12345, "twelve thousand, three hundred and forty-five"),
    ],
)
def test_numbers_in_words(number, words):
    assert _number_words(number) == words


def test_numbers_in_words_are_those_of_num2words():
    num2words = pytest.importorskip("num2words").num2words
    rng = np.random.default_rng(0)
    for number in [*range(1300), *rng.integers(1300, 1_000_000, 300).tolist()]:
        assert _number_words(number) == num2words(number)


@pytest.mark.parametrize("number", [-1, 1_000_000])
def test_numbers_that_have_no_words_here_are_refused(number):
    with pytest.raises(InputError, match=f"{number} is not written in words"):
        _number_words(number)


def test_every_frame_is_introduced_by_its_time():
    encoded = model().adapter.encode(frames([0.0, 59.9, 61.0, 3661.5]), "x", model())
    picture = "<fake_token_around_image><global-img><image><image><image><image><fake_token_around_image>"
    assert "four frames from a 1:01:01 [" in encoded.text.splitlines()[0]
    assert encoded.text.count(picture) == encoded.text.count("<global-img>") == 4
    times = [line.split(picture)[0].split()[-1] for line in encoded.text.splitlines() if picture in line]
    assert times == ["00:00:", "00:59:", "01:01:", "61:01:"]
    assert encoded.text.endswith("\n\n")


def test_a_template_without_videos_gives_way_to_that_of_transformers():
    adapter, loaded = model().adapter, load()
    given = loaded.tokenizer.chat_template
    assert "<video>" not in given
    assert "<video>" in adapter.chat_template(loaded)
    loaded.tokenizer.chat_template = "{% for c in messages[0]['content'] %}{{ c.get('text', '<video>') }}{% endfor %}"
    assert adapter.chat_template(loaded) == loaded.tokenizer.chat_template
    batch = adapter.prepare([frames([0.0])], "Why?", loaded)
    assert loaded.tokenizer.decode(batch.inputs["input_ids"][0]).endswith("\n\nWhy?")
    loaded.tokenizer.chat_template = None
    assert adapter.chat_template(loaded) is None
    text = loaded.tokenizer.decode(adapter.prepare([frames([0.0])], "Why?", loaded).inputs["input_ids"][0])
    assert text.endswith("\n\nWhy?")
    assert "one frames" in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_image_size": {"longest_edge": 64}}, r"64 pixels wide \(max_image_size\), but the model takes 32"),
        ({"max_image_size": None}, "lacks size or max_image_size"),
        ({"size": None, "video_sampling": None}, "lacks size or max_image_size"),
        ({"resample": 4}, "resample is 4"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, message):
    loaded = load(**changes)
    with pytest.raises(InputError, match=message):
        loaded.adapter.encode(frames([0.0]), "x", loaded)


def test_the_longer_side_is_that_of_size_or_of_the_video_sampling_within_the_limit():
    for size, side in ((None, 36), ({"longest_edge": 48}, 48), ({"longest_edge": 10_000}, 4096)):
        loaded = load(size=size)
        assert loaded.adapter.settings(loaded)["longest_edge"] == side
