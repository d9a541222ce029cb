"""Which attention heads of a frozen transformer carry a concept: capture, score, test and use them.

Names are imported when they are first used, so that ``import headprobe`` is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# public name -> (module, attribute); None stands for the module itself
_NAMES: dict[str, tuple[str, str | None]] = {
    "Example": ("headprobe.examples", "Example"),
    "Frames": ("headprobe.examples", "Frames"),
    "Head": ("headprobe.heads", "Head"),
    "HeadActivations": ("headprobe.activations", "HeadActivations"),
    "HeadHunt": ("headprobe.headhunt.headhunt", "HeadHunt"),
    "HeadProbe": ("headprobe.probing.probe", "HeadProbe"),
    "HeadSelector": ("headprobe.probing.select", "HeadSelector"),
    "HeadSet": ("headprobe.heads", "HeadSet"),
    "HeadSite": ("headprobe.models.sites", "HeadSite"),
    "HeadTracer": ("headprobe.trace.tracer", "HeadTracer"),
    "LayerHunt": ("headprobe.headhunt.layerhunt", "LayerHunt"),
    "Store": ("headprobe.store", "Store"),
    "check": ("headprobe.models.sites", "check"),
    "consensus": ("headprobe.metrics.consensus", "consensus"),
    "contribution": ("headprobe.trace.contribution", None),
    "discover": ("headprobe.models.sites", "discover"),
    "edits": ("headprobe.trace.edits", None),
    "explore": ("headprobe.plotting.explorer.explore", "explore"),
    "extract": ("headprobe.extraction.extract", "extract"),
    "heatmap": ("headprobe.plotting.heatmap", "heatmap"),
    "inspect_model": ("headprobe.models.inspection", "inspect_model"),
    "load": ("headprobe.models.loading", "load"),
    "positions": ("headprobe.trace.positions", None),
    "probing": ("headprobe.probing", None),
    "rss": ("headprobe.metrics.stability", "rss"),
    "saliency": ("headprobe.metrics.saliency", "saliency"),
    "significance": ("headprobe.metrics.significance", None),
    "stability": ("headprobe.metrics.stability", None),
    "timeline": ("headprobe.plotting.timeline", "timeline"),
    "top_heads": ("headprobe.scores", "top_heads"),
}
__all__ = [
    "Example",
    "Frames",
    "Head",
    "HeadActivations",
    "HeadHunt",
    "HeadProbe",
    "HeadSelector",
    "HeadSet",
    "HeadSite",
    "HeadTracer",
    "LayerHunt",
    "Store",
    "__version__",
    "check",
    "consensus",
    "contribution",
    "discover",
    "edits",
    "explore",
    "extract",
    "heatmap",
    "inspect_model",
    "load",
    "positions",
    "probing",
    "rss",
    "saliency",
    "significance",
    "stability",
    "timeline",
    "top_heads",
]

if TYPE_CHECKING:
    from headprobe import probing
    from headprobe.activations import HeadActivations
    from headprobe.examples import Example, Frames
    from headprobe.extraction.extract import extract
    from headprobe.headhunt.headhunt import HeadHunt
    from headprobe.headhunt.layerhunt import LayerHunt
    from headprobe.heads import Head, HeadSet
    from headprobe.metrics import significance, stability
    from headprobe.metrics.consensus import consensus
    from headprobe.metrics.saliency import saliency
    from headprobe.metrics.stability import rss
    from headprobe.models.inspection import inspect_model
    from headprobe.models.loading import load
    from headprobe.models.sites import HeadSite, check, discover
    from headprobe.plotting.explorer.explore import explore
    from headprobe.plotting.heatmap import heatmap
    from headprobe.plotting.timeline import timeline
    from headprobe.probing.probe import HeadProbe
    from headprobe.probing.select import HeadSelector
    from headprobe.scores import top_heads
    from headprobe.store import Store
    from headprobe.trace import contribution, edits, positions
    from headprobe.trace.tracer import HeadTracer


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module 'headprobe' has no attribute {name!r}")
    module_name, attribute = _NAMES[name]
    module = importlib.import_module(module_name)
    value = module if attribute is None else getattr(module, attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
