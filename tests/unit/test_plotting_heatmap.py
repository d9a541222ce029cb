"""The heatmap shows the scores it was given, where they belong, and touches nothing global."""

from __future__ import annotations

import itertools

import matplotlib
import numpy as np
import pytest
import xarray as xr
from equality import same_bits
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle, StepPatch

from headprobe.errors import InputError
from headprobe.heads import HeadSet
from headprobe.plotting.heatmap import heatmap
from headprobe.scores import score_map


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
    (image,) = ax.collections
    assert same_bits(image.get_array(), scores, of="the array that was drawn")
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
    assert same_bits(ax.collections[0].get_array(), scores[2:], of="the array that was drawn")
    assert ax.collections[0].colorbar.ax.get_ylabel() == "saliency"
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


def test_heads_without_a_score_are_crossed_out(scores):
    scores[2, 3], scores[4, :2] = np.nan, np.nan
    ax = heatmap(scores)
    _, crosses = ax.collections
    assert sorted(map(tuple, crosses.get_offsets().tolist())) == [(0.0, 4.0), (1.0, 4.0), (3.0, 2.0)]
    assert ax.collections[0].get_array().mask.sum() == 3
    assert ax.collections[0].get_clim() == (np.nanmin(scores), np.nanmax(scores))
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["no score"]
    assert steps(ax) == []


def steps(ax):
    """Where the layers end: (ends, edges) of the line behind which there are no heads."""
    return [
        (patch.get_data().values.tolist(), patch.get_data().edges.tolist())
        for patch in ax.patches
        if isinstance(patch, StepPatch)
    ]


def test_heads_that_a_layer_does_not_have_are_left_blank(scores):
    scores[1, 5:], scores[3] = np.nan, np.nan
    ax = heatmap(scores, mark=["L1H4"], marginals=True)
    assert len(ax.collections) == 1
    assert ax.get_legend() is None
    ((ends, edges),) = steps(ax)
    assert ends == [7.5, 4.5, 7.5, -0.5, 7.5, 7.5]
    assert edges == [-0.5, 0.5, 1.5, 2.5, 3.5, 4.5, 5.5]
    mean = ax.child_axes[-1].lines[0].get_xdata()
    assert np.isnan(mean).tolist() == [False, False, False, True, False, False]


def test_heads_that_are_not_significant_are_hatched(scores):
    p = xr.DataArray(np.full((6, 8), 0.01), dims=("layer", "head"), name="q (BH)")
    p[0, 0], p[5, 7], p[2, 2] = 0.2, 0.9, 0.05
    scores[0, 0], scores[5, 7] = scores.min() - 1, scores.max() + 1  # one dark cell, one light
    ax = heatmap(scores, p_values=p, alpha=0.05)
    hatched = [patch for patch in ax.patches if patch.get_hatch()]
    cells = {tuple(patch.get_path().vertices[:4].mean(0)): patch.get_edgecolor()[0] for patch in hatched}
    assert set(cells) == {(0.0, 0.0), (7.0, 5.0)}
    assert cells[0.0, 0.0] > 0.7 > 0.3 > cells[7.0, 5.0]  # light lines on dark, dark lines on light
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["not significant: q (BH) > 0.05"]


def test_hatching_leaves_out_heads_that_are_not_there(scores):
    scores[0, 6:] = np.nan
    p = np.where(np.isnan(scores), np.nan, 0.5)
    (hatched,) = [patch for patch in heatmap(scores, p_values=p, vmin=5, vmax=6).patches if patch.get_hatch()]
    assert len(hatched.get_path().vertices) == 5 * 46


def test_marginals_are_each_layers_highest_and_mean_score(scores):
    ax = heatmap(scores, marginals=True)
    (side,) = ax.child_axes
    mean, highest = side.lines
    np.testing.assert_allclose(mean.get_xdata(), scores.mean(1))
    np.testing.assert_allclose(highest.get_xdata(), scores.max(1))
    assert list(mean.get_ydata()) == list(range(6))
    assert side.get_ylim() == ax.get_ylim()
    FigureCanvasAgg(ax.figure).draw()
    bar = ax.collections[0].colorbar.ax.get_window_extent()
    assert ax.get_window_extent().x1 < side.get_window_extent().x0 < side.get_window_extent().x1 < bar.x0


