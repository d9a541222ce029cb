"""The explorer as a widget: what goes to the notebook when a head is clicked."""

from __future__ import annotations

import json
import re
import sys
from importlib.resources import files

import anywidget
import pytest
import torch
from browser import look, needs_chromium

from headprobe.activations import HeadActivations, example_table
from headprobe.errors import InputError
from headprobe.examples import Example
from headprobe.heads import HeadSet
from headprobe.plotting.explorer.explore import Explorer, explore
from headprobe.provenance import Provenance
from headprobe.scores import score_map


def test_a_choice_reaches_who_observes_it() -> None:
    page = Explorer("<p>page</p>")
    widget = page.widget()
    assert isinstance(widget, anywidget.AnyWidget)
    assert (widget.page, widget.chosen) == (page.text, "")
    heard: list[str] = []
    widget.observe(lambda change: heard.append(change["new"]), "chosen")
    widget.set_state({"chosen": "L3H1"})  # what comes from the browser
    assert heard == [widget.chosen] == ["L3H1"]


def test_without_the_package_the_error_says_what_there_is(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "anywidget", None)
    with pytest.raises(InputError, match=r"pip install 'headprobe\[widget\]'.*saved as a page"):
        Explorer("<p>page</p>").widget()


@needs_chromium
def test_a_click_is_heard_and_other_messages_are_not(tmp_path) -> None:
    """The widget's script with a model that writes down what it is given, around a real page."""
    table = example_table([Example(text, id=text, label=i % 2) for i, text in enumerate("abcd")])
    heads = HeadSet(["L0H0", "L0H1", "L1H0", "L1H1"])
    z = torch.randn(1, 4, 4, 8, generator=torch.Generator().manual_seed(0))
    acts = HeadActivations(z, heads, {"none": ""}, table, Provenance("m"))
    page = explore(acts, score_map([[0.1, 0.2], [0.3, 0.4]]), progress=False).text
    # The frame lets its page run scripts and nothing else, so that a click is made by a script within the page.
    click = """<script>document.querySelector('td[data-cell="2"]').click()</script></body>"""
    page = re.sub('<meta http-equiv="Content-Security-Policy"[^>]*>', "", page).replace("</body>", click)
    source = (files("headprobe.plotting.explorer") / "widget.js").read_text(encoding="utf-8")
    outer = f"""<!DOCTYPE html><html lang="en"><title>notebook</title><body><main></main><script>
      {source.replace("export default", "const widget =")}
      window.said = [];
      const page = {json.dumps(page).replace("<", chr(92) + "u003c")};
      const model = {{
        get: () => page,
        set: (name, value) => said.push(name, value),
        save_changes: () => said.push("saved"),
      }};
      widget.render({{ model, el: document.querySelector("main") }});
      window.postMessage({{ headprobe: "chosen", head: "L9H9" }}, "*");
      </script></body></html>"""
    script = "await new Promise((done) => setTimeout(done, 2500)); return window.said;"
    seen = look(outer, script, tmp_path)
    assert seen.result == ["chosen", "L1H0", "saved"]
