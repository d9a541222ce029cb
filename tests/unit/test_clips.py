"""Segments cover a video once, windows keep one time scale, clips decode what they say."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest
from equality import same
from hypothesis import given
from hypothesis import strategies as st

from headprobe.errors import InputError, VideoError
from headprobe.video import decode
from headprobe.video.clips import Clip, Segment, _find_videos, clip_examples, sample_indices, segments
from headprobe.video.decode import VideoReader, read_frames, write_video


def ramp(n: int) -> np.ndarray:
    """Frames whose brightness counts up in steps of 4."""
    return np.broadcast_to((4 * np.arange(n, dtype=np.uint8))[:, None, None, None], (n, 16, 16, 3)).copy()


@pytest.fixture(scope="module")
def movie(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("clips") / "gate.1.mp4", ramp(50), fps=10, crf=1)


def brightness(frames: np.ndarray) -> list[int]:
    """The frame numbers that the brightness stands for."""
    return np.round(frames.mean((1, 2, 3)) / 4).astype(int).tolist()


@given(st.integers(1, 2000), st.integers(1, 200))
def test_every_frame_has_one_score_and_windows_one_length(n_frames, length):
    cuts = segments(n_frames, length)
    scored = [frame for cut in cuts for frame in range(*cut.span)]
    assert scored == list(range(n_frames))
    assert {cut.window[1] - cut.window[0] for cut in cuts} == {min(length, n_frames)}
    assert all(0 <= cut.window[0] <= cut.start < cut.end <= cut.window[1] <= n_frames for cut in cuts)
    assert all(cut.span == cut.window for cut in cuts[:-1])


def test_the_last_window_moves_back():
    assert segments(96, 48) == [Segment(0, 48, (0, 48)), Segment(48, 96, (48, 96))]
    assert segments(97, 48)[-1] == Segment(96, 97, (49, 97))
    assert segments(20, 48) == [Segment(0, 20, (0, 20))]


@pytest.mark.parametrize(("n_frames", "length"), [(0, 48), (10, 0), (-1, 5)])
def test_impossible_segments(n_frames, length):
    with pytest.raises(InputError, match=r"(n_frames|length) is (0|-1); it must be an integer of at least 1"):
        segments(n_frames, length)


@pytest.mark.parametrize(("start", "end", "window"), [(5, 5, (0, 9)), (3, 6, (4, 9)), (3, 6, (0, 5))])
def test_a_segment_lies_in_its_window(start, end, window):
    with pytest.raises(InputError, match="must lie in its window"):
        Segment(start, end, window)


@given(st.integers(0, 500), st.integers(1, 400), st.integers(1, 64))
def test_samples_are_even_and_inside(first, length, n_samples):
    indices = sample_indices((first, first + length), n_samples)
    assert len(indices) == n_samples
    assert indices.min() >= first
    assert indices.max() < first + length
    steps = np.diff(indices)
    assert np.all(steps >= 0)
    assert n_samples == 1 or steps.max() - steps.min() <= 1
    # As much is left out before the first sample as after the last, to the frame.
    assert abs((indices[0] - first) - (first + length - 1 - indices[-1])) <= 1
    if length % n_samples == 0:
        assert set(steps.tolist()) <= {length // n_samples}


def test_samples_move_with_the_window():
    assert same(sample_indices((48, 96), 16), 48 + sample_indices((0, 48), 16))
    assert same(sample_indices((0, 8), 8), np.arange(8))


@pytest.mark.parametrize(("window", "n_samples"), [((3, 3), 4), ((5, 2), 4), ((0, 9), 0), ((-1, 9), 2)])
def test_impossible_samples(window, n_samples):
    with pytest.raises(InputError, match=r"window is \(.*and hold a frame|n_samples is 0; it must be"):
        sample_indices(window, n_samples)


def test_clip_reads_its_samples(movie):
    clip = Clip(str(movie), segments(50, 16)[-1], 4)
    assert clip.segment.span == (48, 50)
    assert clip.indices.tolist() == [36, 40, 44, 48]
    frames = clip.read()
    assert frames.shape == (4, 16, 16, 3)
    assert brightness(frames) == [36, 40, 44, 48]
    assert same(frames, read_frames(movie, [36, 40, 44, 48]))


def test_clips_of_a_short_video_repeat_evenly(tmp_path):
    path = write_video(tmp_path / "short.mp4", ramp(3), fps=10, crf=1)
    (example,) = clip_examples(path, length=16, n_samples=6)
    assert brightness(example.content.read()) == [0, 0, 1, 1, 2, 2]


def test_examples_name_their_video_and_span(movie):
    examples = clip_examples(movie, length=20, n_samples=4, label=1)
    assert [(e.id, e.label, e.group, e.span) for e in examples] == [
        ("gate.1:0-20", 1, "gate.1", (0, 20)),
        ("gate.1:20-40", 1, "gate.1", (20, 40)),
        ("gate.1:40-50", 1, "gate.1", (40, 50)),
    ]
    (named,) = clip_examples(movie, length=64, n_samples=4, group="camera 2", name="monday/gate")
    assert (named.id, named.label, named.group) == ("monday/gate:0-50", None, "camera 2")
    with pytest.raises(InputError, match="n_samples is 0; it must be an integer of at least 1"):
        clip_examples(movie, length=20, n_samples=0)


def test_the_file_is_opened_once_for_all_its_clips(movie, tmp_path, monkeypatch):
    path = write_video(tmp_path / "once.mp4", ramp(50), fps=10)
    opened = []
    reader = decode.VideoReader.__init__
    monkeypatch.setattr(decode.VideoReader, "__init__", lambda self, p: opened.append(p) or reader(self, p))
    for example in clip_examples(path, length=8, n_samples=4):
        example.content.read()
    assert opened == [str(path)]


def test_clips_travel_between_processes(movie):
    clip = clip_examples(movie, length=20, n_samples=4)[1].content
    clip.read()
    again = pickle.loads(pickle.dumps(clip))
    assert again == clip
    assert same(again.read(), clip.read())


def test_a_file_that_changed_or_vanished(tmp_path):
    path = write_video(tmp_path / "a.mp4", ramp(40), fps=10)
    clips = [example.content for example in clip_examples(path, length=20, n_samples=4)]
    write_video(path, ramp(30), fps=10)
    with pytest.raises(VideoError, match=r"frames 20 to 40 are not in the file, which has 30 frames"):
        clips[1].read()
    path.unlink()
    with pytest.raises(VideoError, match="there is no such file"):
        clips[0].read()
    path.write_bytes(b"")
    with pytest.raises(VideoError, match="the file is empty"):
        clip_examples(path, length=20, n_samples=4)


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_finds_videos_in_folders(tmp_path):
    touch(tmp_path, "b/2.mp4", "b/10.MKV", "a.avi", "notes.txt", ".hidden.mp4", ".git/x.mp4", "v.mp4/in.mov")
    (tmp_path / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    found = [path.relative_to(tmp_path).as_posix() for path in _find_videos(tmp_path)]
    assert found == ["a.avi", "b/10.MKV", "b/2.mp4", "gone.mp4", "v.mp4/in.mov"]
    # A broken link is listed, so that somebody says it is broken.
    with pytest.raises(VideoError, match="broken symbolic link"):
        decode.probe(tmp_path / "gone.mp4")


def test_sources_keep_their_order_and_come_once(tmp_path):
    touch(tmp_path, "x/1.mp4", "x/2.mp4", "film.bin")
    sources = [tmp_path / "film.bin", str(tmp_path / "x" / "2.mp4"), tmp_path / "x", tmp_path / "missing.mp4"]
    found = [path.relative_to(tmp_path).as_posix() for path in _find_videos(sources)]
    assert found == ["film.bin", "x/2.mp4", "x/1.mp4", "missing.mp4"]
    assert _find_videos(str(tmp_path / "film.bin")) == [tmp_path / "film.bin"]


def test_links_in_a_circle(tmp_path):
    touch(tmp_path, "in/1.mp4")
    (tmp_path / "in" / "back").symlink_to(tmp_path)
    (tmp_path / "twin").symlink_to(tmp_path / "in")
    assert len(_find_videos(tmp_path)) == 1


def test_nothing_to_find(tmp_path):
    touch(tmp_path, "notes.txt")
    with pytest.raises(InputError, match=r"holds no video file \(endings looked for: .3gp .*\.mp4"):
        _find_videos([tmp_path])
    with pytest.raises(InputError, match="no video file or folder was given"):
        _find_videos([])


def test_a_folder_that_cannot_be_listed(tmp_path, monkeypatch):
    touch(tmp_path, "a.mp4", "locked/b.mp4")
    listing = os.scandir

    def scandir(path):
        if os.path.basename(path) == "locked":
            raise PermissionError(13, "Permission denied", path)
        return listing(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(VideoError, match=r"locked: the folder cannot be listed \(Permission denied\)"):
        _find_videos(tmp_path)


def test_a_clip_knows_the_times_of_its_frames(movie):
    clip = Clip(str(movie), segments(50, 16)[1], 4)
    reader = VideoReader(str(movie))
    assert clip.seconds.tolist() == pytest.approx((reader.times[clip.indices] - reader.times[16]).tolist())
