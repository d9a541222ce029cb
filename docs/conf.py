"""Sphinx configuration; `make docs` builds with warnings as errors and without the network."""

from __future__ import annotations

import importlib
import os
import pkgutil
import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import headprobe  # noqa: E402

project = "headprobe"
author = "headprobe contributors"
copyright = "headprobe contributors"
version = release = headprobe.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
# The notebooks are shown with the outputs that they carry; `make notebooks` makes them, and their test runs them.
nb_execution_mode = "off"

napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True, "ignore-module-all": True}
python_maximum_signature_line_length = 88
# Docstrings put names between single backticks: link what is documented, show the rest as code.
default_role = "py:obj"
# A short name that several classes share (`heads`, `values`) is left without a link.
suppress_warnings = ["ref.python"]

html_theme = "furo"
html_title = f"headprobe {release}"
html_show_sourcelink = False
html_static_path = ["_static"]
html_css_files = ["notebooks.css"]


PACKAGES = {
    "headprobe": "Heads, examples, activations, score maps",
    "headprobe.models": "Models and adapters",
    "headprobe.models.families": "Families of video language models",
    "headprobe.trace": "Capture",
    "headprobe.video": "Video",
    "headprobe.store": "The store",
    "headprobe.extraction": "Extraction",
    "headprobe.metrics": "Metrics",
    "headprobe.probing": "Probing",
    "headprobe.datasets": "Data sets",
    "headprobe.evaluation": "Evaluation",
    "headprobe.language": "Language",
    "headprobe.detection": "Detectors side by side",
    "headprobe.baselines": "Other systems of the field",
    "headprobe.headhunt": "HeadHunt-VAD",
    "headprobe.demo": "The demonstration",
    "headprobe.plotting": "Plots",
    "headprobe.report": "Reports",
}


def modules(package: str) -> list[str]:
    """List the public modules of a package; those of a package with a page of its own stand there."""
    found = []
    path = importlib.import_module(package).__path__
    for info in pkgutil.iter_modules(path, prefix=f"{package}."):
        if info.name.rpartition(".")[2].startswith("_") or info.name in {*PACKAGES, "headprobe.cli"}:
            continue
        found.append(info.name)
        if info.ispkg:
            found += modules(info.name)
    return found


def write_reference(_app: object) -> None:
    """Write a page per package and a page per module, so that no module is ever missing and no page without end."""
    folder = HERE / "reference" / "generated"
    folder.mkdir(parents=True, exist_ok=True)
    pages = {}
    for package, title in PACKAGES.items():
        names = modules(package)
        lines = [title, "=" * len(title), "", f".. automodule:: {package}", "   :no-members:", ""]
        entries = [f"   {name.removeprefix(f'{package}.')} <{name}>" for name in names]
        pages[package] = [*lines, ".. toctree::", "   :maxdepth: 1", "", *entries, ""]
        pages |= {name: [name, "=" * len(name), "", f".. automodule:: {name}", ""] for name in names}
    for stale in folder.glob("*.rst"):
        if stale.stem not in pages:
            stale.unlink()
    for stem, lines in pages.items():
        page, text = folder / f"{stem}.rst", "\n".join(lines)
        # An unchanged page keeps its date, so that a second build is quick.
        if not page.is_file() or page.read_text(encoding="utf-8") != text:
            page.write_text(text, encoding="utf-8")


def copy_notebooks(_app: object) -> None:
    """Put the notebooks among the pages; their links to pages are those of a checkout, with `docs` in them."""
    folder = HERE / "notebooks"
    found = sorted((HERE.parent / "notebooks").glob("*.ipynb"))
    for stale in set(folder.glob("*.ipynb")) - {folder / path.name for path in found}:
        stale.unlink()
    for path in found:
        copy, text = folder / path.name, path.read_text(encoding="utf-8").replace("](../docs/", "](../")
        # An unchanged notebook keeps its date, so that it is not read again.
        if not copy.is_file() or copy.read_text(encoding="utf-8") != text:
            copy.write_text(text, encoding="utf-8")


def link_notebooks(_app: object, page: str, source: list[str]) -> None:
    """Turn a page's links to notebooks, which are those of a checkout, into links to the copies."""
    here = os.path.dirname(page)

    def copied(link: re.Match[str]) -> str:
        return f"]({os.path.relpath(os.path.join('notebooks', link[1]), here or '.')}"

    source[0] = re.sub(r"\]\((?:\.\./)+notebooks/(?=\d)([\w.]+)", copied, source[0])


def is_routing(_app: object, _what: str, name: str, _obj: object, skip: bool, _options: object) -> bool:
    """Leave out the methods that scikit-learn adds to every estimator; their text links into its own pages."""
    return skip or (name.startswith("set_") and name.endswith("_request"))


def setup(app) -> None:
    """Generate the reference before the sources are read."""
    app.connect("builder-inited", write_reference)
    app.connect("builder-inited", copy_notebooks)
    app.connect("source-read", link_notebooks)
    app.connect("autodoc-skip-member", is_routing)
