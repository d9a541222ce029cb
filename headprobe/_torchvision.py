"""Hide a torchvision that cannot be imported, so that transformers still can be.

transformers decides from the presence of the torchvision package, not from whether it works, and then
imports it from nearly every model file. A torchvision that was built for another torch (the ordinary one
next to a CPU build of torch) raises on import, and takes GPT-2, BERT and Qwen2-VL down with it. headprobe
needs no torchvision, so it makes a broken one invisible.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import sys
import threading
import warnings

from headprobe.errors import HeadprobeError, HeadprobeWarning

_lock = threading.Lock()
_checked = False


def guard() -> None:
    """Make transformers importable next to a broken torchvision; call it before importing transformers."""
    global _checked
    with _lock:
        if _checked:
            return
        problem = _hide_if_broken()
        _checked = True
    if problem is not None:
        # Last, so that where this warning is turned into an error the repair is already done.
        warnings.warn(problem, HeadprobeWarning, stacklevel=2)


def _hide_if_broken() -> str | None:
    """Hide torchvision if its import raises; return what to tell the user, or None."""
    if "torchvision" in sys.modules or importlib.util.find_spec("torchvision") is None:
        return None
    try:
        importlib.import_module("torchvision")
    except Exception as error:  # a missing operator, library or name: all of them mean the same here
        reason = f"{type(error).__name__}: {error}"
    else:
        return None
    # The failed import leaves submodules behind; no later import may find them.
    for name in [name for name in sys.modules if name.startswith("torchvision.")]:
        del sys.modules[name]
    sys.modules["torchvision"] = None  # type: ignore[assignment]
    found = (
        f"torchvision {_version('torchvision')} is installed but cannot be imported next to "
        f"torch {_version('torch')} ({reason})"
    )
    fix = "run `pip uninstall torchvision`, or install the torchvision build that belongs to this torch"
    if "transformers" in sys.modules:
        try:
            _forget_torchvision()
        except Exception as error:
            del sys.modules["torchvision"]  # a second call must find and say the same
            raise HeadprobeError(
                f"{found}, and transformers was imported before headprobe could hide it and cannot import "
                f"its models any more ({type(error).__name__}: {error}). Start a new process and load the "
                f"model through headprobe before anything imports transformers, or {fix}."
            ) from error
    return f"{found}. headprobe works without it and hides it in this process. To fix it: {fix}."


def _forget_torchvision() -> None:
    """Clear what an already imported transformers remembers about torchvision, and import its image code."""
    remembered = importlib.import_module("transformers.utils.import_utils")
    for name in (
        "is_torchvision_available",
        "is_torchvision_v2_available",
        "is_torchvision_greater_or_equal",
    ):
        function = getattr(remembered, name, None)
        if hasattr(function, "cache_clear"):
            function.cache_clear()  # type: ignore[union-attr]
    # The module that every model file reaches and that imports torchvision first.
    importlib.import_module("transformers.image_utils")


def _version(distribution: str) -> str:
    """Return the installed version of a distribution, or "(unknown version)" without metadata."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "(unknown version)"
