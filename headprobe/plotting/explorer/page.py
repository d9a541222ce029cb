"""The explorer's HTML: data, style and script in one page that loads nothing."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import numpy as np

__all__ = ["explorer_page", "packed"]


def packed(values: np.ndarray, dtype: Any) -> str:
    """An array as text: its little-endian bytes in base64.

    Parameters
    ----------
    values
        Numbers that the type can hold.
    dtype
        Type in which the page reads them.

    Returns
    -------
    str

    Examples
    --------
    >>> packed(np.array([1, 2]), np.uint8)
    'AQI='
    """
    plain = np.ascontiguousarray(values, dtype=np.dtype(dtype).newbyteorder("<"))
    return base64.b64encode(plain.tobytes()).decode("ascii")


def explorer_page(title: str, content: Mapping[str, Any]) -> str:
    """The page.

    Parameters
    ----------
    title
        Heading.
    content
        What `page.js` reads, as plain JSON values.

    Returns
    -------
    str
        HTML. Its content security policy lets it run its own script, and load nothing.

    Examples
    --------
    >>> "</script><b>" in explorer_page("t", {"text": "</script><b>"})
    False
    """
    folder = files("headprobe.plotting.explorer")
    script, style = ((folder / name).read_text(encoding="utf-8") for name in ("page.js", "page.css"))
    # Within an element of data only "<" could end it or open a comment.
    data = json.dumps(content, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    heading = html.escape(title.encode("utf-8", "backslashreplace").decode("utf-8"))
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{heading}</title>\n<style>{style}</style>\n</head>\n<body>\n<main>\n<h1>{heading}</h1>\n"
        '<div id="app"><noscript>This page needs JavaScript, which it brings along.</noscript></div>\n</main>\n'
        f'<script type="application/json" id="data">{data}</script>\n<script>{script}</script>\n</body>\n</html>\n'
    )
