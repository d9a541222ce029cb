"""The timeline puts scores, events, truth and pictures at their seconds."""

from __future__ import annotations

from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
from equality import same, same_bits
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox
from matplotlib.patches import StepPatch

from headprobe.errors import InputError
from headprobe.plotting._canvas import VERMILION
from headprobe.plotting.timeline import timeline
from headprobe.video.decode import write_video

SPANS = [(0, 48), (48, 96), (96, 144), (144, 150)]
SCORES = [0.1, 0.8, 0.7, 0.2]


def steps(ax):
    (patch,) = [p for p in ax.patches if isinstance(p, StepPatch)]
    return patch.get_data()


def areas(ax, hatched):
    """(start, end) in seconds of the shaded areas over the full height."""
    found = [p for p in ax.patches if not isinstance(p, StepPatch) and bool(p.get_hatch()) == hatched]
    return [(round(p.get_x(), 6), round(p.get_x() + p.get_width(), 6)) for p in found if p.get_height() == 1.0]


def test_scores_are_steps_over_seconds():
    ax = timeline(SCORES, SPANS, fps=10, title="gate.mp4", label="P(abnormal)")
    data = steps(ax)
    assert same_bits(data.values, SCORES, of="the array that was drawn")
    np.testing.assert_allclose(data.edges, [0, 4.8, 9.6, 14.4, 15.0])
    assert ax.get_xlim() == (0.0, 15.0)
    assert ax.get_ylim() == (0.0, 1.08)
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title(loc="left")) == (
        "time (s)",
        "P(abnormal)",
        "gate.mp4",
    )
    assert len(ax.lines) == 0
    assert ax.get_legend_handles_labels()[1] == ["segment score"]


def test_smoothed_curve_and_threshold():
    ax = timeline(SCORES, SPANS, fps=10, smoothed=[0.2, 0.7, 0.65, 0.3], tau=0.625)
    curve, threshold = ax.lines
    np.testing.assert_allclose(curve.get_xdata(), [2.4, 7.2, 12.0, 14.7])
    np.testing.assert_allclose(curve.get_ydata(), [0.2, 0.7, 0.65, 0.3])
    assert list(threshold.get_ydata()) == [0.625, 0.625]
    assert threshold.get_linestyle() != curve.get_linestyle()
    assert ax.get_legend_handles_labels()[1] == ["segment score", "smoothed score", "threshold 0.625"]


@pytest.mark.parametrize(
    "truth",
    [np.isin(np.arange(150), [*range(50, 90), *range(140, 150)]).astype(int), [(50, 90), (140, 150)]],
    ids=["per frame", "pairs"],
)
def test_truth_and_detections_differ_without_colour(truth):
    event = SimpleNamespace(start_seconds=4.8, end_seconds=14.4)
    ax = timeline(SCORES, SPANS, fps=10, truth=truth, events=[event])
    assert areas(ax, hatched=True) == [(5.0, 9.0), (14.0, 15.0)]
    assert areas(ax, hatched=False) == [(4.8, 14.4)]
    (bar,) = [p for p in ax.patches if not isinstance(p, StepPatch) and p.get_height() < 0.1]
    assert (round(bar.get_x(), 6), round(bar.get_width(), 6)) == (4.8, 9.6)
    assert to_hex(bar.get_facecolor()).upper() == VERMILION
    assert ax.get_legend_handles_labels()[1] == ["labelled", "detected", "segment score"]
    fights = timeline(SCORES, SPANS, fps=10, truth=truth, truth_label="fights")
    assert fights.get_legend_handles_labels()[1] == ["fights", "segment score"]


def test_events_as_pairs_are_seconds():
    ax = timeline(SCORES, SPANS, fps=10, events=[(0.0, 4.8), (9.6, 15.0)])
    assert areas(ax, hatched=False) == [(0.0, 4.8), (9.6, 15.0)]


@pytest.mark.parametrize("truth", [[], np.zeros(150, int), None])
def test_nothing_true_nothing_shaded(truth):
    assert areas(timeline(SCORES, SPANS, fps=10, truth=truth), hatched=True) == []


def test_segments_without_a_score_leave_a_gap():
    ax = timeline([0.1, np.nan, 0.7], [(0, 10), (10, 20), (30, 40)], fps=10)
    data = steps(ax)
    assert same_bits(data.values, [0.1, np.nan, np.nan, 0.7], of="the array that was drawn")
    np.testing.assert_allclose(data.edges, [0, 1, 2, 3, 4])
    assert timeline([np.nan], [(0, 10)], fps=10).get_ylim() == (0.0, 1.0)


def test_scores_that_are_no_probabilities_fit():
    low, high = timeline([-4.0, 6.0, 1.0, 0.0], SPANS, fps=10, tau=8.0).get_ylim()
    assert low < -4
    assert high > 8


