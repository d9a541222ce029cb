"""Heads to look into: a page with the heatmap, and behind every cell its scores, its projection and its examples.

The page is one HTML file that needs no server and no network; in a notebook it is shown as it is. Its script is
`page.js`, its style `page.css`.
"""
