"""The rules of the house that no single module can keep: imports, dependencies, sizes, versions."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import house
import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "headprobe"
SOURCES = sorted(PACKAGE.rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

WEIGHTS = "headprobe/models/tiny/weights/model.safetensors"

# Import name to distribution name, where they differ.
DISTRIBUTIONS = {"sklearn": "scikit-learn", "PIL": "pillow", "transformer_lens": "transformer-lens"}


def where(source: Path, node: ast.AST) -> str:
    return f"{source.relative_to(ROOT).as_posix()}:{getattr(node, 'lineno', 1)}"


def nodes(sources: list[Path] = SOURCES) -> Iterator[tuple[Path, ast.AST]]:
    for source in sources:
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"), filename=str(source))):
            yield source, node


def imported(node: ast.AST) -> list[str]:
    """Return the dotted names a node imports: statements, and import_module("...") with a literal."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
        return [f"{node.module}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
        return [a.value for a in node.args[:1] if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    return []


def distribution(requirement: str) -> str:
    """Turn "pyright[nodejs]>=1.1" into "pyright"."""
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match is not None, requirement
    return re.sub(r"[-_.]+", "-", match.group()).lower()


def python(code: str) -> str:
    """Run code in a new process and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# Imports


def test_import_headprobe_loads_nothing_heavy() -> None:
    names = "torch transformers tokenizers nnsight matplotlib seaborn pandas xarray sklearn scipy av"
    heavy = set(names.split())
    assert python(f"import sys, headprobe; print(*[n for n in {heavy} if n in sys.modules])") == ""


def test_import_headprobe_is_quick() -> None:
    code = "import time; start = time.perf_counter(); import headprobe; print(time.perf_counter() - start)"
    # The best of five: a busy machine slows some of them down, a slow import slows down all.
    assert min(float(python(code)) for _ in range(5)) < 0.3


def test_every_public_name_exists() -> None:
    code = "import headprobe as h; print(*[n for n in h.__all__ if n not in dir(h) or getattr(h, n) is None])"
    assert python(code) == ""


def test_importing_every_module_leaves_rcparams_and_the_backend_alone() -> None:
    code = """
import importlib, pkgutil, warnings
import matplotlib
before = matplotlib.rcParams.copy()
import headprobe
for module in pkgutil.walk_packages(headprobe.__path__, "headprobe."):
    importlib.import_module(module.name)
print(*[key for key, value in before.items() if matplotlib.rcParams[key] != value])
"""
    assert python(code) == ""


def test_no_code_changes_matplotlib_for_everybody() -> None:
    calls = ("plt.style.use", "sns.set_theme", "sns.set_style", "sns.set_context", "sns.set_palette")
    calls += ("seaborn.set_theme", "plt.rc", "matplotlib.rc", "matplotlib.use", "plt.switch_backend")
    found = [
        f"{where(source, node)}: {ast.unparse(node)}"
        for source, node in nodes()
        if (isinstance(node, ast.Attribute) and node.attr == "rcParams")
        or (isinstance(node, ast.Call) and ast.unparse(node.func) in calls)
    ]
    assert found == []


def test_nnsight_is_imported_under_trace_only() -> None:
    outside = [source for source in SOURCES if not source.is_relative_to(PACKAGE / "trace")]
    found = [where(s, n) for s, n in nodes(outside) for name in imported(n) if name.split(".")[0] == "nnsight"]
    assert found == []


def test_no_room_imports_one_that_stands_after_it() -> None:
    assert house.upward() == []


def test_no_circle_among_files_nor_among_rooms() -> None:
    assert house.file_circles() == []
    assert house.room_circles() == []


def test_a_circle_and_a_way_up_would_be_seen() -> None:
    """The tools themselves: what they are for is not there to be found."""
    assert house.circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert house.ORDER.index("metrics") < house.ORDER.index(house.room("headprobe.plotting.heatmap"))
    assert house.room("headprobe.heads") == house.room("headprobe") == "currency"
    assert "headprobe.heads" in house.imports()["headprobe.scores"]


def test_the_root_holds_the_currency_alone() -> None:
    assert house.facts()["files at the root"] <= 12
    assert house.facts()["files above 700 lines"] == []


@pytest.mark.parametrize("title", house.PATHS)
def test_a_users_path_is_the_one_that_contributing_lists(title: str) -> None:
    most, path = house.PATHS[title]
    files = path()
    listed = re.search(
        rf"^- {re.escape(title)}, (\d+) files: (.+)\.$", (ROOT / "CONTRIBUTING.md").read_text("utf-8"), re.M
    )
    assert listed is not None, "python tests/docs/house.py --write writes the lists"
    assert set(re.findall(r"`([\w/]+\.py)`", listed[2])) == set(files), "python tests/docs/house.py --write"
    assert int(listed[1]) == len(files)
    assert len(files) <= most


def test_nothing_that_runs_code_on_loading() -> None:
    modules = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    calls = {"torch.load", "torch.save", "joblib.load", "eval", "exec"}
    found = []
    for source, node in nodes():
        found += [f"{where(source, node)}: {n}" for n in imported(node) if n.split(".")[0] in modules]
        if isinstance(node, ast.Call):
            if ast.unparse(node.func) in calls:
                found.append(f"{where(source, node)}: {ast.unparse(node)}")
            found += [
                f"{where(source, node)}: {ast.unparse(node)}"
                for keyword in node.keywords
                if keyword.arg == "allow_pickle" and not _is_false(keyword.value)
            ]
    assert found == []


def _is_false(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


def test_no_exception_is_swallowed() -> None:
    found = [
        where(source, node)
        for source, node in nodes()
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or all(isinstance(statement, ast.Pass) for statement in node.body))
    ]
    assert found == []


def test_every_comparison_of_bits_says_what_it_belongs_to() -> None:
    """Two computations agree to rounding and no better: which bits come out depends on the processor."""
    exact = re.compile(r"\b(torch\.equal|array_equal|assert_array_equal|assert_identical)\(|\.identical\(")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in sorted((ROOT / "tests").rglob("*.py"))
        if path.name not in ("equality.py", "test_house.py")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if exact.search(line)
    ]
    assert not found, f"{found}: use close, same_bits(..., of=...) or same of tests/equality.py"


def test_no_comparison_is_made_and_dropped():
    dropped = []
    for path in sorted((ROOT / "tests").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        imported = {
            one.asname or one.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module == "equality"
            for one in node.names
        }
        dropped += [
            f"{path.name}:{node.lineno}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Call)
            and isinstance(node.value.func, ast.Name)
            and node.value.func.id in imported
        ]
    assert not dropped, f"{dropped}: write assert before it"


def test_only_the_command_line_prints() -> None:
    speaking = set((PACKAGE / "cli").glob("*.py"))
    found = [
        where(source, node)
        for source, node in nodes([s for s in SOURCES if s not in speaking])
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "print"
    ]
    assert found == []


def test_every_module_starts_with_a_docstring() -> None:
    missing = [
        where(source, node)
        for source, node in nodes()
        if isinstance(node, ast.Module) and not (ast.get_docstring(node) or "").strip()
    ]
    assert missing == []


# Dependencies


def declared() -> dict[str, list[str]]:
    """Return the requirements by heading of docs/dependencies.md; an extra's own extras are not packages."""
    groups = {"core": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}
    return {
        group: [r for r in requirements if distribution(r) != PROJECT["name"]] for group, requirements in groups.items()
    }


def test_rewritten_libraries_are_capped() -> None:
    requirements = {distribution(r): r for group in declared().values() for r in group}
    assert requirements["nnsight"].endswith("<0.9")
    assert requirements["transformer-lens"].endswith("<5")
    # Below the next major release than the tested one.
    for name in ("transformers", "numpy", "pandas"):
        assert requirements[name].endswith(f",<{int(the_tested_set()[name].partition('.')[0]) + 1}"), name


def the_tested_set() -> dict[str, str]:
    """Return the releases of the tested set by distribution."""
    lines = (ROOT / "constraints-tested.txt").read_text("utf-8").splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def test_the_tested_set_holds_every_dependency_in_the_range_that_is_asked_for() -> None:
    releases = the_tested_set()
    assert list(releases) == sorted(releases)
    for line in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]:
        wanted = Requirement(line)
        if wanted.name != PROJECT["name"]:
            assert releases[wanted.name] in wanted.specifier, line
    assert f"torch=={releases['torch']}" in (ROOT / "constraints.txt").read_text("utf-8").splitlines()


def test_the_tested_set_is_what_the_environment_gives() -> None:
    done = subprocess.run([sys.executable, ROOT / ".ci" / "lock"], capture_output=True, text=True, check=True)
    here = dict(line.split("==") for line in done.stdout.splitlines() if not line.startswith("#"))
    # A later environment has later releases and drops some; what headprobe itself asks for is always among them.
    for line in PROJECT["dependencies"]:
        name = distribution(line)
        assert here[name] == metadata.version(name).partition("+")[0]
    assert not {"headprobe", "pip"} & set(here)


def test_the_hosted_check_is_the_one_of_a_clone() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "checks.yml").read_text("utf-8"))
    (job,) = workflow["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    oldest = PROJECT["requires-python"].removeprefix(">=")
    assert oldest in job["strategy"]["matrix"]["python"]
    assert workflow["permissions"] == {"contents": "read"}


def test_the_page_names_the_licences_that_a_wheel_carries() -> None:
    page = (ROOT / "docs" / "dependencies.md").read_text("utf-8")
    carried = {file.name.split("-")[0] for file in metadata.files("av") or () if "libx26" in file.name}
    (row,) = [line for line in page.splitlines() if line.startswith("| av |")]
    for library in carried:
        assert library.removeprefix("lib") in row
        assert "GPL-2.0" in row


def test_torch_is_pinned_by_the_constraints_alone() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines() if line.strip()]
    assert [line for line in lines if distribution(line) == "torch"] == [f"torch=={_pin(lines)}"]
    assert "==" not in next(r for r in PROJECT["dependencies"] if distribution(r) == "torch")


