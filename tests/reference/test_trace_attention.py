"""Attention patterns against the weights that transformers returns, and against what the heads put out."""

from __future__ import annotations

import pytest
import torch
from equality import close, same
from families import families
from tiny_models import FAMILIES, contents, make_model, make_module
from torch.multiprocessing.reductions import StorageWeakRef

from headprobe import HeadTracer, positions
from headprobe.errors import UnsupportedModelError
from headprobe.trace.attention import attention
from headprobe.trace.edits import zero

# Frames without times make some families assume a rate and say so.
pytestmark = pytest.mark.filterwarnings("ignore:.*uses the times of the frames:headprobe.errors.HeadprobeWarning")
PROMPTS = {"text": "what happens : {text}", "video": "what happens ?"}


def language_eager(module):
    """The module with the eager implementation in its language stack alone."""
    nested = "text_config" in type(module.config).sub_configs
    module.set_attn_implementation({"text_config": "eager"} if nested else "eager")
    return module


def returned(family, inputs) -> torch.Tensor:
    """Weights that a module of the same seed returns when asked for all, [batch, layer, head, query, token]."""
    module = language_eager(make_module(family))
    with torch.no_grad():
        return torch.stack(module(**inputs, output_attentions=True).attentions, 1)


# Longformer attends in windows, and the modules of XLM return no weights: what they would be is refused, not made up.
WITHOUT_WEIGHTS = ("flaubert", "longformer", "xlm")


@pytest.mark.parametrize("name", WITHOUT_WEIGHTS)
def test_weights_that_a_model_does_not_return_are_refused(name):
    (family,) = (one for one in families() if one.name == name)
    with pytest.raises(UnsupportedModelError, match="its weights cannot be read"):
        attention(family.load(), family.contents(2), prompts=family.prompts[0] or None, progress=False)


