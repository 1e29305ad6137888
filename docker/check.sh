#!/usr/bin/env bash
# Builds docker/Dockerfile without a Docker engine and tries the image: docker/check.sh [MODEL.gguf]
# buildah builds with chroot isolation and plain-copy storage on a base that debootstrap makes; the image's own
# entrypoint then serves the model (default: smollm2 from $OCTAVO_MODELS or models/) as the image's own user, and
# /health, the image's HEALTHCHECK, /v1/completions, /metrics and SIGTERM are tried. Everything stays in
# build/docker/. Exit status 77: this machine cannot do it, the last line says why.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

work=$PWD/build/docker
base=localhost/debian:12-slim
image=localhost/octavo
export BUILDAH_ISOLATION=chroot
say() { printf '== %s\n' "$*"; }
die() { printf 'docker check: %s\n' "$*" >&2; exit 1; }
skip() { printf 'SKIPPED, docker image not checked: %s\n' "$*"; exit 77; }
# COMMAND: up to three times. Packages are fetched over a network that may fail for a moment.
persist() {
    local pause
    for pause in 10 60; do
        if "$1"; then return 0; fi
        say "$1 failed; again in $pause s"
        sleep $pause
    done
    "$1"
}
# The storage of this folder only: another buildah or podman on the machine is left alone.
bud() { buildah --root "$work/storage" --runroot "$work/run" --storage-driver vfs "$@"; }

model=$(realpath -m "${1:-${OCTAVO_MODELS:-models}/smollm2.gguf}")
[ -s "$model" ] || skip "$model is not there; tests/models.sh smollm2 brings it"
[ "$(id -u)" = 0 ] || skip "needs root for debootstrap and chroot"
bash tests/setup.sh docker || skip "buildah and debootstrap cannot be installed"
mkdir -p "$work"
# Folders that a build left behind are removed by the storage's own owner.
trap 'bud rm --all >/dev/null 2>&1 || true' EXIT

if ! bud inspect --type image $base >/dev/null 2>&1; then
    say "making the base image with debootstrap"
    make_base() {
        rm -rf "$work/base"
        debootstrap --variant=minbase bookworm "$work/base" >"$work/debootstrap.log" 2>&1
    }
    persist make_base || skip "debootstrap failed: $(tail -n 1 "$work/debootstrap.log")"
    # What the slim variant leaves out, now and in later installs.
    printf 'path-exclude /usr/share/%s/*\n' doc man locale info lintian >"$work/base/etc/dpkg/dpkg.cfg.d/slim"
    rm -rf "$work"/base/usr/share/{doc,man,locale,info,lintian}/* "$work"/base/var/{lib/apt/lists,cache/apt,log}/*
    container=$(bud from scratch) || skip "buildah cannot make a container here"
    cp -a "$work/base/." "$(bud mount "$container")/"
    bud config --cmd bash "$container"
    bud commit -q --rm "$container" $base >/dev/null
    rm -rf "$work/base"
fi
container=$(bud from --pull-never $base)
bud run "$container" -- true >"$work/try.log" 2>&1 \
    || skip "buildah cannot run a command in a chroot here: $(tail -n 1 "$work/try.log")"
bud rm "$container" >/dev/null

say "building the image"
build() { bud build --pull-never --format docker --layers=false --build-arg BASE=$base -t $image -f docker/Dockerfile . >"$work/build.log" 2>&1; }
build_or_tell() { build || { tail -n 20 "$work/build.log"; return 1; }; }
persist build_or_tell || die "the build failed three times, see $work/build.log"

say "running the image's entrypoint"
container=$(bud from --pull-never $image)
read_config() { bud inspect --type image $image | python3 -c "import json, sys; c = json.load(sys.stdin)['Docker']['config']; $1"; }
mapfile -t entrypoint < <(read_config "print(*c['Entrypoint'], sep='\n')")
mapfile -t health < <(read_config "print(*c['Healthcheck']['Test'][1:], sep='\n')")
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
url=http://127.0.0.1:$port
bud run --env OCTAVO_PORT="$port" -v "$(dirname "$model"):/models:ro" "$container" -- \
    "${entrypoint[@]}" "/models/$(basename "$model")" --ctx-size 2048 --kv-cache-bytes 268435456 --kv-format o2 --no-calibration \
    >"$work/serve.log" 2>&1 &
runner=$!
# The server itself: the process named octavo among those below PID.
server_pid() {
    local child
    for child in $(pgrep -P "$1"); do
        if [ "$(cat "/proc/$child/comm")" = octavo ]; then echo "$child"; else server_pid "$child"; fi
    done
}
stop() {
    local pid
    pid=$(server_pid "$runner")
    [ -z "$pid" ] || kill -KILL "$pid" 2>/dev/null || true
    wait "$runner" 2>/dev/null || true
    bud rm --all >/dev/null 2>&1 || true
}
trap stop EXIT
fail() { tail -n 30 "$work/serve.log"; die "$*"; }
for _ in $(seq 3000); do
    curl -fs "$url/health" >/dev/null && break
    kill -0 "$runner" 2>/dev/null || fail "the server ended before it was ready"
    sleep 0.2
done
curl -fsS "$url/health" || fail "/health does not answer"
echo
pid=$(server_pid "$runner")
[ -n "$pid" ] || fail "the server's process is not found"
user=$(awk '/^Uid:/ { print $2 }' "/proc/$pid/status")
[ "$user" != 0 ] || fail "the server runs as root"
is_healthy() { bud run --env OCTAVO_PORT="$port" "$container" -- "${health[@]}"; }
# As often as an engine asks before it calls a container unhealthy.
is_healthy || is_healthy || is_healthy || fail "the image's HEALTHCHECK fails"
reply=$(curl -fsS "$url/v1/completions" -d '{"prompt": "The capital of France is", "max_tokens": 8, "temperature": 0}') \
    || fail "/v1/completions does not answer"
echo "$reply"
echo "$reply" | python3 -c 'import json, sys; assert json.load(sys.stdin)["choices"][0]["text"].strip()' \
    || fail "the completion is empty"
curl -fsS "$url/metrics" | grep -q '^octavo_' || fail "/metrics shows nothing of octavo"
kill -TERM "$pid"
status=0
wait "$runner" || status=$?
[ "$status" = 0 ] || fail "the server ended with status $status on SIGTERM"

say "sizes"
bud images --format '{{.Name}}:{{.Tag}}  {{.Size}}'
echo "docker check: the image builds, serves as user id $user, answers, and stops on SIGTERM"
