#!/usr/bin/env bash
# Check a benchmark on disk and write its processed_data/ folder (docs/data.md).
# Usage: bash shell/data_process.sh CUHK-PEDES|ICFG-PEDES|RSTPReid DIR [--verify-images] [--drop-ambiguous-captions] [--workers N]
#        bash shell/data_process.sh custom DIR [--table FILE] [--images FOLDER] [--columns image=path person_id=pid] [--split 0.8 0.1 0.1]
set -euo pipefail
REPOSITORY=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$REPOSITORY/shell/common.sh"

if [[ $# -ge 2 && $2 != /* && $2 != -* ]]; then
  set -- "$1" "$PWD/$2" "${@:3}"  # DIR is meant relative to the folder of the caller
fi
for ((i = 1; i < $#; i++)); do
  path=${*:i+1:1}
  if [[ ${!i} == --table || ${!i} == --images ]] && [[ $path != /* && -e $path ]]; then
    set -- "${@:1:i}" "$PWD/$path" "${@:i+2}"  # and so are these, unless the table lies in DIR
  fi
done
cd "$REPOSITORY"
exec "$PYTHON" -m dataset.prepare "$@"
