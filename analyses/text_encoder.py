"""A real text encoder on captions of real videos: the rows that some analyses have beside the embedded model."""

from __future__ import annotations

import importlib.util
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from headprobe.metrics.intervals import corrected_interval

REAL = Path(__file__).resolve().parent / "real_heads"
ROOT = Path(__file__).resolve().parents[1]
ENCODER = "MiniLM"


def _data() -> Any:
    """Captions and the encoder, as analyses/real_heads reads them."""
    if str(REAL) not in sys.path:
        sys.path.insert(0, str(REAL))
    import data  # pyright: ignore[reportMissingImports]

    return data


def at_hand() -> bool:
    """Whether the rows can be made: the encoder is installed, and the captions are there."""
    data = _data()
    return importlib.util.find_spec(data.PACKAGE) is not None and (data.DATA / "frame_captions").is_dir()


def read_captions(name: str) -> tuple[Any, Any]:
    """The captions of a data set, and what the encoder's heads say to them (kept in runs/real_heads)."""
    data = _data()
    settings = tomllib.loads((REAL / "config.toml").read_text(encoding="utf-8"))
    listed = data.read_captions(name, settings["captions"]["every"][name])
    return listed, data.capture(listed, settings, ROOT / "runs" / "real_heads")


def load(trained: bool = True, seed: int = 0) -> Any:
    """The encoder itself, or one with random weights."""
    return _data().load_encoder(trained, seed)


def encoder_folder() -> Path:
    """Folder of the encoder's weights."""
    return _data().encoder_folder()


def over_splits(values: np.ndarray) -> dict[str, float]:
    """Mean over splits of the videos, with a t interval that is corrected for their overlap."""
    wide = corrected_interval(values, 1.0, 0.95)
    return {"mean": float(values.mean()), "low": wide.low, "high": wide.high}


def line(results: Mapping[str, Any], more: str = "") -> str:
    """What the README says of the rows."""
    found = results[ENCODER]
    if found is None:
        return f"- {ENCODER} was not at hand."
    return (
        f"- {ENCODER}: {found['captions']} captions of {found['videos']} ShanghaiTech videos, "
        f"{results['captions_splits']} splits of the videos; wide intervals, corrected for the overlap of the "
        f"splits and not for the number of claims.{more}"
    )
