"""Figures of score maps, rankings, tests, detectors, videos and what heads attend to.

Every function draws into the Axes given, or into a figure of its own that pyplot does not know of, and
returns the Axes; `ax.figure.savefig(...)` writes it. No global setting of matplotlib is changed; size and colour
of words follow the theme in use.

- Heads as a map, and several maps side by side: `headprobe.plotting.heatmap`
- Which heads were chosen, and how surely: `headprobe.plotting.ranks`; whether the classes lie apart:
  `headprobe.plotting.embedding`
- Where heads look in a video: `headprobe.plotting.frames`; what was found in it: `headprobe.plotting.timeline`
- How good, over which setting, in which layers: `headprobe.plotting.curves`
- Heads to click into: `headprobe.plotting.explorer`
"""
