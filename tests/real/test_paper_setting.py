"""analyses/paper_setting from end to end: the real excerpts under names of the data sets, a tiny random InternVL."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from equality import close
from families.internvl import FAMILIES

from headprobe.activations import HeadActivations, example_table
from headprobe.errors import InputError
from headprobe.evaluation import evaluate, read_scores
from headprobe.examples import Example
from headprobe.heads import HeadSet
from headprobe.provenance import Provenance
from headprobe.video.decode import probe

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("HEADPROBE_DATA", ROOT.parent / "shared" / "data"))
CRASH, BLAST = "RoadAccidents133_x264_270_451", "v=JfLYNEsrTew__#1_label_G-0-0_52_431"
CALM = "A.Beautiful.Mind.2001__#01-14-30_01-16-59_label_A_1845_2101"
FRAMES = {CRASH: 181, BLAST: 379, CALM: 256}
pytestmark = pytest.mark.skipif(not (DATA / "clips").is_dir(), reason=f"no excerpts in {DATA}")


@pytest.fixture(scope="module")
def setting():
    spec = importlib.util.spec_from_file_location("paper_setting_run", ROOT / "analyses" / "paper_setting" / "run.py")
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture(scope="module")
def config(setting):
    import tomllib

    full = tomllib.loads((setting.HERE / "config.toml").read_text(encoding="utf-8"))
    prompts = {name: full["prompts"][name] for name in ("describe", "coarse")}
    return full | {
        "prompts": prompts,
        "k": 2,
        "fraction": 1.0,
        "sample_frames": 4,
        "resamples": 20,
        "segment_frames": 96,
    }


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return FAMILIES[0].load()


def copy(folder: Path, named: dict[str, str]) -> None:
    for name, excerpt in named.items():
        shutil.copyfile(DATA / "clips" / f"{excerpt}.mp4", folder / f"{name}.mp4")


def ucf(folder: Path) -> Path:
    # Street footage fills up the training videos: the metrics need three different clips of each label.
    train = {"Arson001_x264": BLAST, "Abuse002_x264": CRASH, "Abuse003_x264": "../ped2/test_04"}
    others = (CALM, "../ped2/train_01", "../ped2/train_09")
    train |= {f"Normal_Videos00{i}_x264": excerpt for i, excerpt in enumerate(others)}
    test = {"RoadAccidents133_x264": CRASH, "Explosion008_x264": BLAST, "Normal_Videos_003_x264": CALM}
    copy(folder, train | test)
    place = {"Normal": "Training_Normal_Videos_Anomaly"}
    listed = [f"{place.get(n[:6], n.split('0')[0])}/{n}.mp4" for n in train]
    (folder / "Anomaly_Train.txt").write_text("\n".join(listed) + "\n")
    events = ["RoadAccidents133_x264.mp4 RoadAccidents 20 120 -1 -1", "Explosion008_x264.mp4 Explosion 5 100 200 300"]
    (folder / "Temporal_Anomaly_Annotation.txt").write_text(
        "\n".join([*events, "Normal_Videos_003_x264.mp4 Normal -1 -1 -1 -1"])
    )
    counts = [f"{name} 0 {FRAMES[excerpt] - 1} 0" for name, excerpt in test.items()]
    (folder / "ucf_crime_frame_counts.txt").write_text("\n".join(counts) + "\n")
    return folder


def test_ucf_crime_runs_resumes_and_gives_what_its_score_file_gives(setting, config, model, tmp_path):
    videos, out = tmp_path / "videos", tmp_path / "out"
    videos.mkdir()
    ucf(videos)
    arguments = ("ucf-crime", videos, videos, out, model, config)
    first = setting.run(*arguments, all_heads=False, whole=False)
    assert first["smoothed"]["n_frames"] == sum(FRAMES.values())
    assert first["smoothed"]["n_abnormal_frames"] == 101 + 96 + 101
    assert len(first["heads"]) == 2
    trained = [path for path in videos.glob("*.mp4") if path.stem in first["calibration"]["sample"]["classes"]]
    assert len(trained) == 6
    assert first["calibration"]["clips"] == sum(-(-probe(path).n_frames // 96) for path in trained)
    rivals = first["controls_of_the_hunt"]
    assert [len(each) for each in rivals.values()] == [config["random_sets"], 1]
    assert {len(one["heads"]) for each in rivals.values() for one in each} == {2}
    assert {one["n_frames"] for each in rivals.values() for one in each} == {sum(FRAMES.values())}
    stores = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    again = setting.run(*arguments, all_heads=False, whole=False)
    assert close(again, first)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")} == stores
    test, _, _ = setting.located("ucf-crime", videos, videos)
    kept = read_scores(out / "scores.json", {name: len(y) for name, y in test.truth().items()})
    assert evaluate(kept, test.truth())["auc"] == pytest.approx(
        json.loads((out / "results.json").read_text())["unsmoothed"]["auc"]
    )
    whole = setting.run(*arguments, all_heads=True, whole=True)
    assert whole["calibration"]["clips"] == 6


def test_controls_of_the_hunt_know_nothing_of_the_labels(setting, config):
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(20) % 2, 4)
    z = rng.normal(size=(1, 80, 6, 4))
    z[0, :, 4] += 4 * y[:, None]
    listed = [Example("x", id=str(i), label=int(y[i]), group=f"v{i // 4}") for i in range(80)]
    heads = HeadSet([(layer, head) for layer in range(2) for head in range(3)])
    acts = HeadActivations(
        torch.tensor(z, dtype=torch.float32), heads, {"p": "?"}, example_table(listed), Provenance(model="m")
    )
    found, not_possible = setting.controls(acts, y, config | {"k": 1, "random_sets": 4})
    assert [len(each) for each in found.values()] == [4, 1]
    assert not_possible == {}
    assert len({chosen.labels for chosen, _ in found["random heads"]}) > 1
    shuffled = setting.dealt(y, acts.groups, config["seed"])
    assert shuffled.sum() == y.sum()
    assert (shuffled != y).any()
    assert all(len(set(shuffled[acts.groups == video].tolist())) == 1 for video in set(acts.groups.tolist()))
    flat = HeadActivations(torch.ones(1, 8, 6, 4), heads, {"p": "?"}, acts.examples.iloc[:8], Provenance(model="m"))
    found, not_possible = setting.controls(flat, y[:8], config | {"k": 1})
    assert list(found) == ["random heads"]
    assert list(not_possible) == ["shuffled labels"]


def test_xd_violence_finds_its_training_videos_by_the_codes_in_their_names(setting, config, model, tmp_path):
    train = {
        "v=a__#1_label_G-0-0": BLAST,
        "v=b.c__#2_label_B6-0-0": CRASH,
        "Film__#1_label_A": CALM,
        "Film__#2_label_A": CRASH,
    }
    test = {"v=JfLYNEsrTew__#1_label_G-0-0": BLAST, "A.Beautiful.Mind.2001__#01-14-30_01-16-59_label_A": CALM}
    copy(tmp_path, train | test)
    (tmp_path / "annotations.txt").write_text("v=JfLYNEsrTew__#1_label_G-0-0 10 90 150 200\n")
    counts = [f"{name} 0 {FRAMES[excerpt] - 1} 0" for name, excerpt in test.items()]
    (tmp_path / "xd_violence_frame_counts.txt").write_text("\n".join(counts) + "\n")
    arguments = ("xd-violence", tmp_path, tmp_path, tmp_path / "out", model, config)
    found = setting.run(*arguments, all_heads=False, whole=False)
    assert found["calibration"]["sample"]["classes"] == {
        "Film__#1_label_A": "Normal",
        "Film__#2_label_A": "Normal",
        "v=a__#1_label_G-0-0": "Explosion",
        "v=b.c__#2_label_B6-0-0": "CarAccident",
    }
    assert found["smoothed"]["n_videos"] == 2
    (tmp_path / "Film__#2_label_A.mp4").unlink()
    with pytest.raises(InputError, match="was drawn from 4 videos"):
        setting.run(*arguments, all_heads=False, whole=False)


def test_the_estimate_counts_the_official_test_set(setting):
    import tomllib

    full = tomllib.loads((setting.HERE / "config.toml").read_text(encoding="utf-8"))
    test = setting.load_dataset("ucf-crime", DATA / "ground_truth").split("test")
    slow, fast = (setting.estimate("ucf-crime", test, full, tflops, False) for tflops in (60, 300))
    assert slow["test_segments"] == sum(-(-(video.n_frames or 0) // 48) for video in test.videos)
    assert slow["calibration_videos"] == 16
    assert slow["gpu_hours"] == pytest.approx(5 * fast["gpu_hours"])
    assert setting.estimate("ucf-crime", test, full, 60, True)["disk_gb"] > 2 * slow["disk_gb"] - 1e-9
