"""Metrics over heads: saliency, stability over prompts, and consensus."""
