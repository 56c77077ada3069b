"""Run search.py as its command line does, inside the test's process.

python -m torch.distributed.run ... -m tests.helpers.search_runs IMAGES [arguments of search.py]: in several processes,
each of which encodes IMAGES images between two commits.
"""

import json
import sys

import pytest
import torch

import search
from gallery.indexing import encode_parts
from utils.distributed import Process
from utils.log import one_line_errors

CPU = Process(0, 1, 0, torch.device("cpu"))
TOP_K = 3  # eval.rerank_top_k of the tests' model

search_command = one_line_errors(search.main)


def answers(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict]:
    """What `search.py query ... --json` prints."""
    capsys.readouterr()
    assert search_command(["query", *arguments, "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


if __name__ == "__main__":
    encode_parts.FIRST_PART = encode_parts.LARGEST_PART = int(sys.argv[1])
    sys.exit(search_command(sys.argv[2:]))
