"""`octavo bench` against real servers on a random model: what it counts is what was asked and what fits."""
import collections
import json
import os
import pathlib
import socket
import subprocess
import sys
import time
import urllib.request
import xml.etree.ElementTree

import pytest

from octavo_server import Server

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("OCTAVO_BUILD", ROOT / "build/release")).absolute()
OCTAVO = pathlib.Path(os.environ.get("OCTAVO_BIN", BUILD / "octavo")).absolute()
PATIENCE_S = 1200  # the longest takes two minutes under TSan on a machine with other work
SHAPE = "layers=2,width=256,heads=4,kv-heads=2,head-dim=64,ff=512,vocab=1024,ctx=8192"


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
                                "--api-key", "sesame", "--log-level", "warn", "--no-calibration"])
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


def test_more_than_a_server_can_do():
    """Open loop against one place and one in the queue: completions and 429, told apart; and the server's memory."""
    with Server(OCTAVO, "--load-format", "dummy", "--shape", SHAPE, "--parallel", 1, "--max-queue", 1, "--kv-cache-bytes",
                "16Mi") as server:
        load = ("--url", server.url, "--rate", 400, "--duration-s", 0.25, "--prompt-tokens", 50, "--max-tokens", 200, "--json")
        done = bench("serve", *load, "--allow-busy")
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        statuses = report["statuses"]
        assert set(statuses) == {"200", "429"} and sum(statuses.values()) == 100
        assert (report["requests"], report["refused"], report["failed"]) == (statuses["200"], statuses["429"], 0)
        assert report["output_tokens"] == 200 * statuses["200"]
        resident = report["resident_bytes"]
        assert 0 < resident["before"] <= resident["most"] and resident["after"] <= resident["most"]
        strict = bench("serve", *load)
        assert strict.returncode == 1 and "failed; the first: status 429" in strict.stderr
    assert bench("serve", "--url", "http://127.0.0.1:1", "--duration-s", 5, "--model", "x", "--vocab", 9).returncode == 2


def test_capacity_of_a_dummy():
    shape = "layers=2,width=128,heads=8,kv-heads=8,head-dim=128,ff=128,vocab=512"
    done = bench("capacity", "--load-format", "dummy", "--shape", shape, "--kv-cache-bytes", "12Mi", "--prompt-tokens", 300,
                 "--max-tokens", 300, "--kv-recent", 1, "--max-batch-tokens", 64, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    f16, o2 = report["formats"]
    assert report["model"] == shape
    assert (f16["most_at_once"], o2["most_at_once"]) == (f16["fit"], o2["fit"]) and o2["ratio"] > 3
    done = bench("capacity", "--load-format", "dummy", "--shape", shape, "--quality-text", __file__)
    assert done.returncode == 2 and "no quality" in done.stderr


def test_harnesses():
    """They run and judge; what they find in so short a time, on whatever machine this is, is not asked."""
    for script, options, words in (
            ("overload.py", ("--seconds", 1, "--capacity-seconds", 0.5), "replies at 500 %"),
            ("shared_prefix.py", ("--clients", 4, "--rounds", 2, "--system-tokens", 640, "--max-tokens", 1000),
             "finds the system prompt's whole")):
        done = subprocess.run([sys.executable, ROOT / "tests/bench" / script, "--octavo", OCTAVO, "--shape", SHAPE,
                               *map(str, options)], capture_output=True, text=True, timeout=4 * PATIENCE_S)
        assert done.returncode in (0, 1), done.stderr
        assert any(line.startswith("good:") and words in line for line in done.stdout.splitlines()), done.stdout + done.stderr


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
    # Bits are those of some moment of the run, at which sequences may be short; 0 when all was over between two samples.
    assert all(2 < row["bits_per_value"] < 32 or row["bits_per_value"] == 0 for row in report["formats"])


def test_capacity_with_quality_and_plot(model, tmp_path):
    text, plot = tmp_path / "text", tmp_path / "<a & b>.svg"
    text.write_text((ROOT / "docs/scheduling.md").read_text())
    done = bench("capacity", model, "--formats", "f16,o2", "--kv-cache-bytes", "3Mi", "--prompt-tokens", 300,
                 "--max-tokens", 200, "--admission", "optimistic", "--quality-text", text, "--quality-ctx", 256,
                 "--quality-windows", 1, "--plot", plot, "--json")
    assert done.returncode == 0, done.stderr
    f16, o2 = json.loads(done.stdout)["formats"]
    assert f16["kl"] == 0 and f16["top1"] == 1 and o2["kl"] > 0 and o2["preemptions"] >= 0
    words = [element.text for element in xml.etree.ElementTree.parse(plot).iter() if element.tag.endswith("text")]
    assert "f16" in words and "o2" in words and f"{o2['kl']:.5f}" in words
    assert f"{o2['most_at_once']} ({o2['ratio']:.2f}x)" in words


def test_a_plot_that_cannot_be_written_is_an_error(model, tmp_path):
    done = bench("capacity", model, "--formats", "f16", "--kv-cache-bytes", "3Mi", "--prompt-tokens", 300,
                 "--max-tokens", 100, "--plot", tmp_path / "none" / "x.svg")
    assert done.returncode == 1 and "--plot" in done.stderr and "No such file" in done.stderr


def test_a_pool_that_holds_no_sequence_is_refused_with_the_arithmetic(model):
    done = bench("capacity", model, "--kv-cache-bytes", "1Mi")
    assert done.returncode == 2
    assert "--kv-cache-bytes 1048576 does not hold one sequence of f16" in done.stderr


def test_kernels():
    done = bench("kernels", "--device", "cpu", "--shape", "smollm2-135m", "--types", "q8_0,Q4_K", "--tokens", "1,3",
                 "--contexts", "100", "--batches", "2", "--formats", "f16,o2", "--ms", 1, "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert all(row["us"] > 0 for row in rows)
    assert collections.Counter(row["kernel"] for row in rows) == {
        "matmul": (4 + 1) * 2, "attention": 2, "prefill": 2, "store": 1, "seal": 1, "draw": 8}
    assert "Q4_K 1536 x 576: left out" in done.stderr  # its blocks are of 256
    product = next(row for row in rows if row["what"] == "1536 x 576" and row["n"] == 3)
    assert product["macs"] == 3 * 1536 * 576 and product["bytes"] == 1536 * 576 // 32 * 34
    f16 = next(row for row in rows if row["kernel"] == "attention" and row["type"] == "f16")
    assert f16["bytes"] == 2 * 2 * 64 * 3 * 64 * 2 * 2  # sequences, blocks of 64, KV heads of 64, keys and values, fp16


def test_kernels_that_cannot_be():
    for arguments, message in ((("--kernels", "sort"), "unknown kernel 'sort'"), (("--types", "Q3_X"), "unknown type 'Q3_X'"),
                               (("--shape", "lama-3.1-8b"), "did you mean 'llama-3.1-8b'"),
                               (("--tokens", "1,,2"), "--tokens: '1,,2' is not a list"),
                               (("--formats", "o9"), "--formats: ")):
        done = bench("kernels", "--device", "cpu", *arguments)
        assert done.returncode == 2 and message in done.stderr, done.stderr
