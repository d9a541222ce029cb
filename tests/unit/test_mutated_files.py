"""Files of detectors, runs, heads and score maps with one value changed, or of another kind altogether.

Whatever a file holds, it is read or refused in one of headprobe's own errors, within a moment.
"""

from __future__ import annotations

import copy
import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import make_model

import headprobe
from headprobe._files import read_text
from headprobe.activations import HeadActivations, example_table
from headprobe.errors import HeadprobeError
from headprobe.examples import Example
from headprobe.headhunt._artefact import load_detector
from headprobe.headhunt._detect import read_events, read_run
from headprobe.headhunt.calibration import CalibrationSample
from headprobe.headhunt.published import published
from headprobe.heads import HeadSet
from headprobe.provenance import Provenance
from headprobe.scores import from_json, score_map, to_json
from headprobe.video.decode import write_video

VALUES: list[Any] = [None, True, -1, 0, 1.5, 1e308, 2**70, 10**299, "", "x\ud800", "<script>", "../../etc"]
VALUES += [[], {}, [1], {"a": 1}, [[[]]]]
TEXTS = [
    b"",
    b"\0" * 1000,
    b"[" * 200_000,
    b'{"a":' * 200_000,
    b'{"format": ' + b"9" * 5000 + b"}",
    bytes(range(256)) * 10,
    '{"a": 1}'.encode("utf-16"),
    b'{"format": 1, "format": 2}',
    b"[NaN]",
    b"[1e999]",
    b"null",
    b'"text"',
]


def places(value: Any, at: tuple = ()) -> Iterator[tuple]:
    """Where there is a value; of a list its first two entries."""
    yield at
    inside = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for key, one in inside:
        yield from places(one, (*at, key))


def changed(whole: Any, at: tuple, value: Any = None, delete: bool = False) -> Any:
    if not at:
        return value
    whole = copy.deepcopy(whole)
    part = whole
    for key in at[:-1]:
        part = part[key]
    if delete:
        del part[at[-1]]
    else:
        part[at[-1]] = value
    return whole


def attempt(path: Path, whole: Any, read: Callable[[], Any], seed: int, n: int | None = None) -> tuple[int, int]:
    """Read the file with changes, all of them or n drawn ones; counts of those read and refused."""
    tasks = [(at, value, False) for at in places(whole) for value in VALUES]
    tasks += [(at, None, True) for at in places(whole) if at]
    if n is not None:
        tasks = random.Random(seed).sample(tasks, min(n, len(tasks)))
    contents = [(at, value, json.dumps(changed(whole, at, value, delete)).encode()) for at, value, delete in tasks]
    contents += [((), "text", text) for text in TEXTS]
    good = refused = 0
    for at, value, content in contents:
        path.write_bytes(content)
        try:
            read()
            good += 1
        except HeadprobeError:
            refused += 1
        except Exception as error:
            pytest.fail(f"{path.name}, {at} = {value!r:.40}: {type(error).__name__}: {error}")
    return good, refused


def test_records_of_runs(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", np.zeros((20, 16, 16, 3), np.uint8), fps=10)
    score = {"score": 0.5, "smoothed": 0.5}
    spans = [
        {"start_frame": a, "end_frame": b, "start_seconds": a / 10, "end_seconds": b / 10}
        for a, b in ((0, 10), (10, 20))
    ]
    record = {
        "fps": 10.0,
        "constant_rate": True,
        "n_frames": 20,
        "segment_frames": 10,
        "segments": [span | score for span in spans],
        "events": [spans[0] | {"peak": 0.5}],
        "timeline": "a.png",
    }
    whole = {
        "detector": {"sigma": 1.0, "tau": 0.5, "release": 1.0, "min_seconds": 0.0},
        "run": Provenance("m", prompts={"a": "?"}).to_dict(),
        "interrupted": False,
        "asked": [str(video)],
        "videos": {str(video): record},
        "failed": {"x.mp4": "it is damaged"},
    }
    path = tmp_path / "events.json"

    def read() -> None:
        read_events(path)
        run = read_run(path)
        _ = run.locator, run.sentence()

    path.write_text(json.dumps(whole))
    read()
    assert read_events(path)[0][0].spans == ((0, 10), (10, 20))
    good, refused = attempt(path, whole, read, seed=1)
    assert good > 20
    assert refused > 200


@pytest.fixture
def detector(tmp_path: Path) -> Path:
    """Saved before there were digests, which would refuse every change."""
    return Path(shutil.copytree(Path(__file__).parents[1] / "written_by_d27f5b7" / "detector", tmp_path / "detector"))


@pytest.mark.parametrize(("name", "n"), [("detector.json", 400), ("scorer.json", None), ("maps.json", 100)])
def test_detectors(detector: Path, name: str, n: int | None) -> None:
    whole = json.loads((detector / name).read_text())

    def read() -> None:
        load_detector(detector).experts_.sentence()  # what a report says of it

    good, refused = attempt(detector / name, whole, read, seed=0, n=n)
    assert refused > 30, (good, refused)


def test_numbers_of_a_scorer(detector: Path) -> None:
    content = (detector / "scorer.safetensors").read_bytes()
    draw = np.random.default_rng(0)
    for _ in range(200):
        data = bytearray(content)
        for place in draw.integers(0, min(len(data), 400), 3):
            data[place] = draw.integers(0, 256)
        (detector / "scorer.safetensors").write_bytes(data[: draw.integers(1, len(data) + 1)])
        try:
            load_detector(detector)
        except HeadprobeError:
            continue


def test_heads_maps_and_samples(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    attempt(path, json.loads(HeadSet(["L0H1", "L1H0"]).to_json()), lambda: HeadSet.load(path), seed=2)
    attempt(path, json.loads(to_json(score_map([[0.5, 0.1]]))), lambda: from_json(read_text(path)), seed=3)
    listed = {"format": "headprobe.published/1", "heads": ["L0H1"], "n_layers": 2}
    attempt(path, listed, lambda: published(path), seed=4)
    attempt(path, {"format": 1, "videos": ["a"], "classes": {"a": "b"}}, lambda: CalibrationSample.load(path), seed=5)


def test_saved_activations(tmp_path: Path) -> None:
    table = example_table([Example("x", id="a", label=1), Example("y", id="b", label=0)])
    made = Provenance("m", prompts={"none": ""})
    acts = HeadActivations(torch.ones(1, 2, 2, 2), HeadSet(["L0H0", "L1H0"]), {"none": ""}, table, made)
    acts.save(tmp_path)
    whole = json.loads((tmp_path / "activations.json").read_text())

    def read() -> None:
        HeadActivations.load(tmp_path)._repr_html_()

    good, refused = attempt(tmp_path / "activations.json", whole, read, seed=6)
    assert good > 5
    assert refused > 100


@pytest.mark.parametrize("name", ["architectures", "num_hidden_layers", "hidden_size", "model_type", "layer_types"])
def test_configurations_of_checkpoints(tmp_path: Path, name: str) -> None:
    make_model("llama").module.save_pretrained(tmp_path)
    whole = json.loads((tmp_path / "config.json").read_text())
    for value in [value for value in VALUES if value != 10**299]:
        (tmp_path / "config.json").write_text(json.dumps(whole | {name: value}))
        try:
            headprobe.inspect_model(str(tmp_path))
        except HeadprobeError:
            continue
