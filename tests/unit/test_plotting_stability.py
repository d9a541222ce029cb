"""The stability plot puts heads at their mean and spread, and lines where RSS is equal."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from headprobe.errors import InputError
from headprobe.metrics.stability import rss
from headprobe.plotting.ranks import stability_plot
from headprobe.scores import score_map


@pytest.fixture
def maps():
    values = np.random.default_rng(0).random((5, 6, 8))
    values[:, 5, 7] = np.nan
    return score_map(values, prompts=list("abcde"), name="saliency")


def levels(ax):
    """RSS of every line drawn: the mean where the spread is 0."""
    return [line.get_xy1()[1] for line in ax.lines]


def test_every_head_at_its_spread_and_mean(maps):
    ax = stability_plot(maps, mark=["L2H3"], title="t")
    heads, marked = ax.collections
    there = np.isfinite(maps.values[0])
    np.testing.assert_allclose(heads.get_offsets()[:, 0], maps.values.std(0)[there])
    np.testing.assert_allclose(heads.get_offsets()[:, 1], maps.values.mean(0)[there])
    np.testing.assert_allclose(marked.get_offsets(), [[maps.values.std(0)[2, 3], maps.values.mean(0)[2, 3]]])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("standard deviation over 5 prompts", "mean saliency")
    assert "L2H3" in [text.get_text() for text in ax.texts]


def test_lines_join_equal_rss(maps):
    ax = stability_plot(maps, instability_penalty=0.5, k=5)
    assert {line.get_slope() for line in ax.lines} == {0.5}
    fifth = np.sort(rss(maps, 0.5).values[np.isfinite(maps.values[0])])[-5]
    assert fifth in levels(ax)
    heads = ax.collections[0].get_offsets()
    assert (heads[:, 1] - 0.5 * heads[:, 0] >= fifth - 1e-12).sum() == 5
    assert f"{fifth:.3g}: 5 heads" in [text.get_text() for text in ax.texts]
    assert "RSS = mean − 0.5 sd" in [text.get_text() for text in ax.texts]
    named = [text for text in ax.texts if text.get_text() in {f"{level:.4g}" for level in levels(ax)}]
    assert len(named) >= 3
    # A line's number stands where it ends.
    for text in named:
        x, y = text.xy
        assert y - 0.5 * x == pytest.approx(float(text.get_text()), abs=1e-9)


def test_without_a_penalty_the_lines_are_level(maps):
    ax = stability_plot(maps, instability_penalty=0.0, annotate_top=2)
    assert {line.get_slope() for line in ax.lines} == {0.0}
    best = np.argsort(-np.nan_to_num(maps.values.mean(0)), axis=None)[:2]
    names = [text.get_text() for text in ax.texts if text.get_text().startswith("L")]
    assert names == [f"L{at // 8}H{at % 8}" for at in best]


def test_numbers_of_lines_stay_on_the_page_and_apart(maps):
    ax = stability_plot(maps, instability_penalty=2.0, k=3)
    FigureCanvasAgg(ax.figure).draw()
    boxes = [text.get_window_extent() for text in ax.texts]
    page = ax.figure.bbox
    assert all(page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1 for box in boxes)
    crossing = [(i, j) for i in range(len(boxes)) for j in range(i) if boxes[i].overlaps(boxes[j])]
    assert crossing == []


def test_heads_that_never_change_and_many_heads():
    same = score_map(np.ones((3, 2, 2)), prompts=list("abc"))
    assert stability_plot(same).collections[0].get_offsets().tolist() == [[0.0, 1.0]] * 4
    many = score_map(np.random.default_rng(0).random((3, 80, 64)), prompts=list("abc"))
    small = stability_plot(many).collections[0].get_sizes()[0]
    assert small < stability_plot(same).collections[0].get_sizes()[0]


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"dim": "seed"}, r"expected a score map with dims \('seed', 'layer', 'head'\)"),
        ({"instability_penalty": -1.0}, "instability_penalty is -1.0; it must be a number of at least 0"),
        ({"mark": ["L9H0"]}, "L9H0 is to be marked, but the map has layers 0 to 5"),
        ({"mark": ["L5H7"]}, "L5H7 is to be marked, but has no score"),
        ({"k": 48}, "k is 48; it must be an integer from 1 to 47"),
    ],
)
def test_what_cannot_be_drawn(maps, how, words):
    with pytest.raises(InputError, match=words):
        stability_plot(maps, **how)
