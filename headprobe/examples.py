"""Examples and prompts: what is shown to the model.

>>> Example("a man walks", id="walk", label=0).label
0
"""

from __future__ import annotations

import base64
import io
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from einops import rearrange
from jaxtyping import UInt8

from headprobe._validation import Unsaved, count, rows_as_html
from headprobe.errors import InputError

__all__ = [
    "Example",
    "Film",
    "Frames",
]


@runtime_checkable
class _Readable(Protocol):
    """Anything whose ``read()`` gives a clip, for example a lazily decoded segment of a video file."""

    def read(self) -> np.ndarray:
        """Return the frames, uint8 [frame, height, width, 3]."""
        ...


@dataclass(frozen=True, eq=False, repr=False)
class Frames:
    """Frames of a clip with the times at which they are shown.

    Parameters
    ----------
    pixels
        RGB frames, uint8 [frame, height, width, 3].
    seconds
        Time of every frame in seconds from the start of the clip, ascending; None when unknown. Families that
        write times into the prompt, or place tokens by them, need it.

    Raises
    ------
    InputError
        There is not one time per frame, or the times are not finite and ascending.

    Examples
    --------
    >>> len(Frames(np.zeros((2, 8, 8, 3), np.uint8), [0.0, 0.5]))
    2
    """

    pixels: UInt8[np.ndarray, "frame height width 3"]
    seconds: Sequence[float] | np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.seconds is None:
            return
        seconds = np.asarray(self.seconds, dtype=np.float64)
        if seconds.shape != (len(self.pixels),):
            raise InputError(f"{len(self.pixels)} frames need as many times; got an array of shape {seconds.shape}.")
        if not np.isfinite(seconds).all() or (np.diff(seconds) < 0).any() or seconds[0] < 0:
            raise InputError(f"The times of frames must be finite, ascending seconds from 0; got {seconds.tolist()}.")
        object.__setattr__(self, "seconds", seconds)

    def __len__(self) -> int:
        return len(self.pixels)

    def __repr__(self) -> str:
        times = "" if self.seconds is None else f", {self.seconds[0]:g} to {self.seconds[-1]:g} s"
        return f"<{' x '.join(map(str, np.shape(self.pixels)[:3]))} frames{times}>"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The pixels, where an array is asked for."""
        return np.array(self.pixels, dtype=dtype) if copy else np.asarray(self.pixels, dtype=dtype)


@dataclass(frozen=True, eq=False, repr=False)
class Example(Unsaved):
    """One thing shown to the model, with what is known about it.

    Parameters
    ----------
    content
        Text; or a clip as uint8 array [frame, height, width, 3] (RGB), also as `Frames` with times; or an object
        whose ``read()`` returns such an array, read only when it is needed, with the times in its attribute
        ``seconds`` if it has one.
    id
        Name, unique among the examples of one capture.
    label
        Class, an integer; None when unknown.
    group
        What must not straddle a split, usually the video.
    span
        (start, end) of the clip in frames of its video, end exclusive.

    Raises
    ------
    InputError
        A field has the wrong type or the span is empty.

    Examples
    --------
    >>> Example("a man falls", id="v1:0-48", label=1, group="v1", span=(0, 48)).label
    1
    """

    content: Any
    id: str
    label: int | None = None
    group: str | None = None
    span: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.id, str) or not self.id:
            raise InputError(f"The id of an example must be a non-empty string; got {self.id!r}.")
        if self.label is not None:
            if isinstance(self.label, (bool, np.bool_)) or not isinstance(self.label, (int, np.integer)):
                raise InputError(
                    f"Example {self.id!r}: the label is {self.label!r}; give an integer class (0, 1, ...) or None."
                )
            if not -(1 << 63) <= self.label < 1 << 63:
                raise InputError(f"Example {self.id!r}: the label is {self.label:.3e}; it must have at most 64 bits.")
            object.__setattr__(self, "label", int(self.label))
        if self.span is not None:
            start, end = (int(value) for value in self.span)
            if not 0 <= start < end:
                raise InputError(
                    f"Example {self.id!r}: the span is ({start}, {end}); it needs 0 <= start < end in frames."
                )
            object.__setattr__(self, "span", (start, end))
        if isinstance(self.content, np.ndarray):
            _check_clip(self.content, self.id)
        elif isinstance(self.content, Frames):
            _check_clip(self.content.pixels, self.id)
        elif not isinstance(self.content, (str, _Readable)):
            raise InputError(
                f"Example {self.id!r}: the content is a {type(self.content).__name__}; give text, a uint8 "
                "array "
                "[frame, height, width, 3] or an object with a read() method that returns one."
            )

    def __repr__(self) -> str:
        known = {name: getattr(self, name) for name in ("label", "group", "span")}
        said = "".join(f", {name}={value!r}" for name, value in known.items() if value is not None)
        return f"Example({_shown(self.content)}, id={self.id!r}{said})"

    def _repr_html_(self) -> str:
        rows = {"content": _shown(self.content), "label": self.label, "group": self.group, "span": self.span}
        known = {name: value for name, value in rows.items() if value is not None}
        content = self.content.pixels if isinstance(self.content, Frames) else self.content
        # What is read lazily is not read to be printed.
        film = Film(content)._repr_html_() if isinstance(content, np.ndarray) else ""
        return rows_as_html(f"Example {self.id}", known, film)

    def show(self, frames: int = 16) -> Film:
        """The frames of a clip: played in a notebook, tiled where only pictures are shown.

        Parameters
        ----------
        frames
            Most frames to show, evenly spaced.

        Returns
        -------
        Film
            Displays itself as the last value of a cell; ``.tiled()`` is the picture as an array.

        Raises
        ------
        InputError
            The content is text.
        VideoError
            The clip cannot be decoded.

        Examples
        --------
        >>> Example(np.zeros((4, 16, 16, 3), np.uint8), id="dark").show().tiled().shape
        (18, 72, 3)
        """
        if isinstance(self.content, str):
            raise InputError(f"Example {self.id!r} is a text and has no frames to show; print its content.")
        content = _read_content(self)
        return Film(np.asarray(content), frames)


class Film:
    """Frames that show themselves in a notebook.

    Parameters
    ----------
    frames
        Uint8 [frame, height, width, 3].
    most
        Most frames to show, evenly spaced.
    width
        Width of a frame in pixels; wider ones are shown at this width.

    Examples
    --------
    >>> film = Film(np.zeros((40, 16, 16, 3), np.uint8), most=8)
    >>> film
    Film(8 of 40 frames)
    """

    def __init__(self, frames: UInt8[np.ndarray, "frame height width 3"], most: int = 16, width: int = 160) -> None:
        self._n = len(frames)
        index = np.linspace(0, self._n - 1, min(count(most, "frames"), self._n)).round().astype(int)
        chosen = np.asarray(frames)[index]
        step = -(-chosen.shape[2] // width)
        self.frames = chosen[:, ::step, ::step]

    def __repr__(self) -> str:
        return f"Film({len(self.frames)} of {self._n} frames)"

    def tiled(self, columns: int = 8) -> UInt8[np.ndarray, "height width 3"]:
        """The frames in rows on white.

        Parameters
        ----------
        columns
            Frames in a row.

        Returns
        -------
        numpy.ndarray
            Uint8 [height, width, 3].
        """
        n = min(columns, len(self.frames))
        padded = np.pad(self.frames, ((0, -len(self.frames) % n), (1, 1), (1, 1), (0, 0)), constant_values=255)
        return rearrange(padded, "(row column) height width rgb -> (row height) (column width) rgb", column=n)

    def _repr_png_(self) -> bytes:
        return _encoded([self.tiled()], "PNG")

    def _repr_html_(self) -> str:
        data = base64.b64encode(_encoded(self.frames, "GIF")).decode()
        return f'<img alt="{len(self.frames)} of {self._n} frames" src="data:image/gif;base64,{data}">'


def _encoded(frames: Sequence[np.ndarray] | np.ndarray, kind: str) -> bytes:
    """Frames as the bytes of a picture, played in a loop where there are several."""
    from PIL import Image

    first, *rest = [Image.fromarray(np.ascontiguousarray(frame)) for frame in frames]
    several = {"save_all": True, "append_images": rest, "duration": 200, "loop": 0} if rest else {}
    with io.BytesIO() as file:
        first.save(file, kind, **several)
        return file.getvalue()


def _shown(content: Any) -> str:
    """Content in a few words."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = 80
    if isinstance(content, np.ndarray):
        return f"<{' x '.join(map(str, content.shape[:3]))} frames>"
    return short.repr(content)


