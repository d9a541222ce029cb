"""Extraction as a whole, on a tiny random model: what is stored, going on, stopping, and what a model refuses."""

from __future__ import annotations

import itertools
import json
import signal
import threading
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pandas as pd
import pytest
import torch
from equality import KEPT, close
from tiny_models import make_model

from headprobe import HeadTracer, positions
from headprobe.errors import FingerprintError, HeadprobeWarning, InputError, StoreError, UnsupportedModelError
from headprobe.extraction import extract as extract_module
from headprobe.extraction._decoding import Decoder
from headprobe.extraction.extract import Extraction, Interrupted, extract
from headprobe.store import Store, verify
from headprobe.video.clips import clip_examples
from headprobe.video.decode import write_video

PROMPTS = {"odd": "does anything odd", "what": "what happens"}
SMALL = {"segments": 8, "frames": 4, "batch_size": 3, "store_dtype": "float32", "progress": False, "workers": 1}
N_CLIPS = 12


@pytest.fixture(scope="module")
def model():
    return make_model("qwen2_vl")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("videos")
    for i, n in enumerate((20, 8, 30, 5, 17)):
        frames = np.random.default_rng(i).integers(0, 256, (n, 32, 48, 3), dtype=np.uint8)
        write_video(path / f"v{i}.mp4", frames, fps=10)
    return path


