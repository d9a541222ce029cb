"""The embedded video model: a small Qwen2-VL, trained by ``analyses/tiny_model`` and shipped with the package."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from headprobe.errors import ArtefactError

if TYPE_CHECKING:
    from torch import nn

_FILES = ("config.json", "model.safetensors", "tokenizer.json", "preprocessor_config.json", "training.json")


def folder() -> Path:
    """The folder with the embedded model's weights, configuration, tokenizer and training record.

    Raises :class:`~headprobe.errors.ArtefactError` when a file is missing from the installation.

    >>> (folder() / "config.json").exists()
    True
    """
    path = Path(__file__).parent / "weights"
    missing = [name for name in _FILES if not (path / name).is_file()]
    if missing:
        raise ArtefactError(
            f"the embedded model lacks {', '.join(missing)} in {path}: the installation is incomplete; "
            "reinstall headprobe, or rebuild the weights with analyses/tiny_model"
        )
    return path


def untrained(seed: int = 0) -> nn.Module:
    """The embedded model's architecture with random weights: the never-trained control.

    The same seed gives the same weights, and the caller's random state is left as it was.
    """
    from headprobe._torchvision import guard

    guard()
    import torch
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen2VLForConditionalGeneration(Qwen2VLConfig.from_pretrained(folder())).eval()
