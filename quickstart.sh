#!/usr/bin/env bash
# From a fresh Debian 12 to a server on port 8080: installs what octavo needs (Debian packages; PyPI packages in
# .venv/), builds it, brings SmolLM2-135M-Instruct to models/, and serves it. Run it again at any time: what is
# done is not done twice. Further arguments go to `octavo serve`, for example: ./quickstart.sh --kv-format o2
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

say() { printf '== %s\n' "$*"; }

bash tests/setup.sh build test
say "building octavo in build/release"
mkdir -p build
if ! { cmake --preset release && cmake --build --preset release --target octavo; } >build/quickstart.log 2>&1; then
    tail -n 40 build/quickstart.log >&2
    echo "quickstart: the build failed; the whole log is build/quickstart.log" >&2
    exit 1
fi
bash tests/models.sh smollm2
model=${OCTAVO_MODELS:-models}/smollm2.gguf
say "serving $model; stop with Ctrl-C. Try, in another terminal:"
cat <<'TRY'
   curl -N localhost:8080/v1/completions -d '{"prompt": "The capital of France is", "max_tokens": 32, "stream": true}'
   curl localhost:8080/metrics
TRY
exec build/release/octavo serve "$model" "$@"
