"""A frozen model together with its heads, tokenizer and adapter."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from inspect import Parameter
from typing import Any

import torch
from torch import nn

from headprobe._validation import Unsaved, rows_as_html
from headprobe.errors import SiteError
from headprobe.heads import HeadSet
from headprobe.models.adapter import Adapter
from headprobe.models.sites import HeadSite, all_heads, block_paths, discover
from headprobe.models.sites import check as check_sites

__all__ = ["Model"]

_HASH_LENGTH = 16


class Model(Unsaved):
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
        Where the heads are, of every kind, in forward order.
    heads : HeadSet
        All heads of softmax attention, by layer and head: what is read unless other heads are asked for.

    Examples
    --------
    >>> import headprobe
    >>> model = headprobe.load("tiny")
    >>> len(model.heads), model.sites[0].n_heads
    (48, 8)
    """

    _instead = "Its checkpoint is written with model.module.save_pretrained(folder)."

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
        self.sites: tuple[HeadSite, ...] = discover(module, kinds="all") if sites is None else tuple(sites)
        if check:
            check_sites(module, self.sites)
        softmax = [site for site in self.sites if site.kind == "softmax"]
        self.heads: HeadSet = all_heads(softmax or self.sites)

    @property
    def config(self) -> Any:
        """The transformers configuration."""
        return self.module.config

    def site(self, layer: int) -> HeadSite:
        """Where the heads of a layer are.

        Parameters
        ----------
        layer
            Index of the block.

        Returns
        -------
        HeadSite

        Raises
        ------
        SiteError
            The layer has no heads.
        """
        for site in self.sites:
            if site.layer == layer:
                return site
        raise SiteError(f"Layer {layer} of {self.name} has no heads; layers that have: {self.heads.layers}.")

    @functools.cached_property
    def accepts(self) -> frozenset[str]:
        """Names of the arguments of the module's forward, and of the one that it hands ``*args, **kwargs`` on to."""
        names: set[str] = set()
        for forward in (vars(kind)["forward"] for kind in type(self.module).__mro__ if "forward" in vars(kind)):
            parameters = inspect.signature(forward).parameters
            names |= set(parameters)
            if not {p.kind for p in parameters.values()} >= {Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD}:
                break
        return frozenset(names)

    @functools.cached_property
    def rope_limits(self) -> tuple[int, ...]:
        """Lengths beyond which rotary positions of the whole batch change (longrope), ascending; mostly none."""
        limits = set()
        part: Any
        for part in self.module.modules():
            kinds = getattr(part, "rope_type", None)
            for layer_type, kind in (kinds if isinstance(kinds, dict) else {None: kinds}).items():
                if kind == "longrope":
                    parameters = part.config.rope_parameters
                    parameters = parameters if layer_type is None else parameters[layer_type]
                    limits.add(int(parameters["original_max_position_embeddings"]))
        return tuple(sorted(limits))

    def rope_group(self, length: int, ahead: int = 0) -> tuple[int, ...]:
        """What texts must have in common to run in one batch without changing each other's rotary positions.

        Parameters
        ----------
        length
            Number of tokens.
        ahead
            Number of tokens that may be generated behind them.

        Returns
        -------
        tuple of int
            For every limit 0 below and 1 beyond it; the length itself where generation crosses it. Empty for a model
            without such limits.
        """
        sides = ((length > limit, length + ahead > limit) for limit in self.rope_limits)
        return tuple(length + 1 if now != later else int(now) for now, later in sides)

    @property
    def n_layers(self) -> int:
        """Number of blocks of the stack, those without heads included."""
        return len(block_paths(self.module, self.sites))

    @property
    def device(self) -> torch.device:
        """Device of the first parameter, where inputs go; with offloaded weights, where they are computed with."""
        device = next(self.module.parameters()).device
        if device.type != "meta":
            return device
        for part in self.module.modules():
            execution = getattr(getattr(part, "_hf_hook", None), "execution_device", None)
            if execution is not None:
                return torch.device(execution)
        return device

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
        if any(tensor.is_meta for tensor in state.values()):
            return self._offloaded_hash
        version = tuple((t.data_ptr(), 0 if t.is_inference() else t._version) for t in state.values())
        cached = self.__dict__.get("_weights_hash")
        if cached is None or cached[0] != version:
            cached = (version, _hash_tensors(state))
            self.__dict__["_weights_hash"] = cached
        return cached[1]

    @functools.cached_property
    def _offloaded_hash(self) -> str:
        """The same hash where accelerate keeps weights elsewhere and loads them when they are needed."""
        from accelerate.utils.modeling import get_state_dict_offloaded_model

        return _hash_tensors(get_state_dict_offloaded_model(self.module))

    @functools.cached_property
    def processor_hash(self) -> str:
        """Short SHA-256 over the tokenizer and whatever else shapes the inputs."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        rules = backend.to_str() if backend is not None else json.dumps(self.tokenizer.get_vocab(), sort_keys=True)
        state = json.dumps(self.adapter.processor_state(self), sort_keys=True)
        return hashlib.sha256(f"{rules}\n{state}".encode()).hexdigest()[:_HASH_LENGTH]

    def _repr_html_(self) -> str:
        sizes = sorted({site.head_dim for site in self.sites})
        layers = {site.layer for site in self.sites}
        rows = {
            "class": f"{type(self.module).__name__} ({self.config.model_type}), adapter {self.adapter.name}",
            "heads": f"{len(self.heads)} in {len(layers)} layers, of size {', '.join(map(str, sizes))}",
            "numbers": f"{str(self.dtype).removeprefix('torch.')} on {self.device}",
            "takes": "clips and prompts" if self.adapter.modality == "video" else "texts",
        }
        return rows_as_html(f"Model {self.name}", rows)

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
