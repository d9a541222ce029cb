"""Loading a frozen model: from a name, a folder or a module to a `Model` whose heads were checked."""

from __future__ import annotations

import contextlib
import copy
import importlib
import inspect
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from torch import nn

from headprobe import _torchvision
from headprobe.errors import InputError, OutOfMemoryError, UnsupportedModelError
from headprobe.models._attention import is_causal
from headprobe.models._load_check import check_passes
from headprobe.models.adapter import Adapter, adapter_for, families
from headprobe.models.model import Model
from headprobe.models.sites import HeadSite, discover
from headprobe.models.text import TextAdapter

__all__ = ["Model", "load", "never_trained"]

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


class _Checkpoint(NamedTuple):
    """What a model is made of."""

    module: Any
    tokenizer: Any
    processor_config: Mapping[str, Any] | None
    name: str
    revision: str | None


def _read_checkpoint(
    source: str,
    tokenizer: Any,
    processor_config: Mapping[str, Any] | None,
    dtype: torch.dtype | None,
    revision: str | None,
    options: Mapping[str, Any] | None = None,
) -> _Checkpoint:
    """Read a checkpoint without running code of its own; a part that is given is not read."""
    path = Path(source)
    _check_layout(source, revision)
    if path.is_dir() and not (path / "config.json").is_file():
        raise InputError(f"The folder {source!r} has no config.json; give a folder that save_pretrained wrote.")
    if path.is_file():
        raise InputError(f"{source!r} is a file; give the folder that holds config.json and the weights.")
    if not path.exists() and (path.is_absolute() or source.startswith((".", "~")) or source.count("/") > 1):
        raise InputError(f"There is no folder {source!r}.")
    _torchvision.guard()
    import transformers

    config = _fetch(source, "configuration", transformers.AutoConfig, revision)
    _check_attention(config, source, (options or {}).get("attn_implementation"))
    auto_class = _module_class(config, transformers)
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
        tokenizer = _own_tokenizer(config.model_type)
    if tokenizer is None:
        _check_takes_text(module)
        tokenizer = _read_tokenizer(source, revision)
        if config.model_type in families() and adapter_for(config.model_type).modality == "video":
            # A multimodal checkpoint's own template stands beside its processor; the tokenizer's may know text only.
            tokenizer.chat_template = _read_chat_template(source, revision) or tokenizer.chat_template
    if processor_config is None:
        processor_config = _read_processor_config(source, revision)
    commit = getattr(config, "_commit_hash", None)
    return _Checkpoint(module, tokenizer, processor_config, source, commit or revision)


def _check_layout(source: str, revision: str | None = None) -> None:
    """Refuse a checkpoint in its authors' layout, which needs code of its own, and name one that works."""
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


def _check_attention(config: Any, source: str, given: Any = None) -> None:
    """Refuse a configuration that names an attention implementation which transformers would have to fetch."""
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


def _module_class(config: Any, transformers: Any) -> Any:
    """The class that reads a checkpoint: the family's, or the one the configuration names."""
    names: Any = getattr(config, "architectures", None) or [""]
    if not isinstance(names, list | tuple) or not isinstance(names[0], str):
        raise InputError(f"config.json: architectures is {names!r:.80}; it must be a list of class names.")
    found = getattr(transformers, names[0], None) if names[0] else None
    classifies = found is not None and names[0].endswith(("ForSequenceClassification", "ForImageClassification"))
    if config.model_type in families() and not classifies:
        return getattr(transformers, adapter_for(config.model_type).auto_class)
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


def _own_tokenizer(model_type: str) -> Any:
    """What stands in for a tokenizer in a family that takes no text; None for a family that needs one."""
    return getattr(adapter_for(model_type), "tokenizer", None) if model_type in families() else None


def _check_takes_text(module: Any) -> None:
    """Refuse a model without text and without an adapter, for which a tokenizer would be of no use."""
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


