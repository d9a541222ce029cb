"""What one short pass shows at load: models that are read wrongly without it, each built in code."""

from __future__ import annotations

import types
import warnings

import pytest
import torch
import transformers
from equality import close
from tiny_models import TEXTS, VOCAB_SIZE, make_module, make_tokenizer
from torch import nn
from transformers.models.kosmos2.configuration_kosmos2 import Kosmos2TextConfig
from transformers.models.kosmos2.modeling_kosmos2 import Kosmos2TextForCausalLM
from transformers.models.kosmos2_5.configuration_kosmos2_5 import Kosmos2_5TextConfig
from transformers.models.kosmos2_5.modeling_kosmos2_5 import Kosmos2_5TextForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

import headprobe
from headprobe import HeadSite, HeadTracer
from headprobe.errors import HeadprobeWarning, InputError, SiteError, UnsupportedModelError
from headprobe.models import adapter as registry
from headprobe.models.vision_tower import VisionTowerAdapter

KOSMOS = {"embed_dim": 32, "layers": 2, "ffn_dim": 32, "attention_heads": 4, "max_position_embeddings": 64}
LLAMA = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}


def llama(module_class=transformers.LlamaForCausalLM):
    torch.manual_seed(0)
    return module_class(transformers.LlamaConfig(**LLAMA)).eval()


def load(module, **options):
    return headprobe.load(module, tokenizer=make_tokenizer(), **options)


def written_out(mixing):
    """Softmax attention as a stranger writes it: a class of its own, with the heads laid out by ``mixing``."""

    def forward(self, hidden_states, **_):
        size = (*hidden_states.shape[:2], 4, 8)
        q, k, v = (p(hidden_states).view(size).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
        hidden = torch.ones(size[1], size[1]).triu(1).bool()
        weights = torch.softmax((q @ k.mT).masked_fill(hidden, -1e9), -1)
        return self.o_proj(mixing(weights, v).flatten(2)), None

    return forward


MIXINGS = {
    "one after the other": lambda w, v: (w @ v).transpose(1, 2),
    "einsum": lambda w, v: torch.einsum("bhqk,bhkd->bqhd", w, v),
    "interleaved": lambda w, v: (w @ v).permute(0, 2, 3, 1),
    "reversed": lambda w, v: torch.einsum("bhqk,bhkd->bqhd", w, v).flip(2),
    "differences": lambda w, v: (w @ v - 0.5 * (w @ v).roll(1, 1)).transpose(1, 2),
}


def strange(mixing):
    module = llama()
    for block in module.model.layers:
        # A class of this name is taken for softmax attention.
        kind = type("BloomAttention", (type(block.self_attn),), {"forward": written_out(MIXINGS[mixing])})
        block.self_attn.__class__ = kind
    return module


@pytest.mark.parametrize("mixing", ["one after the other", "einsum"])
def test_heads_that_lie_one_after_the_other_pass_however_they_are_written(mixing):
    with warnings.catch_warnings():
        warnings.simplefilter("error", HeadprobeWarning)
        assert len(load(strange(mixing)).heads) == 8


@pytest.mark.parametrize(
    ("mixing", "said"),
    [
        ("interleaved", r"head 1 changes features 1 to 29 \(8 of 32\) .* 8 to 15: the heads are interleaved"),
        ("reversed", r"head 1 changes features 16 to 23 \(8 of 32\) .* mixes the heads or orders them differently"),
        ("differences", r"head 1 changes features 8 to 23 \(16 of 32\) .* mixes the heads"),
    ],
)
def test_a_slice_that_is_not_one_head_is_refused(mixing, said):
    with pytest.raises(SiteError, match=rf"model\.layers\.0\.self_attn\.o_proj: .*{said}.*check=False"):
        load(strange(mixing))
    assert len(load(strange(mixing), check=False).heads) == 8


def test_every_head_that_is_changed_is_seen_in_half_precision_too():
    for mixing in ("interleaved", "reversed", "differences"):
        with pytest.raises(SiteError, match="So a slice is not one head"):
            load(strange(mixing), dtype="bfloat16")
    assert len(load(strange("einsum"), dtype="bfloat16").heads) == 8


def test_a_norm_over_all_heads_is_named():
    config = Kosmos2TextConfig(vocab_size=VOCAB_SIZE, **KOSMOS)
    with pytest.raises(SiteError, match=r"inner_attn_ln \(LayerNorm\) normalises over all heads"):
        load(Kosmos2TextForCausalLM(config))


def test_positions_that_start_elsewhere_than_the_models_own_are_refused():
    torch.manual_seed(0)
    module = Kosmos2_5TextForCausalLM(Kosmos2_5TextConfig(vocab_size=VOCAB_SIZE, **KOSMOS))
    with pytest.raises(UnsupportedModelError, match=r"position ids \(0 to 2\) .*that the model takes by itself"):
        load(module)


class Prompted(transformers.LlamaForCausalLM):
    """Learned tokens in front of the text, as prompt tuning puts them."""

    def __init__(self, config):
        super().__init__(config)
        self.learned = nn.Parameter(torch.randn(1, 5, config.hidden_size))

    def forward(self, input_ids, attention_mask, use_cache=False):
        n = len(input_ids)
        embedded = torch.cat([self.learned.expand(n, -1, -1), self.get_input_embeddings()(input_ids)], 1)
        mask = torch.cat([attention_mask.new_ones(n, 5), attention_mask], 1)
        return super().forward(inputs_embeds=embedded, attention_mask=mask, use_cache=use_cache)


def test_tokens_that_a_model_adds_are_refused_at_load_and_at_capture():
    with pytest.raises(SiteError, match=r"the model has 8 tokens in 2 rows here, but its inputs have 3 tokens in 2"):
        load(llama(Prompted))
    tracer = HeadTracer(load(llama(Prompted), check=False))
    with pytest.raises(SiteError, match=r"o_proj: the model has 8 tokens here, but its inputs have 3; a position"):
        tracer.capture(["a man walks"], progress=False)


def test_a_tower_with_registers_needs_an_adapter_that_counts_them(monkeypatch):
    config = transformers.Dinov2WithRegistersConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, image_size=16, patch_size=8, num_register_tokens=3
    )
    module = transformers.Dinov2WithRegistersModel(config)
    monkeypatch.setitem(registry._registry, config.model_type, VisionTowerAdapter("dinov2", has_class_token=True))
    with pytest.raises(SiteError, match=r"the model has 8 tokens in 2 rows here, but its inputs have 5 tokens in 2"):
        headprobe.load(module)


