"""Prompts and positions as they are written in a file or on the command line."""

from __future__ import annotations

import ast
import os
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from headprobe._files import parse_json, read_text
from headprobe.errors import InputError
from headprobe.examples import _as_prompts
from headprobe.trace import positions as _positions
from headprobe.trace.positions import Position

__all__ = ["read_prompts"]


def read_prompts(path: str | os.PathLike[str]) -> dict[str, str]:
    """Prompts from a file.

    Parameters
    ----------
    path
        ``.toml`` or ``.json`` from name to text (at the top, or in a table ``prompts``), a ``.json`` list, or any other
        file with a prompt per line; unnamed prompts are called p1, p2, ...

    Returns
    -------
    dict
        Name to text, in order.

    Raises
    ------
    InputError
        The file cannot be read or holds something else.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "prompts.toml")
    ...     _ = file.write_text('fight = "is there a fight ?"')
    ...     read_prompts(file)
    {'fight': 'is there a fight ?'}
    """
    path = Path(path)
    text = read_text(path)
    try:
        data: Any = text.splitlines()
        if path.suffix.lower() == ".toml":
            data = tomllib.loads(text)
        elif path.suffix.lower() == ".json":
            data = parse_json(text, path, InputError)
        else:
            data = [line.strip() for line in data if line.strip()]
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"{path}: the prompts cannot be read: {error}.") from error
    if isinstance(data, dict) and isinstance(data.get("prompts"), dict | list):
        data = data["prompts"]
    if not isinstance(data, dict | list):
        raise InputError(f"{path}: prompts are a list of texts, or names with texts; got {type(data).__name__}.")
    try:
        return _as_prompts(data)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _parse_position(text: str) -> Position:
    """A position from how it prints; nothing is executed."""
    try:
        return _position(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"{text!r} is no position ({error}); write it as in Python, for example last(), video_tokens().mean() or "
            f"(video_tokens() & frame(0)).mean(), with {', '.join(_names())}."
        ) from error


def _parse_positions(texts: Iterable[str]) -> Position | dict[str, Position] | None:
    """One or several positions, each as ``position`` or ``name=position``."""
    named: dict[str, Position] = {}
    texts = list(texts)
    for text in texts:
        match = re.match(r"\s*([A-Za-z_]\w*)\s*=(.*)", text, flags=re.DOTALL)
        position = _parse_position(match[2] if match else text)
        if len(texts) == 1 and not match:
            return position
        name = match[1] if match else _position_name(position)
        if name in named:
            raise InputError(f"Two positions have the name {name!r}; write name=position.")
        named[name] = position
    return named or None


def _position_name(position: Position) -> str:
    """A name for a position that can be the name of a folder."""
    text = repr(position).replace("~", "not_").replace("|", "_or_").replace("&", "_and_").replace("-", "minus")
    return re.sub(r"_+", "_", re.sub(r"\W+", "_", text)).strip("_")


def _names() -> list[str]:
    return [name for name in _positions.__all__ if name.islower()]


def _position(node: ast.expr) -> Position:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr | ast.BitAnd):
        left, right = _position(node.left), _position(node.right)
        return left | right if isinstance(node.op, ast.BitOr) else left & right
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Invert):
        return ~_position(node.operand)
    if isinstance(node, ast.Name) and node.id in _names():
        return getattr(_positions, node.id)()
    if isinstance(node, ast.Call) and not node.keywords:
        numbers = [ast.literal_eval(value) for value in node.args]
        if any(not (number is None or type(number) is int) for number in numbers):
            raise ValueError("arguments are whole numbers")
        if isinstance(node.func, ast.Name) and node.func.id in _names():
            return getattr(_positions, node.func.id)(*numbers)
        if isinstance(node.func, ast.Attribute) and node.func.attr in ("mean", "each", "per_frame") and not numbers:
            return getattr(_position(node.func.value), node.func.attr)()
    raise ValueError(f"not understood: {ast.unparse(node)!r}")
