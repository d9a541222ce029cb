"""The embedded model's configuration and tokenizer, and a training-speed forward pass over the same weights.

The library class loops over frame slices and builds masks for every call; for training, the same arithmetic is written
out over one batch of equal clips. ``train.py`` refuses to start unless both give the same logits.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from questions import SPECIAL, vocabulary
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, Qwen2VLConfig, Qwen2VLForConditionalGeneration

from headprobe.video._scene_drawing import HEIGHT, WIDTH
from headprobe.video.scenes import CLIP_FRAMES

MEAN, STD = 0.45, 0.25
TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif part['type'] == 'text' %} {{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %} <|answer|>{% endif %}"
)


def tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer over the questions' vocabulary."""
    words = {word: index for index, word in enumerate(vocabulary())}
    raw = Tokenizer(models.WordLevel(words, unk_token="<|unk|>"))
    raw.normalizer = normalizers.Lowercase()
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<|pad|>",
        eos_token="<|eos|>",
        unk_token="<|unk|>",
        additional_special_tokens=list(SPECIAL[3:]),
        padding_side="left",
        model_max_length=512,
    )
    fast.chat_template = TEMPLATE
    return fast


def configuration(model: dict[str, Any]) -> Qwen2VLConfig:
    """The tiny Qwen2-VL configuration that ``config.toml`` asks for."""
    token = {name: index for index, name in enumerate(SPECIAL)}
    head = model["text_hidden"] // model["text_heads"]
    spatial = 3 * (head // 2) // 8
    text = dict(
        vocab_size=len(vocabulary()),
        hidden_size=model["text_hidden"],
        intermediate_size=model["text_intermediate"],
        num_hidden_layers=model["text_layers"],
        num_attention_heads=model["text_heads"],
        num_key_value_heads=model["text_heads"],
        max_position_embeddings=512,
        rms_norm_eps=1e-6,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 10_000.0,
            "mrope_section": [head // 2 - 2 * spatial, spatial, spatial],
        },
        bos_token_id=None,
        eos_token_id=token["<|eos|>"],
        pad_token_id=token["<|pad|>"],
        tie_word_embeddings=True,
    )
    vision = dict(
        depth=model["vision_layers"],
        embed_dim=model["vision_hidden"],
        hidden_size=model["text_hidden"],
        num_heads=model["vision_heads"],
        hidden_act="gelu",
        mlp_ratio=model["vision_mlp_ratio"],
        patch_size=model["patch"],
        spatial_merge_size=model["merge"],
        temporal_patch_size=model["temporal_patch"],
    )
    return Qwen2VLConfig(
        text_config=text,
        vision_config=vision,
        tie_word_embeddings=True,
        image_token_id=token["<|image_pad|>"],
        video_token_id=token["<|video_pad|>"],
        vision_start_token_id=token["<|vision_start|>"],
        vision_end_token_id=token["<|vision_end|>"],
    )


def preprocessor() -> dict[str, Any]:
    """What the checkpoint says about its pixels."""
    return {
        "image_processor_type": "Qwen2VLImageProcessor",
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [MEAN] * 3,
        "image_std": [STD] * 3,
        "patch_size": 8,
        "merge_size": 2,
        "temporal_patch_size": 2,
        "headprobe_fixed_size": {"height": HEIGHT, "width": WIDTH},
        "headprobe_frames": CLIP_FRAMES,
    }


def patchify(frames: Tensor) -> Float[Tensor, "clip patch pixel"]:
    """uint8 ``[clip, frame, height, width, rgb]`` to normalised patches in the model's order."""
    b, t, h, w, _ = frames.shape
    x = frames.float().mul_(1 / (255 * STD)).sub_(MEAN / STD)
    x = x.permute(0, 1, 4, 2, 3).reshape(b, t // 2, 2, 3, h // 16, 2, 8, w // 16, 2, 8)
    return x.permute(0, 1, 4, 7, 5, 8, 3, 2, 6, 9).reshape(b, t // 2 * h // 8 * w // 8, 3 * 2 * 64)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat([-b, a], -1) * sin


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return ((q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5).softmax(-1) @ v


class Tower:
    """The vision tower over clips of one fixed size: ``[clip, patch, pixel] -> [clip, token, hidden]``."""

    def __init__(self, model: Qwen2VLForConditionalGeneration) -> None:
        self.visual = model.model.visual
        heads = self.visual.config.num_heads
        rows = torch.arange(HEIGHT // 8).view(HEIGHT // 16, 1, 2, 1).expand(-1, WIDTH // 16, -1, 2).reshape(-1)
        cols = torch.arange(WIDTH // 8).view(1, WIDTH // 16, 1, 2).expand(HEIGHT // 16, -1, 2, -1).reshape(-1)
        angle = torch.stack([rows, cols])[..., None].float() * self.visual.rotary_pos_emb.inv_freq.float()
        both = torch.cat([angle[0], angle[1]], -1)
        both = torch.cat([both, both], -1)
        self.heads, self.cos, self.sin = heads, both.cos(), both.sin()

    def __call__(self, patches: Tensor) -> Tensor:
        v = self.visual
        b, n = patches.shape[0], (HEIGHT // 8) * (WIDTH // 8)
        weight = v.patch_embed.proj.weight
        x = patches.to(weight.dtype).reshape(-1, n, patches.shape[-1]) @ weight.flatten(1).T
        cos, sin = self.cos.to(x.dtype), self.sin.to(x.dtype)
        for block in v.blocks:
            qkv = block.attn.qkv(block.norm1(x)).reshape(x.shape[0], n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            z = _attend(_rotate(qkv[0], cos, sin), _rotate(qkv[1], cos, sin), qkv[2])
            x = x + block.attn.proj(z.transpose(1, 2).reshape(x.shape))
            x = x + block.mlp(block.norm2(x))
        return v.merger(x).reshape(b, -1, v.config.hidden_size)


def positions(prefix: Int[Tensor, "axis token"], texts: int, length: int) -> Int[Tensor, "axis token"]:
    """Position ids of a visual prefix followed by independent texts that each start right after it."""
    start = int(prefix.max()) + 1
    return torch.cat([prefix, torch.arange(start, start + length).repeat(texts).expand(3, -1)], 1)


def prefix_positions() -> Int[Tensor, "axis token"]:
    """Multimodal positions of ``<vision_start> video <vision_end>`` for one clip."""
    t, h, w = CLIP_FRAMES // 2, HEIGHT // 16, WIDTH // 16
    grid = (
        torch.stack(torch.meshgrid(torch.arange(t), torch.arange(h), torch.arange(w), indexing="ij")).reshape(3, -1) + 1
    )
    end = torch.full((3, 1), 1 + max(h, w))
    return torch.cat([torch.zeros(3, 1, dtype=torch.long), grid, end], 1)


def _attend_shared(q: Tensor, k: Tensor, v: Tensor, prefix: int, length: int) -> Tensor:
    """Causal attention of a prefix, and of texts of one length that each see the prefix and themselves.

    ``q, k, v`` are ``[clip, head, token, d_head]`` with the prefix first.
    """
    b, h, _, d = q.shape
    q = q * d**-0.5

    def blocked(n: int) -> Tensor:
        return torch.full((n, n), -1e4, dtype=q.dtype).triu(1)

    def texts(x: Tensor) -> Tensor:
        return x[:, :, prefix:].reshape(b, h, -1, length, d)

    seen_k, seen_v = k[:, :, :prefix], v[:, :, :prefix]
    first = ((q[:, :, :prefix] @ seen_k.transpose(-1, -2)) + blocked(prefix)).softmax(-1) @ seen_v
    to_prefix = (q[:, :, prefix:] @ seen_k.transpose(-1, -2)).reshape(b, h, -1, length, prefix)
    to_text = texts(q) @ texts(k).transpose(-1, -2) + blocked(length)
    weight = torch.cat([to_prefix, to_text], -1).softmax(-1)
    from_prefix = weight[..., :prefix].reshape(b, h, -1, prefix) @ seen_v
    from_text = (weight[..., prefix:] @ texts(v)).reshape(b, h, -1, d)
    return torch.cat([first, from_prefix + from_text], 2)


def language(
    model: Qwen2VLForConditionalGeneration, embeds: Tensor, position: Tensor, prefix: int, length: int
) -> Tensor:
    """The language model's final hidden states of a prefix and texts of one length, positions ``[axis, token]``."""
    lm = model.model.language_model
    config = lm.config
    section = config.rope_parameters["mrope_section"]
    angle = position[..., None].float() * lm.rotary_emb.inv_freq.float()
    axis = torch.repeat_interleave(torch.arange(3), torch.tensor(section))
    angle = torch.gather(angle, 0, axis.expand(1, angle.shape[1], -1))[0]
    both = torch.cat([angle, angle], -1)
    cos, sin = both.cos().to(embeds.dtype), both.sin().to(embeds.dtype)
    x, h = embeds, config.num_attention_heads

    def heads(y: Tensor) -> Tensor:
        return y.reshape(*y.shape[:2], h, -1).transpose(1, 2)

    for layer in lm.layers:
        y, at = _norm(layer.input_layernorm, x), layer.self_attn
        q, k, v = heads(at.q_proj(y)), heads(at.k_proj(y)), heads(at.v_proj(y))
        z = _attend_shared(_rotate(q, cos, sin), _rotate(k, cos, sin), v, prefix, length)
        x = x + at.o_proj(z.transpose(1, 2).reshape(x.shape))
        y = _norm(layer.post_attention_layernorm, x)
        x = x + layer.mlp.down_proj(F.silu(layer.mlp.gate_proj(y)) * layer.mlp.up_proj(y))
    return _norm(lm.norm, x)


def _norm(norm: nn.Module, x: Tensor) -> Tensor:
    variance = x.float().pow(2).mean(-1, keepdim=True)
    return norm.weight * (x.float() * torch.rsqrt(variance + norm.variance_epsilon)).to(x.dtype)


@torch.no_grad()
def check_equal(model: Qwen2VLForConditionalGeneration, tolerance: float = 2e-4) -> float:
    """Largest difference of logits between this forward pass and the library's, on one random clip."""
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (2, CLIP_FRAMES, HEIGHT, WIDTH, 3), generator=generator, dtype=torch.uint8)
    config = model.config
    n_video = CLIP_FRAMES // 2 * (HEIGHT // 16) * (WIDTH // 16)
    text = torch.randint(len(SPECIAL), config.text_config.vocab_size, (2, 2, 7), generator=generator)
    start, end = config.vision_start_token_id, config.vision_end_token_id
    prefix = torch.tensor([[start] + [config.video_token_id] * n_video + [end]]).expand(2, -1)
    patches = patchify(frames)
    grid = torch.tensor([[CLIP_FRAMES // 2, HEIGHT // 8, WIDTH // 8]] * 2)
    seen = Tower(model)(patches)
    both = torch.cat([prefix, text.flatten(1)], 1)
    embeds = model.get_input_embeddings()(both).clone()
    embeds[:, 1 : 1 + n_video] = seen
    place = positions(prefix_positions(), texts=2, length=7)
    logits = model.lm_head(language(model, embeds, place, prefix.shape[1], 7))[:, prefix.shape[1] :].unflatten(
        1, (2, 7)
    )
    difference = 0.0
    for j in range(2):  # each text alone, through the library
        ids = torch.cat([prefix, text[:, j]], 1)
        expected = model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values_videos=patches.flatten(0, 1),
            video_grid_thw=grid,
            mm_token_type_ids=(ids == config.video_token_id).int() * 2,
        ).logits[:, prefix.shape[1] :]
        difference = max(difference, float((logits[:, j] - expected).abs().max()))
    if not difference < tolerance:
        raise RuntimeError(
            f"the training forward pass differs from the library's by {difference:.2g} (allowed {tolerance})"
        )
    return difference
