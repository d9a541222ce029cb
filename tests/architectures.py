"""Tiny random models of many architectures, and the sites of each worked out by hand from its configuration."""

from __future__ import annotations

import torch
import transformers

from headprobe.models.sites import HeadSite

SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.3,
}
SHORT = {**SIZES, "num_hidden_layers": 2}
GROUPED = {**SIZES, "num_key_value_heads": 2}
SHARED = {**SHORT, "num_key_value_heads": 2}
WIDE = {**SHARED, "head_dim": 12}  # not hidden_size / num_attention_heads
EXPERTS = {
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 8,
    "shared_expert_intermediate_size": 8,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
LATENT = {
    **{name: value for name, value in SHORT.items() if name != "num_key_value_heads"},
    **EXPERTS,
    "num_key_value_heads": 4,
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 6,
    "head_dim": 8,
    "v_head_dim": 12,
}
HALVES = ["linear_attention", "full_attention"] * 2
DELTA = {
    "layer_types": HALVES,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 6,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 12,
    "head_dim": 16,
}
GEMMA4 = {
    **GROUPED,
    "head_dim": 8,
    "global_head_dim": 16,
    "num_global_key_value_heads": 1,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "hidden_size_per_layer_input": 0,
    "vocab_size_per_layer_input": 50,
}
LLAMA = "model.layers.{}.self_attn.o_proj"

Row = tuple[tuple[int, ...], str, int, int, "int | None", str, bool]


def rows(path: str, layers, n_heads: int, head_dim: int, n_kv: int | None, kind="softmax", gated=False) -> Row:
    return (tuple(layers), path, n_heads, head_dim, n_kv, kind, gated)


def one(path: str, n_heads=4, head_dim=8, n_kv=4, gated=False) -> list[Row]:
    return [rows(path, range(2), n_heads, head_dim, n_kv, gated=gated)]


LINEAR = rows("model.layers.{}.linear_attn.out_proj", (0, 2), 6, 12, None, "linear", True)
# name: configuration class, what it changes, expected sites
CASES: dict[str, tuple[str, dict, list[Row]]] = {
    "llama": ("LlamaConfig", WIDE, one(LLAMA, 4, 12, 2)),
    "mistral": ("MistralConfig", {**WIDE, "sliding_window": 3}, one(LLAMA, 4, 12, 2)),
    "qwen3": ("Qwen3Config", WIDE, one(LLAMA, 4, 12, 2)),
    "phi3": ("Phi3Config", SHARED, one(LLAMA, 4, 8, 2)),
    "olmo2": ("Olmo2Config", SHARED, one(LLAMA, 4, 8, 2)),
    "cohere": ("CohereConfig", {**SHARED, "use_qk_norm": True}, one(LLAMA, 4, 8, 2)),
    "granite": ("GraniteConfig", SHARED, one(LLAMA, 4, 8, 2)),
    "gemma3": ("Gemma3TextConfig", WIDE, one(LLAMA, 4, 12, 2)),
    "glm4": ("Glm4Config", WIDE, one(LLAMA, 4, 12, 2)),
    "gpt_oss": ("GptOssConfig", {**WIDE, **EXPERTS}, one(LLAMA, 4, 12, 2)),
    "gpt_neox": ("GPTNeoXConfig", SHORT, one("gpt_neox.layers.{}.attention.dense")),
    "falcon": (
        "FalconConfig",
        {**SHORT, "new_decoder_architecture": True, "num_kv_heads": 2},
        one("transformer.h.{}.self_attention.dense", 4, 8, 2),
    ),
    "gpt_bigcode": (
        "GPTBigCodeConfig",
        {**SHORT, "n_embd": 32, "n_layer": 2, "n_head": 4},
        one("transformer.h.{}.attn.c_proj", 4, 8, 1),
    ),
    "bitnet": ("BitNetConfig", SHARED, one(LLAMA, 4, 8, 2)),
    # softmax written out in the class
    "bloom": ("BloomConfig", {**SHORT, "n_head": 4, "n_layer": 2}, one("transformer.h.{}.self_attention.dense")),
    "gptj": (
        "GPTJConfig",
        {**SHORT, "n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4},
        one("transformer.h.{}.attn.out_proj"),
    ),
    "gpt_neo": (
        "GPTNeoConfig",
        {**SHORT, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": 3},
        one("transformer.h.{}.attn.attention.out_proj"),
    ),
    "codegen": (
        "CodeGenConfig",
        {**SHORT, "n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4},
        one("transformer.h.{}.attn.out_proj"),
    ),
    "mpt": (
        "MptConfig",
        {**SHORT, "d_model": 32, "n_heads": 4, "n_layers": 2},
        one("transformer.blocks.{}.attn.out_proj"),
    ),
    "xglm": (
        "XGLMConfig",
        {**SHORT, "d_model": 32, "num_layers": 2, "attention_heads": 4, "ffn_dim": 24},
        one("model.layers.{}.self_attn.out_proj"),
    ),
    "deberta": ("DebertaConfig", {**SHORT, "relative_attention": True}, one("encoder.layer.{}.attention.output.dense")),
    "deberta_v2": (
        "DebertaV2Config",
        {**SHORT, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
        one("encoder.layer.{}.attention.output.dense"),
    ),
    "mpnet": ("MPNetConfig", SHORT, one("encoder.layer.{}.attention.attn.o")),
    "rembert": ("RemBertConfig", {**SHORT, "input_embedding_size": 16}, one("encoder.layer.{}.attention.output.dense")),
    "big_bird": (
        "BigBirdConfig",
        {**SHORT, "attention_type": "original_full"},
        one("encoder.layer.{}.attention.output.dense"),
    ),
    "longformer": (
        "LongformerConfig",
        {**SHORT, "attention_window": [8, 8]},
        one("encoder.layer.{}.attention.output.dense"),
    ),
    "openai_gpt": (
        "OpenAIGPTConfig",
        {**SHORT, "n_embd": 32, "n_layer": 2, "n_head": 4},
        one("transformer.h.{}.attn.c_proj"),
    ),
    # a list of attention modules, without blocks around them
    "flaubert": ("FlaubertConfig", {**SHORT, "emb_dim": 32, "n_layers": 2, "n_heads": 4}, one("attentions.{}.out_lin")),
    "xlm": ("XLMConfig", {**SHORT, "emb_dim": 32, "n_layers": 2, "n_heads": 4}, one("attentions.{}.out_lin")),
    "roformer": ("RoFormerConfig", SHORT, one("encoder.layer.{}.attention.output.dense")),
    "megatron_bert": ("MegatronBertConfig", SHORT, one("encoder.layer.{}.attention.output.dense")),
    "t5_encoder": (
        "T5Config",
        {"vocab_size": 50, "d_model": 32, "d_kv": 12, "num_heads": 4, "num_layers": 2, "d_ff": 24},
        one("encoder.block.{}.layer.0.SelfAttention.o", 4, 12, 4),
    ),
    # no q_proj, and the size of a value is not that of a query
    "deepseek_v3": ("DeepseekV3Config", LATENT, one(LLAMA, 4, 12, 4)),
    "deepseek_v32": (
        "DeepseekV32Config",
        {**LATENT, "index_n_heads": 2, "index_head_dim": 16, "index_topk": 4},
        one(LLAMA, 4, 12, 4),
    ),
    # heads of several sizes or kinds
    "gemma4": (
        "Gemma4TextConfig",
        GEMMA4,
        [rows(LLAMA, (0, 2), 4, 8, 2), rows(LLAMA, (1, 3), 4, 16, 2)],
    ),
    "gemma4_shared": (  # the last two layers have queries only and use the keys and values of earlier ones
        "Gemma4TextConfig",
        {**GEMMA4, "num_kv_shared_layers": 2},
        [rows(LLAMA, (0, 2), 4, 8, 2), rows(LLAMA, (1, 3), 4, 16, 2)],
    ),
    "mimo_v2": (
        "MiMoV2FlashConfig",
        {
            **GROUPED,
            **EXPERTS,
            "head_dim": 12,
            "v_head_dim": 10,
            "swa_num_attention_heads": 4,
            "swa_num_key_value_heads": 4,
            "layer_types": ["full_attention", "sliding_attention"] * 2,
        },
        [rows(LLAMA, (0, 2), 4, 10, 2), rows(LLAMA, (1, 3), 4, 10, 4)],
    ),
    "qwen3_next": (
        "Qwen3NextConfig",
        {**GROUPED, **EXPERTS, **DELTA},
        [rows(LLAMA, (1, 3), 4, 16, 2, gated=True), LINEAR],
    ),
    "qwen3_5": (
        "Qwen3_5TextConfig",
        {**GROUPED, **DELTA},
        [rows(LLAMA, (1, 3), 4, 16, 2, gated=True), LINEAR],
    ),
    "qwen3_5_moe": (
        "Qwen3_5MoeTextConfig",
        {**GROUPED, **EXPERTS, **DELTA},
        [rows(LLAMA, (1, 3), 4, 16, 2, gated=True), LINEAR],
    ),
    "olmo_hybrid": (
        "OlmoHybridConfig",
        {**GROUPED, **DELTA, "linear_num_value_heads": 2, "head_dim": 8},
        [
            rows(LLAMA, (1, 3), 4, 8, 2),
            rows("model.layers.{}.linear_attn.o_proj", (0, 2), 2, 12, None, "linear", True),
        ],
    ),
    "minimax": (
        "MiniMaxConfig",
        {**GROUPED, **EXPERTS, "head_dim": 12, "layer_types": HALVES, "block_size": 4},
        [
            rows(LLAMA, (1, 3), 4, 12, 2),
            rows("model.layers.{}.self_attn.out_proj", (0, 2), 4, 12, None, "linear", True),
        ],
    ),
    "kimi_linear": (
        "KimiLinearConfig",
        {
            **LATENT,
            "num_hidden_layers": 4,
            "layer_types": HALVES,
            "linear_num_heads": 6,
            "linear_head_dim": 10,
        },
        [rows(LLAMA, (1, 3), 4, 12, 4), rows(LLAMA, (0, 2), 6, 10, None, "linear", True)],
    ),
    "bailing_hybrid": (
        "BailingHybridConfig",
        {
            **LATENT,
            "num_hidden_layers": 4,
            "layer_types": HALVES,
            "linear_num_heads": 6,
            "linear_head_dim": 10,
        },
        [rows(LLAMA, (1, 3), 4, 12, 4, gated=True), rows(LLAMA, (0, 2), 6, 10, None, "linear", True)],
    ),
    "glm5_next": (
        "Glm5NextTextConfig",
        {
            **LATENT,
            "num_hidden_layers": 4,
            "layer_types": ["linear_attention", "indexed_attention"] * 2,
            "qk_rope_head_dim": 0,
            "head_dim": 0,
            "index_n_heads": 2,
            "index_head_dim": 8,
            "index_topk": 16,
            "index_kpool": 4,
            "linear_num_heads": 6,
            "linear_head_dim": 10,
        },
        [
            rows("layers.{}.self_attn.o_proj", (1, 3), 4, 12, 4),
            rows("layers.{}.self_attn.o_proj", (0, 2), 6, 10, None, "linear", True),
        ],
    ),
    # softmax attention beside convolutions and state spaces, which have no heads
    "lfm2": (
        "Lfm2Config",
        {**GROUPED, "layer_types": ["conv", "full_attention"] * 2},
        [rows("model.layers.{}.self_attn.out_proj", (1, 3), 4, 8, 2)],
    ),
    "lfm3": (
        "Lfm3Config",
        {**GROUPED, "head_dim": 12, "layer_types": ["conv", "full_attention"] * 2},
        [rows(LLAMA, (1, 3), 4, 12, 2, gated=True)],
    ),
    "jamba": (
        "JambaConfig",
        {**GROUPED, **EXPERTS, "attn_layer_period": 2, "attn_layer_offset": 1, "mamba_dt_rank": 2, "mamba_d_state": 4},
        [rows(LLAMA, (1, 3), 4, 8, 2)],
    ),
    "bamba": (
        "BambaConfig",
        {**GROUPED, "attn_layer_indices": [1], "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 4},
        [rows(LLAMA, (1,), 4, 8, 2)],
    ),
    "falcon_h1": (  # attention and a state space side by side in every block
        "FalconH1Config",
        {**SHARED, "head_dim": 12, "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 4},
        one(LLAMA, 4, 12, 2),
    ),
    "granite_hybrid": (
        "GraniteMoeHybridConfig",
        {
            **GROUPED,
            **EXPERTS,
            "layer_types": ["mamba", "attention"] * 2,
            "mamba_n_heads": 8,
            "mamba_d_head": 8,
            "mamba_d_state": 4,
        },
        [rows(LLAMA, (1, 3), 4, 8, 2)],
    ),
    "recurrent_gemma": (
        "RecurrentGemmaConfig",
        {
            **GROUPED,
            "num_hidden_layers": 3,
            "head_dim": 8,
            "lru_width": 32,
            "block_types": ["recurrent", "recurrent", "attention"],
        },
        [rows("model.layers.{}.temporal_block.o_proj", (2,), 4, 8, 2)],
    ),
    "mllama": (
        "MllamaTextConfig",
        {**GROUPED, "cross_attention_layers": [2]},
        [
            rows(LLAMA, (0, 1, 3), 4, 8, 2),
            rows("model.layers.{}.cross_attn.o_proj", (2,), 4, 8, 2, "cross"),
        ],
    ),
}
ENCODERS = {"big_bird", "deberta", "deberta_v2", "flaubert", "longformer", "mpnet", "rembert", "roformer"}
ENCODERS |= {"megatron_bert", "xlm"}


def build(name: str) -> torch.nn.Module:
    config_class, changes, _ = CASES[name]
    torch.manual_seed(0)
    config = getattr(transformers, config_class)(**changes)
    if name == "t5_encoder":
        module = transformers.T5EncoderModel(config)
    elif name == "mllama":
        module = transformers.MllamaForCausalLM(config)
    elif name in ENCODERS or name == "glm5_next":
        module = transformers.AutoModel.from_config(config)
    else:
        module = transformers.AutoModelForCausalLM.from_config(config)
    for parameter in module.parameters():
        if parameter.ndim == 1 and bool((parameter == parameter[0]).all()):
            torch.nn.init.normal_(parameter, mean=parameter[0].item(), std=0.1)
    return module.eval()


def expected(name: str) -> tuple[HeadSite, ...]:
    sites = [
        HeadSite(layer, path.format(layer), n_heads, head_dim, kind, gated, n_kv)
        for layers, path, n_heads, head_dim, n_kv, kind, gated in CASES[name][2]
        for layer in layers
    ]
    return tuple(sorted(sites, key=lambda site: site.layer))
