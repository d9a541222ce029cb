"""The linear map from what is written into the residual stream to logits, norms' scales held fixed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from headprobe.attention import is_projection
from headprobe.errors import InputError, UnsupportedModelError
from headprobe.models.model import Model
from headprobe.sites import output_bias, output_weights
from headprobe.trace.residual import ResidualPath

__all__ = ["Reader", "logit_reader", "unembedding"]


def unembedding(model: Model, ids: Sequence[int]) -> Float[Tensor, "token d_model"]:
    """Directions of tokens: what the unembedding reads from the normalised last residual stream.

    Parameters
    ----------
    model
        A model with a language head.
    ids
        Token ids.

    Returns
    -------
    Tensor [token, d_model]
        float32 on the CPU; norms, biases and factors of the logits are not in it.

    Raises
    ------
    UnsupportedModelError
        The model has no unembedding with a floating point matrix.
    InputError
        An id lies outside the vocabulary.
    """
    head = getattr(model.module, "get_output_embeddings", lambda: None)()
    if not is_projection(head):
        raise UnsupportedModelError(
            f"{model.name} ({type(model.module).__name__}) has no unembedding with a floating point weight matrix, so "
            "nothing can be attributed to logits; load the model with its language head, for example "
            "AutoModelForCausalLM."
        )
    weight = head.weight
    assert isinstance(weight, Tensor)
    outside = [i for i in ids if not 0 <= i < weight.shape[0]]
    if outside:
        raise InputError(f"The token {outside[0]} lies outside the {weight.shape[0]} tokens of {model.name}.")
    return weight[list(ids)].detach().float().cpu()


@dataclass(frozen=True, eq=False)
class Reader:
    """Reads logits, or their difference, from parts of the residual stream.

    Parameters
    ----------
    model
        The model.
    path
        How it gets from its blocks to its logits.
    directions
        What is read from a part of the last residual stream, times the final norm's scale, [answer, d_model].
    bias
        What the biases of final norm and unembedding add, [answer].
    """

    model: Model
    path: ResidualPath
    directions: Float[Tensor, "answer d_model"]
    bias: Float[Tensor, " answer"]

    def scale(self, last: Float[Tensor, "row d_model"]) -> Float[Tensor, "row 1"]:
        """The final norm's scale, from the last block's output.

        Parameters
        ----------
        last
            Residual stream after the last block.

        Returns
        -------
        Tensor [row, 1]
        """
        return self.path.final.scale(last)

    def logits(self, last: Float[Tensor, "row d_model"]) -> Float[Tensor, "row answer"]:
        """The logits that are attributed, before any soft cap, from the last block's output.

        Parameters
        ----------
        last
            Residual stream after the last block.

        Returns
        -------
        Tensor [row, answer]
        """
        return last @ self.directions.T * self.scale(last) + self.bias

    def heads(
        self,
        layer: int,
        heads: Sequence[int],
        z: Float[Tensor, "row k d_head"],
        scale: Float[Tensor, "row 1"],
    ) -> tuple[Float[Tensor, "row k answer"], Float[Tensor, "row answer"]]:
        """What heads of a layer, and the biases behind them, contribute to the logits.

        Parameters
        ----------
        layer
            Index of the block.
        heads
            Heads within the layer. A layer with a norm behind its attention needs all of them, because its
            scale is that of their sum.
        z
            Their outputs.
        scale
            The final norm's scale.

        Returns
        -------
        (Tensor [row, k, answer], Tensor [row, answer])
            Of each head; of the biases of output projection and norm.

        Raises
        ------
        InputError
            Heads are missing that the norm behind the attention needs.
        """
        block = self.path.blocks[layer]
        site = block.site
        assert site is not None
        weights = output_weights(self.model.module, site)[list(heads)].detach()
        bias = output_bias(self.model.module, site)
        shift = torch.zeros(weights.shape[-1]) if bias is None else bias.detach().float().cpu()
        directions = self.directions * (self.path.gain(layer) * block.multiplier)
        constant = torch.zeros(len(directions))
        if block.post is not None:
            if sorted(heads) != list(range(site.n_heads)):
                raise InputError(
                    f"Layer {layer} of {self.model.name} normalises the sum over its {site.n_heads} heads "
                    f"({block.post.path}), but only {len(heads)} of them were captured; capture all heads of the layer."
                )
            # One layer's matrix at a time is upcast; the heads' sum is as wide as the stream.
            flat = z.flatten(1) @ weights.flatten(0, 1).float().cpu() + shift
            if block.post.bias is not None:
                constant = directions @ block.post.bias
            directions = block.post.pull_back(directions)
            inner = block.post.scale(flat)
        else:
            inner = torch.ones(len(z), 1)
        read = torch.einsum("kdm,am->kda", weights.float(), directions.to(weights.device)).cpu()
        terms = torch.einsum("nkd,kda->nka", z, read) * (scale * inner)[..., None]
        return terms, scale * (inner * (directions @ shift) + constant)

    def added(
        self, layer: int, written: Float[Tensor, "row d_model"], scale: Float[Tensor, "row 1"]
    ) -> Float[Tensor, "row answer"]:
        """What something else that a block adds to the stream contributes to the logits.

        Parameters
        ----------
        layer
            Index of the block.
        written
            What is added, before the block's multiplier.
        scale
            The final norm's scale.

        Returns
        -------
        Tensor [row, answer]
        """
        gain = self.path.gain(layer) * self.path.blocks[layer].multiplier
        return written @ self.directions.T * (gain * scale)


def logit_reader(model: Model, path: ResidualPath, ids: Sequence[int], difference: bool = False) -> Reader:
    """A reader of the logits of tokens, or of the first one's minus the second one's.

    Parameters
    ----------
    model
        The model.
    path
        From `headprobe.trace.residual.residual_path`.
    ids
        Token ids.
    difference
        Whether to read one difference of two logits instead.

    Returns
    -------
    Reader

    Raises
    ------
    InputError
        A difference of other than two tokens is asked for.
    """
    if difference and len(ids) != 2:
        raise InputError(f"A difference needs two answers, the first minus the second; got {len(ids)}.")
    columns = unembedding(model, ids) * path.logit_scale
    given = getattr(model.module.get_submodule(path.head), "bias", None)
    shift = torch.zeros(len(columns))
    if isinstance(given, Tensor):
        shift = given[list(ids)].detach().float().cpu() * path.logit_scale
    if path.final.bias is not None:
        shift = shift + columns @ path.final.bias
    if difference:
        columns, shift = columns[:1] - columns[1:], shift[:1] - shift[1:]
    return Reader(model, path, path.final.pull_back(columns), shift)
