#!/usr/bin/env bash
# Check a benchmark on disk and write its processed_data/ folder (docs/data.md).
# Usage: bash shell/data_process.sh CUHK-PEDES|ICFG-PEDES|RSTPReid DIR [--verify-images] [--workers N]
set -euo pipefail

if [[ $# -ge 2 && $2 != /* && $2 != -* ]]; then
  set -- "$1" "$PWD/$2" "${@:3}"  # DIR is meant relative to the folder of the caller
fi
if [[ ${PYTHON:-} == */* && $PYTHON != /* ]]; then
  PYTHON="$PWD/$PYTHON"
fi
cd "$(dirname "$0")/.."
if [[ -z ${PYTHON:-} && -z ${VIRTUAL_ENV:-} && -x .venv/bin/python ]]; then
  PYTHON=.venv/bin/python
fi
exec "${PYTHON:-python}" -m dataset.prepare "$@"
