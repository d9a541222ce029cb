"""The heatmap shows the scores it was given, where they belong, and touches nothing global."""

from __future__ import annotations

import itertools

import matplotlib
import numpy as np
import pytest
import xarray as xr
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from headprobe.errors import InputError
from headprobe.heads import HeadSet
from headprobe.plotting.heatmap import heatmap


@pytest.fixture
def scores():
    return np.random.default_rng(0).random((6, 8))


def outlines(ax):
    """(x, y, line style) of the inner, dark outlines."""
    return [
        (*patch.get_xy(), patch.get_linestyle())
        for patch in ax.patches
        if isinstance(patch, Rectangle) and patch.get_linewidth() < 2
    ]


def drawn_boxes(ax):
    """Boxes of the names in pixels after drawing."""
    canvas = FigureCanvasAgg(ax.figure)
    canvas.draw()
    return [text.get_bbox_patch().get_window_extent() for text in ax.texts]


def test_layer_zero_is_at_the_bottom(scores):
    ax = heatmap(scores, label="RSS", title="Five prompts")
    (image,) = ax.images
    np.testing.assert_array_equal(image.get_array(), scores)
    assert image.origin == "lower"
    assert ax.get_ylim() == (-0.5, 5.5)
    assert ax.get_xlim() == (-0.5, 7.5)
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title()) == ("head", "layer", "Five prompts")
    assert image.get_clim() == (scores.min(), scores.max())
    assert image.colorbar.ax.get_ylabel() == "RSS"
    assert [tick.get_text() for tick in ax.get_yticklabels()] == list("012345")


def test_data_array_in_any_order_with_its_own_numbers(scores):
    array = xr.DataArray(
        scores.T[:, 2:],
        dims=("head", "layer"),
        coords={"layer": [4, 5, 6, 7], "head": np.arange(8)},
        name="saliency",
    )
    ax = heatmap(array, mark=["L4H7"])
    np.testing.assert_array_equal(ax.images[0].get_array(), scores[2:])
    assert ax.images[0].colorbar.ax.get_ylabel() == "saliency"
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["4", "5", "6", "7"]
    assert outlines(ax) == [(6.5, -0.5, "-")]


def test_marked_and_top_heads_are_outlined_and_named(scores):
    scores[3, 2], scores[5, 7], scores[0, 0] = 2.0, 3.0, 1.5
    ax = heatmap(scores, mark=HeadSet(["L5H7", "L1H1"]), annotate_top=3)
    assert [text.get_text() for text in ax.texts] == ["L5H7", "L1H1", "L3H2", "L0H0"]
    assert [text.xy for text in ax.texts] == [(7, 5), (1, 1), (2, 3), (0, 0)]
    assert outlines(ax) == [(6.5, 4.5, "-"), (0.5, 0.5, "-"), (1.5, 2.5, ":"), (-0.5, -0.5, ":")]
    assert len(ax.patches) == 8  # each outline has a white one beneath it


def test_ties_are_named_in_order_of_layer_and_head():
    ax = heatmap(np.ones((3, 3)), annotate_top=2)
    assert [text.get_text() for text in ax.texts] == ["L0H0", "L0H1"]


@pytest.mark.parametrize("shape", [(6, 8), (28, 28), (80, 64)])
def test_names_stay_apart_on_small_and_large_maps(shape):
    rng = np.random.default_rng(1)
    # Five neighbours in the middle and the four corners: the hardest places.
    layer, head = shape[0] // 2, shape[1] // 2
    mark = [(layer, head), (layer, head + 1), (layer + 1, head), (layer + 1, head + 2), (layer - 1, head)]
    mark += [(0, 0), (0, shape[1] - 1), (shape[0] - 1, 0), (shape[0] - 1, shape[1] - 1)]
    ax = heatmap(rng.random(shape), mark=mark)
    boxes = drawn_boxes(ax)
    crossing = [(i, j) for i in range(9) for j in range(i) if boxes[i].overlaps(boxes[j])]
    assert crossing == []
    page = ax.figure.bbox
    assert all(page.contains(box.x0, box.y0) and page.contains(box.x1, box.y1) for box in boxes)


def test_numbers_at_the_axes_do_not_touch_on_a_large_map():
    ax = heatmap(np.random.default_rng(0).random((80, 64)))
    FigureCanvasAgg(ax.figure).draw()
    for labels, axis in ((ax.get_xticklabels(), "x"), (ax.get_yticklabels(), "y")):
        boxes = [label.get_window_extent() for label in labels if label.get_text()]
        assert len(boxes) >= 8
        ends = [(b.x0, b.x1) if axis == "x" else (b.y0, b.y1) for b in boxes]
        assert all(a[1] < b[0] for a, b in itertools.pairwise(ends))


def test_heads_that_were_not_scored_are_crossed_out(scores):
    scores[2] = np.nan
    ax = heatmap(scores)
    (crosses,) = ax.collections
    assert sorted(map(tuple, crosses.get_offsets().tolist())) == [(float(h), 2.0) for h in range(8)]
    assert ax.images[0].get_array().mask.sum() == 8
    assert ax.images[0].get_clim() == (np.nanmin(scores), np.nanmax(scores))


def test_a_diverging_map_is_centred():
    ax = heatmap(np.array([[-1.0, 3.0]]), center=0.0, cmap="PuOr")
    norm = ax.images[0].norm
    assert [float(norm(value)) for value in (-3, 0, 3)] == [0.0, 0.5, 1.0]


def test_given_limits(scores):
    assert heatmap(scores, vmin=0.0, vmax=2.0).images[0].get_clim() == (0.0, 2.0)


def test_draws_into_the_axes_given_and_leaves_no_trace(scores):
    import matplotlib.pyplot as plt

    settings, figures = dict(matplotlib.rcParams), plt.get_fignums()
    figure = Figure(layout="constrained")
    left, right = figure.subplots(1, 2)
    assert heatmap(scores, ax=left) is left
    assert len(right.images) == 0
    own = heatmap(scores)
    assert own.figure is not figure
    assert plt.get_fignums() == figures
    assert dict(matplotlib.rcParams) == settings


@pytest.mark.parametrize(
    ("score_map", "how", "words"),
    [
        (np.zeros((2, 3, 4)), {}, r"shows an array \[layer, head\], got shape \(2, 3, 4\)"),
        (
            xr.DataArray(np.zeros((2, 3, 4)), dims=("prompt", "layer", "head")),
            {},
            r"got \('prompt', 'layer', 'head'\); choose one with .sel",
        ),
        (np.full((2, 3), np.nan), {}, r"the map of shape \(2, 3\) has no finite score"),
        (np.zeros((2, 3)), {"mark": ["L2H0"]}, "L2H0 is to be marked, but the map has layers 0 to 1"),
        (np.zeros((2, 3)), {"annotate_top": 7}, "annotate_top must be 0 to the 6 heads"),
    ],
)
def test_maps_that_cannot_be_drawn(score_map, how, words):
    with pytest.raises(InputError, match=words):
        heatmap(score_map, **how)
