"""Measured numbers go into a README by script, between two marks."""

from __future__ import annotations

from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def replace_block(name: str, text: str, readme: Path = README) -> None:
    """Put ``text`` between ``<!-- name:start -->`` and ``<!-- name:end -->`` in a README."""
    start, end = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
    page = readme.read_text(encoding="utf-8")
    if page.count(start) != 1 or page.count(end) != 1:
        raise SystemExit(f"{readme} must hold {start} and {end} once each")
    before, rest = page.split(start)
    readme.write_text(f"{before}{start}\n{text}\n{end}{rest.split(end)[1]}", encoding="utf-8")
