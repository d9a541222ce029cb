"""Longformer: windows of eight and twelve tokens, so that whole ones are 24, and texts that are no multiple of that."""

from __future__ import annotations

import dataclasses

from families import text

LONGFORMER = text.family("longformer", "LongformerConfig", encoder=True, attention_window=[8, 12, 8], pad_token_id=1)


def tokenizer():
    """The padding id decides where positions begin."""
    words = text.tokenizer()
    words.bos_token, words.pad_token = words.pad_token, words.bos_token
    return words


FAMILIES = [dataclasses.replace(LONGFORMER, tokenizer=tokenizer)]