@pytest.fixture(scope="module")
def plain(model, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The store of a run that nothing disturbs, two videos in each unit."""
    out = tmp_path_factory.mktemp("plain") / "z"
    done = extract(folder, model, PROMPTS, out, videos_per_unit=2, **SMALL)
    assert (done.n_new, done.n_there, done.skipped, done.batch_size) == (N_CLIPS, 0, (), 3)
    return done.store


def go(folder, model, out: Path, **changes) -> Extraction:
    return extract(folder, model, PROMPTS, out, **{"videos_per_unit": 2, **SMALL, **changes})


def same(store: Store, other: Store) -> bool:
    ids = other.examples["id"].tolist()
    assert sorted(store.examples["id"]) == sorted(ids)
    mine, theirs = store.activations(examples=ids), other.activations()
    assert mine.examples.equals(theirs.examples)
    assert mine.read is not None
    assert mine.read.equals(theirs.read)
    return close(mine.values, theirs.values)


# What is stored


def test_the_store_holds_what_a_capture_gives(model, folder: Path, plain: Store) -> None:
    first = [e for name in ("v0", "v1") for e in clip_examples(folder / f"{name}.mp4", 8, 4)]
    acts = HeadTracer(model).capture(first, PROMPTS, batch_size=3, progress=False)
    stored = plain.activations(examples=[example.id for example in first])
    assert close(stored.values, acts.values)
    assert stored.examples[["id", "group", "start", "end"]].equals(acts.examples[["id", "group", "start", "end"]])
    assert verify(plain.folder).ok


def test_the_table_says_which_frames_of_which_file(folder: Path, plain: Store) -> None:
    row = plain.examples.set_index("id").loc["v0:16-20"]
    assert row["path"] == str(folder / "v0.mp4")
    assert (row["video_frames"], row["start_seconds"], row["end_seconds"]) == (20, 1.6, 2.0)
    assert row["frame_indices"] == "13 15 17 19"
    assert row["frame_seconds"] == "1.3 1.5 1.7 1.9"


def test_times_of_a_varying_rate_and_ten_bits(model, tmp_path: Path) -> None:
    times = [0, 40, 80, 500, 540, 1200, 1300, 1310, 2000, 2500]  # milliseconds
    with av.open(str(tmp_path / "varying.mkv"), "w") as output:  # which does not say how many frames there are
        stream: Any = output.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv444p10le"
        stream.codec_context.time_base = Fraction(1, 1000)
        for i, milliseconds in enumerate(times):
            frame = av.VideoFrame.from_ndarray(np.full((32, 48, 3), 20 * i, np.uint8), format="rgb24")
            frame.pts, frame.time_base = milliseconds, Fraction(1, 1000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    store = go(tmp_path / "varying.mkv", model, tmp_path / "z", segments=5).store
    table = store.examples.set_index("id")
    first, second = table.loc["varying:0-5"], table.loc["varying:5-10"]
    for row in (first, second):
        indices = [int(index) for index in row["frame_indices"].split()]
        assert [float(second) for second in row["frame_seconds"].split()] == [times[i] / 1000 for i in indices]
    assert (first["start_seconds"], first["end_seconds"], second["start_seconds"]) == (0.0, 1.2, 1.2)
    assert second["end_seconds"] > 2.5


def test_the_provenance_says_how_clips_are_sampled_and_decoded(plain: Store) -> None:
    assert plain.provenance.versions["av"] == av.__version__
    assert plain.provenance.sampling == "segments of 8 frames, 4 spread evenly"
    assert plain.provenance.frames == 4
    assert dict(plain.provenance.prompts) == PROMPTS


def test_labels_groups_and_stretches_of_a_table(model, folder: Path, tmp_path: Path) -> None:
    rows = {"path": [str(folder / "v2.mp4")] * 2, "name": ["day:1/x"] * 2, "label": [1, 0], "group": ["g", None]}
    table = pd.DataFrame(rows | {"start_seconds": [0.8, 2.4], "end_seconds": [2.0, 3.0]})
    done = go(table, model, tmp_path / "z", segments=None)
    got = done.store.examples
    assert got["id"].tolist() == ["day:1/x:8-20", "day:1/x:24-30"]
    assert (got["label"].tolist(), got["group"].tolist()) == ([1, 0], ["g", "day:1/x"])
    assert done.store.provenance.sampling == "whole stretches, 4 spread evenly"


def test_chosen_heads_in_half_precision(model, folder: Path, tmp_path: Path, plain: Store) -> None:
    done = go(folder, model, tmp_path / "z", heads=["L2H1", "L0H3"], store_dtype="float16")
    assert done.store.headset.labels == ("L2H1", "L0H3")
    expected = plain.heads(["L2H1", "L0H3"], examples=done.store.examples["id"].tolist())
    assert close(done.store.heads(["L2H1", "L0H3"]), expected.half().float(), dtype=torch.float16, roundings=KEPT)


def test_several_positions_get_a_store_each_from_one_pass(
    model, folder: Path, tmp_path: Path, plain: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = {"last": positions.last(), "frames": positions.per_frame()}
    done = go(folder, model, tmp_path, positions=places, shard_examples=4)
    assert list(done.folders) == ["last", "frames"]
    assert same(Store.open(tmp_path / "last"), plain)
    frames = Store.open(tmp_path / "frames")
    assert len(frames.examples) == 2 * N_CLIPS
    assert frames.examples["example"].nunique() == N_CLIPS
    assert frames.examples["video_frames"].notna().all()
    monkeypatch.setattr(HeadTracer, "capture", None)  # nothing is read again
    again = go(folder, model, tmp_path, positions=places, resume=True)
    assert (again.n_new, again.n_there) == (0, N_CLIPS)


# Going on


def test_a_second_run_reads_only_what_is_new_and_opens_only_that(
    model, folder: Path, tmp_path: Path, plain: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    real = Decoder.messages
    monkeypatch.setattr(Decoder, "messages", lambda self, job: opened.append(job["path"]) or real(self, job))
    out = tmp_path / "z"
    go([folder / f"v{i}.mp4" for i in range(3)], model, out)
    assert len(opened) == 3
    again = go(folder, model, out, resume=True)
    assert (again.n_new, again.n_there) == (4, 8)
    assert [Path(path).name for path in opened[3:]] == ["v3.mp4", "v4.mp4"]
    assert go(folder, model, out, resume=True).n_new == 0
    assert len(opened) == 5
    assert sorted(Store.open(out).examples["id"]) == sorted(plain.examples["id"])


@pytest.mark.parametrize("after", [1, 2, 4])
def test_a_killed_run_goes_on_to_the_same_store_bit_for_bit(
    model, folder: Path, tmp_path: Path, plain: Store, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """As after kill -9: shards that were written are there, what was gathered for the next is lost."""

    class Killed(BaseException):
        pass

    count = itertools.count()
    real = extract_module.ShardWriter.add

    def add(self, acts):
        if next(count) == after:
            self._waiting.clear()
            raise Killed
        return real(self, acts)

    with monkeypatch.context() as patch:
        patch.setattr(extract_module.ShardWriter, "add", add)
        with pytest.raises(Killed):
            go(folder, model, tmp_path / "z", shard_examples=4)
    there = len(Store.open(tmp_path / "z"))
    assert there <= 3 * after
    done = go(folder, model, tmp_path / "z", shard_examples=4, resume=True)
    assert (done.n_new, done.n_there) == (N_CLIPS - there, there)
    assert same(done.store, plain)


def test_a_store_that_is_there_is_continued_only_when_asked(
    model, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = folder / "v1.mp4"
    go(one, model, tmp_path / "z")
    with pytest.raises(StoreError, match="there is a store already"):
        go(one, model, tmp_path / "z")
    for change, text in (
        ({"segments": 16}, "sampling: 'segments of 8 frames, 4 spread evenly', now 'segments of 16"),
        ({"frames": 2}, "frames: 4, now 2"),
        ({"positions": positions.first()}, r"positions: 'last\(\)', now 'first\(\)'"),
    ):
        with pytest.raises(FingerprintError, match=text):
            go(one, model, tmp_path / "z", resume=True, **change)
    with monkeypatch.context() as patch:
        patch.setattr("headprobe.extraction._reading.metadata.version", lambda name: "0.1")
        with pytest.raises(FingerprintError, match=rf"versions, av: '{av.__version__}', now '0\.1'"):
            go(one, model, tmp_path / "z", resume=True)
    with pytest.raises(FingerprintError, match="prompts, odd: 'does anything odd', now 'what'"):
        extract(one, model, {"odd": "what"}, tmp_path / "z", resume=True, **SMALL)


def test_two_runs_that_fill_one_store_at_once_store_each_clip_once(
    model, folder: Path, tmp_path: Path, plain: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = extract_module.ShardWriter.add
    count = itertools.count()

    def add(self, acts):
        if next(count) == 2:  # meanwhile another run does the first videos
            with monkeypatch.context() as patch:
                patch.setattr(extract_module.ShardWriter, "add", real)
                go([folder / "v0.mp4", folder / "v1.mp4"], model, tmp_path / "z", resume=True)
        return real(self, acts)

    monkeypatch.setattr(extract_module.ShardWriter, "add", add)
    go(folder, model, tmp_path / "z")
    assert same(Store.open(tmp_path / "z"), plain)


@pytest.mark.parametrize("videos", [["v0.mp4"], ["v0.mp4", "v1.mp4", "v2.mp4", "v3.mp4", "v4.mp4"]])
def test_a_run_that_is_slower_with_the_same_clips_keeps_the_others_and_goes_on(
    model, folder: Path, tmp_path: Path, plain: Store, monkeypatch: pytest.MonkeyPatch, videos: list[str]
) -> None:
    """Another run stores clips after this one saw them missing and before its file is in place."""
    real = Store.append
    calls = []

    def append(self, acts, *options):
        calls.append(len(acts.examples))
        if len(calls) == 1:
            go([folder / name for name in videos], model, tmp_path / "z", resume=True)
        return real(self, acts, *options)

    monkeypatch.setattr(Store, "append", append)
    go(folder, model, tmp_path / "z")
    assert calls[0] == N_CLIPS
    assert same(Store.open(tmp_path / "z"), plain)


def test_an_error_of_the_store_with_nothing_new_in_it_is_no_race(
    model, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def append(self, acts, *options):
        calls.append(len(acts.examples))
        raise StoreError("the disk is full")

    monkeypatch.setattr(Store, "append", append)
    with pytest.raises(StoreError, match="the disk is full"):
        go(folder, model, tmp_path / "z")
    assert calls == [N_CLIPS]


# Stopping


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_after_the_batch_and_keeps_what_was_read(
    model, folder: Path, tmp_path: Path, plain: Store, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    before = signal.getsignal(number)
    real = HeadTracer.capture

    def capture(self, *args, **options):
        signal.raise_signal(number)
        return real(self, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(HeadTracer, "capture", capture)
        with pytest.raises(Interrupted, match="another run goes on with resume") as caught:
            go(folder, model, tmp_path / "z")
    assert (caught.value.result.n_new, caught.value.signal_number) == (3, number)
    assert len(caught.value.result.store) == 3
    assert signal.getsignal(number) == before
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]
    assert same(go(folder, model, tmp_path / "z", resume=True).store, plain)


def test_a_second_ctrl_c_does_not_wait(model, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def capture(self, *args, **options):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(HeadTracer, "capture", capture)
    with pytest.raises(KeyboardInterrupt) as caught:
        go(folder, model, tmp_path / "z")
    assert not isinstance(caught.value, Interrupted)
    assert len(Store.open(tmp_path / "z")) == 0


def test_in_a_thread_signals_are_left_alone(model, folder: Path, tmp_path: Path) -> None:
    done: list[Extraction] = []
    thread = threading.Thread(target=lambda: done.append(go(folder / "v1.mp4", model, tmp_path / "z")))
    thread.start()
    thread.join()
    assert done[0].n_new == 1


# What cannot be read


def test_what_is_skipped_is_listed_and_tried_again(model, folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "videos"
    source.mkdir()
    (source / "good.mp4").symlink_to(folder / "v1.mp4")
    (source / "bad.mp4").write_bytes(b"")
    out = tmp_path / "z"
    done = go(source, model, out)
    assert (done.n_new, [item.reason for item in done.skipped]) == (1, ["the file is empty"])
    line = {"path": str(source / "bad.mp4"), "name": "bad", "id": None, "reason": "the file is empty"}
    assert [json.loads(text) for text in (out / "skipped.jsonl").read_text().splitlines()] == [line]
    (source / "bad.mp4").write_bytes((folder / "v3.mp4").read_bytes())
    done = go(source, model, out, resume=True)
    assert (done.n_new, done.n_there, done.skipped) == (1, 1, ())
    assert (out / "skipped.jsonl").read_text() == ""


def test_a_run_in_which_nothing_can_be_read_says_so(model, tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"x")
    done = go(tmp_path / "bad.mp4", model, tmp_path / "z")
    assert (done.n_new, len(done.skipped), len(done.store)) == (0, 1, 0)


def test_a_clip_that_the_model_refuses_is_skipped_alone(
    model, folder: Path, tmp_path: Path, plain: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = type(model.adapter).encode

    def refusing(self, content, name, model):
        if name in ("v0:8-16", "v3:0-5"):
            raise InputError(f"{name} has the wrong shape")
        return encode(self, content, name, model)

    monkeypatch.setattr(type(model.adapter), "encode", refusing)
    done = go(folder, model, tmp_path / "z")
    assert [(item.id, item.reason) for item in done.skipped] == [
        ("v0:8-16", "v0:8-16 has the wrong shape"),
        ("v3:0-5", "v3:0-5 has the wrong shape"),
    ]
    assert done.n_new == N_CLIPS - 2
    assert set(plain.examples["id"]) - set(done.store.examples["id"]) == {"v0:8-16", "v3:0-5"}


def test_a_clip_without_finite_numbers_is_skipped_alone(
    model, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    capture = HeadTracer.capture

    def broken(self, examples, *args, **options):
        acts = capture(self, examples, *args, **options)
        for i, example in enumerate(examples):
            if example.id == "v2:8-16":
                acts["last()"].values[1, i, 5, 2] = float("nan")
        return acts

    monkeypatch.setattr(HeadTracer, "capture", broken)
    done = go(folder, model, tmp_path / "z")
    [item] = done.skipped
    assert item.id == "v2:8-16"
    assert item.reason == "the model gives numbers that are not finite for it (L1H1 under prompt 'what')"
    assert len(done.store) == N_CLIPS - 1


def test_a_position_that_no_clip_has_ends_the_run(model, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"could read none of the first \d+ clips: .*frame"):
        go(folder, model, tmp_path / "z", positions=positions.frame(99).mean())


def test_the_batch_size_backs_off_when_a_pass_runs_out_of_memory(
    model, folder: Path, tmp_path: Path, plain: Store
) -> None:
    sizes: list[int] = []

    def limited(module, args, kwargs):
        sizes.append(len(kwargs["input_ids"]) if kwargs.get("input_ids") is not None else 0)
        if sizes[-1] > 6:  # both prompts of a clip go through at once
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    handle = model.module.register_forward_pre_hook(limited, with_kwargs=True)
    try:
        done = go(folder, model, tmp_path / "z", batch_size="auto", videos_per_unit=5)
    finally:
        handle.remove()
    assert max(sizes) >= N_CLIPS
    assert (done.batch_size, done.n_new) == (3, N_CLIPS)
    ids = plain.examples["id"].tolist()
    torch.testing.assert_close(done.store.z("odd", ids), plain.z("odd", ids), rtol=1e-4, atol=1e-5)


# What makes no sense


def test_words_that_the_model_does_not_know_are_told(model, folder: Path, tmp_path: Path) -> None:
    prompts = {"odd": "does anything odd", "what": "what on earth happens"}
    text = r"1 of the 4 words of prompt 'what' \(earth\) and reads each .* <unk>"
    with pytest.warns(HeadprobeWarning, match=text) as said:
        extract(folder / "v1.mp4", model, prompts, tmp_path / "z", **SMALL)
    assert len(said) == 1


def test_a_text_model_reads_no_videos(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="reads text, and extraction is of videos"):
        go(folder, make_model("gpt2"), tmp_path / "z")
    assert not (tmp_path / "z").exists()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"engine": "cluster"}, "engine is 'cluster'; choose one of 'local', 'ray'"),
        ({"actors": 2}, "actors= is for engine='ray'"),
        ({"device": "cpu"}, "device= is for a model that is loaded here"),
        ({"segments": 0}, "segments is 0"),
        ({"heads": ["L9H9"]}, "L9H9 not in"),
        ({"batch_size": "all"}, "batch_size is 'all'"),
        ({"store_dtype": "int8"}, "int8"),
        ({"shard_examples": 0}, "shard_examples is 0"),
        ({"positions": {"a b": positions.last()}}, "'a b' cannot be one"),
    ],
)
def test_arguments_that_make_no_sense(model, folder: Path, tmp_path: Path, change: dict, text: str) -> None:
    with pytest.raises(InputError, match=text):
        go(folder, model, tmp_path / "z", **change)
    assert not (tmp_path / "z").exists()


def test_without_ray_it_says_what_to_install(
    model, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(InputError, match=r"needs the package ray: pip install 'headprobe\[ray\]'"):
        go(folder, model, tmp_path / "z", engine="ray")
