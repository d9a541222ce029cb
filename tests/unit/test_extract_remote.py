"""``headprobe.load(..., remote=True)`` says what is missing; with a key, nnsight sends the reading to a server.

There is no server here. One test lets nnsight rehearse (``remote="local"``): the code is packed as for a server and
unpacked without headprobe's modules. The other puts a stand-in of NDIF in the place of the connection: it gets the
bytes that would travel, runs them on a model of its own, and sends back what was saved.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import nnsight.ndif
import pytest
import torch
from equality import close
from nnsight import CONFIG
from nnsight.intervention.backends.remote import RemoteBackend, RemoteError
from nnsight.modeling import huggingface
from nnsight.modeling.transformers import TransformersModel
from nnsight.schema.request import RequestModel
from nnsight.tracing import tracer as tracing
from tiny_models import make_module, make_tokenizer

import headprobe
from headprobe.errors import HeadprobeError, InputError, UnsupportedModelError
from headprobe.models.model import Model
from headprobe.trace.edits import zero
from headprobe.trace.positions import all as every
from headprobe.trace.positions import last

TEXTS = ["what happens", "does anything odd happen here"]


@pytest.fixture(autouse=True)
def ship_no_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where headprobe is installed: nnsight sends along the source of modules that are not."""
    monkeypatch.setattr(nnsight.ndif, "pull_env", lambda: None)


def checkpoint(family: str, folder: Path) -> str:
    make_module(family).save_pretrained(folder)
    make_tokenizer(cls=family == "bert").save_pretrained(folder)
    return str(folder)


def same(remote: Model, local: Model, **options: Any) -> None:
    ours: Any = headprobe.HeadTracer(remote).capture(TEXTS, progress=False, **options)
    theirs: Any = headprobe.HeadTracer(local).capture(TEXTS, progress=False, **options)
    several = isinstance(ours, dict)
    for one, other in zip(*(acts.values() if several else [acts] for acts in (ours, theirs)), strict=True):
        assert close(one.values, other.values)
        assert one.read.equals(other.read)
        if one.answer_logits is not None:
            torch.testing.assert_close(one.answer_logits, other.answer_logits)
        if one.resid_post is not None:
            assert close(one.resid_post, other.resid_post)


@pytest.mark.parametrize("family", ["gpt2", "llama", "bert"])
def test_a_rehearsal_gives_what_the_model_gives_here(family: str, tmp_path: Path) -> None:
    folder = checkpoint(family, tmp_path)
    remote, local = headprobe.load(folder, remote="local"), headprobe.load(folder)
    assert all(weight.is_meta for weight in remote.module.parameters())
    assert remote.heads == local.heads
    same(remote, local)
    same(remote, local, prompts={"a": "{text} a", "what": "what {text}"}, heads=["L1H1", "L0H0"])
    same(remote, local, positions={"each": every().each(), "mean": every().mean(), "end": last()}, resid_post=True)
    if family != "bert":
        same(remote, local, answers=["what", "odd"])


class Server:
    """Stands in for NDIF: runs what arrives on its own model, in which no module of headprobe's caller takes part."""

    def __init__(self, folder: str, task: str = "text-generation") -> None:
        self.model = TransformersModel(folder, task=task, tokenizer=make_tokenizer(), dispatch=True)
        self.requests: list[tuple[str, str, str]] = []
        self.sizes: list[int] = []
        self.error = ""

    def answer(self, backend: RemoteBackend, request: RequestModel, tracer: Any) -> dict[str, Any]:
        self.requests.append((backend.host, backend.api_key, request.model_key))
        blob = backend._serialize(tracer)
        self.sizes.append(len(blob))
        if self.error:
            raise RemoteError(self.error)
        objects = self.model._remoteable_persistent_objects()
        arrived = RequestModel.deserialize(blob, objects, request.compress)
        tracing.inc()
        try:
            arrived.execute(arrived.info.code)
            result = dict(arrived.info.frame.f_locals)
            kept = {name: value for name, value in result.items() if id(value) in tracing._saves()}
        finally:
            tracing.dec()
        file = io.BytesIO()
        torch.save(kept, file)
        file.seek(0)
        return torch.load(file, weights_only=False)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    folder = checkpoint("llama", tmp_path / "llama")
    made = Server(folder)
    monkeypatch.setattr(CONFIG.API, "APIKEY", "a key")
    monkeypatch.setitem(huggingface._ID_CACHE, folder, "someone/llama")
    monkeypatch.setattr(RemoteBackend, "request", lambda self, request, tracer: made.answer(self, request, tracer))
    return made


