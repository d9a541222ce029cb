"""One question about some clips, asked again and again while heads are changed; the video is read once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from headprobe import Example, HeadSet, HeadTracer, positions
from headprobe.models.adapter import TokenInfo
from headprobe.models.model import Model
from headprobe.trace._forward import Batch, Change, Edit, Part, run
from headprobe.trace._passes import answer_ids

BATCH = 50


class Asked:
    """A question about clips: logit of the first answer less that of the second, under any edit of head outputs."""

    @torch.no_grad()
    def __init__(
        self, model: Model, examples: Sequence[Example], question: str, answers: Sequence[str] = ("yes", "no")
    ) -> None:
        self.model, self.ids = model, [str(one.id) for one in examples]
        # The parts of Qwen2-VL that this needs are not in the types of all families.
        module: Any = model.module
        adapter: Any = model.adapter
        encoded = [adapter.encode(one.content, str(one.id), model) for one in examples]
        inputs = adapter.prepare(encoded, question, model)
        tokens, self.info = inputs.inputs["input_ids"], inputs.token_info
        self.mask = inputs.inputs["attention_mask"]
        if not bool(self.mask.all()):
            raise SystemExit("the clips must have equally many tokens")
        self.place = adapter.position_ids(inputs, model)
        grid = inputs.inputs["video_grid_thw"]
        pixels = inputs.inputs["pixel_values_videos"]
        step = BATCH * len(pixels) // len(examples)
        seen = [
            module.model.get_video_features(pixels[i * len(pixels) // len(examples) :][:step], grid[i : i + BATCH])
            for i in range(0, len(examples), BATCH)
        ]
        video = torch.cat([one if isinstance(one, Tensor) else torch.cat(list(one.pooler_output)) for one in seen])
        embedded = module.get_input_embeddings()(tokens)
        is_video = (tokens == model.config.video_token_id)[..., None]
        self.embedded = embedded.masked_scatter(is_video, video.to(embedded.dtype))
        self.answers = list(answer_ids(model, answers))
        self.cache = DynamicCache(config=module.config.get_text_config())
        module(
            inputs_embeds=self.embedded[:, :-1],
            attention_mask=self.mask[:, :-1],
            position_ids=self.place[..., :-1],
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )

    def last(self, edit: Edit | None = None) -> np.ndarray:
        """Logit difference [clip] with an edit of the last token; all tokens before it stay as they are."""
        n = self.embedded.shape[1]
        given = {
            "inputs_embeds": self.embedded[:, -1:],
            "attention_mask": self.mask,
            "position_ids": self.place[..., -1:],
            "past_key_values": self.cache,
            "use_cache": True,
        }
        batch = Batch(self.info, self.ids, "question", start=n - 1)
        try:
            with edit or nullcontext():
                _, logits = run(self.model.module, given, [], logits=True, batch=batch)
        finally:
            self.cache.crop(n - 1 - self.cache.get_seq_length())
        return self._difference(logits)

    def everywhere(self, edit: Edit | None = None, n: int | None = None) -> np.ndarray:
        """Logit difference [clip] of the first `n` clips with an edit of any tokens."""
        found = []
        for start in range(0, n or len(self.ids), BATCH):
            part = slice(start, min(start + BATCH, n or len(self.ids)))
            given = {
                "inputs_embeds": self.embedded[part],
                "attention_mask": self.mask[part],
                "position_ids": self.place[:, part],
                "use_cache": False,
            }
            batch = Batch(TokenInfo(self.info.mask[part]), self.ids[part], "question")
            with edit or nullcontext():
                _, logits = run(self.model.module, given, [], logits=True, batch=batch)
            found.append(self._difference(logits))
        return np.concatenate(found)

    def _difference(self, logits: Tensor | None) -> np.ndarray:
        assert logits is not None
        first, second = logits[:, -1, self.answers].double().T.numpy()
        return first - second


def every_token(model: Model, examples: Sequence[Example], question: str) -> Tensor:
    """Head outputs at every token, [clip, token, layer, head, d_head]."""
    read = HeadTracer(model).capture(examples, question, positions=positions.all().each(), progress=False)
    return read.z[0].unflatten(0, (len(examples), -1))


def write(model: Model, heads: HeadSet, values: Callable[[Sequence[str]], Tensor], text: str) -> Edit:
    """An edit that writes values [clip or 1, token, layer, head, d_head], chosen by the batch's ids, at every token."""
    parts = []
    for site in model.sites:
        index = tuple(head.head for head in heads if head.layer == site.layer)
        if index:
            parts.append(Part(site, index, _change(site.layer, index, values)))
    return Edit(f"{text}({list(heads.labels)})", model.module, None, tuple(parts), by_example=True)


def _change(layer: int, index: tuple[int, ...], values: Callable[[Sequence[str]], Tensor]) -> Callable[[Batch], Change]:
    def of_batch(batch: Batch) -> Change:
        assert batch.examples is not None
        chosen = values(batch.examples)[:, :, layer, list(index)]
        return lambda z: chosen.to(z.dtype)

    return of_batch
