"""Runs the cells of a notebook, as text, in one namespace: what a kernel does, without starting one."""

from __future__ import annotations

import ast
import io
from pathlib import Path
from types import ModuleType
from typing import Any

import jupytext
from matplotlib import pyplot as plt
from matplotlib.figure import Figure


def code_cells(path: Path) -> list[str]:
    """The code of each cell, without lines that are for IPython alone."""
    notebook = jupytext.read(path)
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return ["\n".join(line for line in source.splitlines() if not line.startswith("%")) for source in sources]


def draw(value: Any) -> bool:
    """Draw what shows itself as a picture; whether it does."""
    if isinstance(value, Figure):
        value.savefig(io.BytesIO(), format="png")
    elif hasattr(value, "_repr_png_"):
        assert value._repr_png_()
    else:
        return False
    return True


def run_cells(path: Path) -> tuple[dict[str, Any], list[Any]]:
    """Run all cells; returns the names at the end, and what the cells show: values, and figures of pyplot."""
    module = ModuleType("notebook")
    shown: list[Any] = []
    for number, source in enumerate(code_cells(path), start=1):
        tree = ast.parse(source, filename=f"{path.name}, cell {number}")
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, f"{path.name}, cell {number}", "exec"), module.__dict__)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), f"{path.name}, cell {number}", "eval"), module.__dict__)
            shown.append(value)
        shown += [plt.figure(number) for number in plt.get_fignums()]
        plt.close("all")
    return module.__dict__, shown
