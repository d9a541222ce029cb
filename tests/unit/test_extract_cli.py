"""``headprobe extract`` on the command line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from headprobe.cli.app import app
from headprobe.store import Store
from headprobe.video.decode import write_video


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("videos")
    for i in range(3):
        frames = np.random.default_rng(i).integers(0, 256, (20, 32, 48, 3), dtype=np.uint8)
        write_video(path / f"v{i}.mp4", frames, fps=10)
    (path / "prompts.toml").write_text('fight = "is there a fight ?"\n')
    return path


def run(folder: Path, out: Path, *more: str, source: str = "v*.mp4"):
    arguments = [str(folder / source), "--model", "tiny", "--prompts", str(folder / "prompts.toml"), "--out", str(out)]
    return CliRunner().invoke(app, ["extract", *arguments, "--segments", "8", "--frames", "4", *more])


def test_a_run_a_second_one_and_what_was_skipped(folder: Path, tmp_path: Path) -> None:
    result = run(folder, tmp_path / "z", "--heads", "L2H1,L4H0", "--positions", "last", "--batch-size", "4")
    assert result.exit_code == 0, result.output
    assert "9 clips read in " in result.output
    assert "0 were there; 0 skipped" in result.output
    store = Store.open(tmp_path / "z")
    assert store.headset.labels == ("L2H1", "L4H0")
    assert store.heads(["L4H0"]).shape[:3] == (1, 9, 1)
    (folder / "v3.mp4").write_bytes(b"")
    try:
        result = run(folder, tmp_path / "z", "--heads", "L2H1,L4H0", "--resume")
    finally:
        (folder / "v3.mp4").unlink()
    assert result.exit_code == 1
    assert "SKIPPED 1 x the file is empty" in result.output
    assert "0 clips read" in result.output
    assert "9 were there; 1 skipped" in result.output
    assert str(tmp_path / "z" / "skipped.jsonl") in result.output


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (["--segments", "long"], "--segments is 'long'; give a whole number or 'whole'"),
        (["--batch-size", "x"], "--batch-size is 'x'; give a whole number or 'auto'"),
        (["--heads", "18,4"], "neither a file nor labels such as L18H4,L20H4"),
        (["--positions", "nowhere()"], "'nowhere()' is no position"),
        (["--prompts", "missing.txt"], "missing.txt: the file cannot be read"),
        (["--engine", "x"], "engine is 'x'"),
        (["--out", "{folder}/v0.mp4/z"], "v0.mp4: the system refused: Not a directory. z could not be made."),
        (["--device", "warp"], "device is 'warp', which torch cannot use here: "),
        pytest.param(
            ["--device", "cuda"],
            "device is 'cuda', which torch cannot use here: ",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the device"),
        ),
    ],
)
def test_what_makes_no_sense_is_one_line_and_exit_code_2(
    folder: Path, tmp_path: Path, more: list[str], text: str
) -> None:
    result = run(folder, tmp_path / "z", *(word.format(folder=folder) for word in more))
    assert result.exit_code == 2
    assert text in result.output
    assert "Traceback" not in result.output


def test_going_on_in_another_way_names_the_options_of_the_command(folder: Path, tmp_path: Path) -> None:
    one = {"source": "v0.mp4"}
    assert run(folder, tmp_path / "z", "--heads", "L2H1", **one).exit_code == 0
    other = run(folder, tmp_path / "z", "--heads", "L4H0", "--resume", **one)
    assert (other.exit_code, "on the command line the --heads it was made with" in other.output) == (2, True)
    exact = run(folder, tmp_path / "z", "--heads", "L2H1", "--resume", "--store-dtype", "float32", **one)
    assert (exact.exit_code, "--store-dtype float16 on the command line" in exact.output) == (2, True)


def test_no_files_is_said(folder: Path, tmp_path: Path) -> None:
    result = run(folder, tmp_path / "z", source="*.mkv")
    assert result.exit_code == 2
    assert "No file matches" in result.output


def test_ctrl_c_is_answered_with_what_was_done(folder: Path, tmp_path: Path) -> None:
    """A real process and a real signal, to the process group as a terminal sends it."""
    source = tmp_path / "long.mp4"
    write_video(source, np.zeros((1000, 32, 48, 3), np.uint8), fps=10, options={"preset": "ultrafast"})
    command = [sys.executable, "-m", "headprobe", "extract", str(source), "--model", "tiny"]
    command += ["--prompts", str(folder / "prompts.toml"), "--out", str(tmp_path / "z")]
    command += ["--segments", "2", "--frames", "2", "--batch-size", "2"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, process_group=0)
    assert process.stderr is not None
    said = ""
    while "batch=2" not in said:
        piece = os.read(process.stderr.fileno(), 4096).decode()
        assert piece, said
        said += piece
    os.killpg(process.pid, signal.SIGINT)
    start = time.monotonic()
    out, error = process.communicate(timeout=60)
    assert time.monotonic() - start < 20
    assert process.returncode == 130, error
    assert "interrupted; the same command with --resume goes on from here" in error
    stored = len(Store.open(tmp_path / "z"))
    assert stored > 0
    assert out.startswith(f"{stored} clips read")