def test_thumbnails_are_lettered_at_their_times():
    dark, light = np.zeros((24, 36, 3), np.uint8), np.full((24, 36, 3), 255, np.uint8)
    ax = timeline(SCORES, SPANS, fps=10, thumbnails=[(12.0, light), (3.0, dark)])
    assert [(text.get_text(), text.xy[0]) for text in ax.texts] == [("a", 3.0), ("b", 12.0)]
    boxes = [artist for artist in ax.artists if isinstance(artist, AnnotationBbox)]
    assert len(boxes) == 2
    pictures = [box.offsetbox.get_children()[0].get_data() for box in boxes]
    assert same(pictures[0], dark)
    assert same(pictures[1], light)
    words = [box.offsetbox.get_children()[1].get_text() for box in boxes]
    assert words == ["a  3.0 s", "b  12.0 s"]
    # Beneath the axis' own words, within the page, side by side.
    FigureCanvasAgg(ax.figure).draw()
    places = [box.get_window_extent() for box in boxes]
    assert places[0].x1 < places[1].x0
    assert places[0].y1 < ax.xaxis.label.get_window_extent().y0
    assert min(place.y0 for place in places) >= 0


def shown(ax):
    """(seconds, picture) of the thumbnails."""
    boxes = [artist for artist in ax.artists if isinstance(artist, AnnotationBbox)]
    times = [float(box.offsetbox.get_children()[1].get_text().split()[1]) for box in boxes]
    return times, [box.offsetbox.get_children()[0].get_data() for box in boxes]


@pytest.mark.parametrize(("thumbnails", "n"), [(True, 6), (3, 3), (0, 0), (False, 0), (None, 0)])
def test_thumbnails_from_the_video(thumbnails, n):
    video = np.random.default_rng(0).integers(0, 256, (150, 8, 12, 3), dtype=np.uint8)
    ax = timeline(SCORES, SPANS, fps=10, thumbnails=thumbnails, video=video)
    times, pictures = shown(ax)
    assert len(times) == n
    for at, picture in zip(times, pictures, strict=True):
        assert same(picture, video[round(10 * at)])
    assert times == sorted(times)


def test_thumbnails_from_a_file(tmp_path):
    frames = np.zeros((40, 16, 16, 3), np.uint8)
    frames[20:] = 200
    path = tmp_path / "v.mp4"
    write_video(path, frames, fps=10)
    times, pictures = shown(timeline([0.1, 0.9], [(0, 20), (20, 40)], fps=10, thumbnails=2, video=path))
    assert [picture.mean() > 100 for picture in pictures] == [at >= 2 for at in times] == [False, True]


def test_a_long_video_is_drawn_without_marks():
    many = timeline(np.zeros(200), [(i, i + 1) for i in range(200)], fps=1, smoothed=np.zeros(200))
    few = timeline(SCORES, SPANS, fps=10, smoothed=SCORES)
    assert many.lines[0].get_markersize() == 0 < few.lines[0].get_markersize()


def test_title_stands_above_the_legend():
    ax = timeline(SCORES, SPANS, fps=10, smoothed=SCORES, tau=0.5, events=[(1, 2)], truth=[(3, 9)], title="gate")
    FigureCanvasAgg(ax.figure).draw()
    legend = ax.get_legend().get_window_extent()
    assert legend.y0 >= ax.get_window_extent().y1
    assert ax._left_title.get_window_extent().y0 >= legend.y1 - 1
    assert legend.x1 <= ax.figure.bbox.x1


def test_draws_into_the_axes_given_and_leaves_no_trace():
    import matplotlib.pyplot as plt

    settings, figures = dict(matplotlib.rcParams), plt.get_fignums()
    upper, lower = Figure().subplots(2, 1)
    assert timeline(SCORES, SPANS, fps=10, ax=upper) is upper
    assert len(lower.patches) == 0
    timeline(SCORES, SPANS, fps=10)
    assert plt.get_fignums() == figures
    assert dict(matplotlib.rcParams) == settings


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"scores": [0.1]}, r"scores of shape \(1,\) and spans of shape \(4, 2\)"),
        ({"scores": [], "spans": []}, r"got scores of shape \(0,\)"),
        ({"fps": 0}, "fps is 0; it must be a number above 0."),
        ({"smoothed": [0.1, 0.2]}, r"there are 4 scores, but smoothed has the shape \(2,\)"),
        ({"truth": [0, 2, 1]}, r"truth must be 0 or 1 for each frame"),
        ({"thumbnails": [(1.0, np.zeros((5, 5)))]}, r"must be an RGB frame .* got shape \(5, 5\)"),
        ({"thumbnails": True}, "there is no video to take them from: give video="),
        ({"thumbnails": -1}, "thumbnails is -1; it must be an integer of at least 0."),
        (
            {"thumbnails": True, "video": np.zeros((100, 4, 4, 3), np.uint8)},
            "the video has 100 frames, but the last segment ends at frame 150",
        ),
    ],
)
def test_what_cannot_be_drawn(how, words):
    with pytest.raises(InputError, match=words):
        timeline(**{"scores": SCORES, "spans": SPANS, "fps": 10, **how})


def test_of_many_segments_the_raw_scores_are_light():
    def alpha(n):
        scores = np.random.default_rng(0).random(n)
        ax = timeline(scores, [(i, i + 1) for i in range(n)], 1.0)
        return next(patch for patch in ax.patches if patch.get_label() == "segment score").get_alpha()

    assert (alpha(100), alpha(1000)) == (1.0, 0.4)
