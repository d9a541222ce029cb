"""One self-contained HTML page for a run: text, tables and figures, readable on a telephone and on paper.

The page loads nothing from anywhere: figures are inside it, there is no script, and a content security policy
says so to the browser. Every text is escaped, whatever a video is called.
"""

from __future__ import annotations

import base64
import html
import io
import math
import numbers
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headprobe.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as MatplotlibFigure

__all__ = ["Bullets", "Facts", "Figure", "Paragraph", "Section", "Table", "write_report"]


@dataclass(frozen=True)
class Paragraph:
    """A paragraph of text.

    Parameters
    ----------
    text
        Plain text; nothing in it is taken as HTML. An empty line starts a new paragraph.

    Examples
    --------
    >>> Paragraph("Scores are higher for running people.").text
    'Scores are higher for running people.'
    """

    text: str


@dataclass(frozen=True)
class Table:
    """A table with a caption.

    Parameters
    ----------
    columns
        Heads of the columns.
    rows
        The cells, one for each column. Floats are printed with `digits` decimals, None and NaN as a dash.
    caption
        What the table shows, and on which split.
    digits
        Decimals of floats.

    Examples
    --------
    >>> Table(["row", "AUC"], [["hunted", 0.9144], ["random", None]], caption="Test videos").columns
    ['row', 'AUC']
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    caption: str
    digits: int = 3


@dataclass(frozen=True)
class Figure:
    """A figure with a caption, and words for those who cannot see it.

    Parameters
    ----------
    figure
        A matplotlib Figure or Axes, or the path of a PNG file.
    alt
        What the figure shows, in a sentence.
    caption
        The text beneath.
    dpi
        Dots per inch at which a matplotlib figure is drawn, or the PNG file was; it sets the printed size.

    Examples
    --------
    >>> Figure("heatmap.png", alt="Scores of 48 heads; L4H3 is highest.", caption="RSS").alt
    'Scores of 48 heads; L4H3 is highest.'
    """

    figure: MatplotlibFigure | Axes | str | os.PathLike[str]
    alt: str
    caption: str = ""
    dpi: int = 150


@dataclass(frozen=True)
class Facts:
    """Names and values, for example the settings and the provenance of a run.

    Parameters
    ----------
    items
        Name and value of each fact.

    Examples
    --------
    >>> Facts({"model": "tiny", "seed": 0}).items["seed"]
    0
    """

    items: Mapping[str, Any]


@dataclass(frozen=True)
class Bullets:
    """A list.

    Parameters
    ----------
    items
        The texts, in order.
    ordered
        Whether they are numbered.

    Examples
    --------
    >>> Bullets(["no trailing frame is dropped", "no frame is made up"]).ordered
    False
    """

    items: Sequence[str]
    ordered: bool = False


Block = Paragraph | Table | Figure | Facts | Bullets


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it.

    Parameters
    ----------
    title
        The heading.
    blocks
        Paragraphs, tables, figures, facts and lists; a plain string is a paragraph.

    Examples
    --------
    >>> len(Section("Data", ["Two videos.", Table(["video"], [["a"], ["b"]], caption="Videos")]).blocks)
    2
    """

    title: str
    blocks: Sequence[Block | str]


