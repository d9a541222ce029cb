"""A checkpoint: its module, tokenizer and preprocessor configuration, from a folder or the hub."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError

from headprobe import _torchvision
from headprobe.errors import InputError, UnsupportedModelError
from headprobe.models.adapter import adapter_for, families

__all__ = [
    "Checkpoint",
    "check_attention",
    "check_layout",
    "check_takes_text",
    "module_class",
    "own_tokenizer",
    "read_chat_template",
    "read_checkpoint",
    "read_processor_config",
    "read_tokenizer",
]

# File and key within it, in the order in which transformers looks; image settings serve where there are no others.
_PROCESSOR_FILES = (
    ("processor_config.json", "video_processor"),
    ("video_preprocessor_config.json", None),
    ("preprocessor_config.json", None),
    ("processor_config.json", "image_processor"),
)
# Keys of processor_config.json that do not shape inputs.
_NOT_SETTINGS = ("processor_class", "chat_template", "auto_map")
# What transformers computes attention with by its own code and torch's. Anything else is fetched code, also
# flash attention where its package is not installed: its place is then taken by a kernel of the hub.
_BUILT_IN_ATTENTION = ("eager", "sdpa", "flex_attention", "paged|eager", "paged|sdpa")


def _converted_llava(name: str) -> str:
    """Where a LLaVA in its authors' layout is kept in transformers'."""
    if name.startswith("Video-LLaVA"):
        return f"LanguageBind/{name}-hf"
    return f"llava-hf/{name.replace('llava-v1.5', 'llava-1.5')}-hf"


def _converted_internvl(name: str) -> str:
    return f"OpenGVLab/{name}-{'HF' if name.startswith('InternVL3_5') else 'hf'}"


# Class of the authors' own code to how the name of the same weights in transformers' layout is made, and one that is.
_ORIGINAL_LAYOUTS: dict[str, tuple[Callable[[str], str], str]] = {
    "InternVLChatModel": (_converted_internvl, "OpenGVLab/InternVL3-8B-hf"),
    "LlavaLlamaForCausalLM": (_converted_llava, "llava-hf/LLaVA-NeXT-Video-7B-hf"),
    "LlavaMistralForCausalLM": (_converted_llava, "llava-hf/LLaVA-NeXT-Video-7B-hf"),
    "LlavaQwenForCausalLM": (_converted_llava, "llava-hf/llava-onevision-qwen2-7b-ov-hf"),
    "Videollama3Qwen2ForCausalLM": (
        lambda name: f"lkhl/{name.removesuffix('-Image')}-Image-HF",
        "lkhl/VideoLLaMA3-2B-Image-HF",
    ),
    "ChatGLMModel": (lambda name: f"zai-org/{name}-hf", "zai-org/glm-4-9b-chat-hf"),
    "ChatGLMForConditionalGeneration": (lambda name: f"zai-org/{name}-hf", "zai-org/glm-4-9b-chat-hf"),
}
# The same by model type, where a configuration names no class; not chatglm and llava, which others use too.
_ORIGINAL_TYPES = {
    "internvl_chat": "InternVLChatModel",
    "llava_llama": "LlavaLlamaForCausalLM",
    "llava_mistral": "LlavaMistralForCausalLM",
    "llava_qwen": "LlavaQwenForCausalLM",
    "videollama3_qwen2": "Videollama3Qwen2ForCausalLM",
}


class Checkpoint(NamedTuple):
    """What a model is made of.

    Parameters
    ----------
    module
        A transformers model.
    tokenizer
        Its tokenizer.
    processor_config
        Preprocessor configuration; None for text.
    name
        Name or folder.
    revision
        Revision on the hub, None elsewhere.
    """

    module: Any
    tokenizer: Any
    processor_config: Mapping[str, Any] | None
    name: str
    revision: str | None


def read_checkpoint(
    source: str,
    tokenizer: Any,
    processor_config: Mapping[str, Any] | None,
    dtype: torch.dtype | None,
    revision: str | None,
    options: Mapping[str, Any] | None = None,
) -> Checkpoint:
    """Read a checkpoint without running code of its own; a part that is given is not read.

    Parameters
    ----------
    source
        A folder, or a name on the hub.
    tokenizer
        A tokenizer; None to read it.
    processor_config
        Preprocessor configuration; None to read it.
    dtype
        Number type; None keeps the checkpoint's.
    revision
        Revision on the hub.
    options
        Further arguments of transformers' ``from_pretrained``, such as ``device_map``.

    Returns
    -------
    Checkpoint

    Raises
    ------
    InputError
        There is no such checkpoint, or a part of it is missing.
    """
    path = Path(source)
    check_layout(source, revision)
    if path.is_dir() and not (path / "config.json").is_file():
        raise InputError(f"The folder {source!r} has no config.json; give a folder that save_pretrained wrote.")
    if path.is_file():
        raise InputError(f"{source!r} is a file; give the folder that holds config.json and the weights.")
    if not path.exists() and (path.is_absolute() or source.startswith((".", "~")) or source.count("/") > 1):
        raise InputError(f"There is no folder {source!r}.")
    _torchvision.guard()
    import transformers

    config = _fetch(source, "configuration", transformers.AutoConfig, revision)
    check_attention(config, source, (options or {}).get("attn_implementation"))
    auto_class = module_class(config, transformers)
    given = {"dtype": dtype or "auto", "output_loading_info": True, **(options or {})}
    module, report = _fetch(source, "model", auto_class, revision, **given)
    # transformers fills what is missing with random numbers; only an encoder's pooler is never read here.
    missing = sorted(name for name in report["missing_keys"] if "pooler" not in name)
    if missing:
        raise InputError(
            f"The checkpoint {source!r} lacks {len(missing)} weights of {type(module).__name__} (first: "
            f"{missing[0]}); they would be random. Use a complete checkpoint."
        )
    if tokenizer is None:
        tokenizer = own_tokenizer(config.model_type)
    if tokenizer is None:
        check_takes_text(module)
        tokenizer = read_tokenizer(source, revision)
        if config.model_type in families() and adapter_for(config.model_type).modality == "video":
            # A multimodal checkpoint's own template stands beside its processor; the tokenizer's may know text only.
            tokenizer.chat_template = read_chat_template(source, revision) or tokenizer.chat_template
    if processor_config is None:
        processor_config = read_processor_config(source, revision)
    commit = getattr(config, "_commit_hash", None)
    return Checkpoint(module, tokenizer, processor_config, source, commit or revision)


def check_layout(source: str, revision: str | None = None) -> None:
    """Refuse a checkpoint in its authors' layout, which needs code of its own, and name one that works.

    Parameters
    ----------
    source
        A folder, a config.json, or a name on the hub.
    revision
        Revision on the hub.

    Raises
    ------
    UnsupportedModelError
        The checkpoint is laid out for code that comes with it, or for the original code of Llama.
    """
    path = Path(source)
    if path.is_dir() and (path / "params.json").is_file() and not (path / "config.json").is_file():
        raise UnsupportedModelError(
            f"{source!r} is in the layout of Llama's original code (params.json). Use the checkpoint in transformers' "
            "layout, whose name mostly ends in -hf, such as 'meta-llama/Llama-2-7b-hf'."
        )
    try:
        file = path if path.is_file() else _find_file(source, "config.json", revision)
        data = None if file is None else json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return  # what is wrong with it is said where it is read
    names = data.get("architectures") if isinstance(data, dict) else None
    original = str(names[0]) if isinstance(names, list) and names else ""
    if isinstance(data, dict) and original not in _ORIGINAL_LAYOUTS:
        original = _ORIGINAL_TYPES.get(str(data.get("model_type")), "")
    if not original:
        return
    pattern, example = _ORIGINAL_LAYOUTS[original]
    there = "" if path.exists() else f", for this one by its name {pattern(path.name)!r}"
    raise UnsupportedModelError(
        f"{source!r} is in its authors' layout ({original}), which needs code that comes with the checkpoint, and "
        f"headprobe runs no code of a checkpoint. Use the same weights in transformers' layout{there}, such as "
        f"{example!r}."
    )


def check_attention(config: Any, source: str, given: Any = None) -> None:
    """Refuse a configuration that names an attention implementation which transformers would have to fetch.

    Parameters
    ----------
    config
        A transformers configuration.
    source
        The checkpoint, for the error text.
    given
        The implementation that the caller asks for in place of the configuration's.

    Raises
    ------
    InputError
        The configuration, or one nested in it, names a kernel of the hub, or flash attention that is not installed.
    """
    if given is not None:
        config._attn_implementation = given
    for place, part in _nested_configs(config):
        asked = getattr(part, "_attn_implementation", None)
        if asked is None or asked in _BUILT_IN_ATTENTION or _is_installed_flash(asked):
            continue
        where = "attn_implementation=" if given is not None else f"config.json of {source!r}{place}"
        raise InputError(
            f"{where} names the attention implementation {asked!r}, which is not built into transformers: it would be "
            "code fetched from a hub, and loading a model runs no code of others. Use 'eager' or 'sdpa', or remove "
            "attn_implementation from config.json."
        )


def _nested_configs(config: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """A configuration and all within it, each with where it stands."""
    from transformers import PreTrainedConfig

    yield (f" ({place})" if place else ""), config
    for name, value in vars(config).items():
        if isinstance(value, PreTrainedConfig):
            yield from _nested_configs(value, f"{place}.{name}" if place else name)


def _is_installed_flash(asked: object) -> bool:
    """Whether transformers would take flash attention from an installed package."""
    from transformers import utils

    version = str(asked).removeprefix("paged|").removeprefix("flash_attention_")
    available = getattr(utils, f"is_flash_attn_{version}_available", None)
    return str(asked).endswith(f"flash_attention_{version}") and available is not None and bool(available())


def module_class(config: Any, transformers: Any) -> Any:
    """The class that reads a checkpoint: the family's, or the one the configuration names.

    Parameters
    ----------
    config
        A transformers configuration.
    transformers
        The library.

    Returns
    -------
    type
        A model class, or an auto class.
    """
    if config.model_type in families():
        return getattr(transformers, adapter_for(config.model_type).auto_class)
    names = getattr(config, "architectures", None) or ()
    found = getattr(transformers, names[0], None) if names else None
    return transformers.AutoModel if found is None else found


def _fetch(source: str, what: str, loader: Any, revision: str | None, **options: Any) -> Any:
    try:
        return loader.from_pretrained(source, revision=revision, trust_remote_code=False, **options)
    except torch.OutOfMemoryError:
        raise
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        where = "in the folder" if Path(source).is_dir() else "no folder here, and on the hub"
        raise InputError(
            f"The {what} of {source!r} cannot be loaded ({where}): {str(error).strip().splitlines()[0]} "
            "Give 'tiny', a folder with config.json, weights and tokenizer, or a model name of the hub."
        ) from error


def own_tokenizer(model_type: str) -> Any:
    """What stands in for a tokenizer in a family that takes no text; None for a family that needs one.

    Parameters
    ----------
    model_type
        ``config.model_type``.

    Returns
    -------
    An object that names tokens, or None
    """
    return getattr(adapter_for(model_type), "tokenizer", None) if model_type in families() else None


def check_takes_text(module: Any) -> None:
    """Refuse a model without text and without an adapter, for which a tokenizer would be of no use.

    Parameters
    ----------
    module
        A transformers model.

    Raises
    ------
    UnsupportedModelError
        The family has no adapter and its forward takes no ``input_ids``.
    """
    takes = inspect.signature(type(module).forward).parameters
    model_type = module.config.model_type
    if model_type in families() or "input_ids" in takes:
        return
    if "pixel_values" in takes:
        raise UnsupportedModelError(
            f"Model type {model_type!r} takes pictures and has no adapter. If it is a plain vision transformer, "
            f"register one before loading: headprobe.models.adapter.register({model_type!r}, "
            f"headprobe.models.vision_tower.VisionTowerAdapter({model_type!r}, has_class_token=True))."
        )
    adapter_for(model_type)


def read_tokenizer(source: str, revision: str | None) -> Any:
    """The tokenizer of a checkpoint, with the rules that stand in its tokenizer.json.

    Parameters
    ----------
    source
        A folder, or a name on the hub.
    revision
        Revision on the hub.

    Returns
    -------
    A transformers tokenizer

    Raises
    ------
    InputError
        The checkpoint has none, or one without a vocabulary.
    """
    _torchvision.guard()
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    tokenizer: Any = _fetch(source, "tokenizer", AutoTokenizer, revision)
    # Without files, transformers makes an empty tokenizer of the family and says nothing.
    if not set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens):
        raise InputError(
            f"The tokenizer of {source!r} cannot be loaded: it has no vocabulary. Add tokenizer.json to the "
            "checkpoint or pass tokenizer=."
        )
    # For some families transformers puts its own rules in the place of those in tokenizer.json.
    file = _find_file(source, "tokenizer.json", revision)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if file is not None and backend is not None:
        kinds = [json.loads(text)["model"]["type"] for text in (file.read_text("utf-8"), backend.to_str())]
        if kinds[0] != kinds[1]:
            tokenizer = _fetch(source, "tokenizer", PreTrainedTokenizerFast, revision)
    return tokenizer


def read_chat_template(source: str, revision: str | None) -> str | None:
    """The chat template that a checkpoint keeps beside its processor, or None.

    Parameters
    ----------
    source
        A folder, or a name on the hub.
    revision
        Revision on the hub.

    Returns
    -------
    str or None
    """
    file = _find_file(source, "chat_template.jinja", revision)
    if file is not None:
        return file.read_text("utf-8")
    for name in ("chat_template.json", "processor_config.json"):
        file = _find_file(source, name, revision)
        template = None if file is None else json.loads(file.read_text("utf-8")).get("chat_template")
        if isinstance(template, str):
            return template
    return None


def _find_file(source: str, name: str, revision: str | None) -> Path | None:
    _torchvision.guard()
    from transformers.utils.hub import cached_file

    file = cached_file(
        source,
        name,
        revision=revision,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return None if file is None else Path(file)


def read_processor_config(source: str, revision: str | None) -> dict[str, Any] | None:
    """The video preprocessor configuration of a checkpoint, or None when it has no such file.

    Parameters
    ----------
    source
        A folder, or a name on the hub.
    revision
        Revision on the hub.

    Returns
    -------
    dict or None
        Settings of the processor itself, which ``processor_config.json`` may hold beside them, under ``processor``.
    """
    for name, part in _PROCESSOR_FILES:
        file = _find_file(source, name, revision)
        data = None if file is None else json.loads(file.read_text("utf-8"))
        if data and part is not None:
            # Beside the nested settings stand those of the processor itself, which the text depends on.
            own = {k: v for k, v in data.items() if not isinstance(v, dict) and k not in _NOT_SETTINGS}
            data = data.get(part) and data[part] | ({"processor": own} if own else {})
        if data:
            return data
    return None
