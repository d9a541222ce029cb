from __future__ import annotations

import json
import sys
import types

import pytest
import torch
import transformers
from equality import close, same_bits
from safetensors.torch import load_file, save_file
from tiny_models import (
    FAMILIES,
    PACKING,
    TEXTS,
    VOCAB_SIZE,
    contents,
    make_clips,
    make_model,
    make_module,
    make_tokenizer,
)

import headprobe
from headprobe import HeadSite, HeadTracer
from headprobe.errors import InputError, OutOfMemoryError, SiteError, UnsupportedModelError
from headprobe.models import loading as checkpoint
from headprobe.models.loading import _best_device, never_trained


def save(family: str, folder, **changes):
    module = make_module(family, **changes)
    module.save_pretrained(folder)
    make_tokenizer(chat=family == "qwen2_vl", cls=family == "bert").save_pretrained(folder)
    if family == "qwen2_vl":
        (folder / "preprocessor_config.json").write_text(json.dumps(PACKING))
    return module


def values(model, family):
    return HeadTracer(model).capture(contents(family), progress=False).values


def generic(name: str, **sizes) -> torch.nn.Module:
    common = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 3,
    }
    torch.manual_seed(0)
    return transformers.AutoModel.from_config(getattr(transformers, name)(**{**common, **sizes})).eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_folder_gives_what_the_module_gave(family, tmp_path):
    save(family, tmp_path)
    loaded = headprobe.load(tmp_path)
    original = make_model(family)
    assert loaded.name == str(tmp_path)
    assert close(values(loaded, family), values(original, family))
    assert loaded.weights_hash == original.weights_hash
    assert loaded.processor_hash == original.processor_hash


def test_a_model_knows_itself():
    model = make_model("llama")
    assert model.n_layers == 3
    assert len(model.heads) == 12
    assert model.heads.labels[:2] == ("L0H0", "L0H1")
    assert (model.device.type, model.dtype) == ("cpu", torch.float32)
    assert repr(model) == ("Model('LlamaForCausalLM', llama, 3 layers with heads, 12 heads, float32 on cpu)")


def test_weights_in_half_precision_can_be_loaded_in_float32(tmp_path):
    save("llama", tmp_path).half().save_pretrained(tmp_path)
    assert headprobe.load(tmp_path).dtype == torch.float16
    model = headprobe.load(tmp_path, dtype="float32")
    assert model.dtype == torch.float32
    assert {parameter.dtype for parameter in model.module.parameters()} == {torch.float32}


@pytest.mark.parametrize("dtype", ["int8", "nothing", 3])
def test_a_bad_dtype_is_refused(dtype):
    with pytest.raises(InputError, match="give a floating point type such as 'float32'"):
        headprobe.load(make_module("gpt2"), tokenizer=make_tokenizer(), dtype=dtype)


def test_the_hash_follows_the_weights():
    a, b = make_model("gpt2"), make_model("gpt2")
    assert a.weights_hash == b.weights_hash != make_model("gpt2", seed=1).weights_hash
    assert len(a.weights_hash) == 16
    with torch.no_grad():
        b.module.transformer.h[0].attn.c_proj.weight[0, 0] += 1
    assert a.weights_hash != b.weights_hash


def test_the_processor_hash_follows_tokenizer_template_and_packing():
    def model(template=None, **packing):
        tokenizer = make_tokenizer(chat=True)
        tokenizer.chat_template = template or tokenizer.chat_template
        return headprobe.load(make_module("qwen2_vl"), tokenizer=tokenizer, processor_config=PACKING | packing)

    base = model().processor_hash
    assert model().processor_hash == base
    assert model(image_mean=[0.5, 0.5, 0.5]).processor_hash != base
    assert model(template="{{ messages }}").processor_hash != base
    assert make_model("bert").processor_hash != make_model("gpt2").processor_hash


def test_a_module_needs_a_tokenizer_and_a_configuration():
    with pytest.raises(InputError, match="pass tokenizer="):
        headprobe.load(make_module("gpt2"))
    with pytest.raises(InputError, match="The tokenizer is a Tokenizer; give a transformers tokenizer"):
        headprobe.load(make_module("gpt2"), tokenizer=make_tokenizer().backend_tokenizer)
    with pytest.raises(UnsupportedModelError, match="Linear has no transformers configuration"):
        headprobe.load(torch.nn.Linear(2, 2), tokenizer=make_tokenizer())