def _read_tokenizer(source: str, revision: str | None) -> Any:
    """The tokenizer of a checkpoint, with the rules that stand in its tokenizer.json."""
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


def _read_chat_template(source: str, revision: str | None) -> str | None:
    """The chat template that a checkpoint keeps beside its processor, or None."""
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


def _read_processor_config(source: str, revision: str | None) -> dict[str, Any] | None:
    """The video preprocessor configuration of a checkpoint, or None when it has no such file."""
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


_log = logging.getLogger(__name__)


def load(
    model: str | os.PathLike[str] | nn.Module,
    *,
    tokenizer: Any = None,
    processor_config: Mapping[str, Any] | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    device_map: str | Mapping[str, Any] | None = None,
    quantization_config: Any = None,
    attention: str | None = None,
    revision: str | None = None,
    check: bool = True,
    sites: Sequence[HeadSite] | None = None,
    seed: int = 0,
    remote: bool | str = False,
) -> Model:
    """Load a frozen model and find its attention heads.

    Parameters
    ----------
    model
        ``"tiny"``, the embedded video model; ``"tiny-untrained"``, the same configuration with random
        weights; a folder with a transformers checkpoint; a name on the Hugging Face hub; or a transformers
        module, which is put into evaluation mode and stops requiring gradients. A ``TransformerBridge`` of
        TransformerLens loads as the model that it wraps, with the same weights in memory; its tokenizer begins every
        text with a token of its own unless you pass another one.
    tokenizer
        A transformers tokenizer; needed for a module, read from the checkpoint otherwise.
    processor_config
        Preprocessor configuration of a video model; needed for such a module, read from the checkpoint
        otherwise.
    device
        Where to put the model; None leaves it where it is loaded, on the CPU. ``"auto"`` takes a GPU when there is
        one, see `best_device`; where it went is logged (INFO).
    dtype
        Number type; None keeps the checkpoint's (float32 for the embedded model).
    device_map
        How accelerate spreads a checkpoint over devices, for example ``"auto"``; see transformers.
    quantization_config
        How transformers quantises a checkpoint while loading it, for example
        ``BitsAndBytesConfig(load_in_8bit=True)``.
    attention
        How attention is computed: ``"eager"``, ``"sdpa"``, ``"flex_attention"``, or flash attention where its package
        is installed; None leaves it to the checkpoint.
    revision
        Revision on the hub.
    check
        Whether to verify that the sum over heads of ``z_h W_O[h]`` plus bias is the output projection's output, and,
        with one or two passes over a few tokens, that every slice of it is one head, that hidden states have the tokens
        of the inputs, that every block runs once, and that positions are the model's own; for a family without an
        adapter of its own also that a padded batch equals its examples.
    sites
        Where the heads are, for a model whose structure cannot be read; None to discover them.
    seed
        Seed of the random weights of ``"tiny-untrained"``.
    remote
        Whether nnsight runs a text model on NDIF's servers, which needs a key; only its configuration and tokenizer
        are loaded here, and the sum over heads is not checked. A text is passed on to nnsight: the address of another
        server, or ``local`` for its rehearsal here. See `headprobe.trace.remote.RemoteModel`.

    Returns
    -------
    Model

    Raises
    ------
    InputError
        There is no such checkpoint, a part of it is missing, or there is no such device; or there is no key for
        ``remote``.
    UnsupportedModelError
        The family has no adapter and its structure is ambiguous; or a short pass fails, or gives something else than
        one with the model's own positions or one without padding.
    SiteError
        The heads do not add up to the output projection's output; a slice of its input is not one head; a block runs
        several times or never; or the model has other tokens than its inputs.
    OutOfMemoryError
        The memory of the device does not suffice for the weights.

    Warns
    -----
    HeadprobeWarning
        Something of this could not be verified, and what.

    Examples
    --------
    >>> from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
    >>> from tokenizers import Tokenizer, models, pre_tokenizers
    >>> words = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1, "man": 2}, unk_token="<unk>"))
    >>> words.pre_tokenizer = pre_tokenizers.Whitespace()
    >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>")
    >>> config = GPT2Config(vocab_size=3, n_embd=8, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
    >>> load(GPT2LMHeadModel(config), tokenizer=tokenizer).heads.labels
    ('L0H0', 'L0H1', 'L1H0', 'L1H1')
    """
    placing = {"device_map": device_map, "quantization_config": quantization_config}
    if remote:
        # By name, when asked for: `models/` stands before `trace/` and knows nothing of it.
        load_remote = importlib.import_module("headprobe.trace.remote").load_remote
        unused = {"processor_config": processor_config, "device": device, "dtype": dtype, **placing}
        unused["attention"] = attention
        return load_remote(model, remote, tokenizer=tokenizer, revision=revision, sites=sites, unused=unused)
    kind = _torch_dtype(dtype)
    picked = device == "auto"
    if picked:
        device = _best_device() if not any(value is not None for value in placing.values()) else None
    _check_device(device)
    placing = {name: value for name, value in placing.items() if value is not None}
    named = isinstance(model, nn.Module) or model in ("tiny", "tiny-untrained")
    if placing and (named or device is not None):
        raise InputError(
            f"{' and '.join(placing)} is for a checkpoint that transformers loads, and not together with device=; "
            "place a module yourself before you pass it."
        )
    shown = type(model).__name__ if isinstance(model, nn.Module) else str(model)
    with _room_for_weights(device or device_map, shown):
        if isinstance(model, nn.Module):
            parts = _from_module(model, tokenizer, processor_config, revision)
        elif model in ("tiny", "tiny-untrained"):
            parts = _tiny(str(model), tokenizer, processor_config, kind or torch.float32, seed)
        else:
            options = placing | ({} if attention is None else {"attn_implementation": attention})
            parts = _read_checkpoint(os.fspath(model), tokenizer, processor_config, kind, revision, options)
        if attention is not None and named:
            _set_attention(parts.module, attention, parts.name)
        if not placing and (kind is not None or device is not None):
            parts.module.to(device=device, dtype=kind)
    if not callable(parts.tokenizer) or not hasattr(parts.tokenizer, "pad_token_id"):
        raise InputError(
            f"The tokenizer is a {type(parts.tokenizer).__name__}; give a transformers tokenizer, for example "
            "PreTrainedTokenizerFast(tokenizer_object=...)."
        )
    known = parts.module.config.model_type in families()
    if known:
        adapter = adapter_for(parts.module.config.model_type)
    else:  # discover refuses an ambiguous structure with its own message
        adapter = _generic_adapter(parts.module, discover(parts.module) if sites is None else sites)
    loaded = Model(
        parts.module,
        adapter,
        parts.tokenizer,
        parts.processor_config,
        parts.name,
        parts.revision,
        check,
        sites,
    )
    if check:
        check_passes(loaded, padding=not known)
    _log.info("%s", _told(loaded, picked))
    return loaded