@pytest.mark.parametrize(
    "family", [one for one in families() if one.name not in WITHOUT_WEIGHTS], ids=lambda family: family.name
)
def test_patterns_of_every_family_equal_the_weights_that_the_model_returns(family):
    model, examples = family.load(), family.contents(2)
    found = attention(model, examples, prompts=family.prompts[0] or None, progress=False)
    batch = model.adapter.prepare(examples, family.prompts[0], model)
    options = {"use_cache": False} if "use_cache" in model.accepts else {}
    with torch.no_grad():
        weights = language_eager(family.load().module)(**batch.inputs, output_attentions=True, **options).attentions
    by_layer = [layer for layer in weights if layer is not None]
    sites = [site for site in model.sites if site.kind == "softmax"]
    by_layer = by_layer if len(by_layer) == len(sites) else [by_layer[site.layer] for site in sites]
    for i, (pattern, mask) in enumerate(zip(found.patterns[0], batch.token_info.mask, strict=True)):
        rows = [layer[i, :, mask.nonzero()[-1, 0]][:, mask] for layer in by_layer]
        assert close(pattern.weights, torch.cat(rows)), i
    if batch.token_info.video is None:
        return
    for grid, pattern in zip(found.to_video(), found.patterns[0], strict=True):
        placed = pattern.video & (pattern.row >= 0)
        assert torch.allclose(grid.nansum((1, 2, 3)), pattern.weights[:, placed].sum(1), atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_patterns_equal_the_weights_that_the_model_returns_bit_for_bit(family):
    model = make_model(family)
    prompt = PROMPTS[model.adapter.modality]
    found = attention(model, contents(family), prompts=prompt, batch_size=4, progress=False)
    batch = model.adapter.prepare(contents(family), prompt, model)
    mask = batch.token_info.mask
    weights = returned(family, batch.inputs)
    for i, pattern in enumerate(found.patterns[0]):
        row = weights[i, :, :, mask[i].nonzero()[-1, 0]]  # [layer, head, token]
        assert close(pattern.weights, row[..., mask[i]].flatten(0, 1)), i
        assert bool((row[..., ~mask[i]] == 0).all()), i
        assert torch.allclose(pattern.weights.sum(1), torch.ones(12), atol=1e-6), i
        assert same(pattern.token_ids, batch.inputs["input_ids"][i][mask[i]]), i
        assert pattern.queries.tolist() == [len(pattern.token_ids) - 1], i
    assert found.lengths.tolist() == [mask.sum(1).tolist()]
    assert len(set(found.lengths[0].tolist())) > 1  # otherwise there was no padding to leave out


@pytest.mark.parametrize("family", ["llama", "bert", "qwen2_vl"])
def test_pooled_patterns_equal_the_mean_of_the_rows(family):
    model = make_model(family)
    found = attention(
        model,
        contents(family),
        ["L2H3", "L0H1"],
        positions=positions.span(-3, None).mean(),
        batch_size=4,
        progress=False,
    )
    batch = model.adapter.prepare(contents(family), "", model)
    weights = returned(family, batch.inputs)
    for i, mask in enumerate(batch.token_info.mask):
        queries = mask.nonzero()[-3:, 0]
        assert same(found.patterns[0][i].queries, queries - mask.nonzero()[0, 0])
        for entry, (layer, head) in enumerate([(2, 3), (0, 1)]):
            mean = weights[i, layer, head, queries][:, mask].double().mean(0).float()
            assert torch.allclose(found.patterns[0][i].weights[entry], mean, rtol=0, atol=1e-6), (i, entry)


def test_the_output_of_a_head_is_its_pattern_times_the_values_of_its_group():
    model = make_model("llama")  # 4 query heads, 2 of keys and values
    batch = model.adapter.prepare(contents("llama"), "", model)
    values = {}
    for layer, block in enumerate(model.module.model.layers):
        block.self_attn.v_proj.register_forward_hook(lambda _, __, out, layer=layer: values.update({layer: out}))
    with torch.no_grad():
        model.module(**batch.inputs)
    kept = dict(values)
    acts = HeadTracer(model).capture(contents("llama"), progress=False)
    found = attention(model, contents("llama"), batch_size=4, progress=False)
    swapped = 0
    for i, mask in enumerate(batch.token_info.mask):
        for entry, head in enumerate(found.heads):
            v = kept[head.layer][i, mask].unflatten(-1, (2, 8))
            pattern, z = found.patterns[0][i].weights[entry], acts.values[0, i, entry]
            assert torch.allclose(z, pattern @ v[:, head.head // 2], rtol=1e-5, atol=1e-5), (i, head)
            swapped += torch.allclose(z, pattern @ v[:, 1 - head.head // 2], rtol=1e-5, atol=1e-5)
    assert swapped < 12  # the other group's values do not give z, except for an input of one token that is its own


def living(module, run) -> int:
    """Most patterns of earlier layers that are in memory when a layer has computed its own."""
    storages, most = [], 0

    def count(_, __, output):
        nonlocal most
        most = max(most, sum(not storage.expired() for storage in storages))
        storages.append(StorageWeakRef(output[1].untyped_storage()))

    hooks = [block.self_attn.register_forward_hook(count) for block in module.model.layers]
    with torch.no_grad():
        run()
    for hook in hooks:
        hook.remove()
    assert len(storages) >= 5  # a pass that stops after the last layer does not come back to its hook
    return most


def test_one_pattern_is_in_memory_at_a_time():
    model = make_model("llama", num_hidden_layers=6)
    text = " ".join(["a man walks on the road"] * 8)
    assert living(model.module, lambda: attention(model, [text, "a man"], progress=False)) == 0
    # What the counter says of the other way to get them, so that 0 above means something.
    module = language_eager(make_module("llama", num_hidden_layers=6))
    ids = torch.arange(40)[None] % 30
    assert living(module, lambda: module(ids, output_attentions=True)) == 5


def test_patterns_are_those_of_the_edited_model():
    model = make_model("llama")
    plain = attention(model, ["a man walks on the road"], ["L0H0", "L2H0"], progress=False).values
    with zero(model, ["L1H1"]):
        edited = attention(model, ["a man walks on the road"], ["L0H0", "L2H0"], progress=False)
    hook = model.module.model.layers[1].self_attn.o_proj.register_forward_pre_hook(
        lambda _, args: (torch.cat([args[0][..., :8], torch.zeros_like(args[0][..., 8:16]), args[0][..., 16:]], -1),)
    )
    hooked = attention(model, ["a man walks on the road"], ["L0H0", "L2H0"], progress=False).values
    hook.remove()
    assert close(edited.values, hooked)
    assert close(edited.values[0, 0, 0], plain[0, 0, 0])
    assert not close(edited.values[0, 0, 1], plain[0, 0, 1])
    assert len(edited.provenance.edits) == 1
