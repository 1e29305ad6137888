#!/usr/bin/env bash
# Runs every test: tests/run.sh [--all] [WHAT...]
#   no argument   release and emulated: builds release; unit tests, fuzz corpora, API, tokenizer, kernel and golden suites,
#                 metrics, layers; the CUDA backend on an emulated card (docs/cuda.md)
#   --all         the same, and under the asan and tsan builds, and the format check
#   WHAT          only these: release, debug, asan, tsan, emulated, format, docker (builds and tries the image; needs root)
# Installs what it needs first (tests/setup.sh). Models are looked for in $OCTAVO_MODELS (default: models/), chat templates
# (*.jinja) in $OCTAVO_TEMPLATES (models/templates/); what needs one that is not there is skipped and listed at the end.
# What starts servers and depends on time (the API, bench, deploy and page tests; unit tests that time out under a sanitizer) has a
# second try, the failed tests alone; what passes only then is listed at the end. What compares results has none.
# Logs and reports: build/results/.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

presets=() emulated=no format=no docker=no
[ $# -gt 0 ] || set -- release emulated
for argument in "$@"; do
    case $argument in
    --all) presets=(release asan tsan) emulated=yes format=yes ;;
    release | debug | asan | tsan) presets+=("$argument") ;;
    emulated) emulated=yes ;;
    format) format=yes ;;
    docker) docker=yes ;;
    -h | --help) sed -n '2,11s/^# \?//p' "$0"; exit 0 ;;
    *) echo "run: unknown argument '$argument': --all, release, debug, asan, tsan, emulated, format, docker" >&2; exit 2 ;;
    esac
done

bash tests/setup.sh build test || exit 1
[ $format = no ] || bash tests/setup.sh check || exit 1

OCTAVO_MODELS=$(realpath -m "${OCTAVO_MODELS:-models}")
export OCTAVO_MODELS
export PATH="$PWD/build/tools:$PATH"
export ASAN_OPTIONS=${ASAN_OPTIONS:-detect_leaks=1:strict_string_checks=1}
export UBSAN_OPTIONS=${UBSAN_OPTIONS:-print_stacktrace=1}
export TSAN_OPTIONS=${TSAN_OPTIONS:-halt_on_error=1:second_deadlock_stack=1}
results=build/results
rm -rf "$results"
mkdir -p "$results"

# NAME COMMAND...: runs it with its output in NAME.log; a failure shows the end of the log and is counted later.
step() {
    local name=$1 start=$SECONDS status=0
    shift
    printf '== %s ... ' "$name"
    "$@" >"$results/$name.log" 2>&1 </dev/null || status=$?
    printf '%s\t%s\t%s\n' "$name" "$status" $((SECONDS - start)) >>"$results/steps.tsv"
    if [ $status = 0 ]; then
        printf 'ok (%d s)\n' $((SECONDS - start))
    elif [ $status = 77 ]; then
        printf 'SKIPPED: %s\n' "$(tail -n 1 "$results/$name.log")"
    else
        printf 'FAILED with status %d (%d s), the end of %s:\n' $status $((SECONDS - start)) "$results/$name.log"
        tail -n 60 "$results/$name.log"
    fi
    return $status
}

# What a second try must not hide: results that differ where they must be equal, a sanitizer's finding, a server that crashed.
promises='equal or same or bit or alone or determin or parity or computed or compute_once or nothing or little_room or cache_file or swap_file or torture'
faults='Sanitizer|runtime error:|exit status -?[0-9]|ended with -|core dumped'

# NAME COMMAND...: a step of pytest whose failed tests are run once more.
step_twice() {
    local name=$1 status=0
    shift
    step "$name" "$@" -o cache_dir="$PWD/$results/cache/$name" --junit-xml="$results/$name.xml" || status=$?
    [ $status = 1 ] || return $status
    if grep -qE "$faults" "$results/$name.log"; then
        echo "   no second try: the log tells of a fault that is none of time"
        return $status
    fi
    step "$name-again" "$@" -o cache_dir="$PWD/$results/cache/$name" --junit-xml="$results/$name-again.xml" \
        --last-failed --last-failed-no-failures none -k "not ($promises)"
}

