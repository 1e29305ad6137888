#!/usr/bin/env bash
# Installs what octavo needs on Debian 12, and nothing twice: tests/setup.sh WHAT...
#   run     shared libraries of the built binary
#   build   compiler, CMake and -dev packages
#   test    cmocka, curl, promtool (into build/tools), and PyPI packages in .venv/
#   check   clang-format
#   browser Chromium, for the tests of the page
#   docker  buildah and debootstrap, for machines without a Docker engine
# Packages come from Debian and PyPI by name. Needs root or sudo only when a Debian package is missing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

debian_run=(libmicrohttpd12 libgnutls30 libcjson1 libjemalloc2 libpcre2-8-0 libutf8proc2 libxxhash0 libopenblas0-pthread)
debian_build=(gcc libc6-dev cmake ninja-build pkg-config libmicrohttpd-dev libgnutls28-dev libcjson-dev libjemalloc-dev
    libpcre2-dev libutf8proc-dev libxxhash-dev libopenblas-dev)
debian_test=(g++ libcmocka-dev curl openssl python3 python3-venv ca-certificates)
debian_check=(clang-format)
debian_browser=(chromium)
debian_docker=(buildah debootstrap curl python3 procps)
pypi_test=(numpy pytest openai anthropic tokenizers gguf requests jsonschema jinja2 transformers schemathesis
    kubernetes-validate yamllint pyyaml fqdn isoduration jsonpointer rfc3339_validator rfc3987)

apt_patience=(-o Acquire::Retries=5 -o Acquire::http::Timeout=60 -o DPkg::Lock::Timeout=300)
pip_patience=(--retries 10 --timeout 60)

say() { printf '== %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

# COMMAND...: up to three times, because a network may fail for a moment.
persist() {
    local pause
    for pause in 5 30; do
        if "$@"; then return 0; fi
        say "$1 $2 failed; again in $pause s"
        sleep $pause
    done
    "$@"
}

missing_packages() {
    local package
    for package in "$@"; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || echo "$package"
    done
}

apt() {
    local sudo=()
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || die "Debian packages are missing and there is no sudo; as root: apt-get install $*"
        sudo=(sudo)
    fi
    local log
    log=$(mktemp)
    if "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y "${apt_patience[@]}" "$@" </dev/null >"$log" 2>&1; then
        rm -f "$log"
        return 0
    fi
    tail -n 20 "$log" >&2
    rm -f "$log"
    return 1
}

apt_update() {
    [ -z "${updated:-}" ] || return 0
    # One unreachable extra source must not stop the install: apt-get install says what is really missing.
    apt update || { sleep 10; apt update; } || say "apt-get update failed: is there a network? Going on with the lists there are"
    updated=yes
}

install_debian() {
    command -v apt-get >/dev/null || die "apt-get is missing: this script knows Debian 12 only. Needed: $*"
    local missing
    mapfile -t missing < <(missing_packages "$@")
    [ ${#missing[@]} -gt 0 ] || return 0
    say "installing Debian packages: ${missing[*]}"
    apt_update
    persist apt install --no-install-recommends "${missing[@]}" || die "apt-get could not install: ${missing[*]}"
}

# promtool comes in the package prometheus, which would also start a service: only the tool is unpacked.
install_promtool() {
    if command -v promtool >/dev/null || [ -x build/tools/promtool ]; then return 0; fi
    say "unpacking promtool from the Debian package prometheus"
    local scratch
    scratch=$(mktemp -d)
    chmod 755 "$scratch"
    download() { (cd "$scratch" && apt-get -q "${apt_patience[@]}" download "$1" >/dev/null 2>&1); }
    if ! download prometheus; then
        apt_update
        persist download prometheus || die "apt-get could not download prometheus"
    fi
    dpkg-deb -x "$scratch"/prometheus_*.deb "$scratch/root"
    mkdir -p build/tools
    cp "$scratch/root/usr/bin/promtool" build/tools/promtool
    rm -rf "$scratch"
}

# Debian's Python is externally managed, so packages go to a virtual environment.
install_pypi() {
    if [ ! -x .venv/bin/pip ]; then
        say "making .venv"
        rm -rf .venv
        local python=/usr/bin/python3
        [ -x $python ] || python=python3
        "$python" -m venv .venv || die "cannot make a Python virtual environment (package python3-venv)"
    fi
    .venv/bin/python -c 'import importlib.metadata, sys; [importlib.metadata.version(name) for name in sys.argv[1:]]' \
        "${pypi_test[@]}" 2>/dev/null && return 0
    say "installing PyPI packages in .venv: ${pypi_test[*]}"
    persist .venv/bin/pip install -q --no-cache-dir --disable-pip-version-check "${pip_patience[@]}" "${pypi_test[@]}" \
        || die "pip could not install: ${pypi_test[*]} (is there a network?)"
}

[ $# -gt 0 ] || die "say what: run, build, test, check, browser, docker"
for what in "$@"; do
    case $what in
    run) install_debian "${debian_run[@]}" ;;
    build) install_debian "${debian_run[@]}" "${debian_build[@]}" ;;
    test) install_debian "${debian_test[@]}" && install_promtool && install_pypi ;;
    check) install_debian "${debian_check[@]}" ;;
    browser) install_debian "${debian_browser[@]}" ;;
    docker) install_debian "${debian_docker[@]}" ;;
    *) die "unknown word '$what': run, build, test, check, browser, docker" ;;
    esac
done
