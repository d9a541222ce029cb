"""The comparison shows every row with its value, spread and number."""

from __future__ import annotations

import itertools

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from headprobe.errors import InputError
from headprobe.plotting.curves import comparison

ROWS = [
    {"name": "hunted heads", "auc": 0.91, "auc_sd": 0.02, "held_out_auc": 0.88, "held_out_auc_sd": 0.05},
    {"name": "random heads", "auc": 0.85, "auc_sd": None, "held_out_auc": float("nan")},
    {"name": "text", "auc": None, "held_out_auc": 0.41},
]


def dots(ax):
    """x, y and half width of each drawn value, by series."""
    series = []
    for container in ax.containers:
        line, _, (bars,) = container
        half = [(segment[1][0] - segment[0][0]) / 2 for segment in bars.get_segments()]
        series.append([(x, y, round(h, 9)) for x, y, h in zip(*line.get_data(), half, strict=True)])
    return series


def test_rows_from_top_to_bottom():
    ax = comparison(ROWS, title="Test videos", names={"auc": "frame AUC"}, highlight=["hunted heads"])
    assert dots(ax) == [[(0.91, 0.0, 0.02), (0.85, 1.0, 0.0)]]
    assert ax.get_ylim() == (2.5, -0.5)
    labels = ax.get_yticklabels()
    assert [label.get_text() for label in labels] == ["hunted heads", "random heads", "text"]
    assert [label.get_fontweight() for label in labels] == ["bold", "normal", "normal"]
    assert [text.get_text() for text in ax.texts] == ["0.910 ± 0.020", "0.850", "not measured"]
    assert (ax.get_xlabel(), ax.get_title(loc="left")) == ("frame AUC", "Test videos")
    low, high = ax.get_xlim()
    assert low < 0.5
    assert high > 0.93
    (chance, *_) = ax.lines
    assert list(chance.get_xdata()) == [0.5, 0.5]
    assert ax.get_legend_handles_labels()[1] == ["chance (0.5)", "frame AUC ± 1 SD"]


def test_a_second_value_has_another_shape():
    ax = comparison(ROWS, second="held_out_auc", names={"auc": "seen", "held_out_auc": "held out"})
    first, second = dots(ax)
    assert [x for x, _, _ in first] == [0.91, 0.85]
    assert [(x, round(y, 2), half) for x, y, half in second] == [(0.88, 0.17, 0.05), (0.41, 2.17, 0.0)]
    markers = [container[0].get_marker() for container in ax.containers]
    assert len(set(markers)) == 2
    assert ax.get_legend_handles_labels()[1] == ["chance (0.5)", "seen ± 1 SD", "held out ± 1 SD"]
    assert ax.get_xlim()[0] < 0.41


def test_without_chance():
    ax = comparison(ROWS, chance=None)
    assert ax.get_legend() is None
    assert ax.get_xlim()[0] > 0.5


@pytest.mark.parametrize("n", [1, 2, 12])
def test_nothing_covers_anything(n):
    rows = [{"name": f"detector number {i}", "auc": 0.6 + 0.01 * i, "auc_sd": 0.01} for i in range(n)]
    ax = comparison(rows, title="Test videos")
    FigureCanvasAgg(ax.figure).draw()
    legend, label = ax.get_legend().get_window_extent(), ax.xaxis.label.get_window_extent()
    assert legend.y1 <= label.y0 + 1
    assert legend.y0 >= 0
    values = [text.get_window_extent() for text in ax.texts]
    assert all(box.x1 <= ax.figure.bbox.x1 for box in values)
    assert all(a.y0 >= b.y1 for a, b in itertools.pairwise(values))


def test_draws_into_the_axes_given_and_leaves_no_trace():
    import matplotlib.pyplot as plt

    settings, figures = dict(matplotlib.rcParams), plt.get_fignums()
    ax = Figure().subplots()
    assert comparison(ROWS, ax=ax) is ax
    comparison(ROWS)
    assert plt.get_fignums() == figures
    assert dict(matplotlib.rcParams) == settings


@pytest.mark.parametrize(
    ("rows", "how", "words"),
    [
        ([], {}, "no row has a value for 'auc'; the rows have the keys none"),
        ([{"name": "a", "ap": 1.0}], {}, "no row has a value for 'auc'; the rows have the keys ap, name"),
        ([{"name": "a", "auc": np.nan}], {}, "no row has a value for 'auc'"),
        ([{"name": "a", "auc": 1}, {"name": "a", "auc": 0}], {}, "used twice: a"),
        (ROWS, {"second": "ap"}, "no row has a value for 'ap'"),
    ],
)
def test_rows_that_cannot_be_compared(rows, how, words):
    with pytest.raises(InputError, match=words):
        comparison(rows, **how)
