#!/usr/bin/env bash
# Set-up, then every check that a change must pass: style, types, tests (those that need no GPU).
# Usage: bash shell/test.sh [--with-browser] [arguments of pytest]
# The search page is tested in a browser where there is one (chromium or google-chrome in the path), else these tests are
# skipped. --with-browser, or the variable CI (not empty), installs chromium first if there is none: by apt-get, as root.
set -euo pipefail
REPOSITORY=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$REPOSITORY/shell/common.sh"

with_browser=${CI:-}
arguments=()
for argument in "$@"; do
  case $argument in
    -h | --help)
      usage "$0"
      exit
      ;;
    --with-browser) with_browser=1 ;;
    *) arguments+=("$argument") ;;
  esac
done

set_up requirements.txt requirements-dev.txt requirements-milvus.txt
set_up_video
[[ -z $with_browser ]] || install_chromium
cd "$REPOSITORY"
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
"$PYTHON" -m mypy
# all tests by several processes, a file by one of them; chosen ones by one process, which starts faster
((${#arguments[@]})) || arguments=(-n auto --maxprocesses 4 --dist loadfile)
"$PYTHON" -m pytest -m "not gpu" --durations=10 "${arguments[@]}"
