"""The examples behind the heads: which are shown, and their words or frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int

from headprobe.errors import InputError
from headprobe.examples import Example, read_content
from headprobe.report_pictures import address, frame_jpeg, within

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["contents", "describe", "shown_rows"]

_FRAMES, _HEIGHT, _WORDS = 4, 72, 280


def shown_rows(y: Int[np.ndarray, " example"] | None, n: int, most: int) -> Int[np.ndarray, " shown"]:
    """The rows to show: all, or as many of each class as there is room for, at even distances.

    Parameters
    ----------
    y
        Labels; None for none.
    n
        Number of rows.
    most
        How many may be shown.

    Returns
    -------
    numpy.ndarray
        Ascending positions. Of a small class, all.

    Examples
    --------
    >>> shown_rows(np.array([0, 0, 0, 0, 0, 0, 1, 1]), 8, 4).tolist()
    [0, 5, 6, 7]
    """
    if n <= most:
        return np.arange(n)
    classes = [np.arange(n)] if y is None else [np.flatnonzero(y == value) for value in np.unique(y)]
    room, chosen = most, []
    for left, rows in zip(range(len(classes), 0, -1), sorted(classes, key=len), strict=True):
        take = min(len(rows), max(room // left, 1))
        chosen.append(rows[np.unique(np.linspace(0, len(rows) - 1, take).round().astype(int))])
        room -= take
    return np.sort(np.concatenate(chosen))


def describe(table: pd.DataFrame, rows: Int[np.ndarray, " shown"]) -> list[dict[str, Any]]:
    """Id, label, group and span of the rows, as plain values.

    Parameters
    ----------
    table
        As in `headprobe.activations.HeadActivations.examples`.
    rows
        Which.

    Returns
    -------
    list of dict

    Examples
    --------
    >>> from headprobe.tables import example_table
    >>> describe(example_table([Example("x", id="a", label=1, group="v", span=(0, 8))]), np.array([0]))
    [{'id': 'a', 'label': 1, 'group': 'v', 'start': 0, 'end': 8}]
    """
    described = []
    for row in table.iloc[rows].to_dict("records"):
        one: dict[str, Any] = {}
        for name in ("id", "label", "group", "start", "end"):
            value = row[name]
            if value is not None and value == value and str(value) != "<NA>":
                one[name] = str(value) if name in ("id", "group") else int(value)
        described.append(one)
    return described


def contents(
    examples: Sequence[Example] | Mapping[str, Any], table: pd.DataFrame, rows: Sequence[int], room: int
) -> tuple[dict[int, dict[str, str]], int]:
    """The words or frames of rows, until there is no room left.

    Parameters
    ----------
    examples
        The examples that the activations were captured from, in any order.
    table
        Their rows.
    rows
        Positions, the most wanted first.
    room
        Bytes.

    Returns
    -------
    (contents, bytes)
        By position, ``text`` or ``image`` (a data address); and the bytes that they take.

    Raises
    ------
    InputError
        A row's example is not there.
    VideoError
        A clip cannot be read.

    Examples
    --------
    >>> from headprobe.tables import example_table
    >>> given = [Example("a man falls", id="a"), Example("a man walks", id="b")]
    >>> contents(given, example_table(given), [1], 1000)
    ({1: {'text': 'a man walks'}}, 26)
    """
    known = (
        {example.id: example for example in examples.values()}
        if isinstance(examples, Mapping)
        else {example.id: example for example in examples}
    )
    names = table["example" if "example" in table.columns else "id"].astype(str).tolist()
    missing = [names[row] for row in rows if names[row] not in known]
    if missing:
        raise InputError(
            f"{len(missing)} of the rows to show have no example, the first is {missing[0]!r}: give the examples that "
            "the activations were captured from"
        )
    found: dict[int, dict[str, str]] = {}
    used = 0
    for row in rows:
        content = read_content(known[names[row]])
        if isinstance(content, str):
            one = {"text": content if len(content) <= _WORDS else content[: _WORDS - 1] + "…"}
        else:
            frames = np.asarray(content)
            if "frame" in table.columns and table["frame"].iloc[row] == table["frame"].iloc[row]:
                frames = frames[int(table["frame"].iloc[row]) : int(table["frame_end"].iloc[row])]
            one = {"image": address(_strip(frames))}
        size = len(next(iter(one.values())).encode()) + 15
        if used + size > room:
            break
        found[row] = one
        used += size
    return found, used


def _strip(frames: np.ndarray) -> bytes:
    """Some frames side by side."""
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(_FRAMES, len(frames))).round().astype(int))
    small = [within(frames[at], _HEIGHT) for at in chosen]
    gap = np.full((small[0].shape[0], 2, 3), 255, np.uint8)
    pieces = [piece for picture in small for piece in (picture, gap)][:-1]
    return frame_jpeg(np.concatenate(pieces, 1), _HEIGHT, quality=72)
