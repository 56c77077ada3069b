"""Command line: python -m dataset.synthpedes OUT."""

import sys

from dataset.synthpedes.generate import main
from utils.log import one_line_errors

if __name__ == "__main__":
    sys.exit(one_line_errors(main)())
