"""The demo's full run, kept: numbers, figures, and the tables of docs/results.md.

    python analyses/headhunt_demo/run.py [--seed 7]

Runs ``headprobe demo`` and writes table and findings into docs/results.md and a sentence into the README. With
seed 7, for the record: keeps ``results.json``, the heatmap and the comparison beside this file. With seed 0, which
``make demo`` runs: keeps ``make_demo.json``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from readme_block import replace_block  # noqa: E402

from headprobe.cli.app import spread  # noqa: E402
from headprobe.demo._claims import findings  # noqa: E402
from headprobe.demo._run import run_demo  # noqa: E402

PAIRED = (
    "Paired differences in frame AUC over the draws, with 95 % t intervals. The draws overlap and share their test "
    "videos, so the intervals are too narrow, and the verdicts are not corrected for their number:"
)
# Seed to the file of its numbers and their place on the page.
KEPT = {7: ("results.json", "results"), 0: ("make_demo.json", "make-demo")}
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


SHOWN = {
    "hunted heads": "five hunted heads",
    "random heads (mean of 5 sets)": "five random ones",
    "all heads": "all heads",
    "frame differences": "motion alone",
    "never-trained model, hunted heads": "a copy that was never trained",
}
SAID = {"holds": "beat", "reversed": "lose to", "not decided": "are not told apart from"}


def readme_lines(shown: dict, record: dict) -> str:
    """What the project's README says: the run that anybody can repeat and, in brackets, the one for the record."""
    (auc, again), size = [{row["name"]: row["auc"] for row in r["rows"]} for r in (shown, record)], shown["provenance"]
    data, draws = shown["data"]["test"], size["size"]
    numbers = ", ".join(f"{words} {auc[name]:.3f} ({again[name]:.3f})" for name, words in SHOWN.items())
    verdicts = [{f.minus: f.verdict for f in findings(r["paired_differences"])} for r in (shown, record)]
    said = []
    for name in ("random heads (mean of 5 sets)", "all heads"):
        first, second = (one[name] for one in verdicts)
        said.append(f"{SAID[first if first == second else 'not decided']} {SHOWN[name]}")
    return (
        f"`make demo` draws {draws['videos_per_draw']} labelled videos {draws['n_draws']} times and tests on "
        f"{sum(data['videos'].values())} others, of other scenes. Mean frame AUC with its seed {size['seed']}, and "
        f"in brackets with seed {record['provenance']['seed']}, which nobody had looked at before: {numbers}. Hunted "
        f"heads {' and '.join(said)}, when the events are of kinds that they were hunted on."
    )


def _met(bar: dict) -> str:
    return "met" if bar["met"] else "**not met**"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, choices=KEPT, default=7)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        demo = run_demo(folder, seed=arguments.seed)
        results = json.loads((demo.folder / "results.json").read_text())
        if arguments.seed == 7:
            for figure in ("heatmap.png", "comparison.png"):
                shutil.copy2(demo.folder / figure, HERE / figure)
    file, place = KEPT[arguments.seed]
    (HERE / file).write_text(json.dumps(results, indent=1) + "\n")
    replace_block(place, readme_block(results))
    shown, record = (json.loads((HERE / KEPT[seed][0]).read_text()) for seed in (0, 7))
    replace_block("demo", readme_lines(shown, record), HERE.parents[1] / "README.md")


if __name__ == "__main__":
    main()