def test_a_video_module_needs_its_packing():
    model = headprobe.load(make_module("qwen2_vl"), tokenizer=make_tokenizer(chat=True))
    with pytest.raises(InputError, match="has no preprocessor configuration; pass processor_config="):
        HeadTracer(model).capture(make_clips(1), progress=False)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_module_is_unwrapped():
    module = make_module("gpt2")
    compiled = torch.compile(module)
    model = headprobe.load(compiled, tokenizer=make_tokenizer())
    assert model.module is module
    assert close(values(model, "gpt2"), values(make_model("gpt2"), "gpt2"))


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(InputError, match=r"There is no folder '.*nowhere'"):
        headprobe.load(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"has no config\.json; give a folder that save_pretrained wrote"):
        headprobe.load(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is a file; give the folder"):
        headprobe.load(tmp_path / "file")


def test_an_unknown_name_is_a_clear_error():
    with pytest.raises(InputError, match=r"configuration of 'no-such-model-here' cannot be loaded .*Give 'tiny'"):
        headprobe.load("no-such-model-here")


def test_an_incomplete_folder_says_which_part_is_missing(tmp_path):
    save("gpt2", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"The model of .* cannot be loaded"):
        headprobe.load(tmp_path)


def test_damaged_weights_are_named(tmp_path):
    save("gpt2", tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"The model of .* cannot be loaded"):
        headprobe.load(tmp_path)


def test_missing_weights_are_not_made_up(tmp_path):
    save("llama", tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state["model.layers.1.self_attn.o_proj.weight"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"lacks 1 weights of LlamaForCausalLM .*layers\.1\.self_attn\.o_proj"):
        headprobe.load(tmp_path)


def test_an_encoder_saved_with_another_head_needs_no_pooler(tmp_path):
    transformers.BertForMaskedLM(make_module("bert").config).save_pretrained(tmp_path)
    make_tokenizer(cls=True).save_pretrained(tmp_path)
    assert len(headprobe.load(tmp_path).heads) == 12


def test_a_folder_without_tokenizer_says_so(tmp_path):
    make_module("gpt2").save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"The tokenizer of .* cannot be loaded"):
        headprobe.load(tmp_path)


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    save("gpt2", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["model_type"] = "homemade"
    config["auto_map"] = {"AutoConfig": "homemade.Config"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "homemade.py").write_text("raise SystemExit('this code must not run')")
    with pytest.raises(InputError, match="cannot be loaded"):
        headprobe.load(tmp_path)


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
@pytest.mark.parametrize(
    "kernel", ["kernels-community/flash-attn2", "someone/kernel@main:fn", "flash_attention_2", {"": "someone/kernel"}]
)
def test_a_checkpoint_that_asks_for_a_kernel_of_the_hub_is_refused_before_anything_is_fetched(
    key, kernel, tmp_path, monkeypatch
):
    save("llama", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {key: kernel}))
    fetched = []
    kernels = types.ModuleType("kernels")  # as if the package were installed: transformers would fetch
    kernels.__getattr__ = lambda name: fetched.append(name)
    monkeypatch.setitem(sys.modules, "kernels", kernels)
    with pytest.raises(InputError, match=r"names the attention implementation '.*', which is not built into"):
        headprobe.load(tmp_path)
    assert not fetched
    for built_in in ("eager", "sdpa"):
        (tmp_path / "config.json").write_text(json.dumps(config | {key: built_in}))
        assert headprobe.load(tmp_path).config._attn_implementation == built_in


def test_a_kernel_named_for_a_part_of_the_model_is_refused_by_its_place(tmp_path):
    save("qwen2_vl", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["attn_implementation"] = {"text_config": "someone/kernel"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"config\.json of '.*' \(text_config\) names .* 'someone/kernel'"):
        headprobe.load(tmp_path)
    assert headprobe.inspect_model(tmp_path).n_layers == 3  # builds with plain attention, whatever is asked for


def test_the_packing_is_read_from_the_folder_in_the_order_of_transformers(tmp_path):
    save("qwen2_vl", tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    assert headprobe.load(tmp_path).processor_config is None

    def with_mean(mean):
        return PACKING | {"image_mean": [mean] * 3}

    def read():
        return headprobe.load(tmp_path).processor_config["image_mean"][0]

    def write(name, data):
        (tmp_path / name).write_text(json.dumps(data))

    write("processor_config.json", {"image_processor": with_mean(0.1)})
    assert read() == 0.1
    write("preprocessor_config.json", with_mean(0.2))
    assert read() == 0.2
    write("video_preprocessor_config.json", with_mean(0.3))
    assert read() == 0.3
    both = {"image_processor": with_mean(0.1), "video_processor": with_mean(0.4)}
    write("processor_config.json", both | {"processor_class": "X", "use_columns": True})
    assert read() == 0.4
    assert headprobe.load(tmp_path).processor_config["processor"] == {"use_columns": True}


def test_tampered_heads_are_refused_at_load():
    sites = [HeadSite(i, f"transformer.h.{i}.attn.c_proj", 8, 4) for i in range(3)]
    with pytest.raises(SiteError, match="n_heads is 8, but the attention module says 4"):
        headprobe.load(make_module("gpt2"), tokenizer=make_tokenizer(), sites=sites)


@pytest.mark.parametrize(
    ("name", "sizes", "adapter"),
    [
        ("ArceeConfig", {"num_key_value_heads": 2}, "text-decoder"),
        ("SeedOssConfig", {"num_key_value_heads": 2, "head_dim": 16}, "text-decoder"),
        ("BioGptConfig", {}, "text-decoder"),
        ("Data2VecTextConfig", {}, "text-encoder"),
        ("ErnieConfig", {}, "text-encoder"),
    ],
)
def test_a_family_without_adapter_is_fed_as_its_structure_says(name, sizes, adapter):
    cls = adapter == "text-encoder"
    model = headprobe.load(generic(name, **sizes), tokenizer=make_tokenizer(cls=cls))
    assert model.adapter.name == adapter
    tracer = HeadTracer(model)
    together = tracer.capture(TEXTS, progress=False).values
    alone = torch.cat([tracer.capture([text], progress=False).values for text in TEXTS], 1)
    assert (together - alone).abs().max() < 1e-5 * alone.abs().max()


def test_a_family_that_computes_with_padding_is_refused():
    """An encoder fed as a decoder: what is read at the end of a padded row differs."""

    class Careless(transformers.ArceeModel):
        def forward(self, input_ids=None, attention_mask=None, position_ids=None, **options):
            return super().forward(input_ids=input_ids, **options)

    module = generic("ArceeConfig", num_key_value_heads=2)
    module.__class__ = Careless
    with pytest.raises(UnsupportedModelError, match=r"'arcee' gives other outputs for a batch padded on the left"):
        headprobe.load(module, tokenizer=make_tokenizer())


SMALL = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "decoder_start_token_id": 2,
}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 2}


@pytest.mark.parametrize(
    ("name", "sizes"),
    [(name, SMALL) for name in ("Bart", "MBart", "Marian", "Pegasus", "M2M100", "Blenderbot", "PLBart")]
    + [(name, T5) for name in ("T5", "MT5", "UMT5")],
)
def test_the_encoder_of_an_encoder_decoder_loads_as_the_error_says(name, sizes):
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(
        vocab_size=VOCAB_SIZE, max_position_embeddings=64, pad_token_id=0, bos_token_id=2, eos_token_id=3, **sizes
    )
    module = transformers.AutoModel.from_config(config).eval()
    with pytest.raises(UnsupportedModelError, match=r"Load the encoder with headprobe.load\(model.get_encoder\(\)"):
        headprobe.load(module, tokenizer=make_tokenizer())
    with pytest.raises(UnsupportedModelError, match="several attention modules"):
        headprobe.load(module.get_decoder(), tokenizer=make_tokenizer())
    model = headprobe.load(module.get_encoder(), tokenizer=make_tokenizer(cls=True))
    assert (len(model.heads), model.adapter.padding_side) == (8, "right")
    seen = {}
    for site in model.sites:
        model.module.get_submodule(site.path).register_forward_pre_hook(
            lambda _, args, layer=site.layer: seen.__setitem__(layer, args[0].detach())
        )
    z = HeadTracer(model).capture(TEXTS[:1], progress=False).z[0, 0]
    for layer, value in seen.items():
        assert same_bits(z[layer], value[0, -1].unflatten(-1, (4, 8)), of="one pass")
    assert sorted(seen) == [0, 1]


def test_a_vision_model_without_adapter_is_told_so_and_not_to_bring_a_tokenizer(tmp_path):
    vision = transformers.IJepaModel(
        transformers.IJepaConfig(
            hidden_size=32,
            num_attention_heads=4,
            num_hidden_layers=1,
            intermediate_size=32,
            image_size=16,
            patch_size=8,
        )
    )
    with pytest.raises(UnsupportedModelError, match="no adapter for model type 'ijepa'; `headprobe models` lists"):
        headprobe.load(vision, tokenizer=make_tokenizer())
    with pytest.raises(UnsupportedModelError, match=r"'ijepa' takes pictures and has no adapter.*VisionTowerAdapter\("):
        headprobe.load(vision)
    vision.save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match=r"'ijepa' takes pictures and has no adapter"):
        headprobe.load(tmp_path)


