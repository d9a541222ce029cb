"""Examples and prompts: what is shown to the model.

>>> Example("a man walks", id="walk", label=0).label
0
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from headprobe.errors import InputError

__all__ = [
    "Example",
    "Frames",
]


@runtime_checkable
class _Readable(Protocol):
    """Anything whose ``read()`` gives a clip, for example a lazily decoded segment of a video file."""

    def read(self) -> np.ndarray:
        """Return the frames, uint8 [frame, height, width, 3]."""
        ...


@dataclass(frozen=True, eq=False)
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

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The pixels, where an array is asked for."""
        return np.array(self.pixels, dtype=dtype) if copy else np.asarray(self.pixels, dtype=dtype)


@dataclass(frozen=True, eq=False)
class Example:
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
