"""`octavo bench` against real servers on a random model: what it counts is what was asked and what fits."""
import json
import os
import pathlib
import socket
import subprocess
import time
import urllib.request

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("OCTAVO_BUILD", ROOT / "build/release")).absolute()
OCTAVO = pathlib.Path(os.environ.get("OCTAVO_BIN", BUILD / "octavo")).absolute()
PATIENCE_S = 300


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    subprocess.run([BUILD / "tiny", path, "layers=1", "heads=3", "kv_heads=3", "head_dim=64", "embd=192", "ff=192"],
                   check=True)
    return path


@pytest.fixture(scope="module")
def server(model):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([OCTAVO, "serve", model, "--port", str(port), "--kv-cache-bytes", "64Mi",
                                "--api-key", "sesame", "--log-level", "warn"])
    url = f"http://127.0.0.1:{port}"
    end = time.monotonic() + PATIENCE_S
    while True:
        assert process.poll() is None, "the server ended"
        assert time.monotonic() < end, "the server is not ready"
        try:
            with urllib.request.urlopen(url + "/health", timeout=5):
                break
        except OSError:
            time.sleep(0.05)
    yield url
    process.terminate()
    assert process.wait(PATIENCE_S) == 0


def bench(*arguments):
    environment = {**os.environ, "OCTAVO_NO_CALIBRATION": "true"}  # which takes its time and changes no count
    return subprocess.run([OCTAVO, "bench", *map(str, arguments)], capture_output=True, text=True,
                          timeout=PATIENCE_S, env=environment)


def test_serve_counts_what_it_asked_for(server):
    done = bench("serve", "--url", server, "--api-key", "sesame", "--requests", 12, "--concurrency", 4,
                 "--prompt-tokens", "20:90", "--max-tokens", 16, "--temperature", 1, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["requests"], report["failed"]) == (12, 0)
    assert report["output_tokens"] == 12 * 16
    assert 12 * 20 <= report["prompt_tokens"] <= 12 * 90
    for name in ("first_token_ms", "inter_token_ms", "per_output_token_ms", "end_to_end_ms"):
        stats = report[name]
        # Tokens that arrive in one segment have no time between them.
        assert 0 <= stats["p50"] <= stats["p90"] <= stats["p99"] <= stats["max"]
        assert stats["max"] > 0 or name in ("inter_token_ms", "per_output_token_ms")
    assert report["first_token_ms"]["max"] <= report["end_to_end_ms"]["max"]
    assert report["end_to_end_ms"]["max"] <= 1000 * report["wall_s"]


def test_the_same_seed_asks_the_same(server):
    def prompt_tokens(seed):
        done = bench("serve", "--url", server, "--api-key", "sesame", "--requests", 6, "--rate", 200,
                     "--prompt-tokens", "1:500", "--max-tokens", "2:9", "--seed", seed, "--json")
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        return report["prompt_tokens"], report["output_tokens"]

    assert prompt_tokens(7) == prompt_tokens(7) != prompt_tokens(8)


def test_failures_are_counted_and_named(server):
    done = bench("serve", "--url", server, "--model", "tiny", "--vocab", 100, "--requests", 3)
    assert done.returncode == 1
    assert "0 done, 3 failed" in done.stdout
    assert "3 of 3 requests failed; the first: status 401" in done.stderr
    done = bench("serve", "--url", server, "--requests", 3)
    assert done.returncode == 1
    assert "/v1/models answers with status 401" in done.stderr


def test_as_many_run_at_once_as_the_arithmetic_says(model):
    done = bench("capacity", model, "--formats", "f16,o4,o2", "--kv-cache-bytes", "3Mi", "--prompt-tokens", 300,
                 "--max-tokens", 1000, "--kv-recent", 1, "--max-batch-tokens", 32, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    f16, o4, o2 = report["formats"]
    for row in report["formats"]:
        assert row["fit"] < row["requests"]
        assert row["most_at_once"] == row["fit"], done.stderr
        assert row["pool_used_bytes"] <= report["kv_cache_bytes"]
        assert row["output_tokens_per_s"] > 0
    assert f16["sequence_bytes"] > o4["sequence_bytes"] > o2["sequence_bytes"]
    assert f16["ratio"] == 1 and o2["ratio"] > o4["ratio"] > 1
    # Bits are sampled while the pool is full, which on a fast machine may be over between two samples: 0 then.
    bits = [row["bits_per_value"] for row in report["formats"] if row["bits_per_value"] > 0]
    assert bits == sorted(bits, reverse=True) and all(2 < b < 32 for b in bits)


def test_a_pool_that_holds_no_sequence_is_refused_with_the_arithmetic(model):
    done = bench("capacity", model, "--kv-cache-bytes", "1Mi")
    assert done.returncode == 2
    assert "--kv-cache-bytes 1048576 does not hold one sequence of f16" in done.stderr