def test_an_unknown_structure_is_refused_by_its_model_type_with_what_to_do():
    module = transformers.XLNetModel(
        transformers.XLNetConfig(vocab_size=VOCAB_SIZE, d_model=32, n_layer=2, n_head=4, d_inner=32)
    )
    with pytest.raises(UnsupportedModelError, match=r"'xlnet' has no softmax .*: XLNetRelativeAttention is of"):
        headprobe.load(module, tokenizer=make_tokenizer())
    mamba = transformers.MambaModel(
        transformers.MambaConfig(vocab_size=VOCAB_SIZE, hidden_size=32, num_hidden_layers=1)
    )
    with pytest.raises(UnsupportedModelError, match=r"'mamba' .* state spaces, recurrences and convolutions have no"):
        headprobe.load(mamba, tokenizer=make_tokenizer())


def test_heads_can_be_described_by_hand():
    config = transformers.OpenAIGPTConfig(vocab_size=VOCAB_SIZE, n_embd=32, n_layer=2, n_head=4, n_positions=64)
    module = transformers.OpenAIGPTModel(config).eval()
    for block in module.h:  # says, as its family's newer relatives do, that it attends to the left
        block.attn.is_causal = True
    sites = [HeadSite(i, f"h.{i}.attn.c_proj", 4, 8) for i in range(2)]
    model = headprobe.load(module, tokenizer=make_tokenizer(), sites=sites)
    assert HeadTracer(model).capture(TEXTS, progress=False).z.shape == (1, 4, 2, 4, 8)


