"""How every command does its work and speaks: errors become one line and an exit code, and no name moves the cursor."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, TypeVar

import typer

__all__ = ["INCOMPLETE", "Sigma", "Tau", "printable", "run", "say"]

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
    """Text for a terminal: control characters, which names of files may hold, as escapes; addresses without passwords.

    Parameters
    ----------
    text
        Anything.

    Returns
    -------
    str

    Examples
    --------
    >>> printable("clip\\x1b[2J.mp4"), printable("rtsp://me:hush@10.0.0.7/live")
    ('clip\\\\x1b[2J.mp4', 'rtsp://***@10.0.0.7/live')
    """
    return _USER.sub("***@", _UNSHOWN.sub(lambda found: found[0].encode("unicode_escape").decode(), text))


def say(text: str, err: bool = False) -> None:
    """Print a line that is `printable`.

    Parameters
    ----------
    text
        The line, or several.
    err
        Whether to print it among the errors.
    """
    typer.echo(printable(text), err=err)


def run(work: Callable[[], T], interrupted: str = "interrupted") -> T:
    """Do a command's work; headprobe's own errors become one line and exit code 2, Ctrl-C 130.

    Parameters
    ----------
    work
        What the command does.
    interrupted
        What to say at Ctrl-C.

    Returns
    -------
    object
        What the work returns.

    Raises
    ------
    typer.Exit
        The work failed, with code 2, or was interrupted, with code 130.

    Examples
    --------
    >>> run(lambda: 3)
    3
    """
    from headprobe.errors import HeadprobeError

    try:
        return work()
    except (HeadprobeError, OSError) as error:
        say(f"headprobe: {error}", err=True)
        raise typer.Exit(2) from error
    except KeyboardInterrupt:
        say(f"headprobe: {interrupted}", err=True)
        raise typer.Exit(130) from None
