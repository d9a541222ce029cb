import time

import numpy as np
import pytest
from equality import same_bits
from hypothesis import given
from hypothesis import strategies as st

from headprobe.errors import InputError
from headprobe.evaluation import (
    CONTROLS,
    blind_scores,
    constant_per_video,
    controls,
    evaluate,
    evaluate_by_class,
    evaluate_videos,
    events_above,
    full_evaluation,
    of_another_video,
    position_prior,
    shifted_in_time,
    spans_in_seconds,
    to_frames,
    video_labels,
    video_means,
    video_scores,
)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=20))
def test_every_frame_gets_exactly_the_score_of_its_segment(lengths):
    ends = np.cumsum(lengths)
    spans = list(zip([0, *ends[:-1]], ends, strict=True))
    scores = np.random.default_rng(0).random(len(lengths))
    frames = to_frames(scores, spans, int(ends[-1]))
    assert frames.shape == (ends[-1],)
    for score, (start, end) in zip(scores, spans, strict=True):
        assert (frames[start:end] == score).all()


@pytest.mark.parametrize(
    ("spans", "n_frames", "text"),
    [
        ([(0, 3), (3, 5)], 6, "the spans end at frame 5 but the video has 6 frames"),
        ([(0, 3), (4, 6)], 6, "frames 3 to 3 are in no span"),
        ([(0, 3), (2, 6)], 6, r"span 1 is \(2, 6\)"),
        ([(0, 6)], 6, "2 segment scores but 1 spans"),
    ],
)
def test_frames_without_or_with_two_segments_are_refused(spans, n_frames, text):
    with pytest.raises(InputError, match=text):
        to_frames([0.1, 0.2], spans, n_frames)


def test_hand_computed():
    # Frames: a 0.9+ 0.4 0.4+, b 0.4 0.1.  Pairs: 0.9 beats 3 of 3; 0.4 ties 2, beats 1.
    result = evaluate({"a": [0.9, 0.4, 0.4], "b": [0.4, 0.1]}, {"a": [1, 0, 1], "b": [0, 0]})
    assert result["auc"] == (3 + 2) / 6
    assert result["within_auc"] == 1.5 / 2
    assert result["within_auc_pairs"] == 1.5 / 2
    assert result["cross_auc"] == 3.5 / 4
    assert result["within_weight"] == 2 / 6
    # Thresholds 0.9: precision 1, recall 1/2; 0.4: 2/4, 1; 0.1: 2/5, 1.
    assert result["ap"] == 0.5 * 1 + 0.5 * 0.5
    assert result["pr_auc_trapezoid"] == 0.5 * 1 + 0.5 * (1 + 0.5) / 2
    assert (result["n_videos"], result["n_frames"], result["n_abnormal_frames"]) == (2, 5, 2)
    assert result["n_within_videos"] == 1


def frames(seed, videos, ties):
    rng = np.random.default_rng(seed)
    truth = {f"v{i}": (rng.random(rng.integers(1, 30)) < rng.choice([0, 0.4, 1])).astype(int) for i in range(videos)}
    truth["both"] = np.array([0, 1, 0])
    scores = {v: np.round(rng.normal(size=len(t)) + t, ties) for v, t in truth.items()}
    return scores, truth


@given(st.integers(0, 2**16), st.integers(1, 8), st.sampled_from([0, 1, 12]))
def test_within_and_cross_recombine_to_the_pooled_auc(seed, videos, ties):
    result = evaluate(*frames(seed, videos, ties))
    weight = result["within_weight"]
    cross = 0.0 if result["cross_auc"] is None else (1 - weight) * result["cross_auc"]
    assert weight * result["within_auc_pairs"] + cross == pytest.approx(result["auc"], abs=1e-12)


@given(st.integers(0, 2**16))
def test_only_the_order_of_scores_and_no_order_of_videos_matters(seed):
    scores, truth = frames(seed, 5, 1)
    result = evaluate(scores, truth)
    assert evaluate({v: s**3 * 7 + 2 for v, s in scores.items()}, truth) == result
    backwards = {v: scores[v] for v in reversed(scores)}
    again = evaluate(backwards, truth)
    assert again == pytest.approx(result, rel=1e-13)
    reverse = evaluate({v: -s for v, s in scores.items()}, truth)
    assert reverse["auc"] == pytest.approx(1 - result["auc"], abs=1e-12)


def test_scores_are_compared_as_they_are_not_rounded():
    one, next_one = 1.0, np.nextafter(1.0, 2.0)
    assert evaluate({"a": [one, next_one]}, {"a": [0, 1]})["auc"] == 1.0
    assert evaluate({"a": [one, one]}, {"a": [0, 1]})["auc"] == 0.5


