"""Program: kill a writer at random moments and check the index each time. Imports no torch.

python -m tests.helpers.gallery_crash FOLDER KILLS SEED

Commit g of the writer adds the ROWS images of generation g and removes those of generation g - KEPT; between commits it
tidies up or erases. After every kill the index must hold whole generations, KEPT of them, each row with its own file's
size, time, hash and vector. Prints one JSON object.
"""

import hashlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np

from gallery.store import writer as writer_module
from gallery.store.manifest import CheckpointStamp, Manifest
from gallery.store.segments import ImageFile
from gallery.store.store import Store
from gallery.store.writer import StoreWriter

ROWS, WIDTH, KEPT = 40, 64, 3
TOKENS = [3, 16]
writer_module.MANY_SMALL = 1  # tidying merges generations, which leaves removed rows beside live ones later


def new_manifest() -> Manifest:
    stamp = CheckpointStamp(path="best.pth", sha256="0" * 64, size=1, mtime_ns=1)
    return Manifest(name="crash", root="/images", checkpoint=stamp, config={}, width=WIDTH, token_shape=TOKENS)


def write_forever(folder: Path, committed: int) -> None:
    """committed: a pipe that gets a byte after every commit."""
    with StoreWriter(folder) as writer:
        while True:
            generation = max((generation_of(image.path) for _, image in writer.store.images()), default=-1) + 1
            segment = writer.write_segment(writer.store.manifest.next_serial)
            for row in range(ROWS):  # one at a time, so that there are many moments to be killed at
                image = image_of(generation, row)
                segment.append([image], vector(generation, row)[None], np.full((1, *TOKENS), row, np.float16))
            old = [key for key, im in writer.store.images() if generation_of(im.path) <= generation - KEPT]
            writer.commit([segment.close()], removed=old)
            os.write(committed, b".")
            if generation % 4 == 0:
                writer.tidy()
            elif generation % 2:
                writer.erase([])  # rewrite every segment that has lost a row


def image_of(generation: int, row: int) -> ImageFile:
    path = f"{generation}/{row}.jpg"
    return ImageFile(path, generation, row, hashlib.sha256(path.encode()).digest())


def generation_of(path: str) -> int:
    return int(path.split("/")[0])


def vector(generation: int, row: int) -> np.ndarray:
    return np.full(WIDTH, generation * ROWS + row, np.float32)


def check(folder: Path) -> int:
    """Open the index as a reader does; returns its last generation, -1 if it is empty."""
    store = Store.open(folder)
    rows = [(key, image.path) for key, image in store.images()]
    found = sorted({generation_of(path) for _, path in rows})
    if found:
        assert found == list(range(max(0, found[-1] - KEPT + 1), found[-1] + 1)), found
    assert sorted(path for _, path in rows) == sorted(f"{g}/{row}.jpg" for g in found for row in range(ROWS))
    assert len(store) == len(rows) == len(found) * ROWS
    for key, path in rows:
        generation, row = generation_of(path), int(Path(path).stem)
        assert store.image(key) == image_of(generation, row)
        np.testing.assert_array_equal(store.vector(key), vector(generation, row))
        tokens = store.tokens(key)
        assert tokens is not None
        assert (tokens == row).all()
    return found[-1] if found else -1


def main() -> None:
    folder, kills, generator = Path(sys.argv[1]), int(sys.argv[2]), random.Random(int(sys.argv[3]))
    with StoreWriter(folder, new_manifest()):
        pass
    generations, half_written = [], 0
    for _ in range(kills):
        commits, committed = os.pipe()
        writer = os.fork()
        if writer == 0:
            write_forever(folder, committed)
        os.read(commits, 1)
        begin = time.monotonic()
        os.read(commits, 1)
        time.sleep(generator.uniform(0, time.monotonic() - begin))  # somewhere in a commit, on a slow machine too
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
        os.close(commits)
        os.close(committed)
        generations.append(check(folder))
        named = {f"{entry.serial:08d}" for entry in Store.open(folder).manifest.segments}
        there = {path.name for path in (folder / "segments").glob("*")}
        half_written += bool(there - named) or (folder / "manifest.json.tmp").exists()
    json.dump({"generations": generations, "half_written": half_written, "torch": "torch" in sys.modules}, sys.stdout)


if __name__ == "__main__":
    main()
