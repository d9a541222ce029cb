"""Decoders and encoders of text."""

from __future__ import annotations

import torch
import transformers

from families import Family, byte_tokenizer, randomise

TEXTS = ("a man walks", "The dog runs, and it runs fast!", "car", "Nobody stops on the path at night.")
PROMPTS = ("{text}", "What happens here: {text}", "{text} No.")
# Four heads of 12 features beside a residual stream of 32; two keys and values, where a family shares them.
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def tokenizer():
    return byte_tokenizer((), bos_token="<s>")


def contents(n: int) -> list[str]:
    return [TEXTS[i % len(TEXTS)] for i in range(n)]


def make(config_class: str, encoder: bool = False, **changes):
    """From a seed to a random model of a configuration class."""

    def module(seed: int) -> torch.nn.Module:
        torch.manual_seed(seed)
        config = getattr(transformers, config_class)(vocab_size=len(tokenizer()), **SIZES | changes)
        auto = transformers.AutoModel if encoder else transformers.AutoModelForCausalLM
        return randomise(auto.from_config(config))

    return module


def family(name: str, config_class: str, encoder: bool = False, **changes) -> Family:
    return Family(name, make(config_class, encoder, **changes), tokenizer, None, contents, prompts=PROMPTS)


FAMILIES = [
    family("bert", "BertConfig", encoder=True),
    family("gemma", "GemmaConfig"),
    family("gemma2", "Gemma2Config", sliding_window=8, query_pre_attn_scalar=12),
    family("gemma3_text", "Gemma3TextConfig", sliding_window=8, query_pre_attn_scalar=12),
    family("gpt2", "GPT2Config", n_embd=32, n_layer=3, n_head=4, n_positions=128),
    family("gpt_neox", "GPTNeoXConfig"),
    family("llama", "LlamaConfig"),
    family("mistral", "MistralConfig", sliding_window=8),
    family("qwen2", "Qwen2Config", use_sliding_window=False),
    family("qwen3", "Qwen3Config"),
]
