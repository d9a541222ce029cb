"""What commit d27f5b7 wrote still opens, and says what it said then."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from equality import close, same_bits

import headprobe
from headprobe.headhunt.layerhunt import LayerHunt
from headprobe.store.store import Store
from headprobe.video.scenes import labelled_clips

WRITTEN = Path(__file__).parents[1] / "written_by_d27f5b7"
EXPECTED = json.loads((WRITTEN / "expected.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("folder", "kind"), [("detector", headprobe.HeadHunt), ("layer_detector", LayerHunt)])
def test_a_detector_scores_as_it_did(folder: str, kind: type[headprobe.HeadHunt]) -> None:
    detector = kind.from_pretrained(WRITTEN / folder)
    scores = detector.score(headprobe.load("tiny"), labelled_clips(8, seed=3)[:4], progress=False)
    assert close(scores, np.array(EXPECTED[folder]), torch.float32)


def test_a_store_gives_what_was_put_in(tmp_path: Path) -> None:
    store = Store.open(shutil.copytree(WRITTEN / "store", tmp_path / "store"))
    assert [str(key) for key in store.keys()]  # noqa: SIM118, a store is no mapping == EXPECTED["ids"]
    for head, values in EXPECTED["store"].items():
        assert same_bits(store.head(head)[:, :, :3], np.array(values, np.float32), of="the shard")