def test_with_a_key_the_server_is_asked(server: Server, tmp_path: Path) -> None:
    folder = str(tmp_path / "llama")
    local, remote = headprobe.load(folder), headprobe.load(folder, remote=True)
    same(remote, local, prompts={"a": "{text} a", "what": "what {text}"}, answers=["what"], batch_size=1)
    assert len(server.requests) == 4  # two texts one by one, under two prompts
    host, key, model_key = server.requests[0]
    assert (host, key) == (CONFIG.API.HOST, "a key")
    assert model_key.endswith('{"repo_id": "someone/llama", "revision": null, "task": "text-generation"}')
    assert max(server.sizes) < 20_000
    elsewhere = headprobe.load(folder, remote="https://ndif.example")
    headprobe.HeadTracer(elsewhere).capture(TEXTS, progress=False)
    assert server.requests[-1][0] == "https://ndif.example"
    made = headprobe.HeadTracer(remote).provenance({"": ""})
    assert made.weights_hash == f"{folder}@main, on NDIF"


def test_only_reading_is_done_there(server: Server, tmp_path: Path) -> None:
    remote = headprobe.load(str(tmp_path / "llama"), remote=True)
    tracer = headprobe.HeadTracer(remote)
    with pytest.raises(UnsupportedModelError, match="only captures"):
        tracer.generate(TEXTS, max_new_tokens=2, progress=False)
    with pytest.raises(UnsupportedModelError, match="only captures"):
        remote.module(input_ids=torch.tensor([[5, 6]]))
    with zero(remote, ["L0H0"]), pytest.raises(UnsupportedModelError, match="no edits"):
        tracer.capture(TEXTS, progress=False)
    assert server.requests == []


def test_what_the_server_says_is_told(server: Server, tmp_path: Path) -> None:
    remote = headprobe.load(str(tmp_path / "llama"), remote=True)
    server.error = "the model is not running"
    with pytest.raises(HeadprobeError, match="could not be run on the server: the model is not running"):
        headprobe.HeadTracer(remote).capture(TEXTS, progress=False)


def test_without_a_key_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CONFIG.API, "APIKEY", None)
    with pytest.raises(InputError, match=r"needs a key: .*set the variable NDIF_API_KEY") as caught:
        headprobe.load("meta-llama/Llama-3.1-8B", remote=True)
    assert "'meta-llama/Llama-3.1-8B'" in str(caught.value)


def test_what_cannot_run_there_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CONFIG.API, "APIKEY", "a key")
    with pytest.raises(InputError, match="'tiny' is only here"):
        headprobe.load("tiny", remote=True)
    with pytest.raises(InputError, match="GPT2LMHeadModel is only here"):
        headprobe.load(make_module("gpt2"), remote=True)
    with pytest.raises(InputError, match="device and dtype cannot be chosen"):
        headprobe.load("gpt2", remote=True, device="cpu", dtype="float16")
    with pytest.raises(InputError, match=r"configuration of .* cannot be loaded"):
        headprobe.load(str(tmp_path / "nowhere"), remote=True)
    make_module("qwen2_vl").save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match=r"is for text models; .* is a qwen2_vl"):
        headprobe.load(str(tmp_path), remote=True)
