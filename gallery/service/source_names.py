"""What clients are told of the sources' paths."""

from typing import TYPE_CHECKING

from gallery.search.filters import below, shared_folder
from gallery.store.sources import SourceInfo

if TYPE_CHECKING:
    from gallery import Gallery  # only its interface is used: a test serves one without torch


class SourceNames:
    """Names of sources: whole paths, or only the part below the folder that all sources of the index share."""

    def __init__(self, gallery: "Gallery", *, whole_paths: bool) -> None:
        self._gallery, self._whole_paths = gallery, whole_paths
        self._sources: list[SourceInfo] | None = None  # those that self._shared was found for
        self._shared = ""

    def __call__(self, source: str) -> str:
        if self._whole_paths:
            return source
        sources = self._gallery.sources()  # the same list until the index changes
        if sources is not self._sources:
            self._shared, self._sources = shared_folder(info.source for info in sources), sources
        return below(source, self._shared)
