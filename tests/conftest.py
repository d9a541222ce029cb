"""What holds for every test: no window, no network, and a broken torchvision does not reach transformers."""

from __future__ import annotations

import fcntl
import os
import pickle
import sys
from pathlib import Path

# Before anything imports matplotlib or a Hugging Face library, which read these once.
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# What makes typer and rich write colours into answers that are compared, on hosts of workflows for one.
os.environ.update({"FORCE_COLOR": "", "GITHUB_ACTIONS": "", "PY_COLORS": "", "TTY_COMPATIBLE": ""})

import pytest

from headprobe._torchvision import guard

# Tests build reference models from transformers directly, often before headprobe loads one.
guard()

# Shared helpers (tiny_models.py) are imported by name, whatever pytest is started from.
sys.path.insert(0, str(Path(__file__).parent))

# Where several processes share the files, these come first: at the end they would leave the other processes idle.
LONGEST = (
    "tests/notebooks/test_notebooks.py",
    "tests/unit/test_cli_headhunt.py",
    "tests/real/test_notebook_ped2.py",
    "tests/docs/test_pages.py",
    "tests/real/test_real_fit.py",
    "tests/unit/test_headhunt_howto.py",
    "tests/unit/test_pipeline.py",
    "tests/docs/test_house.py",
    "tests/unit/test_torchvision.py",
    "tests/unit/test_cli.py",
    "tests/unit/test_cli_mistakes.py",
    "tests/unit/test_real_model_howto.py",
    "tests/real/test_real_detect.py",
    "tests/unit/test_extract_faults.py",
    "tests/unit/test_tracer.py",
    "tests/docs/test_readme.py",
    "tests/real/test_ped2_analysis.py",
    "tests/real/test_real_videos.py",
    "tests/unit/test_init.py",
    "tests/reference/test_demo.py",
    "tests/unit/test_extract_decode.py",
    "tests/unit/test_extract_cli.py",
    "tests/real/test_extract_ped2.py",
    "tests/real/test_paper_setting.py",
    "tests/unit/test_probing.py",
    "tests/reference/test_contract.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:
        places = {name: place for place, name in enumerate(LONGEST)}
        items.sort(key=lambda item: places.get(item.nodeid.partition("::")[0], len(LONGEST)))


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory):
    """A demo of the smallest useful size, run once for all tests that need its output, in whatever process."""
    from headprobe.demo._run import Size, run_demo

    size = Size(
        calibration_normal=8,
        calibration_per_event=2,
        test_normal=3,
        test_per_event=1,
        test_per_held_out_event=1,
        n_frames=72,
        n_draws=2,
        videos_per_draw=12,
    )
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return run_demo(tmp_path_factory.mktemp("demo"), seed=1, size=size, progress=False)
    shared = tmp_path_factory.getbasetemp().parent  # of all processes of this run
    kept = shared / "demo.pickle"
    with open(shared / "demo.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            kept.write_bytes(pickle.dumps(run_demo(shared / "demo", seed=1, size=size, progress=False)))
    return pickle.loads(kept.read_bytes())
