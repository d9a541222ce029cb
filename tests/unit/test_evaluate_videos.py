import numpy as np
import pytest

from headprobe.errors import InputError
from headprobe.evaluation import evaluate_videos, video_labels, video_scores


def test_hand_computed():
    scores = {"a": 0.9, "b": 0.4, "c": 0.6, "d": 0.4, "e": 0.1}
    labels = {"a": 1, "b": 1, "c": 0, "d": 0, "e": 0}
    result = evaluate_videos(scores, labels, threshold=0.4)
    assert result["auc"] == (3 + 1.5) / 6
    assert result["ap"] == pytest.approx(0.5 * 1 + 0.5 * 2 / 4)
    assert (result["n_videos"], result["n_abnormal_videos"]) == (5, 2)
    assert (result["precision"], result["recall"], result["f1"]) == (2 / 4, 1.0, 4 / 6)
    assert (result["accuracy"], result["balanced_accuracy"]) == (3 / 5, (1 + 1 / 3) / 2)
    silent = evaluate_videos(scores, labels, threshold=2.0)
    assert (silent["precision"], silent["recall"], silent["f1"]) == (None, 0.0, 0.0)
    assert "precision" not in evaluate_videos(scores, labels)


def test_one_score_per_video():
    frames = {"a": [0.0, 0.5, 1.0, 0.1], "b": [0.3]}
    assert video_scores(frames) == {"a": 1.0, "b": 0.3}
    assert video_scores(frames, "mean") == {"a": 0.4, "b": 0.3}
    assert video_scores(frames, "top", 0.5) == {"a": 0.75, "b": 0.3}
    assert video_scores(frames, "top", 0.01) == video_scores(frames)
    assert video_labels({"a": [0, 0, 1], "b": np.zeros(3)}) == {"a": 1, "b": 0}


@pytest.mark.parametrize(
    ("scores", "labels", "threshold", "text"),
    [
        ({"a": 0.1}, {"a": 1}, None, "all 1 videos are abnormal: ranking videos needs both kinds"),
        ({"a": 0.1, "b": 0.2}, {"a": 0, "b": 0}, None, "all 2 videos are normal"),
        ({"a": 0.1, "b": 0.2}, {"a": 0}, None, r"in scores but not in labels: 'b'"),
        ({"a": 0.1, "b": np.nan}, {"a": 0, "b": 1}, None, "video 'b': frame 0 has the score nan"),
        ({"a": 0.1, "b": 0.3}, {"a": 0, "b": 2}, None, "video 'b': frame 0 has the label 2"),
        ({"a": 0.1, "b": 0.3}, {"a": 0, "b": 1}, np.inf, "threshold is inf; it must be a number"),
    ],
)
def test_it_refuses(scores, labels, threshold, text):
    with pytest.raises(InputError, match=text):
        evaluate_videos(scores, labels, threshold)


def test_scores_that_are_none():
    for frames, how, text in (
        ({"a": []}, "max", "video 'a': expected one finite score or more"),
        ({"a": [np.nan]}, "max", "video 'a': expected one finite score"),
        ({"a": [1.0]}, "median", "how is 'median'; choose one of 'max', 'mean', 'top'"),
    ):
        with pytest.raises(InputError, match=text):
            video_scores(frames, how)
    with pytest.raises(InputError, match="top is 0; it must be a number above 0 and of at most 1"):
        video_scores({"a": [1.0]}, "top", 0)
