"""XLM and FlauBERT, whose attention modules lie in a list of their own."""

from __future__ import annotations

from families import text

SIZES = {"emb_dim": 32, "n_layers": 3, "n_heads": 4, "embed_init_std": 0.3, "init_std": 0.3, "pad_index": 0}


def family(name: str, config_class: str, **changes):
    return text.family(name, config_class, encoder=True, **SIZES | changes)


FAMILIES = [family("flaubert", "FlaubertConfig"), family("xlm", "XLMConfig")]
