"""Summaries for people: where the heads of a model are, and which families headprobe can feed."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Sequence
from typing import Any

from headprobe.attention import KINDS
from headprobe.models.adapter import adapter_for, families
from headprobe.models.inspection import Inspection

__all__ = ["TESTED", "describe", "family_groups", "family_rows", "layer_ranges", "text_table"]

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
    heads = f"{found.count(found.default_kind)} {found.default_kind} heads in layers {layer_ranges(layers)}"
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
            layer_ranges(group.layers),
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


def family_rows() -> list[dict[str, Any]]:
    """What the registry knows about every family.

    Returns
    -------
    list of dict
        ``model_type``, ``adapter``, ``modality``, ``padding_side``, ``module`` of the adapter, and ``verified``: the
        names of what the tests hold for a tiny random model of it.

    Examples
    --------
    >>> [row["modality"] for row in family_rows() if row["model_type"] == "gpt2"]
    ['text']
    """
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


def family_groups() -> list[tuple[str, str, str, str]]:
    """Families that are fed and tested alike.

    Returns
    -------
    list of (families, examples, padding, tested)
        In words, by what an example is.

    Examples
    --------
    >>> sorted({examples for _, examples, _, _ in family_groups()})
    ['image', 'text', 'video']
    """
    groups: dict[tuple[str, str, str], list[str]] = {}
    for row in family_rows():
        alike = (row["modality"], row["padding_side"] or "none", ", ".join(row["verified"]) or "-")
        groups.setdefault(alike, []).append(row["model_type"])
    return [(", ".join(names), *alike) for alike, names in sorted(groups.items())]


def layer_ranges(layers: Sequence[int]) -> str:
    """Layer indices as a short text.

    Parameters
    ----------
    layers
        Ascending indices.

    Returns
    -------
    str
        Ranges; a regular step, or one that is left out, is written as such.

    Examples
    --------
    >>> layer_ranges(range(28)), layer_ranges([3, 7, 11, 15]), layer_ranges([0, 1, 2, 5])
    ('0-27', '3-15 by 4', '0-2, 5')
    >>> layer_ranges([i for i in range(20) if i % 4 != 3])
    '0-18 but 3-15 by 4'
    """
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


def text_table(rows: Sequence[Sequence[str]], width: int) -> str:
    """Rows as aligned columns, wrapped at words where they would not fit.

    Parameters
    ----------
    rows
        Cells of every row, the first of them a header or not.
    width
        Characters per line; a row is longer only where the longest words of its columns do not fit.

    Returns
    -------
    str

    Examples
    --------
    >>> print(text_table([("layers", "heads"), ("0-3, 5", "12")], 80))
    layers  heads
    0-3, 5     12
    >>> print(text_table([("one", "a long text that wraps")], 16))
    one  a long text
         that wraps
    """
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
