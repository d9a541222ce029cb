"""ROC and precision-recall curves agree with scikit-learn and with counting."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from headprobe.errors import InputError
from headprobe.plotting.curves import precision_recall, roc

TRUTH = np.array([0, 0, 1, 1, 0, 1, 0, 0])
SCORES = np.array([0.1, 0.4, 0.35, 0.8, 0.3, 0.9, 0.8, 0.05])


def test_roc_passes_through_every_threshold():
    ax = roc({"heads": SCORES, "text": -SCORES}, TRUTH, tau={"heads": 0.35}, title="t")
    heads, dot, text, chance = ax.lines
    drawn = {tuple(point) for point in heads.get_xydata().round(9)}
    for level in np.unique(SCORES):
        above = level <= SCORES
        point = (above[TRUTH == 0].mean(), above[TRUTH == 1].mean())
        # scikit-learn leaves out points in the middle of a straight line.
        assert np.interp(point[0], *np.array(sorted(drawn)).T) >= point[1] - 1e-9
    assert np.trapezoid(heads.get_ydata(), heads.get_xdata()) == pytest.approx(roc_auc_score(TRUTH, SCORES))
    assert dot.get_xydata().tolist() == [[2 / 5, 1.0]]
    assert chance.get_xydata().tolist() == [[0, 0], [1, 1]]
    assert ax.get_legend_handles_labels()[1] == [
        f"heads: AUC {roc_auc_score(TRUTH, SCORES):.3f}",
        f"text: AUC {roc_auc_score(TRUTH, -SCORES):.3f}",
        "chance",
    ]
    assert (heads.get_color(), heads.get_marker()) != (text.get_color(), text.get_marker())
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("false positive rate", "true positive rate")


def test_precision_recall_in_steps():
    ax = precision_recall(SCORES, TRUTH, tau=0.5)
    curve, dot, chance = ax.lines
    assert curve.get_drawstyle() == "steps-post"
    steps = np.abs(np.diff(curve.get_xdata())) * curve.get_ydata()[:-1]
    assert steps.sum() == pytest.approx(average_precision_score(TRUTH, SCORES))
    assert dot.get_xydata().tolist() == [[2 / 3, 2 / 3]]
    assert list(chance.get_ydata()) == [3 / 8, 3 / 8]
    assert ax.get_legend_handles_labels()[1][-1] == "chance (0.375)"
    assert precision_recall(SCORES, TRUTH, tau=2.0).lines[1].get_linestyle() == "--"  # nothing is above: no dot


@pytest.mark.parametrize("draw", [roc, precision_recall])
@pytest.mark.parametrize(
    ("scores", "truth", "words"),
    [
        (SCORES, np.ones(8), "truth must be 0 or 1 for each example, with both among them; got shape .8,."),
        (SCORES, TRUTH * 2, r"with the values \[0, 2\]"),
        (SCORES[:5], TRUTH, r"the scores have the shape \(5,\), but there are 8 labels"),
        ({"a": SCORES * np.nan}, TRUTH, "the scores of 'a' hold 8 values that are not finite"),
        ({}, TRUTH, "there are no scores to draw"),
    ],
)
def test_what_cannot_be_drawn(draw, scores, truth, words):
    with pytest.raises(InputError, match=words):
        draw(scores, truth)
