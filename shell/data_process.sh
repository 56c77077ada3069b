#!/usr/bin/env bash
# Check a benchmark on disk and write its processed_data/ folder (docs/data.md).
# Usage: bash shell/data_process.sh CUHK-PEDES|ICFG-PEDES|RSTPReid DIR [--verify-images] [--drop-ambiguous-captions] [--workers N]
set -euo pipefail
REPOSITORY=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$REPOSITORY/shell/common.sh"

if [[ $# -ge 2 && $2 != /* && $2 != -* ]]; then
  set -- "$1" "$PWD/$2" "${@:3}"  # DIR is meant relative to the folder of the caller
fi
cd "$REPOSITORY"
exec "$PYTHON" -m dataset.prepare "$@"
