"""What edits take from captured activations: checks, choice of rows, hashes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from headprobe.activations import HeadActivations
from headprobe.errors import FingerprintError, InputError
from headprobe.heads import HeadSet
from headprobe.models.model import Model
from headprobe.trace.plan import Batch, Change

__all__ = ["check_one_row", "check_reference", "digest", "draw", "fingerprint", "from_examples", "sketch"]

_WAVES = 4


def check_reference(model: Model, heads: HeadSet, reference: HeadActivations, name: str) -> None:
    """Raise unless activations are of a model and hold finite values of heads.

    Parameters
    ----------
    model
        The model to edit.
    heads
        The heads to edit.
    reference
        The activations.
    name
        What they are called in error texts.

    Raises
    ------
    InputError
        Something else than activations, a head that was not read, or NaN or infinity.
    FingerprintError
        The activations are of another model.
    """
    if not isinstance(reference, HeadActivations):
        raise InputError(f"{name} is a {type(reference).__name__}; give the HeadActivations of a capture.")
    made_by, own = reference.provenance.weights_hash, model.weights_hash
    if made_by != own:
        raise FingerprintError(
            f"The {name} was captured with the weights {made_by or 'unknown'}, but {model.name} has {own}; "
            "capture it from this model, in this number type."
        )
    for head in heads:
        values = reference.select(HeadSet([head]))
        if not bool(values.isfinite().all()):
            row = int((~values.isfinite()).flatten(2).any(2).any(0).nonzero()[0])
            raise InputError(f"{head}: the {name} has NaN or infinity at example {reference.examples['id'][row]!r}.")


def check_one_row(reference: HeadActivations, name: str) -> None:
    """Raise unless activations have one row per example.

    Parameters
    ----------
    reference
        The activations.
    name
        What they are called in the error text.

    Raises
    ------
    InputError
        They have several, as at a position with ``.each()``.
    """
    if "example" in reference.examples.columns:
        raise InputError(
            f"The {name} was read at {reference.provenance.positions} and has several rows per example; "
            "capture it at a position with one, for example .mean(), and patch several tokens with an edit for each."
        )


def from_examples(
    reference: HeadActivations, part: HeadSet, rows: Callable[[Batch], Sequence[int] | None], name: str
) -> Callable[[Batch], Change]:
    """A change that writes the values of chosen examples.

    Parameters
    ----------
    reference
        The activations; of several prompts, the one under whose name the pass runs is taken.
    part
        Heads of one layer.
    rows
        From the batch of a pass to the example for each of its rows; None is all, in order.
    name
        What the activations are called in error texts.

    Returns
    -------
    callable
        From the batch of a pass to the change of z.

    Raises
    ------
    InputError
        The prompt is not among those of the activations, or their number of examples does not go with the batch.
    """
    values = reference.select(part)
    prompts = list(reference.prompts)

    def of_batch(batch: Batch) -> Change:
        if len(prompts) > 1 and batch.prompt not in prompts:
            raise InputError(
                f"The {name} has the prompts {prompts}, and the pass runs under {batch.prompt!r}; "
                f"capture the {name} under one prompt, or under prompts of the same names."
            )
        under = values[prompts.index(batch.prompt) if len(prompts) > 1 and batch.prompt else 0]
        index = rows(batch)
        chosen = (under if index is None else under[list(index)])[:, None]

        def change(z: Tensor) -> Tensor:
            if len(chosen) not in (1, len(z)):
                raise InputError(
                    f"The {name} has {len(chosen)} examples, but the batch has {len(z)}; "
                    "give one for each, or one for all."
                )
            return chosen.to(z.dtype).to(z.device)

        return change

    return of_batch


def draw(seed: int, name: str, ids: Sequence[str]) -> int:
    """Draw another example than the one given, all equally likely.

    Parameters
    ----------
    seed
        Seed of all draws.
    name
        Id of an example.
    ids
        Ids of the examples to draw from.

    Returns
    -------
    int
        Index of an example with another id; the same for the same seed, id and ids.

    Raises
    ------
    InputError
        There is no other example.

    Examples
    --------
    >>> draw(0, "a", ["a", "b"])
    1
    """
    others = [i for i, other in enumerate(ids) if other != name]
    if not others:
        raise InputError(f"The reference holds no other example than {name!r}; resample needs at least two.")
    words = np.frombuffer(hashlib.sha256(f"{seed} {name}".encode()).digest(), dtype="<u4")
    return others[int(np.random.default_rng(words).integers(len(others)))]


def digest(*parts: bytes) -> str:
    """Short SHA-256 of bytes, in hexadecimal.

    Parameters
    ----------
    *parts
        What to hash.

    Returns
    -------
    str
    """
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:12]


def fingerprint(heads: HeadSet, reference: HeadActivations) -> str:
    """Short hash of what an edit takes from activations.

    Parameters
    ----------
    heads
        The heads to edit.
    reference
        The activations.

    Returns
    -------
    str
        Over example ids, prompt names and the `sketch` of the values of the heads.
    """
    names = repr((list(reference.examples["id"]), list(reference.prompts)))
    return digest(names.encode(), sketch(reference.select(HeadSet([head])) for head in heads).encode())


def sketch(arrays: Iterable[Tensor]) -> str:
    """Numbers of two digits that tell arrays apart, and that rounding changes in one case out of ten thousand.

    The bits of a capture depend on the processor, so that a hash of them would refuse to go on elsewhere.

    Parameters
    ----------
    arrays
        Floating-point tensors of any shape.

    Returns
    -------
    str
        Logarithm of the root mean square, and sums along four waves in its units.

    Examples
    --------
    >>> x = torch.arange(6.0)
    >>> sketch([x]) == sketch([x * (1 + 1e-7)]), sketch([x]) == sketch([x.flip(0)])
    (True, False)
    """
    square, count, along = 0.0, 0, torch.zeros(_WAVES, dtype=torch.float64)
    steps = torch.arange(1, _WAVES + 1, dtype=torch.float64).sqrt()[:, None]
    for number, array in enumerate(arrays):
        flat = array.detach().cpu().double().flatten()
        along += torch.cos(steps * (torch.arange(len(flat)) + number / 3) + 0.1) @ flat
        square, count = square + float(flat @ flat), count + len(flat)
    if not square:
        return "0"
    numbers = math.log(square / count), *(along / math.sqrt(square)).tolist()
    return " ".join(f"{round(number, 2) + 0.0:.2f}" for number in numbers)  # plus 0: no minus before a zero
