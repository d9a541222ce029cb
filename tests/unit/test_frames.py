import numpy as np
import pytest

from headprobe._validation import check_same_videos, check_spans, check_truth
from headprobe.errors import InputError


def test_spans_may_have_gaps_unless_they_must_cover_the_video():
    assert check_spans([(2, 4), (6, 7)], 2) == [(2, 4), (6, 7)]
    assert check_spans(np.array([[0, 4], [4, 7]]), 2, n_frames=7) == [(0, 4), (4, 7)]
    with pytest.raises(InputError, match="video 'a': frames 4 to 5 are in no span"):
        check_spans([(0, 4), (6, 7)], 2, n_frames=7, video="a")
    with pytest.raises(InputError, match="the spans end at frame 7 but the video has 6 frames"):
        check_spans([(0, 7)], 1, n_frames=6)


def test_truth_is_zero_or_one_in_any_number_type():
    for dtype in (bool, np.int8, np.uint8, np.int64, np.float32):
        found = check_truth(np.array([0, 1, 1], dtype=dtype), "a")
        assert found.dtype == bool
        assert found.tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("truth", "text"),
    [
        ([], r"video 'a': .*got shape \(0,\)"),
        ([[0, 1]], "got shape"),
        ([0, 1, -1], "video 'a': frame 2 has the label -1"),
        ([0.0, np.nan], "frame 1 has the label nan"),
        (["0", "1"], "must be numbers 0 or 1"),
    ],
)
def test_other_truth_is_refused(truth, text):
    with pytest.raises(InputError, match=text):
        check_truth(truth, "a")


def test_missing_videos_are_named_from_both_sides():
    check_same_videos({"a": 0, "b": 0}, ["b", "a"], "scores", "truth")
    with pytest.raises(InputError, match=r"1 videos are in scores but not in truth: 'c'"):
        check_same_videos(["a", "c"], ["a"], "scores", "truth")
    with pytest.raises(InputError, match=r"7 videos are in truth but not in scores: .*'4', \.\.\.;"):
        check_same_videos(["a"], ["a", *"0123456"], "scores", "truth")
    with pytest.raises(InputError, match="there are no videos in scores and truth"):
        check_same_videos([], [], "scores", "truth")