@contextlib.contextmanager
def _room_for_weights(where: Any, name: str) -> Iterator[None]:
    """Weights that do not fit are an error of ours that says what to do."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemoryError(
            f"The memory of {where or 'this machine'} does not suffice for the weights of {name}: take "
            "dtype 'bfloat16', another device, or device_map 'auto', which spreads a checkpoint over devices. "
            f"({(str(error).strip().splitlines() or [type(error).__name__])[0]})"
        ) from error


def never_trained(model: Model, seed: int = 0) -> Model:
    """The architecture of a model with random weights, fed in the same way: the never-trained control.

    Parameters
    ----------
    model
        The model. It stays as it is, so the copy takes as much memory again.
    seed
        Seed of the weights; the caller's random state is left as it was.

    Returns
    -------
    Model
        On the same device and in the same number type.

    Raises
    ------
    UnsupportedModelError
        The model is quantised or spread over devices, so that its class cannot simply be made again.
    OutOfMemoryError
        The copy does not fit beside the model.

    Examples
    --------
    >>> import headprobe
    >>> trained = headprobe.load("tiny")
    >>> copy = never_trained(trained)
    >>> copy.heads == trained.heads, copy.weights_hash == trained.weights_hash
    (True, False)
    """
    module: Any = model.module
    if getattr(module.config, "quantization_config", None) is not None or getattr(module, "hf_device_map", None):
        raise UnsupportedModelError(
            f"{model.name} is quantised or spread over devices, so no copy with random weights can be made of it here."
        )
    with _room_for_weights(model.device, f"a never-trained copy of {model.name}"), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        copied = type(module)(copy.deepcopy(module.config)).to(device=model.device, dtype=model.dtype)
    name = f"{model.name}, never trained"
    return Model(copied, model.adapter, model.tokenizer, model.processor_config, name, None, False, model.sites)


def _best_device() -> torch.device:
    """The device that a model goes to where none is named: a CUDA GPU when torch has one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _told(model: Model, picked: bool) -> str:
    """What was loaded and where it is, in a line."""
    size = sum(parameter.numel() * parameter.itemsize for parameter in model.module.parameters())
    devices = sorted({str(parameter.device) for parameter in model.module.parameters()})
    why = ""
    if picked:
        why = " (picked)" if model.device.type != "cpu" else " (torch finds no CUDA GPU)"
    return (
        f"model {model.name}: {size / 1e9:.2f} GB in {str(model.dtype).removeprefix('torch.')} on "
        f"{', '.join(devices)}{why}, attention {getattr(model.config, '_attn_implementation', None) or 'its own'}, "
        f"{len(model.heads)} heads"
    )


