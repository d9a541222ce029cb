"""Every detector that runs on the embedded model, on rendered videos, in one table.

    python analyses/detectors/run.py [--out runs/detectors]

Runs the benchmark that comes with the package (`headprobe benchmark rendered`), goes on where a run was stopped, and
writes results.json, table.png, the table of the README and that of docs/concepts/detectors.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE.parent))

from readme_block import replace_block  # noqa: E402
from rounding import rounded  # noqa: E402

from headprobe.detection.config import read_benchmark  # noqa: E402
from headprobe.detection.table import Comparison  # noqa: E402
from headprobe.plotting._pictures import figure_png  # noqa: E402

PAGE = ROOT / "docs" / "concepts" / "detectors.md"


def sentences(found: Comparison) -> str:
    """The table, what it was made of, and the reference against every other row."""
    lines = [found.markdown(), found.caption(), "", "The reference row minus the others, in frame AUC:", ""]
    for row in found.differences:
        if row["auc_low"] is None:
            said = f"{row['auc']:+.3f}, no interval"
        else:
            sure = "holds" if row["auc_low"] > 0 else "reversed" if row["auc_high"] < 0 else "not decided"
            said = f"{row['auc']:+.3f} ({row['auc_low']:+.3f} to {row['auc_high']:+.3f}), {sure}"
        lines.append(f"- {row['minus']}: {said}")
    return "\n".join(lines)


def table(found: Comparison) -> str:
    """The table and what it was made of."""
    return f"{found.markdown()}\n{found.caption()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "detectors")
    out = parser.parse_args().out
    found = read_benchmark("rendered", out).run(out)
    if found.failed or found.lost:
        raise SystemExit(f"not all rows are there: {found.failed} {found.lost}")
    kept = found.save(out)
    given = json.loads((kept / "results.json").read_text(encoding="utf-8"))
    for row in given["rows"]:  # how long it took is of this machine
        row.pop("seconds_per_hour", None)
    (HERE / "results.json").write_text(json.dumps(rounded(given, 9), indent=1) + "\n", encoding="utf-8")
    (HERE / "table.png").write_bytes(figure_png(found.plot(), 70))
    replace_block("detectors", sentences(found), HERE / "README.md")
    replace_block("detectors", table(found), PAGE)


if __name__ == "__main__":
    main()
