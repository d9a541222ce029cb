"""Contributions of heads against transformer-lens, plain hooks, the models' own logits and finite differences."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import numpy as np
import pytest
import torch
import transformers
from equality import close
from tiny_models import TEXTS, VOCAB_SIZE, VOCABULARY, contents, make_model, make_module, make_tokenizer

import headprobe
from headprobe import HeadTracer, positions
from headprobe.trace._residual import residual_path
from headprobe.trace.contribution import _logit_reader, logit_attribution, result
from headprobe.trace.decomposition import decompose

ANSWERS = ["yes", "no"]
IDS = [VOCABULARY[answer] for answer in ANSWERS]
SIZES = {
    "vocab_size": VOCAB_SIZE,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "pad_token_id": 0,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
}
GROUPED = SIZES | {"num_key_value_heads": 2, "head_dim": 8}


def layer_norms_behind(module: torch.nn.Module) -> torch.nn.Module:
    for block in module.model.layers:
        block.post_attention_layernorm = torch.nn.LayerNorm(32)
    return module


def scaled_blocks(module: torch.nn.Module) -> torch.nn.Module:
    for layer, block in enumerate(module.model.layers):
        block.layer_scalar.fill_(0.7 + 0.1 * layer)
    return module


BUILT: dict[str, Callable[[], torch.nn.Module]] = {
    # Attention and MLP beside each other, and one after the other.
    "gpt_neox": lambda: transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**SIZES)),
    "gpt_neox_sequential": lambda: transformers.GPTNeoXForCausalLM(
        transformers.GPTNeoXConfig(**SIZES, use_parallel_residual=False)
    ),
    # Norms behind the attention, a norm that multiplies by one plus its weight, a soft cap.
    "gemma2": lambda: transformers.Gemma2ForCausalLM(
        transformers.Gemma2Config(**GROUPED, final_logit_softcapping=5.0, query_pre_attn_scalar=8)
    ),
    # Biases of the projection and of the norm behind it.
    "gemma2_biased": lambda: layer_norms_behind(
        transformers.Gemma2ForCausalLM(
            transformers.Gemma2Config(**GROUPED, final_logit_softcapping=None, attention_bias=True)
        )
    ),
    "gemma3": lambda: transformers.Gemma3ForCausalLM(
        transformers.Gemma3TextConfig(**GROUPED, final_logit_softcapping=None, query_pre_attn_scalar=8)
    ),
    "olmo2": lambda: transformers.Olmo2ForCausalLM(transformers.Olmo2Config(**SIZES)),
    "qwen3": lambda: transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**GROUPED)),
    "mistral": lambda: transformers.MistralForCausalLM(transformers.MistralConfig(**GROUPED)),
    # A factor of the whole stream at the end of every block, and a third part beside attention and MLP.
    "gemma4": lambda: scaled_blocks(
        transformers.Gemma4ForCausalLM(
            transformers.Gemma4TextConfig(
                **GROUPED | {"num_hidden_layers": 2},
                layer_types=["sliding_attention", "full_attention"],
                global_head_dim=16,
                hidden_size_per_layer_input=8,
                vocab_size_per_layer_input=VOCAB_SIZE,
            )
        )
    ),
    # Blocks without softmax attention among the others.
    "qwen3_5": lambda: transformers.Qwen3_5ForCausalLM(
        transformers.Qwen3_5TextConfig(
            **GROUPED,
            layer_types=["full_attention", "linear_attention", "full_attention"],
            linear_num_value_heads=4,
            linear_num_key_heads=2,
            linear_key_head_dim=8,
            linear_value_head_dim=8,
        )
    ),
    "mixtral": lambda: transformers.MixtralForCausalLM(transformers.MixtralConfig(**GROUPED, num_local_experts=4)),
    # A factor of all that is added, and one of the logits; a final LayerNorm without bias.
    "granite": lambda: transformers.GraniteForCausalLM(
        transformers.GraniteConfig(**SIZES, residual_multiplier=0.3, logits_scaling=3.0)
    ),
    "cohere": lambda: transformers.CohereForCausalLM(transformers.CohereConfig(**SIZES, logit_scale=0.5)),
}
FAMILIES = ("gpt2", "llama", "qwen2", *BUILT)
SANDWICH = ("gemma2", "gemma2_biased", "gemma3", "olmo2", "gemma4")


def built(family: str, dtype: torch.dtype = torch.float32) -> headprobe.models.model.Model:
    if family not in BUILT:
        module = make_module(family)
    else:
        torch.manual_seed(0)
        module = BUILT[family]().eval()
        for name, parameter in module.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.1)
    for name, parameter in module.named_parameters():
        if "norm" in name or "ln_" in name:  # ones or zeros at initialisation, which would hide a forgotten weight
            with torch.no_grad():
                parameter.add_(0.3 * torch.randn(parameter.shape))
    return headprobe.load(module.to(dtype), tokenizer=make_tokenizer())


def true_logits(model, text: str, column: int = -1) -> torch.Tensor:
    ids = torch.tensor([model.tokenizer(text)["input_ids"]])
    with torch.no_grad():
        return model.module(input_ids=ids).logits[0, column, IDS].float()


def total(parts) -> np.ndarray:
    heads = parts.heads.sum(("layer", "head"))
    return (parts.embedding + heads + parts.attention_bias.sum("layer") + parts.mlp.sum("layer") + parts.bias).values


def terms(parts) -> np.ndarray:
    """Of the sum: the heads cancel one another."""
    return np.concatenate([np.abs(part).values.ravel() for part in (parts.heads, parts.mlp, parts.embedding)])


def capped(logits: np.ndarray, cap: float | None) -> np.ndarray:
    return logits if cap is None else cap * np.tanh(logits / cap)


@pytest.mark.parametrize("family", FAMILIES)
def test_all_parts_add_up_to_the_logits_of_single_passes(family):
    model = built(family)
    parts = decompose(model, TEXTS, ANSWERS, batch_size=3, progress=False)
    true = torch.stack([true_logits(model, text) for text in TEXTS]).T[:, None].numpy()
    cap = parts.attrs.get("before_soft_cap")
    assert (cap == 5.0) == (family == "gemma2")
    assert close(capped(total(parts), cap), true, torch.float32, of=terms(parts))
    assert close(capped(parts.logit.values, cap), true, torch.float32, of=terms(parts))
    assert np.abs(true).max() > 0.1  # not a comparison of zeros
    direct = logit_attribution(model, TEXTS, ANSWERS, batch_size=3, progress=False)
    ours = parts.heads.sel(layer=direct.layer, head=direct["head"])
    assert close(direct.values, ours.values, torch.float32, of=terms(parts))
    assert direct.notnull().all()


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_all_parts_add_up_at_any_token(family):
    model = built(family)
    parts = decompose(model, TEXTS, ANSWERS, positions=positions.index(0), progress=False)
    true = torch.stack([true_logits(model, text, 0) for text in TEXTS]).T[:, None].numpy()
    assert close(capped(total(parts), parts.attrs.get("before_soft_cap")), true, torch.float32, of=terms(parts))


@pytest.mark.parametrize("family", ["qwen2", "gemma2", "granite"])
def test_bfloat16_parts_add_up_to_its_rounding(family):
    model = built(family, torch.bfloat16)
    parts = decompose(model, TEXTS, ANSWERS, progress=False, batch_size=1)
    true = torch.stack([true_logits(model, text) for text in TEXTS]).T[:, None].numpy()
    size = np.abs(parts.heads).sum(("layer", "head")) + np.abs(parts.mlp).sum("layer") + np.abs(parts.embedding)
    error = np.abs(capped(total(parts), parts.attrs.get("before_soft_cap")) - true)
    assert (error < 0.01 * size.values).all()
    # The heads themselves are computed from the upcast weights and the z that was read.
    acts = HeadTracer(model).capture(TEXTS, progress=False)
    weights = model.module.get_submodule(model.sites[1].path).weight.float().T.unflatten(0, (4, 8))
    assert close(result(acts, model, ["L1H2"])[0, :, 0], torch.einsum("nd,dm->nm", acts.z[0, :, 1, 2], weights[2]))


def test_a_clip_under_two_prompts_adds_up():
    model = make_model("qwen2_vl")
    clips, prompts = contents("qwen2_vl", 3), {"a": "what happens ?", "b": "anything odd : ?"}
    parts = decompose(model, clips, ANSWERS, prompts, batch_size=2, progress=False)
    assert close(total(parts), parts.logit.values, torch.float32, of=terms(parts))
    acts = HeadTracer(model).capture(clips, prompts, answers=ANSWERS, progress=False)
    answer_logits = acts.answer_logits
    assert answer_logits is not None
    assert close(parts.logit.values, answer_logits.movedim(-1, 0).numpy(), torch.float32, of=terms(parts))
    direct = logit_attribution(model, clips, ANSWERS, prompts, progress=False)
    assert close(direct.values, parts.heads.values, torch.float32, of=terms(parts))


def keep_last(seen: list[torch.Tensor]) -> Callable[..., None]:
    return lambda module, args, output: seen.append(output[0, -1].clone())


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "gemma2"])
def test_heads_add_up_to_what_a_plain_hook_sees(family):
    model = built(family)
    acts = HeadTracer(model).capture(TEXTS, progress=False)
    written = result(acts, model).unflatten(2, (3, 4))
    for n, text in enumerate(TEXTS):
        seen: list[torch.Tensor] = []
        ids = torch.tensor([model.tokenizer(text)["input_ids"]])
        with ExitStack() as stack, torch.no_grad():
            for site in model.sites:
                part = model.module.get_submodule(site.path)
                stack.callback(part.register_forward_hook(keep_last(seen)).remove)
            model.module(input_ids=ids)
        for layer, site in enumerate(model.sites):
            bias = headprobe.models.sites._output_bias(model.module, site)
            summed = written[0, n, layer].sum(0) + (0 if bias is None else bias)
            assert close(summed, seen[layer], of=written[0, n, layer])


def frozen_norm(norm: torch.nn.Module, x: torch.Tensor, offset: float) -> Callable[[torch.Tensor], torch.Tensor]:
    """The map of a norm with the scale that x gives, written down once more from the norm's own parameters."""
    layer_norm = isinstance(norm, torch.nn.LayerNorm)
    eps = norm.eps if layer_norm or hasattr(norm, "eps") else norm.variance_epsilon
    mean_square = (x.var(-1, unbiased=False, keepdim=True)) if layer_norm else x.square().mean(-1, keepdim=True)
    bias = norm.bias if layer_norm else 0

    def frozen(y: torch.Tensor) -> torch.Tensor:
        y = y - y.mean(-1, keepdim=True) if layer_norm else y
        return y / torch.sqrt(mean_square + eps) * (offset + norm.weight) + bias

    return frozen


