"""Run search.py as its command line does, inside the test's process, on a small model with random weights.

python -m torch.distributed.run ... -m tests.helpers.search_runs IMAGES [arguments of search.py]: in several processes,
with so many images in each between two commits.
"""

import json
import sys
from pathlib import Path

import pytest
import torch

import search
from gallery import update
from models.build import build_model
from training.checkpoint import save_checkpoint
from utils.config import Config
from utils.log import one_line_errors

search_command = one_line_errors(search.main)


def save_random_model(path: Path, config: Config, *, seed: int = 0) -> Path:
    """A checkpoint as training leaves it. Untrained heads score all alike, so their weights are enlarged."""
    torch.manual_seed(seed)
    model = build_model(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith(("itm_head", "vision_proj", "text_proj")):
                parameter.mul_(20)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"model": model.state_dict(), "config": config.as_dict(), "step": 0, "best": 0.0}
    save_checkpoint(content, path)
    return path


def answers(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict]:
    """What `search.py query ... --json` prints."""
    capsys.readouterr()
    assert search_command(["query", *arguments, "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


if __name__ == "__main__":
    update.FIRST_PART = update.LARGEST_PART = int(sys.argv[1])
    sys.exit(search_command(sys.argv[2:]))
