"""Readings of one position, gathered batch by batch into activations."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from headprobe.activations import HeadActivations
from headprobe.errors import InputError
from headprobe.examples import Example
from headprobe.heads import HeadSet
from headprobe.provenance import Provenance
from headprobe.tables import example_table, read_summary, row_table
from headprobe.trace.positions import Position
from headprobe.trace.reading import Reading
from headprobe.values import dense

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Collected"]


class Collected:
    """What the passes of a capture gave at one position.

    Parameters
    ----------
    position
        The position.
    prompts
        Prompt name to text.
    """

    def __init__(self, position: Position, prompts: Mapping[str, str]) -> None:
        self.position = position
        self.prompts = dict(prompts)
        self._examples: list[Example] = []
        self._tensors: dict[tuple[str, HeadSet | None], list[deque[Tensor]]] = {}
        self._rows: list[list[dict[str, np.ndarray]]] = [[] for _ in self.prompts]
        self._frames_per_row = 1

    def add(self, examples: Sequence[Example], readings: Sequence[Reading]) -> None:
        """Take what a batch gave.

        Parameters
        ----------
        examples
            The examples of the batch.
        readings
            One per prompt.

        Raises
        ------
        InputError
            An example has different numbers of rows under different prompts.
        """
        self._check_rows(examples, readings)
        self._frames_per_row = readings[0].rows.frames_per_row
        for prompt, reading in enumerate(readings):
            self._rows[prompt].append(_columns(reading, len(self._examples)))
            parts = {("z", heads): tensor for heads, tensor in reading.tensors.items()}
            parts |= {("resid_post", None): reading.resid_post, ("answer_logits", None): reading.answer_logits}
            for name, part in parts.items():
                if part is not None:
                    self._tensors.setdefault(name, [deque() for _ in self.prompts])[prompt].append(part)
        self._examples.extend(examples)

    def _check_rows(self, examples: Sequence[Example], readings: Sequence[Reading]) -> None:
        counts = [torch.bincount(reading.rows.example, minlength=len(examples)) for reading in readings]
        for i, example in enumerate(examples):
            numbers = [int(count[i]) for count in counts]
            if len(set(numbers)) > 1:
                named = ", ".join(f"{n} under {prompt!r}" for prompt, n in zip(self.prompts, numbers, strict=True))
                raise InputError(
                    f"{self.position!r} selects different numbers of rows of the example {example.id!r}: {named}. "
                    "Rows of several prompts cannot stand side by side then; capture one prompt at a time."
                )

    def activations(
        self,
        heads: HeadSet,
        provenance: Provenance,
        tokenizer: Any,
        skipped: Sequence[tuple[str, str]] = (),
        answers: Sequence[str] = (),
    ) -> HeadActivations:
        """Everything that was taken, as activations; can be asked for once, because the memory is handed over.

        Parameters
        ----------
        heads
            The heads, in the order of the entries.
        provenance
            What was run, at this position.
        tokenizer
            Names tokens.
        skipped
            (id, reason) of examples that could not be read.
        answers
            The answer tokens.

        Returns
        -------
        HeadActivations
        """
        rows = {name: self._column(name) for name in self._rows[0][0]}
        table = self._table(rows)
        read = self._read_table(rows, table["id"].to_numpy(), tokenizer)
        return HeadActivations(
            values=dense({key: _join(parts) for (name, key), parts in self._tensors.items() if name == "z" and key}),
            heads=heads,
            prompts=self.prompts,
            examples=table,
            provenance=replace(provenance, read=read_summary(read)),
            skipped=tuple(skipped),
            resid_post=_join(self._tensors.get(("resid_post", None))),
            answer_logits=_join(self._tensors.get(("answer_logits", None))),
            answers=tuple(answers),
            read=read,
        )

    def _column(self, name: str) -> Int[np.ndarray, "prompt row"]:
        return np.stack([np.concatenate([batch[name] for batch in batches]) for batches in self._rows])

    def _table(self, rows: Mapping[str, np.ndarray]) -> pd.DataFrame:
        if not self.position.several:
            return example_table(self._examples)
        name = "frame" if "frame" in rows else "first"
        # The table is one for all prompts: where they differ, only the table of what was read can say.
        same = (rows[name] == rows[name][0]).all(0)
        known = [int(number) if agreed else None for number, agreed in zip(rows[name][0], same, strict=True)]
        if name == "first":
            columns = {"token": known}
        else:
            ends = [None if frame is None else frame + self._frames_per_row for frame in known]
            columns = {"frame": known, "frame_end": ends}
        return row_table(self._examples, rows["example"][0], columns)

    def _read_table(self, rows: Mapping[str, np.ndarray], ids: np.ndarray, tokenizer: Any) -> pd.DataFrame:
        import pandas as pd

        token_ids = rows["token_id"].ravel()
        different, place = np.unique(token_ids, return_inverse=True)
        texts = np.array([str(text) for text in tokenizer.convert_ids_to_tokens(different.tolist())], dtype=object)
        numbers = {name: rows[name].ravel() for name in ("first", "last", "count", "n_tokens")}
        read = pd.DataFrame(
            {
                "prompt": pd.array(np.repeat(list(self.prompts), len(ids)), dtype="string"),
                "id": pd.array(np.tile(ids, len(self.prompts)), dtype="string"),
                "index": pd.array(numbers["first"], dtype="Int64"),
                **numbers,
                "token_id": pd.array(token_ids, dtype="Int64"),
                "token": pd.array(texts[place], dtype="string"),
            }
        )
        if self.position.averages:
            for name in ("index", "token_id", "token"):
                read[name] = pd.array([pd.NA] * len(read), dtype=read[name].dtype)
        return read


def _columns(reading: Reading, n_before: int) -> dict[str, np.ndarray]:
    """What is remembered of the rows of a reading; ``example`` counts over all batches."""
    rows = reading.rows
    columns = {name: getattr(rows, name).cpu().numpy() for name in ("first", "last", "count", "n_tokens")}
    columns |= {"example": rows.example.cpu().numpy() + n_before, "token_id": reading.token_ids.numpy()}
    return columns if rows.frame is None else columns | {"frame": rows.frame.cpu().numpy()}


def _join(parts: list[deque[Tensor]] | None) -> Any:
    """Parts of every prompt as one tensor [prompt, row, ...]; each part is given up once it is copied."""
    if parts is None:
        return None
    whole = torch.empty(len(parts), sum(len(part) for part in parts[0]), *parts[0][0].shape[1:])
    for target, queue in zip(whole, parts, strict=True):
        start = 0
        while queue:
            part = queue.popleft()
            target[start : start + len(part)] = part
            start += len(part)
    return whole
