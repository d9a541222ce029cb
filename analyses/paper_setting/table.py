"""What the runs take, for the README: `python analyses/paper_setting/table.py [--data ../shared/data]`."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tomllib
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from readme_block import replace_block
from run import estimate

from headprobe.datasets import load_dataset

HERE = Path(__file__).resolve().parent

DEVICES = {"RTX 4090 (60 TFLOP/s sustained)": 60.0, "H100 (300 TFLOP/s sustained)": 300.0}


def readme_block(found: dict) -> str:
    """The table as Markdown."""
    lines = [
        "| data set | calibration | test segments | " + " | ".join(f"GPU hours, {name}" for name in DEVICES)
        + " | disk, GB | disk with --all-heads, GB |",
        "|---|---|---|" + "---|" * (len(DEVICES) + 2),
    ]  # fmt: skip
    for dataset, one in found.items():
        first = next(iter(one.values()))
        hours = " | ".join(f"{values['gpu_hours']:.1f}" for values in one.values())
        lines.append(
            f"| {dataset} | {first['calibration_videos']} videos, about {first['calibration_segments']} segments | "
            f"{first['test_segments']} | {hours} | {first['disk_gb']:.1f} | {first['disk_gb_all_heads']:.1f} |"
        )
    weights = next(iter(next(iter(found.values())).values()))["weights_gb"]
    return "\n".join([*lines, "", f"The weights are {weights:.1f} GB more, in memory and on disk."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    default = os.environ.get("HEADPROBE_DATA", str(HERE.parents[2] / "shared" / "data"))
    parser.add_argument("--data", type=Path, default=Path(default))
    folder = parser.parse_args().data / "ground_truth"
    config = tomllib.loads((HERE / "config.toml").read_text(encoding="utf-8"))
    found: dict = {}
    for dataset in ("ucf-crime", "xd-violence"):
        test = load_dataset(dataset, folder).split("test")
        for device, tflops in DEVICES.items():
            values = estimate(dataset, test, config, tflops, False)
            values["disk_gb_all_heads"] = estimate(dataset, test, config, tflops, True)["disk_gb"]
            found.setdefault(dataset, {})[device] = {k: round(v, 3) for k, v in values.items()}
    (HERE / "estimate.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    replace_block("estimate", readme_block(found), HERE / "README.md")


if __name__ == "__main__":
    main()
