#!/usr/bin/env bash
# The demo's pretrained start: the demo's model, trained on drawn people apart from the demo's, and exported to
# weights/synthpedes. Hours on two CPU cores; interrupt it at any time, the same command goes on from there.
# Usage: bash shell/pretrain.sh [--only-draw | arguments of train.py]
# Leaves the people in data/synthpedes_pretrain (--only-draw: no more than that) and the runs in output/synthpedes_pretrain*/.
set -euo pipefail
REPOSITORY=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$REPOSITORY/shell/common.sh"
if [[ ${1:-} == -h || ${1:-} == --help ]]; then
  usage "$0"
  exit
fi

end_with_step
set_up requirements.txt
cd "$REPOSITORY"
DATA=data/synthpedes_pretrain
RUN=output/synthpedes_pretrain
START=weights/synthpedes

draw_demo_people data/synthpedes
step "$PYTHON" -m dataset.synthpedes "$DATA" --seed 1 --apart-from data/synthpedes \
  --people-train 24000 --people-val 100 --people-test 100 --images-per-person 2
step "$PYTHON" -m dataset.prepare CUHK-PEDES "$DATA"
if [[ ${1:-} == --only-draw ]]; then exit; fi
RUNS=() NAMES=()
for part in "" _hard _chunks _words _together _words_again _together_again; do
  RUNS+=("$RUN$part") NAMES+=("$((${#NAMES[@]} + 1))${part//_/ }")
  step "$PYTHON" train.py --config "configs/synthpedes_pretrain$part.yaml" --output "$RUN$part" --resume auto "$@"
done
step "$PYTHON" -m figures steps "${RUNS[@]}" --names "${NAMES[@]}" --out "$START/curves"
step "$PYTHON" -m models.start "${RUN}_together_again/last.pth" "$START" --leave-out text_encoder.bert.embeddings.word_embeddings
grep -hoE "step [0-9]+ +(itc|mlm) .*" "${RUNS[@]/%//train.log}" > "$START/steps.log"
echo
echo "in $REPOSITORY/$START: model.safetensors, config.json, curves, steps.log (the model card there is written by hand)"
