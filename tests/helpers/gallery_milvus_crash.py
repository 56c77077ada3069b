"""Program: copies an index to Milvus in a file, and is killed in the middle.

Run as python -m tests.helpers.gallery_milvus_crash.
Arguments: FOLDER of the index, URL, and after how many calls that change rows it kills itself. Writes nothing.
"""

import os
import signal
import sys
from pathlib import Path

from gallery import milvus_index
from gallery.milvus_index import MilvusIndex
from gallery.store import Store


def main() -> None:
    folder, url, calls = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    store = Store.open(folder)
    milvus_index.ROWS_PER_CALL = 7  # several calls per segment
    index = MilvusIndex(url, store)
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
        setattr(index._client, name, counted(getattr(index._client, name)))
    index.update(store)


if __name__ == "__main__":
    main()
