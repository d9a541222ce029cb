"""The commands and the code of the page on extraction run as they stand."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from headprobe.cli.app import app
from headprobe.store import Store
from headprobe.video.decode import write_video

PAGE = Path(__file__).resolve().parents[2] / "docs" / "howto" / "extract.md"


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("videos").mkdir()
    for i, name in enumerate("ab"):
        frames = np.random.default_rng(i).integers(0, 256, (96, 32, 48, 3), dtype=np.uint8)
        write_video(f"videos/{name}.mp4", frames, fps=10)
    text = PAGE.read_text("utf-8")
    blocks = re.findall(r"```(\w+)\n(.*?)```", text, flags=re.S)
    texts = [body for kind, body in blocks if kind == "text"]
    Path("prompts.txt").write_text(texts[0])
    Path("table.csv").write_text(texts[1])
    names: dict[str, object] = {"__name__": "howto"}
    said, told = [], []
    for kind, body in blocks:
        if kind == "sh":
            result = CliRunner().invoke(app, shlex.split(body.removeprefix("headprobe ")))
            assert result.exit_code == 0, result.output
            said += [result.stdout] * body.startswith("headprobe extract")
            told += [result.stdout] * body.startswith("headprobe store")
        elif kind == "python":
            exec(compile(body, PAGE.name, "exec"), names)
    assert [line.split(" clips")[0] for line in said] == ["4", "5", "0", "4"]
    assert len(Store.open("store").prompts) == 5
    info, verified, exported = told
    assert "sampling     segments of 48 frames, 16 spread evenly\n" in info
    assert verified.startswith("1 files, 4 examples, ")
    assert verified.endswith(" bytes in order\n")
    assert np.load("arrays/z.npy").shape[:2] == (5, 4)
    assert exported.split() == ["arrays/z.npy", "arrays/examples.csv", "arrays/about.json"]
    labelled = Store.open("labelled").examples
    assert dict(zip(labelled["id"], labelled["label"], strict=True)) == {
        "videos/a:0-48": 0,
        "videos/a:48-50": 0,
        "videos/a:50-96": 1,
        "videos/b:0-48": 0,
        "videos/b:48-96": 0,
    }
    assert len(Store.open("places/frames").examples) == 32
    assert names["done"].n_new == 8  # type: ignore[attr-defined]
