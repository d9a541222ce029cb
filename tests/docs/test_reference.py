"""The reference is complete: every public name says what it takes, gives and refuses, and shows how it is used."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import pkgutil
import re
import textwrap
import typing
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import FunctionType

import pytest

import headprobe

CONF = (Path(__file__).resolve().parents[2] / "docs" / "conf.py").read_text("utf-8")
SETTINGS = {
    node.targets[0].id: ast.literal_eval(node.value)
    for node in ast.parse(CONF).body
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "PACKAGES"
}
# Their parameters are described by the help texts of the command line.
COMMANDS = re.compile(r"headprobe\.cli(\.\w+)?$")


@cache
def modules() -> list[str]:
    found = [info.name for info in pkgutil.walk_packages(headprobe.__path__, "headprobe.")]
    return [name for name in found if not any(part.startswith("_") for part in name.split("."))]


def public(name: str) -> Iterator[tuple[str, typing.Any]]:
    """What a module defines and lists in `__all__`."""
    module = importlib.import_module(name)
    for key in getattr(module, "__all__", ()):
        value = getattr(module, key)
        if getattr(value, "__module__", None) == name:
            yield key, value


def functions() -> Iterator[tuple[str, FunctionType]]:
    """Functions, and methods of classes."""
    for name in modules():
        if COMMANDS.match(name):
            continue
        for key, value in public(name):
            if inspect.isfunction(value):
                yield f"{name}.{key}", value
            elif inspect.isclass(value):
                for method, member in vars(value).items():
                    plain = member.__func__ if isinstance(member, classmethod | staticmethod) else member
                    # Not a function that is the default of a field.
                    own = getattr(plain, "__name__", "") == method
                    if inspect.isfunction(plain) and own and not method.startswith("_"):
                        yield f"{name}.{key}.{method}", plain


def has(value: typing.Any, section: str) -> bool:
    return re.search(rf"^{section}\n-+$", inspect.getdoc(value) or "", flags=re.MULTILINE) is not None


def refers(function: FunctionType) -> bool:
    """Whether the docstring leaves its sections to another one's, and says to which."""
    return re.search(r"\b(parameters|Parameters)( and errors)? as (in|of) ", inspect.getdoc(function) or "") is not None


def test_the_lists_name_modules_that_exist():
    assert set(SETTINGS["PACKAGES"]) - {"headprobe"} <= set(modules())


def test_every_function_describes_each_of_its_parameters():
    missing = []
    for where, function in functions():
        names = [name for name in inspect.signature(function).parameters if name not in ("self", "cls")]
        text = (inspect.getdoc(function) or "").partition("Parameters\n---")[2]
        if not refers(function):
            missing += [f"{where}: {name}" for name in names if not re.search(rf"(?<!\w){name}(?!\w)", text)]
    assert missing == []


# Nothing to say, the object itself, and what a `with` block binds to no name.
NOTHING = {"None", "Self", "Iterator[None]", "Generator[None]", "Generator[None, None, None]"}


def test_every_function_says_what_it_returns():
    missing = []
    for where, function in functions():
        given = function.__annotations__.get("return", "None")
        if (
            given not in NOTHING
            and not has(function, "Returns")
            and not has(function, "Yields")
            and not refers(function)
        ):
            missing.append(f"{where} -> {given}")
    assert missing == []


def test_every_function_says_what_it_raises():
    missing = []
    for where, function in functions():
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
        raises = [node for node in ast.walk(tree) if isinstance(node, ast.Raise) and node.exc is not None]
        if raises and not has(function, "Raises") and not refers(function):
            missing.append(where)
    assert missing == []


def is_record(value: type) -> bool:
    """Made by functions, which have the examples."""
    return dataclasses.is_dataclass(value) or issubclass(value, tuple | dict)


def test_every_name_for_users_has_an_example():
    missing = []
    for name in modules():
        if COMMANDS.match(name):
            continue
        for key, value in public(name):
            if inspect.isclass(value):
                made_elsewhere = (
                    is_record(value)
                    or issubclass(value, BaseException | Warning)
                    or getattr(value, "_is_protocol", False)
                )
                if made_elsewhere:
                    continue
            elif not inspect.isfunction(value):
                continue
            if not has(value, "Examples"):
                missing.append(f"{name}.{key}")
    assert sorted(missing) == []


@pytest.mark.parametrize("name", sorted(headprobe.__all__))
def test_every_name_at_the_top_of_the_package_is_for_users(name):
    value = getattr(headprobe, name)
    if inspect.ismodule(value) or not hasattr(value, "__module__"):
        return
    assert inspect.getdoc(value)
    if inspect.isfunction(value):
        assert has(value, "Examples")