def test_numbers_over_no_pairs_are_none():
    apart = evaluate({"a": [0.9], "b": [0.1]}, {"a": [1], "b": [0]})
    assert apart["within_auc"] is None
    assert apart["within_auc_pairs"] is None
    assert (apart["within_weight"], apart["cross_auc"]) == (0.0, 1.0)
    single = evaluate({"a": [0.9, 0.1]}, {"a": [1, 0]})
    assert single["cross_auc"] is None
    assert single["within_weight"] == 1.0


@pytest.mark.parametrize(
    ("scores", "truth", "text"),
    [
        ({"a": [0.1]}, {"a": [0], "b": [1]}, r"in truth but not in scores: 'b'"),
        ({"a": [0.1], "b": [0.2]}, {"a": [0]}, r"in scores but not in truth: 'b'"),
        ({}, {}, "no videos"),
        ({"a": [0.1, 0.2]}, {"a": [0]}, r"video 'a': scores have shape \(2,\) but truth has 1 frames"),
        ({"a": [[0.1], [0.2]]}, {"a": [0, 1]}, "video 'a': scores have shape"),
        ({"a": [0.1, np.nan]}, {"a": [0, 1]}, "video 'a': frame 1 has the score nan"),
        ({"a": [0.1, np.inf]}, {"a": [0, 1]}, "video 'a': frame 1 has the score inf"),
        ({"a": [0.1, 0.2]}, {"a": [0, 3]}, "video 'a': frame 1 has the label 3"),
        ({"a": [0.1, 0.2]}, {"a": [0, 0]}, "all 2 frames of the 1 videos are normal"),
        ({"a": [0.1, 0.2]}, {"a": [1, 1]}, "all 2 frames of the 1 videos are abnormal"),
    ],
)
def test_evaluation_refuses(scores, truth, text):
    with pytest.raises(InputError, match=text):
        evaluate(scores, truth)


def test_a_million_frames_take_seconds():
    rng = np.random.default_rng(0)
    truth = {f"v{i}": (rng.random(3834) < 0.08).astype(np.int8) for i in range(290)}
    scores = {v: rng.random(len(t)) for v, t in truth.items()}
    start = time.process_time()
    result = evaluate(scores, truth)
    assert time.process_time() - start < 10
    assert result["n_frames"] == 1_111_860
    assert result["auc"] == pytest.approx(0.5, abs=0.01)


def test_controls_see_no_frame():
    truth = {"a": [0, 1, 0], "b": [0, 0]}
    assert {v: s.tolist() for v, s in constant_per_video(truth).items()} == {"a": [1, 1, 1], "b": [0, 0]}
    with pytest.raises(InputError, match="video 'a': frame 0 has the label 5"):
        constant_per_video({"a": [5]})


