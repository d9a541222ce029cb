"""Capture: examples and prompts in, head outputs out."""

from __future__ import annotations

import gc
import importlib
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import torch
from tqdm.auto import tqdm

from headprobe._validation import Unsaved, foretell, notice
from headprobe.activations import HeadActivations
from headprobe.errors import InputError, OutOfMemoryError
from headprobe.examples import Example, _as_examples, _as_prompts
from headprobe.heads import Head
from headprobe.models.adapter import ModelInputs
from headprobe.models.model import Model
from headprobe.provenance import Provenance
from headprobe.trace._forward import _first_line, _is_out_of_memory
from headprobe.trace._passes import answer_ids as ids_of_answers
from headprobe.trace._passes import classes_of, encode, full_pass, heads_of, prepare, prompt_passes, provenance_of
from headprobe.trace._readout import Collected, Positions, Reading, Wanted, named_positions
from headprobe.trace.positions import Position

if TYPE_CHECKING:
    from headprobe.trace.generate import Generation

__all__ = ["BatchSize", "HeadTracer", "Reading"]

Heads = Iterable[Head | str | tuple[int, int]]
_log = logging.getLogger(__name__)
_START = {"cpu": 16}
_START_ELSEWHERE = 64
Item = TypeVar("Item")
Result = TypeVar("Result")


class BatchSize:
    """A number of examples per pass that shrinks when the memory does not suffice, and stays so.

    Parameters
    ----------
    size
        At least 1; or ``"auto"``, which starts with 16 on a CPU and 64 elsewhere and halves the number where memory
        runs out.
    device
        Where the model is.

    Raises
    ------
    InputError
        The size is neither.

    Examples
    --------
    >>> BatchSize("auto", torch.device("cpu")).size
    16
    """

    def __init__(self, size: int | Literal["auto"], device: torch.device) -> None:
        self.auto = size == "auto"
        self.device = device
        if isinstance(size, str):
            if size != "auto":
                raise InputError(f"batch_size is {size!r}; give 'auto' or an integer of at least 1.")
            size = _START.get(device.type, _START_ELSEWHERE)
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise InputError(f"batch_size is {size!r}; give 'auto' or an integer of at least 1.")
        self.size = size

    @classmethod
    def of(cls, size: BatchSize | int | Literal["auto"], device: torch.device) -> BatchSize:
        """The batch size itself, or one of this size.

        Parameters
        ----------
        size, device
            As for the class.

        Returns
        -------
        BatchSize
        """
        return size if isinstance(size, BatchSize) else cls(size, device)

    def over(self, items: Sequence[Item], work: Callable[[Sequence[Item]], Result]) -> Iterator[tuple[Any, Result]]:
        """Do work on items, as many at once as the size says.

        Parameters
        ----------
        items
            What there is to do.
        work
            Takes some items in a row; done again with fewer of them where the memory did not suffice.

        Yields
        ------
        tuple
            The items of a piece and what ``work`` made of them.

        Raises
        ------
        OutOfMemoryError
            Not even one item fits, or the size is fixed.
        """
        start = 0
        while start < len(items):
            piece = items[start : start + self.size]
            done: list[Result] = []
            said = ""
            try:
                done.append(work(piece))
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not _is_out_of_memory(error):
                    raise
                said = _first_line(error)
            if done:
                yield piece, done.pop()
                start += len(piece)
                continue
            # Out of the except block, because the exception keeps the tensors of the failed pass.
            self._shrink(len(piece), said)

    def _shrink(self, failed: int, said: str) -> None:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        where = f"The memory of {self.device} does not suffice for"
        if failed == 1:
            raise OutOfMemoryError(
                f"{where} one example: take fewer frames or heads, dtype 'bfloat16', or device_map 'auto', which "
                f"spreads the model. ({said})"
            )
        if not self.auto:
            raise OutOfMemoryError(f"{where} {failed} examples at once; give a smaller batch_size or 'auto'. ({said})")
        self.size = failed // 2
        _log.info("out of memory with %d examples per pass: going on with %d", failed, self.size)


# What can say how many examples go through the model at once.
Batches = BatchSize | int | Literal["auto"]
_GB = 1e9