def _set_attention(module: Any, attention: str, name: str) -> None:
    """Switch a module that is there already to another attention implementation."""
    before = getattr(module.config, "_attn_implementation", None)
    try:
        _check_attention(module.config, name, attention)
        module.set_attn_implementation(attention)
    except (InputError, ValueError, ImportError, AttributeError) as error:
        module.config._attn_implementation = before
        if isinstance(error, InputError):
            raise
        raise InputError(f"{name} cannot compute its attention with {attention!r}: {error}") from error


def _torch_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """A torch number type from its name."""
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if dtype is not None and not (isinstance(found, torch.dtype) and found.is_floating_point):
        raise InputError(f"dtype is {dtype!r}; give a floating point type such as 'float32' or 'bfloat16'.")
    return found


def _check_device(device: torch.device | str | None) -> None:
    """Refuse a device that is not there, before anything is loaded."""
    try:
        torch.empty(0, device=device)
    except Exception as error:  # torch raises AssertionError, RuntimeError or others, as the device has it
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"device is {device!r}, which torch cannot use here: {said[0]}") from error


def _from_module(
    module: nn.Module, tokenizer: Any, processor_config: Mapping[str, Any] | None, revision: str | None
) -> _Checkpoint:
    # A compiled module wraps the one whose submodules can be read.
    module = getattr(module, "_orig_mod", module)
    if type(module).__module__.partition(".")[0] == "transformer_lens":
        tokenizer = getattr(module, "tokenizer", None) if tokenizer is None else tokenizer
        module = _without_bridge(module)
    config = getattr(module, "config", None)
    if config is None or not hasattr(config, "model_type"):
        raise UnsupportedModelError(
            f"{type(module).__name__} has no transformers configuration (.config.model_type), so its heads cannot "
            "be found; pass a transformers model."
        )
    if tokenizer is None:
        tokenizer = _own_tokenizer(config.model_type)
    if tokenizer is None:
        _check_takes_text(module)
        raise InputError("A module comes without a tokenizer; pass tokenizer=.")
    name = getattr(config, "name_or_path", "") or type(module).__name__
    return _Checkpoint(module, tokenizer, processor_config, name, revision)


