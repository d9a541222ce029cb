"""Probes: choosing heads and learning from their outputs, as scikit-learn estimators."""

from headprobe.probing.probe import HeadProbe
from headprobe.probing.select import HeadSelector
from headprobe.probing.validation import cross_validate, summarise

__all__ = ["HeadProbe", "HeadSelector", "cross_validate", "summarise"]
