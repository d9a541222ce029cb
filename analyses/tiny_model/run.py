"""Train, evaluate and install the embedded model: one command, resumable.

    python analyses/tiny_model/run.py [--runs runs/tiny] [--workers 1] [--seeds 0 1 2] [--install]

Trains the shipped seed and the others of ``config.toml``, evaluates each on scenes that no training saw, and writes
``results.json`` beside this file after every seed; ``--install`` copies the shipped seed into the package.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tomllib
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from evaluate import HERE, REQUIRED, record_accuracy
from readme_block import replace_block
from train import train

WEIGHTS = HERE.parents[1] / "headprobe" / "models" / "tiny" / "weights"


def summary(records: dict[int, dict], config: dict) -> dict:
    """Accuracies and stages of all seeds, with what was required."""
    kinds = next(iter(records.values()))["accuracy"]
    return {
        "shipped_seed": config["seeds"]["shipped"],
        "evaluation": config["evaluation"],
        "balanced_accuracy": {
            kind: {
                "required": REQUIRED.get(kind),
                **{f"seed{seed}": record["accuracy"][kind]["balanced_accuracy"] for seed, record in records.items()},
            }
            for kind in kinds
        },
        "stages": {f"seed{seed}": record["stages"] for seed, record in records.items()},
    }


def readme_block(results: dict) -> str:
    """Required and reached accuracies of all seeds, as Markdown."""
    seeds = list(results["stages"])
    shipped = f"seed{results['shipped_seed']}"
    head = ["question", "required", *(f"{s} (shipped)" if s == shipped else s for s in seeds)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for kind, row in results["balanced_accuracy"].items():
        need = row["required"]
        cells = [f"**{row[s]:.3f}**" if need is not None and row[s] < need else f"{row[s]:.3f}" for s in seeds]
        lines.append(f"| {kind} | {'' if need is None else f'{need:.2f}'} | " + " | ".join(cells) + " |")
    missed = [k for k, r in results["balanced_accuracy"].items() if r["required"] and r[shipped] < r["required"]]
    lines += ["", f"Below what was required, in the shipped seed: {', '.join(missed) or 'nothing'}."]
    return "\n".join(lines)


def main() -> None:
    config = tomllib.loads((HERE / "config.toml").read_text())
    shipped = config["seeds"]["shipped"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/tiny"))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seeds", type=int, nargs="+", default=[shipped, *config["seeds"]["others"]])
    parser.add_argument("--install", action="store_true")
    arguments = parser.parse_args()
    records = {}
    for seed in arguments.seeds:
        model = train(seed, arguments.runs / f"seed{seed}", arguments.workers)
        records[seed] = record_accuracy(model)
        if seed == shipped and arguments.install:
            WEIGHTS.mkdir(exist_ok=True)
            for file in model.iterdir():
                shutil.copy2(file, WEIGHTS / file.name)
        results = summary(records, config)
        (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n")
        replace_block("model", readme_block(results))


if __name__ == "__main__":
    main()
