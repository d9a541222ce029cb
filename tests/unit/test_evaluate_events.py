import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headprobe.errors import InputError
from headprobe.evaluation import IOUS, bootstrap_events, evaluate_events, events_above, spans_in_seconds, temporal_iou


def test_hand_computed():
    # a: [0, 4) found as [1, 5): IoU 3/5, 1 s late; [10, 20) found as [8, 14): 4/12, no delay; [30, 31) missed.
    # a also has a false alarm at [40, 41); b is normal with one false alarm; c is normal and quiet.
    truth = {"a": [(0, 4), (10, 20), (30, 31)], "b": [], "c": []}
    found = {"a": [(40, 41), (1, 5), (8, 14)], "b": [(2, 3)], "c": []}
    result = evaluate_events(found, truth, {"a": 100.0, "b": 500.0, "c": 1200.0})
    assert [row["n_matched"] for row in result["by_iou"]] == [2, 2, 2, 1, 1, 1, 0, 0, 0]
    assert [row["iou"] for row in result["by_iou"]] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9] == list(IOUS)
    assert result["by_iou"][0] == {"iou": 0.1, "n_matched": 2, "precision": 2 / 4, "recall": 2 / 3, "f1": 4 / 7}
    assert result["mean_f1"] == pytest.approx((3 * 4 / 7 + 3 * 2 / 7) / 9)
    assert (result["n_detected"], result["n_missed"], result["delay_mean"], result["delay_median"]) == (2, 1, 0.5, 0.5)
    assert (result["n_false_alarms"], result["n_found"], result["n_true"]) == (2, 4, 3)
    assert result["hours"] == 0.5
    assert result["false_alarms_per_hour"] == 4.0
    assert result["false_alarms_per_hour_normal"] == pytest.approx(3600 / 1700)


def test_an_event_that_covers_two_is_matched_once():
    result = evaluate_events({"a": [(0, 10)]}, {"a": [(0, 4), (6, 10)]}, {"a": 10}, ious=(0.1, 0.4))
    assert [(row["precision"], row["recall"]) for row in result["by_iou"]] == [(1.0, 0.5)] * 2
    assert (result["n_detected"], result["delay_mean"]) == (2, 0.0)


def test_as_many_pairs_as_possible_are_matched():
    # The middle event overlaps both true ones, the last only the second: greedy by IoU would match one pair.
    found, truth = {"a": [(3, 7), (9, 13)]}, {"a": [(0, 4), (5, 10)]}
    overlaps = [[temporal_iou(f, t) for t in truth["a"]] for f in found["a"]]
    assert overlaps == [[1 / 7, 2 / 7], [0.0, 1 / 8]]
    assert evaluate_events(found, truth, {"a": 20}, ious=(0.1,))["by_iou"][0]["n_matched"] == 2


def test_nothing_found_and_nothing_to_find():
    quiet = evaluate_events({"a": []}, {"a": []}, {"a": 3600})
    assert quiet["by_iou"][0] == {"iou": 0.1, "n_matched": 0, "precision": None, "recall": None, "f1": None}
    assert (quiet["mean_f1"], quiet["delay_mean"], quiet["false_alarms_per_hour"]) == (None, None, 0.0)
    deaf = evaluate_events({"a": []}, {"a": [(1, 2)]}, {"a": 3600}, ious=(0.5,))
    assert (deaf["by_iou"][0]["precision"], deaf["by_iou"][0]["recall"], deaf["by_iou"][0]["f1"]) == (None, 0.0, 0.0)
    assert deaf["false_alarms_per_hour_normal"] is None


