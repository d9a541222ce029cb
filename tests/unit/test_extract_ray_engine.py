"""What the Ray engine does when actors die, with a stand-in for Ray that lets them die when told to."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from equality import close
from tiny_models import make_model

from headprobe.extraction._engines import Reader
from headprobe.extraction._sources import Unit
from headprobe.extraction.extract import extract
from headprobe.video.decode import write_video

SMALL = {"segments": 8, "frames": 4, "batch_size": 3, "videos_per_unit": 1, "workers": 1, "progress": False}


class FakeRay:
    """Actors in this process; `dies(actor, units)` says whether one dies over the units that it holds."""

    class Died(Exception):
        pass

    class Failed(Exception):
        def __init__(self, cause: Exception) -> None:
            self.cause = cause

    def __init__(self, dies: Callable[[int, list[Unit]], bool], gpus: int = 0) -> None:
        self.exceptions = SimpleNamespace(RayActorError=self.Died, RayTaskError=self.Failed)
        self.dies, self.gpus = dies, gpus
        self.made: list[Any] = []
        self.options: list[dict[str, Any]] = []
        self.running = False

    def is_initialized(self) -> bool:
        return self.running

    def init(self, **options: Any) -> None:
        self.running = True

    def shutdown(self) -> None:
        self.running = False

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 8.0, **({"GPU": float(self.gpus)} if self.gpus else {})}

    def put(self, value: Any) -> Any:
        return value

    def kill(self, actor: Any) -> None:
        actor.close()

    def remote(self, **options: Any) -> Any:
        self.options.append(options)
        return lambda kind: SimpleNamespace(remote=lambda *arguments: self._actor(kind(*arguments)))

    def _actor(self, reader: Reader) -> Any:
        number = len(self.made)
        held: list[Unit] = []
        actor = SimpleNamespace(dead=False, n_steps=0)

        def call(work: Callable[[], Any]) -> Callable[[], Any]:
            def later() -> Any:
                if actor.dead:
                    raise self.Died
                try:
                    return work()
                except Exception as error:
                    raise error if isinstance(error, self.Died) else self.Failed(error) from error

            return later

        def step(units: list[Unit]) -> Any:
            held.extend(units)
            if self.dies(number, held):
                actor.close()
                raise self.Died
            found = reader.step(units)
            for result in found[0]:
                held[:] = [unit for unit in held if unit.number != getattr(result, "unit", None)]
            return found

        def close() -> None:
            actor.dead = True
            if reader._ahead is not None:
                reader._ahead.close()

        actor.close = close
        actor.describe = SimpleNamespace(remote=lambda: call(reader.describe))
        actor.step = SimpleNamespace(remote=lambda units: call(lambda: step(list(units))))
        self.made.append(actor)
        return actor

    def wait(self, references: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        return references[-1:], references[:-1]

    def get(self, reference: Any) -> Any:
        return reference()


@pytest.fixture(scope="module")
def model():
    return make_model("qwen2_vl")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("videos")
    for i in range(5):
        frames = np.random.default_rng(i).integers(0, 256, (40, 32, 48, 3), dtype=np.uint8)
        write_video(path / f"v{i}.mp4", frames, fps=10)
    (path / "v9.mp4").write_bytes(b"broken")
    return path


def run(folder: Path, model: Any, out: Path, fake: FakeRay, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Any:
    monkeypatch.setitem(sys.modules, "ray", fake)
    return extract(folder, model, ["what happens"], out, engine="ray", **{"actors": 2, **SMALL, **changes})


@pytest.fixture(scope="module")
def plain(model, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return extract(folder, model, ["what happens"], tmp_path_factory.mktemp("plain") / "z", **SMALL).store


@pytest.mark.parametrize("period", [0, 3, 4, 5, 7])
def test_each_clip_is_stored_once_however_often_actors_die(
    model, folder: Path, tmp_path: Path, plain, monkeypatch: pytest.MonkeyPatch, period: int
) -> None:
    steps = [0]

    def dies(actor: int, held: list[Unit]) -> bool:
        steps[0] += 1
        return bool(period) and steps[0] % period == 0

    fake = FakeRay(dies)
    done = run(folder, model, tmp_path / "z", fake, monkeypatch)
    assert (len(fake.made) > 2) == bool(period)
    assert done.n_new == 25
    ids = plain.examples["id"].tolist()
    assert sorted(done.store.examples["id"]) == sorted(ids)
    assert close(done.store.z(examples=ids), plain.z())
    assert [(item.name, item.id) for item in done.skipped] == [("v9", None)]
    assert not fake.running


def test_a_unit_that_kills_every_actor_is_given_up_and_the_others_are_not(
    model, folder: Path, tmp_path: Path, plain, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeRay(lambda actor, held: any(unit.number == 2 for unit in held))
    done = run(folder, model, tmp_path / "z", fake, monkeypatch)
    assert {item.name: item.reason for item in done.skipped} == {
        "v2": "3 actors died over it and the videos beside it",
        "v9": "this is a text file, not a video",
    }
    assert sorted(done.store.examples["id"]) == sorted(name for name in plain.examples["id"] if name[:2] != "v2")


def test_an_error_in_an_actor_ends_the_run_as_what_it_is(
    model, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raises(actor: int, held: list[Unit]) -> bool:
        raise RuntimeError("the card fell out")

    fake = FakeRay(raises)
    with pytest.raises(RuntimeError, match="the card fell out"):
        run(folder, model, tmp_path / "z", fake, monkeypatch)
    assert not fake.running
    assert all(actor.dead for actor in fake.made)


@pytest.mark.parametrize(("gpus", "actors", "n", "n_gpus"), [(0, None, 2, 0), (3, None, 3, 1), (3, 1, 1, 1)])
def test_an_actor_for_each_gpu_or_for_four_cores(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: int, actors: int | None, n: int, n_gpus: int
) -> None:
    from headprobe.extraction import _engines as ray_engine

    asked = []
    monkeypatch.setattr(ray_engine, "load", lambda name, **how: asked.append(how) or make_model("qwen2_vl"))
    fake = FakeRay(lambda actor, held: False, gpus)
    run(folder / "v0.mp4", "a/name", tmp_path / "z", fake, monkeypatch, actors=actors)
    assert len(fake.made) == n
    assert fake.options == [{"num_cpus": 1, "num_gpus": n_gpus}]
    assert asked[0] == ({"device": "cuda"} if n_gpus else {})
