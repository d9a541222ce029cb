"""Curves: detectors compared, ROC and precision-recall, a score over a setting, scores over layers.

The functions stand in modules of their own and are imported here: `headprobe.plotting.comparison`,
`headprobe.plotting.detection` and `headprobe.plotting.sweeps`.
"""

from __future__ import annotations

from headprobe.plotting.comparison import comparison
from headprobe.plotting.detection import precision_recall, roc
from headprobe.plotting.sweeps import layers, sweep

__all__ = ["comparison", "layers", "precision_recall", "roc", "sweep"]
