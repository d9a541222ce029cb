"""The table of HeadHunt-VAD on the page of results: numbers of the project beside their controls.

    python analyses/measured.py

Reads results.json of headhunt_tiny, headhunt_demo and ped2; writes the block between the marks of docs/results.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from readme_block import replace_block

HERE = Path(__file__).resolve().parent
SEGMENT = ", segment labels"
FROM_SCENES, FROM_HALF = "calibrated on synthetic scenes", "calibrated on half of the Ped2 test videos"

# Row of the table: name in headhunt_tiny, in the demo, and in ped2 (None: by the rows of a setting).
ROWS: dict[str, tuple[str | None, str | None, str | None]] = {
    "**five hunted heads**": ("full", "hunted heads", "hunted heads"),
    "five random heads": ("random heads", "random heads (mean of 5 sets)", "random heads"),
    "all heads": ("all heads", "all heads", "all heads"),
    "last hidden state": ("last hidden state", "last hidden state", None),
    "one chosen layer (LayerHunt, HiProbe-VAD)": ("LayerHunt (HiProbe-VAD)", None, None),
    "never-trained model, hunted heads": (
        "never trained",
        "never-trained model, hunted heads",
        "never trained, hunted heads",
    ),
    "shuffled labels, hunted heads": (
        "shuffled labels",
        "shuffled labels, hunted heads (mean of 5 shuffles)",
        "shuffled labels, hunted heads",
    ),
    "frame differences, fitted": (
        "frame differences",
        "frame differences",
        "logistic regression on frame differences",
    ),
    "frame differences, mean square": (None, None, "frame differences, mean square"),
    "text: P(yes), vague question": ("text P(yes), coarse prompt", "text P(yes), vague prompt", None),
    "text: graded ask": ("text, graded ask with isotonic regression", None, None),
    "text: P(yes), questions on the trained events": (
        "text P(yes), direct questions",
        "text P(yes), direct event questions",
        None,
    ),
    "constant per video, knows the truth": (
        "constant per video (knows the truth)",
        "oracle constant per video",
        "constant per video",
    ),
    "position in the video": ("position prior", "position prior", "position prior"),
    "the two multiplied": ("constant times position prior", "oracle constant times position prior", None),
}
COLUMNS = (
    "rendered, labels of videos",
    "rendered, labels of segments",
    "rendered, demo",
    "Ped2, fitted on rendered scenes",
    "Ped2, fitted on half of it",
)


def results() -> dict[str, Any]:
    """The committed results."""
    return {
        name: json.loads((HERE / name / "results.json").read_text(encoding="utf-8"))
        for name in ("headhunt_tiny", "headhunt_demo", "ped2")
    }


def block(given: Mapping[str, Any]) -> str:
    """Table and sentences as Markdown."""
    lines = [f"| | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name, (tiny, demo, ped2) in ROWS.items():
        cells = [
            _tiny(given["headhunt_tiny"], tiny),
            _tiny(given["headhunt_tiny"], tiny, SEGMENT),
            _demo(given["headhunt_demo"], demo),
            _ped2(given["ped2"], ped2, FROM_SCENES),
            _ped2(given["ped2"], ped2, FROM_HALF),
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *_sentences(given)])


def _tiny(found: Mapping[str, Any], name: str | None, ending: str = "") -> str:
    if name is None:
        return ""
    row = found["rows"].get(name + ending, found["rows"][name])
    return _cell(row["auc"]["mean"], row["auc"].get("low"), row["auc"].get("high"), row["within_auc"]["mean"])


def _demo(found: Mapping[str, Any], name: str | None) -> str:
    if name is None:
        return ""
    (row,) = [row for row in found["rows"] if row["name"] == name]
    sd = "" if row["auc_sd"] is None else f" ± {row['auc_sd']:.2f}"
    return f"{row['auc']:.3f}{sd}; {row['within_auc']:.2f}"


def _ped2(found: Mapping[str, Any], name: str | None, setting: str) -> str:
    if name is None:
        return ""
    rows = found["on_the_halves"]
    row = rows.get(name, rows.get(f"{setting}: {name}, whole frames"))
    low, high = row["auc"]["over_videos"]
    same = low == high
    return _cell(row["auc"]["mean"], None if same else low, None if same else high, row["within_auc"]["mean"])


def _cell(auc: float, low: float | None, high: float | None, within: float) -> str:
    interval = "" if low is None else f" [{low:.2f}, {high:.2f}]"
    return f"{auc:.3f}{interval}; {within:.2f}"


def _sentences(given: Mapping[str, Any]) -> list[str]:
    tiny, demo, ped2 = (given[name] for name in ("headhunt_tiny", "headhunt_demo", "ped2"))
    draws, data, size = tiny["config"]["draws"], tiny["data"], demo["provenance"]["size"]
    return [
        f"Frame AUC over all videos [interval]; mean AUC inside a video. Rendered: {draws['n']} draws of "
        f"{draws['videos']} out of {data['calibration_videos']} calibration videos, "
        f"{sum(data['test_videos'].values())} test videos of other scenes, the middle 95 % of the draws; "
        "labels of videos are what the paper has, labels of "
        f"segments are exact. Demo: {size['n_draws']} draws of {size['videos_per_draw']}, mean ± standard deviation. "
        f"Ped2: real footage, {ped2['data']['test_videos']} test videos, whole frames, 95 % over resampled videos. "
        "Empty: not measured there.",
        "",
        _verdicts(tiny, "With labels of videos", "video labels", ""),
        _verdicts(tiny, "With labels of segments", "segment labels", SEGMENT),
        _filmed(ped2),
    ]


def _verdicts(tiny: Mapping[str, Any], words: str, where: str, ending: str) -> str:
    """Which rows hunted heads are above and below, by the intervals of the differences."""
    said: dict[str, list[str]] = {"holds": [], "not decided": [], "does not hold": []}
    compared = [one for kind in ("claims", "controls") for one in tiny[kind][where] if one["first"] == "full" + ending]
    listed = {one["second"].removesuffix(SEGMENT): one for one in compared if one["kind"] == "above"}
    for name, (row, _, _) in ROWS.items():
        if row in listed:
            one = listed[row]
            bare = one.get("unsmoothed_verdict", one["verdict"])
            note = "" if bare == one["verdict"] else f" (unsmoothed: {bare})"
            said[one["verdict"]].append(name + note)
    events, prior = (tiny["events"][name]["mean_f1"]["mean"] for name in ("full" + ending, "position prior"))
    above, open_, below = ("; ".join(names) or "none" for names in said.values())
    return (
        f"- {words}, hunted heads are above: {above}. Not told apart from: {open_}. Below: {below}. Events found, mean "
        f"F1 over temporal IoU 0.1 to 0.9: {events:.2f}; by a threshold on the position in the video {prior:.2f}."
    )


def _filmed(ped2: Mapping[str, Any]) -> str:
    gaps = {"rival": [], "motion": []}
    for others in ped2["differences"].values():
        for name, gap in others.items():
            if "never trained" in name or "random heads" in name:
                gaps["rival"].append(gap["auc"]["over_videos"])
            if name.startswith("frame differences"):
                gaps["motion"].append(gap["auc"]["over_videos"])
    above, below = sum(low > 0 for low, _ in gaps["rival"]), sum(high < 0 for _, high in gaps["motion"])
    tiles = [
        ped2["on_the_halves"][f"{setting}: hunted heads, 4 x 4 tiles"]["auc"]["mean"]
        for setting in (FROM_SCENES, FROM_HALF)
    ]
    return (
        f"- On real footage the embedded model is no detector: in {above} of {len(gaps['rival'])} comparisons on Ped2 "
        "hunted heads are above random heads or the never-trained model, and in "
        f"{below} of {len(gaps['motion'])} settings they are below frame differences without any fit (with 4 x 4 tiles "
        f"in the place of whole frames they reach {tiles[0]:.3f} and {tiles[1]:.3f})."
    )


if __name__ == "__main__":
    replace_block("headhunt", block(results()))
