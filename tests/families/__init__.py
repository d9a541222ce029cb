"""What the contract tests need to know about each model family: one module per family, all collected here."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from headprobe import _torchvision

_torchvision.guard()

import transformers  # noqa: E402

MEAN, STD = [0.48, 0.45, 0.4], [0.26, 0.25, 0.27]
PROMPTS = ("What happens?", "Is anything odd here?", "No.")


@dataclass(frozen=True)
class Family:
    """A tiny random model of a family.

    Parameters
    ----------
    name
        ``config.model_type``.
    module
        From a seed to a random module, made in code.
    tokenizer
        Makes its tokenizer.
    processor_config
        Content of its preprocessor configuration; None for text.
    contents
        Makes n examples, of different lengths where the family allows it.
    still
        Removes from a module whatever moves information between places of the vision tower, so that a change of
        pixels changes only the tokens that cover them; None for text.
    processor
        Makes transformers' own processor of the family from a tokenizer; called only where torchvision works.
    prompts
        Prompts for the tests; templates with {text} for text.
    layers
        Kind of every layer, where they are not all softmax.
    times
        Whether bare frames without times give a warning.
    needs
        Packages that transformers' class of the model imports; without them the family is skipped.
    counts
        Numbers of frames for the comparison with transformers' processor; those of the contents if not given.
    reference
        Inputs that transformers' processor makes from its own self, clips as `headprobe.Frames` and a prompt; by
        default those of its call with the text of its chat template, the videos and their metadata.
    summaries
        Tokens of every frame that stand for the frame as a whole, without a row and a column.
    extra
        For the comparison with transformers' processor: ``variants``, families with other settings;
        ``processor_needs``, packages that only the processor imports; ``change``, what is done to the random clips.
    """

    name: str
    module: Callable[[int], torch.nn.Module]
    tokenizer: Callable[[], Any]
    processor_config: dict[str, Any] | None
    contents: Callable[[int], list[Any]]
    still: Callable[[torch.nn.Module], None] | None = None
    processor: Callable[[Any], Any] | None = None
    prompts: Sequence[str] = PROMPTS
    kinds: Sequence[str] | None = None
    times: bool = False
    needs: Sequence[str] = ()
    counts: Sequence[int] | None = None
    reference: Callable[[Any, Sequence[Any], str], Mapping[str, Any]] | None = None
    summaries: int = 0
    extra: dict[str, Any] = field(default_factory=dict)

    def asked(self, n: int = 1) -> list[str] | None:
        """The first prompts as a capture takes them; None for a family without text."""
        return None if tuple(self.prompts) == ("",) else list(self.prompts[:n])

    def load(self, seed: int = 0, **options: Any) -> Any:
        """A loaded model of the family."""
        import headprobe

        for name in self.needs:
            pytest.importorskip(name, reason=f"{self.name} of transformers needs {name}")
        return headprobe.load(
            self.module(seed), tokenizer=self.tokenizer(), processor_config=self.processor_config, **options
        )


def byte_tokenizer(special: Sequence[str], template: str | None = None, **roles: str) -> Any:
    """A tokenizer that knows every text: one token per byte, and special tokens; roles are bos_token= and so on."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<s>", "</s>", *special, *alphabet])}
    words = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words,
        **{"pad_token": "<pad>", "eos_token": "</s>"} | roles,
        additional_special_tokens=list(special),
    )
    tokenizer.chat_template = template
    return tokenizer


def clips(n: int, height: int, width: int, counts: Sequence[int] = (2, 4, 6), seed: int = 0) -> list[np.ndarray]:
    """Random clips of different lengths."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (counts[i % len(counts)], height, width, 3), dtype=np.uint8) for i in range(n)]


def randomise(module: torch.nn.Module) -> torch.nn.Module:
    """Give parameters that start as zero or one random values, which a forgotten bias or norm would not survive."""
    for name, parameter in module.named_parameters():
        if parameter.ndim < 2:
            constant = bool((parameter == parameter.flatten()[0]).all())
            if constant:
                torch.nn.init.normal_(parameter, mean=float(parameter.detach().flatten()[0]), std=0.1)
        elif bool((parameter == 0).all()):
            torch.nn.init.normal_(parameter, std=0.1)
        del name
    return module.eval()


def families() -> list[Family]:
    """Every family, from the modules of this package."""
    found: list[Family] = []
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda m: m.name):
        found.extend(importlib.import_module(f"{__name__}.{module.name}").FAMILIES)
    return found
