"""The README is short, its code runs and draws the figure beside it, and its numbers are those of committed results."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from headprobe.models.adapter import adapter_for, families

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
ANALYSES = ROOT / "analyses"
PICTURES = re.findall(r"!\[[^\]]*\]\(([^)]+\.png)\)", README)


def block(page: str, name: str) -> str:
    """What stands between the marks of a page."""
    start, end = f"<!-- {name}:start -->\n", f"\n<!-- {name}:end -->"
    assert page.count(start) == page.count(end) == 1
    return page.split(start)[1].split(end)[0]


def committed(name: str) -> dict:
    return json.loads((ANALYSES / name).read_text(encoding="utf-8"))


def script(name: str):
    """The module that runs an analysis."""
    spec = importlib.util.spec_from_file_location(f"{name}_run", ANALYSES / name / "run.py")
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ANALYSES))
        patch.syspath_prepend(str(ANALYSES / name))
        spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture(scope="module")
def demo():
    return script("headhunt_demo")


# As a text


def test_it_is_short() -> None:
    assert len(README.split()) <= 800


def test_the_example_is_short() -> None:
    lines = [line for line in example().splitlines() if line.strip()]
    assert len(lines) <= 15
    assert max(map(len, lines)) <= 110


def test_it_names_no_place_where_it_is_not() -> None:
    """Nothing is installed by name, and pictures are absolute as soon as there is an address to make them so."""
    installs = re.findall(r"pip install ([^\s`]+)", README)
    assert sorted(set(installs)) == [".", "FILE.whl"]
    home = PROJECT["urls"].get("Repository")
    for picture in PICTURES:
        assert picture.startswith(home) if home else (ROOT / picture).is_file()


def test_the_badges_say_what_the_project_says() -> None:
    badges = "\n".join(re.findall(r"^\[!\[.*$", README, flags=re.MULTILINE))
    assert f"Python {PROJECT['requires-python'].removeprefix('>=')} or newer" in badges
    assert f"Licence: {PROJECT['license']}" in badges
    assert any(f"Status: {one.rpartition(' ')[2].lower()}" in badges for one in PROJECT["classifiers"])
    assert PROJECT["urls"]["Paper"] in badges


def test_the_commands_exist() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    commands = "\n".join(re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL))
    assert re.findall(r"^headprobe (\w+)", commands, flags=re.MULTILINE) == ["demo"]
    targets = re.findall(r"^make (\w+)", commands, flags=re.MULTILINE)
    assert targets == ["demo", "test"]
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in targets)


def test_the_paper_is_cited() -> None:
    assert "arXiv 2512.17601" in README


# Its code


def example() -> str:
    blocks = re.findall(r"^```python\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) == 1
    return blocks[0]


def test_the_example_runs_as_written_and_draws_the_figure(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "MPLBACKEND": "Agg"}
    done = subprocess.run(
        [sys.executable, "-c", example()],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"L\d+H\d+", done.stdout), done.stdout
    (figure,) = tmp_path.glob("*.png")
    (shown,) = [picture for picture in PICTURES if Path(picture).name == figure.name]
    one, other = imread(figure), imread(ROOT / "docs" / shown.partition("docs/")[2])
    assert one.shape == other.shape
    assert np.abs(one - other).mean() < 0.01


# Its numbers, and those of the page of results


def test_the_demo_is_the_one_that_anybody_can_repeat(demo) -> None:
    shown, record = committed("headhunt_demo/make_demo.json"), committed("headhunt_demo/results.json")
    assert block(README, "demo") == demo.readme_lines(shown, record)
    # `make demo` names no seed, and 0 is the command's own.
    from headprobe.cli.app import demo as command

    assert "--seed" not in (ROOT / "Makefile").read_text("utf-8")
    assert command.__defaults__ is None or 0 in command.__defaults__
    assert shown["provenance"]["seed"] == 0
    assert record["provenance"]["seed"] != 0
    assert shown["provenance"]["size"] == record["provenance"]["size"]


@pytest.mark.parametrize(("name", "file"), [("make-demo", "make_demo.json"), ("results", "results.json")])
def test_the_tables_of_the_demo_are_written_from_its_results(demo, name: str, file: str) -> None:
    assert block(RESULTS, name) == demo.readme_block(committed(f"headhunt_demo/{file}"))


def test_the_accuracies_of_the_embedded_model_are_written_from_its_results() -> None:
    assert block(RESULTS, "model") == script("tiny_model").readme_block(committed("tiny_model/results.json"))


def test_what_is_said_of_real_models_stands_in_their_results() -> None:
    (said,) = re.findall(r"On a real model, (.*?):", README, flags=re.DOTALL)
    (trained,) = re.findall(r"all (\d+) heads tell", " ".join(said.split()))
    (untrained,) = re.findall(r"all (\d+) of the same network with random weights", " ".join(said.split()))
    for data in committed("real_heads/results.json")["heads"].values():
        if "tests" in data:
            assert data["tests"]["exchange"]["survive_familywise"] == int(trained)
            assert data["tests_of_untrained_encoder"]["exchange"]["survive_familywise"] == int(untrained)


def test_what_is_said_of_ucf_crime_stands_on_the_page_of_results() -> None:
    (low, high) = re.findall(r"five hunted heads reach an AUC of (0\.\d+) to (0\.\d+)", " ".join(README.split()))[0]
    page = " ".join((ROOT / "docs" / "results.md").read_text("utf-8").split())
    said = page.partition("through published captions of its 290 test videos")[2].partition("five random heads")[0]
    found = [float(number) for number in re.findall(r"0\.\d{3}", said)]
    assert (round(min(found) + 1e-9, 2), round(max(found), 2)) == (float(low), float(high))
    assert "not above all heads or the embedding" in page or "hunted heads are above random heads in 2" in page


def test_families_are_counted() -> None:
    # Apart from what other tests of this process have registered.
    command = [sys.executable, "-m", "headprobe", "models", "--json"]
    rows = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    video = [row for row in rows if "prefix" in row["verified"]]
    assert f"{len(rows)} families, {len(video)} of video" in README


def test_the_page_on_families_names_every_video_family() -> None:
    page = (ROOT / "docs" / "concepts" / "families.md").read_text("utf-8")
    video = [name for name in families() if "prefix" in getattr(adapter_for(name), "verified", ())]
    assert len(video) >= 15
    assert [name for name in video if f"`{name}`" not in page] == []
