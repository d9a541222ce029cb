"""Loading a frozen model: from a name, a folder or a module to a `Model` whose heads were checked."""

from __future__ import annotations

import contextlib
import copy
import inspect
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from headprobe.attention import is_causal
from headprobe.errors import InputError, OutOfMemoryError, UnsupportedModelError
from headprobe.models.adapter import Adapter, adapter_for, families
from headprobe.models.checkpoint import (
    Checkpoint,
    check_attention,
    check_takes_text,
    own_tokenizer,
    read_checkpoint,
    read_processor_config,
    read_tokenizer,
)
from headprobe.models.load_check import check_passes
from headprobe.models.model import Model
from headprobe.models.text import TextAdapter
from headprobe.sites import HeadSite, discover

__all__ = ["Model", "best_device", "generic_adapter", "load", "never_trained"]

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
        module, which is put into evaluation mode and stops requiring gradients.
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
        from headprobe.trace.remote import load_remote

        unused = {"processor_config": processor_config, "device": device, "dtype": dtype, **placing}
        unused["attention"] = attention
        return load_remote(model, remote, tokenizer=tokenizer, revision=revision, sites=sites, unused=unused)
    kind = torch_dtype(dtype)
    picked = device == "auto"
    if picked:
        device = best_device() if not any(value is not None for value in placing.values()) else None
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
            parts = read_checkpoint(os.fspath(model), tokenizer, processor_config, kind, revision, options)
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
        adapter = generic_adapter(parts.module, discover(parts.module) if sites is None else sites)
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


def best_device() -> torch.device:
    """The device that a model goes to where none is named: a CUDA GPU when torch has one, else the CPU.

    Returns
    -------
    torch.device
        Other accelerators, such as Apple's, are taken only when they are named.

    Examples
    --------
    >>> best_device().type in ("cuda", "cpu")
    True
    """
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
        check_attention(module.config, name, attention)
        module.set_attn_implementation(attention)
    except (InputError, ValueError, ImportError, AttributeError) as error:
        module.config._attn_implementation = before
        if isinstance(error, InputError):
            raise
        raise InputError(f"{name} cannot compute its attention with {attention!r}: {error}") from error


def torch_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """A torch number type from its name.

    Parameters
    ----------
    dtype
        A torch dtype, a name such as ``bfloat16``, or None.

    Returns
    -------
    torch.dtype or None

    Raises
    ------
    InputError
        No floating point type has this name.

    Examples
    --------
    >>> torch_dtype("bfloat16")
    torch.bfloat16
    """
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
) -> Checkpoint:
    # A compiled module wraps the one whose submodules can be read.
    module = getattr(module, "_orig_mod", module)
    config = getattr(module, "config", None)
    if config is None or not hasattr(config, "model_type"):
        raise UnsupportedModelError(
            f"{type(module).__name__} has no transformers configuration (.config.model_type), so its heads cannot "
            "be found; pass a transformers model."
        )
    if tokenizer is None:
        tokenizer = own_tokenizer(config.model_type)
    if tokenizer is None:
        check_takes_text(module)
        raise InputError("A module comes without a tokenizer; pass tokenizer=.")
    name = getattr(config, "name_or_path", "") or type(module).__name__
    return Checkpoint(module, tokenizer, processor_config, name, revision)


def generic_adapter(module: nn.Module, sites: Sequence[HeadSite]) -> Adapter:
    """A text adapter for a family without its own, where the structure leaves no doubt.

    Parameters
    ----------
    module
        A transformers model.
    sites
        Its softmax heads.

    Returns
    -------
    Adapter

    Raises
    ------
    UnsupportedModelError
        The model takes more than text, or does not say whether it attends to the left only.

    Examples
    --------
    >>> from transformers import GPT2Config, GPT2Model
    >>> from headprobe.sites import discover
    >>> module = GPT2Model(GPT2Config(vocab_size=9, n_embd=8, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0))
    >>> generic_adapter(module, discover(module)).modality
    'text'
    """
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
) -> Checkpoint:
    from headprobe.models import tiny

    folder = os.fspath(tiny.folder())
    if name == "tiny":
        return read_checkpoint(folder, tokenizer, processor_config, dtype, None)._replace(name=name)
    tokenizer = tokenizer if tokenizer is not None else read_tokenizer(folder, None)
    processor_config = processor_config or read_processor_config(folder, None)
    return Checkpoint(tiny.untrained(seed), tokenizer, processor_config, f"{name}-{seed}", None)