def replaced(module: torch.nn.Module, function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]):
    """Let a function of (first input, first output) give a module's output; the way to undo it."""

    def hook(part, args, output):
        if isinstance(output, tuple):
            return (function(args[0], output[0]), *output[1:])
        return function(args[0], output)

    return module.register_forward_hook(hook).remove


def watched(module: torch.nn.Module, seen: list[tuple[torch.Tensor, torch.Tensor]]):
    return replaced(module, lambda x, y: seen.append((x.clone(), y.clone())) or y)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox", "gemma2", "olmo2"])
@pytest.mark.parametrize("layer", [0, 2])
def test_taking_a_head_out_of_the_last_stream_changes_the_logits_by_its_attribution(family, layer):
    """Exact finite differences in the model with fixed scales: the pass itself, less what one head wrote."""
    model, text = built(family), TEXTS[1]
    path = residual_path(model)
    block = path.blocks[layer]
    assert (block.post is not None) == (family in SANDWICH)
    attribution = logit_attribution(model, [text], ANSWERS, progress=False).sel(layer=layer)
    ids = torch.tensor([model.tokenizer(text)["input_ids"]])
    offset = 1.0 if family == "gemma2" else 0.0
    final, end = model.module.get_submodule(path.final.path), model.module.get_submodule(path.blocks[-1].path)
    projection, unembed = model.module.get_submodule(block.site.path), model.module.get_output_embeddings()

    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    with ExitStack() as stack, torch.no_grad():
        for part in (projection, final, unembed):
            stack.callback(watched(part, seen))
        model.module(input_ids=ids)
    (z, projected), (last, _), (_, logits) = seen
    fixed_final = frozen_norm(final, last, offset)
    behind: Callable[[torch.Tensor], torch.Tensor] = torch.nn.Identity()
    if block.post is not None:
        behind = frozen_norm(model.module.get_submodule(block.post.path), projected, offset)
    for head in range(4):
        without = z.clone()
        without[..., 8 * head : 8 * head + 8] = 0
        with ExitStack() as stack, torch.no_grad():
            write = behind(projected) - behind(projection(without))
            seen.clear()
            stack.callback(replaced(end, lambda x, y, write=write: y - write))
            stack.callback(replaced(final, lambda x, y: fixed_final(x)))
            stack.callback(watched(unembed, seen))
            model.module(input_ids=ids)
        change = (logits - seen[0][1])[0, -1, IDS].numpy()
        expected = attribution.sel(head=head).values[:, 0, 0]
        assert close(change, expected, torch.float32, of=logits[0, -1, IDS]), head
        assert np.abs(expected).max() > 1e-3


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "granite"])
def test_captured_activations_give_the_same_as_a_run(family):
    model = built(family)
    run = logit_attribution(model, TEXTS, ANSWERS, progress=False)
    acts = HeadTracer(model).capture(TEXTS, resid_post=True, answers=ANSWERS, progress=False)
    assert close(logit_attribution(model, acts, ANSWERS).values, run.values)
    parts = decompose(model, TEXTS, ANSWERS, progress=False)
    assert close(parts.heads.values, run.values, torch.float32, of=terms(parts))
    batched = logit_attribution(model, TEXTS, ANSWERS, batch_size=3, progress=False)
    assert close(batched.values, run.values, torch.float32, of=terms(parts))
    difference = logit_attribution(model, acts, ANSWERS, difference=True)
    assert close(difference.values, run.values[0] - run.values[1], torch.float32, of=terms(parts))
    one = logit_attribution(model, TEXTS, ANSWERS, heads=["L2H3", "L0H1"], progress=False)
    for head in (headprobe.Head(2, 3), headprobe.Head(0, 1)):
        at = {"layer": head.layer, "head": head.head}
        assert close(one.sel(at).values, run.sel(at).values, torch.float32, of=terms(parts))
    assert np.isnan(one.sel(layer=2, head=1)).all()
    # The linear logits from the stream, capped, are the captured ones.
    path = residual_path(model)
    linear = _logit_reader(model, path, IDS).logits(acts.resid_post[0, :, -1]).numpy()
    assert close(capped(linear, path.softcap), acts.answer_logits[0].numpy(), torch.float32, of=terms(parts))


