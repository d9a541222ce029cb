"""Head outputs of a set of examples under a set of prompts, with the table of examples."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from headprobe._files import read_json, read_regular, write_file, write_json
from headprobe._validation import rows_as_html
from headprobe.errors import ArtefactError, FingerprintError, InputError
from headprobe.examples import Example
from headprobe.heads import Head, HeadSet
from headprobe.provenance import Provenance

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["HeadActivations", "concatenate", "example_table"]

_Tensors = Mapping[HeadSet, Float[Tensor, "prompt example k d_head"]]
"""Values by the heads of one size."""


def _group(values: Tensor | _Tensors, heads: HeadSet, shape: tuple[int, int]) -> dict[HeadSet, Tensor]:
    """Values by the heads of one size, checked."""
    tensors = dict(values) if isinstance(values, Mapping) else {heads: values}
    for part, tensor in tensors.items():
        expected = (*shape, len(part))
        if tensor.ndim != 4 or tuple(tensor.shape[:3]) != expected:
            raise InputError(
                f"values must be [prompt, example, entry, d_head] = [{', '.join(map(str, expected))}, d_head]; "
                f"got {list(tensor.shape)}."
            )
    size_of = {head: tensor.shape[-1] for part, tensor in tensors.items() for head in part}
    ordered: dict[int, list[Head]] = {}
    for head in heads:
        ordered.setdefault(size_of.get(head, -1), []).append(head)
    if sum(map(len, tensors)) != len(heads) or [HeadSet(part) for part in ordered.values()] != list(tensors):
        raise InputError(
            f"The values are of {', '.join(f'{len(part)} heads of size {t.shape[-1]}' for part, t in tensors.items())}"
            f"; expected each of the {len(heads)} heads once, in their order, and one group per size."
        )
    return tensors


def _dense(tensors: _Tensors) -> Any:
    """What `HeadActivations` takes as ``values``: the only tensor, or the tensors by heads."""
    return next(iter(tensors.values())) if len(tensors) == 1 else tensors


def _each(tensors: _Tensors, change: Callable[[Tensor], Tensor]) -> Any:
    """`dense` of changed values."""
    return _dense({heads: change(tensor) for heads, tensor in tensors.items()})


def _sizes(tensors: _Tensors) -> str:
    """Why there is no tensor of all heads, for error texts."""
    parts = [f"{len(heads)} of size {tensor.shape[-1]}" for heads, tensor in tensors.items()]
    return f"These heads have different sizes ({', '.join(parts)}), so no tensor holds all of them."


def _select(
    tensors: _Tensors, heads: Iterable[Head | str | tuple[int, int]]
) -> Float[Tensor, "prompt example k d_head"]:
    """Values of some heads of one size, in the order asked for."""
    wanted = heads if isinstance(heads, HeadSet) else HeadSet(heads)
    place = {head: (part, i) for part in tensors for i, head in enumerate(part)}
    absent = [head.label for head in wanted if head not in place]
    if absent:
        raise InputError(
            f"{', '.join(absent[:5])} not among the {len(place)} heads that were read; capture them with heads=."
        )
    parts = {place[head][0]: head for head in wanted} or dict.fromkeys(list(tensors)[:1])
    if len(parts) > 1:
        named = ", ".join(f"{head} has {tensors[part].shape[-1]}" for part, head in parts.items())
        raise InputError(f"The heads have different sizes ({named}); select heads of one size at a time.")
    (part,) = parts
    return tensors[part][:, :, [place[head][1] for head in wanted]]


_COLUMNS = ("id", "label", "group", "start", "end")
"""Columns that every table of examples has."""

_READ_COLUMNS = ("prompt", "id", "index", "first", "last", "count", "n_tokens", "token_id", "token")
"""Columns of the table of what was read."""

_NAMED_TOKENS = 8


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


def _row_table(
    examples: Sequence[Example],
    example: Int[np.ndarray, " row"],
    columns: Mapping[str, Sequence[int | None] | Int[np.ndarray, " row"]],
) -> pd.DataFrame:
    """Table of rows where an example has several, such as one per token."""
    import pandas as pd

    table = example_table(examples).iloc[example].reset_index(drop=True)
    begins = np.searchsorted(example, example)  # ascending, so rows of one example stand together
    number = np.arange(len(example)) - begins
    table["example"] = table["id"]
    table["id"] = pd.array([f"{name}@{k}" for name, k in zip(table["id"], number, strict=True)], dtype="string")
    for name, values in columns.items():
        table[name] = pd.array(list(values), dtype="Int64")
    return table


def _read_summary(read: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """What was read, in short, for every prompt."""
    prompts, counts, tokens = (read[name].to_numpy() for name in ("prompt", "count", "token"))
    pooled = bool(read["index"].isna().any())
    summary: dict[str, dict[str, Any]] = {}
    for prompt in dict.fromkeys(prompts):
        here = prompts == prompt
        entry: dict[str, Any] = {"reads": int(here.sum())}
        if pooled:
            entry["pooled"] = [int(counts[here].min()), int(counts[here].max())]
        else:
            # Equal counts in alphabetical order, so that the order in which they were read does not show.
            seen = sorted(Counter(tokens[here].tolist()).items(), key=lambda item: (-item[1], item[0]))
            entry["tokens"] = dict(seen[:_NAMED_TOKENS])
        summary[str(prompt)] = entry
    return summary


def _join_read(parts: Sequence[tuple[pd.DataFrame | None, int]], n_prompts: int) -> pd.DataFrame | None:
    """Tables of what was read, of different examples under the same prompts, as one."""
    import pandas as pd

    tables = [(table, n) for table, n in parts if table is not None]
    if len(tables) < len(parts):
        return None
    return pd.concat(
        [table.iloc[p * n : (p + 1) * n] for p in range(n_prompts) for table, n in tables], ignore_index=True
    )


def _row_index(index: Sequence[int] | np.ndarray | slice, n: int) -> Int[np.ndarray, " row"]:
    """Positions of rows, from whatever numpy takes as an index."""
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
    return np.where(rows < 0, rows + n, rows)


_FORMAT = "headprobe.activations/1"
_STATE, _TENSORS = "activations.json", "activations.safetensors"
_DTYPES = ("string", "Int64", "int64", "Float64", "float64", "boolean", "bool", "object")


def _table_state(table: pd.DataFrame) -> dict[str, Any]:
    """A table as JSON: column to type and values, None where one is missing."""

    def plain(column: Any) -> list[Any]:
        values = zip(column.tolist(), column.isna(), strict=True)
        return [None if missing else value for value, missing in values]

    return {str(name): [str(table[name].dtype), plain(table[name])] for name in table.columns}


def _table(state: Mapping[str, Any]) -> pd.DataFrame:
    import pandas as pd

    for name, (dtype, _) in state.items():
        if dtype not in _DTYPES:
            raise ValueError(f"column {name!r} is of type {dtype!r}; it must be one of {', '.join(_DTYPES)}")
    return pd.DataFrame({name: pd.Series(values, dtype=dtype) for name, (dtype, values) in state.items()})


@dataclass(frozen=True, eq=False, repr=False)
class HeadActivations:
    """Outputs z of attention heads, one vector per prompt, example and head.

    The examples of a capture that reads several tokens or steps of each are those rows; their table says which
    example a row comes from.

    Parameters
    ----------
    values
        float32 on the CPU, [prompt, example, entry, d_head]; entry i is ``heads[i]``. Heads of several sizes come as
        a mapping from the heads of one size to their values; reading ``values`` is then an error, because there is
        no such tensor: use `select`, `by_size` or ``tensors``.
    heads
        The heads, in the order of the entries.
    prompts
        Prompt name to text, in the order of the first axis.
    examples
        Table with columns id, label, group, start, end (frames, end exclusive); and, where an example has several
        rows, example (its id) and token (index among its real tokens; missing where prompts differ in it) or
        frame and frame_end (the sampled frames of a row, end exclusive).
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
    read
        Which token was read: one row per prompt and example, in that order, with the columns prompt, id, index
        (among the example's real tokens; missing for a mean), first, last, count (of the tokens averaged),
        n_tokens (of the example), token_id and token (its text; both missing for a mean).

    Attributes
    ----------
    tensors : mapping
        Values by the heads of one size; a single entry when all heads have the same size.

    Raises
    ------
    InputError
        Shapes do not agree.

    Examples
    --------
    >>> from headprobe.examples import Example
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
    read: pd.DataFrame | None = None
    tensors: Mapping[HeadSet, Float[Tensor, "prompt example k d_head"]] = field(init=False)

    def __post_init__(self) -> None:
        shape = (len(self.prompts), len(self.examples))
        object.__setattr__(self, "tensors", _group(self.values, self.heads, shape))
        if len(self.tensors) > 1:  # without the attribute, reading it reaches __getattr__, which explains
            object.__delattr__(self, "values")
        else:
            object.__setattr__(self, "values", self.tensors[self.heads])
        missing = [name for name in _COLUMNS if name not in self.examples.columns]
        if missing:
            raise InputError(f"The example table lacks the columns {missing}; it needs {list(_COLUMNS)}.")
        for name, tensor in (("resid_post", self.resid_post), ("answer_logits", self.answer_logits)):
            if tensor is not None and tuple(tensor.shape[:2]) != shape:
                raise InputError(f"{name} must start with [prompt, example] = {list(shape)}.")
        if self.answer_logits is not None and self.answer_logits.shape[-1] != len(self.answers):
            raise InputError(f"answer_logits has {self.answer_logits.shape[-1]} answers; expected {len(self.answers)}.")
        if self.read is not None and (
            len(self.read) != shape[0] * shape[1] or not set(_READ_COLUMNS) <= set(self.read.columns)
        ):
            raise InputError(
                f"The table of what was read must have {shape[0]} x {shape[1]} rows and the columns "
                f"{list(_READ_COLUMNS)}; got {len(self.read)} rows and {list(self.read.columns)}."
            )

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name == "values" and "tensors" in self.__dict__:
                raise InputError(f"{_sizes(self.tensors)} Use .select(heads) with heads of one size, or .by_size().")
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @property
    def _widths(self) -> str:
        return "/".join(str(values.shape[-1]) for values in self.tensors.values())

    def __repr__(self) -> str:
        return (
            f"HeadActivations({len(self.prompts)} prompts, {len(self.examples)} examples, {len(self.heads)} heads of "
            f"size {self._widths}, {self.provenance.model!r}, {self.provenance.positions})"
        )

    def _repr_html_(self) -> str:
        labels = self.examples["label"]
        kinds = [f"{n} labelled {label}" for label, n in labels.value_counts().sort_index().items()]
        unlabelled = len(labels) - len(labels.dropna())
        kinds += [f"{unlabelled} without a label"] if unlabelled else []
        rows = {
            "prompts": "; ".join(self.prompts.values()) or "none",
            "examples": f"{len(self.examples)} ({', '.join(kinds)}), {self.examples['group'].nunique()} groups",
            "heads": f"{len(self.heads)} of size {self._widths} in {len(self.layers)} layers",
            "read at": self.provenance.positions,
            "model": f"{self.provenance.model}, {self.provenance.dtype}",
            "skipped": f"{len(self.skipped)} examples, the first: {': '.join(self.skipped[0])}"
            if self.skipped
            else "none",
        }
        return rows_as_html("HeadActivations", rows)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write everything to a folder, as safetensors and JSON.

        For one capture that fits into memory. Many videos, resumed after a kill, read head by head: `headprobe.extract`
        and `headprobe.Store`.

        Parameters
        ----------
        folder
            Made if missing; activations saved there before are replaced once these are complete.

        Raises
        ------
        ArtefactError
            The folder cannot be written.

        Examples
        --------
        >>> import tempfile
        >>> from headprobe.examples import Example
        >>> table, heads = example_table([Example("x", id="a", label=1)]), HeadSet(["L0H0"])
        >>> acts = HeadActivations(torch.ones(1, 1, 1, 2), heads, {"none": ""}, table, Provenance("m"))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     acts.save(folder)
        ...     HeadActivations.load(folder).labels.tolist()
        [1]
        """
        tensors = {f"z.{i}": values.contiguous() for i, values in enumerate(self.tensors.values())}
        extra = {"resid_post": self.resid_post, "answer_logits": self.answer_logits}
        tensors |= {name: tensor.contiguous() for name, tensor in extra.items() if tensor is not None}
        data = save_tensors(tensors)
        state = {
            "format": _FORMAT,
            "heads": [list(heads.labels) for heads in self.tensors],
            "order": list(self.heads.labels),
            "prompts": [list(pair) for pair in self.prompts.items()],
            "provenance": self.provenance.to_dict(),
            "skipped": [list(pair) for pair in self.skipped],
            "answers": list(self.answers),
            "examples": _table_state(self.examples),
            "read": None if self.read is None else _table_state(self.read),
            "tensors": hashlib.sha256(data).hexdigest(),
        }
        place = Path(folder)
        try:
            place.mkdir(parents=True, exist_ok=True)
            write_file(place / _TENSORS, data)
            write_json(place / _STATE, state)  # last: it says which tensors are its own
        except OSError as error:
            raise ArtefactError(f"{place}: activations cannot be written there ({error}).") from error

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> HeadActivations:
        """Read activations that `save` wrote; nothing in the folder is executed.

        Parameters
        ----------
        folder
            The folder.

        Returns
        -------
        HeadActivations

        Raises
        ------
        ArtefactError
            There are no activations, they are damaged, or a save was cut short.
        """
        place = Path(folder)
        state = read_json(place / _STATE, fix="Give a folder that HeadActivations.save wrote.")
        if not isinstance(state, dict) or state.get("format") != _FORMAT:
            raise ArtefactError(f"{place / _STATE}: this does not say format {_FORMAT!r}; save the activations again.")
        data = read_regular(place / _TENSORS, follow=True)
        if hashlib.sha256(data).hexdigest() != state.get("tensors"):
            raise ArtefactError(
                f"{place / _TENSORS}: these are not the tensors that {_STATE} was saved with: a save was cut short, or "
                "a file was changed. Save the activations again."
            )
        try:
            tensors = load_tensors(data)
            values = {HeadSet(labels): tensors[f"z.{i}"] for i, labels in enumerate(state["heads"])}
            return cls(
                values=_dense(values),
                heads=HeadSet(state["order"]),
                prompts={str(name): str(text) for name, text in state["prompts"]},
                examples=_table(state["examples"]),
                provenance=Provenance.from_dict(state["provenance"]),
                skipped=tuple((str(name), str(reason)) for name, reason in state["skipped"]),
                resid_post=tensors.get("resid_post"),
                answer_logits=tensors.get("answer_logits"),
                answers=tuple(map(str, state["answers"])),
                read=None if state["read"] is None else _table(state["read"]),
            )
        except (AttributeError, KeyError, OverflowError, SafetensorError, TypeError, ValueError) as error:
            raise ArtefactError(f"{place}: the activations cannot be read ({error}); save them again.") from error

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
            The heads have several sizes or are not a full layer by head rectangle in order; use ``select`` then.
        """
        values, layers = self.values, self.heads.layers
        per_layer = sorted({head.head for head in self.heads})
        if tuple(self.heads) != tuple(Head(layer, head) for layer in layers for head in per_layer):
            raise InputError(
                "z needs the same heads in every layer, ordered by layer and head; these "
                f"{len(self.heads)} heads in {len(layers)} layers are not that. Use .select(heads) or .values."
            )
        return rearrange(
            values, "prompt example (layer head) d_head -> prompt example layer head d_head", layer=len(layers)
        )

    def select(self, heads: Iterable[Head | str | tuple[int, int]]) -> Float[Tensor, "prompt example k d_head"]:
        """Values of some heads of one size, in the order asked for.

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
            A head was not read, or the heads have different sizes.
        """
        return _select(self.tensors, heads)

    def by_size(self) -> dict[int, HeadActivations]:
        """The same activations, heads of each size apart.

        Returns
        -------
        dict
            d_head to the activations of the heads of that size, in the order in which the sizes first occur; the
            other contents are shared, not copied.

        Examples
        --------
        >>> from headprobe.examples import Example
        >>> values = {HeadSet(["L0H0"]): torch.zeros(1, 1, 1, 2), HeadSet(["L1H0"]): torch.zeros(1, 1, 1, 3)}
        >>> table, heads = example_table([Example("x", id="a")]), HeadSet(["L0H0", "L1H0"])
        >>> acts = HeadActivations(values, heads, {"none": ""}, table, Provenance("m"))
        >>> {size: part.heads.labels for size, part in acts.by_size().items()}
        {2: ('L0H0',), 3: ('L1H0',)}
        """
        return {values.shape[-1]: replace(self, values=values, heads=heads) for heads, values in self.tensors.items()}

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
        rows = _row_index(index, n)
        keep = torch.from_numpy(rows)
        of_all_prompts = (np.arange(len(self.prompts))[:, None] * n + rows).ravel()
        return replace(
            self,
            values=_each(self.tensors, lambda values: values[:, keep]),
            examples=self.examples.iloc[rows].reset_index(drop=True),
            resid_post=None if self.resid_post is None else self.resid_post[:, keep],
            answer_logits=None if self.answer_logits is None else self.answer_logits[:, keep],
            read=None if self.read is None else self.read.iloc[of_all_prompts].reset_index(drop=True),
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
    >>> from headprobe.examples import Example
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
        if list(other.tensors) != list(head.tensors) or other._widths != head._widths:
            raise InputError(f"The activations have heads of different sizes: {head._widths} and {other._widths}.")
        if tuple(other.answers) != tuple(head.answers):
            raise InputError(f"The activations have different answers: {other.answers} and {head.answers}.")
    table = pd.concat([part.examples for part in parts], ignore_index=True)
    twice = table.loc[table["id"].duplicated(), "id"].tolist()
    if twice:
        raise InputError(f"The example {twice[0]!r} occurs in more than one part; ids must be unique.")

    def join(name: str, tensors: Sequence[Tensor | None]) -> Any:
        present = [tensor for tensor in tensors if tensor is not None]
        if present and len(present) < len(tensors):
            raise InputError(f"Only some of the activations have {name}; capture all of them with it.")
        return torch.cat(present, dim=1) if present else None

    values = {heads: join("values", [part.tensors[heads] for part in parts]) for heads in head.tensors}
    read = _join_read([(part.read, len(part.examples)) for part in parts], len(head.prompts))
    return replace(
        head,
        values=_dense(values),
        examples=table,
        provenance=head.provenance if read is None else replace(head.provenance, read=_read_summary(read)),
        skipped=tuple(item for part in parts for item in part.skipped),
        resid_post=join("resid_post", [part.resid_post for part in parts]),
        answer_logits=join("answer_logits", [part.answer_logits for part in parts]),
        read=read,
    )
