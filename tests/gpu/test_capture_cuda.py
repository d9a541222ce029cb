"""The capture on a CUDA device; skipped where there is none."""

from __future__ import annotations

import pytest
import torch
from tiny_models import contents, make_model

from headprobe import HeadTracer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen2", "bert", "qwen2_vl"])
def test_cuda_equals_cpu_to_rounding(family: str) -> None:
    model = make_model(family)
    examples = contents(family)
    prompts = ["what happens ?", "yes"] if family == "qwen2_vl" else ["{text} ?"]
    on_cpu = HeadTracer(model).capture(examples, prompts=prompts, progress=False).values
    model.module.to("cuda")
    on_gpu = HeadTracer(model).capture(examples, prompts=prompts, progress=False).values
    assert on_gpu.device.type == "cpu"
    assert torch.allclose(on_cpu, on_gpu, atol=2e-4, rtol=1e-3)
