"""Attention stands on the frames and pixels of its tokens, and nowhere else."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from equality import same, same_bits
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

import headprobe
from headprobe.errors import InputError
from headprobe.examples import Example, Frames
from headprobe.models.video_adapter import Framing, centre_crop
from headprobe.plotting.frames import _seen_area, frames
from headprobe.trace.attention import AttentionPattern, attention
from headprobe.video import scenes

HEADS = ["L0H1", "L2H7"]
CLIP = np.random.default_rng(0).integers(0, 256, (4, 48, 64, 3), dtype=np.uint8)


@pytest.fixture
def grid():
    """Weights [head, step, row, column] of two heads over two steps of two frames."""
    return np.arange(2 * 2 * 3 * 4, dtype=float).reshape(2, 2, 3, 4) / 300


def pictures(ax):
    """Frames, then overlays: (extent, data) of every image."""
    split = [list(group) for _, group in itertools.groupby(ax.images, key=lambda image: image.get_zorder())]
    return [[(image.get_extent(), image.get_array()) for image in part] for part in split]


def test_every_frame_shows_the_step_it_belongs_to(grid):
    below, above = pictures(frames(CLIP, grid, HEADS, frames_per_token=2))
    assert len(below) == 4 * 3
    assert len(above) == 4 * 2
    for number, (_, data) in enumerate(above):
        head, frame = divmod(number, 4)
        assert same_bits(data, grid[head, frame // 2], of="the array that was drawn")
    # The first row are the frames themselves; an overlay covers the frame beneath it exactly.
    for frame in range(4):
        assert same(below[frame][1], CLIP[frame])
    assert [extent for extent, _ in above] == [extent for extent, _ in below[4:]]
    sizes = {(round(extent[1] - extent[0], 6), round(extent[2] - extent[3], 6)) for extent, _ in below}
    assert sizes == {(64.0, 48.0)}


def test_frames_of_one_step_stand_closer(grid):
    below, _ = pictures(frames(CLIP, grid, HEADS, frames_per_token=2))
    lefts = [extent[0] for extent, _ in below[:4]]
    gaps = [b - a - 64 for a, b in itertools.pairwise(lefts)]
    assert gaps[0] == pytest.approx(gaps[2])
    assert gaps[1] > 3 * gaps[0] > 0


def test_a_token_covers_its_own_pixels_to_the_edge():
    """Drawn at one point to a pixel: the colour of a token begins and ends with its rectangle."""
    clip = np.zeros((1, 48, 64, 3), np.uint8)
    weights = np.zeros((1, 1, 3, 4))
    weights[0, 0, 1, 2] = 1.0
    figure = Figure(figsize=(6, 4), dpi=100)
    canvas = FigureCanvasAgg(figure)
    ax = figure.add_axes((0.1, 0.1, 0.8, 0.8))
    frames(clip, weights, ["L0H0"], plain=False, ax=ax, cmap="Reds", alpha=(0.5, 0.5))
    canvas.draw()
    rgb = np.asarray(canvas.buffer_rgba())[::-1, :, :3].astype(int)
    for x, y, inside in [
        (32.5, 16.5, True),
        (47.5, 31.5, True),
        (31.5, 24, False),
        (48.5, 24, False),
        (40, 15.5, False),
        (40, 32.5, False),
    ]:
        column, row = ax.transData.transform((x, y)).astype(int)
        red, green, _ = rgb[row, column]
        assert (red - green > 30) == inside, (x, y)


def test_places_without_a_token_stay_uncovered(grid):
    grid[:, :, 0, 0] = np.nan
    ax = frames(CLIP, grid, HEADS, frames_per_token=2)
    _, above = pictures(ax)
    assert all(data.mask[0, 0] and data.mask.sum() == 1 for _, data in above)
    assert tuple(ax.images[-1].cmap(np.ma.masked_invalid([np.nan]))[0]) == (0, 0, 0, 0)


def test_one_scale_for_all_heads_and_frames(grid):
    ax = frames(CLIP, grid, HEADS, frames_per_token=2)
    assert {image.get_clim() for image in ax.images[-8:]} == {(0.0, grid.max())}
    assert ax.images[-1].colorbar.extend == "neither"
    cut = frames(CLIP, grid, HEADS, frames_per_token=2, vmax=0.1)
    assert {image.get_clim() for image in cut.images[-8:]} == {(0.0, 0.1)}
    assert cut.images[-1].colorbar.extend == "max"
    log = frames(CLIP, grid, HEADS, frames_per_token=2, log=True)
    assert isinstance(log.images[-1].norm, LogNorm)
    assert log.images[-1].get_clim() == pytest.approx((grid.max() / 1000, grid.max()))
    assert log.images[-1].colorbar.extend == "min"


def test_more_attention_hides_more(grid):
    cmap = frames(CLIP, grid, HEADS, frames_per_token=2, alpha=(0.1, 0.7)).images[-1].cmap
    assert cmap(0.0)[3] == pytest.approx(0.1)
    assert cmap(1.0)[3] == pytest.approx(0.7)
    light = [sum(cmap(x)[:3]) for x in (0.0, 0.5, 1.0)]
    assert light == sorted(light, reverse=True)


def test_labels_are_heads_and_times(grid):
    clip = Frames(CLIP, [0.0, 0.5, 1.0, 1.5])
    ax = frames(clip, grid, HEADS, frames_per_token=2, show=[1, 2], title="t")
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["frame", *HEADS]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["0.5", "1.0"]
    assert (ax.get_xlabel(), ax.get_title(loc="left")) == ("time (s)", "t")
    _, above = pictures(ax)
    assert same_bits(above[1][1], grid[0, 1], of="the array that was drawn")
    ax = frames(CLIP, grid, HEADS, frames_per_token=2, plain=False)
    assert [tick.get_text() for tick in ax.get_yticklabels()] == HEADS
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["0", "1", "2", "3"]
    assert ax.get_xlabel() == "frame"


def test_of_a_long_clip_eight_frames_from_first_to_last():
    weights = np.random.default_rng(0).random((1, 16, 2, 2))
    ax = frames(np.zeros((31, 8, 8, 3), np.uint8), weights, ["L0H0"], frames_per_token=2)
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["0", "4", "9", "13", "17", "21", "26", "30"]
    _, above = pictures(ax)
    assert same_bits(above[-1][1], weights[0, 15], of="the array that was drawn")  # the last step covers one frame


def test_the_grid_may_cover_a_part_of_the_frame(grid):
    ax = frames(CLIP, grid, HEADS, frames_per_token=2, area=(8, 0, 56, 48))
    below, above = pictures(ax)
    (left, right, bottom, top), frame = above[0][0], below[4][0]
    inside = (left - frame[0], right - frame[0], top - frame[3], bottom - frame[3])
    assert inside == pytest.approx((8, 56, 0, 48))
    # What lies beyond the frame's edge is not drawn.
    wide = frames(CLIP, grid, HEADS, frames_per_token=2, area=(-10, 0, 74, 48))
    for below, above in zip(wide.images[4:12], wide.images[12:], strict=True):
        left, right, bottom, top = below.get_extent()
        clip = wide.transData.inverted().transform(above.get_clip_box().get_points())
        assert sorted(clip[:, 0]) == pytest.approx([left, right], abs=1e-6)
        assert sorted(clip[:, 1]) == pytest.approx([top, bottom], abs=1e-6)


@pytest.mark.parametrize(
    "framing",
    [
        Framing(None, None, 24, (24, 24)),
        Framing(None, (48, 64), None, (30, 40)),
        Framing(None, (48, 64), None, None),
        Framing(None, (24, 32), None, (40, 40)),
        Framing(None, None, 25, (20, 31)),
    ],
)
def test_the_area_is_what_the_model_is_shown(framing):
    """Against the cropping itself, on a frame whose pixels hold their own places."""
    height, width = 48, 64
    size = framing.size or (int(framing.shortest_edge * 48 / 48), int(framing.shortest_edge * 64 / 48))
    rows = torch.arange(1, size[0] + 1).byte()[None, None, :, None].expand(1, 3, *size)
    columns = torch.arange(1, size[1] + 1).byte()[None, None, None, :].expand(1, 3, *size)
    crop = framing.crop or size
    down, across = (centre_crop(one, crop)[0, 0].int() for one in (rows, columns))
    left, top, right, bottom = _seen_area(framing, height, width)
    there = (down > 0).nonzero()
    first, last = there[0], there[-1]
    # Of the pixels that were cut out, the first and the last lie where the area says.
    for at, place, begin, end, given, resized in (
        (0, down, top, bottom, height, size[0]),
        (1, across, left, right, width, size[1]),
    ):
        per = given / resized
        assert (end - begin) / per == pytest.approx(crop[at])
        for pixel in (first, last):
            assert begin + pixel[at].item() * per == pytest.approx((place[tuple(pixel)].item() - 1) * per)


def test_a_pattern_of_the_embedded_model():
    clip = scenes.labelled_clips(2, seed=0)[1]
    found = attention(headprobe.load("tiny"), [clip], HEADS, prompts="what happens ?", progress=False)
    ax = frames(clip, found.patterns[0][0], found.heads)
    below, above = pictures(ax)
    video = found.to_video()[0].numpy()
    assert video.shape == (2, 4, 3, 4)
    assert same(below[3][1], clip.content[3])
    for number, (_, data) in enumerate(above):
        np.testing.assert_allclose(data, video[number // 8, number % 8 // 2])


def pattern(step):
    one = torch.zeros(1, dtype=torch.long)
    return AttentionPattern(torch.ones(1, 1), one, one, one == 0, one, one, one, frames_per_token=step)


@pytest.mark.parametrize(
    ("clip", "weights", "how", "words"),
    [
        (CLIP, np.ones((2, 2, 3)), {}, r"attention must be \[head, step, row, column\], got shape \(2, 2, 3\)"),
        (CLIP, np.ones((1, 4, 1, 1)), {}, "the attention is of 1 heads, but 2 are named"),
        (CLIP, np.ones((2, 2, 1, 1)), {}, "2 steps of 1 frames do not make the 4 frames of the clip"),
        (CLIP, np.ones((2, 3, 1, 1)), {"frames_per_token": 2}, "3 steps of 2 frames do not make the 4 frames"),
        (CLIP, np.full((2, 4, 1, 1), np.nan), {}, "no video token of the frames to draw has a weight"),
        (CLIP, np.zeros((2, 4, 1, 1)), {}, "there are no colours from 0 to 0: give vmin and vmax"),
        (CLIP, np.ones((2, 4, 1, 1)), {"log": True, "vmin": 0.0}, "from 0 to 1 on a logarithmic scale"),
        (CLIP, np.ones((2, 4, 1, 1)), {"show": [4]}, r"show must be numbers of frames from 0 to 3, got \[4\]"),
        (CLIP, np.ones((2, 4, 1, 1)), {"area": (9, 0, 9, 5)}, "with left < right, top < bottom"),
        (CLIP, np.ones((2, 4, 1, 1)), {"alpha": (0.9, 0.1)}, "alpha must be two numbers from 0 to 1 in order"),
        (CLIP, pattern(2), {"frames_per_token": 1}, "frames_per_token is 1, but a token of the pattern covers 2"),
        (Example("a text", id="t"), np.ones((2, 4, 1, 1)), {}, "frames are drawn for clips, got text"),
        (CLIP.astype(float), np.ones((2, 4, 1, 1)), {}, "a clip must be a uint8 array"),
    ],
)
def test_what_cannot_be_drawn(clip, weights, how, words):
    with pytest.raises(InputError, match=words):
        frames(clip, weights, HEADS, **how)
