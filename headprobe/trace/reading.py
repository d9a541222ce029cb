"""Readings: what is wanted of a forward pass, where to read it, and what it gave."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from headprobe.errors import InputError, UnsupportedModelError
from headprobe.heads import Head, HeadSet
from headprobe.models.adapter import ModelInputs
from headprobe.models.model import Model
from headprobe.sites import HeadSite, block_paths
from headprobe.trace.forward import ReadPoint
from headprobe.trace.positions import Position, last
from headprobe.trace.rows import Rows
from headprobe.values import sizes

__all__ = ["Point", "Positions", "Reading", "Wanted", "answer_logits", "named_positions", "points_of", "readings"]

Positions = Mapping[str, Position] | Sequence[Position]
"""Several positions, named or not."""


@dataclass(frozen=True)
class Wanted:
    """What to read in every forward pass of a capture.

    Parameters
    ----------
    heads
        Heads, in the order of the entries.
    positions
        Where to read, by name; all are read in one pass.
    resid_post
        Whether to read the residual stream after every block.
    answer_ids
        Token ids whose logits at the last position are read.
    """

    heads: HeadSet
    positions: Mapping[str, Position]
    resid_post: bool = False
    answer_ids: tuple[int, ...] = ()


def named_positions(positions: Position | Positions | None) -> dict[str, Position]:
    """Positions by name.

    Parameters
    ----------
    positions
        None (the last real token), one, a mapping from names, or a sequence; without a name, how it prints.

    Returns
    -------
    dict

    Raises
    ------
    InputError
        Something else is given, nothing, or the same position twice.

    Examples
    --------
    >>> list(named_positions(None)), list(named_positions({"end": last()}))
    (['last()'], ['end'])
    """
    listed: list[tuple[Any, Any]]
    if positions is None:
        listed = [(repr(last()), last())]
    elif isinstance(positions, Mapping):
        listed = list(positions.items())
    elif isinstance(positions, Sequence) and not isinstance(positions, str):
        listed = [(repr(position), position) for position in positions]
    else:
        listed = [(repr(positions), positions)]
    for name, position in listed:
        if not isinstance(position, Position):
            raise InputError(f"positions is {position!r}; give a position such as headprobe.positions.last().")
        if not isinstance(name, str) or not name:
            raise InputError(f"The name of a position must be a non-empty string; got {name!r}.")
    if not listed:
        raise InputError("The positions are empty; give at least one, or None for the last real token.")
    if len(dict(listed)) < len(listed):
        raise InputError(f"A position is given twice among {[name for name, _ in listed]}; give each once.")
    return dict(listed)


@dataclass(frozen=True, eq=False)
class Reading:
    """What one forward pass gave at one position.

    Parameters
    ----------
    tensors
        Head outputs by the heads of one size, float32 on the CPU, [row, k, d_head] each. Rows are examples, or
        tokens or steps of them.
    rows
        What the rows are.
    token_ids
        Id of the first token of every row, [row].
    resid_post
        Residual stream after every block, [row, layer, d_model], or None.
    answer_logits
        Logits of the answer tokens at the last position, [batch, answer], or None.
    """

    tensors: Mapping[HeadSet, Float[Tensor, "row k d_head"]]
    rows: Rows
    token_ids: Int[Tensor, " row"]
    resid_post: Float[Tensor, "row layer d_model"] | None = None
    answer_logits: Float[Tensor, "batch answer"] | None = None

    @property
    def z(self) -> Float[Tensor, "row entry d_head"]:
        """Head outputs of heads of one size.

        Raises
        ------
        InputError
            The heads have several sizes.
        """
        if len(self.tensors) > 1:
            raise InputError(f"{sizes(self.tensors)} Use .tensors, or read heads of one size.")
        return next(iter(self.tensors.values()))


@dataclass(frozen=True)
class Point:
    """A value of the model that a reading needs.

    Parameters
    ----------
    layer
        Its layer.
    path
        Dotted path of the submodule.
    side
        Whether it is its input, the head outputs of a layer, or its output, the residual stream after a block.
    site
        Where the heads are; None for the residual stream.
    heads
        Heads to keep, ascending.
    """

    layer: int
    path: str
    side: Literal["input", "output"]
    site: HeadSite | None = None
    heads: tuple[int, ...] = ()

    def keep(self, rows: Float[Tensor, "row feature"]) -> Float[Tensor, "row kept"]:
        """Of the rows read, the features of the wanted heads.

        Parameters
        ----------
        rows
            [row, feature].

        Returns
        -------
        Tensor [row, kept]
        """
        if self.site is None or len(self.heads) == self.site.n_heads:
            return rows
        return rows.unflatten(-1, (self.site.n_heads, self.site.head_dim))[:, list(self.heads)].flatten(1)

    def reading(self, read: Callable[[Tensor], Tensor]) -> ReadPoint:
        """The point in a forward pass where rows are read.

        Parameters
        ----------
        read
            From values [batch, token, feature] to a copy of the wanted rows, [row, feature].

        Returns
        -------
        ReadPoint
        """
        return ReadPoint(self.path, self.side, lambda values: self.keep(read(values)))


def points_of(model: Model, wanted: Wanted) -> list[Point]:
    """Where a pass is read, in forward order.

    Parameters
    ----------
    model
        The model.
    wanted
        What to read.

    Returns
    -------
    list of Point

    Raises
    ------
    UnsupportedModelError
        The residual stream is wanted, and a block is no module that is called.
    """
    chosen: dict[int, list[int]] = {}
    for head in sorted(wanted.heads):
        chosen.setdefault(head.layer, []).append(head.head)
    points = [
        Point(site.layer, site.path, "input", site, tuple(chosen[site.layer]))
        for site in model.sites
        if site.layer in chosen
    ]
    if wanted.resid_post:
        blocks = block_paths(model.module, model.sites)
        for path in blocks:
            if isinstance(model.module.get_submodule(path), nn.ModuleList | nn.ModuleDict):
                raise UnsupportedModelError(
                    f"{path}: the block is a list of parts, which is never called as one module, so there is no output "
                    "of it that would be the residual stream; capture without resid_post=True."
                )
        points += [Point(layer, path, "output") for layer, path in enumerate(blocks)]
    return sorted(points, key=lambda point: (point.layer, point.side == "output"))


def readings(
    wanted: Wanted,
    points: Sequence[Point],
    kept: Sequence[Float[Tensor, "row kept"]],
    rows: Mapping[str, Rows],
    input_ids: Int[Tensor, "batch token"],
    answer_logits: Float[Tensor, "batch answer"] | None = None,
) -> dict[str, Reading]:
    """One reading per position, from what was kept at the points.

    Parameters
    ----------
    wanted
        What was wanted.
    points
        Where the pass was read.
    kept
        What each point gave: the rows of the first position, then those of the next.
    rows
        The rows of each position, in that order.
    input_ids
        The input, of which the rows name columns.
    answer_logits
        Logits of the answer tokens.

    Returns
    -------
    dict
        Position name to reading.
    """
    host = [(point, value.float().cpu()) for point, value in zip(points, kept, strict=True)]
    tensors = _entries([(point, value) for point, value in host if point.site is not None], wanted.heads)
    residual = [value for point, value in host if point.site is None]
    resid_post = torch.stack(residual, 1) if residual else None
    result: dict[str, Reading] = {}
    start = 0
    for name, part in rows.items():
        # Of several positions, each gets a copy, so that one does not keep the memory of all.
        here, copied = slice(start, start + len(part)), len(rows) > 1
        result[name] = Reading(
            tensors={heads: value[here].clone() if copied else value for heads, value in tensors.items()},
            rows=part,
            token_ids=input_ids.cpu()[part.example, part.columns[:, 0]],
            resid_post=resid_post[here].clone() if copied and resid_post is not None else resid_post,
            answer_logits=answer_logits,
        )
        start = here.stop
    return result


def _entries(kept: Sequence[tuple[Point, Tensor]], heads: HeadSet) -> dict[HeadSet, Tensor]:
    """The heads of each size, in their order, [row, k, d_head]."""
    by_size: dict[int, list[tuple[Point, Tensor]]] = {}
    for point, value in kept:
        assert point.site is not None
        by_size.setdefault(point.site.head_dim, []).append((point, value))
    order: dict[int, list[int]] = {size: [] for size in by_size}
    groups: dict[int, list[Head]] = {}
    place = {
        Head(point.layer, head): (size, i)
        for size, parts in by_size.items()
        for i, (point, head) in enumerate((point, head) for point, _ in parts for head in point.heads)
    }
    for head in heads:
        size, i = place[head]
        groups.setdefault(size, []).append(head)
        order[size].append(i)
    entries: dict[HeadSet, Tensor] = {}
    for size, group in groups.items():
        joined = torch.cat([value.unflatten(-1, (-1, size)) for _, value in by_size[size]], dim=1)
        entries[HeadSet(group)] = joined if order[size] == list(range(len(group))) else joined[:, order[size]]
    return entries


def answer_logits(
    logits: Float[Tensor, "batch token vocabulary"], ids: Sequence[int], inputs: ModelInputs
) -> Float[Tensor, "batch answer"]:
    """Logits of answers at the last real token.

    Parameters
    ----------
    logits
        The model's logits; where inputs are padded on the left, of all tokens or of the last alone.
    ids
        Token ids.
    inputs
        What they were computed from.

    Returns
    -------
    Tensor [batch, answer]
        float32 on the CPU.
    """
    if logits.shape[1] == 1 and inputs.padding_side == "left":
        at_end = logits[:, 0]
    else:
        at_end = last().reader(inputs.token_info)(logits)
    return at_end[:, list(ids)].float().cpu()
