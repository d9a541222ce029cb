import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headprobe.errors import InputError
from headprobe.headhunt.evaluate import (
    bootstrap_videos,
    constant_per_video,
    evaluate,
    position_prior,
    to_frames,
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
        ({"a": [0.1]}, {"a": [0], "b": [1]}, r"in truth but not in scores: \['b'\]"),
        ({"a": [0.1], "b": [0.2]}, {"a": [0]}, r"in scores but not in truth: \['b'\]"),
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


@pytest.mark.parametrize("metric", ["auc", "ap", "within_auc"])
def test_the_bootstrap_equals_evaluating_resampled_videos(metric):
    scores, truth = frames(0, 6, 1)
    interval = bootstrap_videos(scores, truth, metric, n_resamples=60, confidence=0.8, random_state=5)
    rng = np.random.default_rng(5)
    names, drawn, redrawn = list(scores), [], 0
    while len(drawn) < 60:
        picks = [names[i] for i in rng.integers(len(names), size=len(names))]
        labels = np.concatenate([truth[v] for v in picks])
        kinds = [len(set(truth[v].tolist())) for v in picks]
        if len(set(labels.tolist())) < 2 or (metric == "within_auc" and 2 not in kinds):
            redrawn += 1
            continue
        copies = ({f"{i}": x[v] for i, v in enumerate(picks)} for x in (scores, truth))
        drawn.append(evaluate(*copies)[metric])
    assert interval.estimate == pytest.approx(evaluate(scores, truth)[metric], rel=1e-13)
    assert [interval.low, interval.high] == pytest.approx(np.quantile(drawn, [0.1, 0.9]).tolist(), rel=1e-12)
    assert (interval.n_redrawn, interval.n_resamples, interval.confidence) == (redrawn, 60, 0.8)


def test_the_bootstrap_repeats_with_its_seed_and_narrows_with_confidence():
    scores, truth = frames(1, 8, 12)
    wide = bootstrap_videos(scores, truth, n_resamples=200, confidence=0.95, random_state=1)
    assert wide == bootstrap_videos(scores, truth, n_resamples=200, confidence=0.95, random_state=1)
    assert wide != bootstrap_videos(scores, truth, n_resamples=200, confidence=0.95, random_state=2)
    narrow = bootstrap_videos(scores, truth, n_resamples=200, confidence=0.5, random_state=1)
    assert wide.low < narrow.low <= narrow.high < wide.high


@pytest.mark.parametrize(
    ("named", "text"),
    [
        ({"metric": "f1"}, "metric must be 'auc', 'ap' or 'within_auc', got 'f1'"),
        ({"n_resamples": 0}, "n_resamples must be at least 1"),
        ({"confidence": 1.0}, "confidence between 0 and 1"),
    ],
)
def test_the_bootstrap_refuses_settings(named, text):
    with pytest.raises(InputError, match=text):
        bootstrap_videos(*frames(0, 3, 1), **named)


def test_the_bootstrap_refuses_what_is_not_defined():
    with pytest.raises(InputError, match="one video cannot be resampled"):
        bootstrap_videos({"a": [0.1, 0.2]}, {"a": [0, 1]})
    with pytest.raises(InputError, match="no video has both classes"):
        bootstrap_videos({"a": [0.1], "b": [0.2]}, {"a": [0], "b": [1]}, "within_auc")
