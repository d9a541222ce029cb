"""How every command works and speaks: the options of a model, errors in one line, and no name that moves the cursor."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

import typer

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
T = TypeVar("T")
# What a terminal obeys rather than shows, what turns the direction of writing, and what is no character.
_UNSHOWN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_USER = re.compile(r"(?<=\w://)[^\s/]*@")


def printable(text: str) -> str:
    """Text for a terminal: control characters as escapes, addresses without passwords."""
    return _USER.sub("***@", _UNSHOWN.sub(lambda found: found[0].encode("unicode_escape").decode(), text))


def say(text: str, err: bool = False) -> None:
    """Print a line that is `printable`."""
    typer.echo(printable(text), err=err)


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
    except (HeadprobeError, OSError) as error:
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