LENS = {"gpt2": "GPT2LMHeadModel", "llama": "LlamaForCausalLM"}


@pytest.mark.parametrize("family", LENS)
def test_transformer_lens_finds_the_same(family, tmp_path):
    bridge_module = pytest.importorskip("transformer_lens.model_bridge", reason="needs headprobe[lens]")
    make_tokenizer().save_pretrained(tmp_path)
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    torch.manual_seed(1)
    model = built(family)
    module = built(family).module
    module.load_state_dict(model.module.state_dict())
    module.config.architectures = [LENS[family]]
    bridge = bridge_module.TransformerBridge.boot_transformers(
        LENS[family], hf_model=module, tokenizer=tokenizer, device="cpu"
    )
    bridge.set_use_attn_result(True)
    # The bridge folds nothing unless told to: the final norm's weight is put into its directions here.
    weight = model.module.get_submodule(residual_path(model).final.path).weight
    directions = bridge.W_U[:, IDS] * weight[:, None]
    for text in TEXTS:
        ids = torch.tensor([model.tokenizer(text)["input_ids"]])
        _, cache = bridge.run_with_cache(ids)
        acts = HeadTracer(model).capture([text], resid_post=True, progress=False)
        written = result(acts, model).unflatten(2, (3, 4))[0, 0]
        for layer in range(3):
            witness = cache[f"blocks.{layer}.attn.hook_result"][0, -1]
            assert close(written[layer], witness.detach())
        stack = cache.stack_head_results(layer=-1, pos_slice=-1)
        scaled = cache.apply_ln_to_stack(stack, layer=-1, pos_slice=-1)
        witness = (scaled[:, 0] @ directions).T.unflatten(1, (3, 4)).detach().numpy()
        ours = logit_attribution(model, acts, ANSWERS).values[:, 0, 0]
        assert close(ours, witness, torch.float32, of=terms(decompose(model, [text], ANSWERS, progress=False)))
        assert np.abs(witness).max() > 0.01
