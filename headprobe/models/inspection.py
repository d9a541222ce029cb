"""Inspection: where the heads of a checkpoint or configuration are, without its weights.

The model is built on the meta device from its configuration alone, so that a model of any size takes a second
and no memory. No code of the checkpoint is run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from headprobe import _torchvision
from headprobe.errors import HeadprobeError, InputError, UnsupportedModelError
from headprobe.models.adapter import adapter_for, families
from headprobe.models.checkpoint import check_layout, module_class
from headprobe.models.loading import generic_adapter
from headprobe.projections import projection_sizes
from headprobe.sites import HeadSite, all_heads, block_paths, discover

__all__ = ["Inspection", "SiteGroup", "inspect_model"]


@dataclass(frozen=True)
class SiteGroup:
    """Layers whose heads are alike.

    Parameters
    ----------
    layers
        Their indices.
    path
        Path of the output projection within the block.
    n_heads, head_dim, n_kv_heads, kind, gated
        As in `headprobe.HeadSite`.
    module
        Class of the output projection.
    """

    layers: tuple[int, ...]
    path: str
    n_heads: int
    head_dim: int
    n_kv_heads: int | None
    kind: str
    gated: bool
    module: str


@dataclass(frozen=True)
class Inspection:
    """Where the heads of a model are, and whether headprobe can feed it.

    Parameters
    ----------
    source
        What was inspected.
    model_type
        ``config.model_type``.
    model_class
        The transformers class that was built.
    stack
        Path of the list of blocks that hold the heads.
    n_layers
        Number of blocks, those without heads included.
    d_model
        Size of the residual stream that the heads write into.
    groups
        Layers whose heads are alike, in forward order.
    adapter
        Name of the adapter that feeds the model; None if there is none.
    modality
        What an example is: ``text``, ``video`` or ``image``; None without adapter.
    generic
        Whether the adapter is the one for text families without their own, whose padding is checked at load.
    no_adapter
        Why there is no adapter; empty if there is one.
    quantised
        Method by which the checkpoint's weights are quantised; None if they are not.
    """

    source: str
    model_type: str
    model_class: str
    stack: str
    n_layers: int
    d_model: int
    groups: tuple[SiteGroup, ...]
    adapter: str | None
    modality: str | None
    generic: bool = False
    no_adapter: str = ""
    quantised: str | None = None

    @property
    def sites(self) -> tuple[HeadSite, ...]:
        """Every site, as `headprobe.discover` finds it with ``kinds="all"``."""
        sites = [
            HeadSite(
                layer,
                f"{self.stack}.{layer}.{group.path}",
                group.n_heads,
                group.head_dim,
                group.kind,
                group.gated,
                group.n_kv_heads,
            )
            for group in self.groups
            for layer in group.layers
        ]
        return tuple(sorted(sites, key=lambda site: site.layer))

    @property
    def default_kind(self) -> str:
        """Kind of the heads that are read unless others are asked for."""
        kinds = [group.kind for group in self.groups]
        return "softmax" if "softmax" in kinds else kinds[0]

    def count(self, kind: str) -> int:
        """Number of heads of a kind.

        Parameters
        ----------
        kind
            The kind.

        Returns
        -------
        int
        """
        return sum(len(group.layers) * group.n_heads for group in self.groups if group.kind == kind)

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values.

        Returns
        -------
        dict
        """
        counts = {group.kind: self.count(group.kind) for group in self.groups}
        default = [site for site in self.sites if site.kind == self.default_kind]
        return {
            **asdict(self),
            "n_heads": counts,
            "default": {"kind": self.default_kind, "n_heads": len(all_heads(default))},
            "sites": [asdict(site) for site in self.sites],
        }


