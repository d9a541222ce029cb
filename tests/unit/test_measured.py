"""The results page's table of HeadHunt-VAD is what the committed results say, and has its controls."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def measured():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "analyses"))
        spec = importlib.util.spec_from_file_location("measured", ROOT / "analyses" / "measured.py")
        assert spec is not None
        assert spec.loader is not None
        loaded = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded)
    return loaded


def test_the_page_says_what_the_results_say(measured) -> None:
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    start, end = "<!-- headhunt:start -->", "<!-- headhunt:end -->"
    assert page.count(start) == page.count(end) == 1
    assert page.split(start)[1].split(end)[0].strip() == measured.block(measured.results())


def test_every_control_stands_in_every_column_that_can_have_it(measured) -> None:
    lines = [line for line in measured.block(measured.results()).splitlines() if line.startswith("|")][2:]
    rows = {
        line.split(" | ")[0].removeprefix("| "): [cell.strip(" |") for cell in line.split(" | ")[1:]] for line in lines
    }
    assert list(rows) == list(measured.ROWS)
    for name in (
        "**five hunted heads**",
        "five random heads",
        "never-trained model, hunted heads",
        "shuffled labels, hunted heads",
        "constant per video, knows the truth",
        "position in the video",
    ):
        assert all(rows[name]), name
    for name in ("text: graded ask", "one chosen layer (LayerHunt, HiProbe-VAD)"):
        assert all(rows[name][:2]), name


def test_a_difference_that_is_not_decided_is_not_said_to_be_one(measured) -> None:
    given = measured.results()
    said = measured.block(given)
    tiny = given["headhunt_tiny"]
    (one,) = [one for one in tiny["claims"]["video labels"] if one["second"] == "random heads"]
    assert one["verdict"] == "not decided"
    open_ = said.split("With labels of videos")[1].split("Not told apart from: ")[1].split(". Below")[0]
    assert "five random heads" in open_
    one["verdict"] = one["unsmoothed_verdict"] = "does not hold"
    below = measured.block(given).split("With labels of videos")[1].split("Below: ")[1].split(". Events")[0]
    assert "five random heads" in below
