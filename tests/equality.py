"""Equality in tests: bit for bit within one pass or between copies, else to rounding; whole numbers as they are.

Which bits a computation ends in depends on the processor, on the number of threads, on the shapes it is given and on
where its arrays lie. So two computations are never compared by their bits, however alike they are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import xarray as xr

# Roundings by which two runs of the same formula may differ, in units of the type's eps and of the largest value.
# A pass of the models in these tests is a chain of at most 30 products (five blocks of six), and one product sums up
# to 64 terms, which end sqrt(64) = 8 roundings apart. Independent errors of a chain add as in a random walk, and norms
# and softmax magnify them about fourfold: 4 * 8 * sqrt(30) = 176.
FLOAT32 = 176
# Half precision sums in float32 and rounds each product once: 3 * sqrt(30) = 16.
HALF = 16
# Scores solve systems whose condition reaches 1e4 here, after sums of about 100 terms: 1e6, or 2^20.
FLOAT64 = 2**20
# A value that is only kept in a narrow type is rounded once, and may fall to either neighbour.
KEPT = 1

ROUNDINGS = {torch.float64: FLOAT64, torch.float32: FLOAT32, torch.float16: HALF, torch.bfloat16: HALF}


def tolerance(dtype: torch.dtype, roundings: float | None = None) -> float:
    """Largest difference of two runs of one formula, as a share of the largest value."""
    return (ROUNDINGS[dtype] if roundings is None else roundings) * torch.finfo(dtype).eps


def close(
    got: Any, expected: Any, dtype: torch.dtype | None = None, roundings: float | None = None, *, of: Any = None
) -> bool:
    """Whether two computations gave the same values to the rounding of a type, by default the narrower one of theirs.

    Give the type the values went through where they are wider now, and as `of` the terms they are sums of: a small
    sum of large terms keeps the roundings of the terms. NaN and infinities must stand at the same places;
    of score maps, the names and coordinates must be equal too; of what JSON holds, all but the numbers.
    """
    if isinstance(expected, dict):
        return got.keys() == expected.keys() and all(close(got[k], expected[k], dtype, roundings) for k in expected)
    if isinstance(expected, list | tuple) and not all(isinstance(part, int | float) for part in expected):
        return len(got) == len(expected) and all(
            close(a, b, dtype, roundings) for a, b in zip(got, expected, strict=True)
        )
    if expected is None or isinstance(expected, str):
        return got == expected
    if isinstance(expected, xr.DataArray):
        if not _same_frame(got, expected):
            return False
        got, expected = got.values, expected.values
    if _array(expected).dtype.kind in "US":
        return np.array_equal(_array(got), _array(expected))
    types = [_type(value) for value in (got, expected) if _type(value) is not None]
    a, b = _array(got).astype(np.float64), _array(expected).astype(np.float64)
    if a.shape != b.shape or not types:
        return a.shape == b.shape and np.array_equal(a, b, equal_nan=True)
    finite = np.isfinite(b)
    largest = float(np.abs(b[finite] if of is None else _array(of)).max(initial=0))
    allowed = max(tolerance(t, roundings) for t in ([dtype] if dtype else types)) * largest
    return np.array_equal(a[~finite], b[~finite], equal_nan=True) and bool((np.abs(a - b)[finite] <= allowed).all())


def same_bits(got: Any, expected: Any, *, of: str) -> bool:
    """Whether two arrays hold the same bits; `of` names the pass or the array that both are read from."""
    assert of.strip(), "name the pass or the array that both are read from"
    if isinstance(expected, xr.DataArray):
        return got.identical(expected)
    a, b = _array(got), _array(expected)
    return a.shape == b.shape and np.array_equal(a, b, equal_nan=_type(got) is not None)


def same(got: Any, expected: Any) -> bool:
    """Whether whole numbers, truth values, texts or random states are equal; floating point is refused."""
    assert _type(got) is _type(expected) is None, "floating point: use close, or same_bits within one pass"
    a, b = _array(got), _array(expected)
    return a.shape == b.shape and np.array_equal(a, b)


def _array(value: Any) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().resolve_conj()
        return (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    return np.ma.getdata(value) if np.ma.isMaskedArray(value) else np.asarray(value)


def _type(value: Any) -> torch.dtype | None:
    """The floating-point type of a value, None for everything else."""
    if isinstance(value, torch.Tensor):
        return value.dtype if value.dtype.is_floating_point else None
    kinds = {
        np.dtype(np.float64): torch.float64,
        np.dtype(np.float32): torch.float32,
        np.dtype(np.float16): torch.float16,
    }
    return kinds.get(np.asarray(value).dtype)


def _same_frame(a: xr.DataArray, b: xr.DataArray) -> bool:
    """Whether two score maps agree in all but their values; numbers among the attributes to rounding."""
    if a.name != b.name or a.dims != b.dims or a.shape != b.shape or a.attrs.keys() != b.attrs.keys():
        return False
    coords = a.coords.keys() == b.coords.keys() and all(a.coords[name].equals(b.coords[name]) for name in a.coords)
    return coords and all(
        close(value, b.attrs[name]) if isinstance(value, float) else bool(np.all(value == b.attrs[name]))
        for name, value in a.attrs.items()
    )
