import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headprobe.errors import InputError
from headprobe.headhunt.locate import Event, Locator, calibrate_locator, events, smooth

SCORES = st.lists(st.floats(-10, 10), min_size=1, max_size=40)
SIGMAS = st.floats(0, 30)


@given(SCORES, SIGMAS)
def test_smoothing_keeps_length_and_range(scores, sigma):
    out = smooth(scores, sigma)
    assert out.shape == (len(scores),)
    assert out.min() >= min(scores)
    assert out.max() <= max(scores)


@given(st.floats(-1e6, 1e6), st.integers(1, 30), SIGMAS)
def test_a_constant_stays_exactly_constant(value, n, sigma):
    assert (smooth([value] * n, sigma) == value).all()


@given(SCORES)
def test_no_smoothing_is_the_identity(scores):
    assert smooth(scores, 0).tolist() == scores


@given(SCORES, st.floats(0.05, 5))
@settings(max_examples=50)
def test_smoothing_is_a_weighted_mean_with_gaussian_weights(scores, sigma):
    t = np.arange(len(scores))
    weight = np.exp(-0.5 * ((t[:, None] - t) / sigma) ** 2)
    weight[np.abs(t[:, None] - t) > np.ceil(4 * sigma)] = 0
    expected = weight @ scores / weight.sum(1)
    np.testing.assert_allclose(smooth(scores, sigma), expected, atol=1e-10)


def test_smoothing_is_the_same_from_both_ends_and_does_not_change_its_input():
    scores = np.random.default_rng(0).random(9)
    before = scores.copy()
    np.testing.assert_allclose(smooth(scores[::-1], 1.5), smooth(scores, 1.5)[::-1], rtol=1e-13)
    smooth(scores, 0.0)[:] = 5
    assert (scores == before).all()


@pytest.mark.parametrize(
    ("scores", "sigma", "text"),
    [
        ([], 1.0, r"at least one, got \(0,\)"),
        ([[0.1]], 1.0, "one number per segment"),
        ([0.1, np.nan], 1.0, "segment 1 has the score nan"),
        ([0.1], -1.0, "sigma is .*; it must be a number of at least 0"),
        ([0.1], np.nan, "sigma is .*; it must be a number of at least 0"),
    ],
)
def test_smoothing_refuses(scores, sigma, text):
    with pytest.raises(InputError, match=text):
        smooth(scores, sigma)


SPANS = [(0, 48), (48, 96), (96, 144), (144, 150)]


def test_consecutive_segments_join_and_the_threshold_counts_as_abnormal():
    found = events([0.5, 0.9, 0.2, 0.6], SPANS, fps=24, tau=0.5)
    assert found == [Event(0, 96, 0.0, 4.0, 0.9), Event(144, 150, 6.0, 6.25, 0.6)]
    assert events([0.1] * 4, SPANS, fps=24, tau=0.5) == []


def test_frames_that_were_never_seen_separate_events():
    found = events([0.9, 0.8], [(0, 48), (96, 144)], fps=10, tau=0.5)
    assert [(e.start_frame, e.end_frame) for e in found] == [(0, 48), (96, 144)]


@given(st.lists(st.tuples(st.integers(1, 60), st.floats(0, 1)), min_size=1, max_size=30), st.floats(0.1, 120))
def test_events_hold_exactly_the_frames_of_positive_segments(segments, fps):
    ends = np.cumsum([length for length, _ in segments])
    spans = list(zip([0, *ends[:-1]], ends, strict=True))
    found = events([score for _, score in segments], spans, fps, tau=0.5)
    inside = np.zeros(ends[-1], dtype=bool)
    for event in found:
        assert not inside[max(event.start_frame - 1, 0) : event.end_frame].any()
        inside[event.start_frame : event.end_frame] = True
        assert event.start_seconds == event.start_frame / fps
        assert event.end_seconds == event.end_frame / fps
    expected = np.repeat([score >= 0.5 for _, score in segments], [length for length, _ in segments])
    assert (inside == expected).all()


@pytest.mark.parametrize(
    ("scores", "spans", "fps", "tau", "text"),
    [
        ([0.1], SPANS, 24, 0.5, "1 segment scores but 4 spans"),
        ([0.1, 0.2], [(0, 48), (40, 96)], 24, 0.5, r"span 1 is \(40, 96\).*must start at 48 or later"),
        ([0.1], [(5, 5)], 24, 0.5, r"span 0 is \(5, 5\)"),
        ([0.1], [(0, 4.5)], 24, 0.5, "whole frames"),
        ([0.1], [(0, 5)], 0, 0.5, "fps is .*; it must be a number above 0"),
        ([0.1], [(0, 5)], np.nan, 0.5, "fps is .*; it must be a number above 0"),
        ([0.1], [(0, 5)], 24, np.nan, "tau is nan; it must be a number"),
    ],
)
def test_events_refuse(scores, spans, fps, tau, text):
    with pytest.raises(InputError, match=text):
        events(scores, spans, fps, tau)


