"""Pages seen by headless Chromium: what its console says, what a script finds in them, what axe-core objects to."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

# The path of axe.min.js, from npm's package axe-core.
AXE = os.environ.get("HEADPROBE_AXE", "")
needs_axe = pytest.mark.skipif(
    CHROMIUM is None or not Path(AXE).is_file(), reason="needs Chromium and HEADPROBE_AXE, the path of axe.min.js"
)


@dataclass(frozen=True)
class Seen:
    """What a script returned, and the console's errors and warnings."""

    result: Any
    console: list[str]


def run(file: Path, *more: str) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM is not None
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--log-level=0"]
    command += [f"--user-data-dir={file.parent / 'profile'}", "--virtual-time-budget=8000", *more, file.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


def look(page: str, script: str, folder: Path, *, width: int = 1000, height: int = 900, bare: bool = False) -> Seen:
    """Show a page in a frame of a width that a window cannot have, and run a script on it from outside.

    The script is the body of an async function of the page's `document` and `window`; what it returns must be JSON.
    Its content security policy holds for the page itself, unless `bare` takes it away to let the script add code.
    """
    if bare:
        page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    outer = folder / "outer.html"
    outer.write_text(
        f'<!DOCTYPE html><meta charset="utf-8"><title>outer</title><body style="margin:0"><pre id="result"></pre>'
        f'<iframe style="width:{width}px;height:{height}px;border:0" srcdoc="{html.escape(page)}"></iframe><script>'
        "const frame = document.querySelector('iframe');"
        "frame.addEventListener('load', async () => { let result; try { result = await (async (document, window) => {"
        f"{script}"
        "})(frame.contentDocument, frame.contentWindow); } catch (error) { result = {failed: String(error)}; }"
        "frame.remove(); window.document.getElementById('result').textContent = JSON.stringify({result}); });</script>",
        encoding="utf-8",
    )
    done = run(outer, f"--window-size={max(width, 500)},{height}", "--dump-dom")
    found = re.search(r'<pre id="result">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found is not None, done.stdout[:500] + done.stderr[-2000:]
    result = json.loads(html.unescape(found[1]))["result"]
    assert not (isinstance(result, dict) and "failed" in result), result
    return Seen(result, re.findall(r':CONSOLE[^\]]*\] "(.*?)", source', done.stderr, re.DOTALL))


def violations(page: str, folder: Path, width: int = 1000) -> list[str]:
    """What axe-core calls serious or critical in a page, with the elements."""
    source = Path(AXE).read_text(encoding="utf-8")
    script = f"const code = document.createElement('script'); code.textContent = {json.dumps(source)}"
    script = script.replace("</", "<\\/") + "; document.head.append(code);"
    script += "const found = await window.axe.run(document, {resultTypes: ['violations']});"
    script += "return found.violations.map(v => [v.impact, v.id, v.nodes.slice(0, 3).map(n => n.html).join(' | ')]);"
    seen = look(page, script, folder, width=width, bare=True)
    return [f"{rule}: {where}" for impact, rule, where in seen.result if impact in ("serious", "critical")]
