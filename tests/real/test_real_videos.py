"""Every real video of the data folder decodes, whole and exactly."""

from __future__ import annotations

import os
import re
from pathlib import Path

import av
import numpy as np
import pytest
from equality import same

from headprobe.video.clips import _find_videos, clip_examples
from headprobe.video.decode import VideoReader, probe

DATA = Path(os.environ.get("HEADPROBE_DATA") or Path(__file__).parents[3] / "shared" / "data")

needs_ped2 = pytest.mark.skipif(
    not (DATA / "ped2").is_dir(), reason=f"no ped2 videos in {DATA}; set HEADPROBE_DATA to the data folder"
)
needs_clips = pytest.mark.skipif(
    not (DATA / "clips").is_dir(), reason=f"no real excerpts in {DATA}; set HEADPROBE_DATA to the data folder"
)

# Frames of the twelve test clips, from the benchmark's own folders of images.
PED2_TEST = [180, 180, 150, 180, 150, 180, 180, 180, 120, 150, 180, 180]
EXCERPTS = {  # name starts with -> frames (its name says first and last), width, height
    "RoadAccidents133_x264_270_451": (181, 320, 240),
    "v=JfLYNEsrTew__#1_label_G-0-0_52_431": (379, 640, 360),
    "A.Beautiful.Mind.2001__#01-14-30_01-16-59_label_A_1845_2101": (256, 640, 346),
}


@needs_ped2
def test_ped2_is_complete():
    infos = {path.stem: probe(path) for path in _find_videos(DATA / "ped2")}
    assert {(info.width, info.height, info.fps, info.constant_rate) for info in infos.values()} == {
        (360, 240, 10.0, True)
    }
    assert [infos[f"test_{i:02d}"].n_frames for i in range(1, 13)] == PED2_TEST
    train = [info.n_frames for name, info in infos.items() if name.startswith("train")]
    assert (len(train), sum(train)) == (16, 2550)
    # The annotation refers to frames that exist.
    ranges = re.findall(r"(\d+):(\d+)", (DATA / "ped2" / "ground_truth.m").read_text())
    assert sum(int(last) - int(first) + 1 for first, last in ranges) == 1648


@needs_ped2
def test_every_ped2_frame_decodes():
    for path in _find_videos(DATA / "ped2"):
        with VideoReader(path) as video:
            n, total = 0, 0.0
            for frame in video:
                assert frame.shape == (240, 360, 3)
                n, total = n + 1, total + float(frame[::8, ::8].mean())
        assert n == video.info.n_frames
        assert 20 < total / n < 235  # pictures, not black or white


@needs_clips
@pytest.mark.parametrize("name", EXCERPTS)
def test_excerpts_decode_exactly(name):
    path = DATA / "clips" / f"{name}.mp4"
    frames, width, height = EXCERPTS[name]
    first, last = map(int, re.findall(r"_(\d+)_(\d+)$", name)[0])
    assert last - first == frames
    with av.open(str(path)) as container:
        plain = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    with VideoReader(path) as video:
        assert (len(video), video.info.width, video.info.height, video.info.fps) == (
            frames,
            width,
            height,
            30,
        )
        order = np.random.default_rng(0).permutation(frames)[:60]
        for index, frame in zip(order, video.read(order), strict=True):
            assert same(frame, plain[index])
        for index in order[:12]:
            assert same(video.read([index])[0], plain[index])


@needs_clips
def test_excerpts_cut_into_clips():
    for path in _find_videos(DATA / "clips"):
        examples = clip_examples(path, length=48, n_samples=8)
        assert examples[-1].span[1] == probe(path).n_frames
        for example in examples:
            frames = example.content.read()
            assert frames.shape[0] == 8
            assert frames.std() > 5
