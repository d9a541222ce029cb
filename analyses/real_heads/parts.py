"""Results of the long steps, kept as JSON between runs."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


class Parts:
    """A folder with one JSON file per step, made again when its settings, its data or its source change."""

    def __init__(self, folder: Path, *made_from: Any) -> None:
        self.folder = folder
        self.made_from = made_from

    def __call__(self, name: str, sources: str, make: Callable[[], Any], *settings: Any) -> Any:
        """The kept result of a step, or a new one."""
        key = hashlib.sha256(json.dumps([self.made_from, settings], sort_keys=True).encode())
        for source in sources.split():
            key.update((HERE / f"{source}.py").read_bytes())
        file = self.folder / f"{name.replace(' ', '_')}-{key.hexdigest()[:12]}.json"
        if not file.is_file():
            start = time.process_time()
            say(f"{name} ...")
            text = json.dumps(rounded(make()), ensure_ascii=False)
            part = file.with_suffix(".part")
            self.folder.mkdir(parents=True, exist_ok=True)
            part.write_text(text, encoding="utf-8")
            part.replace(file)
            say(f"{name}: {time.process_time() - start:.0f} s")
        return json.loads(file.read_text(encoding="utf-8"))


def say(text: str) -> None:
    """A line about what is done."""
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


def rounded(value: Any, digits: int = 6) -> Any:
    """The same structure with shorter numbers."""
    if isinstance(value, dict):
        return {str(key): rounded(one, digits) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(one, digits) for one in value]
    return round(value, digits) if isinstance(value, float) else value


def compact(value: Any, indent: int = 0) -> str:
    """JSON with one line for every list of plain values."""
    pad = " " * (indent + 1)
    if isinstance(value, dict) and value:
        rows = [f"{pad}{json.dumps(key, ensure_ascii=False)}: {compact(one, indent + 1)}" for key, one in value.items()]
        return "{\n" + ",\n".join(rows) + "\n" + " " * indent + "}"
    if isinstance(value, list) and any(isinstance(one, list | dict) for one in value):
        return "[\n" + ",\n".join(pad + compact(one, indent + 1) for one in value) + "\n" + " " * indent + "]"
    return json.dumps(value, ensure_ascii=False)
