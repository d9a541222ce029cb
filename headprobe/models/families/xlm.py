"""XLM and FlauBERT: encoders whose texts may have a language (Conneau and Lample 2019, arXiv 1901.07291)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from headprobe.errors import InputError
from headprobe.models.adapter import ModelInputs, register
from headprobe.models.text import _CONTRACT, TextAdapter

if TYPE_CHECKING:
    from headprobe.models.model import Model

__all__ = ["XLMAdapter"]


@dataclasses.dataclass(frozen=True)
class XLMAdapter(TextAdapter):
    """Feeds text to XLM or FlauBERT, with the embedding of its language where the model has such.

    Parameters
    ----------
    name, padding_side, auto_class, modality, verified
        As in `TextAdapter`.
    language
        Name of the language of all texts, a key of ``config.lang2id``; None for a model without embeddings of
        languages.

    Examples
    --------
    >>> from headprobe.models.adapter import register
    >>> register("xlm", XLMAdapter("xlm", "right", "AutoModel", language="en"))  # before a model such as enfr is loaded
    >>> register("xlm", XLMAdapter("xlm", "right", "AutoModel"))
    """

    language: str | None = None

    def pad_rows(self, rows: Sequence[Sequence[int]], model: Model) -> ModelInputs:
        """Inputs for token ids, with their language.

        Parameters
        ----------
        rows
            Token ids of each example, at least one each.
        model
            The model.

        Returns
        -------
        ModelInputs

        Raises
        ------
        InputError
            The model has embeddings of languages and not this one, or a language is given and it has none.
        """
        batch = super().pad_rows(rows, model)
        config: Any = model.config
        embedded = config.n_langs > 1 and config.use_lang_emb
        known = dict(getattr(config, "lang2id", None) or {}) if embedded else {}
        if not embedded and self.language is None:
            return batch
        if self.language not in known:
            wanted = f"one of {sorted(known)}, which" if embedded else "None:"
            has = "has embeddings of" if embedded else "has no embeddings of languages"
            raise InputError(
                f"language is {self.language!r}; it must be {wanted} {model.name} {has}. Register the adapter anew "
                f"before loading: headprobe.models.adapter.register({config.model_type!r}, "
                f"XLMAdapter({self.name!r}, 'right', 'AutoModel', language=...))."
            )
        langs = torch.full_like(batch.ids, int(known[self.language]))
        return dataclasses.replace(batch, inputs={**batch.inputs, "langs": langs})

    def processor_state(self, model: Model) -> dict[str, Any]:
        return {} if self.language is None else {"language": self.language}


for _model_type in ("xlm", "flaubert"):
    register(_model_type, XLMAdapter(_model_type, "right", "AutoModel", verified=_CONTRACT))
