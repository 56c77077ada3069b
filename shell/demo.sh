#!/usr/bin/env bash
# Everything on drawn pedestrians: set-up, data, training with all the losses, evaluation on people never trained on.
# Usage: bash shell/demo.sh [--from-scratch] [--video] [arguments of train.py]
# It starts from weights/synthpedes; with --from-scratch it does without, and the matching head stays at chance. Leaves its
# results in output/demo/ (or output/demo_from_scratch/); a second run re-uses what exists.
# --video draws footage of two cameras as well, finds the people in it by the packaged detector (about half of those drawn) and
# makes an index of their crops.
set -euo pipefail
REPOSITORY=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$REPOSITORY/shell/common.sh"
if [[ ${1:-} == -h || ${1:-} == --help ]]; then
  usage "$0"
  exit
fi

config=demo.yaml video=
while [[ ${1:-} == "--from-scratch" || ${1:-} == "--video" ]]; do
  if [[ $1 == --video ]]; then video=1; else config=demo_from_scratch.yaml; fi
  shift
done

end_with_step
set_up requirements.txt
[[ -z $video ]] || set_up_video
cd "$REPOSITORY"
DATA=data/synthpedes
RUN=output/${config%.yaml}

draw_demo_people "$DATA"
step "$PYTHON" -m dataset.prepare CUHK-PEDES "$DATA"
step "$PYTHON" train.py --config "configs/$config" --output "$RUN" --resume auto "$@"
step "$PYTHON" eval.py --config "$RUN/config.yaml" --checkpoint "$RUN/best.pth" --output "$RUN" --save-scores \
  --measures grounding --grounding-captions 200
step "$PYTHON" -m figures steps "$RUN"
step "$PYTHON" -m figures retrievals "$RUN" --config "$RUN/config.yaml"
step "$PYTHON" -m figures attention --maps evidence --checkpoint "$RUN/best.pth" --config "$RUN/config.yaml"
"$PYTHON" -c 'import json, sys; print(*(record["file_path"] for record in json.load(open(sys.argv[1]))), sep="\n")' \
  "$DATA/processed_data/test.json" > "$RUN/gallery.txt"
step "$PYTHON" search.py calibrate --checkpoint "$RUN/best.pth"
step "$PYTHON" search.py index --images "$DATA/imgs" --list "$RUN/gallery.txt" --checkpoint "$RUN/best.pth" --index "$RUN/index"
echo
echo "in $REPOSITORY/$RUN: metrics.json, grounding.json, steps.png, retrievals.png, evidence.png, best.pth, index (of the test pictures)"
echo "search them in a browser: cd $REPOSITORY && $PYTHON search.py serve --index $RUN/index"
if [[ -n $video ]]; then
  for camera in 1 2; do
    film=$RUN/footage/cam${camera}_2026-11-20_08-00-00.mp4
    [[ -e $film ]] || step "$PYTHON" -m dataset.synthpedes.footage "$film" --seconds 20 --people 6 --seed "$camera"
  done
  step "$PYTHON" search.py index --source "$RUN/footage/*.mp4" --checkpoint "$RUN/best.pth" --index "$RUN/video-index"
  echo
  echo "search the footage: cd $REPOSITORY && $PYTHON search.py serve --index $RUN/video-index, then open http://127.0.0.1:8000/"
fi
