from __future__ import annotations

import dataclasses
import re

import pytest
import torch
import transformers
from architectures import CASES, build
from equality import same_bits
from tiny_models import FAMILIES, TEXTS, make_module, make_tokenizer

import headprobe
from headprobe.errors import HeadprobeWarning, InputError, SiteError, UnsupportedModelError
from headprobe.models import _attention as attention
from headprobe.models.sites import HeadSite, _output_bias, _output_weights, all_heads, block_paths, check, discover

PATHS = {
    "gpt2": "transformer.h.{}.attn.c_proj",
    "llama": "model.layers.{}.self_attn.o_proj",
    "qwen2": "model.layers.{}.self_attn.o_proj",
    "bert": "encoder.layer.{}.attention.output.dense",
    "qwen2_vl": "model.language_model.layers.{}.self_attn.o_proj",
}
SIZES = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = {**SIZES, "num_key_value_heads": 2}
TOWER = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 16}
RECURRENT = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}


def causal(name: str, **sizes) -> torch.nn.Module:
    return transformers.AutoModelForCausalLM.from_config(getattr(transformers, name)(**{**GROUPED, **sizes}))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_discovered_with_its_sizes(family):
    sites = discover(make_module(family))
    grouped = 2 if family in ("llama", "qwen2", "qwen2_vl") else 4
    assert sites == tuple(
        HeadSite(layer, PATHS[family].format(layer), n_heads=4, head_dim=8, n_kv_heads=grouped) for layer in range(3)
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_the_sum_identity_holds_in_every_dtype(family, dtype):
    module = make_module(family).to(dtype)
    check(module, discover(module))


@pytest.mark.parametrize("family", FAMILIES)
def test_heads_write_into_the_residual_stream_through_their_weights(family):
    module = make_module(family).double()
    site = discover(module)[1]
    z = torch.randn(2, site.n_heads, site.head_dim, dtype=torch.float64)
    parts = torch.einsum("nhd,hdm->nhm", z, _output_weights(module, site))
    bias = _output_bias(module, site)
    assert (bias is None) == (family not in ("gpt2", "bert"))
    total = parts.sum(1) if bias is None else parts.sum(1) + bias
    expected = module.get_submodule(site.path)(z.flatten(1))
    assert torch.allclose(total, expected, rtol=0, atol=1e-12)
    # one head alone: the others are zero
    alone = torch.zeros_like(z)
    alone[:, 2] = z[:, 2]
    shift = module.get_submodule(site.path)(torch.zeros_like(z).flatten(1))
    assert torch.allclose(parts[:, 2], module.get_submodule(site.path)(alone.flatten(1)) - shift, atol=1e-12)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"n_heads": 5}, "5 heads of size 8 make 40 features, but the projection takes 32"),
        ({"head_dim": 4}, "4 heads of size 4 make 16 features, but the projection takes 32"),
        ({"n_heads": 8, "head_dim": 4}, "n_heads is 8, but the attention module says 4"),
        ({"n_heads": 2, "head_dim": 16}, "n_heads is 2, but the attention module says 4"),
        ({"n_kv_heads": 4}, "n_kv_heads is 4, but the attention module says 2"),
        ({"path": "model.layers.1.self_attn.q_proj"}, "path is 'model.layers.1.self_attn.q_proj', but"),
        ({"path": "model.layers.0.self_attn.o_proj"}, "path is 'model.layers.0.self_attn.o_proj', but"),
        ({"path": "model.layers.1.self_attn"}, "LlamaAttention is not a linear map"),
        ({"path": "model.layers.1.attn.o_proj"}, "has no submodule of this path"),
        ({"kind": "linear"}, "kind is 'linear', but the attention module says 'softmax'"),
    ],
)
def test_a_tampered_site_is_refused(changes, text):
    module = make_module("llama")
    sites = list(discover(module))
    sites[1] = dataclasses.replace(sites[1], **changes)
    with pytest.raises(SiteError, match=text):
        check(module, sites)


def test_a_projection_that_is_not_the_sum_of_its_heads_is_refused():
    class Rescaled(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x) * 1.01

    module = make_module("llama")
    layer = module.model.layers[1].self_attn
    layer.o_proj.__class__ = Rescaled
    with pytest.raises(SiteError, match=r"layers\.1\.self_attn\.o_proj: the sum over heads .* differs .* 1e-04"):
        check(module, discover(module))


