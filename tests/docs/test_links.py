"""Every relative link and anchor of the README, the pages and the notebooks leads somewhere in the checkout."""

from __future__ import annotations

import json
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WRITTEN = ("*.md", "docs/**/*.md", "analyses/**/*.md", "notebooks/*.ipynb", "notebooks/*.py")
BUILT = {"_build", "generated"}
LINK = re.compile(r"\]\(([^()\s]+)\)|<img[^>]* src=\"([^\"]+)\"")


def pages() -> list[str]:
    """Pages that somebody wrote: not what sphinx writes, nor its copies of the notebooks."""
    found = {path for pattern in WRITTEN for path in ROOT.glob(pattern)} - set(ROOT.glob("docs/notebooks/*.ipynb"))
    return sorted(path.relative_to(ROOT).as_posix() for path in found if not BUILT & set(path.parts))


@cache
def text(path: Path) -> str:
    """What is read of a page as Markdown, without blocks of code."""
    written = path.read_text("utf-8")
    if path.suffix == ".ipynb":
        cells = json.loads(written)["cells"]
        written = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    elif path.suffix == ".py":
        written = "\n".join(line.removeprefix("# ") for line in written.splitlines() if line.startswith("#"))
    return re.sub(r"^```.*?^```$", "", written, flags=re.MULTILINE | re.DOTALL)


@cache
def anchors(path: Path) -> set[str]:
    """The anchors that headings get, here and where repositories are shown."""
    titles = re.findall(r"^#{1,6} +(.+)$", text(path), flags=re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]
    return {*plain, *re.findall(r"^\(([\w-]+)\)=$", text(path), flags=re.MULTILINE)}


def dead(page: str) -> list[str]:
    path, found = ROOT / page, []
    for link in (one or other for one, other in LINK.findall(text(path))):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        there = target.exists() and target.is_relative_to(ROOT)
        if not there or (anchor and anchor not in anchors(target)):
            found.append(link)
    return found


@pytest.mark.parametrize("page", pages())
def test_links_lead_somewhere(page):
    assert dead(page) == []


def test_links_are_found():
    """The pattern finds what is there: the pages of the documentation have links to each other and to notebooks."""
    links = {link for page in pages() for link, _ in LINK.findall(text(ROOT / page))}
    assert {"docs/tutorial.md", "../notebooks/07_new_model.ipynb", "is_it_luck.md#the-winners-curse"} <= links


def test_linked_files_are_kept():
    """A file that is there but ignored would be missing in another checkout."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    linked = set()
    for page in pages():
        for link, _ in LINK.findall(text(ROOT / page)):
            target = ((ROOT / page).parent / link.partition("#")[0]).resolve()
            if ":" not in link and target.is_file():
                linked.add(str(target))
    ignored = subprocess.run(
        ["git", "check-ignore", *sorted(linked)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ignored.stdout == ""
