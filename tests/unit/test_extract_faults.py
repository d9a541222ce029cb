"""Extraction under kill -9 and on a disk that fills.

By default 4 kills; HEADPROBE_KILLS=50 makes 50.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import extract_worker
import numpy as np
import pytest
from equality import close
from tiny_models import make_model

from headprobe.errors import StoreError
from headprobe.extraction.extract import extract
from headprobe.store import Store, verify
from headprobe.video.decode import write_video

KILLS = int(os.environ.get("HEADPROBE_KILLS", "4"))


def test_kills_at_random_times_lose_nothing_and_store_nothing_twice(tmp_path: Path) -> None:
    command = [sys.executable, extract_worker.__file__, str(tmp_path), str(KILLS), "3"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120 + 20 * KILLS, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["wrong"] == []
    assert seen["kills"] >= KILLS
    assert seen["clips"] == 35


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("mounting a small disk needs root; full disks are faked in the tests of the store")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)  # maps of the store may still be there


@pytest.mark.filterwarnings("default:shard-.* is stored, but the index:headprobe.errors.HeadprobeWarning")
def test_a_disk_that_fills(small_disk: Path, tmp_path: Path) -> None:
    source = tmp_path / "videos"
    source.mkdir()
    for i in range(6):
        frames = np.random.default_rng(i).integers(0, 256, (40, 32, 48, 3), dtype=np.uint8)
        write_video(source / f"v{i}.mp4", frames, fps=10)
    model = make_model("qwen2_vl")
    small = {**extract_worker.SMALL, "progress": False}

    def go(out: Path, resume: bool = False) -> Store:
        return extract(source, model, extract_worker.PROMPTS, out, shard_examples=4, resume=resume, **small).store

    out = small_disk / "z"
    with pytest.raises(StoreError, match=r"the disk is full: \d+ bytes are needed, .*that were are intact"):
        go(out)
    there = len(Store.open(out))
    assert 0 < there < 30
    assert verify(out).ok
    with pytest.raises(StoreError, match="the disk is full"):
        go(out, resume=True)
    assert verify(out).ok
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    resumed, whole = go(out, resume=True), go(tmp_path / "whole")
    ids = whole.examples["id"].tolist()
    assert sorted(resumed.keys()) == sorted(whole.keys())
    assert close(resumed.activations(examples=ids).values, whole.activations().values)
