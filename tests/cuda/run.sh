#!/usr/bin/env bash
# On a machine with a card: builds octavo with CUDA, checks the backend against the CPU's and times it; decode
# attention beside PyTorch's where there is PyTorch.
# tests/cuda/run.sh [ARCHITECTURE]; default 90a-real (H100, H200). MODEL=file.gguf IDS=file also compares a model's
# logits, in two chunk sizes and two formats; IDS has token ids, one a line.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
cmake --preset cuda -DCMAKE_CUDA_ARCHITECTURES="${1:-90a-real}"
cmake --build build/cuda --target cuda_parity cuda_step cuda_packed cuda_bench cuda_bench_step cuda_fault logits octavo
status=0
build/cuda/cuda_parity || status=$?
if [ "$status" = 77 ]; then
    echo "SKIPPED: no card, nothing was checked" >&2
    exit 77
fi
build/cuda/cuda_step || status=$?
build/cuda/cuda_packed || status=$?
if command -v compute-sanitizer >/dev/null; then
    compute-sanitizer --error-exitcode 1 build/cuda/cuda_step || status=$?
    compute-sanitizer --error-exitcode 1 build/cuda/cuda_parity || status=$?
    compute-sanitizer --error-exitcode 1 build/cuda/cuda_packed || status=$?
    compute-sanitizer --tool racecheck --error-exitcode 1 build/cuda/cuda_packed || status=$?
    compute-sanitizer --tool racecheck --error-exitcode 1 build/cuda/cuda_step || status=$?
fi
if [ -e models/smollm2.gguf ]; then # the server on the card, which is broken there too
    python=python3
    [ ! -x .venv/bin/python ] || python=.venv/bin/python
    OCTAVO_BIN=build/cuda/octavo OCTAVO_API_DEVICE=cuda $python -m pytest -q -rs tests/api/test_device.py || status=$?
fi
build/cuda/cuda_bench
build/cuda/cuda_bench_step
build/cuda/octavo bench kernels --device cuda --shape llama-8b --types F16 --tokens 1,16,64,256,1024 --formats f16,o2 \
    --contexts 8000 --batches 1,64 --ms 50 --kernels matmul,attention,prefill,store,seal
build/cuda/octavo bench kernels --device cuda --shape llama-8b --types F16,Q8_0,Q4_K,Q6_K --tokens 1,8,16,32,64,128,256,1024 \
    --ms 50 --kernels matmul
if python3 -c 'import torch' 2>/dev/null; then
    python3 tests/cuda/sdpa.py
else
    echo "SKIPPED: PyTorch's attention; it is not here"
fi
if [ -n "${MODEL:-}" ] && [ -n "${IDS:-}" ]; then
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    for format in f16 o2 rotatekv; do
        build/cuda/logits "$MODEL" $format 256 8 auto 16 <"$IDS" >"$work/cpu"
        build/cuda/logits "$MODEL" $format 256 8 cuda <"$IDS" >"$work/cuda"
        build/cuda/logits "$MODEL" $format 37 8 cuda <"$IDS" >"$work/chunked"
        cmp "$work/cuda" "$work/chunked" || { echo "$format: logits depend on the chunk"; status=1; }
        python3 tests/cuda/kl.py "$format: CPU to card" "$work/cpu" "$work/cuda" "$(wc -l <"$IDS")"
    done
fi
exit $status
