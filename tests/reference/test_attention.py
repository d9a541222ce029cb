"""A head's output against its own attention: z_h = pattern_h v_h.

This is what tells the input of the output projection from its output, and heads from any other cut of the
features: no other reading gives the product of pattern and values.
"""

from __future__ import annotations

import pytest
import torch
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