@pytest.fixture
def embedded(tmp_path, monkeypatch):
    """A stand-in for the embedded model's module, with the two functions that loading calls."""
    save("qwen2_vl", tmp_path).half().save_pretrained(tmp_path)
    tiny = types.ModuleType("headprobe.models.tiny")
    tiny.folder = lambda: tmp_path
    tiny.untrained = lambda seed: make_module("qwen2_vl", seed=100 + seed)
    monkeypatch.setitem(sys.modules, "headprobe.models.tiny", tiny)
    monkeypatch.setattr("headprobe.models.tiny", tiny, raising=False)


def test_the_embedded_model_is_loaded_in_float32(embedded):
    model = headprobe.load("tiny")
    assert (model.name, model.dtype) == ("tiny", torch.float32)
    assert HeadTracer(model).capture(make_clips(2), progress=False).z.shape == (1, 2, 3, 4, 8)


def test_the_untrained_control_depends_on_its_seed_only(embedded):
    zero, again, one = (headprobe.load("tiny-untrained", seed=seed) for seed in (0, 0, 1))
    assert zero.weights_hash == again.weights_hash != one.weights_hash
    assert zero.processor_hash == headprobe.load("tiny").processor_hash
    assert one.name == "tiny-untrained-1"


@pytest.mark.parametrize("name", ["chat_template.jinja", "chat_template.json", "processor_config.json"])
def test_the_template_beside_the_processor_wins_over_the_tokenizers(name, tmp_path):
    save("qwen2_vl", tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    text = "{{ 'the processor has its own' }}"
    (tmp_path / name).write_text(text if name.endswith("jinja") else json.dumps({"chat_template": text}))
    assert headprobe.load(tmp_path).tokenizer.chat_template == text


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"model_type": "internvl_chat", "architectures": ["InternVLChatModel"]}, "OpenGVLab/InternVL3-8B-hf"),
        ({"model_type": "llava", "architectures": ["LlavaLlamaForCausalLM"]}, "llava-hf/LLaVA-NeXT-Video-7B-hf"),
        ({"model_type": "llava_qwen"}, "llava-hf/llava-onevision-qwen2-7b-ov-hf"),
        ({"model_type": "videollama3_qwen2"}, "lkhl/VideoLLaMA3-2B-Image-HF"),
        ({"model_type": "chatglm", "architectures": ["ChatGLMModel"]}, "zai-org/glm-4-9b-chat-hf"),
        (None, "meta-llama/Llama-2-7b-hf"),
    ],
)
def test_the_authors_layout_is_refused_with_the_name_of_one_that_works(tmp_path, config, text) -> None:
    name = "params.json" if config is None else "config.json"
    (tmp_path / name).write_text(
        json.dumps({"dim": 8} if config is None else config | {"auto_map": {"AutoModel": "x.y"}})
    )
    with pytest.raises(UnsupportedModelError, match=f"layout.*{text}"):
        headprobe.load(tmp_path)


