"""Procedural scenes: determinism, frame-exact truth, splits that never overlap."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from equality import same

from headprobe.errors import InputError
from headprobe.video import scenes
from headprobe.video._scene_drawing import FAMILIES, Scene, background
from headprobe.video.decode import probe, read_frames
from headprobe.video.scenes import NORMAL, UPSCALE, write_videos

TIMES = np.arange(8.0)


def film(event: str | None, seed: int = 0, interval: tuple[float, float] = (-4.0, 20.0), density: float = 0.0):
    return scenes.film(Scene("plaza", 5), TIMES, event=event, interval=interval, seed=seed, density=density)


def test_same_seed_same_pixels_and_another_seed_others() -> None:
    a, b, c = film("running", 3), film("running", 3), film("running", 4)
    assert same(a.frames, b.frames)
    assert same(a.owner, b.owner)
    assert not same(a.frames, c.frames)


@pytest.mark.parametrize("event", scenes.EVENTS)
def test_every_event_is_visible_while_it_is_true(event: str) -> None:
    shot = film(event, interval=(-2.0, 40.0))
    assert shot.truth.any()
    during = shot.frames[shot.truth].astype(int)
    empty = background(shot.scene)[2:-2, 2:-2]
    assert (shot.owner[shot.truth] >= 0).sum((1, 2)).max() >= 20
    assert np.abs(during - empty.astype(int)).max() > 60


@pytest.mark.parametrize("event", ["fight", "explosion", "bag"])
def test_truth_is_the_interval_to_the_frame(event: str) -> None:
    video = scenes.film(Scene("park", 2), np.arange(80) / 2, event=event, interval=(10.0, 25.0), seed=1)
    assert video.intervals == [(20, 50)]


def test_no_event_no_truth() -> None:
    shot = film(None, density=2.0)
    assert not shot.truth.any()
    assert shot.intervals == []


def test_a_fallen_person_lies() -> None:
    shot = film("fall", interval=(-5.0, 40.0))
    (person,) = shot.actors
    assert np.all(person.tilt > 1.4)
    rows, cols = np.nonzero(shot.owner[-1] == 0)
    assert np.ptp(cols) > 1.5 * np.ptp(rows)


def test_runners_are_faster_than_walkers() -> None:
    runner = film("running", interval=(0.0, 30.0)).actors[0]
    assert np.abs(runner.velocity[2:6, 0]).max() >= 6
    walkers = [a for seed in range(6) for a in film(None, seed, density=2.5).actors]
    assert walkers
    assert max(np.abs(a.velocity[:, 0]).max() for a in walkers) < 3.6


def test_splits_share_no_scene() -> None:
    ranges = sorted(scenes.SPLITS.values())
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(ranges))
    rng = np.random.default_rng(0)
    for split, (low, high) in scenes.SPLITS.items():
        assert all(low <= scenes._pick_scene(rng, split).seed < high for _ in range(20))


def test_training_clips_hold_no_held_out_event() -> None:
    events = {scenes.clip([1, i]).event for i in range(60)}
    assert events == {None, *scenes.SEEN_EVENTS}


def test_unknown_names_are_refused_by_name() -> None:
    with pytest.raises(InputError, match="unknown event 'flood'; expected None or one of"):
        film("flood")
    with pytest.raises(InputError, match="unknown split 'dev'"):
        scenes.clip(0, split="dev")
    with pytest.raises(InputError, match="unknown scene family 'moon'"):
        Scene("moon", 0)


def test_families_look_different() -> None:
    means = np.stack([background(Scene(family, 1)).astype(float).mean((0, 1)) for family in FAMILIES])
    distance = np.abs(means[:, None] - means[None]).max(-1)
    assert distance[~np.eye(len(FAMILIES), dtype=bool)].min() > 3


def test_labelled_clips_alternate_and_carry_groups() -> None:
    clips = scenes.labelled_clips(6, seed=2)
    assert [c.label for c in clips] == [0, 1] * 3
    assert len({c.id for c in clips}) == 6
    assert all(c.group for c in clips)


def test_written_videos_decode_to_the_rendered_frames(tmp_path) -> None:
    counts = {NORMAL: 1, "vehicle": 1}
    videos = write_videos(tmp_path, "test", counts, seed=3, n_frames=40, progress=False)
    again = write_videos(tmp_path / "again", "test", counts, seed=3, n_frames=40, progress=False)
    assert [v.event for v in videos] == [v.event for v in again]
    table = json.loads((tmp_path / "annotations.json").read_text())
    assert table["split"] == "test"
    for video, twin in zip(videos, again, strict=True):
        assert video.path.read_bytes() == twin.path.read_bytes()
        info = probe(video.path)
        assert (info.n_frames, info.fps) == (40, scenes.FPS)
        kind = list(counts).index(video.event)
        event = None if video.event == NORMAL else video.event
        shot = scenes.untrimmed([3, kind, 0], split="test", event=event, n_frames=40)
        assert same(shot.truth, video.truth)
        assert [tuple(i) for i in table["videos"][video.path.name]["intervals"]] == shot.intervals
        decoded = read_frames(video.path, [0, 17, 39])[:, ::UPSCALE, ::UPSCALE].astype(int)
        assert np.abs(decoded - shot.frames[[0, 17, 39]].astype(int)).mean() < 6


def test_no_videos_asked_for(tmp_path) -> None:
    with pytest.raises(InputError, match="no videos were asked for"):
        write_videos(tmp_path, "test", {NORMAL: 0}, progress=False)