def _check_clip(frames: np.ndarray, name: str) -> np.ndarray:
    """Return the frames unchanged if they form a clip."""
    if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8:
        got = f"{frames.dtype} array" if isinstance(frames, np.ndarray) else type(frames).__name__
        raise InputError(f"Example {name!r}: a clip must be a uint8 array with values 0..255; got a {got}.")
    if frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise InputError(
            f"Example {name!r}: a clip must have shape [frame, height, width, 3] and no empty axis; "
            f"got {tuple(frames.shape)}."
        )
    return frames


def _read_content(example: Example) -> str | np.ndarray | Frames:
    """Text or frames of an example; lazily decoded content is read now."""
    content = example.content
    if isinstance(content, (str, np.ndarray, Frames)):
        return content
    pixels = _check_clip(content.read(), example.id)
    seconds = getattr(content, "seconds", None)
    return pixels if seconds is None else Frames(pixels, seconds)


def _as_examples(items: Iterable[Any]) -> list[Example]:
    """Give every item an id and check that ids are unique."""
    if isinstance(items, (str, Example)) or (isinstance(items, np.ndarray) and items.ndim == 4):
        raise InputError("Examples must come as a list; put the single example into one: [example].")
    examples = [item if isinstance(item, Example) else Example(item, id=str(index)) for index, item in enumerate(items)]
    if not examples:
        raise InputError("No examples were given; at least one is needed.")
    seen: set[str] = set()
    for example in examples:
        if example.id in seen:
            raise InputError(f"Two examples share the id {example.id!r}; ids must be unique.")
        seen.add(example.id)
    return examples


def _as_prompts(prompts: str | Sequence[str] | Mapping[str, str] | None) -> dict[str, str]:
    """Name every prompt."""
    if prompts is None:
        return {"none": ""}
    if isinstance(prompts, str):
        named: dict[str, str] = {"p1": prompts}
    elif isinstance(prompts, Mapping):
        named = dict(prompts)
    else:
        named = {f"p{index}": text for index, text in enumerate(prompts, start=1)}
    if not named:
        raise InputError("The prompts are empty; give at least one, or None for no prompt.")
    for name, text in named.items():
        if not isinstance(name, str) or not name:
            raise InputError(f"A prompt name must be a non-empty string; got {name!r}.")
        if not isinstance(text, str):
            raise InputError(f"Prompt {name!r} must be text; got {text!r}.")
        if not text and (name, len(named)) != ("none", 1):
            raise InputError(f"Prompt {name!r} is empty; write a question, or pass None for no prompt.")
    return named
