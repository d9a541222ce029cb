"""headprobe._torchvision: a broken torchvision is hidden from transformers, and nothing else is touched.

Every case runs in a process of its own, because what is tested is the import state of a whole process.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

QWEN = "from transformers import Qwen2VLForConditionalGeneration, AutoConfig, AutoTokenizer, AutoModel; "
GUARD = "from headprobe._torchvision import guard; guard(); "
BROKEN = "raise RuntimeError('operator torchvision::nms does not exist')\n"
# What a working torchvision offers at the places where transformers imports it.
HEALTHY = "__version__ = '0.28.0'\n"


def install(folder: Path, source: str) -> Path:
    """Write a torchvision package with its metadata into `folder`."""
    (folder / "torchvision").mkdir()
    (folder / "torchvision" / "__init__.py").write_text(source, encoding="utf-8")
    info = folder / "torchvision-0.28.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torchvision\nVersion: 0.28.0\n", encoding="utf-8")
    (info / "top_level.txt").write_text("torchvision\n", encoding="utf-8")
    return folder


def run(code: str, *, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run `code` in a new Python process, with `path` in front of everything installed."""
    python_path = [str(ROOT)] if path is None else [str(path), str(ROOT)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(python_path), "HF_HUB_OFFLINE": "1"}
    env.pop("PYTHONWARNINGS", None)
    return subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    return install(tmp_path, BROKEN)


def test_without_the_guard_transformers_is_broken(broken: Path) -> None:
    done = run(QWEN, path=broken)
    assert done.returncode != 0
    assert "torchvision::nms does not exist" in done.stderr


def test_guard_before_transformers_repairs_it_and_warns_once(broken: Path) -> None:
    done = run(GUARD + GUARD + QWEN + "print(Qwen2VLForConditionalGeneration.__name__)", path=broken)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "Qwen2VLForConditionalGeneration"
    assert done.stderr.count("HeadprobeWarning") == 1
    assert "torchvision 0.28.0 is installed but cannot be imported next to torch" in done.stderr
    assert "operator torchvision::nms does not exist" in done.stderr
    assert "pip uninstall torchvision" in done.stderr


def test_guard_repairs_a_transformers_that_has_already_failed(broken: Path) -> None:
    code = (
        "import transformers\n"
        "try:\n    transformers.GPT2LMHeadModel\n"
        "except ImportError:\n    print('failed')\n" + GUARD + QWEN + "print(transformers.GPT2LMHeadModel.__name__)"
    )
    done = run(code, path=broken)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["failed", "GPT2LMHeadModel"]


def test_guard_says_so_when_transformers_stays_broken(broken: Path) -> None:
    # transformers.image_utils cannot be imported for a reason of its own: hiding torchvision does not help.
    code = (
        "import sys, transformers\n"
        "sys.modules['transformers.image_utils'] = None\n"
        "from headprobe._torchvision import guard\n"
        "from headprobe.errors import HeadprobeError\n"
        "for _ in range(2):\n"
        "    try:\n        guard()\n"
        "    except HeadprobeError as error:\n        print(error)\n"
    )
    done = run(code, path=broken)
    lines = done.stdout.splitlines()
    assert len(lines) == 2, done.stderr
    assert lines[0] == lines[1]
    assert "transformers was imported before headprobe could hide it" in lines[0]
    assert "Start a new process" in lines[0]


def test_a_warning_turned_into_an_error_comes_after_the_repair(broken: Path) -> None:
    code = (
        "import sys, warnings; warnings.simplefilter('error')\n"
        "from headprobe._torchvision import guard\n"
        "from headprobe.errors import HeadprobeWarning\n"
        "try:\n    guard()\n"
        "except HeadprobeWarning:\n    print('warned')\n"
        "guard(); print([name for name in sys.modules if name.startswith('torchvision')])\n"
        "print(sys.modules['torchvision'])"
    )
    done = run(code, path=broken)
    assert done.stdout.splitlines() == ["warned", "['torchvision']", "None"], done.stderr


def test_the_embedded_model_loads_next_to_a_broken_torchvision(broken: Path) -> None:
    if not (ROOT / "headprobe" / "models" / "tiny" / "weights" / "model.safetensors").is_file():
        pytest.skip("the weights of the embedded model are not in headprobe/models/tiny/weights yet")
    # The tracer first: it imports nnsight, which imports transformers.
    code = "import headprobe; headprobe.HeadTracer; print(headprobe.load('tiny').n_layers)"
    done = run(code, path=broken)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0
    assert done.stderr.count("HeadprobeWarning") == 1


def test_a_healthy_torchvision_is_left_alone(tmp_path: Path) -> None:
    code = GUARD + "import sys; print(sys.modules['torchvision'].__version__)"
    done = run(code, path=install(tmp_path, HEALTHY))
    assert (done.stdout.strip(), done.stderr) == ("0.28.0", "")


def test_an_absent_torchvision_is_quiet_and_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        # Absent, also on a machine where one is installed.
        "import importlib.util as u; real = u.find_spec\n"
        "u.find_spec = lambda name, package=None: None if name == 'torchvision' else real(name, package)\n"
        + GUARD
        + "print([m for m in ('torch', 'transformers', 'torchvision') if m in sys.modules])"
    )
    done = run(code)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_the_test_configuration_tolerates_this_one_warning(broken: Path, tmp_path: Path) -> None:
    test = tmp_path / "test_case.py"
    test.write_text(
        "import warnings\n"
        "from headprobe._torchvision import guard\n"
        "from headprobe.errors import HeadprobeWarning\n"
        "def test_guard():\n    guard()\n"
        "def test_other():\n    warnings.warn('another one', HeadprobeWarning)\n",
        encoding="utf-8",
    )
    done = run(
        f"import pytest; pytest.main([{str(test)!r}, '-c', {str(ROOT / 'pyproject.toml')!r}, '-rA', "
        "'-p', 'no:cacheprovider'])",
        path=broken,
    )
    assert "PASSED" in done.stdout, done.stdout
    assert "1 failed, 1 passed, 1 warning" in done.stdout, done.stdout
    assert "torchvision 0.28.0 is installed but cannot be imported" in done.stdout