def test_a_locator_smooths_before_it_cuts():
    locator = Locator(sigma=1.0, tau=0.4)
    scores = [0.0, 1.0, 0.0, 1.0]
    assert locator.events(scores, SPANS, 24) == events(smooth(scores, 1.0), SPANS, 24, 0.4)
    assert len(events(scores, SPANS, 24, 0.4)) == 2
    assert len(locator.events(scores, SPANS, 24)) == 1
    with pytest.raises(InputError, match=r"sigma is -1\.0; it must be a number of at least 0"):
        Locator(-1.0, 0.5)
    with pytest.raises(InputError, match="tau is inf; it must be a number"):
        Locator(1.0, np.inf)


def calibration(seed=0, videos=4, length=5):
    rng = np.random.default_rng(seed)
    scores, spans, labels = {}, {}, {}
    for v in range(videos):
        n = int(rng.integers(6, 12))
        n_frames = n * length - int(rng.integers(0, length))
        starts = np.arange(0, n_frames, length)
        spans[f"v{v}"] = [(int(s), int(min(s + length, n_frames))) for s in starts]
        frame = rng.random(n_frames) < 0.3
        scores[f"v{v}"] = [float(frame[a:b].mean() + rng.normal(0, 0.2)) for a, b in spans[f"v{v}"]]
        labels[f"v{v}"] = frame.astype(int)
    return scores, spans, labels


def frame_f1(scores, spans, labels, sigma, tau):
    found, truth = [], []
    for v in scores:
        smoothed = smooth(scores[v], sigma)
        found += [s >= tau for s, (a, b) in zip(smoothed, spans[v], strict=True) for _ in range(a, b)]
        truth += [bool(label) for label in labels[v]]
    hits = sum(f and t for f, t in zip(found, truth, strict=True))
    return 2 * hits / (sum(found) + sum(truth))


@pytest.mark.parametrize("seed", range(5))
def test_calibration_finds_the_best_frame_f1_of_the_grid(seed):
    scores, spans, labels = calibration(seed)
    sigmas, taus = [0.0, 0.5, 1.5], [0.1, 0.25, 0.4, 0.6]
    best = max(frame_f1(scores, spans, labels, s, t) for s in sigmas for t in taus)
    locator = calibrate_locator(scores, spans, labels, sigmas, taus)
    assert frame_f1(scores, spans, labels, locator.sigma, locator.tau) == pytest.approx(best, rel=1e-12)
    assert locator == calibrate_locator(scores, spans, labels, sigmas[::-1], taus[::-1])


def test_ties_go_to_the_least_smoothing_and_the_middle_of_the_tied_thresholds():
    arguments = ({"a": [0.0, 1.0]}, {"a": [(0, 3), (3, 5)]}, {"a": [0, 0, 0, 1, 1]})
    grid = [round(0.1 * i, 1) for i in range(11)]
    assert calibrate_locator(*arguments, sigmas=[0.3, 0.1], taus=grid) == Locator(0.1, 0.5)


def test_the_last_short_segment_weighs_by_its_frames():
    arguments = ({"a": [0.2, 0.9]}, {"a": [(0, 10), (10, 11)]}, {"a": [1] * 10 + [0]})
    assert calibrate_locator(*arguments, sigmas=[0.0], taus=[0.1, 0.5]) == Locator(0.0, 0.1)


@pytest.mark.parametrize(
    ("scores", "spans", "labels", "grid", "text"),
    [
        ({}, {}, {}, {}, "no videos"),
        ({"a": [1.0]}, {"a": [(0, 2)]}, {"b": [0, 1]}, {}, r"in scores but not in frame labels: 'a'"),
        ({"a": [1.0]}, {}, {"a": [0, 1]}, {}, r"in scores but not in spans: 'a'"),
        ({"a": [1.0]}, {"a": [(0, 2)]}, {"a": [0, 0]}, {}, "all 2 calibration frames are normal"),
        ({"a": [1.0]}, {"a": [(0, 2)]}, {"a": [1, 1]}, {}, "all 2 calibration frames are abnormal"),
        (
            {"a": [1.0]},
            {"a": [(0, 2)]},
            {"a": [0, 1, 1]},
            {},
            "video 'a': the spans end at frame 2 but the video has 3",
        ),
        ({"a": [1.0]}, {"a": [(1, 3)]}, {"a": [0, 1, 1]}, {}, "frames 0 to 0 are in no span"),
        ({"a": [1.0]}, {"a": [(0, 2)]}, {"a": [0, 2]}, {}, "video 'a': frame 1 has the label 2"),
        ({"a": [np.nan]}, {"a": [(0, 2)]}, {"a": [0, 1]}, {}, "video 'a': segment 0 has the score nan"),
        (
            {"a": [0.3]},
            {"a": [(0, 2)]},
            {"a": [0, 1]},
            {"taus": [0.9]},
            "finds an abnormal frame.*from 0.3 to 0.3",
        ),
        ({"a": [0.3]}, {"a": [(0, 2)]}, {"a": [0, 1]}, {"taus": []}, "the grid is empty"),
        ({"a": [0.3]}, {"a": [(0, 2)]}, {"a": [0, 1]}, {"sigmas": [-1.0]}, "sigma is -1.0; it must be a number"),
        ({"a": [0.3]}, {"a": [(0, 2)]}, {"a": [0, 1]}, {"taus": [np.nan]}, "tau is nan; it must be a number"),
    ],
)
def test_calibration_raises_and_never_falls_back(scores, spans, labels, grid, text):
    with pytest.raises(InputError, match=text):
        calibrate_locator(scores, spans, labels, **({"sigmas": [0.0, 1.5], "taus": [0.5, 0.65]} | grid))


