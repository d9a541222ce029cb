"""What the code cites is in the bibliography, and what the method cards name is in the code."""

from __future__ import annotations

import ast
import importlib
import re
from functools import reduce
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BIBLIOGRAPHY = (ROOT / "docs" / "bibliography.md").read_text("utf-8")
METHODS = sorted((ROOT / "docs" / "methods").glob("*.md"))
ENTRIES = re.findall(r"^- \*\*(.+?) (\d{4})\.\*\*", BIBLIOGRAPHY, flags=re.MULTILINE)
ARXIV = r"(?<![\d.])(\d{4}\.\d{5})(?![\d.])"
# A year, where it is not a number of something, a decimal, or part of a longer number.
YEAR = re.compile(r"(?<![\d./_\-])(1[89]\d\d|20[0-2]\d)(?![\d_/.\-]*\d)")
QUANTITY = re.compile(
    r"^ ?(?:[a-z]+ )?(examples|samples|resamples|characters|videos|clips|frames|words|heads|ms|rows|runs|x |\*)"
)


def docstrings() -> list[tuple[str, str]]:
    """Every docstring of the package, with where it stands."""
    found = []
    for source in sorted((ROOT / "headprobe").rglob("*.py")):
        for node in ast.walk(ast.parse(source.read_text("utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = ast.get_docstring(node)
                if text:
                    where = f"{source.relative_to(ROOT).as_posix()}:{getattr(node, 'lineno', 1)}"
                    found.append((where, " ".join(text.partition("Examples\n---")[0].split())))
    return found


def cited() -> list[tuple[str, str, str]]:
    """Years that follow a name within a sentence or two: where, the year, and the words before it."""
    found = []
    for where, text in docstrings():
        for match in YEAR.finditer(text):
            before = text[max(0, match.start() - 220) : match.start()]
            quantity = QUANTITY.match(text[match.end() :])
            if not quantity and re.search(r"[A-Z][a-z]+", before[-120:]):
                found.append((where, match.group(), before))
    return found


def test_the_entries_are_unique_and_there_are_citations_to_look_up():
    assert len(set(ENTRIES)) == len(ENTRIES) >= 50
    assert len(cited()) >= 40


def test_every_citation_in_a_docstring_has_an_entry():
    missing = []
    for where, year, before in cited():
        names = [name for name, of in ENTRIES if of == year]
        # A method may be named by its venue, whose year is not always that of the preprint.
        if not any(name in before for name in names) and not re.search(
            r"(arXiv|AAAI|ICLR|ICCV|ACM MM|CVPR|ECCV) $", before
        ):
            missing.append(f"{where}: {year} after {before[-70:]!r}")
    assert missing == []


def test_every_preprint_that_is_cited_has_an_entry():
    texts = [*docstrings(), *((p.name, p.read_text("utf-8")) for p in [ROOT / "README.md", *METHODS])]
    texts += [
        (p.name, p.read_text("utf-8")) for kind in ("concepts", "howto") for p in (ROOT / "docs" / kind).glob("*.md")
    ]
    found = {number for _, text in texts for number in re.findall(ARXIV, text)}
    assert len(found) >= 10
    assert sorted(found - set(re.findall(ARXIV, BIBLIOGRAPHY))) == []


SYSTEMS = {
    "probing": ("HeadHunt-VAD", "HiProbe-VAD", "SteerVAD", "SAVs", "Head Pursuit", "ITI"),
    "text": ("LAVAD", "VERA", "Probe-VAD", "Soft read-out", "Holmes-VAD", "VAD-LLaMA", "MCANet", "HAWK"),
    "zero_shot": ("LAVIDA", "VadCLIP", "OVVAD", "AnomalyCLIP"),
    "benchmarks": ("CUVA", "VANE-Bench", "Hint-AD"),
}


def test_every_system_has_a_card_that_says_what_headprobe_has():
    for page, systems in SYSTEMS.items():
        text = (ROOT / "docs" / "methods" / f"{page}.md").read_text("utf-8")
        cards = {section.splitlines()[0]: section for section in text.split("\n## ")[1:]}
        assert [name for name in systems if name not in cards] == []
        assert [name for name, card in cards.items() if "in headprobe" not in card.lower()] == []


@pytest.mark.parametrize("page", METHODS, ids=lambda page: page.stem)
def test_the_code_that_a_card_names_exists(page):
    for name in set(re.findall(r"`(headprobe\.[\w.]+)`", page.read_text("utf-8"))):
        parts = name.split(".")
        for length in range(len(parts), 0, -1):
            try:
                module = importlib.import_module(".".join(parts[:length]))
            except ModuleNotFoundError:
                continue
            assert reduce(getattr, parts[length:], module) is not None, name
            break
