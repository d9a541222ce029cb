"""Average precision of named events: over classes that occur, each true event found once."""

from __future__ import annotations

import numpy as np
import pytest

from headprobe.errors import InputError
from headprobe.evaluation import class_events, segment_map

TRUTH = {"a": [(0.0, 4.0, "fall"), (6.0, 8.0, "fight")], "b": [(1.0, 3.0, "fall")], "calm": []}


def named(*events):
    return {video: [one[1:] for one in events if one[0] == video] for video in TRUTH}


def test_what_is_found_where_it_is_has_all_of_the_area():
    found = named(("a", 0, 4, "fall", 0.5), ("a", 6, 8, "fight", 0.1), ("b", 1, 3, "fall", 0.9))
    result = segment_map(found, TRUTH)
    assert [row["map"] for row in result["by_iou"]] == [1.0] * 5
    assert result["mean_map"] == 1.0
    assert result["n_true"] == {"fall": 2, "fight": 1}
    assert result["never_true"] == []


def test_a_false_alarm_costs_only_what_it_outranks():
    sure = named(("calm", 0, 2, "fall", 0.95), ("b", 1, 3, "fall", 0.9), ("a", 0, 4, "fall", 0.5))
    unsure = named(("calm", 0, 2, "fall", 0.05), ("b", 1, 3, "fall", 0.9), ("a", 0, 4, "fall", 0.5))
    first, second = (segment_map(found, TRUTH, [0.5])["by_iou"][0]["ap"] for found in (sure, unsure))
    assert first["fall"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert second["fall"] == 1.0
    assert second["fight"] == 0.0  # occurs and is not found


def test_a_class_that_never_occurs_is_named_and_in_no_mean():
    found = named(("a", 0, 4, "fall", 0.5), ("b", 1, 3, "fall", 0.9), ("a", 0, 9, "riot", 1.0))
    result = segment_map(found, TRUTH, [0.5])
    assert result["never_true"] == ["riot"]
    assert set(result["by_iou"][0]["ap"]) == {"fall", "fight"}
    assert result["mean_map"] == 0.5


def test_a_true_event_is_found_once_by_the_surest():
    found = named(("b", 1, 3, "fall", 0.9), ("b", 1, 2.9, "fall", 0.8))
    (row,) = segment_map(found, TRUTH, [0.5])["by_iou"]
    assert row["ap"]["fall"] == 0.5
    loose = named(("b", 0, 4, "fall", 0.9))
    assert [row["ap"]["fall"] for row in segment_map(loose, TRUTH, [0.5, 0.6])["by_iou"]] == [0.5, 0.0]


def test_events_of_curves_are_long_enough_and_of_their_own_class():
    curves = np.zeros((32, 2))
    curves[4:8, 0], curves[20, 0], curves[:, 1] = 0.8, 0.9, 0.3
    both = class_events(curves, ["fall", "fight"], 0.5)
    assert [one[:3] for one in both] == [(2.0, 4.0, "fall"), (10.0, 10.5, "fall")]
    assert class_events(curves, ["fall", "fight"], 0.5, least=1.0) == both[:1]
    assert both[1][3] == pytest.approx(0.9 + 0.7 * (0.9 + 0.8) / 2)


@pytest.mark.parametrize(
    ("found", "truth", "message"),
    [
        ({"a": []}, {"b": []}, "videos are in the found events but not in truth"),
        ({"a": []}, {"a": []}, "no video has a true event"),
        ({"a": [(0, 1, "fall")]}, {"a": [(0, 1, "fall")]}, "is no event; it must be \\(start, end, class, score\\)"),
        ({"a": []}, {"a": [(2, 1, "fall")]}, "is no event; it must be \\(start, end, class\\)"),
        ({"a": [(0, 1, "fall", np.nan)]}, {"a": [(0, 1, "fall")]}, "the score of an event of a is nan"),
    ],
)
def test_what_are_no_events_is_refused(found, truth, message):
    with pytest.raises(InputError, match=message):
        segment_map(found, truth)
    with pytest.raises(InputError, match="they must be finite numbers"):
        class_events(np.full((3, 1), np.nan), ["fall"])
