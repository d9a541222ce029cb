"""Measured numbers go into a page by script, between two marks."""

from __future__ import annotations

from pathlib import Path

RESULTS = Path(__file__).parents[1] / "docs" / "results.md"


def replace_block(name: str, text: str, page: Path = RESULTS) -> None:
    """Put ``text`` between ``<!-- name:start -->`` and ``<!-- name:end -->`` in a page."""
    start, end = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
    written = page.read_text(encoding="utf-8")
    if written.count(start) != 1 or written.count(end) != 1:
        raise SystemExit(f"{page} must hold {start} and {end} once each")
    before, rest = written.split(start)
    page.write_text(f"{before}{start}\n{text}\n{end}{rest.split(end)[1]}", encoding="utf-8")
