"""The code on the how-to pages runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

HOWTO = Path(__file__).resolve().parents[2] / "docs" / "howto"
ADAPTER = HOWTO / "exaone4_5.py"


def blocks(page: str) -> str:
    return "\n".join(re.findall(r"```python\n(.*?)```", (HOWTO / page).read_text("utf-8"), flags=re.S))


def test_the_page_on_reading_heads_runs(capsys):
    names: dict[str, object] = {"__name__": "howto"}
    exec(compile(blocks("read_heads.md"), "read_heads.md", "exec"), names)
    acts, several, answers, looks = (names[name] for name in ("acts", "several", "answers", "looks"))
    assert acts.z.shape[:2] == (3, 12)
    assert len(several["frames"].examples) == 12 * 4
    assert len(answers.texts) == 2
    assert looks.to_video()[0].ndim == 4
    assert names["change"].abs().max() > 0
    assert capsys.readouterr().out == ""


def test_the_family_of_the_page_takes_less_than_sixty_lines():
    assert len(ADAPTER.read_text("utf-8").splitlines()) < 60


@pytest.mark.parametrize("name", ["exaone4_5.py"])
def test_the_page_shows_the_file_that_is_tested(name):
    assert f"{{literalinclude}} {name}" in (HOWTO / "add_a_family.md").read_text("utf-8")


def test_the_page_on_adding_a_detector_runs(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks("add_a_detector.md"), "add_a_detector.md", "exec"), {"__name__": "howto"})
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("brightness ")
    assert len((HOWTO / "add_a_detector.md").read_text("utf-8").splitlines()) <= 60
