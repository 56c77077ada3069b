"""Image tokens of a gallery, kept until they are re-ranked. I images, K image tokens, D width.

On the device where they fit beside what else is needed there, else in the machine's memory, else in a temporary file
that is mapped piece by piece, so that a gallery may be larger than the memory.
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
SHARE_OF_MEMORY = 0.5  # of what is free, that the tokens may take; the rest is for the work on them
DISK_FOLDER = Path("/var/tmp")  # for temporary files too, and on a disk where /tmp is kept in memory
_MOUNTS = Path("/proc/self/mounts")


class TokenStore:
    """Tokens of num_images images, appended in order and read by row.

    Args:
        num_images: that will be appended in all.
        device: where they are read to.
    """

    def __init__(self, num_images: int, device: torch.device) -> None:
        self.num_images, self.device = num_images, device
        self.place: Literal["device", "memory", "file"] | None = None  # known with the first tokens, like the next two
        self.shape = torch.Size()  # (K, D)
        self.dtype = torch.float32
        self._tokens: Tensor | None = None
        self._file: BinaryIO | None = None
        self._folder: Path | None = None  # of the file, which has no name
        self._filled = 0

    def __len__(self) -> int:
        return self._filled

    def append(self, tokens: Tensor) -> None:
        """The next images' tokens (n, K, D), n > 0; kept in the dtype of the matrix products that will read them.

        Raises: UserError where neither memory nor disk holds the gallery.
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
        """Tokens of images rows (n,), on the CPU and ascending: (n, K, D) on the device."""
        if self._tokens is not None:
            return self._tokens[rows.to(self._tokens.device)].to(self.device)
        assert self._file is not None
        self._file.flush()
        shape = (self._filled, *self.shape[:-1], self.shape[-1] * self.dtype.itemsize)
        # a mapping of its own for each read, as pages once read count as this process's until they are unmapped
        mapped = np.memmap(self._file, dtype=np.uint8, mode="r", shape=shape)
        return torch.from_numpy(np.ascontiguousarray(mapped[rows.numpy()])).view(self.dtype).to(self.device)

    def _choose_place(self, num_bytes: int) -> None:
        if self.device.type != "cpu" and num_bytes <= SHARE_OF_MEMORY * available_bytes(self.device):
            self.place = "device"
        elif num_bytes <= SHARE_OF_MEMORY * available_bytes(CPU):
            self.place = "memory"
        else:
            self.place, self._folder = "file", folder_for(num_bytes)
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115  it goes with the store
        logger.info("image tokens: %.1f GB, kept in %s", num_bytes / 1e9, self._described())

    def _described(self) -> str:
        if self.place == "file":
            return f"a temporary file in {self._folder}"
        return f"the memory of {self.device}" if self.place == "device" else "memory"


def folder_for(num_bytes: int) -> Path:
    """Where a temporary file of so many bytes goes: TMPDIR or what the system has, but not into memory if avoidable.

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
    """Whether its files take memory (tmpfs). False where that cannot be known."""
    try:
        mounts = [line.split(" ")[1:3] for line in _MOUNTS.read_text().splitlines()]
    except OSError:  # not Linux
        return False
    real = folder.resolve()
    above = [(len(place), row, kind) for row, (place, kind) in enumerate(mounts) if real.is_relative_to(place)]
    return max(above, default=(0, 0, ""))[2] in ("tmpfs", "ramfs")  # of several at one place the last one counts
