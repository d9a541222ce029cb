"""The commands and the code of the page on detectors run as they stand, those of the embedded model."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from headprobe.cli.app import app

PAGE = Path(__file__).resolve().parents[2] / "docs" / "howto" / "headhunt.md"
ELSEWHERE = ("ROOT", "rtsp:", "MODEL", "internvl3")  # needs data, a camera or a checkpoint


@pytest.mark.filterwarnings("ignore::headprobe.errors.HeadprobeWarning")
def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, demo_run) -> None:
    monkeypatch.chdir(tmp_path)
    source = demo_run.folder / "videos" / "calibration"
    given = json.loads((source / "annotations.json").read_text())["videos"]
    Path("videos").mkdir()
    rows, counts = ["video,abnormal,start,end"], {"normal": 0, "abnormal": 0}
    for name, video in given.items():
        kind = "abnormal" if video["intervals"] else "normal"
        if counts[kind] < 4:
            counts[kind] += 1
            stem = f"{kind}_{counts[kind]}"
            (Path("videos") / f"{stem}.mp4").write_bytes((source / name).read_bytes())
            start, end = video["intervals"][0] if video["intervals"] else ("", "")
            rows.append(f"{stem},{int(kind == 'abnormal')},{start},{end}")
    Path("truth.csv").write_text("\n".join(rows) + "\n")
    names: dict[str, object] = {"__name__": "howto"}
    ran = []
    for kind, body in re.findall(r"```(\w+)\n(.*?)```", PAGE.read_text("utf-8"), flags=re.S):
        if kind == "python":
            exec(compile(body, PAGE.name, "exec"), names)
        for line in body.splitlines() if kind == "sh" else ():
            if any(word in line for word in ELSEWHERE):
                continue
            # The published effort would take longer than a test may.
            quick = ["--resamples", "2", "--permutations", "19"] if line.startswith("headprobe fit") else []
            result = CliRunner().invoke(app, shlex.split(line.removeprefix("headprobe ")) + quick)
            assert result.exit_code == 0, result.output
            ran.append(line.split()[1])
    assert ran == ["fit", "detect", "report", "detect", "report"]
    assert Path("events/report.html").stat().st_size > 10_000
    assert len(names["scores"]) == 5  # type: ignore[arg-type]


def test_every_option_on_the_page_exists() -> None:
    import typer.main

    command = typer.main.get_command(app)
    text = PAGE.read_text("utf-8")
    for name in ("fit", "detect", "report", "watch", "score"):
        known = {option for one in command.commands[name].params for option in one.opts}  # type: ignore[attr-defined]
        for line in re.findall(rf"^headprobe {name} .*$", text, flags=re.M):
            assert set(re.findall(r"--[a-z]+(?:-[a-z]+)*", line)) <= known, line
    table = text.split("| option | |")[1].split("\n\n")[0]
    known = {option for one in command.commands["fit"].params for option in one.opts}  # type: ignore[attr-defined]
    assert set(re.findall(r"--[a-z]+(?:-[a-z]+)*", table)) <= known
