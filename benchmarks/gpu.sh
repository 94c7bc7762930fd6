#!/usr/bin/env bash
# One command for a machine with a GPU and no network: build the CUDA operators, run the GPU tests, measure, train,
# and leave one report in Markdown. It takes at most ten minutes.
#
#     benchmarks/gpu.sh                           # the report is build/gpu/report.md
#     PYTHON=python3 WHEELS=wheels benchmarks/gpu.sh /tmp/report.md
#     BCCD=/data/BCCD benchmarks/gpu.sh           # where the data set of configs/bccd_r101.py lies
#
# Where PYTHON lacks packages, they are installed from the folder WHEELS into build/gpu/site. Without a GPU the same
# steps run on the CPU, as small as they can be, and the tests that need a GPU are skipped.
set -uo pipefail
cd "$(dirname "$0")/.."
report=$(realpath -m "${1:-build/gpu/report.md}")
work=$PWD/build/gpu
mkdir -p "$work" "$(dirname "$report")"
python=${PYTHON:-$(test -x .venv/bin/python && echo .venv/bin/python || echo python3)}
export PYTHONPATH="$PWD:$work/site${PYTHONPATH:+:$PYTHONPATH}" NO_ALBUMENTATIONS_UPDATE=1 PYTHONUNBUFFERED=1
began=$SECONDS
failed=0

# step TITLE SECONDS COMMAND…: run it, at most so long, and put what it prints into the report. Lines of a table stay
# lines of a table.
step() {
  local title=$1 limit=$2 status took
  shift 2
  printf '\n## %s\n\n`%s`\n\n' "$title" "$*" >> "$report"
  took=$SECONDS
  timeout --kill-after=5 "$limit" "$@" > "$work/output" 2> "$work/errors"
  status=$?
  took=$((SECONDS - took))
  if grep -q '^|' "$work/output"; then
    grep '^|' "$work/output" >> "$report"
    printf '\n' >> "$report"
  else
    { echo '```'; tail -n 40 "$work/output"; echo '```'; } >> "$report"
  fi
  case $status in
    0) echo "Done in $took s." >> "$report" ;;
    124 | 137) echo "Stopped after $limit s." >> "$report"; failed=1 ;;
    *) { echo "**Failed** with status $status after $took s:"; echo '```'; tail -n 30 "$work/errors"; echo '```'; } >> "$report"
       failed=1 ;;
  esac
  echo "$title: status $status, $took s"
}

if [ -n "${WHEELS:-}" ]; then
  "$python" -m pip install --quiet --no-index --no-deps --no-compile --upgrade --target "$work/site" "$WHEELS"/*.whl
fi
if ! "$python" -c "import torch, torchvision"; then
  echo "error: $python has no torch and torchvision: name one that has as PYTHON." >&2
  exit 1
fi
device=$("$python" -c "import torch; print('cuda' if torch.cuda.is_available() else 'cpu')")
{
  echo "# resdet on $(hostname), $(date -u '+%Y-%m-%d %H:%M') UTC"
  echo
  echo "Commit $(git rev-parse --short HEAD 2> /dev/null || echo unknown)."
  "$python" - << 'PY'
import platform, torch, torchvision
print(f"Python {platform.python_version()}, torch {torch.__version__}, torchvision {torchvision.__version__}.")
if torch.cuda.is_available():
    own = torch.cuda.get_device_properties(0)
    print(f"{own.name}, {own.total_memory / 2**30:.0f} GiB, compute capability {own.major}.{own.minor}.")
else:
    print("No GPU here: the steps run on the CPU, as small as they can be, and say nothing of a GPU.")
PY
} > "$report"

step "Building the operators" 180 "$python" setup.py --quiet build_ext --inplace
step "What was built" 60 "$python" -m resdet.ops
step "GPU tests" 90 "$python" -m pytest -q -p no:cacheprovider -m gpu tests
if [ "$device" = cuda ]; then
  step "Operators" 60 "$python" benchmarks/gpu.py operators
  step "Detectors" 110 "$python" benchmarks/gpu.py detectors --minutes 1.5
  step "Detectors, eight images at a time" 60 "$python" benchmarks/gpu.py detectors --images 8 --rounds 5 --minutes 0.5
  size=()
else
  step "Operators" 120 "$python" benchmarks/gpu.py operators --regions 10 --boxes 500 --rounds 1
  step "Detectors" 180 "$python" benchmarks/gpu.py detectors --size 64 96 --proposals 10 --rounds 1 --minutes 0.5
  size=(--model.depth 18 --data.short-sides 96 --data.test-short-side 96 --data.max-side 128 --solver.batch-size 2)
  size+=(--solver.steps 4 --solver.milestones 3 --solver.warmup-steps 1 --solver.eval-every 4 --solver.save-every 4)
fi

# Training: the recipe bccd_r101 on BCCD, or on drawn shapes where that is not at hand. Its weights come from the
# network: where they are not in torch's cache, they start at random.
data=${BCCD:-datasets/bccd}
classes=()
if [ ! -d "$data" ]; then
  data=$work/shapes
  "$python" -m resdet.data.shapes "$data" > "$work/output" 2>&1
  classes=(--data.classes circle square triangle star ring cross --data.train train --data.val val)
fi
cache=${TORCH_HOME:-$HOME/.cache/torch}/hub/checkpoints
weights=()
ls "$cache"/resnet101-*.pth > "$work/output" 2>&1 || weights=(--init-weights "" --model.norm sync_batch --model.freeze)
if [ "$device" = cuda ]; then
  size=(--solver.steps 400 --solver.milestones 300 --solver.eval-every 400 --solver.save-every 400)
fi
rm -rf "$work/runs"
step "Training bccd_r101" 150 "$python" -m resdet train-det configs/bccd_r101.py --runs "$work/runs" \
  --data.root "$data" "${classes[@]}" "${weights[@]}" "${size[@]}" --solver.log-every 50

printf '\nAll of it took %d s.\n' $((SECONDS - began)) >> "$report"
echo "The report is $report."
exit $failed
