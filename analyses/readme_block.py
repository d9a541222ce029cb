"""Measured numbers go into the project's README by script, between two marks."""

from __future__ import annotations

from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def replace_block(name: str, text: str) -> None:
    """Put ``text`` between ``<!-- name:start -->`` and ``<!-- name:end -->`` in the README."""
    start, end = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
    page = README.read_text(encoding="utf-8")
    if page.count(start) != 1 or page.count(end) != 1:
        raise SystemExit(f"README.md must hold {start} and {end} once each")
    before, rest = page.split(start)
    README.write_text(f"{before}{start}\n{text}\n{end}{rest.split(end)[1]}", encoding="utf-8")
