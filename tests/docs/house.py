"""Facts of the house: files, lines, docstrings on private code, import circles, and the files that a call visits.

``python tests/docs/house.py`` prints them; ``python tests/docs/house.py --paths`` also makes the three calls.
"""

from __future__ import annotations

import ast
import re
import sys
import tempfile
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "headprobe"

# No room imports one to its right; pictures and pages serve all rooms after metrics, and the command line stands last.
ORDER = [
    "currency",
    "video",
    "models",
    "trace",
    "store",
    "extraction",
    "metrics",
    "plotting",
    "report",
    "probing",
    "causal",
    "datasets",
    "evaluation",
    "evidence",
    "language",
    "detection",
    "headhunt",
    "baselines",
    "demo",
    "cli",
]


def modules() -> dict[str, Path]:
    """Dotted name to file."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


def room(name: str) -> str:
    """The room of a module; what stands at the root is currency."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and (PACKAGE / parts[1]).is_dir() else "currency"


def is_private(name: str) -> bool:
    return any(part.startswith("_") and not part.startswith("__") for part in name.split("."))


def _is_type_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def _running(node: ast.AST) -> Iterator[ast.AST]:
    """Nodes of what runs: type-only imports are no imports."""
    for child in ast.iter_child_nodes(node):
        if not _is_type_only(child):
            yield child
            yield from _running(child)


def imports() -> dict[str, set[str]]:
    """Module to the modules that it imports at any time, the package's own alone; packages are what they hold."""
    names = modules()
    found: dict[str, set[str]] = {name: set() for name in names}
    for name, path in names.items():
        for node in _running(ast.parse(path.read_text("utf-8"))):
            targets: list[str] = []
            if isinstance(node, ast.ImportFrom) and node.module:
                targets = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            found[name] |= {target for target in targets if target in names and target != name}
    return found


def circles(edges: Mapping[str, set[str]]) -> list[list[str]]:
    """Groups of more than one node that all reach one another."""

    def reached(start: str) -> set[str]:
        seen, todo = set(), [start]
        while todo:
            for node in edges.get(todo.pop(), ()):
                if node not in seen:
                    seen.add(node)
                    todo.append(node)
        return seen

    reach = {node: reached(node) for node in edges}
    groups = {tuple(sorted(m for m in reach[n] if n in reach.get(m, ()))) for n in reach if n in reach[n]}
    return [list(group) for group in sorted(groups) if len(group) > 1]


def file_circles() -> list[list[str]]:
    """Circles among files; a package's own file only hands on what its modules hold."""
    packages = {name for name, path in modules().items() if path.name == "__init__.py"}
    edges = {name: found - packages for name, found in imports().items() if name not in packages}
    return circles(edges)


def room_edges() -> dict[str, set[tuple[str, str]]]:
    """Room to (module, imported module) in other rooms."""
    edges: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for name, found in imports().items():
        for target in found - {"headprobe"}:
            if name not in ("headprobe", "headprobe.__main__") and room(name) != room(target):
                edges[room(name)].add((name, target))
    return edges


def upward() -> list[str]:
    """Imports of a room that stands to the right."""
    return sorted(
        f"{name} -> {target}"
        for start, pairs in room_edges().items()
        for name, target in pairs
        if ORDER.index(room(target)) > ORDER.index(start)
    )


def room_circles() -> list[list[str]]:
    return circles({start: {room(target) for _, target in pairs} for start, pairs in room_edges().items()})


def private_docstring_lines() -> int:
    """Lines of docstrings on private modules, classes and functions."""
    total = 0
    for name, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module):
                continue
            private = is_private(name) or is_private(getattr(node, "name", ""))
            if private and ast.get_docstring(node) is not None:
                text = node.body[0]
                total += (text.end_lineno or text.lineno) - text.lineno + 1
    return total


def facts() -> dict[str, Any]:
    """The numbers of the house."""
    names = modules()
    lines = {name: len(path.read_text("utf-8").splitlines()) for name, path in names.items()}
    return {
        "files": len(names),
        "lines": sum(lines.values()),
        "files at the root": sum(len(path.relative_to(PACKAGE).parts) == 1 for path in names.values()),
        "private files": sum(map(is_private, names)),
        "docstring lines on private code": private_docstring_lines(),
        "files above 700 lines": sorted(name for name, count in lines.items() if count > 700),
        "circles among files": file_circles(),
        "circles among rooms": room_circles(),
        "imports of a later room": upward(),
    }


