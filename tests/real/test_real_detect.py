"""``headprobe detect`` on real files: the Ped2 test clips and three excerpts."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from headprobe.cli.app import app
from headprobe.datasets import parse_ped2_ground_truth

DATA = Path(os.environ.get("HEADPROBE_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"no data folder at {DATA}; set HEADPROBE_DATA")


def test_ped2_and_the_excerpts(demo_run, tmp_path) -> None:
    ped2 = sorted((DATA / "ped2").glob("test_*.mp4"))
    assert len(ped2) == 12
    sources = [*map(str, ped2), str(DATA / "clips")]
    out = tmp_path / "out"
    result = CliRunner().invoke(
        app, ["detect", *sources, "--detector", str(demo_run.folder / "detector"), "--out", str(out)]
    )
    assert result.exit_code == 0, result.output
    assert "15 of 15 videos processed" in result.output
    videos = json.loads((out / "events.json").read_text())["videos"]
    assert sum(videos[str(p)]["n_frames"] for p in ped2) == 2010
    assert len(parse_ped2_ground_truth((DATA / "ped2" / "ground_truth.m").read_text())) == 12
    for video in videos.values():
        edges = [s["start_frame"] for s in video["segments"]] + [video["n_frames"]]
        assert [s["end_frame"] for s in video["segments"]] == edges[1:]
        assert (out / video["timeline"]).stat().st_size > 5000
