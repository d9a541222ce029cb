"""Figures of score maps, rankings, tests, detectors, videos and what heads attend to.

Every function draws into the Axes given, or into a figure of its own that pyplot does not know of, and
returns the Axes; `ax.figure.savefig(...)` writes it. No global setting of matplotlib is changed; size and colour
of words follow the theme in use.

- Heads as a map: `headprobe.plotting.heatmap`, several side by side: `headprobe.plotting.heatmap`
- Which heads were chosen, and how surely: `headprobe.plotting.ranks`, `headprobe.plotting.ranks`,
  `headprobe.plotting.ranks`, `headprobe.plotting.embedding`
- Where heads look in a video: `headprobe.plotting.frames`
- Detectors: `headprobe.plotting.timeline`, `headprobe.plotting.curves`
"""
