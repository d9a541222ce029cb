"""Families of video language models, one file each."""
