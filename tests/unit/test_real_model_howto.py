"""Every command of the page on a real model runs on a tiny random checkpoint of the same layout."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from families import internvl
from typer.testing import CliRunner

from headprobe.cli.app import app
from headprobe.models.loading import _converted_internvl
from headprobe.store import Store
from headprobe.video.scenes import write_videos
from headprobe.video.spans import stretches

PAGE = Path(__file__).resolve().parents[2] / "docs" / "howto" / "real_model.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text("utf-8"), flags=re.M | re.S)


def footage(folder: str, table: str, split: str, n: int) -> None:
    """Rendered videos with the table that the page asks for."""
    videos = write_videos(folder, split, {"normal": n, "fight": n}, n_frames=192, progress=False)
    rows = ["video,abnormal,start,end"]
    for video in videos:
        times = stretches(video.truth)
        rows += [f"{video.name},1,{start},{end}" for start, end in times] or [f"{video.name},0,,"]
    Path(table).write_text("\n".join(rows) + "\n")


@pytest.mark.filterwarnings("ignore::headprobe.errors.HeadprobeWarning")
def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (family,) = [one for one in internvl.FAMILIES if one.name == "internvl"]
    family.module(0).save_pretrained("internvl3-8b")
    family.tokenizer().save_pretrained("internvl3-8b")
    Path("internvl3-8b/preprocessor_config.json").write_text(json.dumps(family.processor_config))
    footage("videos", "calibration.csv", "calibration", 5)
    footage("new", "test.csv", "test", 2)
    (prompts,) = [body for kind, body in BLOCKS if kind == "text" and "?" in body]
    Path("prompts.txt").write_text(prompts)
    ran = []
    for line in "".join(body for kind, body in BLOCKS if kind == "sh").splitlines():
        words = shlex.split(line)
        assert words[0] == "headprobe"
        # The effort of a real run would take longer than a test may.
        quick = {"fit": ["--resamples", "2", "--permutations", "19"], "report": ["--max-tokens", "4"]}
        done = CliRunner().invoke(app, words[1:] + quick.get(words[1], []))
        assert done.exit_code == 0, (line, done.output, done.exception)
        ran.append(words[1])
    assert ran == ["inspect", "data", "data", "extract", "fit", "detect", "report"]
    assert len(Store.open("store").examples) == 10 * 4
    for page in ("detector/report.html", "events/report.html"):
        assert "docs/concepts/choosing_heads.md" in Path(page).read_text("utf-8")
    assert len(json.loads(Path("events/events.json").read_text("utf-8"))["videos"]) == 4


def test_what_is_downloaded_is_the_layout_that_loads() -> None:
    (download,) = [body for kind, body in BLOCKS if kind == "text" and "hf download" in body]
    assert f"hf download {_converted_internvl('InternVL3-8B')} --local-dir internvl3-8b" in download


def test_the_estimates_are_the_arithmetic_of_the_page_on_scale() -> None:
    page = PAGE.read_text("utf-8")
    clips = 100 * 60 * 30 / 48
    assert f"{round(clips, -2):.0f} clips each" in page
    assert f"{clips / 3600 / 1.3:.1f} hours, three prompts" in page
    assert f"The store takes {784 * 128 * 3 * 2 * round(clips, -2) / 1e9:.1f} GB of disk" in page
    assert f"({2 * 28 * 4 * 128 * 2 * 4100 / 1e9:.2f} GB)" in page
    scale = (PAGE.parents[1] / "concepts" / "scale.md").read_text("utf-8")
    assert "r = 1.3" in scale
    choosing = (PAGE.parents[1] / "concepts" / "choosing_heads.md").read_text("utf-8")
    assert "2400 clips then take 131 s" in choosing
    assert "about an hour of the processor, four folds and 20 resamples" in page
    assert 0.8 < 131 / 5 * 3 / 2400 * clips * (1 + 4 + 20) / 3600 < 1.2
