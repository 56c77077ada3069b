"""Where image tokens are kept, and what is read back."""

import logging
import shutil

import pytest
import torch

from evaluation import token_store
from evaluation.token_store import TokenStore
from utils import memory
from utils.errors import UserError
from utils.memory import available_bytes

CPU = torch.device("cpu")


def filled(tokens: torch.Tensor) -> TokenStore:
    store = TokenStore(len(tokens), CPU)
    for part in tokens.split(3):
        store.append(part)
    return store


@pytest.fixture
def little_memory(monkeypatch, tmp_path):
    monkeypatch.setattr(token_store, "available_bytes", lambda _: 1000)
    monkeypatch.setattr(token_store.tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("place", ["memory", "file"])
def test_what_is_read_is_what_was_appended(place, dtype, request):
    if place == "file":
        request.getfixturevalue("little_memory")
    tokens = torch.randn(10, 5, 7, generator=torch.Generator().manual_seed(0)).to(dtype)
    store = filled(tokens)
    assert (store.place, store.dtype, store.shape, len(store)) == (place, dtype, (5, 7), 10)
    for rows in ([0], [2, 3, 4], [0, 5, 9], list(range(10))):
        assert torch.equal(store.read(torch.tensor(rows)), tokens[rows])


@pytest.mark.usefixtures("little_memory")
def test_reading_between_appending():
    tokens = torch.randn(4, 5, 7)
    store = TokenStore(4, CPU)
    store.append(tokens[:2])
    assert torch.equal(store.read(torch.tensor([1])), tokens[1:2])
    store.append(tokens[2:])
    assert torch.equal(store.read(torch.arange(4)), tokens)


def test_autocast_keeps_tokens_as_its_products_take_them():
    tokens = torch.randn(2, 3, 4)
    with torch.autocast("cpu", torch.bfloat16):
        store = filled(tokens)
    assert torch.equal(store.read(torch.arange(2)), tokens.bfloat16())


def test_the_file_is_announced_and_leaves_nothing_behind(little_memory, caplog):
    with caplog.at_level(logging.INFO, "evaluation.token_store"):
        store = filled(torch.randn(10, 5, 7))
    assert f"kept in a temporary file in {little_memory}" in caplog.text
    del store
    assert list(little_memory.iterdir()) == []


def test_neither_memory_nor_disk(little_memory, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 500))
    with pytest.raises(UserError, match=rf"{little_memory} has 0\.0 GB left; set TMPDIR"):
        filled(torch.randn(10, 5, 7))


@pytest.fixture
def mounts(monkeypatch, tmp_path):
    """tmp_path/memory is a tmpfs, tmp_path/disk is not; they stand for /tmp and /var/tmp."""
    for name in ("memory", "disk"):
        (tmp_path / name).mkdir()
    kinds = {"/": "ext4", tmp_path: "ext4", tmp_path / "memory": "tmpfs"}
    (tmp_path / "mounts").write_text("".join(f"none {place} {kind} rw 0 0\n" for place, kind in kinds.items()))
    monkeypatch.setattr(token_store, "_MOUNTS", tmp_path / "mounts")
    monkeypatch.setattr(token_store.tempfile, "tempdir", str(tmp_path / "memory"))
    monkeypatch.setattr(token_store, "DISK_FOLDER", tmp_path / "disk")
    return tmp_path


def test_a_folder_in_memory_is_known(mounts):
    assert token_store.in_memory(mounts / "memory")
    assert token_store.in_memory(mounts / "memory" / "below")
    assert not token_store.in_memory(mounts / "disk")
    assert not token_store.in_memory(mounts / "memory2")
    with (mounts / "mounts").open("a") as file:
        file.write(f"none {mounts / 'memory'} btrfs rw 0 0\n")  # a disk mounted over it
    assert not token_store.in_memory(mounts / "memory")
    (mounts / "mounts").unlink()  # not Linux
    assert not token_store.in_memory(mounts / "memory")


def test_a_file_of_tokens_goes_to_a_disk(mounts, monkeypatch, caplog):
    monkeypatch.setattr(token_store, "available_bytes", lambda _: 1000)
    tokens = torch.randn(10, 5, 7)
    with caplog.at_level(logging.INFO, "evaluation.token_store"):
        store = filled(tokens)
    assert f"kept in a temporary file in {mounts / 'disk'}" in caplog.text
    assert torch.equal(store.read(torch.arange(10)), tokens)
    caplog.clear()
    monkeypatch.setattr(token_store.tempfile, "tempdir", str(mounts))  # TMPDIR on a disk stays
    assert token_store.folder_for(10) == mounts
    assert caplog.text == ""


def test_a_file_in_memory_is_the_last_resort_and_said(mounts, monkeypatch, caplog):
    monkeypatch.setattr(token_store, "DISK_FOLDER", mounts / "missing")
    assert token_store.folder_for(10) == mounts / "memory"
    assert "memory is kept in memory, which may run out: set TMPDIR to a folder on a disk" in caplog.text


def test_free_memory_of_the_machine_and_of_a_container(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    (tmp_path / "meminfo").write_text("MemTotal: 2000 kB\nMemAvailable:   1000 kB\n")
    assert available_bytes(CPU) == 1000 * 1024
    for name, text in {"max": "max\n", "current": "700000\n", "stat": "anon 5\ninactive_file 100000\n"}.items():
        (tmp_path / f"memory.{name}").write_text(text)
    assert available_bytes(CPU) == 1000 * 1024  # a container without a limit
    (tmp_path / "memory.max").write_text("900000\n")
    assert available_bytes(CPU) == 300_000  # files that were read count as free
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert available_bytes(CPU) == 100_000
    (tmp_path / "meminfo").unlink()  # not Linux
    (tmp_path / "memory.max").unlink()
    assert available_bytes(CPU) > 10**6