def test_a_nan_weight_is_refused():
    module = make_module("llama")
    module.model.layers[2].self_attn.o_proj.weight.data[0, 0] = float("nan")
    with pytest.raises(SiteError, match=r"layers\.2\.self_attn\.o_proj: the sum over heads .* differs .* nan"):
        check(module, discover(module))


def test_sites_come_in_order_and_exist():
    module = make_module("llama")
    with pytest.raises(SiteError, match=r"one per layer; got layers \[2, 1, 0\]"):
        check(module, discover(module)[::-1])
    with pytest.raises(SiteError, match="No head sites were given"):
        check(module, ())


def test_weights_that_are_not_loaded_are_refused():
    with torch.device("meta"):
        module = make_module("llama")
    with pytest.raises(SiteError, match="the weights are not loaded"):
        check(module, discover(module))


@pytest.mark.parametrize(
    ("config", "sizes", "layers", "gated"),
    [
        ("Qwen3_5TextConfig", {"head_dim": 16, **RECURRENT}, [3], True),
        ("OlmoHybridConfig", {}, [3], False),
        ("Lfm2Config", {"full_attn_idxs": [1, 3]}, [1, 3], False),
        (
            "MiniMaxConfig",
            {"head_dim": 8, "layer_types": ["linear_attention", "full_attention"] * 2, "num_local_experts": 2},
            [1, 3],
            False,
        ),
    ],
)
def test_linear_attention_and_convolution_are_not_heads(config, sizes, layers, gated):
    module = causal(config, **sizes)
    sites = discover(module)
    assert [site.layer for site in sites] == layers
    assert {site.gated for site in sites} == {gated}
    assert len(block_paths(module, sites)) == 4
    check(module, sites)


def naive_search(module: torch.nn.Module) -> set[int]:
    """Layers that hold a linear map with the name of an output projection: what must not be done."""
    paths = [name for name, part in module.named_modules() if isinstance(part, torch.nn.Linear)]
    return {int(re.findall(r"layers\.(\d+)\.", path)[0]) for path in paths if path.endswith((".o_proj", ".out_proj"))}


@pytest.mark.parametrize("name", ["lfm3", "glm5_next", "qwen3_next", "jamba"])
def test_what_a_search_for_projections_would_take_for_softmax_heads_is_not_taken(name):
    module = build(name)
    assert naive_search(module) == {0, 1, 2, 3}
    sites = discover(module)
    assert [site.layer for site in sites] == [1, 3]
    assert {site.kind for site in sites} == {"softmax"}
    assert not [site for site in discover(module, kinds="all") if ".conv." in site.path or ".mamba." in site.path]


def test_a_layer_that_contradicts_its_configuration_is_refused():
    for name, says, text in [
        (
            "lfm3",
            ["full_attention"] * 4,
            r"layers\.0 \(Lfm3DecoderLayer, 'lfm3'\): .* 'full_attention', but no softmax",
        ),
        ("lfm3", ["conv"] * 4, r"layers\.1 \(Lfm3DecoderLayer, 'lfm3'\): .* 'conv', but the block holds softmax"),
        ("glm5_next", ["indexed_attention"] * 4, r"layers\.0 .* 'indexed_attention', but no softmax"),
    ]:
        module = build(name)
        module.config.layer_types = says
        with pytest.raises(UnsupportedModelError, match=text):
            discover(module)


def test_kinds_are_chosen_by_name():
    module = build("qwen3_5")
    assert [site.kind for site in discover(module, kinds="all")] == ["linear", "softmax"] * 2
    assert discover(module, kinds=["linear", "softmax"]) == discover(module, kinds="all")
    linear = discover(module, kinds="linear")
    assert [(site.layer, site.n_heads, site.head_dim) for site in linear] == [(0, 6, 12), (2, 6, 12)]
    check(module, linear)
    with pytest.raises(UnsupportedModelError, match=r"no cross attention heads; .* of kind linear, softmax"):
        discover(module, kinds="cross")
    with pytest.raises(InputError, match="kinds has 'conv'; choose among 'softmax', 'cross', 'linear', or 'all'"):
        discover(module, kinds="conv")


