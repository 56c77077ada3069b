"""The old name of `python -m dataset.synthpedes`, kept for scripts that use it."""

import runpy
import sys

if __name__ == "__main__":
    print("python -m dataset.synthetic is now: python -m dataset.synthpedes", file=sys.stderr)
    runpy.run_module("dataset.synthpedes", run_name="__main__", alter_sys=True)
