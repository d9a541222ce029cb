"""One's own task from a table: what is read, what is found, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from equality import close
from tiny_models import make_model
from typer.testing import CliRunner

import headprobe
from headprobe.cli.app import app
from headprobe.errors import InputError
from headprobe.probing.task import probe_task, read_task

ROWS = [
    (f"the {who} {does} on the {place}", "calm" if does in ("walks", "stops") else "loud", who)
    for who in ("man", "woman", "dog", "car")
    for does in ("walks", "stops", "runs", "falls")
    for place in ("road", "park")
]


def table(folder: Path, rows=ROWS, columns=("text", "label", "group"), name: str = "task.csv") -> Path:
    path = folder / name
    path.write_text("\n".join([",".join(columns), *(",".join(map(str, row)) for row in rows)]) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    model = make_model("llama")
    model.module.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return folder


def run(*arguments: object):
    return CliRunner().invoke(app, ["probe", *map(str, arguments)])


def test_texts_of_two_classes_to_a_report(checkpoint, tmp_path) -> None:
    out = tmp_path / "out"
    done = run(table(tmp_path), "--model", checkpoint, "--out", out, "--k", 2, "--splits", 4, "--permutations", 19)
    assert done.exit_code == 0, done.output
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    names = [row["name"] for row in results["controls"]]
    assert names[0] == "chosen heads"
    assert {"random heads", "random heads of the same layers", "all heads"} < set(names)
    heads = headprobe.HeadSet.load(out / "heads.json")
    assert [row["head"] for row in results["heads"] if not row["tied"]] == list(heads.labels)
    assert f"the first are {', '.join(heads.labels)}" in " ".join(done.output.split())
    assert results["data"]["labels"] == "calm (16), loud (16)"
    # The numbers are those of the parts, put together by hand.
    model = headprobe.load(checkpoint)
    examples, labels = read_task(table(tmp_path))
    acts = headprobe.HeadTracer(model).capture(examples, progress=False)
    y = np.array([labels[name] == "loud" for name in acts.examples["id"]]).astype(int)
    own = headprobe.saliency(acts, y, ["auroc"], acts.groups).isel(metric=0, prompt=0)
    assert close([row["score"] for row in results["heads"]][:2], np.sort(own.values.ravel())[::-1][:2].tolist())
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Which heads tell calm (16), loud (16) apart?" in page
    assert not [word for word in ("anomal", "abnormal", "detect") if word in page.lower() + done.output]


def test_three_classes_and_a_never_trained_copy(checkpoint, tmp_path) -> None:
    rows = [
        (text, {"walks": "go", "runs": "go", "stops": "stop", "falls": "fall"}[text.split()[2]], who)
        for text, _, who in ROWS
    ]
    done = run(
        table(tmp_path, rows),
        "--model",
        checkpoint,
        "--out",
        tmp_path,
        "--k",
        1,
        "--splits",
        2,
        "--permutations",
        19,
        "--untrained",
    )
    assert done.exit_code == 0, done.output
    assert "balanced accuracy" in done.output
    assert "everything again, never-trained copy" in done.output


def test_clips_are_read_from_the_folder_of_the_table(tmp_path) -> None:
    from headprobe.video.decode import write_video

    rng = np.random.default_rng(0)
    rows = []
    for i in range(12):
        noise = rng.integers(0, 20, (20, 48, 64, 3), np.uint8)
        frames = noise + np.uint8(40 if i % 2 else 200)
        write_video(tmp_path / f"{i}.mp4", frames, fps=10)
        rows.append((f"{i}.mp4", "dark" if i % 2 else "bright"))
    path = table(tmp_path, rows, ("path", "label"))
    settings = ["--model", "tiny", "--out", tmp_path / "out", "--k", 2, "--splits", 3]
    settings += ["--permutations", 19, "--frames", 4]
    done = run(path, *settings, "--prompt", "what happens here ?")
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "out" / "results.json").read_text())["controls"][0]["score"] > 0.9
    (tmp_path / "3.mp4").write_bytes(b"no video")
    done = run(path, *settings, "--prompt", "what happens here ?")
    assert done.exit_code == 1
    assert "SKIPPED 3: " in done.output
    (tmp_path / "3.mp4").unlink()
    done = run(path, *settings)
    assert (done.exit_code, "line 5: there is no file" in " ".join(done.output.split())) == (2, True)


@pytest.mark.parametrize(
    ("columns", "rows", "said"),
    [
        (("text",), [("a",)], "it needs 'label' and 'text' or 'path'"),
        (("text", "path", "label"), [("a", "b", 0)], "it needs 'label' and 'text' or 'path'"),
        (("text", "label"), [("a man", "")], "line 2: label is empty"),
        (("text", "label", "id"), [("a", 0, "x"), ("b", 1, "x")], "the id 'x' is there twice"),
        (("text", "label", "group"), [("a", 0, "x"), ("b", 1, "")], "some rows have a group and some have none"),
    ],
)
def test_tables_that_cannot_be_used(columns, rows, said, tmp_path) -> None:
    with pytest.raises(InputError, match=said):
        read_task(table(tmp_path, rows, columns))


def test_nothing_is_loaded_or_made_for_a_wrong_table(tmp_path) -> None:
    done = run(tmp_path / "none.csv", "--model", "tiny", "--out", tmp_path / "out")
    assert (done.exit_code, "none.csv" in done.output, "Errno" in done.output) == (2, True, False)
    done = run(table(tmp_path, [("a", 0), ("b", 0)], ("text", "label")), "--model", "tiny", "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert "model tiny" not in done.output
    assert not (tmp_path / "out").exists()


def test_whole_numbers_are_labels_as_they_are_and_few_groups_are_named(tmp_path) -> None:
    path = tmp_path / "task.jsonl"
    path.write_text('{"text": "a man", "label": 10}\n{"text": "a dog", "label": 9}\n', encoding="utf-8")
    examples, labels = read_task(path)
    assert list(labels.values()) == [10, 9]
    acts = headprobe.HeadTracer(make_model("llama")).capture(examples, progress=False)
    with pytest.raises(InputError, match="The class 9 has 1 examples, too few for 5 parts"):
        probe_task(acts, [labels[name] for name in acts.examples["id"]], k=1, progress=False)
    with pytest.raises(InputError, match="The labels have one class"):
        probe_task(acts, ["a", "a"], k=1, progress=False)
    with pytest.raises(InputError, match="k is 99; it must be an integer from 1 to 12"):
        probe_task(acts, ["a", "b"], k=99, progress=False)


def test_numbers_on_a_scale(checkpoint, tmp_path) -> None:
    from headprobe.activations import example_table
    from headprobe.provenance import Provenance

    rng = np.random.default_rng(0)
    y = rng.normal(size=60)
    z = torch.from_numpy(rng.normal(size=(1, 60, 6, 4)).astype(np.float32))
    z[0, :, 4, 0] += torch.from_numpy(3 * y).float()
    heads = headprobe.HeadSet([(layer, head) for layer in range(2) for head in range(3)])
    table_of = example_table([headprobe.Example("x", id=str(i)) for i in range(60)])
    acts = headprobe.HeadActivations(z, heads, {"none": ""}, table_of, Provenance("made"))
    done = probe_task(acts, y, k=1, n_permutations=39, n_draws=2, progress=False)
    assert done.heads.labels == ("L1H1",)
    score = done.controls.set_index("name")["score"]
    assert score["chosen heads"] > 0.8
    assert score["random heads"] < 0.3
    assert score["everything again, labels shuffled"] < 0.2
    assert done.significance.p_values.sel(layer=1, head=1) < 0.05
    rows = [(text, i / 10) for i, (text, _, _) in enumerate(ROWS)]
    out = tmp_path / "out"
    settings = ["--model", checkpoint, "--out", out, "--k", 1, "--splits", 3, "--permutations", 19]
    done = run(table(tmp_path, rows, ("text", "label")), *settings)
    assert done.exit_code == 0, done.output
    assert json.loads((out / "results.json").read_text())["scoring"] == "R2"
    assert "Which heads carry the number (0 to 3.1" in (out / "report.html").read_text(encoding="utf-8")
    path = table(tmp_path, [("a", "one"), ("b", "two")], ("text", "label"))
    with pytest.raises(InputError, match="the label 'one' is no number; give numbers, or leave --numbers out"):
        read_task(path, numbers=True)
    assert list(read_task(table(tmp_path, [("a", 1), ("b", 2)], ("text", "label")), numbers=True)[1].values()) == [
        1.0,
        2.0,
    ]


def test_labels_that_look_like_numbers_and_times_of_clips(tmp_path) -> None:
    from headprobe.video.decode import write_video

    write_video(tmp_path / "a.mp4", np.zeros((20, 48, 64, 3), np.uint8), fps=10)
    examples, labels = read_task(table(tmp_path, [("a.mp4", "--1"), ("a.mp4", "2")], ("path", "label")), frames=4)
    assert list(labels.values()) == ["--1", "2"]
    assert close(examples[0].content.seconds, np.array([0.2, 0.7, 1.2, 1.7]))