class _Forecast:
    """What a run of many examples will take, said once its first batch is done and only where that is long."""

    def __init__(
        self,
        doing: str,
        device: torch.device,
        kept: int = 0,
        stored: int = 0,
        folder: str | os.PathLike[str] | None = None,
        batches: int = 1,
    ) -> None:
        self.doing, self.device, self.kept, self.stored, self.folder = doing, device, kept, stored, folder
        self._left = batches
        self._began = time.monotonic()

    def __call__(self, n_done: int, n_total: int) -> None:
        """Take note of a batch."""
        self._left -= 1
        if self._left or not 0 < n_done < n_total:
            return
        seconds = (time.monotonic() - self._began) / n_done * (n_total - n_done)
        kept, stored = self.kept * (n_total - n_done), self.stored * (n_total - n_done)
        foretell(f"{self.doing}: {n_done} of about {n_total} examples done;", seconds, *self._needs(kept, stored))
        available = _available_memory()
        if available is not None and kept > available:
            notice(
                f"{self.doing}: {kept / _GB:.1f} GB of activations are still to be kept in memory and "
                f"{available / _GB:.1f} GB are free: read fewer heads or prompts, or use headprobe.extraction.extract, "
                "which keeps them on disk."
            )
        free = None if self.folder is None else shutil.disk_usage(self.folder).free
        if free is not None and stored > free:
            notice(
                f"{self.doing}: {stored / _GB:.1f} GB are still to be written and {free / _GB:.1f} GB are free in "
                f"{os.fspath(self.folder or '')}: read fewer heads or prompts, or name another folder."
            )

    def _needs(self, kept: int, stored: int) -> list[str]:
        """Memory and disk that the rest takes."""
        parts = [f"about {(_peak_memory(self.device) + kept) / _GB:.1f} GB of memory"]
        if self.device.type == "cuda":
            on_device = torch.cuda.max_memory_allocated(self.device)
            parts.append(f"{on_device / _GB:.1f} GB of it on {self.device} so far")
        if self.folder is not None:
            parts.append(f"{stored / _GB:.2f} GB of disk")
        return parts


def _peak_memory(device: torch.device) -> int:
    """The most memory that this process has taken, with that on its GPU; 0 where the system does not say."""
    on_device = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    try:
        resource = importlib.import_module("resource")
    except ImportError:  # Windows
        return on_device
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return on_device + peak * (1 if sys.platform == "darwin" else 1024)


