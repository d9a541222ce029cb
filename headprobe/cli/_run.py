"""How every command works and speaks: options, errors in one line, help, and no name that moves the cursor."""

from __future__ import annotations

import dataclasses
import functools
import glob
import inspect
import logging
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup

INCOMPLETE = "interrupted before the results were complete"
Sigma = Annotated[
    float | None,
    typer.Option(help="Smoothing of scores, in segments; by default the detector's locator.", show_default=False),
]
Tau = Annotated[
    float | None,
    typer.Option(
        help="Threshold on the smoothed score; by default the detector's locator. A detector fitted without one needs "
        "both.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
T = TypeVar("T")
# Wherever typer keeps it: newer releases have a click of their own.
_USAGE_ERROR: Any = typer.BadParameter.__mro__[1]
# What a terminal obeys rather than shows, what turns the direction of writing, and what is no character.
_UNSHOWN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_USER = re.compile(r"(?<=\w://)[^\s/]*@")


def printable(text: str) -> str:
    """Text for a terminal: control characters as escapes, addresses without passwords."""
    return _USER.sub("***@", _UNSHOWN.sub(lambda found: found[0].encode("unicode_escape").decode(), text))


def say(text: str, err: bool = False) -> None:
    """Print a line that is `printable`."""
    typer.echo(printable(text), err=err)


def _flags_without_type(parameters: list[Any]) -> list[Any]:
    """A flag takes no value, so the help names no type of one."""
    for one in parameters:
        if getattr(one, "is_flag", False):
            one.metavar = ""
    return parameters


class _Command(TyperCommand):
    def get_params(self, ctx: Any) -> list[Any]:
        return _flags_without_type(super().get_params(ctx))


class _Group(TyperGroup):
    def get_params(self, ctx: Any) -> list[Any]:
        return _flags_without_type(super().get_params(ctx))

    def list_commands(self, ctx: Any) -> list[str]:
        """The demo first: it is what can be run at once."""
        return sorted(super().list_commands(ctx), key=lambda name: name != "demo")

    def main(self, *args: Any, standalone_mode: bool = True, **more: Any) -> Any:
        """Wrong options in one line, like every other mistake."""
        try:
            code = super().main(*args, standalone_mode=False, **more)
        except typer.Abort:
            say("headprobe: interrupted", err=True)
            code = 130
        except _USAGE_ERROR as error:
            told: Any = error
            if "NoArgs" in type(error).__name__:
                told.show()
            else:
                where = " ".join(["headprobe", *(told.ctx.command_path.split()[1:] if told.ctx else ())])
                text = " ".join(told.format_message().split()).rstrip(".")
                say(f"headprobe: {text}; {where} -h lists the options.", err=True)
            code = 2
        if standalone_mode:
            sys.exit(code if isinstance(code, int) else 0)
        return code


class App(typer.Typer):
    """A group of commands that all answer to ``-h``, refuse in one line and list flags as flags."""

    def __init__(self, **more: Any) -> None:
        super().__init__(
            cls=_Group,
            no_args_is_help=True,
            pretty_exceptions_enable=False,
            rich_markup_mode="rich",
            context_settings={"help_option_names": ["-h", "--help"]},
            **more,
        )

    def command(self, name: str | None = None, **more: Any) -> Any:
        """Add a command."""
        given: dict[str, Any] = {"cls": _Command, **more}
        return super().command(name, **given)


def width(most: int = 120) -> int:
    """Columns of the terminal, or ``most`` where there is none."""
    return shutil.get_terminal_size((most, 40)).columns


def check_sources(sources: Iterable[str | os.PathLike[str]]) -> None:
    """Refuse files that are not there before anything is loaded; addresses and patterns are for who reads them."""
    from headprobe.errors import InputError

    for source in [os.fspath(one) for one in sources]:
        elsewhere = glob.has_magic(source) or "://" in source or source.startswith("hf:")
        if source.strip() and not elsewhere and not os.path.lexists(source):
            raise InputError(f"There is no file or folder {source!r}; check the name.")


def check_folder(out: str | os.PathLike[str]) -> None:
    """Refuse a file in the place of the output folder."""
    from headprobe.errors import InputError

    if os.path.exists(out) and not os.path.isdir(out):
        raise InputError(f"--out {os.fspath(out)} is a file; name a folder.")


def _of_system(error: OSError) -> str:
    """What the operating system refused, with the file and what can be done."""
    name = "a file" if error.filename is None else os.fsdecode(error.filename)
    if isinstance(error, FileNotFoundError):
        return f"There is no file or folder {name}; check the name."
    if isinstance(error, IsADirectoryError):
        return f"{name} is a folder; name a file."
    if isinstance(error, NotADirectoryError | FileExistsError):
        return f"{name} is a file, or lies in one; name a folder."
    if isinstance(error, PermissionError):
        return f"{name} may not be read or written by you; change its permissions, or name another place."
    return f"{name}: {(error.strerror or str(error)).lower()}; free or name another place."


@dataclass(frozen=True)
class ModelOptions:
    """How a command loads its model; every command that loads one has these options."""

    device: Annotated[
        str,
        typer.Option(help="Where the model goes: cpu, cuda, cuda:1, ...; auto takes a CUDA GPU when there is one."),
    ] = "auto"
    dtype: Annotated[
        str,
        typer.Option(help="Number type the model runs in; by default the checkpoint's, or the fitted detector's."),
    ] = ""
    device_map: Annotated[
        str,
        typer.Option(help="Spread a checkpoint over devices, such as auto; needs accelerate, and no --device."),
    ] = ""
    attention: Annotated[
        str,
        typer.Option(help="How attention is computed: eager, sdpa, flex_attention, ...; by default as it says."),
    ] = ""
    batch_size: Annotated[
        str, typer.Option(help="Clips per pass, or auto: many, halved when the memory does not suffice.")
    ] = "auto"

    def loading(self, dtype: str = "") -> dict[str, Any]:
        """Arguments of `headprobe.load`; ``dtype`` where the user names none."""
        device = None if self.device_map and self.device == "auto" else self.device
        given = {"device": device, "dtype": self.dtype or dtype}
        given |= {"device_map": self.device_map, "attention": self.attention}
        return {name: value for name, value in given.items() if value}

    def batches(self) -> int | Literal["auto"]:
        """Clips per pass, checked."""
        from headprobe.errors import InputError

        if self.batch_size == "auto":
            return "auto"
        if not (self.batch_size.isascii() and self.batch_size.isdigit() and int(self.batch_size)):
            raise InputError(f"--batch-size is {self.batch_size!r}; give a whole number or 'auto', 1 or more.")
        return int(self.batch_size)


def with_model_options(command: Callable[..., T]) -> Callable[..., T]:
    """Give a command the options of `ModelOptions`, which it gets as one argument ``options``."""
    hints, own = get_type_hints(command, include_extras=True), inspect.signature(command).parameters
    options = get_type_hints(ModelOptions, include_extras=True)
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [one.replace(annotation=hints[name]) for name, one in own.items() if name != "options"]
    parameters += [
        inspect.Parameter(one.name, kind, default=one.default, annotation=options[one.name])
        for one in dataclasses.fields(ModelOptions)
    ]

    @functools.wraps(command)
    def wrapped(**given: Any) -> T:
        chosen = {name: given.pop(name) for name in options}
        return command(**given, options=ModelOptions(**chosen))

    wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {one.name: one.annotation for one in parameters}
    return wrapped


class _Lines(logging.Handler):
    """What the library logs, on standard error as it is at the time."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        say(f"headprobe: {record.getMessage()}", err=True)


@contextmanager
def shown_log() -> Iterator[None]:
    """Show what the library logs during a command: which model is where, and what a long run will take."""
    logger = logging.getLogger("headprobe")
    level, lines = logger.level, _Lines()
    logger.setLevel(logging.INFO)
    logger.addHandler(lines)
    try:
        yield
    finally:
        logger.removeHandler(lines)
        logger.setLevel(level)


def run(work: Callable[[], T], interrupted: str = "interrupted") -> T:
    """Do a command's work; headprobe's own errors become one line and exit code 2, Ctrl-C 130."""
    from headprobe.errors import HeadprobeError

    try:
        return work()
    except OSError as error:
        own = isinstance(error, HeadprobeError) or error.errno is None
        say(f"headprobe: {error if own else _of_system(error)}", err=True)
        raise typer.Exit(2) from error
    except HeadprobeError as error:
        say(f"headprobe: {error}", err=True)
        raise typer.Exit(2) from error
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and type(error).__name__ != "OutOfMemoryError":  # torch's
            raise
        say(f"headprobe: the memory does not suffice ({error}); try --batch-size 1 or --dtype bfloat16", err=True)
        raise typer.Exit(2) from error
    except KeyboardInterrupt:
        say(f"headprobe: {interrupted}", err=True)
        raise typer.Exit(130) from None
