"""Program: kill `forget_before` at many moments and check the index and the files each time. Imports no torch.

python -m tests.helpers.forget_crash FOLDER KILLS

Half of the crops are old. After a kill the index must hold all rows, and then all files are there, or exactly the young
ones. The next change of the index must delete the files that are left, and their rows in the ledger and the table.
Prints one JSON object.
"""

import json
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet

from gallery.footage.ledger import Ledger
from gallery.footage.sources import source_at
from gallery.footage.table import Crop, read_table
from gallery.indexing.removal import forget_before, remove_images
from gallery.store.manifest import CheckpointStamp, Manifest, read_manifest
from gallery.store.segments import ImageFile
from gallery.store.store import Store
from gallery.store.writer import StoreWriter
from tests.helpers.gallery_store import WIDTH, origin

ROWS, BEFORE = 40, datetime(2026, 11, 20)
OLD = [f"{row}.jpg" for row in range(ROWS // 2)]
YOUNG = [f"{row}.jpg" for row in range(ROWS // 2, ROWS)]


def make(folder: Path) -> None:
    """Crops with their ledger and table, and their index; old and young rows take turns."""
    crops, index = folder / "crops", folder / "index"
    folder.mkdir(parents=True)
    (folder / "day.mp4").touch()
    with Ledger(crops) as ledger:
        entry = ledger.begin(source_at(folder / "day.mp4"), "")
        for frame, path in enumerate(OLD + YOUNG):
            (crops / path).write_text(path)
            days = timedelta(days=-1 if path in OLD else 1)
            own = origin(str(folder / "day.mp4"), frame, clock=BEFORE + days, track=None)
            ledger.add(entry, [Crop(path, own)], frame + 1)
        ledger.write_table()
    stamp = CheckpointStamp(path="best.pth", sha256="0" * 64, size=1, mtime_ns=1)
    manifest = Manifest(name="crash", root=str(crops), checkpoint=stamp, config={}, width=WIDTH, token_shape=None)
    origins = read_table(crops)
    with StoreWriter(index, manifest) as writer:
        for part in range(4):
            paths = (OLD + YOUNG)[part::4]
            segment = writer.write_segment(writer.store.manifest.next_serial)
            images = [ImageFile(path, 1, 1, bytes(32)) for path in paths]
            segment.append(images, np.eye(len(paths), WIDTH, dtype=np.float32), None, [origins[path] for path in paths])
            writer.commit([segment.close()])


def check(crops: Path, index: Path) -> str:
    """The state that a kill left, as a word."""
    rows = sorted(image.path for _, image in Store.open(index).images())
    files = {path.name for path in crops.glob("*.jpg")}
    if rows == sorted(OLD + YOUNG):
        assert files == {*OLD, *YOUNG}
        return "old"
    assert rows == sorted(YOUNG)
    assert files >= set(YOUNG)
    half = bool(read_manifest(index).to_delete)
    remove_images(index, [])  # any change goes on with the deletion
    assert {path.name for path in crops.glob("*.jpg")} == set(read_table(crops)) == set(YOUNG)
    assert read_manifest(index).to_delete == []
    with Ledger(crops) as ledger:
        assert ledger.write_table() == len(YOUNG)
    return "new, files left" if half else "new"


def in_child(call: Callable[[], object], kill_after_s: float | None = None) -> int:
    """Run a call in a process of its own: the threads of pyarrow do not survive a fork. Returns its wait status."""
    child = os.fork()
    if child == 0:
        try:
            call()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if kill_after_s is not None:
        time.sleep(kill_after_s)
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def main() -> None:
    folder, kills = Path(sys.argv[1]), int(sys.argv[2])
    crops, index, state = folder / "made" / "crops", folder / "made" / "index", folder / "state"
    pyarrow.Table.from_pylist([{"loads": "more"}])  # takes longer than all that is to be killed
    longest, states = 0.0, []
    for number in range(kills + 1):  # the first one is not killed
        assert in_child(lambda: make(folder / "made")) == 0
        begin = time.monotonic()
        status = in_child(
            lambda: forget_before(index, BEFORE, crops=True), longest * (0.4 + 0.7 * number / kills) if number else None
        )
        longest = longest or time.monotonic() - begin
        assert number or status == 0
        assert in_child(lambda: state.write_text(check(crops, index))) == 0
        states += [state.read_text()] if os.WIFSIGNALED(status) else []
        shutil.rmtree(folder / "made")
    json.dump({"states": states, "torch": "torch" in sys.modules}, sys.stdout)


if __name__ == "__main__":
    main()
