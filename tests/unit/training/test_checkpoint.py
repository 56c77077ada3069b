"""Checkpoint files: whole or not at all, and no code in them is run."""

import pickle
import resource

import pytest
import torch

from training.checkpoint import load_checkpoint, save_checkpoint
from utils.errors import UserError


def test_round_trip_of_tensors_and_plain_values(tmp_path):
    content = {"model": {"w": torch.randn(3, 2)}, "step": 4, "best": -1.0, "names": ["a"], "nothing": None}
    save_checkpoint(content, tmp_path / "a.pth")
    read = load_checkpoint(tmp_path / "a.pth")
    assert torch.equal(read["model"]["w"], content["model"]["w"])
    assert {key: read[key] for key in ("step", "best", "names", "nothing")} == {
        key: content[key] for key in ("step", "best", "names", "nothing")
    }
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]


@pytest.fixture
def small_files_only():
    """The system refuses to let any file grow beyond 200 kB: what a full disk does to a writer half way."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("small_files_only")
def test_a_write_that_fails_half_way_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.pth"
    save_checkpoint({"step": 1}, path)
    with pytest.raises(UserError, match=r"cannot write checkpoint .*a\.pth \(.*\); what was saved before is untouched"):
        save_checkpoint({"step": 2, "large": torch.zeros(100_000)}, path)
    assert load_checkpoint(path)["step"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]


def test_a_folder_that_is_none(tmp_path):
    with pytest.raises(UserError, match="No such file or directory"):
        save_checkpoint({}, tmp_path / "no" / "a.pth")


def test_a_file_that_is_missing_cut_off_foreign_or_code(tmp_path):
    with pytest.raises(UserError, match=r"a\.pth does not exist"):
        load_checkpoint(tmp_path / "a.pth")
    save_checkpoint({"w": torch.ones(1000)}, tmp_path / "a.pth")
    data = (tmp_path / "a.pth").read_bytes()
    (tmp_path / "a.pth").write_bytes(data[:1000])
    with pytest.raises(UserError, match="cannot be read"):
        load_checkpoint(tmp_path / "a.pth")
    torch.save({"w": torch.ones(1)}, tmp_path / "a.pth")
    with pytest.raises(UserError, match="not a checkpoint of this program; foreign weights go to --init"):
        load_checkpoint(tmp_path / "a.pth")


class WritesAFile:
    def __init__(self, path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def test_code_in_a_file_is_not_run(tmp_path):
    victim = tmp_path / "victim"
    torch.save({"format": "mamba-tbps 1", "model": WritesAFile(victim)}, tmp_path / "a.pth")
    with pytest.raises(UserError, match="cannot be read"):
        load_checkpoint(tmp_path / "a.pth")
    (tmp_path / "b.pth").write_bytes(pickle.dumps(WritesAFile(victim)))
    with pytest.raises(UserError, match="cannot be read"):
        load_checkpoint(tmp_path / "b.pth")
    assert not victim.exists()
