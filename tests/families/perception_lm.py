"""PerceptionLM, whose vision tower is built by the package timm; without that, a small tower stands in for it."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace

import torch
import transformers
from torch import nn
from torch.nn import functional

from families import MEAN, STD, Family, byte_tokenizer, clips, randomise

NAMED = {"image_token": "<|image|>", "video_token": "<|video|>"}
SPECIAL = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", *NAMED.values()]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{% for c in m['content'] %}{% if c['type'] == 'video' %}<|video|>{% else %}{{ c['text'] }}{% endif %}"
    "{% endfor %}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
FRAMES = {
    "size": {"height": 32, "width": 32},
    "image_mean": MEAN,
    "image_std": STD,
    "rescale_factor": 1 / 255,
    "resample": 3,
}


# timm imports torchvision, which is hidden from the tests where it cannot be imported.
TIMM = all(importlib.util.find_spec(name) is not None for name in ("timm", "torchvision"))


class StandInConfig(transformers.PretrainedConfig):
    model_type = "timm_stand_in"

    def __init__(self, model_args=None, **options):
        self.model_args = model_args or {}
        super().__init__(**options)


class StandInAttention(nn.Module):
    """Attention as timm writes it: without a configuration, in a module called attn."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.num_heads = n_heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class StandInBlock(nn.Module):
    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.attn, self.mlp = StandInAttention(width, n_heads), nn.Linear(width, width)

    def forward(self, x):
        x = x + self.attn(x)
        return x + self.mlp(x).tanh()


class StandIn(transformers.PreTrainedModel):
    """A vision tower with the names, the class token and the output of timm's, as transformers wraps it."""

    config_class = StandInConfig

    def __init__(self, config) -> None:
        super().__init__(config)
        side, patch, width, depth, n_heads = (config.model_args[name] for name in STAND_IN)
        tower = self.timm_model = nn.Module()
        embed = tower.patch_embed = nn.Conv2d(3, width, patch, patch)
        embed.img_size, embed.grid_size = tuple(side), tuple(length // patch for length in side)
        tower.blocks = nn.ModuleList(StandInBlock(width, n_heads) for _ in range(depth))
        tower.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        tower.pos_embed = nn.Parameter(torch.zeros(1, embed.grid_size[0] * embed.grid_size[1], width))
        self.post_init()

    def forward(self, pixels, return_dict=True):
        tower = self.timm_model
        x = tower.patch_embed(pixels).flatten(2).transpose(1, 2) + tower.pos_embed
        x = torch.cat([tower.cls_token.expand(len(x), -1, -1), x], 1)
        for block in tower.blocks:
            x = block(x)
        return SimpleNamespace(last_hidden_state=x)


STAND_IN = ("img_size", "patch_size", "embed_dim", "depth", "num_heads")
transformers.AutoConfig.register(StandInConfig.model_type, StandInConfig)
transformers.AutoModel.register(StandInConfig, StandIn)


def tokenizer():
    return byte_tokenizer(SPECIAL, TEMPLATE, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>", **NAMED)


def module(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    known = tokenizer()
    text = {
        "model_type": "llama",
        "vocab_size": len(known),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.3,
        "bos_token_id": None,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    vision = {
        "model_type": "timm_wrapper" if TIMM else StandInConfig.model_type,
        "architecture": "vit_pe_lang_large_patch14_448",
        "do_pooling": False,
        "model_args": {
            "img_size": [32, 32],
            "patch_size": 8,
            "embed_dim": 16,
            "depth": 2,
            "num_heads": 2,
            "ref_feat_shape": [4, 4],
        },
    }
    config = transformers.PerceptionLMConfig(
        text_config=text,
        vision_config=vision,
        projector_pooling_ratio=2,
        **{f"{name}_id": known.convert_tokens_to_ids(token) for name, token in NAMED.items()},
    )
    return randomise(transformers.PerceptionLMForConditionalGeneration(config))


def still(module: torch.nn.Module) -> None:
    for block in module.model.vision_tower.timm_model.blocks:
        for parameter in block.attn.proj.parameters():
            torch.nn.init.zeros_(parameter)


def processor(tokenizer):
    from transformers import PerceptionLMImageProcessor, PerceptionLMProcessor, PerceptionLMVideoProcessor

    return PerceptionLMProcessor(
        image_processor=PerceptionLMImageProcessor(),
        tokenizer=tokenizer,
        video_processor=PerceptionLMVideoProcessor(**FRAMES),
        chat_template=tokenizer.chat_template,
        patch_size=8,
        pooling_ratio=2,
    )


def contents(n: int) -> list:
    return clips(n, 32, 48)


FAMILIES = [
    Family(
        "perception_lm",
        module,
        tokenizer,
        FRAMES,
        contents,
        still,
        processor,
        # transformers' processor stacks clips and cannot take different lengths.
        counts=(3, 3, 3),
    )
]