def test_a_model_knows_all_kinds_and_reads_softmax_heads_by_default():
    model = headprobe.load(build("qwen3_5"), tokenizer=make_tokenizer())
    assert [site.kind for site in model.sites] == ["linear", "softmax"] * 2
    assert model.heads.layers == (1, 3)
    tracer = headprobe.HeadTracer(model)
    acts = tracer.capture(TEXTS[:2], progress=False)
    assert acts.z.shape == (1, 2, 2, 4, 16)
    linear = tracer.capture(TEXTS[:2], heads=["L0H5", "L2H0"], progress=False)
    assert linear.values.shape == (1, 2, 2, 12)


def test_classes_that_are_known_by_name_are_all_among_the_tested_architectures():
    kinds = {type(part) for name in CASES for part in build(name).modules()}
    built = {kind.__name__ for kind in kinds} | {f"{k.__module__.rpartition('.')[2]}.{k.__name__}" for k in kinds}
    assert (attention._SOFTMAX_CLASSES | attention._LINEAR_CLASSES) - built == set()


def test_a_module_that_runs_in_two_layers_is_refused():
    module = make_module("llama")
    module.model.layers[2].self_attn = module.model.layers[0].self_attn
    with pytest.raises(UnsupportedModelError, match=r"Layers 0 and 2 run the same attention module .* 'llama'"):
        discover(module)


class Packed(torch.nn.Linear):
    """What quantised layers look like: integers and a scale instead of the weight."""

    def __init__(self, exact: torch.nn.Linear) -> None:
        super().__init__(exact.in_features, exact.out_features, bias=exact.bias is not None)
        self.scale = exact.weight.detach().abs().max() / 127
        levels = (exact.weight.detach() / self.scale).round().to(torch.int8)
        self.weight = torch.nn.Parameter(levels, requires_grad=False)
        self.bias = exact.bias

    def forward(self, x):
        return torch.nn.functional.linear(x, self.weight.to(x.dtype) * self.scale.to(x.dtype), self.bias)


