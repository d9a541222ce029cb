"""Presets, their table in the documentation, and the prompts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from detectors import model

from headprobe.errors import InputError
from headprobe.headhunt.headhunt import HeadHunt
from headprobe.headhunt.presets import PRESETS, _metrics_by_name, lda_ridge, preset
from headprobe.headhunt.prompts import (
    DEFAULT_PROMPTS,
    DESCRIBE,
    EMBEDDED_DESCRIBE,
    EMBEDDED_PROMPTS,
    _chosen_prompts,
    _description_prompt,
    default_prompts,
)
from headprobe.metrics.gaussian import lda, lda_plain

DOCS = Path(__file__).parents[2] / "docs" / "concepts" / "presets.md"


@pytest.fixture(scope="module")
def tiny():
    return model()


def table() -> dict[str, tuple[str, str]]:
    """Setting to (paper, default), from the table whose first column is a setting in backticks."""
    rows = [
        [cell.strip() for cell in line.strip().strip("|").split("|")]
        for line in DOCS.read_text(encoding="utf-8").splitlines()
        if line.startswith("| `")
    ]
    return {row[0].strip("`"): (row[1].strip("`"), row[2].strip("`")) for row in rows}


def test_the_table_in_the_documentation_is_the_code() -> None:
    written = table()
    assert set(written) == set(PRESETS["paper"]) == set(PRESETS["default"])
    for name, (paper, default) in written.items():
        assert paper == repr(PRESETS["paper"][name]), name
        assert default == repr(PRESETS["default"][name]), name
        assert paper != default, f"{name} is the same in both: it does not belong into the table"


def test_default_is_what_a_bare_detector_has() -> None:
    assert HeadHunt.from_preset("default").get_params() == HeadHunt().get_params()
    paper = HeadHunt.from_preset("paper", k=4).get_params()
    assert {name: value for name, value in paper.items() if value != HeadHunt().get_params()[name]} == PRESETS[
        "paper"
    ] | {"k": 4}
    # What the paper states and both presets share.
    assert (HeadHunt().k, HeadHunt().instability_penalty) == (5, 0.5)
    assert (HeadHunt().segment_frames, HeadHunt().sample_frames) == (48, 16)
    with pytest.raises(InputError, match=r"there is no preset 'best': known are \['paper', 'default'\]"):
        preset("best")


def test_a_preset_is_a_copy() -> None:
    preset("paper")["calibrate"] = 3
    assert preset("paper")["calibrate"] is False


def data(n=200, d=4, seed=0):
    rng = np.random.default_rng(seed)
    y = torch.arange(n) % 2 == 1
    x = torch.tensor(rng.normal(size=(3, n, d)))
    x[1] += 0.5 * y[:, None]
    return x, y


def test_the_published_formula_with_enough_examples() -> None:
    x, y = data()
    torch.testing.assert_close(lda_ridge(x, y), lda_plain(x, y), rtol=1e-6, atol=0)
    by_hand = []
    for head in x.numpy():
        normal, abnormal = head[~y.numpy()], head[y.numpy()]
        scatter = sum(np.cov(part.T, bias=True) * len(part) for part in (normal, abnormal))
        apart = abnormal.mean(0) - normal.mean(0)
        by_hand.append(apart @ np.linalg.solve(scatter + 1e-6 * np.eye(4), apart))
    np.testing.assert_allclose(lda_ridge(x, y).numpy(), by_hand, rtol=1e-9)


def test_with_few_examples_the_published_formula_measures_scale_and_ours_does_not() -> None:
    """Fault 1 of the reference: a large head without signal beats a small one that separates the classes."""
    rng = np.random.default_rng(0)
    y = torch.arange(16) % 2 == 1
    noise = torch.tensor(rng.normal(size=(16, 32))) * 10
    signal = torch.tensor(rng.normal(size=(16, 32)))
    signal[:, 0] += 6 * y
    x = torch.stack([noise, 0.1 * signal])
    assert lda_ridge(x, y).argmax() == 0
    assert lda(x, y).argmax() == 1


def test_metrics_by_name() -> None:
    names = [getattr(metric, "name", metric) for metric in _metrics_by_name(("lda_ridge", "kl"))]
    assert names == ["lda_ridge", "kl"]
    with pytest.raises(InputError, match="metrics must be a sequence of names"):
        _metrics_by_name("lda")


def test_five_prompts_for_each() -> None:
    assert len(DEFAULT_PROMPTS) == len(EMBEDDED_PROMPTS) == 5
    assert len(set(DEFAULT_PROMPTS.values())) == 5
    assert DEFAULT_PROMPTS["coarse"] == "Identify any abnormal events or safety hazards in this video."


def test_prompts_are_chosen_by_what_the_model_can_read(tiny) -> None:
    assert default_prompts(tiny) == EMBEDDED_PROMPTS
    assert _description_prompt(tiny) == EMBEDDED_DESCRIBE
    assert _chosen_prompts(tiny, None) == EMBEDDED_PROMPTS
    assert _chosen_prompts(tiny, "is it dark ?") == {"p1": "is it dark ?"}
    with pytest.raises(InputError, match="tiny has no tokens for words of the prompt 'a'"):
        _chosen_prompts(tiny, {"b": "is it dark ?", "a": "Is anything odd?"})


class Tokenizer:
    """Words it has get the number 1, others the unknown one."""

    def __init__(self, words: set[str] | None) -> None:
        self.words = words
        self.unk_token_id = 0

    def __call__(self, text, add_special_tokens):
        known = [1 if self.words is None or word in self.words else 0 for word in text.split()]
        return {"input_ids": known}


def test_a_model_of_all_words_gets_the_paper_s_prompts(tiny) -> None:
    from types import SimpleNamespace

    able = SimpleNamespace(name="big", tokenizer=Tokenizer(None))
    assert default_prompts(able) == DEFAULT_PROMPTS  # type: ignore[arg-type]
    assert _description_prompt(able) == DESCRIBE  # type: ignore[arg-type]
    unable = SimpleNamespace(name="none", tokenizer=Tokenizer(set()))
    with pytest.raises(InputError, match="none has no tokens for words of the default prompts; give prompts="):
        default_prompts(unable)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="description prompt; give prompt="):
        _description_prompt(unable)  # type: ignore[arg-type]