class Twice(LlamaDecoderLayer):
    def forward(self, hidden_states, **options):
        return super().forward(super().forward(hidden_states, **options), **options)


class Skipped(LlamaDecoderLayer):
    def forward(self, hidden_states, **_):
        return hidden_states


def test_a_block_that_runs_several_times_is_refused_by_name():
    module = llama()
    module.model.layers[1].__class__ = Twice
    with pytest.raises(SiteError, match=r"model\.layers\.1\.self_attn\.o_proj: layer 1 runs 2 times in one forward"):
        load(module)


def test_a_block_that_never_runs_is_refused_by_name_and_the_others_can_be_read():
    module = llama()
    module.model.layers[1].__class__ = Skipped
    with pytest.raises(SiteError, match=r"layers\.1\.self_attn\.o_proj: .* never calls .* layer 1 \(LlamaAttention\)"):
        load(module)
    model = load(module, sites=[HeadSite(0, "model.layers.0.self_attn.o_proj", 4, 8)])
    assert HeadTracer(model).capture(TEXTS, progress=False).z.shape == (1, 4, 1, 4, 8)
    with pytest.raises(SiteError, match=r"model\.layers\.1\.self_attn\.o_proj: the forward pass ended without"):
        HeadTracer(load(module, check=False)).capture(TEXTS, progress=False)


class Encoder(nn.Module):
    """torch's own encoder, with the two lines of configuration that a plain module needs."""

    def __init__(self):
        super().__init__()
        self.config = types.SimpleNamespace(model_type="bert", vocab_size=VOCAB_SIZE, max_position_embeddings=64)
        self.embed = nn.Embedding(VOCAB_SIZE, 32)
        layer = nn.TransformerEncoderLayer(32, 4, 24, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, input_ids, attention_mask):
        return (self.encoder(self.embed(input_ids), src_key_padding_mask=attention_mask == 0),)


def test_torchs_own_encoder_is_refused_because_its_projection_is_never_called():
    sites = [HeadSite(i, f"encoder.layers.{i}.self_attn.out_proj", 4, 8) for i in range(2)]
    with pytest.raises(SiteError, match=r"never calls .* \(MultiheadAttention\).*as nn\.MultiheadAttention does"):
        load(Encoder(), sites=sites)


@pytest.mark.parametrize("name", ["Olmo3", "Llama", "Bert"])
def test_a_classifier_is_loaded_and_read(name):
    config = getattr(transformers, f"{name}Config")(**LLAMA, bos_token_id=1, eos_token_id=2)
    model = load(getattr(transformers, f"{name}ForSequenceClassification")(config))
    tracer = HeadTracer(model)
    together = tracer.capture(TEXTS, progress=False).z
    alone = torch.cat([tracer.capture([text], progress=False).z for text in TEXTS], 1)
    assert (together - alone).abs().max() < 1e-4 * alone.abs().max()