class PackedLinear(torch.nn.Module):
    """The same from a library that does not derive from Linear: four bits of two numbers in one byte."""

    def __init__(self, exact: torch.nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = exact.in_features, exact.out_features
        self.register_buffer("qweight", torch.zeros(exact.out_features, exact.in_features // 2, dtype=torch.uint8))
        self.exact = [exact]

    def forward(self, x):
        return self.exact[0](x)


@pytest.mark.parametrize("packed", [Packed, PackedLinear])
def test_quantised_projections_are_read_but_not_called_verified(packed):
    exact = headprobe.load(make_module("llama"), tokenizer=make_tokenizer())
    module = make_module("llama")
    for layer in module.model.layers:
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            setattr(layer.self_attn, name, packed(getattr(layer.self_attn, name)))
    assert discover(module) == exact.sites
    with pytest.warns(
        HeadprobeWarning, match=r"3 of 3 output projections are quantised \(first: model.layers.0"
    ) as found:
        model = headprobe.load(module, tokenizer=make_tokenizer())
    assert len(found) == 1
    a, b = (headprobe.HeadTracer(m).capture(TEXTS, progress=False).values for m in (exact, model))
    assert (a - b).norm() < 0.05 * b.norm()
    with pytest.raises(SiteError, match=r"o_proj: Packed\w* is quantised and has no floating point weight matrix"):
        _output_weights(module, model.sites[0])
    wrong = [dataclasses.replace(site, head_dim=4) for site in model.sites]
    with pytest.raises(SiteError, match="4 heads of size 4 make 16 features, but the projection takes 32"):
        check(module, wrong)


class Adapted(torch.nn.Module):
    """What adapter libraries put around a projection: its own sizes and weight, and a low-rank product beside it."""

    def __init__(self, base: torch.nn.Linear) -> None:
        super().__init__()
        self.base_layer = base
        self.in_features, self.out_features = base.in_features, base.out_features
        self.lora_A = torch.nn.Linear(base.in_features, 2, bias=False)
        self.lora_B = torch.nn.Linear(2, base.out_features, bias=False)

    @property
    def weight(self):
        return self.base_layer.weight

    def forward(self, x):
        return self.base_layer(x) + self.lora_B(self.lora_A(x))


class Linear(Adapted):
    """Such classes are often called Linear and are none."""


class OwnLinear(torch.nn.Linear):
    """One that is a Linear by inheritance, with the weight of its base."""

    def __init__(self, base: torch.nn.Linear) -> None:
        super().__init__(base.in_features, base.out_features, bias=False)
        self.base_layer, self.weight = base, base.weight


@pytest.mark.parametrize("kind", [Linear, OwnLinear])
def test_an_adapter_around_the_projection_is_called_one_and_to_be_merged(kind):
    module = make_module("llama")
    for layer in module.model.layers:
        layer.self_attn.o_proj = kind(layer.self_attn.o_proj)
    with pytest.warns(HeadprobeWarning, match=r"3 of 3 .* in an adapter such as LoRA .* Merge the adapter") as found:
        model = headprobe.load(module, tokenizer=make_tokenizer())
    assert len(found) == 1, "it is not called quantised as well"
    assert headprobe.HeadTracer(model).capture(TEXTS[:1], progress=False).z.shape == (1, 1, 3, 4, 8)
    with pytest.raises(SiteError, match=r"an adapter \(\w+\) is wrapped around .* model.merge_and_unload\(\)"):
        _output_weights(module, model.sites[0])


def test_float8_weights_are_not_the_matrix_itself():
    module = make_module("llama")
    for layer in module.model.layers:
        layer.self_attn.o_proj.weight.data = layer.self_attn.o_proj.weight.data.to(torch.float8_e4m3fn)
    with pytest.warns(HeadprobeWarning, match="quantised"):
        check(module, discover(module))


def test_head_size_need_not_be_hidden_over_heads():
    sites = discover(causal("Qwen3Config", head_dim=24))
    assert {(site.n_heads, site.head_dim, site.n_kv_heads) for site in sites} == {(4, 24, 2)}


def test_the_value_size_counts_in_latent_attention():
    module = causal(
        "DeepseekV3Config",
        kv_lora_rank=8,
        q_lora_rank=8,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=12,
        first_k_dense_replace=4,
    )
    assert {site.head_dim for site in discover(module)} == {12}
    check(module, discover(module))


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: causal("MambaConfig"), "'mamba' has no softmax attention block"),
        (
            lambda: transformers.XLNetModel(
                transformers.XLNetConfig(vocab_size=9, d_model=8, n_layer=2, n_head=2, d_inner=8)
            ),
            "'xlnet' has no softmax attention block that can be recognised",
        ),
        (
            lambda: causal("DiffLlamaConfig"),
            r"layers\.0\.self_attn: DiffLlamaAttention has no separate heads: it subtracts pairs of heads",
        ),
        (
            lambda: transformers.CLIPModel(transformers.CLIPConfig(text_config=TOWER, vision_config=TOWER)),
            r"'clip' is a pair of encoders .* model\.vision_model or model\.text_model",
        ),
        (
            lambda: transformers.T5Model(
                transformers.T5Config(vocab_size=9, d_model=8, d_kv=4, num_heads=2, num_layers=1, d_ff=8)
            ),
            "'t5' is an encoder-decoder",
        ),
        (lambda: make_module("gpt2", add_cross_attention=True), r"attention modules \(attn, crossattention\) share"),
        (
            lambda: transformers.AlbertModel(transformers.AlbertConfig(**SIZES, embedding_size=16)),
            "has 4 layers but 1 blocks",
        ),
        (lambda: torch.nn.Linear(3, 3), "'Linear' has no softmax attention block"),
    ],
)
def test_what_is_ambiguous_or_unknown_is_refused_by_name(build, text):
    with pytest.raises(UnsupportedModelError, match=text):
        discover(build())


def test_two_stacks_without_a_text_configuration_are_ambiguous():
    pair = torch.nn.ModuleDict({"a": make_module("llama"), "b": make_module("gpt2")})
    with pytest.raises(UnsupportedModelError, match=r"2 stacks .* \(a.model.layers, b.transformer.h\)"):
        discover(pair)


def test_permuting_heads_permutes_their_weights():
    module = make_module("llama")
    site = discover(module)[0]
    before = _output_weights(module, site).clone()
    order = torch.tensor([2, 0, 3, 1])
    weight = module.get_submodule(site.path).weight
    weight.data = weight.data.unflatten(1, (4, 8))[:, order].flatten(1)
    assert same_bits(_output_weights(module, site), before[order], of="copies of one weight")


def test_block_paths_refuse_a_site_outside_a_stack():
    module = make_module("llama")
    with pytest.raises(SiteError, match="layer 0 is not block 0 of a module list"):
        block_paths(module, [HeadSite(0, "lm_head", 4, 8)])


def test_all_heads_run_over_layers_then_heads():
    assert all_heads(discover(make_module("gpt2"))).labels[3:6] == ("L0H3", "L1H0", "L1H1")
