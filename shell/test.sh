#!/usr/bin/env bash
# Set-up, then every check that a change must pass: style, types, tests (those that need no GPU).
# Usage: bash shell/test.sh [arguments of pytest]
set -euo pipefail
REPOSITORY=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$REPOSITORY/shell/common.sh"
if [[ ${1:-} == -h || ${1:-} == --help ]]; then
  usage "$0"
  exit
fi
set_up requirements.txt requirements-milvus.txt
install_chromium
cd "$REPOSITORY"
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
"$PYTHON" -m mypy
"$PYTHON" -m pytest -m "not gpu" --durations=10 "$@"