# PRESET: the unit tests; those that time out under a sanitizer, once more, one at a time.
unit_tests() {
    local late status=0
    step "$1-unit" fixed_layout ctest --preset "$1" -j "$(nproc)" --no-tests=error --output-junit "$PWD/$results/$1-unit.xml" \
        || status=$?
    case $1 in asan | tsan) ;; *) return $status ;; esac
    late=$(sed -nE 's/^\s+[0-9]+ - (\S+) \(Timeout\).*/\1/p' "$results/$1-unit.log" | paste -sd '|')
    [ -z "$late" ] || step "$1-unit-again" fixed_layout ctest --preset "$1" -R "^($late)\$" --no-tests=error \
        --output-junit "$PWD/$results/$1-unit-again.xml"
}

build() {
    cmake --preset "$1" -D OCTAVO_WERROR="${OCTAVO_WERROR:-OFF}" && cmake --build --preset "$@" -- -k 0
}

# The sanitizers of GCC 12 want the address layout of older kernels.
fixed_layout() {
    if setarch "$(uname -m)" -R true 2>/dev/null; then setarch "$(uname -m)" -R "$@"; else "$@"; fi
}

# What differs between models, on another one than the suites use.
other_model() {
    if [ ! -e "$OCTAVO_MODELS/qwen05.gguf" ]; then
        echo "the API on Qwen2.5-Coder-0.5B: $OCTAVO_MODELS/qwen05.gguf is not there; tests/models.sh qwen05 brings it"
        return 77
    fi
    OCTAVO_API_MODEL=qwen05 .venv/bin/python -m pytest -q -rs tests/api -m every_model "$@"
}

suites() { find tests -name 'test_*.py' -printf '%h\n' | sort -u; }

for preset in "${presets[@]}"; do
    step "$preset-build" build "$preset" || continue
    export OCTAVO_BUILD=$PWD/build/$preset OCTAVO_BIN=$PWD/build/$preset/octavo
    unit_tests "$preset"
    for suite in $(suites); do
        # What compares numbers needs no second run under a sanitizer: the unit tests and the API suite walk the code.
        case $preset:$suite in asan:tests/golden | tsan:tests/golden | tsan:tests/kernels | tsan:tests/grammar | [at]san:tests/tokenizer | [at]san:tests/sampler | [at]san:tests/deploy) continue ;; esac
        name=$preset-${suite##*/}
        case $suite in
        tests/api | tests/bench | tests/deploy) step_twice "$name" fixed_layout .venv/bin/python -m pytest -q -rs "$suite" ;;
        *) step "$name" fixed_layout .venv/bin/python -m pytest -q -rs -p no:cacheprovider "$suite" --junit-xml="$results/$name.xml" ;;
        esac
    done
    [ "$preset" != release ] || step_twice release-qwen05 other_model
    step "$preset-metrics" fixed_layout bash tests/check-metrics.sh "$OCTAVO_BIN"
done
if [ $emulated = yes ] && step emulated-build build emulated --target emulator_check cuda_parity cuda_step cuda_packed octavo logits tiny; then
    export OCTAVO_BUILD=$PWD/build/emulated OCTAVO_BIN=$PWD/build/emulated/octavo
    step emulated-parity bash tests/cuda/emulated.sh build/emulated
    step_twice emulated-api .venv/bin/python -m pytest -q -rs tests/api/test_device.py
fi
step layers .venv/bin/python tests/check-layers.py
[ $format = no ] || step format tests/format-check
[ $docker = no ] || step docker docker/check.sh
.venv/bin/python tests/summary.py "$results" | tee "$results/summary"
