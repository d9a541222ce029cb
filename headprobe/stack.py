"""The stack of blocks whose heads are meant: the language or encoder stack of a model.

A model can hold several stacks (a vision tower beside a language model). The one built from the text
configuration is taken; nothing is guessed, and what is ambiguous is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from headprobe.attention import mixer_paths, submodule
from headprobe.errors import UnsupportedModelError

__all__ = ["Stack", "find_stack"]


@dataclass(frozen=True, eq=False)
class Stack:
    """The blocks of a model, in forward order.

    Parameters
    ----------
    path
        Dotted path of the module list.
    blocks
        The module list.
    model_type
        ``config.model_type`` of the model, for error texts.
    layer_types
        What the configuration calls each block; None if it does not say.
    """

    path: str
    blocks: nn.ModuleList
    model_type: str
    layer_types: Sequence[str] | None = None


def find_stack(module: nn.Module) -> Stack:
    """Find the stack of blocks with heads that was built from the text configuration.

    Parameters
    ----------
    module
        A transformers model, or a module built from the same attention classes.

    Returns
    -------
    Stack

    Raises
    ------
    UnsupportedModelError
        There is no recognisable stack, or more than one reading of the structure.

    Examples
    --------
    >>> from transformers import GPT2Config, GPT2Model
    >>> config = GPT2Config(vocab_size=9, n_embd=8, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
    >>> find_stack(GPT2Model(config)).path
    'h'
    """
    config = getattr(module, "config", None)
    name = str(getattr(config, "model_type", type(module).__name__))
    stacks = _stacks(module)
    # The encoder alone carries the configuration of the whole.
    halves = getattr(config, "is_encoder_decoder", False)
    if halves and (len(stacks) > 1 or any(path.rpartition(".")[2] == "decoder" for path, _ in module.named_modules())):
        raise UnsupportedModelError(
            f"Model type {name!r} is an encoder-decoder: it has two stacks of heads. Load the encoder with "
            "headprobe.load(model.get_encoder(), tokenizer=...); a decoder's blocks have two attention modules each, "
            "so that its heads have to be described with sites=."
        )
    pair = [tower for tower in ("text_model", "vision_model") if isinstance(getattr(module, tower, None), nn.Module)]
    if len(pair) == 2 and hasattr(module, "logit_scale"):
        raise UnsupportedModelError(
            f"Model type {name!r} is a pair of encoders that are compared, each with heads of its own. "
            "Load one of them: model.vision_model or model.text_model."
        )
    if not stacks:
        names = {type(part).__name__ for part in module.modules()}
        unknown = sorted(found for found in names if "attention" in found.lower())
        if not unknown:
            raise UnsupportedModelError(
                f"Model type {name!r} has no softmax attention block that can be recognised, and no module that is "
                "called attention: state spaces, recurrences and convolutions have no heads. If it has heads all the "
                "same, describe them: headprobe.load(..., sites=[HeadSite(...), ...])."
            )
        raise UnsupportedModelError(
            f"Model type {name!r} has no softmax attention block that can be recognised: {', '.join(unknown[:3])} is "
            "of a class that was not checked to keep its heads apart up to an output projection. If it does, describe "
            "them: headprobe.load(..., sites=[HeadSite(...), ...])."
        )
    text = _text_config(module)
    chosen = {path: blocks for path, blocks in stacks.items() if _belongs_to_text(blocks, text)}
    # A stack whose modules carry no configuration, as a tower of another package, gives way to one that carries it.
    chosen = {path: blocks for path, blocks in chosen.items() if _belongs_to_text(blocks, text, strict=True)} or chosen
    if len(chosen) != 1:
        raise UnsupportedModelError(
            f"Model type {name!r} has {len(stacks)} stacks of attention blocks ({', '.join(stacks)}) and it is not "
            "clear which one is meant. Pass the submodule that holds the one stack, or give HeadSites by hand."
        )
    path, blocks = next(iter(chosen.items()))
    expected = getattr(text, "num_hidden_layers", None)
    # The configuration of an encoder-decoder, also in front of one half, counts the blocks of both.
    counts = {expected, getattr(text, "encoder_layers", None), getattr(text, "decoder_layers", None)}
    if expected is not None and len(blocks) not in counts:
        raise UnsupportedModelError(
            f"Model type {name!r} has {expected} layers but {len(blocks)} blocks in {path!r}: blocks are run several "
            "times or lie elsewhere, so a layer's heads cannot be told apart."
        )
    layer_types = getattr(text, "layer_types", None)
    if layer_types is not None and len(layer_types) != len(blocks):
        raise UnsupportedModelError(
            f"The configuration lists {len(layer_types)} layer types for {len(blocks)} blocks in {path!r}."
        )
    return Stack(path, blocks, name, layer_types)


def _text_config(module: nn.Module) -> Any:
    config = getattr(module, "config", None)
    get = getattr(config, "get_text_config", None)
    text = get() if callable(get) else config
    # transformers does not know the name that original repositories, InternVL's for one, give to this part.
    return getattr(text, "llm_config", None) or text


def _stacks(module: nn.Module) -> dict[str, nn.ModuleList]:
    """Module lists that hold at least one block with heads, outermost first."""
    stacks: dict[str, nn.ModuleList] = {}
    for name, child in module.named_modules():
        inner = any(name.startswith(f"{outer}.") for outer in stacks)
        if isinstance(child, nn.ModuleList) and not inner and any(mixer_paths(b) for b in child):
            stacks[name] = child
    return stacks


def _belongs_to_text(blocks: nn.ModuleList, text: Any, strict: bool = False) -> bool:
    """Whether the attention modules of a stack were built from the model's text configuration."""
    configs = {
        getattr(getattr(submodule(block, path), "config", None), "model_type", None)
        for block in blocks
        for path in mixer_paths(block)
    }
    if strict and None in configs:
        return False
    return text is None or configs <= {None, getattr(text, "model_type", None)}
