"""Models with random weights for the benchmarks; only their sizes matter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from headprobe import _torchvision
from headprobe.models.loading import load
from headprobe.models.model import Model

_torchvision.guard()

import transformers  # noqa: E402
from tokenizers import Tokenizer, models, pre_tokenizers  # noqa: E402

SPECIAL = ["<pad>", "<unk>", "</s>", "<|video|>", "<|start|>", "<|end|>"]


@dataclass(frozen=True)
class Size:
    """Sizes of a language stack."""

    layers: int
    heads: int
    head_dim: int
    kv_heads: int
    intermediate: int

    @property
    def width(self) -> int:
        return self.heads * self.head_dim


SMALL_12 = Size(12, 8, 64, 8, 1408)
SMALL_24 = Size(24, 8, 64, 8, 1408)
SMALL_28 = Size(28, 8, 64, 8, 1408)
FULL_28 = Size(28, 28, 128, 4, 18944)


def tokenizer() -> Any:
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *(f"w{i}" for i in range(500))])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="</s>",
        additional_special_tokens=SPECIAL[3:],
    )
    made.chat_template = (
        "{% for c in messages[0]['content'] %}{% if c['type'] == 'video' %}<|start|><|video|><|end|> "
        "{% else %}{{ c['text'] }}{% endif %}{% endfor %} </s>"
    )
    return made


def _text(size: Size) -> dict[str, Any]:
    return {
        "vocab_size": 512,
        "hidden_size": size.width,
        "intermediate_size": size.intermediate,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads,
        "max_position_embeddings": 32768,
        "bos_token_id": None,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }


def _made(build: Any, config: Any, device: str, dtype: torch.dtype) -> Any:
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            return build(config)
    finally:
        torch.set_default_dtype(before)


def text_model(size: Size, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Model:
    config = transformers.Qwen2Config(**_text(size))
    return load(_made(transformers.Qwen2ForCausalLM, config, device, dtype), tokenizer=tokenizer())


def video_model(size: Size, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Model:
    text = _text(size) | {
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e6,
            "mrope_section": [size.head_dim // 8, 3 * size.head_dim // 16, 3 * size.head_dim // 16],
        }
    }
    vision = {
        "depth": 4 if size.width < 1024 else 32,
        "embed_dim": 128 if size.width < 1024 else 1280,
        "hidden_size": size.width,
        "num_heads": 4 if size.width < 1024 else 16,
        "mlp_ratio": 4,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }
    config = transformers.Qwen2VLConfig(
        text_config=text,
        vision_config=vision,
        video_token_id=3,
        vision_start_token_id=4,
        vision_end_token_id=5,
        image_token_id=511,
    )
    packing = {
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "resample": 3,
        "size": {"shortest_edge": 28 * 28, "longest_edge": 1024 * 1024},
        "cap_pixels_per_frame": False,
    }
    module = _made(transformers.Qwen2VLForConditionalGeneration, config, device, dtype)
    return load(module, tokenizer=tokenizer(), processor_config=packing)
