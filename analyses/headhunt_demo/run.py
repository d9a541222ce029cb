"""The demo's full run, kept: numbers, figures, and the table in the README.

    python analyses/headhunt_demo/run.py [--seed 0]

Runs ``headprobe demo``, copies ``results.json``, the heatmap and the comparison beside this file, the heatmap into
``docs/figures``, and writes the README's table and findings from the numbers.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE.parent))

from readme_block import replace_block  # noqa: E402

from headprobe.cli.app import spread  # noqa: E402
from headprobe.demo._claims import findings  # noqa: E402
from headprobe.demo._run import run_demo  # noqa: E402

PAIRED = (
    "Paired differences in frame AUC over the draws, with 95 % t intervals. The draws overlap and share their test "
    "videos, so the intervals are too narrow, and the verdicts are not corrected for their number:"
)
COLUMNS = ("auc", "ap", "within_auc", "held_out_auc", "held_out_ap")


def readme_block(results: dict) -> str:
    """The table and the verdicts, as Markdown."""
    size, data = results["provenance"]["size"], results["data"]
    n_test = sum(data["test"]["videos"].values())
    lines = [
        f"`headprobe demo --seed {results['provenance']['seed']}`: {size['n_draws']} draws of "
        f"{size['videos_per_draw']} "
        f"calibration videos, {n_test} test videos of {data['test']['scenes']} other scenes, {data['test']['frames']} "
        f"frames; experts {', '.join(results['experts'])} (hunted on the whole calibration pool).",
        "",
        "| | " + " | ".join(COLUMNS) + " |",
        "|---|" + "---|" * len(COLUMNS),
    ]
    for row in results["rows"]:
        lines.append(f"| {row['name']} | " + " | ".join(spread(row, key) for key in COLUMNS) + " |")
    lines += ["", PAIRED, ""]
    lines += [f"- {finding.sentence}" for finding in findings(results["paired_differences"])]
    lines += ["", "Required beforehand:", ""]
    lines += [f"- {b['name']}: {b['measured']:.3f} ({b['required']}) {_met(b)}" for b in results["bars"]]
    return "\n".join(lines)


def _met(bar: dict) -> str:
    return "met" if bar["met"] else "**not met**"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        demo = run_demo(folder, seed=arguments.seed)
        results = json.loads((demo.folder / "results.json").read_text())
        for name in ("heatmap.png", "comparison.png"):
            shutil.copy2(demo.folder / name, HERE / name)
    figures = ROOT / "docs" / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    shutil.copy2(HERE / "heatmap.png", figures / "heatmap.png")
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    replace_block("results", readme_block(results))


if __name__ == "__main__":
    main()
