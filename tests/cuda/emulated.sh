#!/usr/bin/env bash
# The CUDA backend on the card that tests/cuda/emulator plays (cmake --preset emulated): emulator_check, cuda_parity,
# cuda_step and cuda_packed, then logits of two tiny random models against the CPU's, in two chunk sizes and two orders of
# fibers, which must not matter, and of two with their weights in fp16 and as in the file, which must not matter either.
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
"$build/cuda_packed" || status=1

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for ((i = 0; i < 200; i++)); do echo $(((i * 37 + i / 7) % 240 + 5)); done >"$work/ids"
"$build/tiny" "$work/llama" heads=4 kv_heads=2 head_dim=64
"$build/tiny" "$work/qwen2" arch=qwen2 heads=3 kv_heads=1 head_dim=128
"$build/tiny" "$work/q4_k" head_dim=64 embd=256 ff=256 dtype=12
"$build/tiny" "$work/mixed" arch=qwen2 embd=256 ff=512 tied=1 dtype=8 gate=12 down=14 v=14
run() { # OUT MODEL FORMAT CHUNK LEVEL [BITS [WEIGHTS]]
    "$build/logits" "$work/$2" "$3" "$4" 1 "${@:5}" <"$work/ids" >"$work/$1"
}
for model in llama qwen2; do
    for case in "f16 2e-5" "o2 1e-2" "rotatekv 1e-2"; do
        read -r format limit <<<"$case"
        run cpu $model "$format" 64 auto 16
        run card $model "$format" 64 cuda
        OCTAVO_EMULATED_SEED=2 run chunked $model "$format" 37 cuda
        cmp "$work/card" "$work/chunked" || { echo "$model $format: logits depend on the chunk or the seed"; status=1; }
        "$python" tests/cuda/kl.py "$model $format: CPU to card" "$work/cpu" "$work/card" 200 "$limit" || status=1
    done
done
head -130 "$work/ids" >"$work/fewer" && mv "$work/fewer" "$work/ids"
for model in q4_k mixed; do # weights in fp16 and as in the file: the same bits
    run f16 $model f16 96 cuda 0 f16
    run file $model f16 96 cuda 0 file
    run few $model f16 37 cuda 0 file
    cmp "$work/f16" "$work/file" || { echo "$model: logits depend on the form of the weights"; status=1; }
    cmp "$work/file" "$work/few" || { echo "$model: with weights as in the file logits depend on the chunk"; status=1; }
done
exit $status
