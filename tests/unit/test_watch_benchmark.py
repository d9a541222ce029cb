"""What the pages say of streams is what was measured."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "analyses" / "benchmarks"


def test_the_pages_say_what_watch_json_says(monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "analyses"))
    spec = importlib.util.spec_from_file_location("benchmark_watch", BENCHMARKS / "watch.py")
    assert spec is not None
    assert spec.loader is not None
    watch = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(watch)
    results = json.loads((BENCHMARKS / "watch.json").read_text(encoding="utf-8"))
    for page in (BENCHMARKS / "README.md", ROOT / "docs" / "howto" / "headhunt.md"):
        assert watch.sentence(results) in page.read_text(encoding="utf-8"), page
    live = results["live"]
    assert live["looked_at"] + live["dropped"] == live["frames"]
    assert results["latency_ms"]["p99"] / 1000 < results["segment_seconds"]
