"""transformer-lens as a second witness of z."""

from __future__ import annotations

import pytest
import torch
import transformers
from equality import tolerance
from tiny_models import TEXTS, make_model, make_module, make_tokenizer

from headprobe import HeadTracer, positions

bridge_module = pytest.importorskip("transformer_lens.model_bridge", reason="needs headprobe[lens]")

ARCHITECTURES = {"gpt2": "GPT2LMHeadModel", "llama": "LlamaForCausalLM"}


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_z_equals_hook_z(family, tmp_path):
    make_tokenizer().save_pretrained(tmp_path)
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    module = make_module(family)
    module.config.architectures = [ARCHITECTURES[family]]
    bridge = bridge_module.TransformerBridge.boot_transformers(
        ARCHITECTURES[family], hf_model=module, tokenizer=tokenizer, device="cpu"
    )
    model = make_model(family)  # the same seed, so the same weights, in a module of its own
    tracer = HeadTracer(model)
    for text in TEXTS:
        ids = torch.tensor([model.tokenizer(text)["input_ids"]])
        _, cache = bridge.run_with_cache(ids)
        for position, column in ((positions.last(), -1), (positions.first(), 0)):
            acts = tracer.capture([text], positions=position, progress=False)
            for layer in acts.layers:
                witness = cache[f"blocks.{layer}.attn.hook_z"][0, column].reshape(4, 8)
                z = acts.z[0, 0, layer]
                assert (z - witness).abs().max() < tolerance(torch.float32) * max(1.0, float(witness.abs().max())), (
                    text,
                    layer,
                )
