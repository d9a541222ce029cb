"""Loading a frozen model together with its heads, tokenizer and adapter."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from torch import nn

from headprobe import _torchvision
from headprobe.errors import InputError, UnsupportedModelError
from headprobe.heads import HeadSet
from headprobe.models.adapter import Adapter, adapter_for, families
from headprobe.models.text import TextAdapter, pad_id
from headprobe.sites import HeadSite, all_heads, block_paths, discover, is_causal
from headprobe.sites import check as check_sites

__all__ = ["Model", "load"]

_PROCESSOR_FILES = ("video_preprocessor_config.json", "preprocessor_config.json")
_HASH_LENGTH = 16


class Model:
    """A frozen model, where its heads are, and what feeds it; made by `headprobe.load`.

    Parameters
    ----------
    module
        A transformers model. It is put into evaluation mode and its parameters stop requiring gradients.
    adapter
        Adapter of its family.
    tokenizer
        A transformers tokenizer.
    processor_config
        Preprocessor configuration; None for text.
    name
        Name or folder.
    revision
        Revision of the checkpoint.
    check
        Whether to verify the heads (`headprobe.check`).
    sites
        Where the heads are, if they cannot be discovered.

    Attributes
    ----------
    sites : tuple of HeadSite
        Where the heads are, in forward order.
    heads : HeadSet
        All heads by layer and head.
    """

    def __init__(
        self,
        module: nn.Module,
        adapter: Adapter,
        tokenizer: Any,
        processor_config: Mapping[str, Any] | None = None,
        name: str = "",
        revision: str | None = None,
        check: bool = True,
        sites: Sequence[HeadSite] | None = None,
    ) -> None:
        self.module = module.eval().requires_grad_(False)
        self.adapter = adapter
        self.tokenizer = tokenizer
        self.processor_config = None if processor_config is None else dict(processor_config)
        self.name = name
        self.revision = revision
        self.sites: tuple[HeadSite, ...] = discover(module) if sites is None else tuple(sites)
        if check:
            check_sites(module, self.sites)
        self.heads: HeadSet = all_heads(self.sites)

    @property
    def config(self) -> Any:
        """The transformers configuration."""
        return self.module.config

    @functools.cached_property
    def accepts(self) -> frozenset[str]:
        """Names of the arguments of the module's forward."""
        return frozenset(inspect.signature(type(self.module).forward).parameters)

    @property
    def n_layers(self) -> int:
        """Number of blocks of the stack, those without softmax heads included."""
        return len(block_paths(self.module, self.sites))

    @property
    def device(self) -> torch.device:
        """Device of the first parameter, where inputs go."""
        return next(self.module.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Number type of the first parameter."""
        return next(self.module.parameters()).dtype

    @property
    def weights_hash(self) -> str:
        """Short SHA-256 over names, types, shapes and bytes of all parameters and buffers.

        Computed once, and again after a weight was changed in place.
        """
        state = dict(self.module.state_dict(keep_vars=True))
        version = tuple((t.data_ptr(), 0 if t.is_inference() else t._version) for t in state.values())
        cached = self.__dict__.get("_weights_hash")
        if cached is None or cached[0] != version:
            cached = (version, _hash_tensors(state))
            self.__dict__["_weights_hash"] = cached
        return cached[1]

    @functools.cached_property
    def processor_hash(self) -> str:
        """Short SHA-256 over the tokenizer and whatever else shapes the inputs."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        rules = backend.to_str() if backend is not None else json.dumps(self.tokenizer.get_vocab(), sort_keys=True)
        state = json.dumps(self.adapter.processor_state(self), sort_keys=True)
        return hashlib.sha256(f"{rules}\n{state}".encode()).hexdigest()[:_HASH_LENGTH]

    def __repr__(self) -> str:
        return (
            f"Model({self.name!r}, {self.config.model_type}, {len(self.sites)} layers with heads, "
            f"{len(self.heads)} heads, {str(self.dtype).removeprefix('torch.')} on {self.device})"
        )


def _hash_tensors(state: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(flat.numpy().data)
    return digest.hexdigest()[:_HASH_LENGTH]


def load(
    model: str | os.PathLike[str] | nn.Module,
    *,
    tokenizer: Any = None,
    processor_config: Mapping[str, Any] | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    revision: str | None = None,
    check: bool = True,
    sites: Sequence[HeadSite] | None = None,
    seed: int = 0,
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
        Where to put the model; None leaves it where it is loaded, on the CPU.
    dtype
        Number type; None keeps the checkpoint's (float32 for the embedded model).
    revision
        Revision on the hub.
    check
        Whether to verify that the sum over heads of ``z_h W_O[h]`` plus bias is the output projection's
        output, and, for a family without an adapter of its own, that a padded batch equals its examples.
    sites
        Where the heads are, for a model whose structure cannot be read; None to discover them.
    seed
        Seed of the random weights of ``"tiny-untrained"``.

    Returns
    -------
    Model

    Raises
    ------
    InputError
        There is no such checkpoint, or a part of it is missing.
    UnsupportedModelError
        The family has no adapter and its structure is ambiguous.
    SiteError
        The heads do not add up to the output projection's output.

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
    kind = torch_dtype(dtype)
    if isinstance(model, nn.Module):
        parts = _from_module(model, tokenizer, processor_config, revision)
    elif model in ("tiny", "tiny-untrained"):
        parts = _tiny(str(model), tokenizer, processor_config, kind or torch.float32, seed)
    else:
        parts = _from_checkpoint(os.fspath(model), tokenizer, processor_config, kind, revision)
    if not callable(parts.tokenizer) or not hasattr(parts.tokenizer, "pad_token_id"):
        raise InputError(
            f"The tokenizer is a {type(parts.tokenizer).__name__}; give a transformers tokenizer, for "
            "example "
            "PreTrainedTokenizerFast(tokenizer_object=...)."
        )
    known = parts.module.config.model_type in families()
    if sites is None and not known:
        sites = discover(parts.module)  # refuses an ambiguous structure with its own message
    adapter = adapter_for(parts.module.config.model_type) if known else _text_adapter(parts.module, sites or ())
    if kind is not None or device is not None:
        parts.module.to(device=device, dtype=kind)
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
    if check and not known:
        _check_padding(loaded)
    return loaded


class _Parts(NamedTuple):
    module: Any
    tokenizer: Any
    processor_config: Mapping[str, Any] | None
    name: str
    revision: str | None


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


def _from_module(
    module: nn.Module, tokenizer: Any, processor_config: Mapping[str, Any] | None, revision: str | None
) -> _Parts:
    # A compiled module wraps the one whose submodules can be read.
    module = getattr(module, "_orig_mod", module)
    config = getattr(module, "config", None)
    if config is None or not hasattr(config, "model_type"):
        raise UnsupportedModelError(
            f"{type(module).__name__} has no transformers configuration (.config.model_type), so its heads "
            "cannot "
            "be found; pass a transformers model."
        )
    if tokenizer is None:
        raise InputError("A module comes without a tokenizer; pass tokenizer=.")
    name = getattr(config, "name_or_path", "") or type(module).__name__
    return _Parts(module, tokenizer, processor_config, name, revision)


def _text_adapter(module: nn.Module, sites: Sequence[HeadSite]) -> Adapter:
    """A text adapter for a family without its own, where the structure leaves no doubt."""
    config: Any = module.config
    takes_text = "input_ids" in inspect.signature(type(module).forward).parameters
    if config.get_text_config() is not config or not takes_text:
        return adapter_for(config.model_type)  # more than text: only an adapter of its own knows how
    causal = {is_causal(module, site) for site in sites}
    if causal == {True}:
        return TextAdapter("text-decoder", "left", "AutoModelForCausalLM")
    if causal == {False}:
        return TextAdapter("text-encoder", "right", "AutoModel")
    raise UnsupportedModelError(
        f"Model type {config.model_type!r} does not say whether it attends to the left only, so it is not "
        "known on which side to pad. Register a TextAdapter for it with headprobe.models.adapter.register."
    )


@torch.no_grad()
def _check_padding(model: Model) -> None:
    """Refuse a family whose padded batch differs from its single examples."""
    adapter = model.adapter
    assert isinstance(adapter, TextAdapter)
    fill = pad_id(model.tokenizer)[0]
    words = [i for i in range(min(int(model.config.vocab_size), 100)) if i != fill][:7]
    if not words:
        raise UnsupportedModelError(f"{model.name} has no vocabulary to check its padding with.")
    rows = [[words[i % len(words)] for i in range(length)] for length in (2, 7)]

    def outputs(lengths: Sequence[Sequence[int]]) -> torch.Tensor:
        batch = adapter.pad_rows(lengths, model)
        inputs = {name: tensor.to(model.device) for name, tensor in batch.inputs.items()}
        values = model.module(**inputs)[0].float().cpu()
        return torch.stack([value[mask][-1] for value, mask in zip(values, batch.token_info.mask, strict=True)])

    together = outputs(rows)
    alone = torch.cat([outputs([row]) for row in rows])
    error = float((together - alone).abs().max() / alone.abs().max())
    if not error <= (1e-3 if model.dtype in (torch.float32, torch.float64) else 0.1):
        raise UnsupportedModelError(
            f"Model type {model.config.model_type!r} gives other outputs for a batch padded on the "
            f"{adapter.padding_side} than for its single examples ({error:.1e} relative). Register an "
            "adapter that "
            "feeds it rightly with headprobe.models.adapter.register."
        )


def _tiny(
    name: str, tokenizer: Any, processor_config: Mapping[str, Any] | None, dtype: torch.dtype, seed: int
) -> _Parts:
    from headprobe.models import tiny

    folder = os.fspath(tiny.folder())
    if name == "tiny":
        return _from_checkpoint(folder, tokenizer, processor_config, dtype, None)._replace(name=name)
    tokenizer = tokenizer if tokenizer is not None else _load_tokenizer(folder, None)
    processor_config = processor_config or _load_processor_config(folder, None)
    return _Parts(tiny.untrained(seed), tokenizer, processor_config, f"{name}-{seed}", None)


def _from_checkpoint(
    source: str,
    tokenizer: Any,
    processor_config: Mapping[str, Any] | None,
    dtype: torch.dtype | None,
    revision: str | None,
) -> _Parts:
    path = Path(source)
    if path.is_dir() and not (path / "config.json").is_file():
        raise InputError(f"The folder {source!r} has no config.json; give a folder that save_pretrained wrote.")
    if path.is_file():
        raise InputError(f"{source!r} is a file; give the folder that holds config.json and the weights.")
    if not path.exists() and (path.is_absolute() or source.startswith((".", "~")) or source.count("/") > 1):
        raise InputError(f"There is no folder {source!r}.")
    _torchvision.guard()
    import transformers

    config = _fetch(source, "configuration", transformers.AutoConfig, revision)
    module_class = _module_class(config, transformers)
    module, report = _fetch(source, "model", module_class, revision, dtype=dtype or "auto", output_loading_info=True)
    # transformers fills what is missing with random numbers; only an encoder's pooler is never read here.
    missing = sorted(name for name in report["missing_keys"] if "pooler" not in name)
    if missing:
        raise InputError(
            f"The checkpoint {source!r} lacks {len(missing)} weights of {type(module).__name__} (first: "
            f"{missing[0]}); they would be random. Use a complete checkpoint."
        )
    if tokenizer is None:
        tokenizer = _load_tokenizer(source, revision)
    if processor_config is None:
        processor_config = _load_processor_config(source, revision)
    commit = getattr(config, "_commit_hash", None)
    return _Parts(module, tokenizer, processor_config, source, commit or revision)


def _module_class(config: Any, transformers: Any) -> Any:
    """The class that reads a checkpoint: the family's, or the one the configuration names."""
    if config.model_type in families():
        return getattr(transformers, adapter_for(config.model_type).auto_class)
    names = getattr(config, "architectures", None) or ()
    found = getattr(transformers, names[0], None) if names else None
    return transformers.AutoModel if found is None else found


def _fetch(source: str, what: str, loader: Any, revision: str | None, **options: Any) -> Any:
    try:
        return loader.from_pretrained(source, revision=revision, trust_remote_code=False, **options)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        where = "in the folder" if Path(source).is_dir() else "no folder here, and on the hub"
        raise InputError(
            f"The {what} of {source!r} cannot be loaded ({where}): {str(error).strip().splitlines()[0]} "
            "Give 'tiny', a folder with config.json, weights and tokenizer, or a model name of the hub."
        ) from error


def _load_tokenizer(source: str, revision: str | None) -> Any:
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


def _load_processor_config(source: str, revision: str | None) -> dict[str, Any] | None:
    """The video preprocessor configuration of a checkpoint, or None when it has no such file."""
    for name in (*_PROCESSOR_FILES, "processor_config.json"):
        file = _find_file(source, name, revision)
        if file is None:
            continue
        data = json.loads(file.read_text("utf-8"))
        if name == "processor_config.json":
            data = data.get("video_processor")
        if data:
            return data
    return None
