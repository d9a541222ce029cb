from __future__ import annotations

import numpy as np
import pytest

from headprobe.errors import InputError
from headprobe.examples import Example, Frames, _as_examples, _as_prompts, _read_content

CLIP = np.zeros((2, 4, 4, 3), np.uint8)


class Lazy:
    def __init__(self, value):
        self.value, self.reads = value, 0

    def read(self):
        self.reads += 1
        return self.value


def test_bare_content_gets_its_index_as_id():
    examples = _as_examples(["x", CLIP, Example("y", id="own", label=1)])
    assert [example.id for example in examples] == ["0", "1", "own"]


def test_a_batch_of_clips_is_a_list_of_clips():
    assert len(_as_examples(np.stack([CLIP, CLIP]))) == 2


def test_duplicate_ids_are_refused():
    with pytest.raises(InputError, match="Two examples share the id '0'"):
        _as_examples(["x", Example("y", id="0")])


@pytest.mark.parametrize("single", ["a text", CLIP, Example("x", id="a")])
def test_a_single_example_is_not_a_list(single):
    with pytest.raises(InputError, match=r"put the single example into one: \[example\]"):
        _as_examples(single)


def test_nothing_is_refused():
    with pytest.raises(InputError, match="No examples were given"):
        _as_examples([])


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"label": 0.5}, "the label is 0.5"),
        ({"label": True}, "the label is True"),
        ({"label": "abnormal"}, "the label is 'abnormal'; give an integer class"),
        ({"span": (5, 5)}, r"the span is \(5, 5\); it needs 0 <= start < end"),
        ({"span": (-1, 5)}, r"the span is \(-1, 5\)"),
        ({"id": ""}, "must be a non-empty string"),
        ({"id": 7}, "must be a non-empty string; got 7"),
        ({"content": 3}, "the content is a int"),
        ({"content": CLIP.astype(np.float32)}, "must be a uint8 array with values 0..255; got a float32 array"),
        ({"content": CLIP[0]}, r"must have shape \[frame, height, width, 3\]"),
        ({"content": CLIP[:0]}, r"got \(0, 4, 4, 3\)"),
    ],
)
def test_bad_fields_are_named(changes, text):
    with pytest.raises(InputError, match=text):
        Example(**{"content": "x", "id": "a", **changes})


def test_numpy_labels_become_integers():
    assert type(Example("x", id="a", label=np.int64(1)).label) is int


def test_lazy_content_is_read_only_when_asked_for():
    lazy = Lazy(CLIP)
    example = Example(lazy, id="a")
    assert lazy.reads == 0
    assert _read_content(example) is CLIP
    assert lazy.reads == 1


def test_lazy_content_must_be_a_clip():
    with pytest.raises(InputError, match="Example 'a': a clip must be a uint8 array"):
        _read_content(Example(Lazy("text"), id="a"))


def test_prompts_get_names():
    assert _as_prompts(None) == {"none": ""}
    assert _as_prompts("Why?") == {"p1": "Why?"}
    assert _as_prompts(["Why?", "How?"]) == {"p1": "Why?", "p2": "How?"}
    assert list(_as_prompts({"b": "x", "a": "y"})) == ["b", "a"]


@pytest.mark.parametrize(
    ("prompts", "text"),
    [
        ([], "The prompts are empty"),
        ({}, "The prompts are empty"),
        ([""], "Prompt 'p1' is empty"),
        ({"none": "", "a": "x"}, "Prompt 'none' is empty"),
        ([None], "Prompt 'p1' must be text; got None"),
        ({"": "x"}, "must be a non-empty string"),
    ],
)
def test_bad_prompts_are_named(prompts, text):
    with pytest.raises(InputError, match=text):
        _as_prompts(prompts)


def test_frames_keep_their_times_and_are_arrays_where_one_is_asked_for():
    pixels = np.zeros((2, 4, 4, 3), np.uint8)
    frames = Frames(pixels, [0.0, 0.5])
    assert np.asarray(frames) is pixels
    assert _read_content(Example(frames, id="a")) is frames
    for seconds, message in (
        ([0.0], "2 frames need as many times"),
        ([0.5, 0.0], "ascending"),
        ([0.0, np.nan], "finite"),
    ):
        with pytest.raises(InputError, match=message):
            Frames(pixels, seconds)


def test_times_of_something_that_is_read_later_come_along():
    class Timed:
        seconds = np.array([0.0, 0.25])

        def read(self):
            return np.zeros((2, 4, 4, 3), np.uint8)

    assert _read_content(Example(Timed(), id="a")).seconds.tolist() == [0.0, 0.25]
