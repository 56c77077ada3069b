"""Program: copy an index to Milvus in a file, and die in the middle.

Run as python -m tests.helpers.gallery_milvus_crash.
Arguments: FOLDER of the index, URL, and after how many calls that change rows it kills itself. Writes nothing.
"""

import os
import signal
import sys
from pathlib import Path

from gallery.search import milvus_engine
from gallery.search.milvus_engine import MilvusEngine
from gallery.store.store import Store


def main() -> None:
    folder, url, calls = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    store = Store.open(folder)
    milvus_engine.ROWS_PER_CALL = 7  # several calls per segment
    engine = MilvusEngine(url, store)
    made = [0]

    def counted(call):
        def change(*args, **options):
            result = call(*args, **options)
            made[0] += 1
            if made[0] == calls:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return change

    for name in ("upsert", "delete"):
        setattr(engine._client, name, counted(getattr(engine._client, name)))
    engine.update(store)


if __name__ == "__main__":
    main()
