"""Where heads look in a video: attention to video tokens laid over the frames of a clip."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, UInt8

from headprobe._validation import count
from headprobe.errors import InputError
from headprobe.examples import Example, Frames, _read_content, _Readable
from headprobe.heads import Head, HeadSet
from headprobe.plotting._canvas import new_axes, plain_frame, small
from headprobe.plotting._cells import color_bar

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from headprobe.models.video_adapter import Framing
    from headprobe.trace.attention import AttentionPattern

__all__ = ["frames"]

_WITHIN, _BETWEEN = 0.012, 0.07  # gaps between frames of one step and of two, in widths of a frame
_MOST = 8  # frames drawn if none are chosen


def frames(
    clip: Example | Frames | _Readable | UInt8[np.ndarray, "frame height width 3"],
    attention: AttentionPattern | Float[np.ndarray, "head step row column"],
    heads: HeadSet | Iterable[Head | str | tuple[int, int]],
    ax: Axes | None = None,
    title: str | None = None,
    *,
    show: Sequence[int] | None = None,
    frames_per_token: int | None = None,
    area: tuple[float, float, float, float] | None = None,
    plain: bool = True,
    interpolation: str = "nearest",
    alpha: tuple[float, float] = (0.15, 0.85),
    cmap: Any = None,
    vmin: float | None = None,
    vmax: float | None = None,
    log: bool = False,
    label: str = "attention",
) -> Axes:
    """Lay what each head attends to over the frames of a clip: frames across, heads downwards, one scale for all.

    The frames beneath are grey and light, so that all colour is attention, and in grey what is darkest. Frames that
    share a token stand close together.

    Parameters
    ----------
    clip
        The frames that were shown to the model, all of them, in their order.
    attention
        A pattern of this clip, as from `headprobe.trace.attention.attention`, or weights [head, step, row, column] on
        the token grid, as from ``pattern.to_video()``. Places that are NaN are left uncovered.
    heads
        The heads of the first axis, in its order; each is a row.
    ax, title
        Where to draw, a figure of its own if not given; title of the Axes.
    show
        Numbers of the frames to draw, from 0; by default all, and of more than eight, eight at even distances.
    frames_per_token
        Frames that one step of the grid covers, each of which shows it. A pattern knows it; for an array the default
        is 1. The last step may cover fewer, where the clip ends within it.
    area
        (left, top, right, bottom) in pixels of the clip: the part of each frame that the token grid covers. By
        default the whole frame; a model that cuts out the middle of a frame sees less (`seen_area`).
    plain
        Whether the frames themselves, in colour, are the first row.
    interpolation
        How tokens become pixels. ``nearest`` shows the grid that the model has; anything smoother, such as
        ``bilinear``, shows a resolution that it does not have.
    alpha
        How much the least and the largest weight hide of the frame, 0 to 1.
    cmap
        A matplotlib colour map; by default the part of inferno from light yellow to dark purple.
    vmin, vmax
        Range of the colours, the same for all heads and frames: by default from 0 to the largest weight drawn. Weights
        beyond get the colours of the ends, and the colour bar an arrow.
    log
        Whether colours follow the logarithm of the weights, by default over three decades: few tokens often get nearly
        all attention, and the rest then looks like none.
    label
        What the weights are, at the colour bar.

    Returns
    -------
    Axes
        ``ax.images`` holds first the frames, row by row, then the overlays, row by row.

    Raises
    ------
    InputError
        Shapes, heads, frames or steps do not fit, the area is empty, or there is no weight to draw.

    Examples
    --------
    >>> clip = np.zeros((4, 48, 64, 3), np.uint8)
    >>> ax = frames(clip, np.ones((1, 2, 3, 4)) / 24, ["L2H7"], frames_per_token=2)
    >>> [tick.get_text() for tick in ax.get_yticklabels()], len(ax.images)
    (['frame', 'L2H7'], 12)
    """
    from matplotlib.patches import Rectangle

    pixels, seconds = _read(clip)
    named = HeadSet(heads)
    weights, per_token = _on_grid(attention, frames_per_token, len(named), len(pixels))
    shown = _chosen(show, len(pixels))
    height, width = pixels.shape[1:3]
    left, top, right, bottom = area if area is not None else (0, 0, width, height)
    if not (left < right and top < bottom):
        raise InputError(f"area must be (left, top, right, bottom) in pixels, with left < right, top < bottom: {area}")
    steps = [frame // per_token for frame in shown]
    drawn = weights[:, steps]
    if not np.isfinite(drawn).any():
        raise InputError("no video token of the frames to draw has a weight")
    norm, colours = _norm(drawn, vmin, vmax, log), _see_through(cmap, alpha)

    gaps = [0.0, *(_WITHIN if a == b else _BETWEEN for a, b in pairwise(steps))]
    lefts = np.arange(len(shown)) * width + np.cumsum(gaps) * width
    labels = [*(["frame"] if plain else []), *named.labels]
    tops = np.arange(len(labels)) * height * (1 + _WITHIN)
    if ax is None:
        across = float(np.clip(1.15 * len(shown), 2.5, 10.0))  # wide enough for the frames to be seen
        ax = new_axes(across + 1.6, across * (tops[-1] + height) / (lefts[-1] + width) + 0.8)
    for row, y in enumerate(tops):
        for frame, x in zip(shown, lefts, strict=True):
            picture = pixels[frame] if plain and row == 0 else _grey(pixels[frame])
            place = (x, x + width, y + height, y)
            ax.imshow(picture, extent=place, origin="upper", interpolation="antialiased", zorder=1)
    for row, y in enumerate(tops[int(plain) :]):
        for column, x in enumerate(lefts):
            overlay = ax.imshow(
                np.ma.masked_invalid(drawn[row, column]),
                extent=(x + left, x + right, y + bottom, y + top),
                origin="upper",
                interpolation=interpolation,
                cmap=colours,
                norm=norm,
                zorder=2,
            )
            if area is not None:
                overlay.set_clip_path(Rectangle((x, y), width, height, transform=ax.transData))
    ax.set(xlim=(0, lefts[-1] + width), ylim=(tops[-1] + height, 0), aspect="equal", facecolor="none")
    plain_frame(ax, ("top", "right", "bottom", "left"), title=title)
    ax.set_yticks(tops + height / 2, labels=labels)
    times = [f"{frame}" if seconds is None else f"{seconds[frame]:.1f}" for frame in shown]
    ax.set_xticks(lefts + width / 2, labels=times)
    ax.tick_params(length=0, labelsize=small())
    ax.set_xlabel("frame" if seconds is None else "time (s)")
    color_bar(ax, ax.images[-1], label, drawn)
    return ax


def _seen_area(framing: Framing, height: int, width: int) -> tuple[float, float, float, float]:
    """The part of a frame that a model sees, when it resizes frames and cuts out their middle."""
    size = framing.size
    if size is None:
        edge, short = framing.shortest_edge or 0, min(height, width)
        size = (int(edge * height / short), int(edge * width / short))
    sides = []
    for given, resized, wanted in zip((height, width), size, framing.crop or size, strict=True):
        # Half of what is too much is cut off, half of what is missing is filled up, the odd pixel at the far end.
        start = (resized - wanted) // 2 if resized >= wanted else -((wanted - resized) // 2)
        sides.append((start * given / resized, (start + wanted) * given / resized))
    (top, bottom), (left, right) = sides
    return left, top, right, bottom


def _read(clip: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """Pixels of all frames, and their times where they are known."""
    content = _read_content(clip if isinstance(clip, Example) else Example(clip, id="clip"))
    if isinstance(content, str):
        raise InputError("frames are drawn for clips, got text")
    if isinstance(content, Frames):
        return content.pixels, None if content.seconds is None else np.asarray(content.seconds)
    return content, None


def _on_grid(
    attention: Any, frames_per_token: int | None, n_heads: int, n_frames: int
) -> tuple[Float[np.ndarray, "head step row column"], int]:
    """Weights on the token grid, and the frames of a step."""
    per_token = frames_per_token
    if hasattr(attention, "to_video"):
        per_token = attention.frames_per_token
        if frames_per_token not in (None, per_token):
            raise InputError(f"frames_per_token is {frames_per_token}, but a token of the pattern covers {per_token}")
        attention = attention.to_video()
    weights = np.asarray(attention, np.float64)
    per_token = 1 if per_token is None else per_token
    if weights.ndim != 4 or 0 in weights.shape:
        raise InputError(f"attention must be [head, step, row, column], got shape {weights.shape}")
    if len(weights) != n_heads:
        raise InputError(f"the attention is of {len(weights)} heads, but {n_heads} are named")
    count(per_token, "frames_per_token")
    if -(-n_frames // per_token) != weights.shape[1]:
        raise InputError(
            f"{weights.shape[1]} steps of {per_token} frames do not make the {n_frames} frames of the clip: give all "
            "frames that were shown to the model and no others, and frames_per_token"
        )
    return weights, per_token


def _chosen(show: Sequence[int] | None, n_frames: int) -> list[int]:
    """Numbers of the frames to draw."""
    if show is None:
        return np.unique(np.linspace(0, n_frames - 1, min(n_frames, _MOST)).round().astype(int)).tolist()
    chosen = [int(frame) for frame in show]
    if not chosen or min(chosen) < 0 or max(chosen) >= n_frames:
        raise InputError(f"show must be numbers of frames from 0 to {n_frames - 1}, got {list(show)}")
    return chosen


def _norm(drawn: np.ndarray, vmin: float | None, vmax: float | None, log: bool) -> Any:
    from matplotlib.colors import LogNorm, Normalize

    high = float(np.nanmax(drawn)) if vmax is None else vmax
    low = vmin if vmin is not None else high / 1000 if log else 0.0
    if not (low < high and (low > 0 or not log)):
        scale = " on a logarithmic scale" if log else ""
        raise InputError(f"there are no colours from {low:g} to {high:g}{scale}: give vmin and vmax")
    return LogNorm(low, high, clip=True) if log else Normalize(low, high)


def _see_through(cmap: Any, alpha: tuple[float, float]) -> Any:
    """A colour map that hides more of the frame the larger the weight; NaN hides nothing."""
    import matplotlib
    from matplotlib.colors import ListedColormap

    low, high = alpha
    if not 0 <= low <= high <= 1 or high == 0:
        raise InputError(f"alpha must be two numbers from 0 to 1 in order, the second above 0; got {alpha}")
    if cmap is None:
        rgba = matplotlib.colormaps["inferno_r"](np.linspace(0.05, 0.8, 256))
    else:
        rgba = (matplotlib.colormaps[cmap] if isinstance(cmap, str) else cmap)(np.linspace(0, 1, 256))
    rgba[:, 3] = np.linspace(low, high, 256)
    return ListedColormap(rgba).with_extremes(bad=(0, 0, 0, 0))


def _grey(picture: np.ndarray) -> np.ndarray:
    """A frame without colour, and lighter than any strong attention."""
    light = 95 + 160 / 255 * (picture @ np.array([0.299, 0.587, 0.114]))
    return np.repeat(light[..., None].round().astype(np.uint8), 3, -1)
