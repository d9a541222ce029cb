"""All code in the documentation runs: here, or in the test that a page has of its own."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import pkgutil
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread
from typer.testing import CliRunner

import headprobe
from headprobe.cli.app import app
from headprobe.errors import HeadprobeWarning

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
HERE = {
    f"howto/{name}.md"
    for name in ("own_model", "own_task", "own_scores", "add_a_family", "figures", "transformer_lens")
}
HERE |= {"tutorial.md", "gallery.md", "concepts/auc.md", "index.md"}


def blocks(page: Path) -> list[tuple[str, str]]:
    """Kind and body of every block of code that a reader may run."""
    found = re.findall(r"^```(\w+)\n(.*?)^```$", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [(kind, body) for kind, body in found if kind in ("python", "sh")]


def pages() -> list[str]:
    """Pages with code, without what sphinx has written."""
    found = [page for page in DOCS.rglob("*.md") if "_build" not in page.parts and blocks(page)]
    return sorted(page.relative_to(DOCS).as_posix() for page in found)


def outputs(page: Path) -> dict[str, str]:
    """Block of Python to what it prints: the block of text that stands straight after it."""
    found = re.findall(
        r"^```python\n(.*?)^```\n\n```text\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    return {body.rpartition("```python\n")[2]: printed for body, printed in found}


def run(page: str) -> dict[str, Any]:
    """Run the code of a page from top to bottom in the current folder; what it prints is what the page says."""
    names: dict[str, Any] = {"__name__": "page"}
    printed = outputs(DOCS / page)
    for kind, body in blocks(DOCS / page):
        if kind == "python":
            said = io.StringIO()
            with contextlib.redirect_stdout(said):
                exec(compile(body, page, "exec"), names)
            # What is printed in passing, by a block whose output the page does not show, is not compared.
            assert body not in printed or said.getvalue() == printed.pop(body)
            continue
        for command in body.replace("\\\n", " ").splitlines():
            words = shlex.split(command, comments=True)
            if words and words[0] == "headprobe":
                result = CliRunner().invoke(app, words[1:])
                assert result.exit_code == 0, result.output
            elif words and words[0] == "make":
                assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text("utf-8"), flags=re.MULTILINE)
            elif words:
                # What is run by hand: the files it names are there.
                assert words[0] == "python", command
                assert all((ROOT / word).exists() for word in words if word.endswith(".py")), command
    assert printed == {}
    for drawn in Path().glob("*.png"):
        (shown,) = (DOCS / "figures").rglob(drawn.name)
        assert looks_like(drawn, shown), drawn.name
    return names


def looks_like(drawn: Path, shown: Path) -> bool:
    """Whether a picture is the one that a page shows, but for what fonts and processors change."""
    one, other = imread(drawn), imread(shown)
    return one.shape == other.shape and float(np.abs(one - other).mean()) < 0.01


def test_every_page_with_code_has_a_test():
    """A page that needs more than a folder to run in has a test of its own, which reads it."""
    tests = [path for path in Path(__file__).parents[1].rglob("test_*.py") if path.name != Path(__file__).name]
    read = "\n".join(path.read_text("utf-8") for path in tests)
    assert set(pages()) >= HERE
    assert [page for page in pages() if page not in HERE and Path(page).name not in read] == []


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_tutorial(folder):
    assert len(outputs(DOCS / "tutorial.md")) == 6
    names = run("tutorial.md")
    assert {path.name for path in folder.glob("*.png")} == {"first.png", "mine.png"}
    # What the page says: significant heads, and random heads nearly as good.
    assert len(names["result"].significant(0.05)) > 0
    assert names["accuracy"](names["best"]) > 0.75
    assert json.loads((folder / "mine.json").read_text())
    robust = names["robust"]
    assert float(robust.max()) > 0.9
    first = names["heads"][0]
    assert float(robust.sel(layer=first.layer, head=first.head)) == float(robust.max())


def test_the_page_on_a_model_of_ones_own(folder):
    names = run("howto/own_model.md")
    yes = [text.strip().startswith("yes") for text in names["answers"].texts]
    assert yes == [clip.label == 1 for clip in names["clips"]]
    assert names["z"].shape == (1, 2, 2, 2, 8)


def test_the_page_on_a_task_of_ones_own(folder):
    names = run("howto/own_task.md")
    # A random model knows words it was fitted to, and nothing of others.
    assert names["by_sentence"] > 0.7
    assert abs(names["by_word"] - 0.5) < 0.15
    assert len(names["at_the_noun"].examples) == 120
    assert "same_layer_heads" in set(names["summarise"](names["table"])["condition"])


def test_the_page_on_score_maps_of_ones_own(folder):
    names = run("howto/own_scores.md")
    correlation = names["rank_correlation"]
    assert correlation(names["both"], "spearman", "model").values[0, 1] == pytest.approx(1)
    assert correlation(names["both"], "pearson", "model").values[0, 1] < 0.9
    with pytest.warns(HeadprobeWarning, match="3 more heads score as high as the last of the 3 chosen"):
        headprobe.top_heads(names["duo"], 3)


def test_the_page_on_figures(folder):
    names = run("howto/figures.md")
    assert (folder / "map.pdf").read_bytes().startswith(b"%PDF")
    assert "<svg" in (folder / "maps.svg").read_text("utf-8")
    assert set(names["axes"]) == {"fight", "open", "car"}
    assert names["page"].notes == ()
    assert (folder / "heads.html").stat().st_size < 5_000_000
    assert names["clips"][0].label in (0, 1)
    assert sum(clip.label for clip in names["clips"]) == 20  # as the report says
    assert "The significance of these heads was not tested" in (folder / "report.html").read_text("utf-8")
    page = (DOCS / "howto" / "figures.md").read_text("utf-8")
    listed = page.partition("all in `headprobe.plotting`,")[2].partition("## ")[0]
    named = re.findall(r"`(\w+\.\w+)`", listed)
    assert len(named) == 12
    assert [name for name in named if not callable(pkgutil.resolve_name(f"headprobe.plotting.{name}"))] == []


@pytest.mark.slow
def test_the_gallery(folder):
    names = run("gallery.md")
    page = (DOCS / "gallery.md").read_text("utf-8")
    shown = re.findall(r"\]\((figures/gallery/\w+\.png)\)", page)
    # The explorer's is a picture of a page, taken by docs/draw.py.
    drawn = {f"figures/gallery/{path.name}" for path in folder.glob("*.png")}
    assert sorted(shown) == sorted(drawn | {"figures/gallery/explorer.png"})
    assert (folder / "explorer.html").stat().st_size < 5_000_000
    # What the timeline shows: one event, on the fight.
    (event,) = names["one"].events
    fight = np.flatnonzero(names["new"].truth) / names["one"].info.fps
    assert event.start_seconds < fight[-1]
    assert event.end_seconds > fight[0]


def test_the_gallery_shows_every_kind_of_figure_in_few_lines():
    page = (DOCS / "gallery.md").read_text("utf-8")
    listed = (DOCS / "howto" / "figures.md").read_text("utf-8").partition("[the gallery]")[2].partition("\n## ")[0]
    kinds = [name.partition(".")[2] for name in re.findall(r"`(\w+\.\w+)`", listed)]
    assert len(kinds) == 12
    assert [kind for kind in [*kinds, "heatmap", "heatmap_grid", "explore"] if f"{kind}(" not in page] == []
    for body in [body for _, body in blocks(DOCS / "gallery.md")][1:]:
        lines = [line for line in body.splitlines() if line.strip() and "import " not in line]
        assert len(lines) <= 10, body


def test_pictures_are_small():
    large = [path.name for path in (DOCS / "figures").rglob("*.png") if path.stat().st_size > 150_000]
    assert large == []


@pytest.mark.parametrize("page", [*(f"docs/{page}" for page in pages()), "README.md"])
def test_questions_are_in_words_that_the_embedded_model_knows(page):
    known = set(
        json.loads((ROOT / "headprobe/models/tiny/weights/tokenizer.json").read_text("utf-8"))["model"]["vocab"]
    )
    code = "\n".join(body for kind, body in blocks(ROOT / page) if kind == "python")
    questions = re.findall(r'"([A-Za-z][^"\n]*? \?)"', code)
    unknown = {word for question in questions for word in question.lower().split() if word not in known}
    assert unknown == set()


def test_the_page_on_adding_a_family(folder, monkeypatch):
    from families.exaone4_5 import FAMILIES

    (family,) = FAMILIES
    checkpoint = Path("path/to/checkpoint")
    family.module(0).save_pretrained(checkpoint)
    family.tokenizer().save_pretrained(checkpoint)
    (checkpoint / "preprocessor_config.json").write_text(json.dumps(family.processor_config))
    monkeypatch.setattr(sys, "path", [str(DOCS / "howto"), *sys.path])
    page = (DOCS / "howto" / "add_a_family.md").read_text("utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    names: dict[str, Any] = {"clips": family.contents(2)}
    exec(compile(code, "add_a_family.md", "exec"), names)
    assert names["acts"].z.shape[1] == 2
    importlib.invalidate_caches()
    assert CliRunner().invoke(app, ["inspect", str(checkpoint)]).exit_code == 0
    assert "tests/reference/test_contract.py" in page
    assert "tests/reference/test_hf_processors.py" in page


def test_the_page_on_auc(folder):
    rng = np.random.default_rng(0)
    Path("ucf_crime_temporal.txt").write_text(
        "Abuse001_x264.mp4  Abuse  10  19  -1  -1\nNormal_Videos_001_x264.mp4  Normal  -1  -1  -1  -1\n"
    )
    Path("ucf_crime_frame_counts.txt").write_text("Abuse001_x264 0 39 1\nNormal_Videos_001_x264 0 39 0\n")
    scores = {name: rng.random(40).tolist() for name in ("Abuse001_x264", "Normal_Videos_001_x264")}
    Path("scores.json").write_text(json.dumps(scores))
    run("concepts/auc.md")
    assert "within_auc" in Path("result.json").read_text()


def test_the_first_page(folder):
    run("index.md")


def test_the_page_on_transformer_lens(folder):
    pytest.importorskip("transformer_lens", reason="needs headprobe[lens]")
    names = run("howto/transformer_lens.md")
    assert len(names["heads"]) == 3
    assert names["moved"] > 0
    assert names["looks_back"].sizes == {"layer": 3, "head": 4}
    assert set(names["both"]) <= set(names["heads"])
    assert set(headprobe.HeadSet.from_lens(names["heads"].to_lens())) == set(names["heads"])
