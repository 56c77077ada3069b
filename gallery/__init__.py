"""Search your own pictures of people with a sentence.

    from gallery import Gallery
    for hit in Gallery.open("index").query("a man with a red backpack").hits:
        print(hit.path, hit.score)

Packages, from low to high: footage (from pictures and video to crops), store (the index on disk), encoding (the model),
search (from a query to its hits), indexing (making and changing an index), service (the page and the HTTP interface).
An *index* is always the folder on disk.
"""

from typing import TYPE_CHECKING

from gallery.answers import Answer, ChunkScore, Group, Hit, WordHeat
from gallery.footage.origin import Origin
from gallery.search.filters import Filter

if TYPE_CHECKING:
    from gallery.gallery import Gallery

__all__ = ["Answer", "ChunkScore", "Filter", "Gallery", "Group", "Hit", "Origin", "WordHeat"]


def __getattr__(name: str) -> object:
    """Load `Gallery` on first use, because it imports torch and reading an index does not need it."""
    if name == "Gallery":
        from gallery.gallery import Gallery

        return Gallery
    raise AttributeError(f"module 'gallery' has no attribute {name!r}")
