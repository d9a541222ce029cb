"""Results as plain JSON values with shorter numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def rounded(value: Any, digits: int = 5) -> Any:
    """The same structure as plain JSON values with shorter numbers."""
    if isinstance(value, Mapping):
        return {str(key): rounded(one, digits) for key, one in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [rounded(one, digits) for one in value]
    if isinstance(value, np.generic):
        value = value.item()
    return round(value, digits) if isinstance(value, float) else value
