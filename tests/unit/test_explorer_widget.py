"""The explorer as a widget: what goes to the notebook when a head is clicked."""

from __future__ import annotations

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
def test_the_page_tells_of_a_click(tmp_path) -> None:
    table = example_table([Example(text, id=text, label=i % 2) for i, text in enumerate("abcd")])
    heads = HeadSet(["L0H0", "L0H1", "L1H0", "L1H1"])
    z = torch.randn(1, 4, 4, 8, generator=torch.Generator().manual_seed(0))
    acts = HeadActivations(z, heads, {"none": ""}, table, Provenance("m"))
    page = explore(acts, score_map([[0.1, 0.2], [0.3, 0.4]]), progress=False).text
    script = """const heard = [];
      parent.addEventListener("message", (event) => heard.push(event.data));
      const told = new Promise((done) => parent.addEventListener("message", done));
      document.querySelector('td[data-cell="2"]').click();
      await told;
      return heard;"""
    assert look(page, script, tmp_path).result == [{"headprobe": "chosen", "head": "L1H0"}]


@needs_chromium
def test_the_widget_hears_its_own_page_and_nobody_else(tmp_path) -> None:
    """The widget's script with a model that writes down what it is given; the messages are made by the test."""
    source = (files("headprobe.plotting.explorer") / "widget.js").read_text(encoding="utf-8")
    outer = f"""<!DOCTYPE html><html lang="en"><title>notebook</title><body><main></main><script>
      {source.replace("export default", "const widget =")}
      window.said = [];
      const model = {{
        get: (name) => "<p>" + name + "</p>",
        set: (name, value) => said.push(name, value),
        save_changes: () => said.push("saved"),
      }};
      window.leave = widget.render({{ model, el: document.querySelector("main") }});
      </script></body></html>"""
    script = """const frame = document.querySelector("iframe");
      const send = (source, data) => window.dispatchEvent(new window.MessageEvent("message", {source, data}));
      const chosen = {headprobe: "chosen", head: "L1H0"};
      send(window, chosen); send(frame.contentWindow, {head: "L1H0"}); send(frame.contentWindow, null);
      const others = [...window.said];
      send(frame.contentWindow, chosen);
      const own = [...window.said];
      window.leave(); send(frame.contentWindow, chosen);
      return [others, own, window.said.length, frame.srcdoc, frame.getAttribute("sandbox")];"""
    others, own, at_the_end, page, sandbox = look(outer, script, tmp_path).result
    assert others == []
    assert own == ["chosen", "L1H0", "saved"]
    assert at_the_end == 3  # a widget that is taken away hears nothing
    assert (page, sandbox) == ("<p>page</p>", "allow-scripts")
