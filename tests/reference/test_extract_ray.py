"""The Ray engine beside the local one, on a local cluster of two workers, with one of them killed in the middle."""

from __future__ import annotations

import itertools
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from equality import close
from tiny_models import make_model

from headprobe.errors import InputError
from headprobe.extraction import extract as extract_module
from headprobe.extraction._engines import RayEngine
from headprobe.extraction.extract import extract
from headprobe.store import verify
from headprobe.video.decode import write_video

ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'headprobe[ray]'")

PROMPTS = {"odd": "does anything odd", "what": "what happens"}
SMALL = {"segments": 8, "frames": 4, "batch_size": 3, "videos_per_unit": 2, "workers": 1, "progress": False}


@pytest.fixture(scope="module")
def cluster():
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture(autouse=True)
def one_thread():
    """As Ray gives its workers, because the order of additions depends on their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("videos")
    for i in range(12):
        frames = np.random.default_rng(i).integers(0, 256, (20 + i, 32, 48, 3), dtype=np.uint8)
        write_video(path / f"v{i:02d}.mp4", frames, fps=10)
    (path / "v99.mp4").write_bytes(b"broken")
    return path


def test_a_killed_worker_changes_nothing(
    cluster: None, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model("qwen2_vl")
    plain = extract(folder, model, PROMPTS, tmp_path / "local", **SMALL)

    workers: list[int] = []
    engines: list[RayEngine] = []
    count = itertools.count(1)
    results, add = RayEngine.results, extract_module.ShardWriter.add

    def noting(self, units):
        engines.append(self)
        calls = [slot.actor.__ray_call__.remote(lambda self: os.getpid()) for slot in self._slots]
        workers.extend(ray.get(calls))
        return results(self, units)

    def killing(self, acts):
        if next(count) == 5:
            os.kill(workers[0], signal.SIGKILL)
        return add(self, acts)

    monkeypatch.setattr(RayEngine, "results", noting)
    monkeypatch.setattr(extract_module.ShardWriter, "add", killing)
    done = extract(folder, model, PROMPTS, tmp_path / "ray", engine="ray", actors=2, **SMALL)

    assert len(set(workers)) == 2
    assert engines[0].n_lost == 1
    assert done.n_new == plain.n_new == len(done.store) == 43
    ids = plain.store.examples["id"].tolist()
    assert sorted(done.store.keys()) == sorted(plain.store.keys())
    ours, theirs = done.store.activations(examples=ids), plain.store.activations()
    assert close(ours.values, theirs.values)
    assert ours.examples.equals(theirs.examples)
    assert done.store.provenance == plain.store.provenance
    assert [(item.name, item.reason) for item in done.skipped] == [("v99", "this is a text file, not a video")]
    assert verify(tmp_path / "ray").ok
    again = extract(folder, model, PROMPTS, tmp_path / "ray", engine="ray", actors=1, resume=True, **SMALL)
    assert (again.n_new, again.n_there) == (0, 43)


def test_what_goes_wrong_in_an_actor_is_raised_here(cluster: None, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere"):
        extract(folder, "nowhere/at/all", PROMPTS, tmp_path / "z", engine="ray", actors=1, **SMALL)
    with pytest.raises(InputError, match="L9H9 not in"):
        extract(folder, "tiny", PROMPTS, tmp_path / "z", engine="ray", actors=1, heads=["L9H9"], **SMALL)
    with pytest.raises(InputError, match="actors is 0"):
        extract(folder, "tiny", PROMPTS, tmp_path / "z", engine="ray", actors=0, **SMALL)
    assert not (tmp_path / "z").exists()
