"""Broken inputs: no crash, nobody waits, each is listed, and the good ones between them come out whole.

By default 40 of them; HEADPROBE_BROKEN_INPUTS=200 makes 200.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from broken_videos import MAY_BE_READ, make
from tiny_models import make_model

from headprobe.extraction._decoding import Decoder
from headprobe.extraction.extract import extract
from headprobe.store import verify
from headprobe.video.decode import write_video

N_BROKEN = int(os.environ.get("HEADPROBE_BROKEN_INPUTS", "40"))
LIMIT = 10.0  # seconds for a file, also where it makes the decoder hang


def run(folder: Path, n: int, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Extract broken files and good ones between them; what became of each."""
    broken = make(folder / "broken", n)
    paths = [path for _, path in broken]
    good = []
    for i in range(8):
        frames = np.random.default_rng(i).integers(0, 256, (16, 32, 48, 3), dtype=np.uint8)
        good.append(write_video(folder / f"good{i}.mp4", frames, fps=10))
        paths.insert((i + 1) * len(paths) // 9, good[-1])
    (folder / "all.txt").write_text("\n".join(str(path) for path in paths))
    seconds: dict[str, float] = {}
    real = Decoder.messages

    def timed(self, job):
        start = time.monotonic()
        try:
            yield from real(self, job)
        finally:
            seconds[job["path"]] = time.monotonic() - start

    monkeypatch.setattr(Decoder, "messages", timed)
    small = {"segments": 8, "frames": 4, "batch_size": 8, "workers": 1, "progress": False}
    model = make_model("qwen2_vl")
    done = extract(folder / "all.txt", model, ["what happens"], folder / "z", timeout=LIMIT / 2, **small)
    return {"broken": broken, "good": good, "done": done, "seconds": seconds}


def test_broken_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = run(tmp_path, N_BROKEN, monkeypatch)
    done, broken, good = found["done"], found["broken"], found["good"]
    # Nobody waits: a file may be open for as long as the model needs for what was read of it, but not for this long.
    assert max(found["seconds"].values()) < LIMIT
    # Each is accounted for: listed, or all of its clips are in the store.
    table = done.store.examples
    stored = Counter(name.rpartition(":")[0] for name in table["id"])
    n_frames = table.groupby("path")["video_frames"].first()
    skipped = {item.name for item in done.skipped}
    whole = {path for path in [*(path for _, path in broken), *good] if path.stem not in skipped}
    assert [path.name for path in whole if stored[path.stem] != -(-n_frames.get(str(path), 0) // 8)] == []
    assert [path.name for path in whole if not stored[path.stem]] == []
    assert set(good) <= whole
    assert [path.name for kind, path in broken if path in whole and kind not in MAY_BE_READ] == []
    assert all(item.reason for item in done.skipped)
    assert verify(done.folder).ok