def _available_memory() -> int | None:
    """Bytes that a process can still get; None where the system does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return None


class HeadTracer(Unsaved):
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

    _instead = "Save the activations that it captured: acts.save(folder)."

    def __init__(self, model: Model) -> None:
        if not isinstance(model, Model):
            raise InputError(f"HeadTracer needs a model from headprobe.load(...); got {type(model).__name__}.")
        self.model = model

    @overload
    def capture(
        self,
        examples: Iterable[Any],
        prompts: str | Sequence[str] | Mapping[str, str] | None = None,
        heads: Heads | None = None,
        positions: Position | None = None,
        batch_size: Batches = 16,
        *,
        resid_post: bool = False,
        answers: Sequence[str] | None = None,
        on_error: Literal["raise", "skip"] = "raise",
        progress: bool = True,
    ) -> HeadActivations: ...
    @overload
    def capture(
        self,
        examples: Iterable[Any],
        prompts: str | Sequence[str] | Mapping[str, str] | None = None,
        heads: Heads | None = None,
        *,
        positions: Positions,
        batch_size: Batches = 16,
        resid_post: bool = False,
        answers: Sequence[str] | None = None,
        on_error: Literal["raise", "skip"] = "raise",
        progress: bool = True,
    ) -> dict[str, HeadActivations]: ...
    def capture(
        self,
        examples: Iterable[Any],
        prompts: str | Sequence[str] | Mapping[str, str] | None = None,
        heads: Heads | None = None,
        positions: Position | Positions | None = None,
        batch_size: Batches = 16,
        *,
        resid_post: bool = False,
        answers: Sequence[str] | None = None,
        on_error: Literal["raise", "skip"] = "raise",
        progress: bool = True,
    ) -> HeadActivations | dict[str, HeadActivations]:
        """Run every example under every prompt and keep the head outputs at one or several positions.

        Only the layers of the heads asked for are read, and the forward pass stops after the deepest unless
        ``resid_post`` or ``answers`` needs more. Each example is read (a clip decoded and packed) once for
        all prompts, and all positions are read in the same pass. Only the rows read are kept, never all tokens.

        Parameters
        ----------
        examples
            Texts, clips (uint8 [frame, height, width, 3]), objects with ``read()``, or `Example` objects.
        prompts
            None, one prompt, a list or a mapping; see `headprobe.examples._as_prompts`.
        heads
            Heads to read, in the order of the entries; None for all softmax heads. Heads of another kind are read
            when they are named. Heads of several sizes are kept apart, see `HeadActivations`.
        positions
            Where to read; None is the last real token, which predicts the first generated token. Several, as a
            mapping from names or as a list (named as they print), are read in one pass. With ``.each()`` and
            ``.per_frame()`` every selected token or step of an example is a row of its own.
        batch_size
            Examples per forward pass, which has to fit into memory; or ``"auto"``, which starts with 16 on a CPU and 64
            elsewhere and halves the number where memory runs out. A `headprobe.trace.tracer.BatchSize` that several
            calls share keeps what it was halved to.
        resid_post
            Whether to keep the residual stream after every block at the same positions.
        answers
            Texts of one token each, whose logits at the last position are kept; of a classifier, names of its labels.
        on_error
            ``raise`` on an example that cannot be decoded, or ``skip`` it and list it in ``skipped``.
        progress
            Whether to show a progress bar. What a long run will take is logged (INFO) after its first batch.

        Returns
        -------
        HeadActivations or dict
            ``z`` [prompt, example, layer, head, d_head] for all heads, ``values`` in any case; with several
            positions, by their names.

        Raises
        ------
        InputError
            Bad examples, prompts, heads or answers; answers with several rows per example; an example that has
            different numbers of rows under different prompts; or no example could be read.
        PositionError
            A position selects no token, or several without saying what becomes of them.
        PaddingError
            The adapter's inputs are not padded as the family needs.
        VideoError
            A clip cannot be decoded and ``on_error`` is ``raise``.
        OutOfMemoryError
            The memory does not suffice for so many examples at once, or, with ``auto``, for one.

        Warns
        -----
        HeadprobeWarning
            What is still to be kept is more than the memory that is free.
        """
        if on_error not in ("raise", "skip"):
            raise InputError(f"on_error is {on_error!r}; choose 'raise' or 'skip'.")
        size = BatchSize.of(batch_size, self.model.device)
        listed, named = _as_examples(examples), _as_prompts(prompts)
        for name, prompt in named.items():
            self.model.adapter.check_prompt(name, prompt)
        wanted = Wanted(heads_of(self.model, heads), named_positions(positions), resid_post, self._answer_ids(answers))
        for position in wanted.positions.values():
            if wanted.answer_ids and position.several:
                raise InputError(
                    f"answers are read at the last token, once per example, but {position!r} has several rows per "
                    "example; capture the answers at last() instead."
                )

        collected = {name: Collected(position, named) for name, position in wanted.positions.items()}
        kept = 0
        skipped: list[tuple[str, str]] = []
        frames: set[int] = set()

        def work(batch: Sequence[Example]) -> tuple[int, list[Any], list[tuple[str, str]], set[int]]:
            gone: list[tuple[str, str]] = []
            counts: set[int] = set()
            readable, encoded = encode(self.model, batch, on_error, gone, counts)
            read: list[Any] = []
            for part, inputs in prepare(self.model, encoded, named.values()) if readable else ():
                ids = [example.id for example in readable[part]]
                read.append((readable[part], prompt_passes(self.model, inputs, wanted, ids, list(named))))
            return len(readable), read, gone, counts

        forecast = _Forecast("capture", self.model.device, self._kept_bytes(wanted, len(named)))
        with tqdm(total=len(listed), desc="capture", unit="example", disable=not progress) as bar:
            for batch, (n_readable, read, gone, counts) in size.over(listed, work):
                skipped += gone
                frames |= counts
                for examples_read, by_prompt in read:
                    for name, parts in collected.items():
                        parts.add(examples_read, [reading[name] for reading in by_prompt])
                kept += n_readable
                bar.update(len(batch))
                forecast(kept + len(skipped), len(listed))
        if not kept:
            raise InputError(
                f"None of the {len(listed)} examples could be read; the first: {skipped[0][0]}: {skipped[0][1]}."
            )
        made = self.provenance(named, None, frames.pop() if len(frames) == 1 else None)
        result = {
            name: part.activations(
                wanted.heads,
                replace(made, positions=repr(part.position)),
                self.model.tokenizer,
                skipped,
                tuple(answers or ()),
            )
            for name, part in collected.items()
        }
        return next(iter(result.values())) if _is_one(positions) else result

    def read_prompts(
        self,
        batches: Sequence[ModelInputs],
        heads: Heads | None = None,
        positions: Position | Positions | None = None,
        *,
        resid_post: bool = False,
        answer_ids: Sequence[int] = (),
    ) -> list[Reading] | list[dict[str, Reading]]:
        """Read inputs of several prompts about the same examples, sharing one pass over what they have in common.

        Parameters
        ----------
        batches
            Inputs of every prompt, as an adapter prepares them.
        heads, positions, resid_post, answer_ids
            As in `read`.

        Returns
        -------
        list of Reading or of dict
            One per prompt. What separate full passes give, to rounding: where the token ids share a prefix that
            holds the video and the family allows it, that prefix is computed once; otherwise every prompt takes a
            full pass, with a warning for a video model.

        Raises
        ------
        PaddingError, PositionError
            As in `read`.
        """
        wanted = Wanted(heads_of(self.model, heads), named_positions(positions), resid_post, tuple(answer_ids))
        results = prompt_passes(self.model, batches, wanted)
        return [next(iter(result.values())) for result in results] if _is_one(positions) else results

    @overload
    def read(
        self,
        inputs: ModelInputs,
        heads: Heads | None = None,
        positions: Position | None = None,
        *,
        resid_post: bool = False,
        answer_ids: Sequence[int] = (),
        shared: Mapping[str, Any] | None = None,
        examples: Sequence[str] | None = None,
        prompt: str | None = None,
    ) -> Reading: ...
    @overload
    def read(
        self,
        inputs: ModelInputs,
        heads: Heads | None = None,
        *,
        positions: Positions,
        resid_post: bool = False,
        answer_ids: Sequence[int] = (),
        shared: Mapping[str, Any] | None = None,
        examples: Sequence[str] | None = None,
        prompt: str | None = None,
    ) -> dict[str, Reading]: ...
    def read(
        self,
        inputs: ModelInputs,
        heads: Heads | None = None,
        positions: Position | Positions | None = None,
        *,
        resid_post: bool = False,
        answer_ids: Sequence[int] = (),
        shared: Mapping[str, Any] | None = None,
        examples: Sequence[str] | None = None,
        prompt: str | None = None,
    ) -> Reading | dict[str, Reading]:
        """One forward pass over inputs that are ready.

        Parameters
        ----------
        inputs
            Inputs as an adapter prepares them.
        heads
            Heads to read; None for all softmax heads.
        positions
            Where to read; None is the last real token. Several, as a mapping or a list, are read in the same pass.
        resid_post
            Whether to read the residual stream after every block.
        answer_ids
            Token ids whose logits at the last position are read.
        shared
            Arguments computed once for several prompts; an argument that is None replaces an input by nothing.
        examples
            Ids of the examples, for edits that differ between examples.
        prompt
            Name of the prompt, for edits that differ between prompts.

        Returns
        -------
        Reading or dict
            With several positions, by their names.

        Raises
        ------
        PaddingError
            The inputs have no mask or wrong padding.
        PositionError
            A position selects no token, or several without saying what becomes of them.
        """
        wanted = Wanted(heads_of(self.model, heads), named_positions(positions), resid_post, tuple(answer_ids))
        result = full_pass(self.model, inputs, wanted, shared, examples, prompt)
        return next(iter(result.values())) if _is_one(positions) else result

    def generate(
        self,
        examples: Iterable[Any],
        prompt: str | None = None,
        max_new_tokens: int = 32,
        heads: Heads | None = None,
        batch_size: int = 16,
        *,
        do_sample: bool = False,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        random_state: int = 0,
        stop: Sequence[str] | None = None,
        on_error: Literal["raise", "skip"] = "raise",
        progress: bool = True,
    ) -> Generation:
        """Generate text for every example and keep the head outputs of every step.

        Parameters
        ----------
        examples
            As for `capture`.
        prompt
            One prompt; None for none.
        max_new_tokens
            Most tokens to generate per example.
        heads
            As for `capture`.
        batch_size
            Examples per batch.
        do_sample, temperature, top_k, top_p, random_state
            Whether and how to draw tokens instead of taking the most likely one; see
            `headprobe.trace.generate.generate`.
        stop
            Texts that end an example.
        on_error, progress
            As for `capture`.

        Returns
        -------
        Generation
            Texts, tokens, and activations with a row per example and step.

        Raises
        ------
        InputError
            Bad examples, prompt, heads or settings; no example could be read; or the model has too few positions.
        UnsupportedModelError
            The model cannot generate.
        """
        from headprobe.trace.generate import generate

        return generate(
            self,
            examples,
            prompt,
            max_new_tokens,
            heads,
            batch_size,
            do_sample=do_sample,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            random_state=random_state,
            stop=stop,
            on_error=on_error,
            progress=progress,
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
        return provenance_of(self.model, prompts, position, frames)

    def _kept_bytes(self, wanted: Wanted, n_prompts: int) -> int:
        """Bytes that stay of an example, where every position has one row."""
        by_layer = {site.layer: site.head_dim for site in self.model.sites}
        numbers = sum(by_layer[head.layer] for head in wanted.heads)
        return n_prompts * len(wanted.positions) * numbers * self.model.dtype.itemsize

    def _answer_ids(self, answers: Sequence[str] | None) -> tuple[int, ...]:
        if answers is None:
            return ()
        ids = ids_of_answers(self.model, answers)
        head = getattr(self.model.module, "get_output_embeddings", lambda: None)()
        if head is None and not classes_of(self.model):
            raise InputError(f"{self.model.name} has no language head, so it gives no answer logits.")
        return ids


def _is_one(positions: object) -> bool:
    return positions is None or isinstance(positions, Position)
