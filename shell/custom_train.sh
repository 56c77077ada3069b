#!/usr/bin/env bash
# Train on your own data (docs/data.md) with configs/custom.yaml: one process per visible GPU, one on the CPU where there is none.
# Usage: bash shell/custom_train.sh [arguments of train.py, e.g. --output output/try --set train.batch_size=16]
# Several machines: set NNODES, NODE_RANK, MASTER_ADDR and MASTER_PORT on each of them (docs/training.md).
# Relative paths, those in the configuration too, start at the folder that the script is called from.
set -euo pipefail
REPOSITORY=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$REPOSITORY/shell/common.sh"

train custom.yaml "$@"
