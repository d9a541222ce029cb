"""Tables as columns of plain values, to and from JSON, with their types."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headprobe.errors import InputError, StoreError
from headprobe.store.files import is_text

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Columns"]

# pandas dtype -> (type of a value in JSON, whether values can be missing)
_KINDS: dict[str, tuple[type, bool]] = {
    "string": (str, True),
    "Int64": (int, True),
    "Float64": (float, True),
    "boolean": (bool, True),
    "int64": (int, False),
    "float64": (float, True),  # missing is NaN
    "bool": (bool, False),
}
_PLAIN = ("int64", "float64", "bool")  # numpy's own
_LIMIT = 2**63


@dataclass(frozen=True, eq=False)
class Columns:
    """Columns of one length; a missing value is None.

    Parameters
    ----------
    dtypes
        Column name to pandas type.
    values
        Column name to values.
    n
        Number of rows.

    Examples
    --------
    >>> import pandas as pd
    >>> columns = Columns.from_table(pd.DataFrame({"id": ["a", "b"], "label": pd.array([1, None], dtype="Int64")}))
    >>> columns.values
    {'id': ['a', 'b'], 'label': [1, None]}
    >>> Columns.from_json(columns.to_json(), 2, "example").table()["label"].isna().tolist()
    [False, True]
    """

    dtypes: Mapping[str, str]
    values: Mapping[str, list[Any]]
    n: int

    @classmethod
    def from_table(cls, table: pd.DataFrame) -> Columns:
        """Columns of a table; the index is left out.

        Parameters
        ----------
        table
            Columns of text, integers, numbers or truth values.

        Returns
        -------
        Columns

        Raises
        ------
        InputError
            A column is of another type, or holds an infinite number.
        """
        dtypes: dict[str, str] = {}
        values: dict[str, list[Any]] = {}
        for name in table.columns:
            column, dtype = table[name], str(table[name].dtype)
            missing = column.isna().to_numpy()
            cells = [None if na else value for value, na in zip(column.tolist(), missing, strict=True)]
            if dtype in ("str", "object"):
                dtype = "string"
            if not isinstance(name, str) or dtype not in _KINDS or any(not _fits(cell, dtype) for cell in cells):
                raise InputError(
                    f"The column {name!r} of type {dtype} cannot be stored; a store keeps text (as UTF-8), "
                    "integers, finite numbers and truth values."
                )
            dtypes[name], values[name] = dtype, cells
        return cls(dtypes, values, len(table))

    def table(self) -> pd.DataFrame:
        """The columns as a table.

        Returns
        -------
        pandas.DataFrame
        """
        import numpy as np
        import pandas as pd

        return pd.DataFrame(
            {
                name: np.array(self.values[name], dtype)
                if dtype in _PLAIN
                else pd.array(self.values[name], dtype=dtype)  # type: ignore[call-overload]
                for name, dtype in self.dtypes.items()
            },
            index=range(self.n),
        )

    def take(self, rows: Sequence[int]) -> Columns:
        """Some rows.

        Parameters
        ----------
        rows
            Row numbers.

        Returns
        -------
        Columns
        """
        return Columns(self.dtypes, {k: [v[i] for i in rows] for k, v in self.values.items()}, len(rows))

    @staticmethod
    def join(parts: Iterable[Columns], what: object) -> Columns:
        """Rows of several tables, one after another; a column that a part lacks is missing there.

        Parameters
        ----------
        parts
            At least one.
        what
            Where they come from, for the error text.

        Returns
        -------
        Columns

        Raises
        ------
        StoreError
            A column has different types.
        """
        parts = list(parts)
        dtypes: dict[str, str] = {}
        for part in parts:
            for name, dtype in part.dtypes.items():
                if dtypes.setdefault(name, dtype) != dtype:
                    raise StoreError(
                        f"{what}: the column {name!r} is {dtypes[name]} in one part and {dtype} in another."
                    )
        for part in parts:
            for name in dtypes.keys() - part.dtypes.keys():
                dtypes[name] = {"int64": "Int64", "bool": "boolean"}.get(dtypes[name], dtypes[name])
        values: dict[str, list[Any]] = {name: [] for name in dtypes}
        for part in parts:
            for name, cells in values.items():
                cells.extend(part.values.get(name) or [None] * part.n)
        return Columns(dtypes, values, sum(part.n for part in parts))

    def to_json(self) -> dict[str, Any]:
        """The columns as JSON values; text that repeats is written once.

        Returns
        -------
        dict
        """
        return {name: {"dtype": dtype, **_coded(self.values[name])} for name, dtype in self.dtypes.items()}

    @classmethod
    def from_json(cls, data: Any, n: int, what: object) -> Columns:
        """Columns from `to_json`, checked value by value.

        Parameters
        ----------
        data
            JSON values.
        n
            Number of rows that there must be.
        what
            Where they come from, for the error text.

        Returns
        -------
        Columns

        Raises
        ------
        StoreError
            The values are not columns of that length.
        """
        if not isinstance(data, dict):
            raise StoreError(f"{what}: a table must be an object of columns; got {type(data).__name__}.")
        dtypes: dict[str, str] = {}
        values: dict[str, list[Any]] = {}
        for name, column in data.items():
            dtype = column.get("dtype") if isinstance(column, dict) else None
            cells = _decoded(column) if isinstance(dtype, str) and dtype in _KINDS else None
            if cells is None or len(cells) != n or any(not _fits(cell, dtype) for cell in cells):
                raise StoreError(f"{what}: the column {str(name)[:60]!r} does not hold {n} values of a known type.")
            dtypes[name], values[name] = str(dtype), cells
        return cls(dtypes, values, n)


def _fits(cell: Any, dtype: str | None) -> bool:
    kind, optional = _KINDS[str(dtype)]
    if cell is None:
        return optional
    if type(cell) is int and kind in (int, float):
        return -_LIMIT <= cell < _LIMIT
    if kind is str:
        return is_text(cell)
    return type(cell) is kind and (kind is not float or math.isfinite(cell))


def _coded(cells: list[Any]) -> dict[str, Any]:
    if cells and isinstance(cells[0], str):
        levels = {text: code for code, text in enumerate(dict.fromkeys(cell for cell in cells if cell is not None))}
        if 2 * len(levels) <= len(cells):
            return {"levels": list(levels), "codes": [None if cell is None else levels[cell] for cell in cells]}
    return {"values": cells}


def _decoded(column: dict[str, Any]) -> list[Any] | None:
    """Values of a column; None where the form is wrong. Their types are not checked here."""
    if set(column) == {"dtype", "values"}:
        return column["values"] if isinstance(column["values"], list) else None
    levels, codes = column.get("levels"), column.get("codes")
    if set(column) != {"dtype", "levels", "codes"} or not isinstance(levels, list) or not isinstance(codes, list):
        return None
    if any(code is not None and (type(code) is not int or not 0 <= code < len(levels)) for code in codes):
        return None
    return [None if code is None else levels[code] for code in codes]