@pytest.mark.parametrize("layout", ["constrained", "tight", None])
def test_the_colour_bar_keeps_off_the_marginals_in_every_layout(scores, layout):
    figure = Figure(figsize=(9, 4), layout=layout)
    axes = figure.subplots(1, 2)
    for ax in axes:
        heatmap(scores, marginals=True, ax=ax)
    FigureCanvasAgg(figure).draw()
    for ax in axes:
        assert ax.child_axes[0].get_window_extent().x1 < ax.collections[0].colorbar.ax.get_window_extent().x0


def test_the_unit_stands_at_the_colour_bar(scores):
    array = xr.DataArray(scores, dims=("layer", "head"), name="contribution", attrs={"units": "logits"})
    assert heatmap(array).collections[0].colorbar.ax.get_ylabel() == "contribution (logits)"
    assert heatmap(array, label="effect").collections[0].colorbar.ax.get_ylabel() == "effect"
    assert heatmap(array, colorbar=False).collections[0].colorbar is None


def test_outlines_of_small_cells_keep_off_them():
    big, small = heatmap(np.eye(6), mark=["L1H1"]), heatmap(np.random.default_rng(0).random((80, 64)), mark=["L1H1"])
    assert big.patches[0].get_width() == 1.0
    assert small.patches[0].get_width() > 1.2


def test_a_diverging_map_is_centred():
    ax = heatmap(np.array([[-1.0, 3.0]]), center=0.0, cmap="PuOr")
    norm = ax.collections[0].norm
    assert [float(norm(value)) for value in (-3, 0, 3)] == [0.0, 0.5, 1.0]
    assert heatmap(np.array([[-1.0, 3.0]]), center=0.0).collections[0].cmap.name == "PuOr"


def test_given_limits(scores):
    assert heatmap(scores, vmin=0.0, vmax=2.0).collections[0].get_clim() == (0.0, 2.0)


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
        (np.zeros((2, 3)), {"annotate_top": 7}, "annotate_top is 7; it must be an integer from 0 to 6."),
        (
            np.zeros((2, 3)),
            {"p_values": np.ones((2, 4))},
            "p-values are for 2 layers and 4 heads, the scores for 2",
        ),
        (
            np.zeros((2, 3)),
            {"p_values": [[0.1, np.nan, 0.2]] * 2},
            "2 heads have a score but none of the p-values, the first is L0H1",
        ),
        (
            np.zeros((2, 3)),
            {"p_values": np.ones((2, 3)), "alpha": 5},
            "alpha is 5; it must be a number above 0 and of at most 1.",
        ),
    ],
)
def test_maps_that_cannot_be_drawn(score_map, how, words):
    with pytest.raises(InputError, match=words):
        heatmap(score_map, **how)


def test_p_values_without_a_name_are_called_p():
    scores = score_map([[0.1, 0.9]])
    for given, words in ((score_map([[0.5, 0.01]]), "p > 0.05"), (score_map([[0.5, 0.01]], name="q"), "q > 0.05")):
        legend = heatmap(scores, p_values=given).get_legend()
        assert [text.get_text() for text in legend.get_texts()] == [f"not significant: {words}"]


@pytest.mark.parametrize(
    ("limits", "ends"),
    [({}, "neither"), ({"vmin": 0.3}, "min"), ({"vmax": 0.5}, "max"), ({"vmin": 0.3, "vmax": 0.5}, "both")],
)
def test_scores_beyond_the_colours_show_as_an_arrow_at_the_end_of_the_bar(limits, ends):
    figure = heatmap(np.array([[0.1, np.nan], [0.4, 0.9]]), **limits).figure
    (bar,) = [ax for ax in figure.axes if ax.get_label() == "<colorbar>"]
    assert bar._colorbar.extend == ends


def dashes(ax):
    """Row and column of every dash."""
    return {
        (int(y), int(x))
        for one in ax.collections
        if one.get_paths()[0].vertices.shape == (2, 2)
        for x, y in one.get_offsets()
    }


def test_cells_below_the_centre_carry_a_dash_for_print_without_colours():
    values = np.array([[2.0, -2.0, np.nan], [-1.0, -0.05, 1.0]])
    assert dashes(heatmap(values, center=0)) == {(0, 1), (1, 0)}
    assert dashes(heatmap(values, center=0, mark=["L0H1"])) == {(1, 0)}
    assert dashes(heatmap(values + 5, center=5)) == {(0, 1), (1, 0)}
    assert dashes(heatmap(values)) == set()
    rng = np.random.default_rng(0)
    assert dashes(heatmap(rng.normal(size=(80, 64)), center=0)) == set()
