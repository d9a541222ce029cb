"""A probe of segments learnt from labels of whole videos."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from equality import close
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import roc_auc_score

from headprobe.errors import InputError
from headprobe.probing import HeadProbe, cross_validate
from headprobe.probing.multiple_instance import class_loss, fit_videos, highest, video_loss


def footage(seed, n_videos=40, n=24, width=6, shift=4.0):
    """Videos of n segments; every second one is abnormal for 3 of them. Segment labels, video labels, videos."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_videos * n, width))
    videos = np.repeat(np.arange(n_videos), n)
    truth = np.zeros(len(X), int)
    for video in range(1, n_videos, 2):
        first = video * n + rng.integers(n - 3)
        truth[first : first + 3] = 1
    X[truth == 1, 0] += shift
    return X, truth, videos % 2, videos


def test_segments_are_found_though_only_videos_are_labelled():
    X, _truth, y, videos = footage(0)
    new, new_truth, _, _ = footage(1)
    found = HeadProbe("mil").fit(X, y, groups=videos)
    by_video = roc_auc_score(new_truth, found.decision_function(new))
    assert by_video > 0.98
    assert video_loss(found.decision_function(X), videos.tolist(), y) < 0.2
    assert found.n_iter_ > 1
    # The few highest segments stand for a video, so the probability is one of segments.
    plain = HeadProbe().fit(X, y)
    assert found.predict_proba(new[new_truth == 1])[:, 1].mean() > plain.predict_proba(new[new_truth == 1])[:, 1].mean()


def test_nothing_is_found_where_there_is_nothing():
    X, _, y, videos = footage(2, n_videos=60, shift=0.0)
    new, new_truth, _, _ = footage(3, n_videos=60, shift=0.0)
    found = HeadProbe("mil", C=0.1).fit(X, y, groups=videos)
    assert 0.35 < roc_auc_score(new_truth, found.decision_function(new)) < 0.65


def test_the_result_is_the_same_again_and_in_another_order():
    X, _, y, videos = footage(4)
    first: Any = HeadProbe("mil").fit(X, y, groups=videos)
    again = HeadProbe("mil", random_state=5).fit(X, y, groups=videos.astype(str))
    # A search magnifies roundings.
    np.testing.assert_allclose(first.decision_function(X), again.decision_function(X), atol=1e-3)
    assert close(first.contributions(X).sum(1) + first.model_[-1].intercept_, first.decision_function(X))


def test_the_slope_is_that_of_the_loss():
    X, _, y, videos = footage(6, n_videos=6, n=20)
    weights = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    shift = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    # One step from a start without ties, by automatic differentiation.
    with torch.no_grad():
        weights += torch.linspace(-1, 1, 6, dtype=torch.float64)
    values = torch.from_numpy(X) @ weights + shift
    total = 0.5 * weights @ weights
    for video in range(6):
        mean = values[videos == video].sigmoid().topk(highest(20)).values.mean()
        total = total + torch.nn.functional.binary_cross_entropy(mean, torch.tensor(float(video % 2)).double())
    total.backward()
    seen = []

    def minimize(loss, theta, **options):
        seen.append(loss(theta))
        return type("Found", (), {"fun": seen[0][0], "x": theta, "nit": 1})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("headprobe.probing.multiple_instance.minimize", minimize)
        fit_videos(X, y, videos.tolist(), weights.detach().numpy(), 0.0, 1.0, False, 10)
    assert close(np.array(seen[0][0]), total.detach().numpy())
    assert weights.grad is not None
    assert shift.grad is not None
    assert close(seen[0][1], np.r_[weights.grad.numpy(), shift.grad.numpy()])


def test_without_groups_every_segment_is_a_video():
    X, truth, _, _ = footage(7)
    alone: Any = HeadProbe("mil").fit(X, truth)
    plain: Any = HeadProbe().fit(X, truth)
    named = HeadProbe("mil").fit(X, truth, groups=np.arange(len(X)))
    np.testing.assert_allclose(alone.decision_function(X), named.decision_function(X), atol=1e-3)
    # Which is logistic regression, to where both searches stop.
    np.testing.assert_allclose(alone.model_[-1].coef_, plain.model_[-1].coef_, atol=1e-2)


def test_few_abnormal_videos_can_count_as_much_as_many_normal_ones():
    X, _, y, videos = footage(8)
    kept = (y == 0) | (videos < 8)
    plain, even = (
        HeadProbe("mil", balanced=balanced).fit(X[kept], y[kept], groups=videos[kept]) for balanced in (False, True)
    )
    abnormal = y[kept] == 1
    assert even.decision_function(X[kept])[abnormal].max() > plain.decision_function(X[kept])[abnormal].max()


def test_it_says_when_it_was_stopped():
    X, _, y, videos = footage(9)
    with pytest.warns(ConvergenceWarning, match="stopped after .* iterations, before the loss of the videos"):
        HeadProbe("mil", max_iter=2).fit(X, y, groups=videos)


def test_cross_validation_hands_the_videos_on():
    X, _, y, videos = footage(10, n_videos=16)
    z = X.reshape(len(X), 1, 3, 2)
    table = cross_validate(z, y, HeadProbe("mil"), groups=videos, n_splits=2)
    assert set(table["condition"]) == {"probe"}
    wrong = y.copy()
    wrong[0] = 1 - wrong[0]
    with pytest.raises(InputError, match="must all have the label of the video"):
        cross_validate(z, wrong, HeadProbe("mil"), groups=videos, n_splits=2)


@pytest.mark.parametrize(
    ("y", "groups", "message"),
    [
        ([0, 1, 0, 1], ["a", "a", "b", "b"], "video 'a' has segments labelled \\[0, 1\\]"),
        ([0, 1, 0, 1], ["a", "b"], "there are 4 segments, 2 videos"),
        ([0, 1, 2, 2], ["a", "b", "c", "c"], "Only binary classification"),
    ],
)
def test_labels_that_are_not_of_videos_are_refused(y, groups, message):
    with pytest.raises(InputError, match=message):
        HeadProbe("mil").fit(np.eye(4), y, groups=groups)


def test_a_video_has_one_set_of_classes():
    with pytest.raises(InputError, match="one class or more each"):
        class_loss(np.zeros((2, 2)), ["a", "b"], [[0, 0], [1, 0]])
    with pytest.raises(InputError, match="its segments must all have the label"):
        class_loss(np.zeros((2, 2)), ["a", "a"], [[0, 1], [1, 0]])
