"""HeadHunt-VAD (arXiv 2512.17601), built from the generic parts of headprobe."""
