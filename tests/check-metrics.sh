#!/usr/bin/env bash
# Starts the server on SmolLM2, sends a request, and has promtool check what /metrics says: tests/check-metrics.sh BINARY
# Exit status 77: skipped, because the model is not there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
binary=${1:?usage: tests/check-metrics.sh BINARY}
model=${OCTAVO_MODELS:-models}/smollm2.gguf
[ -s "$model" ] || { echo "SKIPPED: $model is not there; tests/models.sh smollm2 brings it"; exit 77; }
PATH=$PWD/build/tools:$PATH
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
url=http://127.0.0.1:$port
scratch=$(mktemp -d)
"$binary" serve "$model" --host 127.0.0.1 --port "$port" --ctx-size 512 --kv-cache-bytes 67108864 --kv-format o2,f16,o4 --no-calibration &
server=$!
trap 'kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; rm -rf "$scratch"' EXIT
for _ in $(seq 3000); do
    curl -fs "$url/health" >/dev/null && break
    kill -0 "$server" || { echo "the server ended before it was ready"; exit 1; }
    sleep 0.2
done
curl -fsS "$url/v1/completions" -d '{"prompt": "One, two, three,", "max_tokens": 8, "temperature": 0}'
echo
curl -fsS "$url/metrics" >"$scratch/metrics"
cat "$scratch/metrics"
promtool check metrics <"$scratch/metrics"
promtool check config docker/prometheus.yml
kill -TERM "$server"
wait "$server"
echo "metrics: clean, and the server ended with status 0 on SIGTERM"
