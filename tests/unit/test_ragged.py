"""Models whose heads differ in size, number or kind from layer to layer."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import transformers
from equality import close
from tiny_models import TEXTS, VOCAB_SIZE, make_module, make_tokenizer

import headprobe
from headprobe import Example, HeadSet, HeadTracer, positions, saliency
from headprobe.activations import concatenate
from headprobe.errors import InputError
from headprobe.models.model import Model
from headprobe.models.sites import all_heads


def gemma(seed: int = 0) -> Model:
    """Heads of size 8 in layers 0 and 2, of size 16 in layers 1 and 3."""
    torch.manual_seed(seed)
    config = transformers.Gemma4TextConfig(
        vocab_size=VOCAB_SIZE,
        vocab_size_per_layer_input=VOCAB_SIZE,
        hidden_size_per_layer_input=4,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_global_key_value_heads=1,
        head_dim=8,
        global_head_dim=16,
        layer_types=["sliding_attention", "full_attention"] * 2,
        sliding_window=4,
        max_position_embeddings=64,
        num_kv_shared_layers=0,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
        initializer_range=0.3,
    )
    return headprobe.load(transformers.Gemma4ForCausalLM(config), tokenizer=make_tokenizer())


def uneven() -> Model:
    """Four heads in layers 0 and 2, two in layer 1, all of size 8."""
    module = make_module("llama", head_dim=8)
    fewer = make_module("llama", seed=1, head_dim=8, num_attention_heads=2)
    module.model.layers[1] = fewer.model.layers[1]
    return headprobe.load(module, tokenizer=make_tokenizer())


def mixed() -> Model:
    """The same, except that the heads of layer 0 are said to be of another kind and are not among model.heads."""
    model = uneven()
    first, *others = model.sites
    model.sites = (dataclasses.replace(first, kind="linear"), *others)
    model.heads = all_heads(others)
    return model


def hooked(model, batch) -> dict[int, torch.Tensor]:
    """Inputs of the output projections at the last token, [batch, head, d_head], without headprobe's tracer."""
    taken: dict[int, torch.Tensor] = {}
    hooks = [
        model.module.get_submodule(site.path).register_forward_pre_hook(
            lambda _, args, site=site: taken.update(
                {site.layer: args[0][:, -1].clone().unflatten(-1, (site.n_heads, site.head_dim))}
            )
        )
        for site in model.sites
    ]
    with torch.no_grad():
        model.module(**batch.inputs)
    for hook in hooks:
        hook.remove()
    return taken


def capture(model, examples=TEXTS, **options):
    return HeadTracer(model).capture(examples, progress=False, **options)


