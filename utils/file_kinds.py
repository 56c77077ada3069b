"""What a file is that should be something else: a web page, a Git LFS pointer, an archive, a part of a file.

The first bytes tell. Every description continues a sentence such as "FILE cannot be read: it is ..." and ends with what
to do.
"""

import html
import json
import pickletools
import re
import zipfile
from pathlib import Path
from typing import NamedTuple

START_BYTES = 4096  # of a file, enough for every description
AGAIN = "download or copy it again"
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
WEB_PAGES = (b"<!doctype", b"<html", b"<head", b"<body", b"<script", b"<?xml", b"<error")  # in lower case
ARCHIVES = {  # first bytes -> name; a zip archive may be a checkpoint and is not one of these
    b"\x1f\x8b": "a gzip archive",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ": "an xz archive",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!": "a rar archive",
}
OTHER_PROGRAMS = {b"\x89HDF": "an HDF5 file, as Keras writes", b"GGUF": "a GGUF file, as llama.cpp reads"}
ZIP = b"PK\x03\x04"
TORCH_BEFORE_1_6 = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the pickled magic number of torch.save
PICKLES = tuple(b"\x80" + bytes([protocol]) for protocol in range(2, 6))


class Start(NamedTuple):
    """The beginning of a file, and the file's size in bytes."""

    data: bytes
    size: int

    @classmethod
    def of(cls, path: Path) -> "Start":
        with path.open("rb") as file:
            return cls(file.read(START_BYTES), path.stat().st_size)


def what_came_instead(start: Start) -> str | None:
    """Describe what a failed download or copy leaves in the place of any file; None if it does not look like that."""
    if start.size == 0:
        return f"it is empty (0 bytes): {AGAIN}"
    if start.data.startswith(LFS_POINTER):
        size = re.search(rb"^size (\d+)$", start.data, re.MULTILINE)
        of_size = f" of {int(size[1]):,} bytes" if size else ""
        return (
            f"it is a Git LFS pointer ({start.size} bytes) to the file{of_size}: run `git lfs pull` in its repository"
        )
    text = start.data.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text[:10].lower().startswith(WEB_PAGES):
        title = re.search(rb"<title[^>]*>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
        named = f" ({_one_line(title[1])!r})" if title else ""
        return f"it is a web page{named}, sent in the place of the file: download the file itself"
    if not start.data.strip(b"\0"):
        return f"it begins with {len(start.data):,} zero bytes, as an unfinished download does: {AGAIN}"
    return None


def no_tensors(path: Path) -> str | None:
    """Describe a file that cannot hold tensors, by its first bytes; None if it may hold some."""
    start = Start.of(path)
    instead = what_came_instead(start)
    if instead is not None or is_safetensors(start):
        return instead
    for first, name in ARCHIVES.items():
        if start.data.startswith(first):
            return f"it is {name}: unpack it"
    if start.data[257:262] == b"ustar":
        return "it is a tar archive: unpack it"
    for first, name in OTHER_PROGRAMS.items():
        if start.data.startswith(first):
            return f"it is {name}; PyTorch's weights are needed"
    if start.data.startswith(ZIP):
        return _no_tensors_in_zip(path, start)
    if start.data.startswith(PICKLES):
        return None if start.data.startswith(TORCH_BEFORE_1_6[: start.size]) else _code_in(path)
    text = _one_line(start.data)
    if text.isprintable() and "\ufffd" not in text:
        return f"it is a text of {start.size:,} bytes that begins with {text[:40]!r}"
    return f"it is of an unknown kind (first bytes: {start.data[:8].hex(' ')}): {AGAIN}"


def cut_off(path: Path) -> str:
    """Describe a file of which only a part is there."""
    return f"it is cut off or damaged ({path.stat().st_size:,} bytes are there): {AGAIN}"


def is_safetensors(start: Start) -> bool:
    """Whether a file begins as a safetensors file: the length of its header, and the header, which is JSON."""
    return start.data[8:9] == b"{" and int.from_bytes(start.data[:8], "little") < 100_000_000


def no_safetensors(path: Path) -> str | None:
    """Say what is wrong with a file of tensors that cannot be read as safetensors; None if that is not known."""
    if not is_safetensors(Start.of(path)):
        return "torch.save wrote it: rename it to .pth"
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length) if length < size else b""
    try:
        entries = json.loads(header)
        needed = max(entry["data_offsets"][1] for name, entry in entries.items() if name != "__metadata__")
    except (ValueError, KeyError, TypeError):
        return cut_off(path) if length >= size else None
    whole = 8 + length + needed
    return f"it is cut off ({size:,} of {whole:,} bytes are there): {AGAIN}" if size < whole else None


def _no_tensors_in_zip(path: Path, start: Start) -> str | None:
    if not zipfile.is_zipfile(path):
        return f"it is cut off ({start.size:,} bytes are there, and the end of its archive is not): {AGAIN}"
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any(name.endswith("/constants.pkl") for name in names):
        return "it is a TorchScript archive, a program with its weights: ask its makers for the state_dict"
    if not any(name.endswith("data.pkl") for name in names):
        return f"it is a zip archive of {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}: unpack it"
    return None


def _code_in(path: Path) -> str:
    """Describe a pickle that torch.save did not write."""
    held = _first_global(path)
    code = f" and holds {held}, which may run code when it is read" if held else ""
    return f"it is a pickle that torch.save did not write{code}: ask its makers for a state_dict"


def _first_global(path: Path) -> str | None:
    """Name the first function or class that a pickle asks for, without running anything."""
    strings: list[str] = []
    try:
        with path.open("rb") as file:
            for opcode, argument, _ in pickletools.genops(file):
                if opcode.name == "GLOBAL":
                    return str(argument).replace(" ", ".")
                if opcode.name == "STACK_GLOBAL":
                    return ".".join(strings[-2:])
                if isinstance(argument, str):
                    strings.append(argument)
    except (ValueError, IndexError):  # cut off, or no pickle after all
        pass
    return None


def _one_line(text: bytes) -> str:
    return " ".join(html.unescape(text.decode("utf-8", "replace")).split())[:80]
