"""Figures: score maps over layers and heads, timelines of a video, comparisons of detectors.

Every function draws into the Axes given, or into a figure of its own that pyplot does not know of, and
returns the Axes; `ax.figure.savefig(...)` writes it. No global setting of matplotlib is changed.
"""
