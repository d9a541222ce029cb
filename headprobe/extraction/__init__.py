"""Extraction: many videos and many prompts into a store, in a run that may be killed at any moment."""
