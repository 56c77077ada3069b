"""Program for torchrun: train.py, with what every process holds at the end written to a folder.

python -m torch.distributed.run ... -m tests.helpers.two_processes FOLDER [arguments of train.py]
"""

import os
import sys
from pathlib import Path

import torch

import train


def main() -> None:
    folder, own_save = Path(sys.argv[1]), train.save_state

    def save_everywhere(state, *args, **options):
        modules = {name: getattr(state, name).state_dict() for name in ("model", "momentum_encoder", "queue")}
        torch.save(modules, folder / f"rank{os.environ['RANK']}.pth")
        own_save(state, *args, **options)

    train.save_state = save_everywhere
    train.main(sys.argv[2:])


if __name__ == "__main__":
    main()
