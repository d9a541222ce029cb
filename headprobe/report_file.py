"""A report as a file: written in one go, and made to fit."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from headprobe._files import write_file
from headprobe.errors import InputError
from headprobe.report_blocks import Block, Figure, Paragraph, Pictures, Section
from headprobe.report_page import html_of, page
from headprobe.report_pictures import figure_png

__all__ = ["MAX_BYTES", "drawn", "fitting", "write_report"]

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
    """Write a self-contained HTML page.

    A page that is too large gets its figures with some loss; if that is not enough, the last of them and the last
    strips of frames are left out, and the page says which. Text and tables stay.

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
    max_bytes
        How large the page may be.
    shed
        Headings of the sections whose pictures may be left out; all if not given.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    InputError
        If there are no sections, a block is of no known kind, a table's row does not fit its columns, a
        figure has no alternative text or is no PNG file, the language is no tag, or the page is too large
        without the pictures, too.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     page = write_report(f"{folder}/r.html", "Run <1>", [Section("Result", ["AUC is 0.9."])])
    ...     "<h1>Run &lt;1&gt;</h1>" in page.read_text(encoding="utf-8")
    True
    """
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
    """The sections for a page that is not too large: with lossy figures, and with as many as there is room for.

    Parameters
    ----------
    title, sections, language, summary, max_bytes
        As in `write_report`.
    shed
        Headings of the sections whose pictures can go, the last ones first; words stand in for them.

    Returns
    -------
    list of Section
        As they were, where the page is not too large.

    Examples
    --------
    >>> sections = [Section("Result", ["AUC is 0.9."])]
    >>> fitting("Run", sections, ["Result"], "en", "", MAX_BYTES) == sections
    True
    """
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
    """A block with its figures as they stand now.

    Parameters
    ----------
    block
        Any; of a section, all in it.

    Returns
    -------
    Block
        With the bytes of PNG files.

    Raises
    ------
    InputError
        A figure is none.

    Examples
    --------
    >>> drawn("text")
    'text'
    """
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
