"""The notebook on real video, on real video."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cells import run_cells

DATA = Path(os.environ.get("HEADPROBE_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"no data folder at {DATA}; set HEADPROBE_DATA")
NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "08_real_video.py"


def test_the_notebook_says_what_it_finds_on_ped2(monkeypatch, capsys) -> None:
    monkeypatch.setenv("HEADPROBE_DATA", str(DATA))
    names, shown = run_cells(NOTEBOOK)
    assert names["real"]
    assert "no real video here" not in capsys.readouterr().out
    assert set(names["calibration"]).isdisjoint(names["held_out"])
    assert len(names["held_out"]) == 6
    # What its last cell says: motion and a model that was never trained find the moment better.
    within = shown[-1]["within_auc"]
    assert within["five hunted heads"] < within["the five heads, never trained"]
    assert within["five hunted heads"] < within["frame differences"]
