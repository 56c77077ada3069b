"""Program for torchrun: train.py, in which rank 1 is killed before its second step, the first time that it gets there.

python -m torch.distributed.run --max-restarts=1 ... -m tests.helpers.killed_once FOLDER [arguments of train.py]
"""

import os
import signal
import sys
from pathlib import Path

import train


def main() -> None:
    note, own_step = Path(sys.argv[1]) / "killed", train.train_step

    def killed_at_the_second(state, *args):
        if os.environ["RANK"] == "1" and state.step == 1 and not note.exists():
            note.write_text(f"rank 1 after step {state.step}")
            os.kill(os.getpid(), signal.SIGKILL)
        return own_step(state, *args)

    train.train_step = killed_at_the_second
    train.main(sys.argv[2:])


if __name__ == "__main__":
    main()
