"""Where the heads of a configuration are, without weights, as Python and on the command line."""

from __future__ import annotations

import json
import time

import pytest
import torch
import transformers
from architectures import CASES, build
from equality import same_bits
from tiny_models import make_module, make_tokenizer
from typer.testing import CliRunner

import headprobe
from headprobe import inspect_model
from headprobe.cli.app import app
from headprobe.errors import InputError, UnsupportedModelError
from headprobe.models.adapter import families
from headprobe.models.inspection import TESTED, _configuration, _layer_ranges


def run(*arguments: str, width: int = 120):
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": str(width), "TERM": "dumb"})


@pytest.fixture
def config(tmp_path):
    """Writes a configuration and returns its file."""

    def write(values, name: str = "config.json") -> str:
        path = tmp_path / name
        text = values if isinstance(values, str) else json.dumps(values)
        path.write_text(text)
        return str(path)

    return write


def large() -> dict:
    text = {
        "hidden_size": 8192,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "intermediate_size": 29568,
    }
    return transformers.Qwen2_5_VLConfig(text_config=text).to_dict()


@pytest.mark.parametrize("family", ["llama", "bert", "qwen2_vl"])
def test_sites_are_those_of_the_loaded_model(family, tmp_path):
    module = make_module(family)
    module.config.save_pretrained(tmp_path)  # no weights, no tokenizer
    model = headprobe.load(module, tokenizer=make_tokenizer(chat=family == "qwen2_vl"))
    found = inspect_model(tmp_path)
    assert found.sites == model.sites
    assert found.adapter == model.adapter.name
    assert found.d_model == 32
    assert (found.n_layers, found.generic, found.quantised) == (3, False, None)
    assert inspect_model(tmp_path / "config.json").groups == found.groups


@pytest.mark.parametrize("name", ["qwen3_5", "gemma4", "lfm3", "mllama", "glm5_next"])
def test_groups_hold_the_layers_whose_heads_are_alike(name, config):
    module = build(name)
    module.config.architectures = [type(module).__name__]
    found = inspect_model(config(module.config.to_dict()))
    assert found.sites == headprobe.discover(module, kinds="all")
    assert len(found.groups) == len(CASES[name][2])
    assert sum(len(group.layers) * group.n_heads for group in found.groups) == sum(s.n_heads for s in found.sites)
    assert found.count("softmax") == sum(site.n_heads for site in headprobe.discover(module))


def test_a_large_model_takes_seconds_and_no_memory(config):
    start = time.perf_counter()
    found = inspect_model(config(large()))
    assert time.perf_counter() - start < 10
    assert found.count("softmax") == 80 * 64
    assert (found.d_model, found.adapter, found.stack) == (8192, "qwen2_5_vl", "model.language_model.layers")


def test_inspecting_leaves_the_default_device_and_the_generator_alone(config):
    path = config(make_module("llama").config.to_dict())
    torch.manual_seed(3)
    expected = torch.randn(2)
    torch.manual_seed(3)
    inspect_model(path)
    assert same_bits(torch.randn(2), expected, of="draws of one seed")


def test_what_has_no_adapter_says_what_would_help(config):
    vit = transformers.IJepaConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=8)
    found = inspect_model(config(vit.to_dict()))
    assert found.adapter is None
    assert "no adapter for model type 'ijepa'" in found.no_adapter
    arcee = transformers.ArceeConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=8)
    found = inspect_model(config(arcee.to_dict()))
    assert (found.adapter, found.generic, found.no_adapter) == ("text-decoder", True, "")


