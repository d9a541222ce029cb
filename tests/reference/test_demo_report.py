"""The demo's report: every part of it, small enough, and as a browser sees it."""

from __future__ import annotations

import pytest
from browser import look, needs_axe, needs_chromium, violations

from headprobe.report.report import PARTS


@pytest.fixture(scope="module")
def text(demo_run) -> str:
    return (demo_run.folder / "report.html").read_text(encoding="utf-8")


def test_it_has_its_parts_and_is_small_enough(text, demo_run):
    # The demo explains no event; what it does not do it says.
    at = [text.index(f">{heading}</h2>") for part, heading in PARTS.items() if part != "explanations"]
    assert at == sorted(at)
    assert len(text.encode()) < 5_000_000
    for label in demo_run.results["experts"]:
        assert f'<th scope="row">{label}</th>' in text
    assert "p (family-wise)" in text
    assert text.count("Not part of this run: Explanations.") == 1
    assert "Nothing failed." in text
    assert "the best controls reach" in text.split("<nav")[0]
    assert "What did not hold" in text


@needs_chromium
@pytest.mark.parametrize("width", [400, 1000])
def test_in_a_browser(text, tmp_path, width):
    seen = look(text, "return document.documentElement.scrollWidth;", tmp_path, width=width)
    assert seen.console == []
    assert seen.result <= width


@needs_axe
def test_axe_finds_nothing_serious(text, tmp_path):
    assert violations(text, tmp_path, 400) == []
