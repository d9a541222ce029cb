"""Every figure: into the Axes given, under every theme, on large maps, to vector files, and without a trace."""

from __future__ import annotations

import itertools

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import seaborn
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from headprobe.metrics.significance import compare_with_null
from headprobe.plotting import curves
from headprobe.plotting.embedding import embedding
from headprobe.plotting.frames import frames
from headprobe.plotting.heatmap import heatmap, heatmap_grid
from headprobe.plotting.ranks import consensus_plot, null_plot, rank_plot, stability_plot
from headprobe.plotting.timeline import timeline
from headprobe.scores import score_map

RNG = np.random.default_rng(0)
MAPS = score_map(RNG.random((3, 6, 8)), prompts=["a", "b", "c"], name="RSS")
HEADS = ["L2H3", "L5H7"]
Y = np.arange(20) % 2
ONE = MAPS.isel(prompt=0, drop=True)
NULL = compare_with_null(ONE, ONE.expand_dims(permutation=40) * 0.9)
CLIP = RNG.integers(0, 256, (2, 12, 16, 3), dtype=np.uint8)
SPANS = [(0, 10), (10, 20)]

# From the Axes to draw into to what was drawn.
FIGURES = {
    "heatmap": lambda ax: heatmap(MAPS[0], HEADS, ax=ax, marginals=True, p_values=MAPS[1].values, title="t"),
    "rank_plot": lambda ax: rank_plot(MAPS[0], HEADS, ax=ax, k=5, chance=0.5, title="t"),
    "consensus_plot": lambda ax: consensus_plot(MAPS, HEADS, ax=ax, k=5, title="t"),
    "stability_plot": lambda ax: stability_plot(MAPS, HEADS, ax=ax, k=5, title="t"),
    "null_plot": lambda ax: null_plot(NULL, HEADS, ax=ax, title="t"),
    "frames": lambda ax: frames(CLIP, np.ones((2, 2, 2, 2)), HEADS, ax=ax, title="t"),
    "timeline": lambda ax: timeline(
        [0.1, 0.9], SPANS, 10, tau=0.5, events=[(1, 2)], thumbnails=2, video=np.repeat(CLIP, 10, 0), ax=ax, title="t"
    ),
    "comparison": lambda ax: curves.comparison([{"name": "a", "auc": 0.9}], ax=ax, title="t"),
    "roc": lambda ax: curves.roc(RNG.random(20), Y, ax=ax, title="t"),
    "precision_recall": lambda ax: curves.precision_recall(RNG.random(20), Y, ax=ax, title="t"),
    "sweep": lambda ax: curves.sweep({1: [0.5, 0.6], 5: [0.7, 0.8]}, ax=ax, chance=0.5, title="t"),
    "layers": lambda ax: curves.layers(MAPS[0], HEADS, ax=ax, title="t"),
}
OWN = {
    **{name: lambda draw=draw: draw(None).figure for name, draw in FIGURES.items()},
    "heatmap_grid": lambda: heatmap_grid(MAPS, HEADS)["a"].figure,
    "embedding": lambda: embedding(RNG.random((20, 2, 3, 4)), ["L1H2"], Y).heads.ax.figure,
}
BIG = RNG.random((80, 64))
LARGE = {
    "heatmap": lambda: heatmap(BIG, annotate_top=5, marginals=True, p_values=1 - BIG, alpha=0.5),
    "rank_plot": lambda: rank_plot(BIG, annotate_top=5, k=20),
    "consensus_plot": lambda: consensus_plot(score_map([BIG, 1 - BIG], prompts=["a", "b"]), ["L79H63", "L0H0"], k=9),
    "stability_plot": lambda: stability_plot(score_map([BIG, BIG**2], prompts=["a", "b"]), annotate_top=5, k=20),
    "layers": lambda: curves.layers(BIG, annotate_top=5),
}


