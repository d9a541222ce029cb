"""The same code on one GPU, spread by accelerate and in 8 bit: what the CPU gives, to the rounding of the type."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from families import families

import headprobe
from headprobe import HeadTracer, positions
from headprobe.trace import edits

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.filterwarnings("ignore:.*uses the times of the frames:headprobe.errors.HeadprobeWarning"),
]
FAMILIES = families()
each = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)


def parts(acts):
    return [part.values for part in acts.by_size().values()]


def checkpoint(family, folder):
    import json

    model = family.load()
    model.module.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    if family.processor_config is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(family.processor_config))
    return model


def error(a, b) -> float:
    return max(float((x - y).norm() / y.norm()) for x, y in zip(parts(a), parts(b), strict=True))


@each
def test_one_gpu_gives_what_the_cpu_gives(family):
    prompts = family.asked(3)
    contents = family.contents(3)
    expected = HeadTracer(family.load()).capture(contents, prompts, progress=False)
    acts = HeadTracer(family.load(device="cuda")).capture(contents, prompts, progress=False)
    assert error(acts, expected) < 1e-3


@each
def test_accelerate_may_spread_a_checkpoint(family, tmp_path):
    model = checkpoint(family, tmp_path)
    contents, prompts = family.contents(2), family.asked(3)
    expected = HeadTracer(model).capture(contents, prompts, progress=False)
    spread = headprobe.load(tmp_path, device_map="auto")
    assert spread.device.type == "cuda"
    assert error(HeadTracer(spread).capture(contents, prompts, progress=False), expected) < 1e-3


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
@pytest.mark.filterwarnings("ignore:.*output projections are quantised:headprobe.errors.HeadprobeWarning")
@pytest.mark.parametrize("name", ["llama", "qwen2_vl", "internvl"])
def test_eight_bit_weights_stay_near_the_exact_ones(name, tmp_path):
    from transformers import BitsAndBytesConfig

    family = next(family for family in FAMILIES if family.name == name)
    model = checkpoint(family, tmp_path)
    contents, prompts = family.contents(2), list(family.prompts[:1])
    expected = HeadTracer(model).capture(contents, prompts, progress=False)
    quantised = headprobe.load(tmp_path, device_map="auto", quantization_config=BitsAndBytesConfig(load_in_8bit=True))
    assert error(HeadTracer(quantised).capture(contents, prompts, progress=False), expected) < 0.2


def test_edits_and_pooled_positions_work_on_the_gpu():
    family = next(family for family in FAMILIES if family.name == "qwen2_vl")
    contents, prompts, where = family.contents(3), list(family.prompts), positions.all().mean()
    taken = []
    for device in ("cpu", "cuda"):
        model = family.load(device=device)
        with edits.zero(model, ["L0H1", "L1H2"]):
            taken.append(HeadTracer(model).capture(contents, prompts, positions=where, progress=False))
    assert error(taken[1], taken[0]) < 1e-3
