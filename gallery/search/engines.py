"""Which engine searches a store: FAISS on this machine, or Milvus for galleries that outgrow one machine."""

from gallery.search.engine import Engine
from gallery.search.faiss_engine import FaissEngine
from gallery.search.milvus_engine import MilvusEngine
from gallery.store.store import Store
from utils.errors import UserError

MILVUS_SCHEMES = ("http://", "https://", "tcp://", "unix:")


def open_engine(store: Store, url: str | None = None) -> Engine:
    """The engine of a store.

    Args:
        url: of a Milvus server, or a file name.db; None = the one that the manifest names, and FAISS if it names none.
    Raises: UserError if this is no URL of Milvus, or if Milvus is not installed or cannot be reached.
    """
    url = url or store.manifest.engine
    if url is None:
        return FaissEngine(store)
    if not (url.startswith(MILVUS_SCHEMES) or url.endswith(".db")):
        raise UserError(f"engine {url}: expected the URL of a Milvus server (http://host:19530) or a file name.db")
    return MilvusEngine(url, store)
