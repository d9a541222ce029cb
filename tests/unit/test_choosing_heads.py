"""The code on the page about choosing heads runs as it stands, and its tables name what is there."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

import pytest

from headprobe.errors import HeadprobeWarning
from headprobe.metrics.consensus import METHODS
from headprobe.metrics.saliency import METRICS, combine

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "concepts" / "choosing_heads.md").read_text("utf-8")


def rows(heading: str) -> list[list[str]]:
    part = PAGE.split(f"## {heading}", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in part.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_code_runs_and_finds_the_heads(capsys):
    names: dict[str, Any] = {"__name__": "page"}
    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE, flags=re.S))
    with warnings.catch_warnings():
        warnings.simplefilter("error", HeadprobeWarning)
        exec(compile(code, "choosing_heads.md", "exec"), names)
    with pytest.warns(HeadprobeWarning, match="metric=lda, prompt=p3: head L2H5, the highest of 32, alone holds"):
        combine(names["scores"])
    assert names["probed"].dims == ("metric", "prompt", "layer", "head")
    assert names["probed"].sel(metric="auroc", layer=2, head=5).mean() > 0.9
    # The head that answers to one prompt only has the best single score, and no robust one.
    assert names["maps"].sel(prompt="p1").argmax(...)["layer"] == 1
    assert names["robust"].argmax(...)["layer"] == 2
    assert set(names["chosen"]["rss"]) == {"L2H5", "L3H1"}
    assert names["three"].value == pytest.approx(1)
    assert 0 < names["six"].value < 0.9
    assert "L1H0" in names["stable"].heads.labels
    assert capsys.readouterr().out == ""


def test_the_table_of_metrics_is_complete_and_says_which_targets_they_take():
    table = {row[0].strip("`"): row[4] for row in rows("Saliency")}
    assert set(table) == set(METRICS)
    for name, metric in METRICS.items():
        kinds = ("multiclass" in metric.targets, "continuous" in metric.targets)
        assert table[name] == ", ".join("yes" if kind else "no" for kind in kinds), name


def test_the_table_of_methods_is_complete():
    table = [row[0].strip("`") for row in rows("Consensus")]
    assert set(METHODS) - {"selection_frequency"} <= set(table)


def test_how_much_the_choice_changes_is_what_the_analyses_measured():
    def results(name: str) -> Any:
        return json.loads((ROOT / "analyses" / name / "results.json").read_text("utf-8"))

    part = " ".join(PAGE.split("## Why other clips choose other heads", 1)[1].split("\n## ", 1)[0].split())
    heads = results("headhunt_tiny")["heads"]
    for label in ("table", "table, segment labels"):
        assert f"{heads[label]['nogueira']:.2f}" in part
    often = heads["table"]["draws_with_head"]
    assert max(often, key=often.get) == "L0H1"
    assert f"L0H1, is in {often['L0H1']} of 20 fives" in part
    often = heads["table, segment labels"]["draws_with_head"]
    third = sorted(often.values())[-3]
    assert f"L2H7 is in {often['L2H7']} of 20, L0H1 in {often['L0H1']}, no other in more than {third}" in part
    assert f"{heads['by_size']['64']:.2f}, then {heads['by_size']['200']:.2f}" in part
    assert f"never trained | {heads['never_trained']:.2f} |" in part
    shipped = results("specialisation")["models"]["seed0"]
    alike, five = shipped["jaccard"], {name: value["mean"] for name, value in shipped["five_heads"].items()}
    assert f"index of {alike['same question']:.2f}; those of two different questions {alike['another']:.2f}" in part
    assert f"a mean AUC of {five['own']:.3f}, and five random ones {five['random']:.3f}" in part
    hunted = results("causal_heads")["models"]["seed0"]["draws_that_hunt"]
    assert f"{hunted['L0H1']} of 20 draws of 32 clips hunt it" in part