def themes():
    yield pytest.param({}, id="default")
    for style in ("seaborn-v0_8-darkgrid", "dark_background"):
        yield pytest.param(plt.style.library[style], id=style)
    context = {**seaborn.axes_style("ticks"), **seaborn.plotting_context("talk")}
    yield pytest.param({key: value for key, value in context.items() if key in matplotlib.rcParams}, id="talk")


@pytest.fixture(autouse=True)
def without_a_trace():
    settings, figures = dict(matplotlib.rcParams), plt.get_fignums()
    yield
    assert plt.get_fignums() == figures
    assert dict(matplotlib.rcParams) == settings


@pytest.mark.parametrize("name", FIGURES)
def test_draws_into_the_axes_given(name):
    figure = Figure(figsize=(9, 4))
    left, right = figure.subplots(1, 2)
    assert FIGURES[name](left) is left
    assert [*right.lines, *right.images, *right.collections, *right.patches, *right.texts] == []
    FigureCanvasAgg(figure).draw()


@pytest.mark.parametrize("theme", list(themes()))
def test_every_theme(theme):
    """Words have the theme's size and can be read on its page; no grid lies over a map."""
    with matplotlib.rc_context(theme):
        page = matplotlib.colors.to_rgb(matplotlib.rcParams["figure.facecolor"])
        base = matplotlib.rcParams["font.size"]
        figure = Figure(figsize=(16, 16), layout="none")
        for (name, draw), ax in zip(FIGURES.items(), figure.subplots(4, 3).flat, strict=True):
            draw(ax)
            words = [text for text in ax.findobj(Text) if text.get_text() and text.get_visible()]
            assert min(text.get_size() for text in words) >= 0.7 * base, name
            for text in words:
                box = text.get_bbox_patch()
                behind = page if box is None else box.get_facecolor()
                distance = np.abs(np.subtract(matplotlib.colors.to_rgb(text.get_color()), behind[:3])).max()
                assert distance > 0.3, (name, text.get_text())
            if ax.images or name == "heatmap":
                assert not any(line.get_visible() for line in [*ax.get_xgridlines(), *ax.get_ygridlines()]), name
        FigureCanvasAgg(figure).draw()


@pytest.mark.parametrize("name", OWN)
def test_own_figures_are_complete_and_go_to_vector_files(name, tmp_path):
    figure = OWN[name]()
    for ending in ("svg", "pdf") if name in ("heatmap", "frames", "timeline") else ("svg",):
        figure.savefig(tmp_path / f"a.{ending}")
        assert 1_000 < (tmp_path / f"a.{ending}").stat().st_size < 500_000
    FigureCanvasAgg(figure).draw()
    page = figure.bbox
    for ax in figure.axes:
        box = ax.get_tightbbox()
        assert page.x0 - 1 <= box.x0 <= box.x1 <= page.x1 + 1, (name, ax)
        assert page.y0 - 1 <= box.y0 <= box.y1 <= page.y1 + 1, (name, ax)


@pytest.mark.parametrize("name", LARGE)
def test_eighty_layers_of_sixty_four_heads(name, tmp_path):
    ax = LARGE[name]()
    ax.figure.savefig(tmp_path / "a.svg")
    assert (tmp_path / "a.svg").stat().st_size < 2_000_000
    FigureCanvasAgg(ax.figure).draw()
    names = [Text.get_window_extent(text) for text in ax.texts if text.get_text().startswith("L")]
    assert not [pair for pair in itertools.combinations(names, 2) if pair[0].overlaps(pair[1])]
    for labels in (ax.get_xticklabels(), ax.get_yticklabels()):
        boxes = [label.get_window_extent() for label in labels if label.get_text() and label.get_visible()]
        assert not [pair for pair in itertools.combinations(boxes, 2) if pair[0].overlaps(pair[1])]


def test_a_figure_of_its_own_grows_with_the_words():
    from headprobe.plotting._canvas import new_axes

    assert new_axes(4, 3).figure.get_size_inches().tolist() == [4, 3]
    with matplotlib.rc_context({"font.size": 20}):
        assert new_axes(4, 3).figure.get_size_inches().tolist() == pytest.approx([8, 6], rel=1e-3)
