"""Search one's own pictures of people with a sentence.

from gallery import Gallery
for hit in Gallery.open("index").query("a man with a red backpack").hits:
    print(hit.path, hit.score)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gallery.answers import Answer, ChunkScore, Hit, WordHeat

if TYPE_CHECKING:
    from gallery.gallery import Gallery

__all__ = ["Answer", "ChunkScore", "Gallery", "Hit", "WordHeat"]


def __getattr__(name: str) -> Any:
    """Loads `Gallery` when it is first asked for: the files of an index can be read and written without torch."""
    if name == "Gallery":
        return import_module("gallery.gallery").Gallery
    raise AttributeError(f"module 'gallery' has no attribute {name!r}")
