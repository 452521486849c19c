#!/usr/bin/env bash
# One command for a rented GPU machine: does everything work on CUDA, and how fast? Offline, within ten minutes.
#
#   benchmarks/gpu_check.sh [--data FOLDER] [--device cuda]
#
# Runs on the GPU: the checks of tests/devices (every method, a team in bfloat16, the `attack` command, a training that goes
# on, the forecast), the short form of benchmarks/training.py, and a search with two trials at once on one GPU with its report.
# --data takes a folder of npz files (CIFAR-10, say) for the search; else it runs on the embedded digits.
# What ends with an error, or not in time, is said in the table at the end, with the file that holds its output.
# Exit code: 0 all done, 1 something failed, 2 wrong use, 3 there is no such device.
set -uo pipefail
cd "$(dirname "$0")/.."

device=cuda data=""
while [ $# -gt 0 ]; do
    case $1 in
        --data | --device)
            [ -n "${2:-}" ] || { echo "gpu_check: $1: give a value" >&2; exit 2; }
            if [ "$1" = --data ]; then data=$2; else device=$2; fi
            shift
            ;;
        -h | --help) sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0"; exit 0 ;;
        *) echo "gpu_check: $1 is no option; see benchmarks/gpu_check.sh --help" >&2; exit 2 ;;
    esac
    shift
done
[ -z "$data" ] || [ -d "$data" ] || { echo "gpu_check: --data $data: is no folder" >&2; exit 2; }

readonly PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
readonly OUT=${OUT:-gpu_check} END=$((SECONDS + ${GPU_CHECK_S:-570}))
mkdir -p "$OUT"

"$PYTHON" - "$device" << 'PY' || exit 3
import sys

import torch

device = torch.device(sys.argv[1])
if device.type == "cuda" and not torch.cuda.is_available():
    built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "a build for the processor alone"
    sys.exit(f"gpu_check: torch {torch.__version__} ({built}) sees no GPU; `nvidia-smi` shows whether there is one")
if device.type == "cuda":
    for i in range(torch.cuda.device_count()):
        one = torch.cuda.get_device_properties(i)
        print(f"{one.name}, {one.total_memory / 1e9:.0f} GB, compute {one.major}.{one.minor}, torch {torch.__version__}")
PY

rows=() failed=0
# step NAME MOST_S COMMAND...: within what is left of the ten minutes
step() {
    local name=$1 most=$2 left=$((END - SECONDS)) begun=$SECONDS code
    shift 2
    if [ "$left" -le 5 ]; then
        rows+=("$name|-|not done: the time was over")
        failed=1
        return
    fi
    timeout --kill-after=10 $((most < left ? most : left)) "$@" > "$OUT/$name.log" 2>&1
    code=$?
    case $code in
        0) rows+=("$name|$((SECONDS - begun)) s|done") ;;
        124 | 137) rows+=("$name|$((SECONDS - begun)) s|not done in time, see $OUT/$name.log") failed=1 ;;
        *) rows+=("$name|$((SECONDS - begun)) s|FAILED ($code): $(tail -n 1 "$OUT/$name.log" | cut -c 1-120)") failed=1 ;;
    esac
    echo "${rows[-1]//|/  }"
}

export EED_SEARCH_TEST_DEVICE=$device
checks=${GPU_CHECKS:-training_goes_on member_channels member_weights member_radmm_irregular member_cstar member_learned_channels pool attack_tier_1 dry_run}
for name in $checks; do
    folder=$(mktemp -d)
    step "$name" 90 "$PYTHON" -m tests.devices.checks "$name" "$folder"
    rm -rf "$folder"
done

step training 150 "$PYTHON" benchmarks/training.py --smoke --device "$device" --out "$OUT/training.json"

space=digits more=(--set base.epochs=5 --set members.finetune.epochs=2 --set joint.epochs=1)
[ -z "$data" ] || space=cifar10_small more=(--data "$data" --set base.epochs=2 --set members.finetune.epochs=1 --set joint.epochs=1)
gpu=0.5
[ "$device" != cpu ] || gpu=0
rm -rf "$OUT/home"
step search 240 "$PYTHON" -m eed_search.cli launch "$space" "${more[@]}" --home "$OUT/home" --name gpu --local \
    --set resources.gpu=$gpu --set search.trials=4 --set search.startup_trials=2 --set search.time_budget_s=150
step report 30 "$PYTHON" -m eed_search.cli report gpu --home "$OUT/home"

echo
printf '%s\n' "${rows[@]}" | column -t -s '|' 2> /dev/null || printf '%s\n' "${rows[@]}"
echo
[ ! -s "$OUT/training.log" ] || cat "$OUT/training.log"
[ ! -s "$OUT/report.log" ] || cat "$OUT/report.log"
exit $failed
