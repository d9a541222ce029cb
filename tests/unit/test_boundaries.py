"""Segmenters that look: borders at the peaks of a curve, and cuts where features jump and never in noise."""

from __future__ import annotations

import numpy as np
import pytest
from equality import close, same
from scipy.ndimage import uniform_filter1d

from headprobe.detection.boundaries import BoundaryTree, ChangeCurve, EventCuts, FrameFeatures
from headprobe.detection.method import VideoView
from headprobe.errors import InputError

CURVE = [0.1, 0.2, 0.9, 0.2, 0.1, 0.5, 0.1, 0.8, 0.8, 0.1, 0.2]


class Filmed(VideoView):
    """Frames of noise, with another grey in every stretch."""

    greys = (120,)

    def frames(self, indices):
        at = np.asarray(indices)
        level = np.array(self.greys)[at * len(self.greys) // self.n_frames]
        shown = [np.random.default_rng((len(self.name), int(i))).integers(-20, 20, (24, 24, 3)) for i in at]
        return np.stack(shown + level[:, None, None, None]).astype(np.uint8)


class Cut(Filmed):
    greys = (60, 160, 90)


def noise(seed: int, n: int, d: int, jumps=(), size: float = 1.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    level = np.zeros((n, d)) + rng.normal(size=d)
    for jump in jumps:
        level[jump:] += rng.normal(size=d) * size
    return level + rng.normal(0, 0.05, (n, d))


def cuts(features, fps: float, **settings) -> list[int]:
    video = VideoView("a", len(features), fps)
    return [segment.start for segment in EventCuts({"a": features}, **settings)(video)][1:]


@pytest.mark.parametrize(
    "segmenter",
    [BoundaryTree(), BoundaryTree(granularity="coarse"), BoundaryTree(compatible=True), EventCuts()],
    ids=lambda one: repr(one)[:90],
)
@pytest.mark.parametrize("n_frames", [1, 2, 5, 100])
def test_spans_hold_every_frame_once(segmenter, n_frames) -> None:
    for video in (Filmed("n", n_frames, 25.0), Cut("n", n_frames, 25.0)):
        found = segmenter(video)
        assert [one.start for one in found] == [0, *(one.end for one in found[:-1])]
        assert found[-1].end == n_frames
        assert all(one.window == one.span for one in found)


def test_the_stand_in_for_a_boundary_detector_finds_cuts_in_frames() -> None:
    video = Cut("a", 300, 25.0)
    for segmenter in (BoundaryTree(), EventCuts()):
        found = [one.start for one in segmenter(video)]
        assert len(found) == 3
        assert max(abs(a - b) for a, b in zip(found, [0, 100, 200], strict=True)) <= 0.3 * 25


def test_the_surest_border_is_set_first_and_keeps_others_away() -> None:
    video = VideoView("a", 110, 10.0)
    heights = [(one.frame, one.height, one.coarse) for one in BoundaryTree({"a": CURVE}).borders(video)]
    # The level peak of two samples is one border, which lies in the upper cluster with that of .9.
    assert heights == [(21, 0.9, True), (54, 0.5, False), (76, 0.8, True)]
    assert [one.span for one in BoundaryTree({"a": CURVE}, granularity="coarse")(video)] == [
        (0, 21),
        (21, 76),
        (76, 110),
    ]
    apart = BoundaryTree({"a": CURVE}, min_seconds=2.5).borders(video)
    assert [one.frame for one in apart] == [76]  # .9 is too near to the beginning, .5 to .8
    level = BoundaryTree({"a": CURVE}, compatible=True).borders(video)
    assert [one.frame for one in level] == [21, 54, 76, 87]


def test_without_a_peak_a_video_is_one_segment_and_equal_peaks_are_all_coarse() -> None:
    video = VideoView("a", 50, 10.0)
    assert len(BoundaryTree({"a": [0.1, 0.4, 0.1]})(video)) == 1
    assert len(BoundaryTree({"a": np.full(20, 0.9)})(video)) == 1
    for compatible in (False, True):
        tree = BoundaryTree({"a": [0, 0.9, 0, 0.9, 0]}, granularity="coarse", compatible=compatible)
        assert len(tree(video)) == 3


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("fps", [8.0, 10.0, 25.0])
def test_planted_cuts_are_found_to_a_third_of_a_second(seed, fps) -> None:
    planted = [round(fps * seconds) for seconds in (5, 8, 20, 33.3)]
    found = cuts(noise(seed, round(40 * fps), 16, planted), fps)
    assert len(found) == len(planted)
    assert np.abs(np.array(found) - planted).max() <= 0.3 * fps


@pytest.mark.parametrize("d", [2, 16, 256])
@pytest.mark.parametrize("smooth", [False, True])
def test_there_is_no_cut_in_twenty_noise_videos_of_two_minutes(d, smooth) -> None:
    for seed in range(20):
        features = noise(seed, 1200, d)
        if smooth:
            features = features[0] + uniform_filter1d(features - features[0], 15, axis=0)
        assert cuts(features, 10.0) == []


def test_there_is_no_cut_in_the_frames_of_noise_either() -> None:
    for seed in range(3):
        assert len(EventCuts()(Filmed("n" * (seed + 1), 1200, 10.0))) == 1


def test_a_still_video_has_no_cut_and_its_one_change_is_one() -> None:
    features = np.ones((100, 3))
    assert cuts(features, 10.0) == []
    features[40:] = 2.0
    assert cuts(features, 10.0) == [40]


def test_of_two_jumps_within_the_gap_the_larger_is_a_cut() -> None:
    features = noise(0, 400, 16)
    features[200:] += 1.0
    features[210:] += 3.0
    assert cuts(features, 10.0, gap=2.0) == [210]


def test_loudness_of_the_features_changes_no_cut_by_itself() -> None:
    features = noise(1, 300, 8, [100, 200])
    turned = features @ np.linalg.qr(np.random.default_rng(0).normal(size=(8, 8)))[0]
    assert same(cuts(features, 10.0), cuts(turned, 10.0))


def test_features_of_frames_are_small_images_and_colours() -> None:
    found = FrameFeatures(side=4, bins=2)(Cut("a", 30, 30.0))
    assert found.shape == (10, 16 + 6)
    assert close((found[:, 16:] ** 2).sum(1), np.ones(10))
    assert abs(found[0, :16].mean() * 4 * 255 - 60) < 1
    small = FrameFeatures(side=32)(Cut("a", 30, 30.0))  # more cells than pixels
    assert small.shape == (10, 32 * 32 + 24)


def test_large_frames_look_like_small_ones() -> None:
    class Large(Cut):
        def frames(self, indices):
            return super().frames(indices).repeat(40, 1).repeat(40, 2)

    small, large = (kind("a", 60, 30.0) for kind in (Cut, Large))
    features = FrameFeatures(side=8)
    assert np.abs(features(small) - features(large)).max() < 0.02  # not every pixel is looked at


def test_two_segmenters_with_one_repr_cut_alike() -> None:
    curve = {"a": np.array(CURVE)}
    assert repr(BoundaryTree(curve)) == repr(BoundaryTree({"a": CURVE}))
    different = [
        BoundaryTree(curve),
        BoundaryTree({"a": np.array(CURVE) + 0.01}),
        BoundaryTree(curve, gamma=0.4),
        BoundaryTree(curve, granularity="coarse"),
        BoundaryTree(curve, min_seconds=1.0),
        BoundaryTree(curve, compatible=True),
        BoundaryTree(ChangeCurve(around=3.0)),
        BoundaryTree(),
        EventCuts(),
        EventCuts(FrameFeatures(5.0)),
        EventCuts(alpha=0.05),
    ]
    assert len({repr(one) for one in different}) == len(different)
    assert repr(BoundaryTree(np.array)) == repr(BoundaryTree(np.array))
    with pytest.raises(InputError, match="no name by which it could be told"):
        repr(EventCuts(lambda video: np.zeros((2, 2))))


def test_mistakes_are_said() -> None:
    video = VideoView("a", 10, 10.0)
    with pytest.raises(InputError, match="there is no boundary curve of 'a'"):
        BoundaryTree({"b": CURVE})(video)
    with pytest.raises(InputError, match=r"boundary curve of 'a' has the shape \(11,\)"):
        BoundaryTree({"a": CURVE})(video)
    with pytest.raises(InputError, match=r"features of 'a' have the shape \(3,\)"):
        EventCuts({"a": [1.0, 2.0, 3.0]})(video)
    with pytest.raises(InputError, match="finite"):
        BoundaryTree({"a": [0.1, np.nan, 0.2]})(video)
    for wrong in (
        lambda: BoundaryTree(granularity="middle"),  # pyright: ignore[reportArgumentType]
        lambda: BoundaryTree(min_seconds=-1),
        lambda: EventCuts(alpha=0),
        lambda: EventCuts(ratio=0.5),
        lambda: FrameFeatures(rate=0),
        lambda: ChangeCurve(around=0),
    ):
        with pytest.raises(InputError):
            wrong()
