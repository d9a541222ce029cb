"""LayerHunt: one layer's hidden states, chosen by three figures, with the interface of HeadHunt."""

from __future__ import annotations

import inspect
import json

import numpy as np
import pytest
import torch
from detectors import layer_detector, model, video
from equality import close
from sklearn.base import clone

from headprobe.errors import ArtefactError, InputError
from headprobe.headhunt._artefact import load_detector
from headprobe.headhunt._detect import detect_video
from headprobe.headhunt.detector import Detector
from headprobe.headhunt.headhunt import HeadHunt
from headprobe.headhunt.layerhunt import COMBINED, LayerHunt, choose_layer
from headprobe.metrics.gaussian import kl
from headprobe.metrics.spectrum import entropy, ldr


@pytest.fixture(scope="module")
def tiny():
    return model()


@pytest.fixture(scope="module")
def detector(tiny):
    return layer_detector(tiny)


def material(planted=3, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(40) % 2
    hidden = rng.normal(size=(2, 40, 6, 5))
    hidden[:, :, planted, :2] += 3 * y[None, :, None]
    return hidden, y


def test_the_planted_layer_is_chosen_and_curves_are_the_metrics() -> None:
    hidden, y = material()
    found = choose_layer(hidden, y, prompts=["a", "b"])
    assert found.layer == 3
    assert found.curves.dims == ("metric", "layer")
    assert found.curves.metric.values.tolist() == ["kl", "ldr", "entropy", COMBINED]
    labels = torch.tensor(y == 1)
    for name, function in (("kl", kl), ("ldr", ldr), ("entropy", entropy)):
        by_prompt = [function(torch.tensor(hidden[p]).transpose(0, 1), labels).numpy() for p in range(2)]
        np.testing.assert_allclose(found.curves.sel(metric=name), np.mean(by_prompt, 0), rtol=1e-9)


def test_the_combination_is_the_documented_one() -> None:
    hidden, y = material(seed=2)
    found = choose_layer(hidden, y, instability_penalty=0.7)
    labels = torch.tensor(y == 1)
    scaled = []
    for p in range(2):
        rows = []
        for function in (kl, ldr, entropy):
            values = function(torch.tensor(hidden[p]).transpose(0, 1), labels).numpy()
            rows.append((values - values.min()) / (values.max() - values.min()))
        scaled.append(np.mean(rows, 0))
    expected = np.mean(scaled, 0) - 0.7 * np.std(scaled, 0)
    np.testing.assert_allclose(found.curves.sel(metric=COMBINED), expected, atol=1e-9)
    assert found.layer == int(expected.argmax())


def test_it_has_the_interface_of_head_hunt() -> None:
    public = {name for name in dir(Detector) if not name.startswith("_")}
    assert {"fit", "score", "detect", "stream", "save_pretrained", "from_pretrained", "fit_locator"} <= public
    for name in public:
        if callable(getattr(Detector, name)):
            assert getattr(HeadHunt, name).__doc__ == getattr(LayerHunt, name).__doc__
    shared = set(LayerHunt().get_params()) - set(HeadHunt().get_params())
    assert shared == set()
    own = LayerHunt(sigmas=(0.0,), scorer="svm")
    assert clone(own).get_params() == own.get_params()
    assert list(inspect.signature(LayerHunt.fit).parameters) == list(inspect.signature(HeadHunt.fit).parameters)


def test_it_detects_and_comes_back(tiny, detector, tmp_path) -> None:
    video(tmp_path / "a.mp4", 40)
    found = detect_video(detector, tiny, tmp_path / "a.mp4")
    assert len(found.scores) == 3
    again = LayerHunt.from_pretrained(detector.save_pretrained(tmp_path / "detector"))
    assert close(detect_video(again, tiny, tmp_path / "a.mp4").scores, found.scores)
    assert (again.layer_, again.fold_layers_) == (detector.layer_, detector.fold_layers_)
    assert close(again.curves_.values, detector.curves_.values)
    assert type(load_detector(tmp_path / "detector")) is LayerHunt
    with pytest.raises(ArtefactError, match="this is a LayerHunt, not a HeadHunt"):
        HeadHunt.from_pretrained(tmp_path / "detector")
    state = json.loads((tmp_path / "detector" / "detector.json").read_text())
    del state["digests"]
    (tmp_path / "detector" / "detector.json").write_text(json.dumps(state | {"layer": -1}))
    with pytest.raises(ArtefactError, match=r"layer is -1, which maps\.json does not have"):
        LayerHunt.from_pretrained(tmp_path / "detector")


def test_its_features_are_the_residual_stream_of_that_layer(tiny, detector) -> None:
    from detectors import clips

    shown = clips(4, seed=8)
    z = detector.read(tiny, shown, progress=False)
    caught = []
    block = tiny.module.get_submodule(f"model.language_model.layers.{detector.layer_}")
    handle = block.register_forward_hook(lambda _, __, out: caught.append(out[0] if isinstance(out, tuple) else out))
    try:
        detector.read(tiny, shown, progress=False)
    finally:
        handle.remove()
    np.testing.assert_allclose(z[:, 0], caught[0][:, -1].float().numpy(), atol=1e-5)


def test_the_curves_are_drawn_with_the_chosen_layer(detector) -> None:
    ax = detector.plot()
    assert [line.get_label() for line in ax.lines] == ["kl", "ldr", "entropy", COMBINED, f"layer {detector.layer_}"]
    for line in ax.lines[:4]:
        assert (min(line.get_ydata()), max(line.get_ydata())) == (0.0, 1.0)


def test_what_it_refuses() -> None:
    hidden, y = material()
    with pytest.raises(InputError, match="choosing a layer needs two or more, got 1"):
        choose_layer(hidden[:, :, :1], y)
    with pytest.raises(InputError, match="this LayerHunt is not fitted"):
        LayerHunt().plot()
