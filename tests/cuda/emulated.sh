#!/usr/bin/env bash
# The CUDA backend on the card that tests/cuda/emulator plays (cmake --preset emulated): emulator_check and cuda_parity, then
# logits of two tiny random models against the CPU's, in two chunk sizes and two orders of fibers, which must not matter.
# tests/cuda/emulated.sh [BUILD]; default build/emulated.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
build=${1:-build/emulated}
for flag in avx2 fma f16c; do
    grep -qw "$flag" /proc/cpuinfo || { echo "this processor has no $flag, which the emulated card needs"; exit 77; }
done
python=python3
[ ! -x .venv/bin/python ] || python=.venv/bin/python
status=0
"$build/emulator_check" || status=1
"$build/cuda_parity" || status=1
"$build/cuda_step" || status=1

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for ((i = 0; i < 200; i++)); do echo $(((i * 37 + i / 7) % 240 + 5)); done >"$work/ids"
"$build/tiny" "$work/llama" heads=4 kv_heads=2 head_dim=64
"$build/tiny" "$work/qwen2" arch=qwen2 heads=3 kv_heads=1 head_dim=128
run() { # OUT MODEL FORMAT CHUNK LEVEL [BITS]
    "$build/logits" "$work/$2" "$3" "$4" 1 "${@:5}" <"$work/ids" >"$work/$1"
}
for model in llama qwen2; do
    for case in "f16 2e-5" "o2 1e-2"; do
        read -r format limit <<<"$case"
        run cpu $model "$format" 64 auto 16
        run card $model "$format" 64 cuda
        OCTAVO_EMULATED_SEED=2 run chunked $model "$format" 37 cuda
        cmp "$work/card" "$work/chunked" || { echo "$model $format: logits depend on the chunk or the seed"; status=1; }
        "$python" tests/cuda/kl.py "$model $format: CPU to card" "$work/cpu" "$work/card" 200 "$limit" || status=1
    done
done
exit $status
