"""The explorer as a Jupyter widget: the head that is chosen on the page is known to the notebook."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from headprobe.errors import InputError

__all__ = ["explorer_widget"]


def explorer_widget(page: str) -> Any:
    """Make a widget of an explorer's page.

    Parameters
    ----------
    page
        The page, as `Explorer.text` has it.

    Returns
    -------
    anywidget.AnyWidget
        Its trait `chosen` is the label of the head that was clicked last, such as ``"L3H1"``, and empty before that;
        ``widget.observe(function, "chosen")`` calls a function at every choice.

    Raises
    ------
    InputError
        anywidget is not installed.

    Examples
    --------
    >>> widget = explorer_widget("<p>page</p>")  # doctest: +SKIP
    >>> widget.chosen  # doctest: +SKIP
    'L3H1'
    """
    try:
        import anywidget
        import traitlets
    except ImportError as error:
        raise InputError(
            "a widget needs the package anywidget: pip install 'headprobe[widget]'. Without it, the explorer shows "
            "itself in a notebook and can be saved as a page, but the notebook does not know the head that was clicked"
        ) from error

    class ExplorerWidget(anywidget.AnyWidget):
        _esm = (files("headprobe.plotting.explorer") / "widget.js").read_text(encoding="utf-8")
        page = traitlets.Unicode().tag(sync=True)
        chosen = traitlets.Unicode().tag(sync=True)

    return ExplorerWidget(page=page)
