"""Steps: gaps are filled by name, ends are not padded, unread scores count in no mean."""

from __future__ import annotations

import numpy as np
import pytest
from equality import close

from headprobe.detection.composed import FixedSegments, Reading, Segmented
from headprobe.detection.method import VideoView
from headprobe.detection.steps import (
    GaussianSmooth,
    Interpolate,
    NodeRefine,
    PaddedGaussian,
    PositionPrior,
    SceneRefine,
    SummaryRefine,
    WindowMean,
)
from headprobe.errors import InputError

SMOOTHING = [
    WindowMean(3.0),
    GaussianSmooth(2.0),
    PaddedGaussian(5, 2.0),
    SceneRefine(0.4),
    SceneRefine(0.4, compatible=True),
    NodeRefine(2),
    NodeRefine(2, compatible=True),
]


def seen(n: int, features=None, texts=(), fps: float = 10.0) -> Segmented:
    video = VideoView("a", round(n * fps), fps)
    return Segmented(video, FixedSegments(1.0)(video), Reading(np.zeros(n), texts, features))


def looks(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 6))


@pytest.mark.parametrize("step", [*SMOOTHING[:2], *SMOOTHING[3:]], ids=repr)
def test_a_constant_stays_constant_at_the_ends_too(step) -> None:
    assert close(step(np.full(9, 0.7), seen(9, looks(9))), np.full(9, 0.7))


@pytest.mark.parametrize("step", [SMOOTHING[0], SMOOTHING[1], SceneRefine(0.4), NodeRefine(2)], ids=repr)
def test_scores_next_to_nothing_stay_numbers(step) -> None:
    assert np.isfinite(step(np.full(7, 1e-310), seen(7, looks(7)))).all()


@pytest.mark.parametrize("step", [SMOOTHING[0], SMOOTHING[1], SceneRefine(0.4), NodeRefine(2)], ids=repr)
def test_turning_the_video_round_turns_the_scores_round(step) -> None:
    scores, features = np.random.default_rng(1).random(9), looks(9)
    assert close(step(scores[::-1], seen(9, features[::-1]))[::-1], step(scores, seen(9, features)))


@pytest.mark.parametrize("step", [SMOOTHING[0], SMOOTHING[1], SceneRefine(0.4), NodeRefine(2)], ids=repr)
def test_an_unread_score_counts_in_no_mean(step) -> None:
    scores = np.array([0.5, np.nan, 0.5, 0.5, np.nan, 0.5, 0.5])
    assert close(step(scores, seen(7, looks(7))), np.full(7, 0.5))
    assert np.isnan(step(np.full(7, np.nan), seen(7, looks(7)))).all()


@pytest.mark.parametrize("step", SMOOTHING[1:], ids=repr)
def test_what_smooths_has_a_plain_mean_that_looks_at_no_feature(step) -> None:
    scores = np.random.default_rng(2).random(9)
    assert close(step.plain(np.ones(9), seen(9)), np.ones(9))
    assert step.plain(scores, seen(9)).std() < scores.std()
    assert step.plain.name != step.name
    assert step.plain.plain is None


def test_segments_are_filled_in_time_and_not_by_their_number() -> None:
    video = VideoView("a", 25, 10.0)  # the last segment is half as long, so its middle is nearer
    given = Segmented(video, FixedSegments(1.0)(video), Reading(np.zeros(3)))
    assert close(Interpolate()(np.array([0.0, np.nan, 1.0]), given), np.array([0.0, 1.0 / 1.75, 1.0]))


def test_a_video_of_which_nothing_was_read_stays_unread() -> None:
    assert np.isnan(Interpolate()(np.full(3, np.nan), seen(3))).all()


def test_a_scene_has_at_least_one_neighbour_and_only_on_request_all() -> None:
    scores, given = np.random.default_rng(3).random(5), seen(5, looks(5))
    assert close(SceneRefine(0.15)(scores, given), scores)  # .15 of 5 is none: each its own
    alike = SceneRefine(0.15, compatible=True)(scores, given)
    assert close(alike, SceneRefine(1.0)(scores, given))


def test_an_unread_rating_is_minus_one_only_as_the_reference_has_it() -> None:
    scores, given = np.array([0.5, np.nan, 0.5]), seen(3, np.ones((3, 2)))
    assert close(NodeRefine()(scores, given), np.full(3, 0.5))
    assert close(NodeRefine(compatible=True)(scores, given), np.zeros(3))


def test_the_best_of_the_neighbours_in_time_are_taken_first_ones_where_they_tie() -> None:
    given = seen(4, np.ones((4, 2)))
    assert close(NodeRefine(reach=1, top=1)(np.array([1.0, 2.0, 3.0, 4.0]), given), np.array([1.0, 1.0, 2.0, 3.0]))


def test_texts_said_twice_count_once_with_the_first_score_that_was_read() -> None:
    given = seen(4, np.ones((4, 2)), ["a", "b", "a", "b"])

    def embed(texts):
        assert texts == ["b", "a"]
        return np.ones((2, 2))

    # "a" was first read in the third segment.
    assert close(SummaryRefine(embed)(np.array([np.nan, 0.2, 0.6, 1.0]), given), np.full(4, 0.4))
    assert np.isnan(SummaryRefine(embed)(np.full(4, np.nan), given)).all()


def test_a_prior_multiplies_and_so_refuses_what_is_below_zero() -> None:
    found = PositionPrior(0.5)(np.full(5, 2.0), seen(5))
    assert close(found, found[::-1])
    assert found.argmax() == 2
    assert close(found[2], 2.0)
    with pytest.raises(InputError, match="needs scores of 0 or more"):
        PositionPrior()(np.array([0.1, -0.2]), seen(2))


def test_mistakes_are_said() -> None:
    with pytest.raises(InputError, match="gave no features"):
        SceneRefine()(np.zeros(3), seen(3))
    with pytest.raises(InputError, match="features 1 are zeros"):
        NodeRefine()(np.zeros(3), seen(3, np.array([[1.0], [0.0], [1.0]])))
    with pytest.raises(InputError, match="said 0 texts of the 3 segments"):
        SummaryRefine(len)(np.zeros(3), seen(3, looks(3)))
    for wrong in (
        lambda: SceneRefine(0),
        lambda: NodeRefine(0),
        lambda: PaddedGaussian(1),
        lambda: PositionPrior(0),
        lambda: GaussianSmooth(-1),
    ):
        with pytest.raises(InputError):
            wrong()


@pytest.mark.parametrize("size", [1e-20, 1.0, 1e20])
@pytest.mark.parametrize("step", [WindowMean(2.0), NodeRefine(1), NodeRefine(1).plain], ids=repr)
def test_means_of_the_same_scores_tie_whatever_their_order(step, size) -> None:
    scores = np.array([0.1, 0.2, 0.3] * 4)
    assert len({a + b + c for a, b, c in zip(scores, scores[1:], scores[2:], strict=False)}) > 1
    scores *= size
    assert len(set(step(scores, seen(12, np.ones((12, 2))))[1:-1].tolist())) == 1