def test_a_quantised_checkpoint_is_said_to_be_one(config):
    values = make_module("llama").config.to_dict()
    values["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    path = config(values)
    assert inspect_model(path).quantised == "bitsandbytes"
    assert "quantised (bitsandbytes)" in run("inspect", path).output


REFUSED = [
    ({"model_type": "homemade", "auto_map": {"AutoModel": "x.y"}}, UnsupportedModelError, "runs no code of a"),
    ({"model_type": "internvl_chat", "auto_map": {"AutoModel": "x.y"}}, UnsupportedModelError, "InternVL3-8B-hf'"),
    ({"model_type": "gpt9"}, UnsupportedModelError, "does not know the model type 'gpt9'; a newer release may"),
    ({"model_type": "t5"}, UnsupportedModelError, "'t5' is an encoder-decoder"),
    ({"model_type": "clip"}, UnsupportedModelError, "'clip' is a pair of encoders"),
    ({"model_type": "mamba", "num_hidden_layers": 1}, UnsupportedModelError, "'mamba' has no softmax attention"),
    ({"hidden_size": 8}, InputError, "names no model_type"),
    ("{", InputError, "cannot be read as JSON"),
    ("[1]", InputError, "holds a list instead of a configuration"),
    ({"model_type": "llama", "hidden_size": 30, "num_attention_heads": 4}, InputError, "not a multiple of the number"),
    ({"model_type": "llama", "num_hidden_layers": "many"}, InputError, "cannot be made: .*num_hidden_layers"),
]


@pytest.mark.parametrize(("values", "error", "text"), REFUSED, ids=[str(i) for i in range(len(REFUSED))])
def test_why_not_is_said_precisely_and_with_exit_code_2(values, error, text, config):
    path = config(values)
    with pytest.raises(error, match=text):
        inspect_model(path)
    result = run("inspect", path)
    assert result.exit_code == 2
    (line,) = result.output.splitlines()
    assert line.startswith("headprobe: ")


def test_what_is_not_there_is_refused(tmp_path):
    for source, text in [
        (tmp_path, "has no config.json"),
        (tmp_path / "none", "There is no folder or file"),
        ("none.json", "There is no folder or file"),
    ]:
        with pytest.raises(InputError, match=text):
            inspect_model(source)
    result = run("inspect", str(tmp_path / "none"))
    assert (result.exit_code, result.output.count("\n")) == (2, 1)


@pytest.mark.parametrize("width", [72, 80, 120])
def test_the_printed_table_fits_the_terminal(width, config):
    values = transformers.Qwen3_5Config().to_dict()
    output = run("inspect", config(values), width=width).output
    assert max(map(len, output.splitlines())) <= width
    (row,) = [line.split() for line in output.splitlines() if "self_attn.o_proj" in line]
    assert row == ["3-31", "by", "4", "self_attn.o_proj", "16", "256", "4", "softmax", "yes"]
    (row,) = [line.split() for line in output.splitlines() if "linear_attn.out_proj" in line]
    assert row[-6:] == ["linear_attn.out_proj", "32", "128", "-", "linear", "yes"]
    assert "read by default  128 softmax heads in layers 3-31 by 4\n" in output
    assert "read when named  768 linear heads\n" in output


def test_json_holds_every_site(config):
    result = run("inspect", "tiny", "--json")
    assert result.exit_code == 0
    record = json.loads(result.stdout)
    assert len(record["sites"]) == 6
    assert record["sites"][0]["path"] == "model.language_model.layers.0.self_attn.o_proj"
    assert record["n_heads"] == {"softmax": 48}
    assert record["default"] == {"kind": "softmax", "n_heads": 48}
    assert record == inspect_model("tiny").to_dict() | {"groups": record["groups"]}


@pytest.mark.parametrize("width", [80, 120])
def test_models_lists_every_family_once(width):
    result = run("models", width=width)
    assert result.exit_code == 0
    assert max(map(len, result.output.splitlines())) <= width
    words = result.output.replace(",", " ").split()
    assert [name for name in families() if name not in words] == []
    rows = json.loads(run("models", "--json").stdout)
    assert [row["model_type"] for row in rows] == list(families())
    assert {word for row in rows for word in row["verified"]} <= set(TESTED)
    assert {row["modality"] for row in rows} == {"text", "video", "image"}


@pytest.mark.parametrize(
    ("layers", "text"),
    [
        ([0], "0"),
        ([2, 3], "2-3"),
        ([1, 4], "1, 4"),
        ([0, 1, 2, 5, 6], "0-2, 5-6"),
        ([0, 2, 4], "0-4 by 2"),
        ([i for i in range(40) if i not in range(3, 40, 5)], "0-39 but 3-38 by 5"),
    ],
)
def test_layers_are_written_shortly(layers, text):
    assert _layer_ranges(layers) == text


@pytest.mark.parametrize("name", ["bamba", "falcon_h1"])
def test_numbers_that_json_does_not_have_are_read_as_transformers_writes_them(name, tmp_path):
    module = build(name)
    module.config.architectures = [type(module).__name__]
    module.config.save_pretrained(tmp_path)
    assert "Infinity" in (tmp_path / "config.json").read_text()
    for source in (tmp_path, tmp_path / "config.json"):
        assert inspect_model(source).sites == headprobe.discover(module, kinds="all")


def test_the_infinity_of_nemotron_h_is_read_too(tmp_path):
    transformers.NemotronHConfig().save_pretrained(tmp_path)
    assert _configuration(str(tmp_path)).time_step_limit[1] == float("inf")