def inspect_model(source: str | os.PathLike[str]) -> Inspection:
    """Say where the heads of a checkpoint are, from its configuration alone.

    Parameters
    ----------
    source
        A folder with config.json, such a file itself, ``"tiny"``, or a name on the Hugging Face hub.

    Returns
    -------
    Inspection

    Raises
    ------
    InputError
        There is no such configuration, it cannot be read, or no model can be built from it.
    UnsupportedModelError
        transformers does not know the model, or its heads cannot be found without guessing.

    Examples
    --------
    >>> found = inspect_model("tiny")
    >>> found.model_type, found.stack, found.groups[0].n_heads
    ('qwen2_vl', 'model.language_model.layers', 8)
    """
    _torchvision.guard()
    name = os.fspath(source)
    config = _configuration(name)
    module = _skeleton(name, config)
    sites = discover(module, kinds="all")
    stack = block_paths(module, sites)[0].rpartition(".")[0]
    sizes = projection_sizes(module.get_submodule(sites[0].path))
    assert sizes is not None
    adapter, generic, reason = None, False, ""
    try:
        generic = config.model_type not in families()
        softmax = [site for site in sites if site.kind == "softmax"]
        adapter = generic_adapter(module, softmax) if generic else adapter_for(config.model_type)
    except UnsupportedModelError as error:
        generic, reason = False, str(error)
    quantisation = getattr(config, "quantization_config", None)
    if quantisation is not None and not isinstance(quantisation, Mapping):
        quantisation = quantisation.to_dict()
    return Inspection(
        source=name,
        model_type=config.model_type,
        model_class=type(module).__name__,
        stack=stack,
        n_layers=len(block_paths(module, sites)),
        d_model=sizes[1],
        groups=_groups(module, sites, stack),
        adapter=None if adapter is None else adapter.name,
        modality=None if adapter is None else adapter.modality,
        generic=generic,
        no_adapter=reason,
        quantised=None if quantisation is None else str(quantisation.get("quant_method", "yes")),
    )


def _configuration(source: str) -> Any:
    """The configuration that a source names, as transformers' class of it."""
    from transformers import AutoConfig, PretrainedConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if source in ("tiny", "tiny-untrained"):
        from headprobe.models import tiny

        return AutoConfig.from_pretrained(os.fspath(tiny.folder()))
    path = Path(source)
    check_layout(source)
    if path.is_dir():
        path = path / "config.json"
        if not path.is_file():
            raise InputError(f"The folder {source!r} has no config.json; give a folder that save_pretrained wrote.")
    if path.is_file():
        values = _read_json(path)
        model_type = values.get("model_type")
        if not isinstance(model_type, str):
            raise InputError(f"{path} names no model_type, so it is not the configuration of a transformers model.")
        if model_type not in CONFIG_MAPPING:
            raise UnsupportedModelError(_unknown(model_type, values))
        config_class = CONFIG_MAPPING[model_type]
        # transformers reads the file itself: it writes numbers that JSON does not have, such as infinity, as objects.
        made = _try(f"The configuration {path}", lambda: PretrainedConfig.get_config_dict(os.fspath(path))[0])
        return _try(f"The configuration {path}", lambda: config_class.from_dict(made))
    if path.is_absolute() or source.startswith((".", "~")) or source.count("/") > 1 or source.endswith(".json"):
        raise InputError(f"There is no folder or file {source!r}.")
    fetch = f"The configuration of {source!r} (no folder or file here, so a name on the hub)"
    return _try(fetch, lambda: AutoConfig.from_pretrained(source, trust_remote_code=False))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}.") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} holds a {type(values).__name__} instead of a configuration.")
    return values


def _unknown(model_type: str, values: Mapping[str, Any]) -> str:
    import transformers

    known = f"transformers {transformers.__version__} does not know the model type {model_type!r}"
    if values.get("auto_map"):
        return (
            f"{known}; the checkpoint brings code of its own for it (auto_map), and headprobe runs no code of a "
            "checkpoint. Load the model yourself and pass it to headprobe.load(module, sites=[HeadSite(...), ...])."
        )
    return f"{known}; a newer release may."


def _skeleton(source: str, config: Any) -> Any:
    """The model on the meta device: every module, no weight."""
    import transformers

    built = module_class(config, transformers)

    def make() -> Any:
        with torch.device("meta"):
            if hasattr(built, "from_config"):
                return built.from_config(config, trust_remote_code=False, attn_implementation="eager")
            return built._from_config(config, attn_implementation="eager")

    return _try(f"A model of type {config.model_type!r} ({built.__name__}) from {source!r}", make)


def _try(what: str, work: Any) -> Any:
    try:
        return work()
    except HeadprobeError:
        raise
    except Exception as error:  # a configuration can be wrong in as many ways as there are model classes
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
        raise InputError(f"{what} cannot be made: {type(error).__name__}: {' '.join(lines)[:300]}") from error


def _groups(module: Any, sites: Sequence[HeadSite], stack: str) -> tuple[SiteGroup, ...]:
    layers: dict[SiteGroup, list[int]] = {}
    for site in sites:
        path = site.path.removeprefix(f"{stack}.{site.layer}.")
        projection = type(module.get_submodule(site.path)).__name__
        alike = SiteGroup((), path, site.n_heads, site.head_dim, site.n_kv_heads, site.kind, site.gated, projection)
        layers.setdefault(alike, []).append(site.layer)
    return tuple(replace(alike, layers=tuple(found)) for alike, found in layers.items())
