"""Text families beyond those of the contract: heads equal plain hooks, and a batch equals its single texts."""

from __future__ import annotations

import pytest
import torch
import transformers
from equality import close, same_bits
from families import randomise
from families.text import FAMILIES, SIZES, contents, tokenizer
from tiny_models import by_head, hooked, hooks

import headprobe
from headprobe import HeadTracer
from headprobe.errors import InputError
from headprobe.models import text

EXPERTS = {
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "decoder_sparse_step": 1,
}
OLD = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 128, "rotary_dim": 4}
LATENT = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 6,
    "head_dim": 8,
    "v_head_dim": 12,
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
DECODERS = {
    "bloom": ("BloomConfig", {"n_layer": 3, "n_head": 4}),
    "codegen": ("CodeGenConfig", OLD),
    "cohere": ("CohereConfig", {}),
    "deepseek_v3": ("DeepseekV3Config", EXPERTS | LATENT),
    "falcon": ("FalconConfig", {"head_dim": None, "new_decoder_architecture": True, "num_kv_heads": 2}),
    "glm4": ("Glm4Config", {}),
    "gpt_neo": (
        "GPTNeoConfig",
        {"num_layers": 3, "num_heads": 4, "attention_types": [[["global", "local", "global"], 1]], "window_size": 8},
    ),
    "gpt_oss": ("GptOssConfig", EXPERTS),
    "gptj": ("GPTJConfig", OLD),
    "granite": ("GraniteConfig", {}),
    "mixtral": ("MixtralConfig", EXPERTS),
    "mpt": ("MptConfig", {"d_model": 32, "n_heads": 4, "n_layers": 3, "max_seq_len": 128}),
    "olmo": ("OlmoConfig", {}),
    "olmo2": ("Olmo2Config", {}),
    "openai-gpt": ("OpenAIGPTConfig", {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 128}),
    "opt": ("OPTConfig", {"ffn_dim": 24, "word_embed_proj_dim": 32}),
    "phi": ("PhiConfig", {"partial_rotary_factor": 0.5}),
    "phi3": ("Phi3Config", {}),
    "qwen2_moe": ("Qwen2MoeConfig", EXPERTS),
    "qwen3_moe": ("Qwen3MoeConfig", EXPERTS),
    "smollm3": ("SmolLM3Config", {}),
    "stablelm": ("StableLmConfig", {"head_dim": None, "partial_rotary_factor": 0.5}),
    "starcoder2": ("Starcoder2Config", {}),
    "xglm": ("XGLMConfig", {"d_model": 32, "num_layers": 3, "attention_heads": 4, "ffn_dim": 24}),
}
ENCODERS = {
    "big_bird": ("BigBirdConfig", {"attention_type": "original_full"}),
    "camembert": ("CamembertConfig", {"pad_token_id": 1}),
    "deberta": ("DebertaConfig", {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}),
    "deberta-v2": ("DebertaV2Config", {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}),
    "distilbert": ("DistilBertConfig", {"dim": 32, "hidden_dim": 24, "n_layers": 3, "n_heads": 4}),
    "electra": ("ElectraConfig", {"embedding_size": 16}),
    "modernbert": ("ModernBertConfig", {"head_dim": None, "local_attention": 8, "global_attn_every_n_layers": 2}),
    "mpnet": ("MPNetConfig", {"pad_token_id": 1}),
    "roberta": ("RobertaConfig", {"pad_token_id": 1}),
    "xlm-roberta": ("XLMRobertaConfig", {"pad_token_id": 1}),
}


def load(name: str):
    config_class, changes = (DECODERS | ENCODERS)[name]
    torch.manual_seed(0)
    words = tokenizer()
    if changes.get("pad_token_id") == 1:  # the padding id decides where these begin to count positions
        words.bos_token, words.pad_token = words.pad_token, words.bos_token
    options = {k: v for k, v in (SIZES | {"vocab_size": len(words)} | changes).items() if v is not None}
    auto = transformers.AutoModel if name in ENCODERS else transformers.AutoModelForCausalLM
    module = auto.from_config(getattr(transformers, config_class)(**options))
    return headprobe.load(randomise(module), tokenizer=words)


def test_every_registered_family_is_tested():
    contract = {family.name for family in FAMILIES}
    assert {*text._DECODERS, *text._ENCODERS} == contract | DECODERS.keys() | ENCODERS.keys()
    assert contract == text._IN_CONTRACT


@pytest.mark.parametrize("name", [*DECODERS, *ENCODERS])
def test_a_batch_reads_what_hooks_read_and_what_its_single_texts_read(name):
    model = load(name)
    assert model.adapter.name == ("text-encoder" if name in ENCODERS else "text-decoder")
    tracer, texts = HeadTracer(model), contents(3)
    with hooks(model) as taken:
        acts = tracer.capture(texts, batch_size=3, progress=False)
    batch = model.adapter.prepare(texts, "", model)
    seen, other = by_head(taken, model), by_head(hooked(model, batch), model)
    ends = [int(mask.nonzero()[-1]) for mask in batch.token_info.mask]
    for column, site in enumerate(model.sites):
        for row, end in enumerate(ends):
            assert same_bits(acts.z[0, row, column], seen[site.layer][row, end], of="one pass"), (site.path, row)
            assert close(acts.z[0, row, column], other[site.layer][row, end]), (site.path, row)
    for row, one in enumerate(texts):
        alone = tracer.capture([one], progress=False).values
        assert (acts.values[:, row] - alone[:, 0]).abs().max() < 1e-4 * alone.abs().max(), row


@pytest.mark.parametrize("name", ["roberta", "mpnet", "bert", "gpt2"])
def test_the_longest_text_runs_and_one_token_more_is_refused(name):
    model = load(name) if name in ENCODERS else next(f for f in FAMILIES if f.name == name).load()
    usable = 128 - 2 * (name in ("roberta", "mpnet"))  # positions up to the padding id, and it itself, are not used
    acts = HeadTracer(model).capture(["x" * usable], progress=False)
    assert torch.isfinite(acts.values).all()
    with pytest.raises(InputError, match=f"A text has {usable + 1} tokens, but .* has {usable} positions; shorten it"):
        HeadTracer(model).capture(["x" * (usable + 1)], progress=False)
