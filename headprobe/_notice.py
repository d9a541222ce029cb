"""Warnings that point at the line of the user's code that led to them."""

from __future__ import annotations

import os
import sys
import warnings

from headprobe.errors import HeadprobeWarning

__all__ = ["notice"]

PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep


def notice(text: str) -> None:
    """Warn, at the innermost line outside of this package.

    A fixed number of frames would be right for one way in only: the same function is called by users, and by others of
    this package.

    Parameters
    ----------
    text
        What to say.

    Warns
    -----
    HeadprobeWarning
        Always, as far as the filters of `warnings` let it through.

    Examples
    --------
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     notice("half of the heads tie")
    >>> caught[0].category.__name__, caught[0].filename == __file__
    ('HeadprobeWarning', False)
    """
    level, frame = 2, sys._getframe(1)
    # A thread of this package has no other frames: its outermost one is named then.
    while frame.f_code.co_filename.startswith(PACKAGE) and frame.f_back is not None:
        level, frame = level + 1, frame.f_back
    warnings.warn(text, HeadprobeWarning, stacklevel=level)