@pytest.mark.parametrize(
    ("source", "architecture", "name"),
    [
        ("OpenGVLab/InternVL3-8B", "InternVLChatModel", "OpenGVLab/InternVL3-8B-hf"),
        ("OpenGVLab/InternVL3_5-8B", "InternVLChatModel", "OpenGVLab/InternVL3_5-8B-HF"),
        ("DAMO-NLP-SG/VideoLLaMA3-7B", "Videollama3Qwen2ForCausalLM", "lkhl/VideoLLaMA3-7B-Image-HF"),
        ("LanguageBind/Video-LLaVA-7B", "LlavaLlamaForCausalLM", "LanguageBind/Video-LLaVA-7B-hf"),
        ("liuhaotian/llava-v1.5-7b", "LlavaLlamaForCausalLM", "llava-hf/llava-1.5-7b-hf"),
    ],
)
def test_a_name_of_the_hub_in_the_authors_layout_leads_to_the_other(
    tmp_path, monkeypatch, source, architecture, name
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": [architecture]}))
    monkeypatch.setattr(checkpoint, "_find_file", lambda *_: tmp_path / "config.json")
    with pytest.raises(UnsupportedModelError, match=f"for this one by its name '{name}'"):
        headprobe.load(source)


def test_weights_that_do_not_fit_are_an_error_of_ours(monkeypatch) -> None:
    def full(*_args, **_kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    model = headprobe.load("tiny")
    monkeypatch.setattr(torch.nn.Module, "to", full)
    with pytest.raises(OutOfMemoryError, match=r"cpu does not suffice for the weights of tiny: .* 20\.00 GiB"):
        headprobe.load("tiny", device="cpu")
    with pytest.raises(OutOfMemoryError, match=r"the weights of a never-trained copy of tiny: .* 20\.00 GiB"):
        never_trained(model)


def test_the_device_is_picked_and_attention_is_chosen(caplog, monkeypatch) -> None:
    with caplog.at_level("INFO", logger="headprobe"):
        model = headprobe.load("tiny", device="auto", attention="eager")
    assert model.config._attn_implementation == "eager"
    assert model.device.type == _best_device().type
    assert "attention eager, 48 heads" in caplog.text
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert _best_device() == torch.device("cuda")
    with pytest.raises(InputError, match="'none of these', which is not built into transformers"):
        headprobe.load("tiny", attention="none of these")