@pytest.mark.parametrize("name", ["GPT2", "Llama", "Bert"])
def test_the_logits_of_a_classifier_are_answers_by_the_names_of_its_labels(name, tmp_path):
    labels = {0: "calm", 1: "violent", 2: "unclear"}
    size = LLAMA | {"bos_token_id": 1, "eos_token_id": 2, "id2label": labels, "pad_token_id": 0}
    config = getattr(transformers, f"{name}Config")(**size)
    module = getattr(transformers, f"{name}ForSequenceClassification")(config)
    model = load(module)
    acts = HeadTracer(model).capture(TEXTS, answers=["unclear", "calm"], progress=False)
    assert acts.answers == ("unclear", "calm")
    for row, text in enumerate(TEXTS):
        ids = torch.tensor([model.tokenizer(text)["input_ids"]])
        with torch.no_grad():
            own = module(input_ids=ids).logits[0, [2, 0]]
        assert close(acts.answer_logits[0, row], own)
    with pytest.raises(InputError, match=r"'yes' is no label of .*choose among 'calm', 'violent', 'unclear'"):
        HeadTracer(model).capture(TEXTS, answers=["yes"], progress=False)
    with pytest.raises(InputError, match="'calm' is given twice"):
        HeadTracer(model).capture(TEXTS, answers=["calm", "calm"], progress=False)
    # A checkpoint of a classifier loads as one, also where the family has an adapter for its language model.
    module.save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    again = headprobe.load(tmp_path)
    assert type(again.module) is type(module)
    read = HeadTracer(again).capture(TEXTS, answers=["calm"], progress=False)
    assert close(read.answer_logits[0], acts.answer_logits[0, :, 1:])


def test_what_a_model_says_about_a_pass_is_passed_on_with_a_way_out():
    config = transformers.XmodConfig(**LLAMA)
    with pytest.raises(UnsupportedModelError, match=r"'xmod' \(XmodModel\) cannot run a short pass .*set_default_lang"):
        load(transformers.XmodModel(config))
    module = transformers.XmodModel(config)
    module.set_default_language("en_XX")
    assert len(load(module).heads) == 8


def test_the_arguments_of_a_forward_that_hands_all_on_are_those_of_the_one_behind_it():
    class Wrapped(transformers.LlamaForCausalLM):
        def forward(self, *args, **kwargs):
            return super().forward(*args, **kwargs)

    assert load(llama(Wrapped)).accepts - {"args"} == load(llama()).accepts

    class Renamed(transformers.LlamaForCausalLM):
        def forward(self, ids, **kwargs):
            return super().forward(input_ids=ids, **kwargs)

    with pytest.raises(UnsupportedModelError, match=r"its forward names no argument input_ids, so no pass .*check=F"):
        load(llama(Renamed))


def test_running_out_of_memory_is_not_called_a_fault_of_the_family(monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    module = llama()
    monkeypatch.setattr(module.model, "forward", full)
    with pytest.raises(torch.OutOfMemoryError):
        load(module)


def by_hand():
    """Sites of a model whose attention nobody recognises."""
    module = llama()
    for block in module.model.layers:
        block.self_attn.__class__ = type("Own", (type(block.self_attn),), {"forward": written_out(MIXINGS["einsum"])})
    return module, [HeadSite(i, f"model.layers.{i}.self_attn.o_proj", 4, 8) for i in range(2)]


def test_another_number_of_heads_than_the_attention_computes_is_refused():
    module, sites = by_hand()
    wrong = [HeadSite(site.layer, site.path, 8, 4) for site in sites]
    assert len(load(module, sites=sites).heads) == 8
    with pytest.raises(SiteError, match="the site says 8 heads of size 4, but the attention computes 4 of size 8"):
        load(module, sites=wrong)


def test_attention_that_cannot_be_followed_is_said(monkeypatch):
    module, sites = by_hand()
    monkeypatch.setattr(torch, "softmax", lambda x, dim: torch.exp(x) / torch.exp(x).sum(dim, keepdim=True))
    with pytest.warns(HeadprobeWarning, match=r"in 2 of 2 layers \(first: model\.layers\.0\..* is not verified"):
        load(module, sites=sites)


def test_a_fused_kernel_is_checked_with_the_plain_implementation():
    @torch.library.custom_op("headprobe_test::fused", mutates_args=())
    def fused(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).contiguous()

    ran = []

    def attend(module, query, key, value, attention_mask, **_):
        ran.append(module)
        return torch.ops.headprobe_test.fused(query, key, value), None

    transformers.AttentionInterface.register("headprobe_fused", attend)
    module = llama()
    module.config._attn_implementation = "headprobe_fused"
    with warnings.catch_warnings():
        warnings.simplefilter("error", HeadprobeWarning)
        model = load(module)
    assert ran
    assert module.config._attn_implementation == "headprobe_fused"
    assert len(model.heads) == 8


def n_hooks(module):
    return sum(len(part._forward_pre_hooks) + len(part._forward_hooks) for part in module.modules())


def test_the_checks_leave_no_hook_behind_and_cost_two_short_passes(monkeypatch):
    seen = []
    module = make_module("llama")
    before, hooks = module.forward, n_hooks(module)
    monkeypatch.setattr(
        module, "forward", lambda **inputs: (seen.append(tuple(inputs["input_ids"].shape)), before(**inputs))[1]
    )
    load(module)
    assert seen == [(2, 3), (2, 3)]
    assert n_hooks(module) == hooks
