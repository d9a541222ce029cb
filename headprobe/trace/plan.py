"""Which edits of head outputs are in force, and what they do in a pass.

`headprobe.trace.edits` makes the edits. An edit is in force inside its ``with`` block, in the thread that entered it.

How a pass applies them: `plan` gives, for one module, pairs (path of an output projection, function) in forward order;
the function takes the projection's input [batch, token, feature] and the index of its first token, and returns a new
tensor that takes the input's place. `Batch` is what a pass tells the edits about itself. A traced block runs in a
context of its own, so `plan` is called before the trace begins; `headprobe.trace.forward` does both.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass
from types import TracebackType

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from headprobe.errors import InputError
from headprobe.models.adapter import TokenInfo
from headprobe.sites import HeadSite
from headprobe.trace.positions import Position

__all__ = ["Batch", "Change", "Edit", "Part", "active", "plan", "uniform"]

# From the z of the heads to edit, [batch, token, k, d_head], to what takes its place, of a shape that broadcasts to it.
Change = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Batch:
    """What edits may need to know about the batch of a pass.

    Parameters
    ----------
    tokens
        The tokens of the whole prompts; needed by edits at positions.
    examples
        Ids of the examples, one per row; needed by edits that differ between examples.
    prompt
        Name of the prompt; needed by edits from a reference with several prompts.
    start
        Index within ``tokens`` of the first token that the pass computes: more than 0 after a cached prefix.
    """

    tokens: TokenInfo | None = None
    examples: Sequence[str] | None = None
    prompt: str | None = None
    start: int = 0


@dataclass(frozen=True)
class Part:
    """What an edit does in one layer.

    Parameters
    ----------
    site
        Where the heads of the layer are.
    index
        The heads to change, within the layer.
    change
        From the batch of a pass to the change of z.
    """

    site: HeadSite
    index: tuple[int, ...]
    change: Callable[[Batch], Change]


@dataclass(frozen=True, eq=False, repr=False)
class Edit(AbstractContextManager["Edit"]):
    """A change of head outputs, in force inside a ``with`` block; made by `headprobe.trace.edits`.

    The same edit can be entered again, also by several threads; each sees its own blocks only.

    Parameters
    ----------
    text
        How the edit prints; also its identity in provenance.
    module
        The model it belongs to.
    positions
        Where it applies, to each selected token; None is every token.
    parts
        What it does in each layer.
    by_example
        Whether it differs between examples or prompts.
    """

    text: str
    module: nn.Module
    positions: Position | None
    parts: tuple[Part, ...]
    by_example: bool = False

    def __repr__(self) -> str:
        return self.text

    def __enter__(self) -> Edit:
        _entered.set((*_entered.get(), self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        edits = _entered.get()
        latest = max(i for i, edit in enumerate(edits) if edit is self)
        _entered.set(edits[:latest] + edits[latest + 1 :])


_entered: ContextVar[tuple[Edit, ...]] = ContextVar("headprobe_edits", default=())


def active(module: nn.Module) -> tuple[str, ...]:
    """Descriptions of the edits in force for passes of a module, in the order entered.

    Parameters
    ----------
    module
        The model.

    Returns
    -------
    tuple of str
        Each names the kind, the heads, the positions and a hash of the values it writes.
    """
    return tuple(edit.text for edit in _entered.get() if edit.module is module)


def uniform(module: nn.Module) -> bool:
    """Whether the edits in force, if any, do the same to every token of every example under every prompt.

    Then `plan` needs no batch, and passes over parts of the inputs, such as a prefix that prompts share, are edited
    as the whole would be.

    Parameters
    ----------
    module
        The model.

    Returns
    -------
    bool
    """
    return not any(e.by_example or e.positions is not None for e in _entered.get() if e.module is module)


def plan(module: nn.Module, batch: Batch | None = None) -> list[tuple[str, Callable[[Tensor, int], Tensor]]]:
    """What the edits in force do in the passes of one module.

    Parameters
    ----------
    module
        The model.
    batch
        What the passes run on; None if nothing is known, which suffices for edits without positions and examples.

    Returns
    -------
    list of (str, callable)
        Path of an output projection, and the function from its input [batch, token, feature] and the index of its
        first token to the edited input, a new tensor. In forward order, each path once; empty without edits.
        Tokens behind those of the batch were generated: no position selects them.

    Raises
    ------
    InputError
        An edit needs to know more about the batch than it is told, or has nothing for one of the examples.
    PositionError
        An edit's position selects no token of an example.
    """
    batch = Batch() if batch is None else batch
    steps: dict[int, list[tuple[Part, Change, Tensor | None]]] = {}
    for edit in _entered.get():
        if edit.module is module:
            selected = _selection(edit, batch)
            for part in edit.parts:
                steps.setdefault(part.site.layer, []).append((part, part.change(batch), selected))
    return [(steps[layer][0][0].site.path, functools.partial(_apply, steps[layer])) for layer in sorted(steps)]


def _selection(edit: Edit, batch: Batch) -> Bool[Tensor, "batch token"] | None:
    if edit.positions is None:
        return None
    if batch.tokens is None:
        raise InputError(f"{edit!r} needs to know the tokens of the batch; run the model through HeadTracer.")
    return edit.positions.select(batch.tokens)


def _apply(steps: Sequence[tuple[Part, Change, Tensor | None]], value: Tensor, start: int) -> Tensor:
    """The input of an output projection after all edits of its layer."""
    edited = value.clone()  # the value itself is shared with whatever else holds it
    for part, change, selected in steps:
        z = edited.unflatten(-1, (part.site.n_heads, part.site.head_dim))
        index = list(part.index)
        old = z[..., index, :]
        new = change(old)
        if selected is not None:
            n_tokens = value.shape[1]
            here = selected[:, start : start + n_tokens]
            here = nn.functional.pad(here, (0, n_tokens - here.shape[1]))
            new = torch.where(here.to(value.device)[..., None, None], new, old)
        z[..., index, :] = new
    return edited
