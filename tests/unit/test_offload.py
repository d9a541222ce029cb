"""Weights that accelerate keeps on disk and loads layer by layer."""

from __future__ import annotations

import pytest
import torch
from equality import close
from tiny_models import TEXTS, make_module, make_tokenizer

import headprobe
from headprobe import HeadTracer
from headprobe.errors import InputError

accelerate = pytest.importorskip("accelerate")


def test_a_module_whose_weights_lie_on_disk_reads_the_same(tmp_path):
    here = headprobe.load(make_module("llama"), tokenizer=make_tokenizer())
    module = accelerate.disk_offload(make_module("llama"), tmp_path, execution_device="cpu")
    offloaded = headprobe.load(module, tokenizer=make_tokenizer())
    assert next(module.parameters()).is_meta
    assert offloaded.device == torch.device("cpu")
    assert offloaded.weights_hash == here.weights_hash
    expected, got = (HeadTracer(model).capture(TEXTS, progress=False) for model in (here, offloaded))
    assert close(got.values, expected.values)


def test_placing_is_for_checkpoints_only():
    with pytest.raises(InputError, match="device_map is for a checkpoint"):
        headprobe.load("tiny", device_map="auto")
