"""Contributions: formulas by hand, shapes, refusals and error texts."""

from __future__ import annotations

import math
import types

import numpy as np
import pytest
import torch
import transformers
import xarray as xr
from equality import close, same_bits
from tiny_models import TEXTS, VOCAB_SIZE, VOCABULARY, make_model, make_module, make_tokenizer
from torch import nn

import headprobe
from headprobe import HeadTracer, heatmap, positions
from headprobe.errors import FingerprintError, InputError, PositionError, SiteError, UnsupportedModelError
from headprobe.trace._passes import answer_ids
from headprobe.trace._residual import Norm, closes, read_norm, residual_path
from headprobe.trace.contribution import _unembedding, attribution_map, logit_attribution, result
from headprobe.trace.decomposition import decompose

ANSWERS = ["yes", "no"]


def gemma2(**changes):
    torch.manual_seed(0)
    config = transformers.Gemma2Config(
        vocab_size=VOCAB_SIZE,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=64,
        bos_token_id=2,
        eos_token_id=3,
        pad_token_id=0,
        **changes,
    )
    return headprobe.load(transformers.Gemma2ForCausalLM(config), tokenizer=make_tokenizer())


@pytest.fixture(scope="module")
def gpt2():
    return make_model("gpt2")


@pytest.fixture(scope="module")
def gpt2_acts(gpt2):
    return HeadTracer(gpt2).capture(TEXTS, resid_post=True, progress=False)


# Norms


@pytest.mark.parametrize("centred", [True, False])
def test_parts_through_a_norm_with_fixed_scale_add_up_to_the_norm(centred):
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(6, generator=generator), torch.randn(6, generator=generator)
    parts = torch.randn(4, 2, 6, generator=generator) + 1
    whole = parts.sum(0)
    torch_norm = nn.LayerNorm(6, eps=1e-3) if centred else nn.RMSNorm(6, eps=1e-3)
    torch_norm.weight.data.copy_(weight)
    if isinstance(torch_norm, nn.LayerNorm):
        torch_norm.bias.data.copy_(bias)
    norm = Norm("n", centred, weight, bias if centred else None, 1e-3)
    expected = torch_norm(whole)
    assert close(norm(whole), expected)
    directions = torch.eye(6)
    read = parts @ norm.pull_back(directions).T * norm.scale(whole)
    assert close(read.sum(0) + (bias if centred else 0), expected)


class Plus(nn.Module):
    """Multiplies by one plus its weight, as Gemma does."""

    def __init__(self, weight, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(weight), eps

    def forward(self, x):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * (1 + self.weight)


class Fixed(nn.Module):
    """A LayerNorm without parameters whose eps stands in its code."""

    def forward(self, x):
        return nn.functional.layer_norm(x, x.shape[-1:], eps=1e-5)


class Cube(nn.Module):
    def forward(self, x):
        return x**3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("module", "centred", "weight", "eps"),
    [
        (nn.LayerNorm(8, eps=1e-6), True, 1.0, 1e-6),
        (nn.RMSNorm(8, eps=1e-5), False, 1.0, 1e-5),
        (Plus(torch.full((8,), 0.25), 1e-6), False, 1.25, 1e-6),
        (Fixed(), True, 1.0, 1e-5),
    ],
)
def test_a_norm_is_recognised_by_what_it_computes(module, centred, weight, eps, dtype):
    model = types.SimpleNamespace(module=nn.ModuleDict({"norm": module.to(dtype)}), name="m", device="cpu")
    norm = read_norm(model, "norm", 8, dtype)
    assert (norm.centred, norm.eps) == (centred, eps)
    assert same_bits(norm.weight, torch.full((8,), weight), of="a norm that no pass changes")


@pytest.mark.parametrize("module", [Cube(), nn.Linear(8, 8), nn.Identity(), nn.BatchNorm1d(8)])
def test_what_is_no_norm_is_refused(module):
    model = types.SimpleNamespace(module=nn.ModuleDict({"part": module.eval()}), name="m", device="cpu")
    if isinstance(module, nn.BatchNorm1d):
        module.forward = lambda x: x
    with pytest.raises(UnsupportedModelError, match="neither a LayerNorm nor an RMSNorm"):
        read_norm(model, "part", 8, torch.float32)


# The sum in the residual stream


def test_closes_by_hand():
    a, b = torch.tensor([1.0, 1000.0]), torch.tensor([2.0, 1.0])
    assert closes(torch.tensor([3.0, 1001.0]), [a, b], 1e-7)
    assert not closes(torch.tensor([3.001, 1001.0]), [a, b], 1e-7)  # small against the largest element
    assert not closes(torch.tensor([math.nan, 1001.0]), [a, b], 1e-7)


