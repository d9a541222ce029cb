"""A head's output against its own attention: z_h = pattern_h v_h.

This is what tells the input of the output projection from its output, and heads from any other cut of the
features: no other reading gives the product of pattern and values.
"""

from __future__ import annotations

import pytest
import torch
from families import text, vision_tower
from tiny_models import contents, make_model

from headprobe import HeadTracer

VALUES = {
    "llama": "model.layers.{}.self_attn.v_proj",
    "qwen2": "model.layers.{}.self_attn.v_proj",
    "qwen2_vl": "model.language_model.layers.{}.self_attn.v_proj",
    "bert": "encoder.layer.{}.attention.self.value",
    "gpt2": "transformer.h.{}.attn.c_attn",
}


@pytest.mark.parametrize("family", VALUES)
def test_z_is_pattern_times_values(family):
    model = make_model(family)
    model.module.set_attn_implementation("eager")
    example = contents(family, 1)
    batch = model.adapter.prepare(example, "", model)
    values: dict[int, torch.Tensor] = {}

    def keep(layer):
        def hook(module, args, output):
            values[layer] = output.detach()[..., -32:] if family == "gpt2" else output.detach()

        return hook

    hooks = [
        model.module.get_submodule(VALUES[family].format(site.layer)).register_forward_hook(keep(site.layer))
        for site in model.sites
    ]
    with torch.no_grad():
        patterns = model.module(**batch.inputs, output_attentions=True).attentions
    for hook in hooks:
        hook.remove()
    acts = HeadTracer(model).capture(example, progress=False)
    assert acts.provenance.attention == "eager"
    for site in model.sites:
        v = values[site.layer][0].unflatten(-1, (site.n_kv_heads, site.head_dim))
        for head in range(site.n_heads):
            shared = head // (site.n_heads // site.n_kv_heads)
            pattern = patterns[site.layer][0, head, -1]
            assert pattern.sum().item() == pytest.approx(1, abs=1e-5)
            expected = pattern @ v[:, shared]
            assert torch.allclose(acts.z[0, 0, site.layer, head], expected, rtol=1e-5, atol=1e-5)
    projected = model.module.get_submodule(model.sites[0].path)(acts.z[0, 0, 0].flatten())
    assert not torch.allclose(projected.view(4, 8), acts.z[0, 0, 0], atol=1e-2)


SEPARATE = [family for family in (*text.FAMILIES, *vision_tower.FAMILIES) if family.name not in (*VALUES, "gpt_neox")]


@pytest.mark.parametrize("family", SEPARATE, ids=lambda family: family.name)
def test_z_is_pattern_times_values_wherever_values_have_a_projection_of_their_own(family):
    model = family.load()
    model.module.set_attn_implementation("eager")
    batch = model.adapter.prepare(family.contents(1), family.prompts[0], model)
    values: dict[int, torch.Tensor] = {}
    z: dict[int, torch.Tensor] = {}
    hooks = []
    for site in model.sites:
        path = site.path.rpartition(".")[0] + ".v_proj"
        source, projection = model.module.get_submodule(path), model.module.get_submodule(site.path)
        hooks += [
            source.register_forward_hook(lambda _, args, output, i=site.layer: values.__setitem__(i, output)),
            projection.register_forward_pre_hook(lambda _, args, i=site.layer: z.__setitem__(i, args[0])),
        ]
    with torch.no_grad():
        patterns = model.module(**batch.inputs, output_attentions=True).attentions
    for hook in hooks:
        hook.remove()
    for site in model.sites:
        v = values[site.layer][0].unflatten(-1, (site.n_kv_heads, site.head_dim))
        shared = torch.arange(site.n_heads) // (site.n_heads // site.n_kv_heads)
        expected = torch.einsum("hqk,khd->qhd", patterns[site.layer][0], v[:, shared])
        got = z[site.layer][0].unflatten(-1, (site.n_heads, site.head_dim))
        assert torch.allclose(got, expected, rtol=1e-5, atol=1e-5)