def by_hand(scores, spans, tau, release):
    """Flood from every segment at or above tau through touching ones at or above release * tau."""
    inside = {i for i, score in enumerate(scores) if score >= tau}
    grown = True
    while grown:
        grown = False
        for i in list(inside):
            for j in (i - 1, i + 1):
                touching = 0 <= j < len(scores) and spans[min(i, j)][1] == spans[max(i, j)][0]
                if touching and j not in inside and scores[j] >= release * tau:
                    inside.add(j)
                    grown = True
    return inside


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=25), st.floats(0.05, 0.95), st.floats(0.05, 1), st.integers(0, 24)
)
@settings(max_examples=60)
def test_hysteresis_goes_on_to_both_sides_and_not_over_a_gap(scores, tau, release, gap):
    spans = [(10 * i + 5 * (i > gap), 10 * i + 10 + 5 * (i > gap)) for i in range(len(scores))]
    found = events(scores, spans, 10.0, tau, release)
    inside = {i for i, (a, _) in enumerate(spans) if any(e.start_frame <= a < e.end_frame for e in found)}
    assert inside == by_hand(scores, spans, tau, release)


def test_hysteresis_by_hand():
    scores = [0.3, 0.9, 0.4, 0.1]
    assert [(e.start_frame, e.end_frame) for e in events(scores, SPANS, 24, 0.8)] == [(48, 96)]
    assert [(e.start_frame, e.end_frame) for e in events(scores, SPANS, 24, 0.8, 0.5)] == [(48, 144)]
    assert [(e.start_frame, e.end_frame) for e in events(scores, SPANS, 24, 0.8, 0.3)] == [(0, 144)]
    assert events([0.5] * 4, SPANS, 24, 0.8, 0.5) == []


def test_short_events_are_left_out_by_their_real_duration():
    scores = [0.9, 0.1, 0.1, 0.9]
    assert len(events(scores, SPANS, 24, 0.5, min_seconds=0.25)) == 2
    assert [e.start_frame for e in events(scores, SPANS, 24, 0.5, min_seconds=0.26)] == [0]
    # At the end of the file the frames stand five times as long.
    edges = np.concatenate([np.arange(144) / 24, 6 + np.arange(7) * 5 / 24])
    found = events(scores, SPANS, 24, 0.5, min_seconds=1.0, edges=edges)
    assert [(e.start_seconds, e.end_seconds) for e in found] == [(0.0, 2.0), (6.0, 6 + 30 / 24)]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"release": 0}, "release is .*; it must be a number above 0 and of at most 1"),
        ({"release": 1.5}, "release is .*; it must be a number above 0 and of at most 1"),
        ({"min_seconds": -1}, "min_seconds is -1; it must be a number of at least 0"),
        (
            {"edges": np.arange(150) / 24},
            "edges must be .* for the beginning of each of 150 frames",
        ),
        ({"edges": np.arange(151)[::-1]}, "edges must be ascending seconds"),
    ],
)
def test_options_that_make_no_sense(options, text):
    with pytest.raises(InputError, match=text):
        events([0.1] * 4, SPANS, 24, 0.5, **options)


@pytest.mark.parametrize("seed", range(3))
def test_calibration_searches_the_grid_under_the_options(seed):
    scores, spans, labels = calibration(seed)
    grid = {"sigmas": [0.0, 0.5], "taus": [0.1, 0.25, 0.4, 0.6]}
    fps = dict.fromkeys(scores, 10.0)
    options = {"release": 0.6, "min_seconds": 1.0}
    found = calibrate_locator(scores, spans, labels, **grid, **options, fps=fps)
    assert (found.release, found.min_seconds) == (0.6, 1.0)

    def f1(sigma, tau):
        hits = n_found = n_true = 0
        for v in scores:
            frame = np.zeros(len(labels[v]), int)
            for e in events(smooth(scores[v], sigma), spans[v], 10.0, tau, **options):
                frame[e.start_frame : e.end_frame] = 1
            hits, n_found, n_true = hits + (frame * labels[v]).sum(), n_found + frame.sum(), n_true + labels[v].sum()
        return 2 * hits / (n_found + n_true)

    best = max(f1(s, t) for s in grid["sigmas"] for t in grid["taus"])
    assert f1(found.sigma, found.tau) == pytest.approx(best)
    with pytest.raises(InputError, match="a minimum duration in seconds needs the frame rate of every video"):
        calibrate_locator(scores, spans, labels, **grid, **options)
