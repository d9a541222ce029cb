"""Tables that stand beside activations: the rows, and which tokens they were read from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int

from headprobe.errors import InputError
from headprobe.examples import Example

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["COLUMNS", "READ_COLUMNS", "example_table", "join_read", "read_summary", "row_index", "row_table"]

COLUMNS = ("id", "label", "group", "start", "end")
"""Columns that every table of examples has."""

READ_COLUMNS = ("prompt", "id", "index", "first", "last", "count", "n_tokens", "token_id", "token")
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


def row_table(
    examples: Sequence[Example],
    example: Int[np.ndarray, " row"],
    columns: Mapping[str, Sequence[int | None] | Int[np.ndarray, " row"]],
) -> pd.DataFrame:
    """Table of rows where an example has several, such as one per token.

    Parameters
    ----------
    examples
        The examples.
    example
        Index of each row's example, ascending, [row].
    columns
        Further columns of integers, None where unknown, [row] each.

    Returns
    -------
    pandas.DataFrame
        The columns of `example_table`, with label, group, start and end copied from the example; ``id`` is the
        example's id, ``@`` and the row's number within the example; ``example`` is the example's id.

    Examples
    --------
    >>> table = row_table([Example("x", id="a", label=1)], np.array([0, 0]), {"token": [3, 5]})
    >>> table[["id", "label", "example", "token"]].values.tolist()
    [['a@0', 1, 'a', 3], ['a@1', 1, 'a', 5]]
    """
    import pandas as pd

    table = example_table(examples).iloc[example].reset_index(drop=True)
    begins = np.searchsorted(example, example)  # ascending, so rows of one example stand together
    number = np.arange(len(example)) - begins
    table["example"] = table["id"]
    table["id"] = pd.array([f"{name}@{k}" for name, k in zip(table["id"], number, strict=True)], dtype="string")
    for name, values in columns.items():
        table[name] = pd.array(list(values), dtype="Int64")
    return table


def read_summary(read: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """What was read, in short, for every prompt.

    Parameters
    ----------
    read
        A table with the columns `READ_COLUMNS`.

    Returns
    -------
    dict
        Prompt name to ``reads``, the number of rows; and either ``tokens``, how often each token was read (the
        most frequent eight), or, for means over tokens, ``pooled``, the smallest and largest number of them.

    Examples
    --------
    >>> import pandas as pd
    >>> row = {"prompt": "none", "index": 2, "count": 1, "token": "</s>"}
    >>> read_summary(pd.DataFrame([row, row]))
    {'none': {'reads': 2, 'tokens': {'</s>': 2}}}
    """
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


def join_read(parts: Sequence[tuple[pd.DataFrame | None, int]], n_prompts: int) -> pd.DataFrame | None:
    """Tables of what was read, of different examples under the same prompts, as one.

    Parameters
    ----------
    parts
        (table, number of examples); a table has all rows of the first prompt, then of the next.
    n_prompts
        Number of prompts.

    Returns
    -------
    pandas.DataFrame or None
        In the same order; None unless every part has a table.
    """
    import pandas as pd

    tables = [(table, n) for table, n in parts if table is not None]
    if len(tables) < len(parts):
        return None
    return pd.concat(
        [table.iloc[p * n : (p + 1) * n] for p in range(n_prompts) for table, n in tables], ignore_index=True
    )


def row_index(index: Sequence[int] | np.ndarray | slice, n: int) -> Int[np.ndarray, " row"]:
    """Positions of rows, from whatever numpy takes as an index.

    Parameters
    ----------
    index
        Integer positions, a boolean mask, or a slice.
    n
        Number of rows of the table.

    Returns
    -------
    ndarray [row]
        0 to n - 1.

    Raises
    ------
    InputError
        A mask of the wrong length or an index out of range.

    Examples
    --------
    >>> row_index([True, False, True], 3).tolist(), row_index([-1], 3).tolist()
    ([0, 2], [2])
    """
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
