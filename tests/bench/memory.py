#!/usr/bin/env python3
"""Resident memory of a serving octavo, by what it is for: memory.py [--octavo FILE] [--idle 256] MODEL.gguf

Starts the server, completes one prompt of 2,000 tokens so that everything has been touched, opens idle kept-alive
connections (each has had one reply), and reads /proc. What is left after the mapped file, the weights that the
backend arranged for itself (the server's log says how many bytes) and the pool must be under --limit-mb.
"""
import argparse
import http.client
import json
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import time


def resident(pid, model):
    """(all, of the mapped model file) in bytes."""
    total = mapped = 0
    in_model = False
    for line in pathlib.Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            in_model = line.endswith(model)
        elif line.startswith("Rss:"):
            size = int(line.split()[1]) * 1024
            total += size
            mapped += size * in_model
    return total, mapped


def request(port, method, path, body=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    connection.request(method, path, body and json.dumps(body))
    reply = connection.getresponse()
    text = reply.read().decode()
    if reply.status != 200:
        raise RuntimeError(f"{path}: {reply.status} {text}")
    return connection, text


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--octavo", default="build/release/octavo")
    parser.add_argument("--idle", type=int, default=256)
    parser.add_argument("--kv-cache-bytes", type=int, default=32 << 20, help="small, because unused parts of the pool are not resident")
    parser.add_argument("--kv-format", default="o2")
    parser.add_argument("--limit-mb", type=float, default=100)
    options = parser.parse_args()
    model = str(pathlib.Path(options.model).resolve())
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    log = tempfile.TemporaryFile("w+")
    server = subprocess.Popen(
        [options.octavo, "serve", model, "--port", str(port), "--kv-cache-bytes", str(options.kv_cache_bytes),
         "--kv-format", options.kv_format, "--no-calibration", "--max-connections", str(options.idle + 64)], stderr=log)
    try:
        while True:
            if server.poll() is not None:
                raise RuntimeError("the server ended before it was ready")
            try:
                request(port, "GET", "/health")
                break
            except (OSError, RuntimeError):
                time.sleep(0.1)
        prompt = [1000 + i % 20000 for i in range(2000)]
        request(port, "POST", "/v1/completions", {"prompt": prompt, "max_tokens": 16, "ignore_eos": True})
        idle = [request(port, "GET", "/health")[0] for _ in range(options.idle)]
        metrics = request(port, "GET", "/metrics")[1]
        pool = int(re.search(r"^octavo_kv_pool_budget_bytes (\d+)", metrics, re.M).group(1))
        open_now = int(re.search(r"^octavo_http_connections (\d+)", metrics, re.M).group(1))
        log.seek(0)
        arranged = int(re.search(r"holds (\d+) bytes of weights", log.read()).group(1))
        total, mapped = resident(server.pid, model)
        assert len(idle) == options.idle
    finally:
        server.terminate()
        server.wait()
        log.seek(0)
        if server.returncode:
            print(log.read(), file=sys.stderr)
    # How much of the pool is resident is not seen from outside; it is small, so it blurs little.
    mb = 1e6
    print(f"{pathlib.Path(model).name}, {open_now} connections open")
    print(f"  resident               {total / mb:8.1f} MB")
    print(f"  mapped file            {mapped / mb:8.1f} MB of {pathlib.Path(model).stat().st_size / mb:.1f}")
    print(f"  weights, arranged      {arranged / mb:8.1f} MB")
    print(f"  pool (budget)          {pool / mb:8.1f} MB")
    rest = total - mapped - arranged
    print(f"  the rest, pool in it   {rest / mb:8.1f} MB; must be under pool + {options.limit_mb:.0f} MB")
    sys.exit(rest >= pool + options.limit_mb * mb)


if __name__ == "__main__":
    main()
