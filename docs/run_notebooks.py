"""Run the notebooks and keep them with what they show: notebooks/*.py in a kernel, written as notebooks/*.ipynb.

    python docs/run_notebooks.py [NAME ...]

Without the data folder, so that no frame of data that is not ours is kept; without progress bars and dates.
"""

from __future__ import annotations

import base64
import io
import os
import sys
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from PIL import Image

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
LARGE = 100_000  # bytes of a picture
WIDGET = "application/vnd.jupyter.widget-view+json"
# The kernel chooses how figures are shown, as it does for a reader.
LEFT_OUT = ("HEADPROBE_DATA", "MPLBACKEND")


def run(text: Path) -> nbformat.NotebookNode:
    """The notebook with its outputs, the same whenever and wherever it is run."""
    notebook = jupytext.read(text)
    NotebookClient(notebook, timeout=120, record_timing=False, resources={"metadata": {"path": str(FOLDER)}}).execute()
    notebook.metadata.pop("widgets", None)
    notebook.metadata["language_info"] = {"name": "python", "pygments_lexer": "ipython3"}
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
        if cell.cell_type == "code":
            cell.outputs = [shown(output) for output in cell.outputs if not passing(output)]
    nbformat.validate(notebook)
    return notebook


def passing(output: nbformat.NotebookNode) -> bool:
    """Whether an output is a progress bar or what a library says while it runs."""
    return output.get("name") == "stderr" or WIDGET in output.get("data", {})


def shown(output: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """An output with its picture in 256 colours, and smaller if need be, where it is large otherwise."""
    png = output.get("data", {}).get("image/png")
    if png is not None:
        data = drawn = base64.b64decode(png)
        for tenths in range(10, 5, -1):
            if len(data) <= LARGE:
                break
            with Image.open(io.BytesIO(drawn)) as picture, io.BytesIO() as file:
                size = [side * tenths // 10 for side in picture.size]
                small = picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
                small.quantize(256, method=Image.Quantize.MAXCOVERAGE).save(file, "PNG", optimize=True)
                data = file.getvalue()
        output["data"]["image/png"] = base64.b64encode(data).decode()
    return output


if __name__ == "__main__":
    for name in LEFT_OUT:
        os.environ.pop(name, None)
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    for text in [path for path in sorted(FOLDER.glob("*.py")) if not sys.argv[1:] or path.stem in sys.argv[1:]]:
        nbformat.write(run(text), text.with_suffix(".ipynb"))
        print(text.with_suffix(".ipynb").name)
