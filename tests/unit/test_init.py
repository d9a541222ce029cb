from __future__ import annotations

import subprocess
import sys

import pytest

import headprobe

HEAVY = ("torch", "numpy", "xarray", "matplotlib", "transformers", "sklearn", "pandas", "av", "nnsight", "scipy")


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_imports_nothing_heavy():
    loaded = run("import sys, headprobe; print(*sys.modules)").split()
    assert not [name for name in HEAVY if name in loaded]


def test_importing_the_package_takes_less_than_three_tenths_of_a_second():
    code = "import time; start = time.process_time(); import headprobe; print(time.process_time() - start)"
    assert min(float(run(code)) for _ in range(3)) < 0.3


def test_a_function_is_not_shadowed_by_the_module_of_the_same_name():
    code = (
        "import headprobe.metrics.saliency, headprobe.metrics.consensus, headprobe;"
        "print(callable(headprobe.saliency), callable(headprobe.consensus))"
    )
    assert run(code).split() == ["True", "True"]


def test_names_are_listed_and_unknown_ones_refused():
    assert set(headprobe.__all__) <= set(dir(headprobe))
    assert headprobe.__version__ == "0.1.0"
    with pytest.raises(AttributeError, match="module 'headprobe' has no attribute 'nothing'"):
        _ = headprobe.nothing


@pytest.mark.parametrize("name", headprobe.__all__)
def test_every_public_name_is_there(name):
    assert getattr(headprobe, name) is not None