@pytest.mark.parametrize("factor", [1.05, 0.95, 0.5])
def test_a_factor_that_half_precision_would_hide_is_seen(factor):
    generator = torch.Generator().manual_seed(0)
    stream = 10 * torch.randn(8, 64, generator=generator).bfloat16()
    part = torch.randn(8, 64, generator=generator).bfloat16()
    eps = torch.finfo(torch.bfloat16).eps
    assert closes(stream + part, [stream, part], eps)
    assert not closes(stream + factor * part, [stream, part], eps)


# result


def test_result_is_z_times_the_heads_rows_of_the_output_matrix(gpt2, gpt2_acts):
    written = result(gpt2_acts, gpt2, ["L2H1", "L0H3"])
    assert written.shape == (1, 4, 2, 32)
    assert written.dtype == torch.float32
    matrix = gpt2.module.transformer.h[2].attn.c_proj.weight[8:16]  # rows of head 1, [d_head, d_model]
    by_hand = sum(gpt2_acts.z[0, 3, 2, 1, d] * matrix[d] for d in range(8))
    assert close(written[0, 3, 0], by_hand)
    whole = result(gpt2_acts, gpt2)
    assert close(whole[:, :, [9, 3]], written)


def test_result_refuses_other_weights_and_heads_that_were_not_captured(gpt2, gpt2_acts):
    with pytest.raises(FingerprintError, match="come from 'GPT2LMHeadModel' with weights"):
        result(gpt2_acts, make_model("gpt2", seed=1))
    some = HeadTracer(gpt2).capture(TEXTS[:1], heads=["L0H0"], progress=False)
    with pytest.raises(InputError, match="L1H1"):
        result(some, gpt2, ["L1H1"])


# Attribution


def test_the_array_has_names_units_and_what_was_held_fixed(gpt2, gpt2_acts):
    attribution = logit_attribution(gpt2, gpt2_acts, ANSWERS)
    assert attribution.dims == ("answer", "prompt", "example", "layer", "head")
    assert attribution.shape == (2, 1, 4, 3, 4)
    assert attribution.coords["answer"].values.tolist() == ANSWERS
    assert attribution.coords["example"].values.tolist() == ["0", "1", "2", "3"]
    assert attribution.attrs["units"] == "logit"
    assert attribution.attrs["fixed"] == "scale of the final norm"
    assert attribution.attrs["fingerprint"] == gpt2_acts.provenance.fingerprint
    difference = logit_attribution(gpt2, gpt2_acts, ANSWERS, difference=True)
    assert difference.dims == ("prompt", "example", "layer", "head")
    assert difference.name == "logit difference attribution"


def test_llama_by_hand():
    model = make_model("llama")
    acts = HeadTracer(model).capture(TEXTS[:1], resid_post=True, progress=False)
    norm, stream = model.module.model.norm, acts.resid_post[0, 0, -1]
    rms = math.sqrt(float(stream.square().mean()) + norm.variance_epsilon)
    written = result(acts, model, ["L1H2"])[0, 0, 0]
    row = model.module.lm_head.weight[VOCABULARY["yes"]]
    expected = float((written / rms * norm.weight * row).sum())
    found = float(logit_attribution(model, acts, ["yes"]).sel(layer=1, head=2).squeeze())
    assert close(found, expected, torch.float32)


def test_a_head_scaled_by_two_contributes_twice_where_its_scale_is_fixed(gpt2, gpt2_acts):
    from dataclasses import replace

    doubled = replace(gpt2_acts, values=2 * gpt2_acts.values)
    once, twice = (logit_attribution(gpt2, acts, ANSWERS).values for acts in (gpt2_acts, doubled))
    assert close(twice, 2 * once)


def test_rows_of_several_tokens_are_attributed_each(gpt2):
    attribution = logit_attribution(gpt2, TEXTS[:2], ANSWERS, positions=positions.all().each(), progress=False)
    assert attribution.sizes["example"] == sum(len(text.split()) for text in TEXTS[:2])
    last = logit_attribution(gpt2, TEXTS[:1], ANSWERS, progress=False)
    n = len(TEXTS[0].split())
    assert close(attribution.values[:, :, n - 1], last.values[:, :, 0])


def test_gemma_needs_all_heads_of_a_layer_and_takes_them_itself():
    model = gemma2()
    everything = logit_attribution(model, TEXTS, ANSWERS, progress=False)
    assert everything.attrs["fixed"] == "scale of the final norm and of the norms behind the attention"
    assert everything.attrs["before_soft_cap"] == 30.0
    some = logit_attribution(model, TEXTS, ANSWERS, heads=["L1H2"], progress=False)
    assert close(some.values[..., 0, 0], everything.sel(layer=1, head=2).values)
    acts = HeadTracer(model).capture(TEXTS, heads=["L1H2"], resid_post=True, progress=False)
    with pytest.raises(InputError, match=r"normalises the sum over its 4 heads .* only 1 of them were captured"):
        logit_attribution(model, acts, ANSWERS)


