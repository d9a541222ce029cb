"""The code of the page on significance runs as it stands, and shows what the page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from headprobe.errors import InputError
from headprobe.metrics.significance import relabellings

PAGE = Path(__file__).resolve().parents[2] / "docs" / "concepts" / "is_it_luck.md"


def test_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), flags=re.S))
    names: dict = {"__name__": "page"}
    exec(compile(code, PAGE.name, "exec"), names)
    assert names["best"] > 0.75
    assert 20 < len(names["alone"]) < 60
    assert len(names["corrected"]) == 0
    assert names["result"].limit(0.05) > 0.75
    assert (names["fooled"].scheme, names["right"].scheme) == ("examples", "groups")
    assert len(names["fooled"].significant()) > 1
    assert len(names["right"].significant()) == 0
    curse = names["curse"]
    assert curse.selection_score.mean > curse.held_out_score.mean + 0.1
    assert names["summary"]["condition"].tolist() == ["probe", "shuffled_labels", "random_heads"]
    assert capsys.readouterr().out == ""


def test_the_numbers_of_relabellings_on_the_page() -> None:
    assert relabellings([0, 1] * 5).n_distinct == 126
    with pytest.raises(InputError, match="only 10 distinct"):
        relabellings([0, 1] * 3)
