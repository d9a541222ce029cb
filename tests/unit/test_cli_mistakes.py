"""Every command, found in the application, with what is missing, empty or misspelt: one answer, and nothing begun."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

import headprobe.extraction.extract  # where the model would be loaded, before it is refused there
import headprobe.headhunt._fitting  # noqa: F401
from headprobe.cli._run import run as work
from headprobe.cli.app import app
from headprobe.video.decode import write_video

# What a parameter of this name makes or describes, rather than reads.
MADE = ("out", "figure", "store")
WORDS = ("Errno", "Traceback", "None", "object at 0x", "<class", "Path(", "InputError", "[OPTIONS]")


def commands(group=None, path: tuple[str, ...] = ()):
    """The names of every command, with its parameters."""
    for name, one in (group or typer.main.get_command(app)).commands.items():
        if hasattr(one, "commands"):
            yield from commands(one, (*path, name))
        else:
            yield (*path, name), one.params


ALL = {" ".join(path): params for path, params in commands()}


def is_read(one) -> bool:
    """Whether a parameter names a file or a folder that must be there."""
    text = (getattr(one, "help", None) or "").lower()
    told = not getattr(one, "is_flag", False) and one.name not in (*MADE, "store_dtype")
    return told and bool(re.search(r"folder|file|store|camera|table|csv|annotation", text))


def given(params, here: Path, wrong: str, value: Path) -> list[str]:
    """Arguments with one of them wrong, the others of the right kind as far as a command asks for them."""
    good = {
        "model": "tiny",
        "dataset": {"annotations": "ucf-crime", "table": "table"}.get(wrong, "folder"),
        "prompts": here / "prompts.txt",
        "detector": here / "detector",
        "videos": here / "good" / "Normal" / "a.mp4",
        "source": here / "good" / "Normal" / "a.mp4",
        "sources": here / "good" / "Normal" / "a.mp4",
        "root": here / "good",
        "out": here / "made" / "out",
        "scores": here / "scores.json",
        "ground_truth": here / "good",
    }
    positional, options = [], []
    for one in params:
        if one.name != wrong and not one.required and one.name != "out":
            continue
        text = str(value if one.name == wrong else good.get(one.name, value))
        if one.param_type_name == "argument":
            positional.append(text)
        elif not getattr(one, "is_flag", False):
            options += [one.opts[0], text]
    return positional + options


@pytest.fixture
def here(tmp_path, demo_run, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("Normal", "Fights"):
        (tmp_path / "good" / name).mkdir(parents=True)
        frames = np.random.default_rng(0).integers(0, 255, (32, 48, 64, 3), dtype=np.uint8)
        write_video(tmp_path / "good" / name / "a.mp4", frames, fps=10)
    (tmp_path / "empty").mkdir()
    (tmp_path / "prompts.txt").write_text("is something wrong ?\n")
    (tmp_path / "scores.json").write_text(json.dumps({"Normal/a": 0.1, "Fights/a": 0.7}))
    (tmp_path / "detector").symlink_to(demo_run.folder / "detector")
    return tmp_path


@pytest.fixture
def nothing_is_loaded(monkeypatch) -> None:
    def never(*_args, **_kwargs):
        raise AssertionError("a model was loaded before the inputs were known to exist")

    for place in ("models.loading", "extraction.extract", "headhunt._fitting"):
        monkeypatch.setattr(f"headprobe.{place}.load", never)


def refused(arguments: list[str], here: Path) -> str:
    before = sorted(here.rglob("*"))
    done = CliRunner().invoke(app, arguments, terminal_width=80)
    told = done.output.strip()
    assert done.exit_code == 2, (arguments, done.output, done.exception)
    assert 1 <= len(told.splitlines()) <= 2, told
    assert not [word for word in WORDS if word in told], told
    assert sorted(here.rglob("*")) == before, "something was made"
    return told


@pytest.mark.parametrize("command", ALL)
def test_a_wrong_option(command, here) -> None:
    told = refused([*command.split(), "--no-such-option"], here)
    assert "--no-such-option" in told
    assert f"headprobe {command} -h" in told


READ = [(command, one.name) for command, params in ALL.items() for one in params if is_read(one)]


def test_the_walk_sees_what_commands_read() -> None:
    assert {"detect", "fit", "extract", "watch", "score", "report", "evaluate", "probe", "inspect", "data check"} <= {
        command for command, _ in READ
    }
    assert {command for command in ALL if command not in dict(READ)} == {"demo", "models"}


@pytest.mark.usefixtures("nothing_is_loaded")
@pytest.mark.parametrize(("command", "wrong"), [pair for pair in READ if pair[1] not in ("model", "controls")])
def test_a_missing_file_and_an_empty_folder(command, wrong, here) -> None:
    refused([*command.split(), *given(ALL[command], here, wrong, here / "none" / "there.mp4")], here)
    refused([*command.split(), *given(ALL[command], here, wrong, here / "empty")], here)


@pytest.mark.parametrize("command", [command for command, name in READ if name == "model"])
def test_a_missing_model(command, here) -> None:
    arguments = given(ALL[command], here, "model", here / "none" / "model")
    refused([*command.split(), *arguments], here)


@pytest.mark.parametrize("command", ["", *ALL])
def test_help_is_short_and_long_and_flags_have_no_type(command) -> None:
    short, long = (CliRunner().invoke(app, [*command.split(), flag]) for flag in ("-h", "--help"))
    assert (short.exit_code, long.exit_code) == (0, 0)
    assert short.output == long.output
    assert "<bool>" not in short.output
    assert "BOOLEAN" not in short.output


def test_the_demo_is_first_and_a_shell_can_complete() -> None:
    shown = CliRunner().invoke(app, ["-h"]).output
    assert re.findall(r"^│ (\w+) ", shown.split("Commands")[1], flags=re.M)[0] == "demo"
    assert "--install-completion" in shown


def test_json_means_one_thing() -> None:
    for command, params in ALL.items():
        for one in params:
            if "--json" in one.opts:
                assert (one.is_flag, one.help) == (True, "Print JSON instead of text."), command


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            FileNotFoundError(2, "No such file or directory", "a.csv"),
            "There is no file or folder a.csv; check the name.",
        ),
        (PermissionError(13, "Permission denied", "a.csv"), "a.csv may not be read or written by you"),
        (IsADirectoryError(21, "Is a directory", "a"), "a is a folder; name a file."),
        (NotADirectoryError(20, "Not a directory", "a/b"), "a/b is a file, or lies in one; name a folder."),
        (OSError(28, "No space left on device", "z"), "z: no space left on device; free or name another place."),
        (OSError("the pipe is gone"), "the pipe is gone"),
    ],
)
def test_what_the_system_refuses_is_a_sentence(error, text, capsys) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(typer.Exit) as caught:
        work(fail)
    assert caught.value.exit_code == 2
    told = capsys.readouterr().err
    assert told.startswith(f"headprobe: {text}")
    assert "Errno" not in told