def test_a_soft_cap_is_found_where_rounding_hides_it():
    module = gemma2().module.to(torch.bfloat16)
    model = headprobe.load(module, tokenizer=make_tokenizer())
    assert float(module(torch.tensor([[9]])).logits.abs().max()) < 1  # tanh changes it by less than a rounding
    assert residual_path(model).softcap == 30.0


def test_unembedding_is_the_rows_of_the_head(gpt2):
    directions = _unembedding(gpt2, [3, 0])
    assert same_bits(directions, gpt2.module.lm_head.weight[[3, 0]], of="copies of one weight")
    with pytest.raises(InputError, match=f"token {VOCAB_SIZE} lies outside the {VOCAB_SIZE} tokens"):
        _unembedding(gpt2, [VOCAB_SIZE])


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ("yes", "give a list of texts"),
        ([], "give a list of texts"),
        (["yes no"], "is 2 tokens .* must be one token"),
        (["maybe"], "not in the vocabulary"),
        (["yes", "yes"], "is the same token as 'yes'"),
    ],
)
def test_answers_are_one_known_token_each(gpt2, answers, message):
    with pytest.raises(InputError, match=message):
        answer_ids(gpt2, answers)


def test_wrong_use_is_refused(gpt2, gpt2_acts):
    with pytest.raises(InputError, match="needs two answers, the first minus the second; got 3"):
        logit_attribution(gpt2, gpt2_acts, ["yes", "no", "day"], difference=True)
    with pytest.raises(InputError, match="leave prompts= and positions= out"):
        logit_attribution(gpt2, gpt2_acts, ANSWERS, prompts="{text}")
    with pytest.raises(InputError, match="L7H0 not among the 12 heads"):
        logit_attribution(gpt2, gpt2_acts, ANSWERS, heads=["L7H0"])
    with pytest.raises(InputError, match="capture with resid_post=True"):
        logit_attribution(gpt2, HeadTracer(gpt2).capture(TEXTS[:1], progress=False), ANSWERS)
    with pytest.raises(FingerprintError):
        logit_attribution(make_model("gpt2", seed=1), gpt2_acts, ANSWERS)
    mean = positions.all().mean()
    averaged = HeadTracer(gpt2).capture(TEXTS[:1], positions=mean, resid_post=True, progress=False)
    with pytest.raises(PositionError, match="every token has a scale of its own"):
        logit_attribution(gpt2, averaged, ANSWERS)
    for attribute in (logit_attribution, decompose):
        with pytest.raises(PositionError, match=r"all\(\).mean\(\) averages tokens"):
            attribute(gpt2, TEXTS, ANSWERS, positions=mean)
    with pytest.raises(PositionError, match="several rows per example"):
        decompose(gpt2, TEXTS, ANSWERS, positions=positions.all().each())


def test_edited_passes_are_attributed_as_they_were():
    from headprobe.trace import edits

    model = make_model("llama")
    with edits.zero(model, ["L1H2"]):
        parts = decompose(model, TEXTS, ANSWERS, progress=False)
    assert (parts.heads.sel(layer=1, head=2) == 0).all()
    assert (np.abs(parts.heads.sel(layer=1, head=1)) > 0).all()


# Models whose heads do not reach the logits in a known way


def refused(module, match, check=True):
    model = headprobe.load(module, tokenizer=make_tokenizer(), check=check)
    with pytest.raises(UnsupportedModelError, match=match):
        logit_attribution(model, TEXTS, ANSWERS, progress=False)
    with pytest.raises(UnsupportedModelError, match=match):
        decompose(model, TEXTS, ANSWERS, progress=False)


