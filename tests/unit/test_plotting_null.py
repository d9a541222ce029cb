"""The null plot shows the maxima of relabelled data, the thresholds, and where every head stands."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from headprobe.errors import InputError
from headprobe.metrics.significance import compare_with_null
from headprobe.plotting._canvas import VERMILION
from headprobe.plotting.ranks import null_plot
from headprobe.scores import score_map


def result(studentise=False, prompts=False, n=199):
    """Scores of noise with one planted head, whose null is narrow, beside those of relabelled noise."""
    rng = np.random.default_rng(0)
    shape = (2, 4, 6) if prompts else (4, 6)
    scale = np.linspace(0.5, 1.5, 6)
    observed, null = rng.normal(size=shape) * scale, rng.normal(size=(n, *shape)) * scale
    observed[..., 2, 0] += 6
    observed[..., 3, 5] = null[..., 3, 5] = np.nan
    names = ["p", "q"] if prompts else None
    maps = score_map(observed, prompts=names, name="auc")
    repeats = maps.expand_dims({"permutation": n}, axis=0).copy(data=null)
    return compare_with_null(maps, repeats, studentise=studentise)


def ticks(ax):
    """Scores below and above the threshold, as drawn."""
    return [sorted(segment[0, 0] for segment in one.get_segments()) for one in ax.collections]


def thresholds(ax):
    return [line.get_xdata()[0] for line in ax.lines if len(set(line.get_xdata())) == 1]


def bars(ax):
    return [p for p in ax.patches if hasattr(p, "get_height")]


def test_maxima_thresholds_and_observed_heads():
    found = result()
    ax = null_plot(found, mark=["L0H1"], annotate_top=1, alpha=(0.01, 0.05), title="t")
    observed = found.scores.values[np.isfinite(found.scores.values)]
    low, high = (float(found.thresholds(alpha).familywise.max()) for alpha in (0.05, 0.01))
    assert thresholds(ax) == [low, high]
    below, above = ticks(ax)
    assert below == sorted(observed[observed <= high])
    assert above == sorted(observed[observed > high])
    assert len(above) == 1
    # The bars hold every maximum: their area is 1.
    area = sum(bar.get_height() * bar.get_width() for bar in bars(ax))
    assert area == pytest.approx(1.0)
    places = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in bars(ax) if bar.get_height() > 0]
    assert min(places)[0] <= found.null_maxima.min()
    assert max(places)[1] >= found.null_maxima.max()
    assert [text.get_text() for text in ax.texts] == ["L0H1", "L2H0"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "null, each head",
        "null, highest of 23",
        "family-wise 0.05",
        "family-wise 0.01",
        "observed: 22 heads",
        "observed: 1 above 0.01",
    ]
    assert (ax.get_xlabel(), ax.get_title(loc="left")) == ("auc", "t")


def test_what_is_drawn_above_the_threshold_is_what_the_test_finds():
    """Also where every head has a scale of its own."""
    for studentise in (False, True):
        found = result(studentise)
        ax = null_plot(found)
        (threshold,) = thresholds(ax)
        drawn = sorted(itertools.chain(*ticks(ax)))
        significant = int((found.p_familywise.values <= 0.05).sum())
        assert sum(score > threshold for score in drawn) == significant
        assert len(ticks(ax)[1]) == significant
        assert len(drawn) == 23
    assert ax.get_xlabel() == "auc (in spreads of the head's own null)"
    assert threshold < 5 < max(drawn)


def test_significant_heads_differ_without_colour():
    ax = null_plot(result())
    low, high = (one.get_segments()[0][1, 1] for one in ax.collections)
    assert high > 1.5 * low
    assert ax.collections[1].get_edgecolor()[0][:3] == pytest.approx(
        [int(VERMILION[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    )


def test_one_prompt_of_several():
    found = result(prompts=True)
    ax = null_plot(found, prompt="q", annotate_top=0)
    scores = found.scores.sel(prompt="q").values
    assert sorted(itertools.chain(*ticks(ax))) == sorted(scores[np.isfinite(scores)])
    assert "null, highest of 46" in ax.get_legend_handles_labels()[1]


def test_names_stand_apart_and_on_the_plot():
    ax = null_plot(result(), annotate_top=12)
    FigureCanvasAgg(ax.figure).draw()
    boxes = [Text.get_window_extent(text) for text in ax.texts]
    assert len(boxes) == 12
    assert not [(i, j) for i in range(12) for j in range(i) if boxes[i].overlaps(boxes[j])]
    assert all(ax.figure.bbox.x0 <= box.x0 and box.x1 <= ax.figure.bbox.x1 for box in boxes)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"alpha": 0.001}, "199 permutations show no p-value below 0.005, but alpha is 0.001"),
        ({"alpha": 2}, "alpha is 2.0; it must be a number above 0 and below 1"),
        ({"alpha": []}, "alpha is empty"),
        ({"prompt": "p"}, "the scores have no prompts, got prompt='p'"),
        ({"mark": ["L9H9"]}, "L9H9 is to be marked, but the map has layers 0 to 3"),
        ({"mark": ["L3H5"]}, "L3H5 is to be marked, but has no score"),
    ],
)
def test_what_cannot_be_drawn(how, words):
    with pytest.raises(InputError, match=words):
        null_plot(result(), **how)


def test_a_prompt_has_to_be_named():
    with pytest.raises(InputError, match=r"prompt must be one of \['p', 'q'\], got None"):
        null_plot(result(prompts=True))
