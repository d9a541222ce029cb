"""One self-contained HTML page for a run."""

from headprobe.report.report import *  # noqa: F403
from headprobe.report.report import __all__ as __all__
