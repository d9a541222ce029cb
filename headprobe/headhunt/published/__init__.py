"""Head lists that others have published, with their sources, to compare score maps with."""

from headprobe.headhunt.published.heads import (
    Comparison,
    PublishedHeads,
    compare_heads,
    published,
    published_names,
    read_heads,
)

__all__ = ["Comparison", "PublishedHeads", "compare_heads", "published", "published_names", "read_heads"]
