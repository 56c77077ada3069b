#!/usr/bin/env bash
# Train on the machines of a Slurm cluster: one torchrun per machine, one process per GPU. An example, to be adapted.
# Usage: sbatch shell/slurm_train.sh [arguments of train.py, e.g. --config configs/icfg_pedes.yaml --output output/icfg]
# Options of sbatch override the lines below: sbatch --nodes=4 --gpus-per-node=8 shell/slurm_train.sh
# Submit it from the repository's folder. Relative paths start there.
#SBATCH --job-name=mamba-tbps
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --mem=200G
#SBATCH --time=24:00:00
#SBATCH --output=slurm-%j.log
#SBATCH --open-mode=append
# Three minutes before the time is up this script gets SIGTERM, and passes it on: train.py finishes its step, saves and
# ends, and the job goes back into the queue. After a machine has failed Slurm puts it back by itself. Either way
# --resume auto goes on from last.pth.
#SBATCH --signal=B:TERM@180
#SBATCH --requeue
set -euo pipefail
REPOSITORY=${SLURM_SUBMIT_DIR:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)}  # Slurm runs a copy of this file
source "$REPOSITORY/shell/common.sh"
if [[ ${1:-} == -h || ${1:-} == --help ]]; then
  usage "${BASH_SOURCE[0]}"
  exit
fi
if [[ -z ${SLURM_JOB_ID:-} ]]; then
  echo "error: not within a Slurm job: start it by sbatch $0, or use shell/cuhk_train.sh" >&2
  exit 2
fi

gpus=${SLURM_GPUS_ON_NODE:-1}
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 20000))  # so that two jobs on one machine do not meet
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1  # else processes that start again would find the addresses of those before
export OMP_NUM_THREADS=$(((${SLURM_CPUS_PER_TASK:-gpus} + gpus - 1) / gpus))

# A worker that dies is started again together with all others, three times at most, from last.pth. The number of
# processes may change between two runs as long as batch_size x processes stays the same (docs/training.md).
srun --kill-on-bad-exit=1 "$PYTHON" -m torch.distributed.run \
  --nnodes="$SLURM_NNODES" --nproc_per_node="$gpus" --max-restarts=3 \
  --rdzv_backend=c10d --rdzv_id="$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}" --rdzv_endpoint="$first:$port" \
  "$REPOSITORY/train.py" --config "$REPOSITORY/configs/cuhk_pedes.yaml" --resume auto "$@" &
started=$!
time_is_up=
trap 'time_is_up=1; kill -TERM "$started"' TERM

status=0
wait "$started" || status=$?
if [[ -n $time_is_up ]]; then
  wait "$started" || true  # the first wait ended with the signal, the run has not yet
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
