#!/usr/bin/env bash
# Check a benchmark on disk and write its processed_data/ folder (docs/data.md).
# Usage: bash shell/data_process.sh CUHK-PEDES|ICFG-PEDES|RSTPReid DIR [--verify-images] [--drop-ambiguous-captions] [--workers N]
#        bash shell/data_process.sh custom DIR [--table FILE] [--columns image=path person_id=pid] [--split 0.8 0.1 0.1] [the above]
set -euo pipefail
REPOSITORY=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$REPOSITORY/shell/common.sh"

if [[ $# -ge 2 && $2 != /* && $2 != -* ]]; then
  set -- "$1" "$PWD/$2" "${@:3}"  # DIR is meant relative to the folder of the caller
fi
for ((i = 1; i < $#; i++)); do
  table=${*:i+1:1}
  if [[ ${!i} == --table && $table != /* && -e $table ]]; then
    set -- "${@:1:i}" "$PWD/$table" "${@:i+2}"  # and so is FILE, unless it lies in DIR
  fi
done
cd "$REPOSITORY"
exec "$PYTHON" -m dataset.prepare "$@"
