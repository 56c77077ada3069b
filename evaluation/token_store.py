"""Image tokens of a gallery, kept until they are re-ranked. I images, K tokens of an image, D width.

They stay on the device if they fit beside what else is needed there, otherwise in the machine's memory, otherwise in a
temporary file. The file is mapped piece by piece, so a gallery may be larger than the memory.
"""

import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import torch
from torch import Tensor

from utils.errors import UserError
from utils.memory import available_bytes
from utils.precision import product_dtype

logger = logging.getLogger(__name__)

CPU = torch.device("cpu")
SHARE_OF_MEMORY = 0.5  # of the free memory: what the tokens may take; the rest is for the work on them
DISK_FOLDER = Path("/var/tmp")  # also for temporary files, and on a disk even where /tmp is kept in memory
_MOUNTS = Path("/proc/self/mounts")


class TokenStore:
    """Tokens of images, appended in order and read by row.

    Args:
        num_images: how many images will be appended in all.
        device: where `read` puts the tokens.
    """

    def __init__(self, num_images: int, device: torch.device) -> None:
        self.num_images, self.device = num_images, device
        # these three are known once the first tokens have come
        self.place: Literal["device", "memory", "file"] | None = None
        self.shape = torch.Size()  # (K, D)
        self.dtype = torch.float32
        self._tokens: Tensor | None = None
        self._file: BinaryIO | None = None
        self._folder: Path | None = None  # of the file, which itself has no name
        self._filled = 0

    def __len__(self) -> int:
        return self._filled

    def append(self, tokens: Tensor) -> None:
        """Add the tokens of the next images (n, K, D), n > 0, in the dtype of the matrix products that will read them.

        Raises: UserError if neither memory nor disk has room for the gallery.
        """
        if self.place is None:
            self.shape, self.dtype = tokens.shape[1:], product_dtype(tokens)
            self._choose_place(self.num_images * self.shape.numel() * self.dtype.itemsize)
            if self._file is None:
                where = self.device if self.place == "device" else CPU
                self._tokens = torch.empty((self.num_images, *self.shape), dtype=self.dtype, device=where)
        if self._tokens is not None:
            self._tokens[self._filled : self._filled + len(tokens)] = tokens
        elif self._file is not None:
            self._file.write(tokens.to(CPU, self.dtype).contiguous().view(torch.uint8).numpy().data)
        self._filled += len(tokens)

    def read(self, rows: Tensor) -> Tensor:
        """Tokens (n, K, D) on the device of the images in rows (n,), which are ascending and on the CPU."""
        if self._tokens is not None:
            return self._tokens[rows.to(self._tokens.device)].to(self.device)
        assert self._file is not None
        self._file.flush()
        shape = (self._filled, *self.shape[:-1], self.shape[-1] * self.dtype.itemsize)
        # mapped anew for each read, as pages count as this process's memory until they are unmapped
        mapped = np.memmap(self._file, dtype=np.uint8, mode="r", shape=shape)
        return torch.from_numpy(np.ascontiguousarray(mapped[rows.numpy()])).view(self.dtype).to(self.device)

    def _choose_place(self, num_bytes: int) -> None:
        if self.device.type != "cpu" and num_bytes <= SHARE_OF_MEMORY * available_bytes(self.device):
            self.place = "device"
        elif num_bytes <= SHARE_OF_MEMORY * available_bytes(CPU):
            self.place = "memory"
        else:
            self.place, self._folder = "file", folder_for(num_bytes)
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115  closed together with the store
        logger.info("image tokens: %.1f GB, kept in %s", num_bytes / 1e9, self._described())

    def _described(self) -> str:
        if self.place == "file":
            return f"a temporary file in {self._folder}"
        return f"the memory of {self.device}" if self.place == "device" else "memory"


def folder_for(num_bytes: int) -> Path:
    """Folder for a temporary file of num_bytes: TMPDIR or the system's own, if possible one that is not in memory.

    Raises: UserError if there is no room.
    """
    usual = Path(tempfile.gettempdir())
    on_disk = [folder for folder in (usual, DISK_FOLDER) if not in_memory(folder) and os.access(folder, os.W_OK)]
    with_room = [folder for folder in on_disk[:1] if shutil.disk_usage(folder).free >= num_bytes]
    folder = (with_room or [usual])[0]
    free = shutil.disk_usage(folder).free
    if num_bytes > free:
        raise UserError(
            f"the gallery's image tokens take {num_bytes / 1e9:.1f} GB: too much for the memory, and {folder} "
            f"has {free / 1e9:.1f} GB left; set TMPDIR to a folder with more, or eval.rerank_top_k to 0"
        )
    if in_memory(folder):
        logger.warning("%s is kept in memory, which may run out: set TMPDIR to a folder on a disk", folder)
    return folder


def in_memory(folder: Path) -> bool:
    """Whether the files of a folder take memory (tmpfs). False where the system does not tell."""
    try:
        mounts = [line.split(" ")[1:3] for line in _MOUNTS.read_text().splitlines()]
    except OSError:  # not Linux
        return False
    real = folder.resolve()
    above = [(len(place), row, kind) for row, (place, kind) in enumerate(mounts) if real.is_relative_to(place)]
    # of several mounts at one place, the last one counts
    return max(above, default=(0, 0, ""))[2] in ("tmpfs", "ramfs")