def _pin(lines: list[str]) -> str:
    return next(line for line in lines if distribution(line) == "torch").partition("==")[2]


def test_every_import_is_a_declared_dependency() -> None:
    allowed = {
        distribution(r)
        for group in ("core", "checkpoints", "ray", "datasets", "widget", "lens")
        for r in declared()[group]
    }
    allowed |= {"headprobe", *sys.stdlib_module_names}
    found = [
        f"{where(source, node)}: {top}"
        for source, node in nodes()
        for top in {name.split(".")[0] for name in imported(node)}
        if DISTRIBUTIONS.get(top, top) not in allowed
    ]
    assert found == []


def test_every_core_dependency_is_imported() -> None:
    used = {name.split(".")[0] for _, node in nodes() for name in imported(node)}
    used = {DISTRIBUTIONS.get(name, name) for name in used}
    if "sklearn.utils.parallel.Parallel" in {name for _, node in nodes() for name in imported(node)}:
        used.add("joblib")  # which scikit-learn's stands on, and whose `return_as` it hands on
    unused = {distribution(r) for r in declared()["core"]} - used
    assert unused == set()


def test_the_dependency_page_lists_what_is_declared() -> None:
    text = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    listed: dict[str, set[str]] = {}
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        heading = section.splitlines()[0]
        group = "core" if heading == "Core" else heading.removeprefix("Extra ").split("`")[1]
        rows = re.findall(r"^\| ([A-Za-z0-9._-]+) \| [^|]+ \| \d+ \| [^|]+ \|$", section, flags=re.MULTILINE)
        listed[group] = set(rows) - {"package"}
    assert listed == {group: {distribution(r) for r in rs} for group, rs in declared().items()}


