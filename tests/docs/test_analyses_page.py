"""The page of the analyses names every folder, and says no number that its README does not say."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "analyses.md").read_text("utf-8")
ENTRIES = dict(re.findall(r"^\*\*`(\w+)`\*\*\n: (.*?)(?=^\*\*`|^## |\Z)", PAGE, flags=re.MULTILINE | re.DOTALL))
FOLDERS = sorted(path.parent.name for path in (ROOT / "analyses").glob("*/README.md"))
# With its sign, if it has one, and shares in percent.
NUMBER = re.compile(r"[+-]?\d+\.\d+|\d+ ?%")


def numbers(text: str) -> list[str]:
    return [found.replace(" ", "") for found in NUMBER.findall(text)]


def test_every_analysis_has_an_entry():
    assert sorted(ENTRIES) == FOLDERS


@pytest.mark.parametrize("name", sorted(ENTRIES))
def test_every_number_stands_in_the_readme(name):
    readme = (ROOT / "analyses" / name / "README.md").read_text("utf-8")
    there = set(numbers(readme))
    there |= {number.lstrip("+-") for number in there}
    assert [number for number in numbers(ENTRIES[name]) if number not in there] == []
    assert not readme.startswith("# x\n")


def test_the_page_on_presets_gives_the_measured_reason_for_standardising() -> None:
    measured = json.loads((ROOT / "analyses" / "benchmarks" / "scaler.json").read_text(encoding="utf-8"))
    page = " ".join((ROOT / "docs" / "concepts" / "presets.md").read_text(encoding="utf-8").split())
    for name, row in measured.items():
        difference, low, high = row["raw_minus_standardised"]
        assert f"{difference:+.3f} (" in page, name
        assert f"{low:+.3f} to {high:+.3f})" in page, name