stretches = st.lists(st.integers(0, 40), min_size=0, max_size=8, unique=True).map(
    lambda ends: (
        [(float(a), float(b)) for a, b in itertools.batched(sorted(ends)[: len(ends) // 2 * 2], 2)]
        if hasattr(itertools, "batched")
        else [(float(a), float(b)) for a, b in zip(sorted(ends)[::2], sorted(ends)[1::2], strict=False)]
    )
)


@given(stretches, stretches)
@settings(max_examples=150, deadline=None)
def test_against_trying_all_matchings(found, truth):
    result = evaluate_events({"a": found}, {"a": truth}, {"a": 41.0})
    short, long = sorted((found, truth), key=len)
    for row in result["by_iou"]:
        best = max(
            (
                sum(temporal_iou(a, b) >= row["iou"] for a, b in zip(short, chosen, strict=True))
                for chosen in itertools.permutations(long, len(short))
            ),
            default=0,
        )
        assert row["n_matched"] == best
    swapped = evaluate_events({"a": truth}, {"a": found}, {"a": 41.0})
    assert [r["precision"] for r in swapped["by_iou"]] == [r["recall"] for r in result["by_iou"]]
    assert [r["f1"] for r in swapped["by_iou"]] == [r["f1"] for r in result["by_iou"]]
    assert [r["n_matched"] for r in result["by_iou"]] == sorted(
        (r["n_matched"] for r in result["by_iou"]), reverse=True
    )
    twice = evaluate_events({"a": found[::-1]}, {"a": truth[::-1]}, {"a": 41.0})
    assert twice == result


@given(stretches)
def test_the_truth_finds_itself(truth):
    result = evaluate_events({"a": truth}, {"a": truth}, {"a": 41.0}, ious=(0.1, 1.0))
    assert [row["n_matched"] for row in result["by_iou"]] == [len(truth)] * 2
    assert (result["n_false_alarms"], result["n_missed"]) == (0, 0)
    assert result["delay_mean"] == (0.0 if truth else None)


@pytest.mark.parametrize(
    ("found", "truth", "seconds", "text"),
    [
        ({"a": []}, {"a": [], "b": []}, {"a": 9, "b": 9}, r"in truth but not in the found events: 'b'"),
        ({"a": []}, {"a": []}, {}, r"in truth but not in the durations: 'a'"),
        ({"a": [(3, 2)]}, {"a": []}, {"a": 9}, r"video 'a': the found event \(3.0, 2.0\) is no stretch of time"),
        ({"a": []}, {"a": [(2, np.nan)]}, {"a": 9}, "the true event .* is no stretch of time"),
        ({"a": []}, {"a": [(2, 90)]}, {"a": 9}, r"the true event \(2.0, 90.0\) lies beyond the video of 9 seconds"),
        ({"a": [(-1, 2)]}, {"a": []}, {"a": 9}, "lies beyond the video"),
        (
            {"a": [(4, 6), (1, 5)]},
            {"a": []},
            {"a": 9},
            r"found events \(1.0, 5.0\) and \(4.0, 6.0\) overlap: make them",
        ),
        ({"a": []}, {"a": []}, {"a": 0}, "the duration of video 'a' is 0; it must be a number above 0"),
    ],
)
def test_events_that_make_no_sense(found, truth, seconds, text):
    with pytest.raises(InputError, match=text):
        evaluate_events(found, truth, seconds)


def test_thresholds_out_of_range():
    with pytest.raises(InputError, match=r"the IoU threshold is 0; it must be a number above 0 and of at most 1"):
        evaluate_events({"a": []}, {"a": []}, {"a": 1}, ious=(0,))
    with pytest.raises(InputError, match="choose one of 'precision'"):
        bootstrap_events({"a": []}, {"a": []}, {"a": 1}, "auc")


@given(st.lists(st.floats(0, 1), max_size=40), st.floats(0, 1))
def test_runs_above_a_threshold(scores, threshold):
    spans = events_above(scores, threshold)
    inside = np.zeros(len(scores), bool)
    for start, end in spans:
        inside[start:end] = True
    assert inside.tolist() == [s >= threshold for s in scores]
    assert all(before[1] < after[0] for before, after in itertools.pairwise(spans))


def test_frames_become_seconds():
    assert spans_in_seconds([(0, 15), (30, 45)], fps=30.0) == [(0.0, 0.5), (1.0, 1.5)]
    assert spans_in_seconds([(1, 3)], edges=[0.0, 0.1, 0.5, 2.0]) == [(0.1, 2.0)]
    for settings_, text in (
        ({}, "give either fps or edges"),
        ({"fps": 1.0, "edges": [0, 1]}, "give either fps or edges"),
        ({"fps": 0.0}, "fps is 0.0; it must be a number above 0"),
        ({"edges": [0, 1]}, r"the span \(1, 3\) is not in a video of 1 frames"),
    ):
        with pytest.raises(InputError, match=text):
            spans_in_seconds([(1, 3)], **settings_)
    with pytest.raises(InputError, match="finite scores"):
        events_above([np.nan], 0.5)


METRICS = ("precision", "recall", "f1", "mean_f1", "delay_mean", "false_alarms_per_hour")


@pytest.mark.parametrize("metric", METRICS)
def test_the_bootstrap_equals_evaluating_resampled_videos(metric):
    rng = np.random.default_rng(2)
    truth = {str(i): [(5.0, 9.0)] if i % 3 else [] for i in range(9)}
    found = {
        v: [(a, a + 4.0) for a in sorted(rng.choice([0.0, 4.5, 6.0, 12.0], 1 + i % 2))[:1]] for i, v in enumerate(truth)
    }
    other = {v: e if i % 2 else [] for i, (v, e) in enumerate(truth.items())}
    seconds = dict.fromkeys(truth, 20.0)

    def number(events, picks):
        named = [{f"{i}": side[v] for i, v in enumerate(picks)} for side in (events, truth, seconds)]
        result = evaluate_events(*named)
        return result["by_iou"][4][metric] if metric in ("precision", "recall", "f1") else result[metric]

    for second in (None, other):
        interval = bootstrap_events(found, truth, seconds, metric, other=second, n_resamples=30, random_state=4)
        draw = np.random.default_rng(4)
        drawn = []
        while len(drawn) < 30:
            picks = [list(truth)[i] for i in draw.integers(9, size=9)]
            values = [number(events, picks) for events in (found, second) if events is not None]
            if None not in values:
                drawn.append(values[0] - sum(values[1:]))
        assert [interval.low, interval.high] == pytest.approx(np.quantile(drawn, [0.025, 0.975]).tolist(), abs=1e-12)


def test_rounded_seconds_do_not_decide_at_a_threshold_nor_make_touching_events_overlap() -> None:
    # 16 to 48 of 64 frames at 10 per second: half of the video, though 4.8 - 1.6 is a little less than 3.2.
    half = evaluate_events({"a": [(0.0, 6.4)]}, {"a": [(1.6, 4.8)]}, {"a": 6.4})
    assert [row["n_matched"] for row in half["by_iou"]] == [1] * 5 + [0] * 4
    end = 0.1 + 0.2  # a little more than 0.3
    touching = evaluate_events({"a": [(0.0, end)]}, {"a": [(0.3, 0.6)]}, {"a": 1.0})
    assert (touching["n_detected"], touching["n_false_alarms"], touching["delay_mean"]) == (0, 1, None)
    both = evaluate_events({"a": [(0.0, end), (0.3, 0.6)]}, {"a": []}, {"a": 1.0})
    assert both["n_found"] == 2
