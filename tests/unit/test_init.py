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


def test_a_system_without_file_locks_runs_everything_but_stores(tmp_path):
    """As on Windows: no fcntl, no resource, and none of the ways of opening files that only POSIX has."""
    code = """
import importlib, os, pathlib, pkgutil, sys
import av, matplotlib.pyplot, nnsight, numpy, pandas, scipy.stats, sklearn.linear_model, torch, transformers, xarray
for name in ("fcntl", "resource", "termios", "pwd", "grp"):
    sys.modules[name] = None
for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_DIRECTORY", "readv", "sched_getaffinity", "fork"):
    delattr(os, name)
import headprobe
for found in pkgutil.walk_packages(headprobe.__path__, "headprobe."):
    if found.name != "headprobe.__main__":
        importlib.import_module(found.name)
from headprobe.errors import StoreError
from headprobe._files import read_regular
from headprobe.store._io import publish
from headprobe.video.scenes import labelled_clips
acts = headprobe.HeadTracer(headprobe.load("tiny")).capture(labelled_clips(2, seed=1), ["what ?"], progress=False)
print(tuple(acts.z.shape))
here = pathlib.Path(sys.argv[1])
publish(here / "a.json", b"{}\\n\\r\\n")
print(read_regular(here / "a.json", 99))
(here / "link").symlink_to(here / "a.json")
for write in (
    lambda: headprobe.Store.create(here / "z", acts.provenance, acts.heads),
    lambda: headprobe.extract(here, "tiny", ["what ?"], here / "z", progress=False),
    lambda: read_regular(here / "link", 99, StoreError),
):
    try:
        write()
    except StoreError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    shape, read, stored, extracted, link = done.stdout.splitlines()
    assert (shape, read) == ("(1, 2, 6, 8, 16)", repr(b"{}\n\r\n"))
    assert stored == extracted
    assert stored.startswith("This system has no file locks (flock), as Windows has none, so activations cannot be")
    assert "links are not followed" in link
