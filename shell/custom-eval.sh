#!/usr/bin/env bash
# Evaluate a checkpoint on your own data: metrics.json is written to the folder eval-test beside the checkpoint.
# Usage: bash shell/custom-eval.sh [CHECKPOINT] [arguments of eval.py, e.g. --split val --save-scores]
# Relative paths, those in the configuration too, start at the folder that the script is called from.
set -euo pipefail
REPOSITORY=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$REPOSITORY/shell/common.sh"

# ---- edit this line, or give the checkpoint as first argument ----
CHECKPOINT=output/custom/best.pth

evaluate custom.yaml "$CHECKPOINT" "$@"
