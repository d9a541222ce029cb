"""Inspection: where the heads of a checkpoint or configuration are, without its weights.

The model is built on the meta device from its configuration alone, so that a model of any size takes a second
and no memory. No code of the checkpoint is run.
"""

from __future__ import annotations

import itertools
import json
import os
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from headprobe import _torchvision
from headprobe.errors import HeadprobeError, InputError, UnsupportedModelError
from headprobe.models._attention import KINDS, projection_sizes
from headprobe.models.adapter import adapter_for, families
from headprobe.models.loading import _check_layout, _generic_adapter, _module_class
from headprobe.models.sites import HeadSite, all_heads, block_paths, discover

__all__ = [
    "TESTED",
    "Inspection",
    "SiteGroup",
    "describe",
    "inspect_model",
]


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
        adapter = _generic_adapter(module, softmax) if generic else adapter_for(config.model_type)
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
    _check_layout(source)
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


_MOST = {"num_hidden_layers": 10_000, "num_attention_heads": 1_000_000}  # beyond these a file is damaged


def _skeleton(source: str, config: Any) -> Any:
    """The model on the meta device: every module, no weight."""
    import transformers

    built = _module_class(config, transformers)
    for name, most in _MOST.items():
        value = getattr(config.get_text_config(), name, None)
        if isinstance(value, int) and value > most:
            raise InputError(f"{source}: {name} is {value:.3e}; it must be an integer of at most {most}.")

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


# What the words of an adapter's ``verified`` stand for.
TESTED = {
    "hooks": "captures equal plain PyTorch hooks in the same pass bit for bit",
    "sum": "the heads add up to what the output projection computes",
    "batch": "a batch equals its single examples",
    "early stop": "stopping after the deepest layer changes nothing",
    "bfloat16": "stays within the rounding of the type",
    "padding": "wrong padding and missing masks are refused",
    "folder": "a saved checkpoint folder reads the same",
    "token map": "it covers exactly the tokens that pixels change",
    "pixels": "inputs equal those of transformers' own processor",
    "prefix": "prompts that share a prefix read what full passes read",
}
_EXAMPLES = {"text": "a text", "video": "a clip [frame, height, width, 3]", "image": "a picture [1, height, width, 3]"}


def describe(found: Inspection) -> tuple[list[tuple[str, str]], list[tuple[str, ...]]]:
    """An inspection in words.

    Parameters
    ----------
    found
        The inspection.

    Returns
    -------
    (list of (name, text), list of rows)
        Facts about the model; for every group of layers: layers, projection, heads, head size, KV heads, kind,
        gated.

    Examples
    --------
    >>> from headprobe.models.inspection import inspect_model
    >>> facts, layers = describe(inspect_model("tiny"))
    >>> layers
    [('0-5', 'self_attn.o_proj', '8', '16', '8', 'softmax', 'no')]
    """
    default = [group for group in found.groups if group.kind == found.default_kind]
    layers = sorted(layer for group in default for layer in group.layers)
    heads = f"{found.count(found.default_kind)} {found.default_kind} heads in layers {_layer_ranges(layers)}"
    others = [kind for kind in KINDS if kind != found.default_kind and found.count(kind)]
    facts = [
        ("model", f"{found.model_type} ({found.model_class}) from {found.source}"),
        ("blocks", f"{found.n_layers} in {found.stack}, residual stream of {found.d_model}"),
        ("read by default", heads),
    ]
    if others:
        counts = " and ".join(f"{found.count(kind)} {kind} heads" for kind in others)
        facts.append(("read when named", counts))
    if found.adapter is None:
        facts.append(("adapter", f"none. {found.no_adapter}"))
    else:
        how = "by structure, checked when the model is loaded" if found.generic else "for this family"
        facts.append(("adapter", f"{found.adapter} ({how}); an example is {_EXAMPLES[str(found.modality)]}"))
    modules = ", ".join(dict.fromkeys(group.module for group in found.groups))
    if found.quantised:
        modules += f"; quantised ({found.quantised}), so that heads are read but not their output weights"
    facts.append(("projections", modules))
    rows = [
        (
            _layer_ranges(group.layers),
            group.path,
            str(group.n_heads),
            str(group.head_dim),
            "-" if group.n_kv_heads is None else str(group.n_kv_heads),
            group.kind,
            "yes" if group.gated else "no",
        )
        for group in found.groups
    ]
    return facts, rows


def _family_rows() -> list[dict[str, Any]]:
    """What the registry knows about every family."""
    rows = []
    for model_type in families():
        adapter = adapter_for(model_type)
        rows.append(
            {
                "model_type": model_type,
                "adapter": adapter.name,
                "modality": adapter.modality,
                "padding_side": adapter.padding_side,
                "module": type(adapter).__module__.rpartition(".")[2],
                "verified": list(getattr(adapter, "verified", ())),
            }
        )
    return rows


def _family_groups() -> list[tuple[str, str, str, str]]:
    """Families that are fed and tested alike."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for row in _family_rows():
        alike = (row["modality"], row["padding_side"] or "none", ", ".join(row["verified"]) or "-")
        groups.setdefault(alike, []).append(row["model_type"])
    return [(", ".join(names), *alike) for alike, names in sorted(groups.items())]


def _layer_ranges(layers: Sequence[int]) -> str:
    """Layer indices as a short text."""
    plain = _ranges(layers)
    absent = sorted(set(range(layers[0], layers[-1])) - set(layers))
    short = f"{layers[0]}-{layers[-1]} but {_ranges(absent)}" if absent else plain
    return min(plain, short, key=len)


def _ranges(layers: Sequence[int]) -> str:
    steps = {b - a for a, b in itertools.pairwise(layers)}
    if len(steps) == 1 and len(layers) > 2 and steps != {1}:
        return f"{layers[0]}-{layers[-1]} by {steps.pop()}"
    runs: list[list[int]] = []
    for layer in layers:
        if runs and runs[-1][-1] == layer - 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _text_table(rows: Sequence[Sequence[str]], width: int) -> str:
    """Rows as aligned columns, wrapped at words where they would not fit."""
    columns = list(zip(*rows, strict=True))
    room = width - 2 * (len(columns) - 1)
    words = [max(len(word) for cell in column for word in cell.split() or [""]) for column in columns]
    words = [min(word, max(room // 2, 1)) for word in words]  # longer ones, such as paths, are broken
    widths = [max(map(len, column)) for column in columns]
    if sum(widths) > room:  # headers are the first to wrap
        widths = [max(word, *map(len, column[1:] or column)) for word, column in zip(words, columns, strict=True)]
    while sum(widths) > room and widths != words:
        widest = max(range(len(widths)), key=lambda i: (widths[i] > words[i], widths[i]))
        widths[widest] -= 1
    numbers = [all(cell.isdecimal() or cell == "-" for cell in column[1:]) and len(column) > 1 for column in columns]
    lines = []
    for row in rows:
        cells = [textwrap.wrap(cell, size) for cell, size in zip(row, widths, strict=True)]
        for parts in itertools.zip_longest(*cells, fillvalue=""):
            aligned = [
                part.rjust(size) if number else part.ljust(size)
                for part, size, number in zip(parts, widths, numbers, strict=True)
            ]
            lines.append("  ".join(aligned).rstrip())
    return "\n".join(lines)
