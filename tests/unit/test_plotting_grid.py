"""A grid of heatmaps shows every map, on one scale, with names at its edges only."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from equality import same_bits
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from headprobe.errors import InputError
from headprobe.plotting.heatmap import heatmap_grid
from headprobe.scores import score_map


@pytest.fixture
def maps():
    values = np.random.default_rng(0).random((5, 6, 8))
    values[3] += 2
    return score_map(values, prompts=[f"p{i}" for i in range(5)], name="RSS")


def bars(figure):
    return [ax for ax in figure.axes if ax.get_label() == "<colorbar>"]


def test_every_prompt_on_one_scale(maps):
    axes = heatmap_grid(maps, mark=["L5H7"], annotate_top=1)
    assert list(axes) == ["p0", "p1", "p2", "p3", "p4"]
    for number, (name, ax) in enumerate(axes.items()):
        assert same_bits(ax.collections[0].get_array(), maps.values[number], of="the array that was drawn")
        assert ax.collections[0].get_clim() == (maps.values.min(), maps.values.max())
        assert ax.get_title() == name
        assert "L5H7" in [text.get_text() for text in ax.texts]
    (bar,) = bars(axes["p0"].figure)
    assert bar.get_ylabel() == "RSS"
    # Three panels above two: names of axes at the left and below only.
    assert [ax.get_ylabel() for ax in axes.values()] == ["layer", "", "", "layer", ""]
    assert [ax.get_xlabel() for ax in axes.values()] == ["", "", "head", "head", "head"]
    assert len({tuple(ax.get_yticks()) for ax in axes.values()}) == 1


def test_each_on_its_own_scale(maps):
    axes = heatmap_grid(maps, scale="each", label="score")
    for number, ax in enumerate(axes.values()):
        assert ax.collections[0].get_clim() == (maps.values[number].min(), maps.values[number].max())
    assert len(bars(axes["p0"].figure)) == 5


def test_metrics_are_rows_and_prompts_columns():
    values = np.random.default_rng(0).random((2, 3, 4, 4))
    maps = score_map(values, metrics=["lda", "nmi"], prompts=["a", "b", "c"])
    axes = heatmap_grid(maps, center=0.5)
    assert list(axes) == list(itertools.product(["lda", "nmi"], ["a", "b", "c"]))
    assert same_bits(axes["nmi", "b"].collections[0].get_array(), values[1, 1], of="the array that was drawn")
    assert [ax.get_title() for ax in axes.values()] == ["a", "b", "c", "", "", ""]
    assert [ax.get_ylabel() for ax in axes.values()] == ["lda\nlayer", "", "", "nmi\nlayer", "", ""]
    assert axes["lda", "a"].collections[0].norm.vcenter == 0.5
    FigureCanvasAgg(axes["lda", "a"].figure).draw()
    boxes = [ax.get_window_extent() for ax in axes.values()]
    assert boxes[0].y0 > boxes[3].y1
    assert boxes[0].x1 < boxes[1].x0


def test_maps_of_different_shapes():
    axes = heatmap_grid({"small": np.zeros((2, 3)), "large": np.ones((80, 64))}, columns=1)
    assert [ax.collections[0].get_array().shape for ax in axes.values()] == [(2, 3), (80, 64)]
    assert [ax.collections[0].get_clim() for ax in axes.values()] == [(0.0, 1.0)] * 2
    assert [ax.get_ylabel() for ax in axes.values()] == ["layer", "layer"]


def test_draws_into_the_axes_given(maps):
    figure = Figure(figsize=(12, 4))
    given = figure.subplots(1, 5)
    assert list(heatmap_grid(maps, axes=given).values()) == list(given)


@pytest.mark.parametrize(
    ("maps", "how", "words"),
    [
        (np.zeros((2, 3, 4)), {}, r"a grid shows a DataArray with the dims layer, head and one or two others"),
        (score_map(np.zeros((2, 3))), {}, r"got \('layer', 'head'\)"),
        ({}, {}, "a grid needs one map or more"),
        ({"a": np.zeros((2, 3))}, {"scale": "row"}, "scale is 'row'; choose one of 'shared', 'each'."),
        ({"a": np.zeros((2, 3))}, {"columns": 3}, "columns is 3; it must be an integer from 1 to 1."),
        ({"a": np.zeros((2, 3))}, {"axes": []}, "there are 1 panels to draw, but 0 axes"),
        ({"a": np.zeros((2, 3))}, {"mark": ["L2H0"]}, "L2H0 is to be marked, but the map has layers 0 to 1"),
    ],
)
def test_grids_that_cannot_be_drawn(maps, how, words):
    with pytest.raises(InputError, match=words):
        heatmap_grid(maps, **how)
