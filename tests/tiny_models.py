"""Tiny random models of each supported family, built in code, with a word-level tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from headprobe import _torchvision

_torchvision.guard()

import transformers  # noqa: E402

WORDS = [
    "a",
    "man",
    "woman",
    "car",
    "dog",
    "walks",
    "runs",
    "falls",
    "stops",
    "on",
    "the",
    "road",
    "path",
    "in",
]
WORDS += ["park", "at", "night", "day", "yes", "no", "what", "happens", "does", "anything", "odd", ":", "?"]
SPECIAL = [
    "<pad>",
    "<unk>",
    "<s>",
    "</s>",
    "<|vision_start|>",
    "<|video_pad|>",
    "<|vision_end|>",
    "<|im_start|>",
]
VOCABULARY = {word: i for i, word in enumerate([*SPECIAL, *WORDS])}
VOCAB_SIZE = len(VOCABULARY)
TEXTS = ["a man walks", "a dog runs on the road in the park", "car", "the woman stops on the path at night"]
PACKING = {
    "patch_size": 8,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.48, 0.45, 0.4],
    "image_std": [0.26, 0.25, 0.27],
    "rescale_factor": 1 / 255,
    "headprobe_fixed_size": {"height": 32, "width": 48},
}
# The same without a fixed frame size.
FLEXIBLE = {k: v for k, v in PACKING.items() if k != "headprobe_fixed_size"} | {
    "min_pixels": 16 * 16,
    "max_pixels": 64 * 64,
}
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|> {% for c in m['content'] %}{% if c['type'] == 'video' %}"
    "<|vision_start|><|video_pad|><|vision_end|> {% else %}{{ c['text'] }}{% endif %}{% endfor %} </s>"
    "{% endfor %}{% if add_generation_prompt %} <|im_start|>{% endif %}"
)
FAMILIES = ("gpt2", "llama", "qwen2", "bert", "qwen2_vl")
DECODERS = ("gpt2", "llama", "qwen2")


def make_tokenizer(chat: bool = False, cls: bool = False) -> transformers.PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel(dict(VOCABULARY), unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if cls:
        words.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", VOCABULARY["<s>"]), ("</s>", VOCABULARY["</s>"])]
        )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words,
        unk_token="<unk>",
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=SPECIAL[4:],
    )
    if chat:
        tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _common() -> dict:
    return {"vocab_size": VOCAB_SIZE, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}


def make_module(family: str, seed: int = 0, **changes) -> torch.nn.Module:
    """A random module whose weights are large enough for heads to differ."""
    torch.manual_seed(seed)
    decoder = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "initializer_range": 0.3,
    }
    if family == "gpt2":
        config = transformers.GPT2Config(
            **_common()
            | {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64, "initializer_range": 0.3}
            | changes
        )
        module = transformers.GPT2LMHeadModel(config)
    elif family == "llama":
        module = transformers.LlamaForCausalLM(transformers.LlamaConfig(**_common() | decoder | changes))
    elif family == "qwen2":
        module = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**_common() | decoder | changes))
    elif family == "bert":
        size = {k: v for k, v in decoder.items() if k != "num_key_value_heads"}
        module = transformers.BertModel(transformers.BertConfig(**_common() | size | changes))
    elif family == "qwen2_vl":
        rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
        text = _common() | decoder | {"rope_parameters": rope, "tie_word_embeddings": True}
        vision = {
            "depth": 2,
            "embed_dim": 16,
            "hidden_size": 32,
            "num_heads": 2,
            "mlp_ratio": 2,
            "patch_size": 8,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        }
        config = transformers.Qwen2VLConfig(
            text_config=text,
            vision_config=vision,
            image_token_id=VOCAB_SIZE - 1,
            video_token_id=VOCABULARY["<|video_pad|>"],
            vision_start_token_id=VOCABULARY["<|vision_start|>"],
            vision_end_token_id=VOCABULARY["<|vision_end|>"],
            tie_word_embeddings=True,
            **changes,
        )
        module = transformers.Qwen2VLForConditionalGeneration(config)
    else:
        raise AssertionError(family)
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):  # zero at initialisation, which would hide a forgotten bias
            torch.nn.init.normal_(parameter, std=0.1)
    return module.eval()


def make_clips(n: int, seed: int = 0, frames: int = 4, height: int = 32, width: int = 48) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (frames, height, width, 3), dtype=np.uint8) for _ in range(n)]


def make_model(family: str, seed: int = 0, **changes):
    import headprobe

    video = family == "qwen2_vl"
    return headprobe.load(
        make_module(family, seed, **changes),
        tokenizer=make_tokenizer(chat=video, cls=family == "bert"),
        processor_config=PACKING if video else None,
    )


def contents(family: str, n: int = 4) -> list:
    """Examples of different lengths for a family."""
    if family != "qwen2_vl":
        return TEXTS[:n]
    return [make_clips(1, seed=i, frames=2 + 2 * (i % 3))[0] for i in range(n)]


@contextmanager
def hooks(model, paths: list[str] | None = None) -> Iterator[dict[str, list[torch.Tensor]]]:
    """Inputs of modules in every pass meanwhile, by plain hooks; by default those of the output projections.

    What headprobe reads in such a pass is the same tensor, so that it must be equal bit for bit.
    """
    paths = [site.path for site in model.sites] if paths is None else paths
    taken: dict[str, list[torch.Tensor]] = {path: [] for path in paths}

    def keep(path):
        def hook(module, args, kwargs):
            taken[path].append((args[0] if args else kwargs["hidden_states"]).detach().clone())

        return hook

    handles = [
        model.module.get_submodule(path).register_forward_pre_hook(keep(path), with_kwargs=True) for path in paths
    ]
    try:
        yield taken
    finally:
        for handle in handles:
            handle.remove()


def hooked(model, batch, paths: list[str] | None = None) -> dict[str, torch.Tensor]:
    """The same in a plain forward pass of its own, whose bits are its own too."""
    options = {"use_cache": False} if "use_cache" in model.accepts else {}
    with hooks(model, paths) as taken, torch.no_grad():
        model.module(**batch.inputs, **options)
    return {path: passes[-1] for path, passes in taken.items()}


def by_head(taken, model) -> dict[int, torch.Tensor]:
    """Inputs of the output projections that ran, by layer, [batch, token, head, d_head], of the last pass."""
    seen = {site: taken[site.path] for site in model.sites if len(taken[site.path])}
    last = {site: passes[-1] if isinstance(passes, list) else passes for site, passes in seen.items()}
    return {site.layer: value.unflatten(-1, (site.n_heads, site.head_dim)) for site, value in last.items()}
