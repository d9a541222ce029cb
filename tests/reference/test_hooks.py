"""Captures against plain PyTorch forward pre-hooks, bit for bit."""

from __future__ import annotations

import pytest
import torch
from tiny_models import FAMILIES, contents, make_model

from headprobe import HeadTracer, positions
from headprobe.models.adapter import ModelInputs

PROMPTS = {"text": ["{text} ?", "what happens : {text}"], "video": ["what happens ?", "yes"]}


def hooked(model, batch: ModelInputs) -> dict[int, torch.Tensor]:
    """Inputs of the output projections, taken without headprobe's tracer, [batch, token, head, d_head]."""
    taken: dict[int, torch.Tensor] = {}

    def keep(layer, site):
        def hook(module, args):
            taken[layer] = args[0].detach().clone().unflatten(-1, (site.n_heads, site.head_dim))

        return hook

    hooks = [
        model.module.get_submodule(site.path).register_forward_pre_hook(keep(site.layer, site)) for site in model.sites
    ]
    with torch.no_grad():
        model.module(**batch.inputs)
    for hook in hooks:
        hook.remove()
    return taken


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_capture_equals_plain_hooks_bit_for_bit(family, dtype):
    model = make_model(family)
    model.module.to(dtype)
    prompts = PROMPTS[model.adapter.modality]
    acts = HeadTracer(model).capture(contents(family), prompts, progress=False)
    for p, prompt in enumerate(prompts):
        batch = model.adapter.prepare(contents(family), prompt, model)
        reference = hooked(model, batch)
        lengths = batch.attention_mask.sum(1)
        for layer, z in reference.items():
            for i in range(len(z)):
                end = -1 if model.adapter.padding_side == "left" else int(lengths[i]) - 1
                assert torch.equal(acts.z[p, i, layer], z[i, end].float()), (prompt, layer, i)
        assert sorted(reference) == list(acts.layers)


@pytest.mark.parametrize("family", FAMILIES)
def test_pooled_captures_equal_the_mean_of_hooked_values(family):
    model = make_model(family)
    acts = HeadTracer(model).capture(contents(family), positions=positions.all().mean(), progress=False)
    batch = model.adapter.prepare(contents(family), "", model)
    for layer, z in hooked(model, batch).items():
        for i, mask in enumerate(batch.attention_mask.bool()):
            mean = z[i][mask].double().mean(0).float()
            assert torch.allclose(acts.z[0, i, layer], mean, rtol=1e-5, atol=1e-5), (layer, i)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_capture_equals_hooks_after_an_early_stop(family):
    model = make_model(family)
    acts = HeadTracer(model).capture(contents(family), heads=["L1H2", "L0H1"], progress=False)
    batch = model.adapter.prepare(contents(family), "", model)
    reference = hooked(model, batch)
    for i, length in enumerate(batch.attention_mask.sum(1).tolist()):
        end = -1 if model.adapter.padding_side == "left" else length - 1
        assert torch.equal(acts.values[0, i, 0], reference[1][i, end, 2])
        assert torch.equal(acts.values[0, i, 1], reference[0][i, end, 1])