@given(st.integers(1, 300))
def test_the_position_prior_peaks_in_the_middle(n):
    prior = position_prior(n)
    assert prior.shape == (n,)
    assert int(prior.argmax()) == n // 2
    assert prior[n // 2] == 1.0
    assert prior[0] == pytest.approx(np.exp(-0.5 * (n // 2 / (n / 2)) ** 2))


def test_the_position_prior_needs_a_frame():
    with pytest.raises(InputError, match="at least one frame, got n_frames 0"):
        position_prior(0)


def test_the_anomaly_videos_alone():
    # a: 0.9+ 0.4-; b: 0.6+ 0.6-; c is normal and high.
    scores = {"a": [0.9, 0.4], "b": [0.6, 0.6], "c": [1.0, 1.0]}
    truth = {"a": [1, 0], "b": [1, 0], "c": [0, 0]}
    result = evaluate(scores, truth)
    assert result["anomaly_videos_auc"] == (2 + 1.5) / 4
    assert result["auc"] == 3.5 / 8
    without = evaluate({v: scores[v] for v in "ab"}, {v: truth[v] for v in "ab"})
    assert without["anomaly_videos_auc"] == without["auc"]
    assert evaluate({"a": [1.0], "c": [0.0]}, {"a": [1], "c": [0]})["anomaly_videos_auc"] is None


def test_each_class_meets_all_normal_videos():
    scores = {"a": [0.9, 0.1], "b": [0.2, 0.8], "c": [0.5, 0.5], "ab": [0.7, 0.6]}
    truth = {"a": [1, 0], "b": [1, 0], "c": [0, 0], "ab": [1, 0]}
    classes = {"a": "Fall", "b": ["Fight"], "c": [], "ab": ("Fight", "Fall")}
    by_class = evaluate_by_class(scores, truth, classes)
    for name, videos in {"Fall": ("a", "c", "ab"), "Fight": ("b", "c", "ab")}.items():
        assert by_class[name] == evaluate({v: scores[v] for v in videos}, {v: truth[v] for v in videos})
    assert list(by_class) == ["Fall", "Fight"]


def test_a_class_without_a_normal_frame_has_no_pairs():
    by_class = evaluate_by_class({"a": [0.9], "b": [0.1, 0.2]}, {"a": [1], "b": [0, 1]}, {"a": "x", "b": "y"})
    assert (by_class["x"]["auc"], by_class["x"]["within_weight"], by_class["x"]["n_videos"]) == (None, None, 1)
    assert by_class["y"]["auc"] == 1.0


@pytest.mark.parametrize(
    ("classes", "text"),
    [
        ({"a": "x"}, r"in scores but not in classes: 'b'"),
        ({"a": [], "b": []}, "video 'a' has abnormal frames but no class"),
        ({"a": "x", "b": "y"}, "video 'b' has the class 'y' but no abnormal frame"),
    ],
)
def test_classes_that_contradict_the_truth(classes, text):
    with pytest.raises(InputError, match=text):
        evaluate_by_class({"a": [0.9, 0.1], "b": [0.1]}, {"a": [1, 0], "b": [0]}, classes)


def test_blind_scores_are_the_three_controls():
    truth = {"a": [0, 1, 0, 0], "b": [0, 0]}
    found = blind_scores(truth)
    assert found["position_prior"]["a"].tolist() == position_prior(4).tolist()
    assert found["constant_times_position_prior"]["a"].tolist() == position_prior(4).tolist()
    assert found["constant_times_position_prior"]["b"].tolist() == [0, 0]


@given(st.integers(0, 2**16))
def test_moved_scores_keep_what_they_say_they_keep(seed):
    scores, _ = frames(seed, 4, 12)
    turned, means, given_away = shifted_in_time(scores, seed), video_means(scores), of_another_video(scores, seed)
    for video, values in scores.items():
        n = len(values)
        assert any(same_bits(np.roll(values, k), turned[video], of="copies of one timeline") for k in range(n))
        assert means[video].tolist() == [values.mean()] * n
        assert len(given_away[video]) == n
        others = {other: np.asarray(s) for other, s in scores.items() if other != video}
        assert any(
            same_bits(given_away[video], s[np.arange(n) * len(s) // n], of="copies of one timeline")
            for s in others.values()
        )
    assert list(given_away) == list(scores)


def test_the_table_of_controls():
    scores, truth = frames(3, 8, 12)
    table = controls(truth, scores, n_draws=2, random_state=5)
    assert list(table) == list(CONTROLS)
    assert table["own_mean_per_video"]["within_auc"] == 0.5
    assert table["constant_per_video"]["auc"] == evaluate(constant_per_video(truth), truth)["auc"]
    seeds = np.random.SeedSequence(5).generate_state(2).tolist()
    drawn = [evaluate(shifted_in_time(scores, seed), truth)["within_auc"] for seed in seeds]
    assert table["own_shifted_in_time"]["within_auc"] == pytest.approx(np.mean(drawn))
    assert table["own_shifted_in_time"]["n_frames"] == sum(map(len, truth.values()))
    assert list(controls(truth)) == list(CONTROLS)[:3]
    assert "own_of_another_video" not in controls({"a": [0, 1]}, {"a": [0.1, 0.2]})


def test_controls_refuse():
    with pytest.raises(InputError, match="one video cannot get the scores of another"):
        of_another_video({"a": [0.1]})
    with pytest.raises(InputError, match="video 'a': expected one score per frame"):
        video_means({"a": []})
    with pytest.raises(InputError, match="n_draws is 0; it must be an integer of at least 1"):
        controls({"a": [0, 1]}, {"a": [0.1, 0.2]}, n_draws=0)


def test_the_full_evaluation_is_made_of_its_parts():
    scores, truth = frames(2, 10, 12)
    classes = {v: ["x"] if t.any() else [] for v, t in truth.items()}
    result = full_evaluation(scores, truth, classes=classes, tau=0.5, fps=2.0, n_resamples=20)
    assert result["auc"] == evaluate(scores, truth)["auc"]
    assert result["by_class"]["x"]["auc"] == result["auc"]
    labels = video_labels(truth)
    assert result["video_level"]["max"] == evaluate_videos(video_scores(scores), labels)
    found = {v: spans_in_seconds(events_above(s, 0.5), fps=2.0) for v, s in scores.items()}
    assert result["events"]["n_found"] == sum(map(len, found.values()))
    assert result["events"]["hours"] == pytest.approx(sum(map(len, truth.values())) / 2 / 3600)
    assert list(result["intervals"]) == [
        "auc",
        "ap",
        "within_auc",
        "auc_minus_constant_per_video",
        "within_auc_minus_position_prior",
    ]
    one_kind = full_evaluation({"a": [0.1, 0.4]}, {"a": [0, 1]})
    assert one_kind["video_level"] is None
    assert "intervals" not in one_kind
    with pytest.raises(InputError, match="give either fps or edges"):
        full_evaluation(scores, truth, tau=0.5)
