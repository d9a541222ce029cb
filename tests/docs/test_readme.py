"""The example in README.md runs as it is written."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from headprobe.cli.app import app
from headprobe.video.decode import write_video

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
WEIGHTS = ROOT / "headprobe" / "models" / "tiny" / "weights"


def example() -> str:
    blocks = re.findall(r"^```python\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
    assert blocks, "README.md has no ```python block"
    return blocks[0]


def test_the_example_is_short() -> None:
    lines = [line for line in example().splitlines() if line.strip()]
    assert len(lines) <= 15
    assert max(map(len, lines)) <= 110


def test_the_example_runs_as_written(tmp_path: Path) -> None:
    if not (WEIGHTS / "model.safetensors").is_file():
        pytest.skip("the weights of the embedded model are not in headprobe/models/tiny/weights yet")
    env = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "MPLBACKEND": "Agg"}
    done = subprocess.run(
        [sys.executable, "-c", example()],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"L\d+H\d+", done.stdout), done.stdout
    (figure,) = tmp_path.glob("*.png")
    assert figure.stat().st_size > 5_000


def test_extraction_runs_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    section = README.split("## Extract many videos\n")[1].split("\n## ")[0]
    commands, code = (re.findall(rf"```{kind}\n(.*?)```", section, flags=re.DOTALL) for kind in ("sh", "python"))
    monkeypatch.chdir(tmp_path)
    Path("videos").mkdir()
    write_video("videos/a.mp4", np.random.default_rng(0).integers(0, 256, (60, 32, 48, 3), np.uint8), fps=10)
    Path("prompts.txt").write_text("is there a fight ?\nis there a car on the path ?\n")
    said = []
    for line in commands[0].splitlines():
        result = CliRunner().invoke(app, shlex.split(line, comments=True)[1:])
        assert result.exit_code == 0, result.output
        said.append(result.stdout)
    assert said[0].startswith("2 clips read")
    assert said[1].startswith("0 clips read")
    assert "p1: is there a fight ?" in said[2]
    names: dict[str, object] = {}
    exec(code[0], names)
    assert names["acts"].z.shape == (1, 2, 6, 8, 16)  # type: ignore[attr-defined]


def test_every_linked_file_exists() -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", README)
    local = [link for link in links if "://" not in link]
    assert local, "README.md links to no file of the project"
    assert [link for link in local if not (ROOT / link).exists()] == []


def test_the_place_for_the_results_is_marked_once() -> None:
    start, end = README.find("<!-- results:start -->"), README.find("<!-- results:end -->")
    assert 0 <= start < end
    assert README.count("<!-- results:start -->") == README.count("<!-- results:end -->") == 1


def test_the_paper_is_cited() -> None:
    assert "arXiv 2512.17601" in README


def test_the_page_on_families_names_every_video_family() -> None:
    from headprobe.models.adapter import adapter_for, families

    page = (ROOT / "docs" / "concepts" / "families.md").read_text("utf-8")
    video = [name for name in families() if "prefix" in getattr(adapter_for(name), "verified", ())]
    assert len(video) >= 15
    assert [name for name in video if f"`{name}`" not in page] == []
