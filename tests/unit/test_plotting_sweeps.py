"""Curves over a setting and over layers show every value and their mean."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from headprobe.errors import InputError
from headprobe.plotting.curves import layers, sweep


def test_mean_spread_and_every_repeat():
    ax = sweep({4: [0.6, 0.8], 1: [0.5, 0.5], 16: [0.9, np.nan]}, over="k", label="AUC", chosen=4, chance=0.5)
    mean, chance, chosen = ax.lines
    assert mean.get_xydata().round(9).tolist() == [[1.0, 0.5], [4.0, 0.7], [16.0, 0.9]]
    band, *dots = ax.collections
    half = np.sqrt(0.02)
    at_four = sorted(y for x, y in band.get_paths()[0].vertices if x == 4)
    assert (at_four[0], at_four[-1]) == pytest.approx((0.7 - half, 0.7 + half))
    points = sorted(tuple(point) for one in dots for point in one.get_offsets().tolist())
    assert points == [(1.0, 0.5), (1.0, 0.5), (4.0, 0.6), (4.0, 0.8), (16.0, 0.9)]
    assert (list(chosen.get_xdata()), list(chance.get_ydata())) == ([4, 4], [0.5, 0.5])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("number of heads k", "AUC (mean ± 1 SD)")
    assert ax.get_legend_handles_labels()[1] == ["chance (0.5)", "chosen: 4"]
    assert ax.get_xscale() == "log"


def test_single_values_and_several_methods():
    ax = sweep({"hunted": {0.0: 0.8, 0.5: 0.9}, "random": {0.0: 0.7, 0.5: 0.7}}, over="lambda", label="AUC")
    assert len(ax.collections) == 0
    hunted, random = ax.lines
    assert (hunted.get_label(), random.get_label()) == ("hunted", "random")
    assert hunted.get_marker() != random.get_marker()
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("instability penalty λ", "AUC")
    assert ax.get_xscale() == "linear"


@pytest.mark.parametrize(
    ("over", "log", "words", "scale"),
    [
        ("calibration_size", None, "calibration videos", "log"),
        ("calibration_size", False, "calibration videos", "linear"),
        ("seconds of video", None, "seconds of video", "linear"),
        ("seconds of video", True, "seconds of video", "log"),
    ],
)
def test_what_the_setting_is(over, log, words, scale):
    ax = sweep({4: 0.5, 8: 0.6}, over=over, log=log)
    assert (ax.get_xlabel(), ax.get_xscale()) == (words, scale)
    assert ax.get_legend() is None


def test_numbers_stand_at_the_settings_and_apart():
    ax = sweep({k: 0.5 for k in range(1, 49)}, over="k")
    FigureCanvasAgg(ax.figure).draw()
    labels = [label for label in ax.get_xticklabels() if label.get_text()]
    assert labels[0].get_text() == "1"
    assert len(labels) >= 6
    boxes = [label.get_window_extent() for label in labels]
    assert all(a.x1 < b.x0 for a, b in itertools.pairwise(boxes))
    assert [float(label.get_text()) for label in labels] == ax.get_xticks().tolist()


def test_every_head_over_its_layer():
    scores = np.array([[0.1, 0.9], [0.4, np.nan], [np.nan, np.nan], [0.3, 0.2]])
    ax = layers(scores, mark=["L3H0"], annotate_top=1, label="AUC", chance=0.25, title="t")
    mean, highest, chance = ax.lines
    assert mean.get_xydata().round(9).tolist() == [[0.0, 0.5], [1.0, 0.4], [3.0, 0.25]]
    assert highest.get_ydata().tolist() == [0.9, 0.4, 0.3]
    heads, marked = ax.collections
    assert sorted(heads.get_offsets().tolist()) == [[0, 0.1], [0, 0.9], [1, 0.4], [3, 0.2], [3, 0.3]]
    assert marked.get_offsets().tolist() == [[3, 0.3]]
    assert [text.get_text() for text in ax.texts] == ["L3H0", "L0H1"]
    assert list(chance.get_ydata()) == [0.25, 0.25]
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title(loc="left")) == ("layer", "AUC", "t")
    assert ax.get_xlim() == (-0.6, 3.6)  # the layer without heads has its place


@pytest.mark.parametrize(
    ("draw", "words"),
    [
        (lambda: sweep({}), "a sweep needs a mapping"),
        (lambda: sweep([0.1]), "a sweep needs a mapping"),
        (lambda: sweep({"a": {1: 0.5}, "b": 0.5}), "some values are mappings and some are scores"),
        (lambda: sweep({1: np.nan}), "there is no score to draw$"),
        (lambda: sweep({"a": {1: 0.5}, "b": {}}), "there is no score to draw for 'b'"),
        (lambda: sweep({0: 0.5, 1: 0.6}, over="k"), "the setting 0 cannot be on a logarithmic axis: use log=False"),
        (lambda: layers([[1.0, np.nan]], mark=["L0H1"]), "L0H1 is to be marked, but has no score"),
        (lambda: layers(np.zeros((1, 2, 3))), r"a plot over layers shows an array \[layer, head\]"),
    ],
)
def test_what_cannot_be_drawn(draw, words):
    with pytest.raises(InputError, match=words):
        draw()
