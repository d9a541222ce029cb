"""What holds for every test: no window, no network, and a broken torchvision does not reach transformers."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Before anything imports matplotlib or a Hugging Face library, which read these once.
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from headprobe._torchvision import guard

# Tests build reference models from transformers directly, often before headprobe loads one.
guard()

# Shared helpers (tiny_models.py) are imported by name, whatever pytest is started from.
sys.path.insert(0, str(Path(__file__).parent))
