"""Capture: examples and prompts in, head outputs out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headprobe.activations import HeadActivations, example_table
from headprobe.errors import InputError, VideoError
from headprobe.examples import Example, as_examples, as_prompts, read_content
from headprobe.heads import Head, HeadSet
from headprobe.models.adapter import ModelInputs, check_inputs
from headprobe.models.model import Model
from headprobe.provenance import Provenance
from headprobe.sites import HeadSite, block_paths
from headprobe.trace.forward import ReadPoint, run, take_turns
from headprobe.trace.positions import Position, last

__all__ = ["HeadTracer", "Reading"]


@dataclass(frozen=True, eq=False)
class Reading:
    """What one forward pass gave.

    Parameters
    ----------
    z
        Head outputs, float32 on the CPU, [batch, entry, d_head].
    resid_post
        Residual stream after every block, [batch, layer, d_model], or None.
    answer_logits
        Logits of the answer tokens at the last position, [batch, answer], or None.
    """

    z: Float[Tensor, "batch entry d_head"]
    resid_post: Float[Tensor, "batch layer d_model"] | None = None
    answer_logits: Float[Tensor, "batch answer"] | None = None


class HeadTracer:
    """Reads the outputs of attention heads.

    Several tracers of one model, in several threads, give right answers: passes of one module take turns.

    Parameters
    ----------
    model
        From `headprobe.load`.

    Examples
    --------
    >>> import headprobe
    >>> from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
    >>> from tokenizers import Tokenizer, models, pre_tokenizers
    >>> words = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1, "man": 2}, unk_token="<unk>"))
    >>> words.pre_tokenizer = pre_tokenizers.Whitespace()
    >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>")
    >>> config = GPT2Config(vocab_size=3, n_embd=8, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
    >>> model = headprobe.load(GPT2LMHeadModel(config), tokenizer=tokenizer)
    >>> acts = HeadTracer(model).capture(["a man", "a"], progress=False)
    >>> acts.z.shape  # prompt, example, layer, head, d_head
    torch.Size([1, 2, 2, 2, 4])
    """

    def __init__(self, model: Model) -> None:
        if not isinstance(model, Model):
            raise InputError(f"HeadTracer needs a model from headprobe.load(...); got {type(model).__name__}.")
        self.model = model

    def capture(
        self,
        examples: Iterable[Any],
        prompts: str | Sequence[str] | Mapping[str, str] | None = None,
        heads: Iterable[Head | str | tuple[int, int]] | None = None,
        positions: Position | None = None,
        batch_size: int = 16,
        *,
        resid_post: bool = False,
        answers: Sequence[str] | None = None,
        on_error: Literal["raise", "skip"] = "raise",
        progress: bool = True,
    ) -> HeadActivations:
        """Run every example under every prompt and keep the head outputs at one position.

        Only the layers of the heads asked for are read, and the forward pass stops after the deepest unless
        ``resid_post`` or ``answers`` needs more. Each example is read (a clip decoded and packed) once for
        all prompts.

        Parameters
        ----------
        examples
            Texts, clips (uint8 [frame, height, width, 3]), objects with ``read()``, or `Example` objects.
        prompts
            None, one prompt, a list or a mapping; see `headprobe.examples.as_prompts`.
        heads
            Heads to read, in the order of the entries; None for all.
        positions
            Where to read; None is the last real token, which predicts the first generated token.
        batch_size
            Examples per forward pass.
        resid_post
            Whether to keep the residual stream after every block at the same position.
        answers
            Texts of one token each, whose logits at the last position are kept.
        on_error
            ``raise`` on an example that cannot be decoded, or ``skip`` it and list it in ``skipped``.
        progress
            Whether to show a progress bar.

        Returns
        -------
        HeadActivations
            ``z`` [prompt, example, layer, head, d_head] for all heads, ``values`` in any case.

        Raises
        ------
        InputError
            Bad examples, prompts, heads or answers; or no example could be read.
        PositionError
            The position selects no token, or several without ``.mean()``.
        PaddingError
            The adapter's inputs are not padded as the family needs.
        VideoError
            A clip cannot be decoded and ``on_error`` is ``raise``.
        """
        if on_error not in ("raise", "skip"):
            raise InputError(f"on_error is {on_error!r}; choose 'raise' or 'skip'.")
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise InputError(f"batch_size is {batch_size!r}; it must be an integer of at least 1.")
        listed, named = as_examples(examples), as_prompts(prompts)
        for name, prompt in named.items():
            self.model.adapter.check_prompt(name, prompt)
        wanted = self._heads(heads)
        position = last() if positions is None else positions
        if not isinstance(position, Position):
            raise InputError(f"positions is {positions!r}; give a position such as headprobe.positions.last().")
        answer_ids = self._answer_ids(answers)

        store = _Store(len(named), len(listed))
        kept: list[Example] = []
        skipped: list[tuple[str, str]] = []
        frames: set[int] = set()
        for batch in _batches(listed, batch_size, progress):
            readable, encoded = self._encode(batch, on_error, skipped, frames)
            if not readable:
                continue
            shared: Mapping[str, Any] | None = None
            for row, prompt in enumerate(named.values()):
                inputs = self.model.adapter.prepare(encoded, prompt, self.model)
                if shared is None and len(named) > 1:
                    shared = self._shared(inputs)
                reading = self.read(
                    inputs, wanted, position, resid_post=resid_post, answer_ids=answer_ids, shared=shared
                )
                store.put(row, len(kept), reading)
            kept.extend(readable)
        if not kept:
            raise InputError(
                f"None of the {len(listed)} examples could be read; the first: {skipped[0][0]}: {skipped[0][1]}."
            )
        return HeadActivations(
            values=store.take("z", len(kept)),
            heads=wanted,
            prompts=named,
            examples=example_table(kept),
            provenance=self.provenance(named, position, frames.pop() if len(frames) == 1 else None),
            skipped=tuple(skipped),
            resid_post=store.take("resid_post", len(kept)) if resid_post else None,
            answer_logits=store.take("answer_logits", len(kept)) if answer_ids else None,
            answers=tuple(answers or ()),
        )

    def read(
        self,
        inputs: ModelInputs,
        heads: Iterable[Head | str | tuple[int, int]] | None = None,
        position: Position | None = None,
        *,
        resid_post: bool = False,
        answer_ids: Sequence[int] = (),
        shared: Mapping[str, Any] | None = None,
    ) -> Reading:
        """One forward pass over inputs that are ready.

        Parameters
        ----------
        inputs
            Inputs as an adapter prepares them.
        heads
            Heads to read; None for all.
        position
            Where to read; None is the last real token.
        resid_post
            Whether to keep the residual stream after every block.
        answer_ids
            Token ids whose logits at the last position are kept.
        shared
            Arguments computed once for several prompts; an argument that is None replaces an input by nothing.

        Returns
        -------
        Reading

        Raises
        ------
        PaddingError
            The inputs have no mask or wrong padding.
        PositionError
            The position selects no token, or several without ``.mean()``.
        """
        check_inputs(inputs)
        position = last() if position is None else position
        wanted = self._heads(heads)
        at = position.reader(inputs.token_info)
        deepest = wanted.layers
        sites = [site for site in self.model.sites if site.layer in deepest]
        points: list[tuple[int, int, ReadPoint]] = [
            (site.layer, 0, ReadPoint(site.path, "input", at)) for site in sites
        ]
        if resid_post:
            blocks = block_paths(self.model.module, self.model.sites)
            points += [(layer, 1, ReadPoint(path, "output", at)) for layer, path in enumerate(blocks)]
        points.sort(key=lambda point: point[:2])
        given = {name: tensor for name, tensor in inputs.inputs.items() if name not in (shared or {})}
        arguments: dict[str, Any] = {name: tensor.to(self.model.device) for name, tensor in given.items()}
        arguments |= {name: value for name, value in (shared or {}).items() if value is not None}
        if "use_cache" in self.model.accepts:
            arguments["use_cache"] = False
        if answer_ids and inputs.padding_side == "left" and "logits_to_keep" in self.model.accepts:
            arguments["logits_to_keep"] = 1
        kept, logits = run(self.model.module, arguments, [point for _, _, point in points], logits=bool(answer_ids))
        values = {(layer, kind): value for (layer, kind, _), value in zip(points, kept, strict=True)}
        residual = [_host(value) for (_, kind), value in values.items() if kind == 1]
        return Reading(
            z=_entries({site.layer: values[site.layer, 0] for site in sites}, sites, wanted),
            resid_post=torch.stack(residual, 1) if resid_post else None,
            answer_logits=None if logits is None else self._answers(logits, answer_ids, inputs),
        )

    def provenance(
        self, prompts: Mapping[str, str], position: Position | None = None, frames: int | None = None
    ) -> Provenance:
        """What activations of this model are made from, without running it.

        Parameters
        ----------
        prompts
            Prompt name to text.
        position
            Where it is read; None is the last real token.
        frames
            Frames per clip.

        Returns
        -------
        Provenance
        """
        model = self.model
        return Provenance(
            model=model.name,
            revision=model.revision,
            weights_hash=model.weights_hash,
            dtype=str(model.dtype).removeprefix("torch."),
            attention=str(getattr(model.config, "_attn_implementation", "")),
            adapter=model.adapter.name,
            processor=model.processor_hash,
            prompts=dict(prompts),
            positions=repr(last() if position is None else position),
            frames=frames,
        )

    def _heads(self, heads: Iterable[Head | str | tuple[int, int]] | None) -> HeadSet:
        if heads is None:
            wanted = self.model.heads
        else:
            wanted = heads if isinstance(heads, HeadSet) else HeadSet(heads)
            if not wanted:
                raise InputError("No heads were asked for; give some, or heads=None for all.")
            absent = (wanted - self.model.heads).labels
            if absent:
                sizes = sorted({site.n_heads for site in self.model.sites})
                raise InputError(
                    f"{', '.join(absent[:5])} not in {self.model.name}, which has heads in layers "
                    f"{self.model.heads.layers[0]}..{self.model.heads.layers[-1]}, "
                    f"{'/'.join(map(str, sizes))} each."
                )
        layers = set(wanted.layers)
        dims = {site.head_dim for site in self.model.sites if site.layer in layers}
        if len(dims) != 1:
            raise InputError(
                f"The heads asked for have different sizes {sorted(dims)}; capture the heads of one size at a time."
            )
        return wanted

    def _encode(
        self, batch: Sequence[Example], on_error: str, skipped: list[tuple[str, str]], frames: set[int]
    ) -> tuple[list[Example], list[Any]]:
        """Read and encode a batch; examples that cannot be decoded go to ``skipped``."""
        readable, encoded = [], []
        for example in batch:
            try:
                content = read_content(example)
            except VideoError as error:
                if on_error == "raise":
                    raise
                skipped.append((example.id, str(error)))
                continue
            if isinstance(content, np.ndarray):
                frames.add(len(content))
            encoded.append(self.model.adapter.encode(content, example.id, self.model))
            readable.append(example)
        return readable, encoded

    def _shared(self, inputs: ModelInputs) -> Mapping[str, Any]:
        """What a family computes before its language model and is the same for every prompt."""
        share = getattr(self.model.adapter, "share", None)
        return share(inputs, self.model, take_turns(self.model.module)) if share else {}

    def _answer_ids(self, answers: Sequence[str] | None) -> tuple[int, ...]:
        if answers is None:
            return ()
        if isinstance(answers, str) or not answers:
            raise InputError(f"answers is {answers!r}; give a list of texts of one token each.")
        head = getattr(self.model.module, "get_output_embeddings", lambda: None)()
        if head is None:
            raise InputError(f"{self.model.name} has no language head, so it gives no answer logits.")
        ids = []
        for answer in answers:
            tokens = self.model.tokenizer(answer, add_special_tokens=False)["input_ids"]
            if len(tokens) != 1:
                pieces = self.model.tokenizer.convert_ids_to_tokens(tokens)
                raise InputError(
                    f"The answer {answer!r} is {len(tokens)} tokens {pieces}; an answer must be one token."
                )
            if tokens[0] == self.model.tokenizer.unk_token_id:
                raise InputError(f"The answer {answer!r} is not in the vocabulary of {self.model.name}.")
            ids.append(int(tokens[0]))
        return tuple(ids)

    def _answers(self, logits: Tensor, answer_ids: Sequence[int], inputs: ModelInputs) -> Tensor:
        if logits.shape[1] == 1 and inputs.padding_side == "left":
            at_end = logits[:, 0]
        else:
            at_end = last().reader(inputs.token_info)(logits)
        return _host(at_end[:, list(answer_ids)])


def _host(value: Tensor) -> Tensor:
    return value.float().cpu()


def _entries(values: Mapping[int, Tensor], sites: Sequence[HeadSite], heads: HeadSet) -> Tensor:
    """The heads asked for, in their order, [batch, entry, d_head]."""
    per_layer = {site.layer: _host(values[site.layer]).unflatten(-1, (site.n_heads, site.head_dim)) for site in sites}
    start, offset = {}, 0
    for site in sites:
        start[site.layer] = offset
        offset += site.n_heads
    joined = torch.cat(list(per_layer.values()), dim=1)
    index = [start[head.layer] + head.head for head in heads]
    return joined if index == list(range(offset)) else joined[:, index]


def _batches(examples: Sequence[Example], size: int, progress: bool) -> Iterator[Sequence[Example]]:
    from tqdm.auto import tqdm

    with tqdm(total=len(examples), desc="capture", unit="example", disable=not progress) as bar:
        for start in range(0, len(examples), size):
            batch = examples[start : start + size]
            yield batch
            bar.update(len(batch))


class _Store:
    """Results by prompt and example, allocated once, when the first reading shows their size."""

    def __init__(self, n_prompts: int, n_examples: int) -> None:
        self._shape = (n_prompts, n_examples)
        self._tensors: dict[str, Tensor] = {}

    def put(self, prompt: int, start: int, reading: Reading) -> None:
        for name in ("z", "resid_post", "answer_logits"):
            part = getattr(reading, name)
            if part is None:
                continue
            if name not in self._tensors:
                self._tensors[name] = torch.empty(*self._shape, *part.shape[1:])
            self._tensors[name][prompt, start : start + len(part)] = part

    def take(self, name: str, n_examples: int) -> Tensor:
        tensor = self._tensors[name]
        return tensor if n_examples == tensor.shape[1] else tensor[:, :n_examples].contiguous()