# What lies behind these has a list of its own, or is loading: of a model, its fingerprint and a video. Another path
# names their files and stops there.
DOORS = {
    ("models/loading.py", "load"),
    ("models/model.py", "processor_hash"),
    ("video/decode.py", "shared_reader"),
    ("trace/tracer.py", "capture"),
}


def visited(call: Callable[[], object], doors: bool = False) -> list[str]:
    """Files of the package in which a call runs code, without the shared currency at the root, as it comes to them."""
    seen: dict[str, None] = {}
    start = str(PACKAGE)

    def place(frame: Any) -> tuple[str, str]:
        name = frame.f_code.co_filename
        return (Path(name).relative_to(PACKAGE).as_posix() if name.startswith(start) else "", frame.f_code.co_name)

    inside = 0  # doors that are open: what other threads do until they close lies behind them too

    def profile(frame: Any, event: str, _argument: object) -> None:
        nonlocal inside
        file, function = place(frame)
        door = doors and (file, function) in DOORS
        if door:
            inside += {"call": 1, "return": -1}.get(event, 0)
        # Importing a file runs its body, which is no step of the call.
        if event != "call" or "/" not in file or function in ("<module>", "__getattr__") or inside - door > 0:
            return
        outer = frame.f_back
        while outer is not None:
            if outer.f_code.co_name == "<module>" and place(outer)[0]:
                return
            outer = outer.f_back
        seen[file] = None

    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return list(seen)


def capture_path() -> list[str]:
    """Files from a clip and two prompts to ``z``."""
    import numpy as np

    import headprobe

    model = headprobe.load("tiny")
    clip = headprobe.Example(np.zeros((4, 64, 64, 3), np.uint8), id="clip")
    prompts = {"one": "is there a vehicle", "two": "is someone running"}
    return visited(lambda: headprobe.HeadTracer(model).capture([clip], prompts=prompts, progress=False).z)


def saliency_path() -> list[str]:
    """Files from activations to a score map."""
    import torch

    import headprobe
    from headprobe.activations import example_table
    from headprobe.provenance import Provenance

    generator = torch.Generator().manual_seed(0)
    acts = headprobe.HeadActivations(
        torch.randn(2, 12, 6, 4, generator=generator),
        headprobe.HeadSet([(layer, head) for layer in range(2) for head in range(3)]),
        {"a": "a", "b": "b"},
        example_table([headprobe.Example(str(i), id=str(i), label=i % 2) for i in range(12)]),
        Provenance(model="made"),
    )
    return visited(lambda: headprobe.saliency(acts))


def detect_path() -> list[str]:
    """Files from ``headprobe detect video`` to ``events.json``."""
    import numpy as np
    from typer.testing import CliRunner

    from headprobe.cli.app import app
    from headprobe.video.decode import write_video

    detector = PACKAGE.parent / "tests" / "written_by_d27f5b7" / "detector"
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder) / "street.mp4"
        write_video(video, np.random.default_rng(0).integers(0, 255, (40, 48, 64, 3), np.uint8), fps=10)
        command = ["detect", str(video), "--detector", str(detector), "--out", folder, "--sigma", "0", "--tau", "0.5"]
        results: list[Any] = []
        arguments = [*command, "--no-timelines"]
        files = visited(lambda: results.append(CliRunner().invoke(app, arguments)), doors=True)
        if results[0].exit_code or not (Path(folder) / "events.json").exists():
            raise RuntimeError(f"headprobe {' '.join(command)} failed: {results[0].output}")
    return files


PATHS: dict[str, tuple[int, Callable[[], list[str]]]] = {
    "A clip under two prompts to `z`": (10, capture_path),
    "`saliency` of activations": (7, saliency_path),
    "`headprobe detect` to `events.json`": (14, detect_path),
}
PLACE = re.compile(r"(?<=<!-- paths -->\n).*(?=<!-- /paths -->)", re.DOTALL)


def paths_as_text() -> str:
    """The block of CONTRIBUTING that lists the files of the paths."""
    lines = []
    for title, (_, path) in PATHS.items():
        files = path()
        lines.append(f"- {title}, {len(files)} files: {', '.join(f'`{file}`' for file in files)}.\n")
    return "".join(lines)


if __name__ == "__main__":
    for title, value in facts().items():
        print(f"{title}: {value if value != [] else 'none'}")
    if "--paths" in sys.argv:
        print(paths_as_text())
    if "--write" in sys.argv:
        page = PACKAGE.parent / "CONTRIBUTING.md"
        page.write_text(PLACE.sub(lambda _: paths_as_text(), page.read_text("utf-8")), encoding="utf-8")
