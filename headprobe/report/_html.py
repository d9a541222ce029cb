"""The HTML of a report: one page that loads nothing and runs nothing, readable on a telephone and on paper."""

from __future__ import annotations

import html
import math
import numbers
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from headprobe._files import write_file
from headprobe.errors import InputError
from headprobe.plotting._pictures import address, figure_png, frame_jpeg, png_size, webp, within
from headprobe.report._blocks import Block, Bullets, Facts, Figure, Paragraph, Pictures, Quote, Section, Table


def page(title: str, sections: Sequence[Section], language: str = "en", summary: str = "") -> str:
    """The text of the page."""
    if not sections:
        raise InputError(f"the report {title!r} has no sections")
    if not re.fullmatch(r"[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*", language):
        raise InputError(f"the language must be a tag such as 'en' or 'de-CH', got {language!r}")
    contents = ""
    if len(sections) >= 4:
        links = "".join(f'<li><a href="#s{i}">{_text(s.title)}</a></li>' for i, s in enumerate(sections, 1))
        contents = f'<nav aria-label="{_text(title)}"><ol>{links}</ol></nav>'
    body = "\n".join(_section(section, f"s{i}", 2) for i, section in enumerate(sections, 1))
    lead = f'<p class="lead">{_text(summary)}</p>' if summary else ""
    return (
        f'<!DOCTYPE html>\n<html lang="{language}">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<header><h1>{_text(title)}</h1>{lead}</header>\n{contents}\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def html_of(block: Block | str) -> str:
    """The HTML of one block."""
    return _block(block, "b", 2)


def _section(section: Section, name: str, level: int) -> str:
    heading = f'<h{level} id="{name}">{_text(section.title)}</h{level}>'
    blocks = "".join(_block(block, f"{name}b{number}", level) for number, block in enumerate(section.blocks, 1))
    return f'<section aria-labelledby="{name}">{heading}{blocks}</section>'


def _block(block: Block | str, name: str, level: int) -> str:
    match block:
        case str():
            return _paragraphs(block)
        case Paragraph():
            return _paragraphs(block.text)
        case Quote():
            source = f"<footer>{_text(block.source)}</footer>" if block.source else ""
            return f"<blockquote>{_paragraphs(block.text)}{source}</blockquote>"
        case Table():
            return _table(block, name)
        case Figure():
            return _figure(block)
        case Pictures():
            return _pictures(block)
        case Section():
            return _section(block, name, min(level + 1, 6))
        case Facts():
            pairs = "".join(f"<dt>{_text(k)}</dt><dd>{_value(v, None)}</dd>" for k, v in block.items.items())
            return f"<dl>{pairs}</dl>"
        case Bullets():
            if isinstance(block.items, str):
                raise InputError(f"the items of a list must be a sequence of texts, got the text {block.items!r}")
            kind = "ol" if block.ordered else "ul"
            return f"<{kind}>" + "".join(f"<li>{_text(item)}</li>" for item in block.items) + f"</{kind}>"
    raise InputError(
        "a report is made of Paragraph, Table, Figure, Pictures, Facts, Bullets, Quote and Section, "
        f"got {type(block).__name__}"
    )


def _paragraphs(text: str) -> str:
    return "".join(f"<p>{_text(part.strip())}</p>" for part in re.split(r"\n\s*\n", text) if part.strip())


def _table(table: Table, name: str) -> str:
    columns = list(table.columns)
    for number, row in enumerate(table.rows):
        if isinstance(row, str) or len(row) != len(columns):
            raise InputError(f"row {number} of the table {table.caption!r} must have {len(columns)} cells, got {row!r}")
    # A column is set flush right if all its cells are numbers or dashes.
    right = [all(_is_number(row[i]) or row[i] is None for row in table.rows) for i in range(len(columns))]
    right = [flag and bool(table.rows) for flag in right]
    mark = [' class="n"' if flag else "" for flag in right]
    head = "".join(f'<th scope="col"{mark[i]}>{_text(column)}</th>' for i, column in enumerate(columns))
    lines = []
    unknown = [number for number in table.highlight if not 0 <= number < len(table.rows)]
    if unknown:
        raise InputError(f"row {unknown[0]} of the table {table.caption!r} is to be set off, but it has no such row")
    for number, row in enumerate(table.rows):
        cells = [f'<th scope="row"{mark[0]}>{_value(row[0], table.digits)}</th>']
        cells += [f"<td{mark[i]}>{_value(row[i], table.digits)}</td>" for i in range(1, len(row))]
        off = ' class="off"' if number in table.highlight else ""
        lines.append(f"<tr{off}>{''.join(cells)}</tr>")
    # A wide table scrolls within its own frame, which the keyboard can reach; the page does not.
    return (
        f'<div class="scroll" role="region" aria-labelledby="{name}" tabindex="0"><table>'
        f'<caption id="{name}"><span>{_text(table.caption)}</span></caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _figure(figure: Figure) -> str:
    if not figure.alt.strip():
        raise InputError(f"the figure {figure.caption!r} needs an alternative text: say what it shows")
    data = figure_png(figure.figure, figure.dpi)
    # CSS counts 96 pixels to the inch.
    width, height = (round(size * 96 / figure.dpi) for size in png_size(data))
    alt = _text(figure.alt)
    source = address(webp(data) if figure.lossy else data)
    image = f'<img src="{source}" width="{width}" height="{height}" alt="{alt}">'
    if width > _WIDE:
        # On a narrow screen it is not shrunk until its words vanish, but scrolls within its own frame.
        image = f'<div class="scroll wide" role="region" aria-label="{alt}" tabindex="0">{image}</div>'
    caption = f"<figcaption>{_text(figure.caption)}</figcaption>" if figure.caption else ""
    return f"<figure>{image}{caption}</figure>"


def _pictures(strip: Pictures) -> str:
    if not strip.alt.strip():
        raise InputError("frames need an alternative text: say what they show")
    items = []
    for words, frame in strip.pictures:
        small = within(frame, 2 * strip.height)
        size = f'width="{round(strip.height * small.shape[1] / small.shape[0])}" height="{strip.height}"'
        image = f'<img src="{address(frame_jpeg(frame, 2 * strip.height))}" {size} alt="">'
        items.append(f"<figure>{image}<figcaption>{_text(words)}</figcaption></figure>")
    return f'<div class="strip" role="group" aria-label="{_text(strip.alt)}">{"".join(items)}</div>'


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _value(value: Any, digits: int | None) -> str:
    """A value's text: floats with their decimals (None: as many as they need), nothing as a dash."""
    if value is None or (_is_number(value) and math.isnan(value)):
        return "–"
    if _is_number(value) and not isinstance(value, numbers.Integral):
        return _text(f"{value:g}" if digits is None else f"{value:.{digits}f}")
    if isinstance(value, Mapping):
        return _text(", ".join(f"{key}: {item}" for key, item in value.items())) or "–"
    if isinstance(value, list | tuple | set | frozenset):
        return _text(", ".join(str(item) for item in value)) or "–"
    return _text(value)


def _text(value: object) -> str:
    """Escaped for element content and quoted attributes; what HTML or UTF-8 cannot hold becomes a mark."""
    text = str(value).encode("utf-8", "backslashreplace").decode("utf-8")
    text = re.sub("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffe\uffff]", "\ufffd", text)
    return html.escape(text, quote=True)


_WIDE = 544  # CSS pixels, 34rem


_STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; padding: 1rem 1rem 3rem; max-width: 60rem; background: #fff; color: #1f1f1f;
  font: 1rem/1.55 system-ui, "Segoe UI", Roboto, "Liberation Sans", Arial, sans-serif;
  overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 1rem 0 .5rem; }
h2 { font-size: 1.25rem; line-height: 1.3; margin: 2.2rem 0 .6rem; padding-top: .6rem;
  border-top: 1px solid #c9c9c9; }
h3 { font-size: 1.05rem; line-height: 1.3; margin: 1.6rem 0 .4rem; }
p, ul, ol, dl, blockquote { max-width: 44rem; margin: .6rem 0; }
.lead { font-size: 1.1rem; color: #3a3a3a; }
nav { margin: 1.2rem 0; padding: .3rem 1rem; background: #f4f5f7; border-radius: .4rem; }
nav ol { margin: .3rem 0; padding-left: 1.4rem; }
a { color: #005a9c; }
blockquote { margin-left: 0; padding: .1rem 1rem; border-left: 4px solid #9a9a9a; background: #f7f7f8; }
blockquote footer { font-size: .92rem; color: #4a4a4a; padding-bottom: .4rem; }
figure { margin: 1.2rem 0; }
img { display: block; max-width: 100%; height: auto; }
.strip { display: flex; flex-wrap: wrap; gap: .5rem; margin: .8rem 0; }
.strip figure { margin: 0; } .strip figcaption { padding: .1rem 0; }
.wide img { min-width: 34rem; }
figure .scroll { margin: 0; }
figcaption, caption { font-size: .92rem; color: #3a3a3a; text-align: left; padding: .4rem 0; }
caption { caption-side: top; font-weight: 600; }
caption span { display: block; position: sticky; left: 0; max-width: min(100%, 58rem, 100vw - 2rem); }
.scroll { overflow-x: auto; margin: 1.2rem 0; }
.scroll:focus-visible { outline: 3px solid #005a9c; outline-offset: 2px; }
table { border-collapse: collapse; font-size: .95rem; min-width: min(100%, 24rem); }
th, td { padding: .35rem .8rem .35rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid #dcdcdc; overflow-wrap: normal; }
thead th { border-bottom: 2px solid #767676; vertical-align: bottom; }
tbody th { font-weight: 500; min-width: 8rem; overflow-wrap: anywhere; }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
th.n { white-space: normal; }
.off th, .off td { font-weight: 700; background: #f4f5f7; } .off th { box-shadow: inset 4px 0 #005a9c;
  padding-left: .7rem; }
dl { display: grid; grid-template-columns: minmax(8rem, max-content) 1fr; gap: .25rem 1.2rem; }
dt { color: #4a4a4a; } dd { margin: 0; }
@media (max-width: 34rem) { dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: .5rem; }
  dt { font-size: .9rem; } }
@media print { body { max-width: none; padding: 0; font-size: 10.5pt; } nav { display: none; }
  h2, h3 { break-after: avoid; }
  figure, tr, dt, blockquote, caption { break-inside: avoid; } thead { display: table-header-group; }
  caption, thead, tbody tr:first-child { break-after: avoid; } tbody tr:last-child { break-before: avoid; }
  caption span { position: static; max-width: none; }
  .scroll { overflow: visible; } table { min-width: 0; }
  img, .wide img { min-width: 0; max-width: 100%; max-height: 22cm; object-fit: contain; }
  a { color: inherit; text-decoration: none; } @page { margin: 18mm; } }
"""


MAX_BYTES = 5_000_000


"""How large a page may be."""


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
    sections = [replace(section, blocks=[drawn(block) for block in section.blocks]) for section in sections]
    headings = [section.title for section in sections] if shed is None else shed
    sections = fitting(title, sections, headings, language, summary, max_bytes)
    text = page(title, sections, language, summary).encode("utf-8", "backslashreplace")
    if len(text) > max_bytes:
        raise InputError(
            f"the report {title!r} would have {len(text) / 1e6:.1f} MB, more than the {max_bytes / 1e6:g} MB that it "
            "may have: give less text, or fewer figures outside of what may be left out"
        )
    path = Path(path)
    write_file(path, text)
    return path


def fitting(
    title: str, sections: Sequence[Section], shed: Sequence[str], language: str, summary: str, max_bytes: int
) -> list[Section]:
    """The sections for a page that is not too large: with lossy figures, and with as many as there is room for."""
    if len(page(title, sections, language, summary).encode("utf-8", "backslashreplace")) <= max_bytes:
        return list(sections)
    smaller = [_each(s, _smaller) if s.title in shed else s for s in sections]
    sizes: list[int] = []

    def measured(block: Figure | Pictures) -> Block:
        sizes.append(len(html_of(block).encode()))
        return _left_out(block)

    bare = [_each(s, measured) if s.title in shed else s for s in smaller]
    note = "{} of {} pictures of this page are left out: it would be too large."
    room = max_bytes - len(page(title, bare, language, summary).encode()) - 2 * len(note)
    keep = int((np.cumsum(sizes) <= room).sum())
    if keep == len(sizes):
        return smaller
    left_out: list[str] = []
    turn = iter(range(len(sizes)))

    def kept(block: Figure | Pictures) -> Block:
        return block if next(turn) < keep else _left_out(block)

    fitted: list[Section] = []
    for section in smaller:
        start = section.blocks
        if section.title in shed:
            section = _each(section, kept)
            if not left_out and any(one is not other for one, other in zip(start, section.blocks, strict=True)):
                left_out.append(note.format(len(sizes) - keep, len(sizes)))
                section = replace(section, blocks=[*left_out, *section.blocks])
        fitted.append(section)
    return fitted


def drawn(block: Block | str) -> Block | str:
    """A block with its figures as they stand now."""
    if isinstance(block, Figure):
        return replace(block, figure=figure_png(block.figure, block.dpi))
    return replace(block, blocks=[drawn(one) for one in block.blocks]) if isinstance(block, Section) else block


def _each(section: Section, change: Callable[[Figure | Pictures], Block]) -> Section:
    """The section with every figure and strip of frames changed, those of its parts too."""

    def changed(block: Block | str) -> Block | str:
        if isinstance(block, Section):
            part = _each(block, change)
            same = all(one is other for one, other in zip(block.blocks, part.blocks, strict=True))
            return block if same else part
        return change(block) if isinstance(block, Figure | Pictures) else block

    return replace(section, blocks=[changed(block) for block in section.blocks])


def _smaller(block: Figure | Pictures) -> Block:
    return replace(block, lossy=True) if isinstance(block, Figure) else block


def _left_out(block: Figure | Pictures) -> Block:
    words = block.caption or block.alt if isinstance(block, Figure) else block.alt
    return Paragraph(f"{words} (Left out: the page would be too large.)")
