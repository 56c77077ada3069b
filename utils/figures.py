"""The old name of `python -m figures`, kept for scripts that use it."""

import runpy
import sys

if __name__ == "__main__":
    print("python -m utils.figures is now: python -m figures", file=sys.stderr)
    runpy.run_module("figures", run_name="__main__", alter_sys=True)
