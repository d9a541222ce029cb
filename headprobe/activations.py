"""Head outputs of a set of examples under a set of prompts, with the table of examples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from headprobe.errors import FingerprintError, InputError
from headprobe.examples import Example
from headprobe.heads import Head, HeadSet
from headprobe.provenance import Provenance

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["HeadActivations", "concatenate", "example_table"]

COLUMNS = ("id", "label", "group", "start", "end")


def example_table(examples: Sequence[Example]) -> pd.DataFrame:
    """Table of examples.

    Parameters
    ----------
    examples
        The examples, in order.

    Returns
    -------
    pandas.DataFrame
        Columns id, label, group, start, end; what is unknown is missing (``<NA>``), never a number.

    Examples
    --------
    >>> example_table([Example("x", id="a", label=1)]).label.tolist()
    [1]
    """
    import pandas as pd

    spans = [example.span or (None, None) for example in examples]
    return pd.DataFrame(
        {
            "id": pd.array([example.id for example in examples], dtype="string"),
            "label": pd.array([example.label for example in examples], dtype="Int64"),
            "group": pd.array([example.group for example in examples], dtype="string"),
            "start": pd.array([span[0] for span in spans], dtype="Int64"),
            "end": pd.array([span[1] for span in spans], dtype="Int64"),
        }
    )


@dataclass(frozen=True, eq=False)
class HeadActivations:
    """Outputs z of attention heads, one vector per prompt, example and head.

    Parameters
    ----------
    values
        float32 on the CPU, [prompt, example, entry, d_head]; entry i is ``heads[i]``.
    heads
        The heads, in the order of the entries.
    prompts
        Prompt name to text, in the order of the first axis.
    examples
        Table with columns id, label, group, start, end (frames, end exclusive).
    provenance
        What the values were made from.
    skipped
        (id, reason) of examples that could not be read and are not in the values.
    resid_post
        Residual stream after every block at the same position, [prompt, example, layer, d_model].
    answer_logits
        Logits of the answer tokens at the last position, [prompt, example, answer].
    answers
        The answer tokens.

    Raises
    ------
    InputError
        Shapes do not agree.

    Examples
    --------
    >>> heads = HeadSet([(layer, head) for layer in range(2) for head in range(3)])
    >>> table = example_table([Example("x", id="a", label=0), Example("y", id="b", label=1)])
    >>> acts = HeadActivations(torch.zeros(1, 2, 6, 4), heads, {"none": ""}, table, Provenance(model="m"))
    >>> acts.z.shape, acts.labels.tolist()
    (torch.Size([1, 2, 2, 3, 4]), [0, 1])
    >>> acts.select(["L1H2"]).shape
    torch.Size([1, 2, 1, 4])
    """

    values: Float[Tensor, "prompt example entry d_head"]
    heads: HeadSet
    prompts: Mapping[str, str]
    examples: pd.DataFrame
    provenance: Provenance
    skipped: Sequence[tuple[str, str]] = ()
    resid_post: Float[Tensor, "prompt example layer d_model"] | None = None
    answer_logits: Float[Tensor, "prompt example answer"] | None = None
    answers: Sequence[str] = ()

    def __post_init__(self) -> None:
        expected = (len(self.prompts), len(self.examples), len(self.heads))
        if self.values.ndim != 4 or tuple(self.values.shape[:3]) != expected:
            raise InputError(
                f"values must be [prompt, example, entry, d_head] = [{', '.join(map(str, expected))}, "
                "d_head]; "
                f"got {list(self.values.shape)}."
            )
        missing = [name for name in COLUMNS if name not in self.examples.columns]
        if missing:
            raise InputError(f"The example table lacks the columns {missing}; it needs {list(COLUMNS)}.")
        for name, tensor in (("resid_post", self.resid_post), ("answer_logits", self.answer_logits)):
            if tensor is not None and tuple(tensor.shape[:2]) != expected[:2]:
                raise InputError(f"{name} must start with [prompt, example] = {list(expected[:2])}.")
        if self.answer_logits is not None and self.answer_logits.shape[-1] != len(self.answers):
            raise InputError(f"answer_logits has {self.answer_logits.shape[-1]} answers; expected {len(self.answers)}.")

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that were read, ascending."""
        return self.heads.layers

    @property
    def z(self) -> Float[Tensor, "prompt example layer head d_head"]:
        """The values as [prompt, example, layer, head, d_head], without a copy.

        Raises
        ------
        InputError
            The heads are not a full layer by head rectangle in order; use ``select`` then.
        """
        layers = self.heads.layers
        per_layer = sorted({head.head for head in self.heads})
        if tuple(self.heads) != tuple(Head(layer, head) for layer in layers for head in per_layer):
            raise InputError(
                "z needs the same heads in every layer, ordered by layer and head; these "
                f"{len(self.heads)} heads in "
                f"{len(layers)} layers are not that. Use .select(heads) or .values."
            )
        return self.values.view(*self.values.shape[:2], len(layers), len(per_layer), self.values.shape[-1])

    def select(self, heads: Iterable[Head | str | tuple[int, int]]) -> Float[Tensor, "prompt example k d_head"]:
        """Values of some heads, in the order asked for.

        Parameters
        ----------
        heads
            Heads that were read.

        Returns
        -------
        Tensor [prompt, example, k, d_head]

        Raises
        ------
        InputError
            A head was not read.
        """
        wanted = heads if isinstance(heads, HeadSet) else HeadSet(heads)
        entry = {head: i for i, head in enumerate(self.heads)}
        absent = [head.label for head in wanted if head not in entry]
        if absent:
            raise InputError(
                f"{', '.join(absent[:5])} not among the {len(self.heads)} heads that were read; "
                "capture them with heads=."
            )
        return self.values[:, :, [entry[head] for head in wanted]]

    @property
    def labels(self) -> Int[np.ndarray, " example"]:
        """Labels as integers, [example].

        Raises
        ------
        InputError
            An example has no label.
        """
        unlabelled = self.examples.loc[self.examples["label"].isna(), "id"].tolist()
        if unlabelled:
            raise InputError(
                f"{len(unlabelled)} of {len(self.examples)} examples have no label (first: "
                f"{unlabelled[0]!r}); "
                "give Example(..., label=)."
            )
        return self.examples["label"].to_numpy(dtype=np.int64)

    @property
    def groups(self) -> np.ndarray:
        """Groups (usually videos) as strings, [example].

        Raises
        ------
        InputError
            An example has no group.
        """
        ungrouped = self.examples.loc[self.examples["group"].isna(), "id"].tolist()
        if ungrouped:
            raise InputError(
                f"{len(ungrouped)} of {len(self.examples)} examples have no group (first: {ungrouped[0]!r}); "
                "give Example(..., group=)."
            )
        return self.examples["group"].to_numpy(dtype=object).astype(str)

    def subset(self, index: Sequence[int] | np.ndarray | slice) -> HeadActivations:
        """The activations of some examples.

        Parameters
        ----------
        index
            Integer positions, a boolean mask over examples, or a slice.

        Returns
        -------
        HeadActivations

        Raises
        ------
        InputError
            A mask of the wrong length or an index out of range.
        """
        n = len(self.examples)
        rows = np.arange(n)[index] if isinstance(index, slice) else np.asarray(index)
        if rows.dtype == bool:
            if rows.shape != (n,):
                raise InputError(f"A mask over examples must have length {n}; got shape {rows.shape}.")
            rows = np.flatnonzero(rows)
        rows = rows.astype(np.int64) if rows.size == 0 else rows
        if rows.ndim != 1 or not np.issubdtype(rows.dtype, np.integer):
            raise InputError(f"An index over examples must be a list of integers or a mask; got {index!r}.")
        if rows.size and (rows.min() < -n or rows.max() >= n):
            raise InputError(f"The index {int(rows.max())} lies outside the {n} examples.")
        rows = np.where(rows < 0, rows + n, rows)
        keep = torch.from_numpy(rows)
        return replace(
            self,
            values=self.values[:, keep],
            examples=self.examples.iloc[rows].reset_index(drop=True),
            resid_post=None if self.resid_post is None else self.resid_post[:, keep],
            answer_logits=None if self.answer_logits is None else self.answer_logits[:, keep],
        )


