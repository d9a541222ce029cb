"""Tables as columns of plain values, to and from JSON, with their types."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from headprobe.activations import _Tensors
from headprobe.errors import InputError, StoreError
from headprobe.heads import HeadSet
from headprobe.store._io import is_text

if TYPE_CHECKING:
    import pandas as pd

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
    """Columns of one length; a missing value is None."""

    dtypes: Mapping[str, str]
    values: Mapping[str, list[Any]]
    n: int

    @classmethod
    def from_table(cls, table: pd.DataFrame) -> Columns:
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
        return Columns(self.dtypes, {k: [v[i] for i in rows] for k, v in self.values.items()}, len(rows))

    @staticmethod
    def join(parts: Iterable[Columns], what: object) -> Columns:
        """Rows of several tables, one after another; a column that a part lacks is missing there."""
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
        """The columns as JSON values; text that repeats is written once."""
        return {name: {"dtype": dtype, **_coded(self.values[name])} for name, dtype in self.dtypes.items()}

    @classmethod
    def from_json(cls, data: Any, n: int, what: object) -> Columns:
        """Columns from `to_json`, checked value by value."""
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


@dataclass(frozen=True)
class Numbers:
    """A number type of a store: its name here, in torch and in a file, bytes, range, and what rounding to it costs."""

    name: str
    dtype: torch.dtype
    code: str
    size: int
    largest: float
    rounding: str


_ROUNDING = {
    "float16": "to nearest, relative error at most 2^-11 = 0.05 %; below 6.1e-5 absolute error at most 2^-25 = 3e-8; "
    "values beyond 65504 are refused",
    "bfloat16": "to nearest, relative error at most 2^-8 = 0.4 % (exact for a model that runs in bfloat16)",
    "float32": "exact",
}
NUMBERS: Mapping[str, Numbers] = {
    name: Numbers(name, dtype, code, dtype.itemsize, torch.finfo(dtype).max, _ROUNDING[name])
    for name, dtype, code in (
        ("float16", torch.float16, "F16"),
        ("bfloat16", torch.bfloat16, "BF16"),
        ("float32", torch.float32, "F32"),
    )
}


def numbers_of(name: object) -> Numbers:
    key = str(name).removeprefix("torch.")
    if key not in NUMBERS:
        raise InputError(f"A store keeps numbers as {', '.join(NUMBERS)}; got dtype={name!r}.")
    return NUMBERS[key]


def check_range(tensors: _Tensors, numbers: Numbers, prompts: list[str], examples: list[str]) -> None:
    """Refuse values that are not finite or that the number type cannot hold."""
    for heads, values in tensors.items():
        if not values.numel():
            continue
        low, high = (float(bound) for bound in torch.aminmax(values))
        if not (-numbers.largest <= low and high <= numbers.largest):  # also when a value is NaN
            _refuse(heads, values, numbers, prompts, examples)


def _refuse(heads: HeadSet, values: torch.Tensor, numbers: Numbers, prompts: list[str], examples: list[str]) -> None:
    for entry, head in enumerate(heads):
        bad = ~(values[:, :, entry].abs() <= numbers.largest)
        if not bad.any():
            continue
        prompt, example, place = bad.nonzero()[0].tolist()
        value = float(values[prompt, example, entry, place])
        where = f"{head} of example {examples[example]!r} under prompt {prompts[prompt]!r} has the value {value:g}"
        if not math.isfinite(value):
            raise InputError(f"{where}, which the model produced; leave the example out or run the model in float32.")
        raise InputError(
            f"{where}, beyond {numbers.largest:g}, the largest that {numbers.name} holds; create the store with "
            "dtype='bfloat16' or 'float32'."
        )
