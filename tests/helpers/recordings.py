"""Two recordings, and crops of them in a gallery that needs no model."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gallery.footage.origin import Origin
from tests.helpers.fake_gallery import FakeGallery, fake_gallery

SIZE, FPS = (192, 108), 5
BOX = (40.0, 20.0, 80.5, 100.0)
EIGHT = datetime(2026, 11, 20, 8)


def record(folder: Path) -> None:
    """cam1/a.mp4 of 3 s and cam2/day.png, which is of another size."""
    from dataset.synthpedes.footage import compose, write_footage  # needs requirements-video.txt

    for camera in ("cam1", "cam2"):
        (folder / camera).mkdir()
    write_footage(folder / "cam1" / "a.mp4", compose(size=SIZE, fps=FPS, seconds=3, people=2, scene="wall", seed=1))
    noise = np.random.default_rng(0).integers(0, 255, (50, 60, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "cam2" / "day.png")


def crop(source: Path, frame: int, **changes: Any) -> Origin:
    clock = EIGHT + timedelta(seconds=frame // FPS)
    return Origin(str(source), frame, frame / FPS, clock, BOX, SIZE, 0.9, 1)._replace(**changes)


def filmed(tmp_path: Path, recordings: Path) -> FakeGallery:
    """id0, id1 and id2: crops of the video; id3: of the picture; id4: a plain picture."""
    made = fake_gallery(tmp_path)
    video, picture = recordings / "cam1" / "a.mp4", recordings / "cam2" / "day.png"
    made.origins = {f"id{n}": crop(video, frame) for n, frame in enumerate((10, 0, 5))}
    made.origins["id3"] = crop(picture, 0, time_s=None, clock=None, track=None, frame_size=(60, 50), box=(9, 9, 30, 40))
    return made
