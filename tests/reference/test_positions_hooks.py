"""Rows of every kind of position against plain PyTorch forward pre-hooks."""

from __future__ import annotations

import pytest
import torch
from equality import close, same_bits
from tiny_models import FAMILIES, by_head, contents, hooked, hooks, make_model

from headprobe import HeadTracer, positions

SEVERAL = {
    "first": positions.first(),
    "third from the end": positions.index(-3),
    "each": positions.all().each(),
    "inner": (~(positions.first() | positions.last())).each(),
    "mean": positions.span(1, None).mean(),
}
PROMPT = {"text": "what happens : {text}", "video": "what happens ?"}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_row_of_one_pass_equals_the_hooked_token_bit_for_bit(family, dtype):
    model = make_model(family)
    model.module.to(dtype)
    prompt = PROMPT[model.adapter.modality]
    with hooks(model) as taken:
        acts = HeadTracer(model).capture(contents(family), prompt, positions=SEVERAL, batch_size=4, progress=False)
    batch = model.adapter.prepare(contents(family), prompt, model)
    reference = by_head(taken, model)
    real = [z_mask.nonzero().flatten() for z_mask in batch.attention_mask]
    columns = {
        "first": [[tokens[0]] for tokens in real],
        "third from the end": [[tokens[-3]] for tokens in real],
        "each": real,
        "inner": [tokens[1:-1] for tokens in real],
    }
    for name, chosen in columns.items():
        rows = [(i, int(column)) for i, tokens in enumerate(chosen) for column in tokens]
        assert acts[name].values.shape[1] == len(rows)
        for layer, z in reference.items():
            expected = torch.stack([z[i, column] for i, column in rows]).float()
            assert same_bits(acts[name].z[0, :, layer], expected, of="one pass"), (name, layer)
        ids = torch.tensor([batch.inputs["input_ids"][i, column] for i, column in rows])
        assert acts[name].read["token_id"].tolist() == ids.tolist()
    for layer, z in reference.items():
        mean = torch.stack([z[i, tokens[1:]].double().mean(0) for i, tokens in enumerate(real)]).float()
        assert torch.allclose(acts["mean"].z[0, :, layer], mean, rtol=1e-5, atol=1e-5)


def test_frames_equal_the_mean_of_their_hooked_tokens():
    model = make_model("qwen2_vl")
    clips = contents("qwen2_vl")
    acts = HeadTracer(model).capture(clips, PROMPT["video"], positions=positions.per_frame(), progress=False)
    batch = model.adapter.prepare(clips, PROMPT["video"], model)
    video = batch.inputs["input_ids"] == model.config.video_token_id
    # Tokens come step by step, and the grid has 2 x 3 tokens after merging.
    steps = [(i, step) for i in range(len(clips)) for step in video[i].nonzero().flatten().split(6)]
    assert acts.examples["example"].tolist() == [str(i) for i, _ in steps]
    for layer, z in by_head(hooked(model, batch), model).items():
        expected = torch.stack([z[i, step].double().mean(0) for i, step in steps]).float()
        assert torch.allclose(acts.z[0, :, layer], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_of_a_batch_equal_those_of_its_single_examples(family):
    model = make_model(family)
    prompt = PROMPT[model.adapter.modality]
    several = SEVERAL | ({"frames": positions.per_frame()} if family == "qwen2_vl" else {})
    tracer = HeadTracer(model)
    together = tracer.capture(contents(family), prompt, positions=several, progress=False)
    alone = [tracer.capture([c], prompt, positions=several, progress=False) for c in contents(family)]
    for name, acts in together.items():
        single = torch.cat([part[name].values for part in alone], dim=1)
        assert close(acts.values, single), name