# Files


def files() -> list[Path]:
    """Return what git tracks or would track; without git, what stands in the project's folders."""
    if (ROOT / ".git").exists():
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
        return [ROOT / name for name in names if name and (ROOT / name).is_file()]
    found = [path for path in ROOT.iterdir() if path.is_file()]
    for folder in ("headprobe", "tests", "docs", "analyses", "notebooks"):
        found += [path for path in (ROOT / folder).rglob("*") if path.is_file() and "_build" not in path.parts]
    return found


def test_no_large_file_but_the_embedded_weights() -> None:
    limits = {WEIGHTS: 8_000_000}
    sizes = {path.relative_to(ROOT).as_posix(): path.stat().st_size for path in files()}
    assert {name: size for name, size in sizes.items() if size > limits.get(name, 2_000_000)} == {}


def test_text_is_utf8_and_names_no_home_folder() -> None:
    # Pieces, so that this file does not contain what it looks for.
    pattern = re.compile("|".join(["/home" + r"/\w+/", "/root" + "/", "/Users" + r"/\w+/", r"C:\\Us" + "ers"]))
    suffixes = {
        ".py",
        ".md",
        ".toml",
        ".cff",
        ".json",
        ".html",
        ".txt",
        ".yaml",
        ".yml",
        ".ipynb",
        ".rst",
        "",
    }
    found = []
    for path in files():
        if path.suffix in suffixes:
            found += [f"{path.relative_to(ROOT)}: {hit}" for hit in pattern.findall(path.read_text("utf-8"))]
    assert found == []


def test_the_package_carries_its_type_marker_and_licence() -> None:
    assert (PACKAGE / "py.typed").is_file()
    assert (ROOT / "LICENSE").read_text("utf-8").startswith("MIT License")


def test_one_version_everywhere() -> None:
    version = python("import headprobe; print(headprobe.__version__)")
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"^version: (.+)$", citation, flags=re.MULTILINE) == [version]
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (\d\S*)", changelog, flags=re.MULTILINE)[0] == version


def test_both_commands_reach_the_command_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "headprobe", "--help"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for command in ("demo", "detect"):
        assert command in done.stdout
    assert PROJECT["scripts"] == {"headprobe": "headprobe.cli:main"}


@pytest.mark.parametrize("target", ["demo", "test"])
def test_make_installs_only_what_the_target_needs(target: str) -> None:
    """Dry runs into a folder that does not exist: what would be run from nothing."""
    try:
        command = ["make", "-n", target, "VENV=.venv-that-is-not-there"]
        plan = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        pytest.skip("make is not installed")
    installs = [line for line in plan.splitlines() if "pip install" in line]
    assert [line.split()[-1].strip('"') for line in installs] == ["torch", "."] + [".[dev]"] * (target == "test")
    assert all("-c constraints.txt" in line for line in installs)
