"""The rank plot falls from the best head on; the consensus plot traces heads through rankings."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from headprobe.errors import InputError
from headprobe.plotting._canvas import SERIES
from headprobe.plotting.ranks import consensus_plot, rank_plot
from headprobe.scores import score_map

SCORES = np.array([[0.1, 0.9, 0.5], [0.5, 0.7, np.nan]])  # L0H1, L1H1, L0H2, L1H0, L0H0
MAPS = score_map([[[0.9, 0.5, 0.1]], [[0.1, 0.5, 0.9]], [[0.5, 0.5, 0.9]]], prompts=["a", "b", "c"])


def line(ax, label):
    (found,) = [one for one in ax.lines if one.get_label() == label]
    return found


def test_scores_from_best_to_worst_and_absent_heads_left_out():
    ax = rank_plot(SCORES, mark=["L1H0", "L0H1"], annotate_top=2, k=2, chance=0.2, label="AUC", title="t")
    curve = line(ax, "5 heads")
    assert curve.get_ydata().tolist() == [0.9, 0.7, 0.5, 0.5, 0.1]
    assert curve.get_xdata().tolist() == [1, 2, 3, 4, 5]
    assert list(line(ax, "the best 2").get_xdata()) == [2.5, 2.5]
    assert list(line(ax, "chance (0.2)").get_ydata()) == [0.2, 0.2]
    # Of two heads with one score, the lower (layer, head) is third.
    assert sorted(line(ax, "marked").get_xydata().tolist()) == [[1.0, 0.9], [4.0, 0.5]]
    assert [(text.get_text(), text.xy) for text in ax.texts] == [
        ("L1H0", (4.0, 0.5)),
        ("L0H1", (1.0, 0.9)),
        ("L1H1", (2.0, 0.7)),
    ]
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title(loc="left"), ax.get_xscale()) == (
        "rank",
        "AUC",
        "t",
        "linear",
    )


def test_spread_of_every_head():
    ax = rank_plot(SCORES, spread=np.where(np.isnan(SCORES), np.nan, 0.05))
    (bars,) = ax.collections
    ends = [segment[:, 1].round(3).tolist() for segment in bars.get_segments()]
    assert ends == [[0.85, 0.95], [0.65, 0.75], [0.45, 0.55], [0.45, 0.55], [0.05, 0.15]]


def test_many_heads_are_ranked_on_a_logarithmic_axis():
    ax = rank_plot(np.random.default_rng(0).random((80, 64)), k=8)
    assert ax.get_xscale() == "log"
    assert ax.get_xlim()[1] > 5120
    assert line(ax, "the best 8").get_xdata()[0] == pytest.approx(np.sqrt(72))
    FigureCanvasAgg(ax.figure).draw()
    assert "1000" in [label.get_text() for label in ax.get_xticklabels()]
    assert rank_plot(np.ones((80, 64)), log=False).get_xscale() == "linear"


def test_heads_are_traced_through_the_rankings():
    final = MAPS.mean("prompt").rename("mean")
    ax = consensus_plot(MAPS, ["L0H0", "L0H2"], final=final, k=1)
    traced = [one for one in ax.lines if one.get_color() in {s.color for s in SERIES}]
    assert [one.get_ydata().tolist() for one in traced] == [[1.0, 3.0, 2.5, 2.5], [3.0, 1.0, 1.0, 1.0]]
    assert traced[0].get_xdata().tolist() == [0.0, 1.0, 2.0, 3.4]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["a", "b", "c", "mean"]
    low, high = ax.get_ylim()
    assert low > 3 > 1 > high  # rank 1 at the top
    names = [text for text in ax.texts if text.get_text().startswith("L")]
    assert [(text.get_text(), text.xy[1]) for text in names] == [("L0H0", 2.5), ("L0H2", 1.0)]
    assert "best 1" in [text.get_text() for text in ax.texts]
    assert ax.get_ylabel() == "rank of 3 heads"


def test_names_at_the_end_do_not_touch():
    rng = np.random.default_rng(0)
    maps = score_map(rng.random((4, 80, 64)), prompts=list("abcd"))
    heads = [(layer, head) for layer in range(2) for head in range(7)]
    maps[-1, :2, :7] = 2 + 0.01 * rng.random((2, 7))  # neighbours in the last ranking
    ax = consensus_plot(maps, heads)
    FigureCanvasAgg(ax.figure).draw()
    # Of the words alone, without the line that leads to them.
    boxes = sorted((Text.get_window_extent(text) for text in ax.texts), key=lambda box: box.y0)
    assert len(boxes) == 14
    assert all(b.y0 > a.y0 + 8 for a, b in itertools.pairwise(boxes))
    assert all(box.x1 <= ax.figure.bbox.x1 for box in boxes)
    assert ax.get_yscale() == "log"
    # Two heads of one colour differ in dashes and mark.
    styles = [(one.get_color(), one.get_marker(), str(one.get_linestyle())) for one in ax.lines]
    assert len(set(styles)) == 14


def test_a_few_heads_stand_before_all_others_and_many_before_none():
    assert len(consensus_plot(MAPS, ["L0H0"]).lines) == 3 + 1
    many = score_map(np.random.default_rng(0).random((2, 20, 20)), prompts=["a", "b"])
    assert len(consensus_plot(many, ["L0H0"]).lines) == 1


def test_names_of_many_rankings_have_room():
    maps = score_map(np.random.default_rng(0).random((60, 4, 4)), prompts=[f"resample {i}" for i in range(60)])
    ax = consensus_plot(maps, ["L0H0"])
    FigureCanvasAgg(ax.figure).draw()
    starts = [label.get_window_extent().x1 for label in ax.get_xticklabels()]
    assert 10 <= len(starts) <= 60
    assert all(b - a > 8 for a, b in itertools.pairwise(starts))


@pytest.mark.parametrize(
    ("draw", "words"),
    [
        (lambda: rank_plot(SCORES, mark=["L1H2"]), "L1H2 is to be marked, but has no score"),
        (lambda: rank_plot(SCORES, k=6), "k is 6; it must be an integer from 1 to 5"),
        (lambda: rank_plot(SCORES, spread=np.ones((1, 3))), "the spreads are for 1 layers and 3 heads"),
        (lambda: rank_plot(np.zeros((2, 2, 2))), r"a rank plot shows an array \[layer, head\]"),
        (lambda: consensus_plot(MAPS, []), "no head is chosen"),
        (lambda: consensus_plot(MAPS, ["L3H0"]), "L3H0 has no score among the 3 heads"),
        (
            lambda: consensus_plot(MAPS, ["L0H0"], dim="seed"),
            r"expected a score map with dims \('seed', ",
        ),
        (lambda: consensus_plot(MAPS, ["L0H0"], k=9), "k is 9; it must be an integer from 1 to 3"),
        (lambda: consensus_plot(MAPS, ["L0H0"], final=score_map([[1.0]])), "the final scores are for 1 layers and 1"),
    ],
)
def test_what_cannot_be_drawn(draw, words):
    with pytest.raises(InputError, match=words):
        draw()


def test_of_very_many_heads_the_ranks_of_the_chosen_fill_the_plot():
    rng = np.random.default_rng(0)
    one = rng.random((40, 30))
    maps = score_map(np.stack([one, one, one]), prompts=["a", "b", "c"])
    order = np.argsort(-one.ravel())
    chosen = [(int(i) // 30, int(i) % 30) for i in order[:6]]
    low, high = consensus_plot(maps, chosen, k=5).get_ylim()
    assert 12 <= low <= 15
    assert high < 1
    # Named far down, everything above is shown.
    last = [(int(order[-1]) // 30, int(order[-1]) % 30)]
    assert consensus_plot(maps, last).get_ylim()[0] >= 1200


def test_no_line_to_a_name_crosses_another_name():
    rng = np.random.default_rng(0)
    scores = rng.gamma(1, 0.3, (40, 32))
    scores[rng.integers(40, size=12), rng.integers(32, size=12)] += 2 + rng.random(12)
    best = [(int(i) // 32, int(i) % 32) for i in np.argsort(-scores.ravel())[:5]]
    ax = rank_plot(scores, mark=best, annotate_top=8, k=5)
    ax.figure.canvas.draw()
    renderer = ax.figure.canvas.get_renderer()
    frames = {text: text.get_bbox_patch().get_window_extent(renderer) for text in ax.texts}
    for text, box in frames.items():
        start = ax.transData.transform(text.xy)
        end = np.array([(box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2])
        way = start + np.linspace(0.05, 0.95, 40)[:, None] * (end - start)
        for other, frame in frames.items():
            if other is not text:
                inside = (way > (frame.x0, frame.y0)) & (way < (frame.x1, frame.y1))
                assert not inside.all(1).any(), (text.get_text(), other.get_text())
