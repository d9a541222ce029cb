"""Captures against plain PyTorch forward pre-hooks: bit for bit in one pass, to rounding in another."""

from __future__ import annotations

import pytest
import torch
from equality import close, same_bits
from tiny_models import FAMILIES, by_head, contents, hooked, hooks, make_model

from headprobe import HeadTracer, positions

PROMPTS = {"text": ["{text} ?", "what happens : {text}"], "video": ["what happens ?", "yes"]}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_capture_equals_plain_hooks_bit_for_bit(family, dtype):
    model = make_model(family)
    model.module.to(dtype)
    prompts = PROMPTS[model.adapter.modality]
    for prompt in prompts:
        with hooks(model) as taken:
            acts = HeadTracer(model).capture(contents(family), prompt, batch_size=4, progress=False)
        batch = model.adapter.prepare(contents(family), prompt, model)
        lengths = batch.attention_mask.sum(1)
        seen, other = by_head(taken, model), by_head(hooked(model, batch), model)
        for layer, z in seen.items():
            for i in range(len(z)):
                end = -1 if model.adapter.padding_side == "left" else int(lengths[i]) - 1
                assert same_bits(acts.z[0, i, layer], z[i, end].float(), of="one pass"), (prompt, layer, i)
                assert close(acts.z[0, i, layer], other[layer][i, end].float(), dtype), (prompt, layer, i)
        assert sorted(seen) == list(acts.layers)


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_captured_together_equal_hooks_of_a_pass_each(family):
    model = make_model(family)
    prompts = PROMPTS[model.adapter.modality]
    acts = HeadTracer(model).capture(contents(family), prompts, progress=False)
    for p, prompt in enumerate(prompts):
        batch = model.adapter.prepare(contents(family), prompt, model)
        lengths = batch.attention_mask.sum(1)
        for layer, z in by_head(hooked(model, batch), model).items():
            for i in range(len(z)):
                end = -1 if model.adapter.padding_side == "left" else int(lengths[i]) - 1
                assert close(acts.z[p, i, layer], z[i, end]), (prompt, layer, i)


@pytest.mark.parametrize("family", FAMILIES)
def test_pooled_captures_equal_the_mean_of_hooked_values(family):
    model = make_model(family)
    acts = HeadTracer(model).capture(contents(family), positions=positions.all().mean(), progress=False)
    batch = model.adapter.prepare(contents(family), "", model)
    for layer, z in by_head(hooked(model, batch), model).items():
        for i, mask in enumerate(batch.attention_mask.bool()):
            mean = z[i][mask].double().mean(0).float()
            assert torch.allclose(acts.z[0, i, layer], mean, rtol=1e-5, atol=1e-5), (layer, i)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_capture_equals_hooks_after_an_early_stop(family):
    model = make_model(family)
    with hooks(model) as taken:
        acts = HeadTracer(model).capture(contents(family), heads=["L1H2", "L0H1"], batch_size=4, progress=False)
    assert [len(passes) for passes in taken.values()] == [1, 1, 0]
    batch = model.adapter.prepare(contents(family), "", model)
    z = [passes[0].unflatten(-1, (4, 8)) for passes in taken.values() if passes]
    for i, length in enumerate(batch.attention_mask.sum(1).tolist()):
        end = -1 if model.adapter.padding_side == "left" else length - 1
        assert same_bits(acts.values[0, i, 0], z[1][i, end, 2], of="one pass")
        assert same_bits(acts.values[0, i, 1], z[0][i, end, 1], of="one pass")
