"""How generation chooses tokens and where it ends, in the form in which transformers takes both."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headprobe.errors import InputError

__all__ = ["Draw", "Sampling", "Stop"]


@dataclass(frozen=True)
class Sampling:
    """Settings of drawing tokens instead of taking the most likely one.

    Parameters
    ----------
    temperature
        What the logits are divided by.
    top_k
        Draw among the k most likely tokens; None is all.
    top_p
        Draw among the fewest most likely tokens whose probabilities reach this sum; None is all.
    random_state
        Seed.

    Raises
    ------
    InputError
        A value outside its range.

    Examples
    --------
    >>> Sampling(temperature=0)
    Traceback (most recent call last):
        ...
    headprobe.errors.InputError: temperature is 0; it must be positive and finite.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    random_state: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise InputError(f"temperature is {self.temperature!r}; it must be positive and finite.")
        if self.top_k is not None and (isinstance(self.top_k, bool) or self.top_k != int(self.top_k) or self.top_k < 1):
            raise InputError(f"top_k is {self.top_k!r}; it must be an integer of at least 1, or None for all tokens.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise InputError(f"top_p is {self.top_p!r}; it must lie in (0, 1], or be None for all tokens.")
        if isinstance(self.random_state, bool) or not isinstance(self.random_state, int) or self.random_state < 0:
            raise InputError(f"random_state is {self.random_state!r}; give an integer of at least 0.")

    def probabilities(self, scores: Float[Tensor, "batch token"]) -> Float[Tensor, "batch token"]:
        """Probabilities of the next token.

        Parameters
        ----------
        scores
            Logits, [batch, token].

        Returns
        -------
        Tensor [batch, token]
            float64 on the CPU. ``top_k`` counts first, then ``top_p`` among what is left; of equally likely tokens
            the one with the smaller id comes first.

        Examples
        --------
        >>> logits = torch.tensor([[0.5, 0.3, 0.2]]).log()
        >>> [round(share, 4) for share in Sampling(top_p=0.6).probabilities(logits)[0].tolist()]
        [0.625, 0.375, 0.0]
        """
        ranked, order = (scores.double().cpu() / self.temperature).sort(dim=-1, descending=True, stable=True)
        if self.top_k is not None:
            ranked[:, self.top_k :] = -torch.inf
        shares = ranked.softmax(-1)
        if self.top_p is not None:
            before = shares.cumsum(-1) - shares
            shares = torch.where(before < self.top_p, shares, 0)
            shares = shares / shares.sum(-1, keepdim=True)
        return torch.zeros_like(shares).scatter(-1, order, shares)


class Draw:
    """Draws the next token of every example; a logits processor.

    A draw depends on the seed, the example's id and the number of the step, not on the other examples of the batch,
    and leaves the random states of torch and numpy alone.

    Parameters
    ----------
    sampling
        Settings.
    examples
        Ids of the examples, one per row of the batch.
    """

    def __init__(self, sampling: Sampling, examples: Sequence[str]) -> None:
        self._sampling = sampling
        self._generators = [_generator(sampling.random_state, name) for name in examples]

    def __call__(self, input_ids: Int[Tensor, "batch token"], scores: Float[Tensor, "batch vocabulary"]) -> Tensor:
        """Scores that leave only the drawn token of each example.

        Parameters
        ----------
        input_ids
            Tokens so far; not looked at.
        scores
            Logits of the next token.

        Returns
        -------
        Tensor [batch, vocabulary]
            0 at the drawn token, minus infinity elsewhere.
        """
        ends = self._sampling.probabilities(scores).cumsum(-1)
        points = torch.tensor([[generator.random()] for generator in self._generators], dtype=ends.dtype)
        # The first token whose cumulative probability exceeds the point, so never one of probability 0; rounding
        # can put the point at the very end, which is the last token that has a probability.
        last = (ends < ends[:, -1:]).sum(-1, keepdim=True)
        drawn = torch.searchsorted(ends, points * ends[:, -1:], right=True).minimum(last)
        chosen = torch.full_like(scores, -torch.inf)
        return chosen.scatter(-1, drawn.to(scores.device), 0.0)


def _generator(seed: int, name: str) -> np.random.Generator:
    digest = hashlib.sha256(f"{seed}\n{name}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))


class Stop:
    """Ends an example when its generated text contains one of some texts; a stopping criterion.

    Parameters
    ----------
    texts
        What ends an example.
    tokenizer
        A transformers tokenizer.
    n_prompt
        Width of the prompts, padding included.

    Attributes
    ----------
    lengths : dict
        Row to the number of generated tokens at which it ended, for the rows that did.
    """

    def __init__(self, texts: Sequence[str], tokenizer: Any, n_prompt: int) -> None:
        self._texts = tuple(texts)
        self._tokenizer = tokenizer
        self._n_prompt = n_prompt
        self.lengths: dict[int, int] = {}

    def __call__(self, input_ids: Int[Tensor, "batch token"], scores: Any, **_: Any) -> Bool[Tensor, " batch"]:
        """Which examples have ended.

        Parameters
        ----------
        input_ids
            Prompts and tokens so far.
        scores
            Not looked at.

        Returns
        -------
        Tensor [batch]
        """
        generated = input_ids[:, self._n_prompt :].tolist()
        for row, tokens in enumerate(generated):
            if row not in self.lengths:
                text = self._tokenizer.decode(tokens)
                if any(stop in text for stop in self._texts):
                    self.lengths[row] = len(tokens)
        return torch.tensor([row in self.lengths for row in range(len(generated))], device=input_ids.device)