def labelled(n):
    return [Example(TEXTS[i % 4] + " yes" * (i // 4), id=f"e{i}", label=i % 2) for i in range(n)]


@pytest.mark.parametrize("build", [gemma, uneven, mixed])
def test_all_heads_are_captured_and_equal_plain_hooks_bit_for_bit(build):
    model = build()
    acts = capture(model)
    reference = hooked(model, model.adapter.prepare(TEXTS, "", model))
    assert acts.heads == model.heads
    for head in acts.heads:
        assert close(acts.select([head])[0, :, 0], reference[head.layer][:, head.head]), head
    assert {head.layer for head in acts.heads} == ({1, 2} if build is mixed else set(reference))


def test_heads_of_two_sizes_are_kept_apart():
    model = gemma()
    acts = capture(model, resid_post=True, answers=["yes"])
    assert {size: part.heads.layers for size, part in acts.by_size().items()} == {8: (0, 2), 16: (1, 3)}
    assert acts.by_size()[16].z.shape == (1, 4, 2, 4, 16)
    assert acts.resid_post.shape == (1, 4, 4, 32)
    with pytest.raises(InputError, match=r"8 of size 8, 8 of size 16.*by_size"):
        _ = acts.values
    part = capture(model, heads=["L3H1", "L0H2", "L1H0"])
    assert part.heads.labels == ("L3H1", "L0H2", "L1H0")
    assert close(part.select(["L1H0", "L3H1"]), acts.select(["L1H0", "L3H1"]))
    assert close(capture(model, heads=["L2H1"]).values, acts.select(["L2H1"]))


def test_a_batch_of_two_sizes_equals_its_single_examples():
    model = gemma()
    together = capture(model, batch_size=3)
    alone = concatenate([capture(model, [Example(text, id=str(i))]) for i, text in enumerate(TEXTS)])
    for heads, values in together.tensors.items():
        assert close(values, alone.tensors[heads])


def test_rows_per_token_of_two_sizes_agree_with_the_single_tokens():
    model = gemma()
    several = {"each": positions.span(-2, None).each(), "end": positions.last()}
    acts = capture(model, TEXTS[:2], positions=several)
    for heads, values in acts["each"].tensors.items():
        assert close(values[:, 1::2], acts["end"].tensors[heads])
    one_size = acts["each"].by_size()[16].subset([1, 3])
    assert one_size.examples["example"].tolist() == ["0", "1"]


def test_reading_inputs_gives_a_tensor_for_each_size():
    model = gemma()
    reading = HeadTracer(model).read(model.adapter.prepare(TEXTS, "", model))
    assert [tuple(tensor.shape) for tensor in reading.tensors.values()] == [(4, 8, 8), (4, 8, 16)]
    with pytest.raises(InputError, match=r"8 of size 8, 8 of size 16.*Use \.tensors, or read heads of one size"):
        _ = reading.z


def test_saliency_scores_heads_of_every_size_as_if_they_were_alone():
    acts = capture(gemma(), labelled(12))
    scores = saliency(acts, metrics=("lda", "mmd"))
    assert scores.dims == ("metric", "prompt", "layer", "head")
    assert (scores["layer"].values.tolist(), scores["head"].values.tolist()) == ([0, 1, 2, 3], [0, 1, 2, 3])
    for part in acts.by_size().values():
        alone = saliency(part, metrics=("lda", "mmd"))
        np.testing.assert_allclose(scores.sel(layer=list(part.layers)).values, alone.values, rtol=1e-12)
    given = saliency(acts, 1 - acts.labels, metrics=("lda",))
    np.testing.assert_allclose(given.values, scores.sel(metric=["lda"]).values, rtol=1e-9)


def test_saliency_leaves_out_heads_that_a_layer_does_not_have():
    acts = capture(uneven(), labelled(12))
    with pytest.raises(InputError, match="z needs the same heads in every layer"):
        _ = acts.z
    scores = saliency(acts, metrics=("lda", "kl"))
    assert scores.shape == (2, 1, 3, 4)
    assert np.isnan(scores.values[..., 1, 2:]).all()
    assert np.isnan(scores.values).sum() == 4
    rectangle = capture(uneven(), labelled(12), heads=[(layer, head) for layer in (0, 2) for head in range(4)])
    alone = saliency(rectangle, metrics=("lda", "kl"))
    np.testing.assert_allclose(scores.sel(layer=[0, 2]).values, alone.values, rtol=1e-12)


def test_a_head_without_values_to_score_is_named_whatever_its_size():
    acts = capture(gemma(), labelled(12))
    acts.tensors[acts.by_size()[16].heads][0, 3, 5, 2] = float("nan")
    with pytest.raises(InputError, match=r"the first in head L3H1, example 'e3'"):
        saliency(acts)


def test_heads_of_another_kind_are_read_when_they_are_named():
    model = mixed()
    everything = capture(uneven())
    assert capture(model).heads.layers == (1, 2)
    named = capture(model, heads=["L0H1", "L2H3"])
    assert close(named.values, everything.select(["L0H1", "L2H3"]))
    with pytest.raises(InputError, match=r"L1H2 not in LlamaForCausalLM, .* layers 0..2, 2/4 each"):
        capture(model, heads=HeadSet(["L0H0", "L1H2"]))
