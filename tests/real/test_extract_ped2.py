"""Extraction of the Ped2 test clips: every frame belongs to one clip, and a second run has nothing to do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

import headprobe
from headprobe import HeadTracer
from headprobe.extraction.extract import extract
from headprobe.store import Store, verify
from headprobe.video.clips import clip_examples

DATA = Path(os.environ.get("HEADPROBE_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"no data folder at {DATA}; set HEADPROBE_DATA")

PROMPTS = {"describe": "describe the scene .", "fight": "is there a fight ?", "car": "is there a car on the path ?"}


def test_ped2(tmp_path: Path) -> None:
    model = headprobe.load("tiny")
    heads = ["L5H0", "L1H4"]
    setting = {"heads": heads, "batch_size": 8, "store_dtype": "float32", "progress": False}
    done = extract(str(DATA / "ped2" / "test_*.mp4"), model, PROMPTS, tmp_path / "z", **setting)
    store = Store.open(tmp_path / "z")
    assert done.skipped == ()
    assert done.n_new == len(store) == 47
    assert verify(store.folder).ok

    table = store.examples
    assert (table["end"] - table["start"]).sum() == 2010
    for _, part in table.groupby("group"):
        edges = part.sort_values("start")
        assert edges["start"].tolist() == [0, *edges["end"].tolist()[:-1]]
        assert edges["end"].iloc[-1] == edges["video_frames"].iloc[0]
    row = table.set_index("id").loc["test_03:48-96"]
    assert (row["start_seconds"], row["end_seconds"]) == (4.8, 9.6)
    assert [float(second) for second in row["frame_seconds"].split()] == pytest.approx(
        [int(index) / 10 for index in row["frame_indices"].split()]
    )

    clips = clip_examples(DATA / "ped2" / "test_01.mp4", 48, 16) + clip_examples(DATA / "ped2" / "test_02.mp4", 48, 16)
    acts = HeadTracer(model).capture(clips, PROMPTS, heads, batch_size=8, progress=False)
    stored = store.activations(examples=[clip.id for clip in clips])
    torch.testing.assert_close(stored.values, acts.values, rtol=1e-4, atol=1e-5)

    again = extract(DATA / "ped2" / "test_01.mp4", model, PROMPTS, tmp_path / "z", resume=True, **setting)
    assert (again.n_new, again.n_there) == (0, 4)