def write_report(
    path: str | os.PathLike[str],
    title: str,
    sections: Sequence[Section],
    language: str = "en",
    *,
    summary: str = "",
) -> Path:
    """Write a self-contained HTML page.

    Parameters
    ----------
    path
        The file to write; it is replaced only when the new one is complete.
    title
        Title and first heading.
    sections
        The sections in order. From four on, the page starts with a list of them.
    language
        Language of the texts as a BCP 47 tag, for screen readers and hyphenation.
    summary
        A sentence or two under the title.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    InputError
        If there are no sections, a block is of no known kind, a table's row does not fit its columns, a
        figure has no alternative text or is no PNG file, or the language is no tag.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     page = write_report(f"{folder}/r.html", "Run <1>", [Section("Result", ["AUC is 0.9."])])
    ...     "<h1>Run &lt;1&gt;</h1>" in page.read_text(encoding="utf-8")
    True
    """
    if not sections:
        raise InputError(f"the report {title!r} has no sections")
    if not re.fullmatch(r"[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*", language):
        raise InputError(f"the language must be a tag such as 'en' or 'de-CH', got {language!r}")
    contents = ""
    if len(sections) >= 4:
        links = "".join(f'<li><a href="#s{i}">{_text(s.title)}</a></li>' for i, s in enumerate(sections, 1))
        contents = f'<nav aria-label="{_text(title)}"><ol>{links}</ol></nav>'
    body = "".join(
        f'<section aria-labelledby="s{i}"><h2 id="s{i}">{_text(section.title)}</h2>'
        + "".join(_block(block, f"s{i}b{j}") for j, block in enumerate(section.blocks, 1))
        + "</section>\n"
        for i, section in enumerate(sections, 1)
    )
    lead = f'<p class="lead">{_text(summary)}</p>' if summary else ""
    page = (
        f'<!DOCTYPE html>\n<html lang="{language}">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<header><h1>{_text(title)}</h1>{lead}</header>\n{contents}\n<main>\n{body}</main>\n</body>\n</html>\n"
    )
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(page, encoding="utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path


def _block(block: Block | str, name: str) -> str:
    match block:
        case str():
            return _paragraphs(block)
        case Paragraph():
            return _paragraphs(block.text)
        case Table():
            return _table(block, name)
        case Figure():
            return _figure(block)
        case Facts():
            pairs = "".join(f"<dt>{_text(k)}</dt><dd>{_value(v, None)}</dd>" for k, v in block.items.items())
            return f"<dl>{pairs}</dl>"
        case Bullets():
            if isinstance(block.items, str):
                raise InputError(f"the items of a list must be a sequence of texts, got the text {block.items!r}")
            kind = "ol" if block.ordered else "ul"
            return f"<{kind}>" + "".join(f"<li>{_text(item)}</li>" for item in block.items) + f"</{kind}>"
    raise InputError(f"a report is made of Paragraph, Table, Figure, Facts and Bullets, got {type(block).__name__}")


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
    for row in table.rows:
        cells = [f'<th scope="row"{mark[0]}>{_value(row[0], table.digits)}</th>']
        cells += [f"<td{mark[i]}>{_value(row[i], table.digits)}</td>" for i in range(1, len(row))]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    # A wide table scrolls within its own frame, which the keyboard can reach; the page does not.
    return (
        f'<div class="scroll" role="region" aria-labelledby="{name}" tabindex="0"><table>'
        f'<caption id="{name}">{_text(table.caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _figure(figure: Figure) -> str:
    if not figure.alt.strip():
        raise InputError(f"the figure {figure.caption!r} needs an alternative text: say what it shows")
    data = _png(figure)
    # CSS counts 96 pixels to the inch.
    width, height = (round(int.from_bytes(data[at : at + 4], "big") * 96 / figure.dpi) for at in (16, 20))
    alt = _text(figure.alt)
    source = f"data:image/png;base64,{base64.b64encode(data).decode('ascii')}"
    image = f'<img src="{source}" width="{width}" height="{height}" alt="{alt}">'
    if width > _WIDE:
        # On a narrow screen it is not shrunk until its words vanish, but scrolls within its own frame.
        image = f'<div class="scroll wide" role="region" aria-label="{alt}" tabindex="0">{image}</div>'
    caption = f"<figcaption>{_text(figure.caption)}</figcaption>" if figure.caption else ""
    return f"<figure>{image}{caption}</figure>"


def _png(figure: Figure) -> bytes:
    source = figure.figure
    if isinstance(source, str | os.PathLike):
        data = Path(source).read_bytes()
    else:
        drawn: Any = getattr(source, "figure", None) or source  # an Axes knows its figure
        if not hasattr(drawn, "savefig"):
            raise InputError(
                f"a figure must be a matplotlib Figure or Axes or the path of a PNG file, got {type(source).__name__}"
            )
        buffer = io.BytesIO()
        # Without the version of matplotlib in the file, so that the same run gives the same page.
        drawn.savefig(
            buffer,
            format="png",
            dpi=figure.dpi,
            bbox_inches="tight",
            facecolor="white",
            metadata={"Software": None},
        )
        data = buffer.getvalue()
    if data[:8] != b"\x89PNG\r\n\x1a\n" or len(data) < 24:
        raise InputError(f"{source} is not a PNG file")
    return data


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
p, ul, ol, dl { max-width: 44rem; margin: .6rem 0; }
.lead { font-size: 1.1rem; color: #3a3a3a; }
nav { margin: 1.2rem 0; padding: .3rem 1rem; background: #f4f5f7; border-radius: .4rem; }
nav ol { margin: .3rem 0; padding-left: 1.4rem; }
a { color: #005a9c; }
figure { margin: 1.2rem 0; }
img { display: block; max-width: 100%; height: auto; }
.wide img { min-width: 34rem; }
figure .scroll { margin: 0; }
figcaption, caption { font-size: .92rem; color: #3a3a3a; text-align: left; padding: .4rem 0; }
caption { caption-side: top; font-weight: 600; }
.scroll { overflow-x: auto; margin: 1.2rem 0; }
.scroll:focus-visible { outline: 3px solid #005a9c; outline-offset: 2px; }
table { border-collapse: collapse; font-size: .95rem; min-width: min(100%, 24rem); }
th, td { padding: .35rem .8rem .35rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid #dcdcdc; overflow-wrap: normal; }
thead th { border-bottom: 2px solid #767676; vertical-align: bottom; }
tbody th { font-weight: 500; min-width: 8rem; overflow-wrap: anywhere; }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
th.n { white-space: normal; }
dl { display: grid; grid-template-columns: minmax(8rem, max-content) 1fr; gap: .25rem 1.2rem; }
dt { color: #4a4a4a; } dd { margin: 0; }
@media (max-width: 34rem) { dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: .5rem; }
  dt { font-size: .9rem; } }
@media print { body { max-width: none; padding: 0; font-size: 10.5pt; } nav { display: none; }
  h2 { break-after: avoid; } figure, tr, dt { break-inside: avoid; } thead { display: table-header-group; }
  .scroll { overflow: visible; } table { min-width: 0; }
  img, .wide img { min-width: 0; max-width: 100%; max-height: 22cm; object-fit: contain; }
  a { color: inherit; text-decoration: none; } @page { margin: 18mm; } }
"""
