"""The HTML of a report: one page that loads nothing and runs nothing, readable on a telephone and on paper."""

from __future__ import annotations

import functools
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, count
from numbers import Integral, Real
from pathlib import Path
from typing import Any, get_args

from headprobe._files import write_file
from headprobe.errors import InputError
from headprobe.plotting._pictures import address, figure_png, frame_jpeg, png_size, templates, webp, within
from headprobe.report._blocks import Block, Bullets, Figure, Paragraph, Pictures, Section, Table

_WIDE = 544  # CSS pixels, 34rem
MAX_BYTES = 5_000_000
"""How large a page may be."""


def page(title: str, sections: Sequence[Section], language: str = "en", summary: str = "") -> str:
    """The text of the page."""
    if not sections:
        raise InputError(f"the report {title!r} has no sections")
    if not re.fullmatch(r"[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*", language):
        raise InputError(f"the language must be a tag such as 'en' or 'de-CH', got {language!r}")
    return _template("page.html").render(title=title, sections=sections, language=language, summary=summary)


@functools.cache
def _template(name: str) -> Any:
    filters = {"kind": _kind, "parts": _parts, "value": _value, "right": _right, "image": _image, "images": _images}
    return templates("headprobe.report", **filters).get_template(name)


def _kind(block: Block | str) -> str:
    if not isinstance(block, str | Block):
        names = ", ".join(kind.__name__ for kind in get_args(Block))
        raise InputError(f"a report is made of {names}, got {type(block).__name__}")
    if isinstance(block, Bullets) and isinstance(block.items, str):
        raise InputError(f"the items of a list must be a sequence of texts, got the text {block.items!r}")
    return "str" if isinstance(block, str) else type(block).__name__


def _parts(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]


def _right(table: Table) -> list[bool]:
    """Which columns are set flush right: those whose cells are all numbers or dashes."""
    for number, row in enumerate(table.rows):
        if isinstance(row, str) or len(row) != len(table.columns):
            raise InputError(
                f"row {number} of the table {table.caption!r} must have {len(table.columns)} cells, got {row!r}"
            )
    unknown = [number for number in table.highlight if not 0 <= number < len(table.rows)]
    if unknown:
        raise InputError(f"row {unknown[0]} of the table {table.caption!r} is to be set off, but it has no such row")
    columns = [[row[i] for row in table.rows] for i in range(len(table.columns))]
    return [bool(cells) and all(cell is None or _is_number(cell) for cell in cells) for cells in columns]


def _image(figure: Figure) -> dict[str, Any]:
    if not figure.alt.strip():
        raise InputError(f"the figure {figure.caption!r} needs an alternative text: say what it shows")
    data = figure_png(figure.figure, figure.dpi)
    # CSS counts 96 pixels to the inch.
    width, height = (round(size * 96 / figure.dpi) for size in png_size(data))
    source = address(webp(data) if figure.lossy else data)
    return {"source": source, "width": width, "height": height, "wide": width > _WIDE}


def _images(strip: Pictures) -> list[dict[str, Any]]:
    if not strip.alt.strip():
        raise InputError("frames need an alternative text: say what they show")
    images = []
    for words, frame in strip.pictures:
        high, wide = within(frame, 2 * strip.height).shape[:2]
        source = address(frame_jpeg(frame, 2 * strip.height))
        images.append({"source": source, "width": round(strip.height * wide / high), "words": words})
    return images


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _value(value: Any, digits: int | None) -> Any:
    """A value's text: floats with their decimals (None: as many as they need), nothing as a dash."""
    if value is None or (_is_number(value) and math.isnan(value)):
        return "–"
    if _is_number(value) and not isinstance(value, Integral):
        return f"{value:g}" if digits is None else f"{value:.{digits}f}"
    if isinstance(value, Mapping):
        value = [f"{key}: {item}" for key, item in value.items()]
    if isinstance(value, list | tuple | set | frozenset):
        return ", ".join(map(str, value)) or "–"
    return value


def write_report(
    path: str | os.PathLike[str],
    title: str,
    sections: Sequence[Section],
    language: str = "en",
    *,
    summary: str = "",
    max_bytes: int = MAX_BYTES,
    shed: Sequence[str] | None = None,
) -> Path:
    """Write a self-contained HTML page."""
    headings = [section.title for section in sections] if shed is None else shed
    text = _fitting(title, [drawn(one) for one in sections], headings, language, summary, max_bytes)
    size = len(text.encode())
    if size > max_bytes:
        raise InputError(
            f"the report {title!r} would have {size / 1e6:.1f} MB, more than the {max_bytes / 1e6:g} MB that it "
            "may have: give less text, or fewer figures outside of what may be left out"
        )
    path = Path(path)
    write_file(path, text)
    return path


def _fitting(
    title: str, sections: Sequence[Section], shed: Sequence[str], language: str, summary: str, max_bytes: int
) -> str:
    """A page that is not too large: with lossy figures, and with as many pictures as there is room for."""

    def written(some: Sequence[Section]) -> tuple[str, int]:
        text = page(title, some, language, summary)
        return text, len(text.encode())

    def each(change: Callable[[Figure | Pictures], Block]) -> list[Section]:
        return [_each(one, change) if one.title in shed else one for one in sections]

    text, size = written(sections)
    if size <= max_bytes:
        return text
    sections = each(lambda block: replace(block, lossy=True) if isinstance(block, Figure) else block)
    sizes: list[int] = []

    def measured(block: Figure | Pictures) -> Block:
        sizes.append(len(_template("blocks.html").module.block(block, "b", 2).encode()))
        return _left_out(block)

    bare, ends = [], []
    for one in sections:
        bare.append(_each(one, measured) if one.title in shed else one)
        ends.append(len(sizes))
    note = "{} of {} pictures of this page are left out: it would be too large."
    room = max_bytes - written(bare)[1] - 2 * len(note)
    keep = sum(total <= room for total in accumulate(sizes))
    turn = count()
    fitted = each(lambda block: block if next(turn) < keep else _left_out(block))
    if keep < len(sizes):
        first = next(number for number, end in enumerate(ends) if end > keep)
        lead = note.format(len(sizes) - keep, len(sizes))
        fitted[first] = replace(fitted[first], blocks=[lead, *fitted[first].blocks])
    return written(fitted)[0]


def _each(block: Any, change: Callable[[Figure | Pictures], Block]) -> Any:
    """The block with every figure and strip of frames in it changed."""
    if isinstance(block, Section):
        return replace(block, blocks=[_each(one, change) for one in block.blocks])
    return change(block) if isinstance(block, Figure | Pictures) else block


def drawn(block: Any) -> Any:
    """A block with its figures as they stand now."""
    return _each(
        block, lambda one: replace(one, figure=figure_png(one.figure, one.dpi)) if isinstance(one, Figure) else one
    )


def _left_out(block: Figure | Pictures) -> Block:
    words = block.caption or block.alt if isinstance(block, Figure) else block.alt
    return Paragraph(f"{words} (Left out: the page would be too large.)")
