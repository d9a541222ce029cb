"""How every command does its work: errors become one line and an exit code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, TypeVar

import typer

__all__ = ["INCOMPLETE", "Sigma", "Tau", "run"]

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
        typer.echo(f"headprobe: {error}", err=True)
        raise typer.Exit(2) from error
    except KeyboardInterrupt:
        typer.echo(f"headprobe: {interrupted}", err=True)
        raise typer.Exit(130) from None
