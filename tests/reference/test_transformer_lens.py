"""transformer-lens as a second witness of z."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import transformers
from equality import close, tolerance
from tiny_models import TEXTS, make_model, make_module, make_tokenizer

import headprobe
from headprobe import HeadSet, HeadTracer, positions
from headprobe.errors import UnsupportedModelError
from headprobe.trace import edits

hook_points = pytest.importorskip("transformer_lens.hook_points", reason="needs headprobe[lens]")
bridge_module = pytest.importorskip("transformer_lens.model_bridge", reason="needs headprobe[lens]")

ARCHITECTURES = {"gpt2": "GPT2LMHeadModel", "llama": "LlamaForCausalLM"}


@pytest.fixture(params=ARCHITECTURES)
def family(request) -> str:
    return request.param


@pytest.fixture
def bridge(family, tmp_path):
    make_tokenizer().save_pretrained(tmp_path)
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    module = make_module(family)
    module.config.architectures = [ARCHITECTURES[family]]
    return bridge_module.TransformerBridge.boot_transformers(
        ARCHITECTURES[family], hf_model=module, tokenizer=tokenizer, device="cpu"
    )


def test_a_bridge_loads_as_the_model_it_wraps(family, bridge):
    plain = make_model(family)
    bridge.train()  # as modules are made; dropout must not make it look like another model
    model = headprobe.load(bridge, tokenizer=plain.tokenizer)
    assert type(model.module) is type(plain.module)
    assert model.sites == plain.sites
    assert model.weights_hash == plain.weights_hash
    shared = {parameter.data_ptr() for parameter in bridge.original_model.parameters()}
    assert {parameter.data_ptr() for parameter in model.module.parameters()} <= shared  # no second copy in memory
    acts = HeadTracer(model).capture(TEXTS, progress=False)
    assert close(acts.z, HeadTracer(plain).capture(TEXTS, progress=False).z)
    # Without another tokenizer texts are read as the bridge reads them, which begins them with a token of its own.
    assert headprobe.load(bridge).tokenizer(TEXTS[0])["input_ids"] == bridge.to_tokens(TEXTS[0])[0].tolist()
    # The bridge stays one: its hooks still see every pass.
    _, cache = bridge.run_with_cache(torch.tensor([model.tokenizer(TEXTS[0])["input_ids"]]))
    assert "blocks.0.attn.hook_z" in cache


def test_heads_go_to_the_hooks_and_back(bridge):
    model = headprobe.load(bridge)
    heads = HeadSet(["L2H1", "L0H3", "L2H0"])
    assert HeadSet.from_lens(heads.to_lens()) == HeadSet(["L0H3", "L2H1", "L2H0"])
    ids = torch.tensor([model.tokenizer(TEXTS[0])["input_ids"]])
    _, cache = bridge.run_with_cache(ids)
    z = torch.stack([cache[name][0, -1].reshape(4, 8)[i] for name, found in heads.to_lens().items() for i in found])
    acts = HeadTracer(model).capture(TEXTS[:1], heads=HeadSet.from_lens(heads.to_lens()), progress=False)
    assert close(acts.values[0, 0], z)

    # What the hooks take out of the bridge, an edit takes out of the model.
    def zero(z, hook, heads):
        split = z.clone().reshape(*z.shape[:2], 4, 8)
        split[:, :, heads] = 0
        return split.reshape(z.shape)

    hooks = [(name, partial(zero, heads=found)) for name, found in heads.to_lens().items()]
    hooked = bridge.run_with_hooks(ids, fwd_hooks=hooks)
    with edits.zero(model, heads):
        edited = HeadTracer(model).capture(TEXTS[:1], answers=["yes", "no"], progress=False).answer_logits
    answers = [model.tokenizer.get_vocab()[answer] for answer in ("yes", "no")]
    assert close(edited[0, 0], hooked[0, -1, answers].detach(), of=hooked[0, -1].detach())


def test_other_modules_hooks_and_processed_weights_are_refused(family, bridge):
    own = hook_points.HookPoint()
    with pytest.raises(UnsupportedModelError, match="boot the model as a bridge"):
        headprobe.load(own)
    bridge.add_hook("blocks.1.attn.hook_out", lambda value, hook: 2 * value)
    with pytest.raises(UnsupportedModelError, match="gives other logits than the model it wraps"):
        headprobe.load(bridge)
    bridge.reset_hooks()
    headprobe.load(bridge)
    before = HeadTracer(headprobe.load(bridge)).capture(TEXTS, progress=False).z
    bridge.enable_compatibility_mode()
    if family == "gpt2":
        with pytest.raises(UnsupportedModelError, match="without enable_compatibility_mode"):
            headprobe.load(bridge)
    else:  # what is folded here leaves the outputs of heads as they are
        assert close(HeadTracer(headprobe.load(bridge)).capture(TEXTS, progress=False).z, before)


def test_z_equals_hook_z(family, bridge):
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