def _without_bridge(bridge: Any) -> nn.Module:
    """The transformers module that a TransformerBridge wraps, anew, with the very same weights and no hook points.

    The bridge puts its own modules inside the one it was given, which cannot be read any more.
    """
    wrapped = getattr(bridge, "original_model", None)
    if wrapped is None:
        raise UnsupportedModelError(
            f"{type(bridge).__name__} is TransformerLens's own architecture, which headprobe does not read; boot the "
            "model as a bridge: TransformerBridge.boot_transformers(name)."
        )
    inside = [*wrapped.named_parameters(remove_duplicate=False), *wrapped.named_buffers(remove_duplicate=False)]
    tensors = {name.replace("._original_component", ""): tensor for name, tensor in inside}
    with torch.device("meta"):
        plain: Any = type(wrapped)(copy.deepcopy(wrapped.config))
    names = [*plain.named_parameters(remove_duplicate=False), *plain.named_buffers(remove_duplicate=False)]
    for name, empty in names:
        path, _, leaf = name.rpartition(".")
        given = tensors.get(name)
        if given is None or given.shape != empty.shape:
            raise UnsupportedModelError(
                f"The bridge of {type(wrapped).__name__} has no {name} of shape {list(empty.shape)} any more: its "
                "weights were processed. Boot it without enable_compatibility_mode, or load the checkpoint itself."
            )
        holder = plain.get_submodule(path)
        if leaf in holder._parameters:
            holder._parameters[leaf] = given
        else:
            holder._buffers[leaf] = given
    plain.eval()
    bridge.eval()  # as any module that is given
    ids = torch.arange(4, device=next(plain.parameters()).device)[None]
    with torch.no_grad():
        ours, theirs = plain(input_ids=ids).logits.float(), wrapped(input_ids=ids).logits.float()
    if not torch.allclose(ours, theirs, rtol=0, atol=0.01 * float(theirs.abs().max())):
        raise UnsupportedModelError(
            f"The bridge of {type(wrapped).__name__} gives other logits than the model it wraps (by up to "
            f"{float((ours - theirs).abs().max()):.3g}): its weights were processed or hooks change them. Boot it "
            "without enable_compatibility_mode and remove its hooks, or load the checkpoint itself."
        )
    return plain


def _generic_adapter(module: nn.Module, sites: Sequence[HeadSite]) -> Adapter:
    """A text adapter for a family without its own, where the structure leaves no doubt."""
    config: Any = module.config
    takes_text = "input_ids" in inspect.signature(type(module).forward).parameters
    if config.get_text_config() is not config or not takes_text:
        return adapter_for(config.model_type)  # more than text: only an adapter of its own knows how
    causal = {is_causal(module, site.path) for site in sites}
    if causal == {True}:
        return TextAdapter("text-decoder", "left", "AutoModelForCausalLM")
    if causal == {False}:
        return TextAdapter("text-encoder", "right", "AutoModel")
    raise UnsupportedModelError(
        f"Model type {config.model_type!r} does not say whether it attends to the left only, so it is not "
        "known on which side to pad. Register a TextAdapter for it with headprobe.models.adapter.register."
    )


def _tiny(
    name: str, tokenizer: Any, processor_config: Mapping[str, Any] | None, dtype: torch.dtype, seed: int
) -> _Checkpoint:
    from headprobe.models import tiny

    folder = os.fspath(tiny.folder())
    if name == "tiny":
        return _read_checkpoint(folder, tokenizer, processor_config, dtype, None)._replace(name=name)
    tokenizer = tokenizer if tokenizer is not None else _read_tokenizer(folder, None)
    processor_config = processor_config or _read_processor_config(folder, None)
    return _Checkpoint(tiny.untrained(seed), tokenizer, processor_config, f"{name}-{seed}", None)
