"""The small parts of extraction: cutting, prompts and positions as text, batch sizes, the list of what was skipped."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headprobe import positions
from headprobe.errors import InputError, OutOfMemoryError, StoreError
from headprobe.extraction._decoding import Opened, Skipped
from headprobe.extraction._sources import Stretch, Video, clip_id, cut, units_of, video_and_span
from headprobe.extraction._writer import SkippedList, read_skipped, store_folders, summary
from headprobe.extraction.extract import _Bar
from headprobe.extraction.prompts import _parse_position, _parse_positions, read_prompts
from headprobe.trace.tracer import BatchSize

CPU = torch.device("cpu")

# Cutting


@settings(max_examples=50, deadline=None)
@given(n=st.integers(1, 200), start=st.integers(0, 199), size=st.integers(1, 200), length=st.integers(1, 60))
def test_the_clips_of_a_stretch_cover_it_once(n: int, start: int, size: int, length: int) -> None:
    start = min(start, n - 1)
    end = min(start + size, n)
    cuts, refused = cut([Stretch(start, end)], np.arange(n) / 25, n / 25, length)
    assert refused == []
    assert [frame for one in cuts for frame in range(*one.segment.span)] == list(range(start, end))
    assert all(start <= one.segment.window[0] and one.segment.window[1] <= end for one in cuts)
    assert len({one.segment.window[1] - one.segment.window[0] for one in cuts}) == 1


def test_seconds_take_the_frames_that_begin_in_them_also_at_a_varying_rate() -> None:
    times = np.array([0.0, 0.1, 0.5, 0.6, 2.0])
    cuts, _ = cut([Stretch(0.1, 0.6, True), Stretch(0.6, None, True)], times, 2.4, None)
    assert [(one.segment.span, one.stretch) for one in cuts] == [((1, 3), 0), ((3, 5), 1)]


def test_seconds_of_one_segment_after_another_share_no_frame() -> None:
    times = np.arange(300) * 1001 / 30000  # 29.97 frames per second
    edges = np.round(np.arange(0, 11) * 1001 / 1000, 3)
    cuts, refused = cut([Stretch(a, b, True) for a, b in itertools.pairwise(edges)], times, 10.01, None)
    assert refused == []
    assert [one.segment.span for one in cuts] == [(30 * i, 30 * i + 30) for i in range(10)]


@pytest.mark.parametrize(
    ("stretch", "reason"),
    [
        (Stretch(90, 101), "frames 90 to 101 were asked for, but the video has 100 frames"),
        (Stretch(100, None), "frames 100 to the end were asked for, but the video has 100 frames"),
        (Stretch(1.0, 4.2, True), "seconds 1 to 4.2 were asked for, but the video has 4 seconds"),
        (Stretch(4.0, None, True), "seconds 4 to the end were asked for, but the video has 4 seconds"),
        (Stretch(1.001, 1.002, True), "no frame begins in seconds 1.001 to 1.002"),
    ],
)
def test_what_the_video_does_not_have_is_refused(stretch: Stretch, reason: str) -> None:
    assert cut([stretch], np.arange(100) / 25, 4.0, 48) == ([], [reason])


def test_the_same_frames_in_two_rows_are_one_clip_and_a_reason() -> None:
    cuts, refused = cut([Stretch(0, 96, label=0), Stretch(48, 96, label=1)], np.arange(96) / 25, 3.84, 48)
    assert [(one.segment.span, one.stretch) for one in cuts] == [((0, 48), 0), ((48, 96), 0)]
    assert refused == ["frames 48 to 96 are asked for twice, in different rows"]


@given(st.text(min_size=1), st.integers(0, 10**9), st.integers(0, 10**9))
def test_an_id_gives_back_its_video_and_span(name: str, start: int, end: int) -> None:
    assert video_and_span(clip_id(name, (start, end))) == (name, (start, end))


@pytest.mark.parametrize("name", ["", "x", "x:1", "x:1-", "x:a-b", ":1-2", "x:-1-2", "x:²-3"])
def test_an_id_of_another_kind_has_no_span(name: str) -> None:
    assert video_and_span(name) == (name, None)


# Units


@pytest.mark.parametrize(("n", "size"), [(1, 1), (7, 1), (28, 3), (256, 32), (2000, 32)])
def test_units_hold_an_eighth_of_the_videos_up_to_32(n: int, size: int) -> None:
    videos = [Video(f"{i}.mp4", str(i)) for i in range(n)]
    units = units_of(videos)
    assert len(units[0].videos) == size
    assert [video for unit in units for video in unit.videos] == videos
    assert [unit.number for unit in units] == list(range(len(units)))


def test_a_unit_of_no_videos_is_refused() -> None:
    with pytest.raises(InputError, match="videos_per_unit is 0"):
        units_of([], 0)


# Prompts


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("p.txt", "\ufeffis it odd ?\n\n  a fight ?  \n", {"p1": "is it odd ?", "p2": "a fight ?"}),
        ("p", "# is a text too\n", {"p1": "# is a text too"}),
        ("p.toml", 'b = "second"\na = "first"\n', {"b": "second", "a": "first"}),
        ("p.toml", '[prompts]\nb = "second"\n', {"b": "second"}),
        ("p.json", '{"prompts": ["x", "y"]}', {"p1": "x", "p2": "y"}),
        ("p.json", '{"a": "x"}', {"a": "x"}),
        ("p.json", '["x"]', {"p1": "x"}),
    ],
)
def test_prompts_from_files(tmp_path, name: str, text: str, expected: dict[str, str]) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    found = read_prompts(tmp_path / name)
    assert list(found.items()) == list(expected.items())


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        ("p.txt", "\n", "prompts are empty"),
        ("p.toml", "a = 1", "'a' must be text; got 1"),
        ("p.toml", "a = ", "cannot be read"),
        ("p.json", "3", "prompts are a list of texts, or names with texts; got int"),
        ("p.json", "{", "no readable JSON"),
        ("missing.txt", None, "cannot be read: No such file"),
    ],
)
def test_bad_prompt_files(tmp_path, name: str, text: str | None, error: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=error) as caught:
        read_prompts(tmp_path / name)
    assert name in str(caught.value)


# Positions

EXAMPLES = [
    positions.last(),
    positions.first(),
    positions.index(-2),
    positions.span(1, None).mean(),
    positions.all().each(),
    positions.per_frame(),
    (positions.video_tokens() & positions.frame(-1)).mean(),
    (~(positions.video_tokens() | positions.span(0, 4))).mean(),
]


@pytest.mark.parametrize("position", EXAMPLES, ids=repr)
def test_a_position_is_read_from_how_it_prints(position: positions.Position) -> None:
    assert repr(_parse_position(repr(position))) == repr(position)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nowhere()",
        "last().mean().x()",
        "__import__('os')",
        "frame('0')",
        "frame(True)",
        "frame(0, i=1)",
        "last(1)",
        "last() + first()",
        "(lambda: last())()",
        "frame(1.5)",
        "last() if 1 else first()",
        "positions.last()",
        "Position",
    ],
)
def test_what_is_no_position_is_refused_and_not_executed(text: str) -> None:
    with pytest.raises(InputError, match="is no position"):
        _parse_position(text)


def test_several_positions_get_names_that_can_be_folders(tmp_path) -> None:
    assert _parse_positions([]) is None
    assert _parse_positions(["last"]) == positions.last()
    assert list(_parse_positions(["end=last()"]) or ()) == ["end"]
    named = _parse_positions([repr(position) for position in EXAMPLES])
    assert isinstance(named, dict)
    assert len(store_folders(tmp_path, named, single=False)) == len(EXAMPLES)
    with pytest.raises(InputError, match="Two positions have the name 'last'"):
        _parse_positions(["last", "last()"])
    with pytest.raises(InputError, match="cannot be one; name the positions with letters"):
        store_folders(tmp_path, ["../x"], single=False)


# Batch sizes


def test_a_batch_size_is_halved_until_it_fits_and_stays() -> None:
    asked = []

    def work(chunk):
        asked.append(len(chunk))
        if len(chunk) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return sum(chunk)

    size = BatchSize("auto", CPU)
    assert [(list(items), done) for items, done in size.over(range(5), work)] == [([0, 1], 1), ([2, 3], 5), ([4], 4)]
    assert asked == [5, 2, 2, 1]
    assert (size.size, len(list(size.over(range(7), work)))) == (2, 4)
    assert BatchSize("auto", torch.device("cuda")).size == 64


def test_the_failed_pass_is_let_go_before_the_next() -> None:
    import gc
    import weakref

    class Tensors:
        pass

    alive: list[weakref.ref] = []

    def work(chunk):
        assert all(reference() is None for reference in alive)
        tensors = Tensors()
        alive.append(weakref.ref(tensors))
        if len(chunk) > 2:
            raise torch.OutOfMemoryError
        return len(chunk)

    gc.disable()
    try:
        assert [n for _, n in BatchSize("auto", CPU).over(range(8), work)] == [2, 2, 2, 2]
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("size", "text"),
    [
        ("auto", "does not suffice for one example: take fewer frames"),
        (4, "for 4 examples at once; give a smaller batch_size"),
    ],
)
def test_it_says_what_to_do_where_nothing_fits(size, text: str) -> None:
    def work(chunk):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:113] . DefaultCPUAllocator: can't allocate memory")

    with pytest.raises(OutOfMemoryError, match=text):
        list(BatchSize(size, CPU).over(range(4), work))


def test_another_error_is_not_about_memory() -> None:
    def work(chunk):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        list(BatchSize("auto", CPU).over(range(4), work))


@pytest.mark.parametrize("size", ["many", 0, True, 1.5])
def test_a_batch_size_that_is_none(size) -> None:
    with pytest.raises(InputError, match="give 'auto' or an integer of at least 1"):
        BatchSize(size, CPU)


# The progress bar


def test_the_bar_says_clips_per_second_and_the_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    bar = _Bar(n_videos=2, n_there=1, show=True)
    bar._bar.mininterval = 0
    bar.opened(Opened(Video("a.mp4", "a"), n_clips=5, n_wanted=4))
    bar.skipped()
    bar._bar.start_t -= 8  # seconds
    bar.read(4, batch_size=16)
    bar.close()
    said = capsys.readouterr().err.replace("\r", "\n").strip().splitlines()[-1]
    assert re.search(r"extract:  44%.* 4/9 \[00:0\d<00:\d\d, +0\.\d+ clips/s, batch=16, skipped=1\]", said), said


# What was skipped


def test_the_list_keeps_other_videos_and_forgets_an_unfinished_line(tmp_path) -> None:
    items = [Skipped(f"{name}.mp4", name, None, f"reason \u2028 {name}\n") for name in "abc"]
    with SkippedList(tmp_path, "abc") as skipped:
        for item in items:
            skipped.add(item)
    with (tmp_path / "skipped.jsonl").open("a") as file:
        file.write('{"path": "d.mp4", "na')
    assert read_skipped(tmp_path) == items
    with SkippedList(tmp_path, ["b"]) as skipped:
        assert skipped.items == []
    assert read_skipped(tmp_path) == [items[0], items[2]]


def test_two_runs_at_once_keep_one_list(tmp_path) -> None:
    a, b, c, d = (Skipped(f"{name}.mp4", name, None, "it is empty") for name in "abcd")
    with SkippedList(tmp_path, ["a", "b"]) as one:
        one.add(a)
        with SkippedList(tmp_path, ["c", "d"]) as two:
            two.add(c)
            one.add(b)
            two.add(d)
            (tmp_path / "skipped.jsonl").unlink()
            two.add(d)
    assert set(read_skipped(tmp_path)) == {c, d}
    with SkippedList(tmp_path, ["a", "b"]) as one, SkippedList(tmp_path, ["c", "d"]) as two:
        for item in (a, b):
            one.add(item)
        for item in (c, d):
            two.add(item)
    assert read_skipped(tmp_path) == [a, b, c, d]


@pytest.mark.parametrize("line", ["[]", '{"path": "a"}', '{"path": 1, "name": "a", "id": null, "reason": "x"}', "{"])
def test_a_list_of_something_else_is_refused(tmp_path, line: str) -> None:
    (tmp_path / "skipped.jsonl").write_text(line + "\n")
    with pytest.raises(StoreError, match="line 1"):
        read_skipped(tmp_path)


def test_the_summary_counts_reasons() -> None:
    items = [Skipped(f"{i}.mp4", str(i), None, "empty" if i % 2 else f"reason {i}") for i in range(20)]
    lines = summary(items, most=3)
    assert lines == ["10 x empty (1.mp4, ...)", "1 x reason 0 (0.mp4)", "1 x reason 2 (2.mp4)", "8 x other reasons"]
