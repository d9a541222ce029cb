"""Train, evaluate and install the embedded model: one command, resumable.

    python analyses/tiny_model/run.py [--runs runs/tiny] [--workers 1] [--install]

Trains the shipped seed and the two others of ``config.toml``, evaluates each on scenes that no training saw, writes
``results.json`` beside this file, and with ``--install`` copies the shipped seed into the package.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tomllib
from pathlib import Path

from evaluate import HERE, REQUIRED, record_accuracy
from train import train

WEIGHTS = HERE.parents[1] / "headprobe" / "models" / "tiny" / "weights"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/tiny"))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--install", action="store_true")
    arguments = parser.parse_args()
    config = tomllib.loads((HERE / "config.toml").read_text())
    shipped = config["seeds"]["shipped"]
    records = {}
    for seed in (shipped, *config["seeds"]["others"]):
        model = train(seed, arguments.runs / f"seed{seed}", arguments.workers)
        records[seed] = record_accuracy(model)
        if seed == shipped and arguments.install:
            WEIGHTS.mkdir(exist_ok=True)
            for file in model.iterdir():
                shutil.copy2(file, WEIGHTS / file.name)
    results = {
        "shipped_seed": shipped,
        "balanced_accuracy": {
            kind: {
                "required": REQUIRED.get(kind),
                **{f"seed{seed}": record["accuracy"][kind]["balanced_accuracy"] for seed, record in records.items()},
            }
            for kind in records[shipped]["accuracy"]
        },
        "stages": {f"seed{seed}": record["stages"] for seed, record in records.items()},
        "evaluation": config["evaluation"],
    }
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
