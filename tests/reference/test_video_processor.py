"""Pixel packing against transformers' own video processor, where torchvision can be imported.

Run in a process of its own: importing torchvision (with its missing operators registered, next to a CPU
build of torch) would change what the other tests see.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
CASES = [
    {"frames": 4, "height": 32, "width": 48, "low": 256, "high": 4096},  # no resizing
    {"frames": 8, "height": 240, "width": 320, "low": 256, "high": 4096},  # shrunk
    {"frames": 5, "height": 20, "width": 30, "low": 2048, "high": 8192},  # enlarged, odd number of frames
    {"frames": 2, "height": 129, "width": 61, "low": 256, "high": 65536},  # rounded to the grid
]
CODE = """
import json, sys
import torch
library = torch.library.Library("torchvision", "DEF")
for name in ("nms", "qnms"):
    library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
try:
    import torchvision
except Exception as error:
    print("skip", repr(error))
    raise SystemExit
sys.path.insert(0, sys.argv[1])
from tiny_models import PACKING, make_clips
from transformers import Qwen2VLVideoProcessor
from headprobe.models.pixels import PixelPacking, pack
for case in json.loads(sys.argv[2]):
    clip = make_clips(1, frames=case["frames"], height=case["height"], width=case["width"])[0]
    config = {k: v for k, v in PACKING.items() if k != "headprobe_fixed_size"}
    processor = Qwen2VLVideoProcessor(
        **config,
        size={"shortest_edge": case["low"], "longest_edge": case["high"]},
        cap_pixels_per_frame=False,
    )
    reference = processor(videos=[torch.from_numpy(clip).permute(0, 3, 1, 2)], return_tensors="pt")
    packed = pack(clip, PixelPacking.from_config(config | {"min_pixels": case["low"], "max_pixels": case["high"]}))
    assert [list(packed.grid)] == reference["video_grid_thw"].tolist(), (packed.grid, reference["video_grid_thw"])
    assert torch.equal(packed.patches, reference["pixel_values_videos"]), case
    print("equal", packed.grid)
"""


# Not found by import: a torchvision that cannot be imported was hidden before the tests began.
INSTALLED = any(True for _ in metadata.distributions(name="torchvision"))


@pytest.mark.skipif(not INSTALLED, reason="torchvision is not installed")
def test_pixels_equal_those_of_the_library_bit_for_bit():
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(TESTS), json.dumps(CASES)],
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    if done.stdout.startswith("skip"):
        pytest.skip(f"torchvision cannot be imported: {done.stdout}")
    assert done.stdout.count("equal") == len(CASES)
