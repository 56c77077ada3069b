"""What a file is that should hold tensors: named by its first bytes, in one line, never in PyTorch's words."""

import io
import pickle
import tarfile
import zipfile

import pytest
import torch
from safetensors.torch import save as to_safetensors
from torch import nn

from training.checkpoint import load_checkpoint, save_checkpoint
from utils.errors import UserError
from utils.file_kinds import START_BYTES, Start, what_came_instead
from utils.pretrained import read_weights

GOOGLE_DRIVE = (
    b'<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title><meta http-equiv="content-type" '
    b'content="text/html; charset=utf-8"/></head><body>Google Drive can&#39;t scan this file for viruses.</body></html>'
)
LFS_POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 348034051\n"
)
TENSORS = {"a.weight": torch.ones(40, 40), "b": torch.zeros(3)}


class Evaluates:
    """Unpickling it runs code."""

    def __reduce__(self):
        return eval, ("1 / 0",)


def saved(content, **options):
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def legacy(content):
    return saved(content, _use_new_zipfile_serialization=False)


def zipped(files):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return file.getvalue()


def tar():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("best.pth"))
    return file.getvalue()


def torchscript():
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), file)
    return file.getvalue()


def refusal_of(path, read=read_weights):
    with pytest.raises(UserError) as caught:
        read(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert "weights_only" not in message
    assert "In PyTorch" not in message
    assert "arbitrary code" not in message
    return message


@pytest.mark.parametrize("read", [read_weights, load_checkpoint])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (
            GOOGLE_DRIVE,
            "it is a web page ('Google Drive - Virus scan warning'), sent in the place of the file: download",
        ),
        (b"\xef\xbb\xbf\n <HTML><body>404", "it is a web page, sent in the place of the file"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied', "it is a web page"),
        (LFS_POINTER, "it is a Git LFS pointer (134 bytes) to the file of 348,034,051 bytes: run `git lfs pull`"),
        (b"", "it is empty (0 bytes): download or copy it again"),
        (bytes(10_000), "it begins with 4,096 zero bytes, as an unfinished download does"),
        (saved({"model": TENSORS})[:5000], "it is cut off (5,000 bytes are there, and the end of its archive is not)"),
        (legacy({"model": TENSORS})[:5000], "it is cut off or damaged (5,000 bytes are there)"),
        (zipped({"run/best.pth": "", "run/log": ""}), "it is a zip archive of run/best.pth, run/log: unpack it"),
        (tar(), "it is a tar archive: unpack it"),
        (b"\x1f\x8b\x08" + bytes(50), "it is a gzip archive: unpack it"),
        (b"\x89HDF\r\n\x1a\n", "it is an HDF5 file"),
        (b'{"error": "Access to model is restricted"}', 'it is a text of 42 bytes that begins with \'{"error": '),
        (b"\x93NUMPY\x01\x00", "it is of an unknown kind (first bytes: 93 4e 55 4d 50 59 01 00)"),
        (pickle.dumps({"a": 1}), "it is a pickle that torch.save did not write: ask its makers for a state_dict"),
        (pickle.dumps(Evaluates(), 4), "torch.save did not write and holds builtins.eval, which may run code"),
        (saved(Evaluates()), "it holds eval, which may run code when it is read"),
        (legacy(nn.Linear(2, 2)), "it holds torch.nn.modules.linear.Linear, which may run code when it is read"),
        (saved({"model": TENSORS}, pickle_protocol=4), "it holds objects, which may run code when they are read"),
        (torchscript(), "it is a TorchScript archive"),
    ],
)
def test_a_file_that_holds_no_tensors_is_named(tmp_path, read, content, reason):
    path = tmp_path / "best.pth"
    path.write_bytes(content)
    assert reason in refusal_of(path, read)


def test_only_reading_for_use_offers_to_trust_a_file(tmp_path):
    """A run resumes from its own checkpoints alone, and a gallery never runs code."""
    path = tmp_path / "best.pth"
    path.write_bytes(saved({"model": TENSORS, "hook": Evaluates()}))
    assert "--trust-checkpoint" in refusal_of(path)
    assert "--trust-checkpoint" not in refusal_of(path, load_checkpoint)


@pytest.mark.parametrize("content", [GOOGLE_DRIVE, LFS_POINTER, b""])
def test_the_same_under_another_name(tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    assert f"is not a readable safetensors file: {what_came_instead(Start(content, len(content)))}" in refusal_of(path)


@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
@pytest.mark.parametrize("save", [saved, legacy, to_safetensors])
def test_a_file_cut_anywhere_is_said_to_be_cut(tmp_path, save, share):
    path, content = tmp_path / "best.pth", save(TENSORS)
    path.write_bytes(content[: int(share * len(content))])
    assert "it is cut off" in refusal_of(path)


def test_a_cut_safetensors_file_says_how_much_is_missing(tmp_path):
    path, content = tmp_path / "model.safetensors", to_safetensors(TENSORS)
    path.write_bytes(content[:3000])
    assert f"it is cut off (3,000 of {len(content):,} bytes are there)" in refusal_of(path)


def test_safetensors_under_another_name_are_read(tmp_path):
    (tmp_path / "a.pth").write_bytes(to_safetensors(TENSORS))
    assert torch.equal(read_weights(tmp_path / "a.pth").tensors["a.weight"], TENSORS["a.weight"])


def test_tensors_of_torch_under_the_name_of_safetensors(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(saved(TENSORS))
    assert "torch.save wrote it: rename it to .pth" in refusal_of(tmp_path / "model.safetensors")


def test_safetensors_are_no_checkpoint_of_a_run(tmp_path):
    (tmp_path / "last.pth").write_bytes(to_safetensors(TENSORS))
    assert "is not a checkpoint of this program" in refusal_of(tmp_path / "last.pth", load_checkpoint)


def test_a_whole_file_is_not_suspected(tmp_path):
    save_checkpoint({"model": TENSORS}, tmp_path / "best.pth")
    start = Start.of(tmp_path / "best.pth")
    assert len(start.data) == START_BYTES
    assert what_came_instead(start) is None
    assert load_checkpoint(tmp_path / "best.pth")["model"].keys() == TENSORS.keys()
