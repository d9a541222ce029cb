"""``headprobe.load(..., remote=True)`` says what is missing."""

from __future__ import annotations

import pytest
from nnsight import CONFIG

import headprobe
from headprobe.errors import InputError


@pytest.mark.parametrize(
    ("key", "text"), [(None, "needs a key: .*set the variable NDIF_API_KEY"), ("k", "a key .*is set")]
)
def test_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, key: str | None, text: str) -> None:
    monkeypatch.setattr(CONFIG.API, "APIKEY", key)
    with pytest.raises(InputError, match=text) as caught:
        headprobe.load("meta-llama/Llama-3.1-8B", remote=True)
    assert "'meta-llama/Llama-3.1-8B'" in str(caught.value)
