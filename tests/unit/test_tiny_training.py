"""The training of the embedded model: facts, targets, the fast forward pass, and resuming to the same weights."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / "analyses" / "tiny_model"
if not FOLDER.is_dir():
    pytest.skip("the analyses folder is not part of this installation", allow_module_level=True)
sys.path.insert(0, str(FOLDER))

import network  # noqa: E402
import questions  # noqa: E402
import targets  # noqa: E402
import torch  # noqa: E402
import train  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from headprobe.headhunt.prompts import EMBEDDED_PROMPTS  # noqa: E402
from headprobe.video import scenes  # noqa: E402
from headprobe.video._scene_drawing import Scene  # noqa: E402

CONFIG = """
[model]
text_hidden = 32
text_layers = 2
text_heads = 2
text_intermediate = 48
vision_hidden = 32
vision_layers = 1
vision_heads = 2
vision_mlp_ratio = 2
patch = 8
merge = 2
temporal_patch = 2
[vision]
steps = 4
batch = 4
learning_rate = 1e-3
warmup = 2
occupied_weight = 9.0
rare_weight = 16.0
beta = 0.1
[language]
steps = 4
batch = 4
learning_rate = 1e-3
warmup = 2
questions_per_clip = 3
no_weight = 0.35
[joint]
steps = 2
batch = 4
learning_rate = 1e-3
vision_factor = 0.4
warmup = 2
questions_per_clip = 3
no_weight = 0.15
"""


def film(event: str | None, **more) -> scenes.Footage:
    options = {"interval": (-4.0, 20.0), "seed": 1, "density": 0.0} | more
    return scenes.film(Scene("plaza", 5), np.arange(8.0), event=event, **options)


@pytest.mark.parametrize(
    ("event", "kind", "what"),
    [
        ("running", "running", "running"),
        ("fall", "lying", "falling"),
        ("fight", "fight", "fighting"),
        ("vehicle", "vehicle", "driving"),
        ("bag", "bag", "leaving"),
    ],
)
def test_facts_of_each_event(event: str, kind: str, what: str) -> None:
    known = questions.facts(film(event))
    assert known[kind] == "yes"
    assert known["happens"] == what
    others = {"running", "lying", "fight", "vehicle", "bag"} - {kind}
    assert {known.get(k, "no") for k in others} == {"no"}


def test_an_empty_place_has_nobody_and_nothing_happens() -> None:
    known = questions.facts(film(None))
    assert (known["count"], known["happens"], known["place"], known["where_car"]) == (
        "zero",
        "nothing",
        "plaza",
        "nowhere",
    )
    assert "direction" not in known
    assert "shirt" not in known


def test_direction_is_that_of_the_pixels() -> None:
    checked = 0
    for seed in range(200):
        shot = film(None, density=0.6, seed=seed)
        direction = questions.facts(shot).get("direction")
        if direction is None:
            continue
        columns = np.arange(64)
        centre = [
            (columns * (frame >= 0).sum(0)).sum() / (frame >= 0).sum() for frame in shot.owner if (frame >= 0).any()
        ]
        inside = [c for c in centre if 12 < c < 52]
        if len(inside) >= 3 and len(shot.actors) == 1:
            assert (inside[-1] > inside[0]) == (direction == "right")
            checked += 1
    assert checked >= 5


def test_the_probing_prompts_are_not_trained_on_but_can_be_read() -> None:
    trained = {text for group in questions.TEMPLATES.values() for text in group}
    assert tuple(EMBEDDED_PROMPTS.values()) == questions.PROBING_PROMPTS
    assert not trained & set(questions.PROBING_PROMPTS)
    words = network.tokenizer()
    for text in (*trained, *questions.PROBING_PROMPTS):
        assert words.unk_token_id not in words(text)["input_ids"], text


def test_dense_targets_of_one_car() -> None:
    shot = film("vehicle")
    cells = targets.dense_targets(shot).reshape(4, 3, 4, 2, 2, 2, 11)  # slice, row, column, p, q, frame, channel
    occupancy = cells[..., 1].transpose(0, 5, 1, 3, 2, 4).reshape(8, 6, 8)
    expected = (shot.owner == 0).reshape(8, 6, 8, 8, 8).mean((2, 4))
    assert np.allclose(occupancy, expected, atol=1e-6)
    assert np.all(cells[..., 0] == 0)
    speed = np.abs(shot.actors[0].velocity[0, 0]) / 4
    assert cells[..., 5].max() == pytest.approx(speed, rel=1e-5)


def test_the_training_forward_pass_equals_the_library() -> None:
    import tomllib

    torch.manual_seed(0)
    model = network.Qwen2VLForConditionalGeneration(network.configuration(tomllib.loads(CONFIG)["model"])).eval()
    assert network.check_equal(model) < 1e-5


def test_a_killed_training_resumes_to_the_same_weights(tmp_path, monkeypatch) -> None:
    config = tmp_path / "config.toml"
    config.write_text(CONFIG)
    monkeypatch.setattr(train, "SAVE_EVERY", 2)
    threads = torch.get_num_threads()
    try:
        straight = train.train(3, tmp_path / "straight", config_file=config)
        step, calls = train.Trainer.step, []

        def killed(self, loss, number):
            calls.append(number)
            if len(calls) in (4, 10, 14):  # the last step of each stage
                raise KeyboardInterrupt
            return step(self, loss, number)

        monkeypatch.setattr(train.Trainer, "step", killed)
        for _ in range(3):
            with pytest.raises(KeyboardInterrupt):
                train.train(3, tmp_path / "killed", config_file=config)
        resumed = train.train(3, tmp_path / "killed", config_file=config)
        assert calls == [0, 1, 2, 3, 2, 3, 0, 1, 2, 3, 2, 3, 0, 1, 0, 1]
    finally:
        torch.set_num_threads(threads)
    config.write_text(CONFIG.replace("beta = 0.1", "beta = 0.2"))
    with pytest.raises(SystemExit, match=r"vision.pt was made with other settings"):
        train.train(3, tmp_path / "killed", config_file=config)
    a, b = load_file(straight / "model.safetensors"), load_file(resumed / "model.safetensors")
    assert set(a) == set(b)
    # Adam turns the rounding of a gradient that is zero into whole steps; without the optimiser's state all differ so.
    apart = torch.cat([(a[name] - b[name]).double().abs().flatten() for name in a])
    assert apart.mean() < 0.02 * 1e-3, "of the learning rate"