def concatenate(parts: Sequence[HeadActivations]) -> HeadActivations:
    """Join activations of different examples, made in the same way.

    Parameters
    ----------
    parts
        Activations with the same heads, prompts, answers and provenance fingerprint.

    Returns
    -------
    HeadActivations

    Raises
    ------
    InputError
        Nothing is given, the heads or prompts differ, or an example id occurs twice.
    FingerprintError
        The parts come from different models, prompts or processing.

    Examples
    --------
    >>> def part(name):
    ...     table = example_table([Example("x", id=name)])
    ...     values, heads = torch.zeros(1, 1, 1, 2), HeadSet(["L0H0"])
    ...     return HeadActivations(values, heads, {"none": ""}, table, Provenance("m"))
    >>> concatenate([part("a"), part("b")]).examples.id.tolist()
    ['a', 'b']
    """
    import pandas as pd

    if not parts:
        raise InputError("Nothing to concatenate; give at least one HeadActivations.")
    head = parts[0]
    for other in parts[1:]:
        if other.provenance.fingerprint != head.provenance.fingerprint:
            differing = ", ".join(head.provenance.differences(other.provenance))
            raise FingerprintError(f"The activations were made differently: {differing} differ.")
        if other.heads != head.heads or list(other.prompts.items()) != list(head.prompts.items()):
            raise InputError("The activations have different heads or prompts; capture them with the same ones.")
        if tuple(other.answers) != tuple(head.answers):
            raise InputError(f"The activations have different answers: {other.answers} and {head.answers}.")
    table = pd.concat([part.examples for part in parts], ignore_index=True)
    twice = table.loc[table["id"].duplicated(), "id"].tolist()
    if twice:
        raise InputError(f"The example {twice[0]!r} occurs in more than one part; ids must be unique.")

    def join(name: str) -> Any:
        tensors = [getattr(part, name) for part in parts]
        present = [tensor is not None for tensor in tensors]
        if not any(present):
            return None
        if not all(present):
            raise InputError(f"Only some of the activations have {name}; capture all of them with it.")
        return torch.cat(tensors, dim=1)

    return replace(
        head,
        values=join("values"),
        examples=table,
        skipped=tuple(item for part in parts for item in part.skipped),
        resid_post=join("resid_post"),
        answer_logits=join("answer_logits"),
    )