def test_bert_is_refused():
    model = make_model("bert")
    with pytest.raises(UnsupportedModelError, match="has no unembedding, so nothing can be attributed"):
        logit_attribution(model, TEXTS, ANSWERS)
    config = transformers.BertConfig(
        vocab_size=VOCAB_SIZE, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
    )
    # A norm after the addition: what a head adds is rescaled with the whole stream at once.
    refused(
        transformers.BertForMaskedLM(config), "residual stream after block bert.encoder.layer.0 .* is not the stream"
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("factor", [0.9, 0.5])
def test_an_unknown_factor_of_the_attention_is_refused(dtype, factor):
    module = make_module("llama").to(dtype)
    attention = module.model.layers[1].self_attn
    attention.register_forward_hook(lambda part, args, output: (factor * output[0], *output[1:]))
    refused(module, "residual stream after block model.layers.1 .* is not the stream before it plus")


def test_a_stream_that_changes_between_blocks_is_refused():
    module = make_module("llama")
    module.model.layers[2].register_forward_pre_hook(lambda part, args: (0.9 * args[0], *args[1:]))
    refused(module, "what block model.layers.2 gets is not what model.layers.1 gives")


def test_a_block_of_several_streams_is_refused():
    module = make_module("llama")
    block = module.model.layers[0]
    forward = block.forward
    block.forward = lambda streams, *args, **kwargs: forward(streams.mean(0), *args, **kwargs)
    block.register_forward_pre_hook(lambda part, args: (torch.stack([args[0], args[0]]), *args[1:]))
    refused(module, r"model.layers.0 gets \(2, 1, 8, 32\) .* one residual stream \[batch, token, d_model\] is needed")


def test_a_block_that_runs_twice_is_refused():
    module = make_module("llama")
    first = module.model.layers[0]
    again = lambda part, args, kwargs: ((first(*args, **kwargs), *args[1:]), kwargs)  # noqa: E731
    module.model.layers[1].register_forward_pre_hook(again, with_kwargs=True)
    with pytest.raises(SiteError, match="layer 0 runs 2 times in one forward pass"):
        headprobe.load(module, tokenizer=make_tokenizer())
    refused(module, "model.layers.0 gets None and gives None .None: not run exactly once.", check=False)


def test_logits_that_are_scaled_in_an_unknown_way_are_refused():
    class Doubled(transformers.LlamaForCausalLM):
        def forward(self, *args, **kwargs):
            out = super().forward(*args, **kwargs)
            out.logits = 2 * out.logits
            return out

    module = make_module("llama")
    module.__class__ = Doubled
    refused(module, "neither the unembedding's output nor that output scaled")


def test_a_stream_that_reaches_the_unembedding_past_the_norm_is_refused():
    module = make_module("llama")
    module.lm_head.register_forward_pre_hook(lambda part, args: (2 * args[0],))
    refused(module, "expected one norm that takes the last block's output to the unembedding lm_head, found none")


def test_something_added_to_the_stream_in_this_pass_alone_is_noticed():
    """What the pass over a few tokens cannot see: an addition that depends on the input."""
    module = make_module("llama")
    words = torch.zeros(VOCAB_SIZE)
    words[VOCABULARY["path"]] = 1

    def before(part, args, kwargs):
        part.seen = words[kwargs["input_ids"]][..., None]

    module.register_forward_pre_hook(before, with_kwargs=True)
    module.model.layers[1].register_forward_pre_hook(lambda part, args: (args[0] + module.seen, *args[1:]))
    model = headprobe.load(module, tokenizer=make_tokenizer())
    decompose(model, ["a man"], ANSWERS, progress=False)
    with pytest.raises(UnsupportedModelError, match=r"at last\(\) of the examples '0' to '1' .* model.layers.1"):
        decompose(model, ["a man", "on the path"], ANSWERS, progress=False)


# Maps


def test_the_map_is_the_mean_over_examples_and_draws(gpt2, gpt2_acts):
    attribution = logit_attribution(gpt2, gpt2_acts, ANSWERS)
    drawn = attribution_map(attribution, answer="no")
    assert drawn.dims == ("layer", "head")
    assert np.allclose(drawn.values, attribution.values[1, 0].mean(0))
    axes = heatmap(drawn, center=0.0, cmap="PuOr")
    assert axes.get_ylabel() == "layer"
    some = logit_attribution(gpt2, gpt2_acts, ANSWERS, heads=["L0H1", "L2H3"], difference=True)
    sparse = attribution_map(some)
    assert np.isnan(sparse.sel(layer=0, head=3))
    assert sparse.coords["layer"].values.tolist() == [0, 2]


def test_the_map_of_several_prompts():
    values = np.arange(8.0).reshape(2, 2, 1, 2)
    array = xr.DataArray(values, dims=("prompt", "example", "layer", "head"), coords={"prompt": ["a", "b"]})
    assert attribution_map(array).values.tolist() == [[3.0, 4.0]]
    assert attribution_map(array, prompt="b").values.tolist() == [[5.0, 6.0]]
    with pytest.raises(InputError, match="'c' is not among the prompts"):
        attribution_map(array, prompt="c")
    with pytest.raises(InputError, match="expected the dims of logit_attribution"):
        attribution_map(array[0])
    with pytest.raises(InputError, match="no example to average over"):
        attribution_map(array[:, :0])
    both = xr.concat([array, array], dim=xr.DataArray(["yes", "no"], dims="answer"))
    with pytest.raises(InputError, match="choose one with answer="):
        attribution_map(both)
    assert attribution_map(both, answer="yes").values.tolist() == [[3.0, 4.0]]
