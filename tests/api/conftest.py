"""The real server on a real model. OCTAVO_BIN names the binary (default build/release/octavo), OCTAVO_MODELS the
folder with smollm2.gguf (default models/), OCTAVO_API_MODEL another model in it (qwen05).

Under a sanitizer the model is a tiny random one, made by the build's `tiny`: the same code, minutes instead of hours.
So it is on the emulated card (tests/cuda/emulator), which servers of that build then use. OCTAVO_API_DEVICE=cuda has them
use a real one.
Tests that look at what the text says carry the mark `real` and are left to the release build. Those with the mark
`every_model` are for what differs between models (vocabulary, template, tokens for filling in, shapes): tests/run.sh runs
them on Qwen2.5-Coder-0.5B too, where all of the suite would take too long."""
import collections
import os
import pathlib
import re
import socket
import subprocess
import tempfile
import time

import openai
import pytest
import requests

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = pathlib.Path(os.environ.get("OCTAVO_BIN", ROOT / "build/release/octavo")).absolute()
EMULATED = "emulated" in str(BINARY)
CARD = EMULATED or os.environ.get("OCTAVO_API_DEVICE") == "cuda"
SANITIZED = EMULATED or any(name in str(BINARY) for name in ("asan", "tsan"))  # slow, and with the tiny model
SCRATCH = tempfile.TemporaryDirectory()
MODELS = pathlib.Path(os.environ.get("OCTAVO_MODELS", ROOT / "models")).absolute()
MODEL = (pathlib.Path(SCRATCH.name) / "tiny.gguf" if SANITIZED else
         MODELS / (os.environ.get("OCTAVO_API_MODEL", "smollm2") + ".gguf"))
NAME = "smollm2"
CTX_SIZE = 512
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith("OCTAVO_")}
if SANITIZED:
    ENVIRONMENT["OCTAVO_MAX_QUEUE_WAIT_MS"] = "0"  # a minute is soon over there
PATIENCE_S = 600  # for what must happen at all, under a sanitizer on a busy machine


every_model = pytest.mark.every_model
real = pytest.mark.skipif(MODEL.stem != "smollm2", reason="looks at what SmolLM2 says; runs on the release build")
if SANITIZED and not MODEL.exists():
    # Heads of 64 channels have the fast attention.
    shape = ["heads=4", "kv_heads=2", "head_dim=64"] if EMULATED else []
    subprocess.run([BINARY.parent / "tiny", MODEL, *shape], check=True)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_until(condition, what, seconds=PATIENCE_S):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"never happened: {what}"
        time.sleep(0.02)


class Server:
    """f16 and two coded formats, uncalibrated, where the options do not say otherwise. model None: the options name one."""

    def __init__(self, *options, model=MODEL, wait=True, environment=None):
        if "--kv-format" not in options:
            options = ("--kv-format", "f16,o2,o4", "--no-calibration", *options)
        if CARD and "--device" not in options:
            options = ("--device", "cuda", *options)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log_file = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            [BINARY, "serve", *([model] if model else []), "--host", "127.0.0.1", "--port", str(self.port),
             "--served-model-name", NAME, *map(str, options)],
            stdout=self.log_file, stderr=self.log_file, env={**ENVIRONMENT, **(environment or {})})
        if wait:
            self.wait_ready()

    def wait_ready(self):
        def ready():
            assert self.process.poll() is None, f"the server ended with {self.process.returncode}:\n{self.log()}"
            try:
                return requests.get(self.url + "/health", timeout=5).status_code == 200
            except (requests.ConnectionError, requests.Timeout):
                return False
        wait_until(ready, "the server is ready")

    def log(self):
        self.log_file.seek(0)
        return self.log_file.read()

    def stop(self, signals=1):
        """SIGTERM; the exit status must be 0 (a sanitizer's finding makes it another)."""
        if self.process.poll() is None:
            for _ in range(signals):
                self.process.terminate()
                time.sleep(0.05)
        status = self.process.wait(PATIENCE_S)
        assert status == 0, f"exit status {status}:\n{self.log()[-8000:]}"

    def client(self, **more):
        return openai.OpenAI(base_url=self.url + "/v1", api_key="none", max_retries=0, timeout=PATIENCE_S, **more)

    def post(self, path="/v1/completions", **body):
        return requests.post(self.url + path, json=body, timeout=PATIENCE_S)

    def complete(self, prompt, **body):
        reply = self.post(prompt=prompt, **body)
        assert reply.status_code == 200, reply.text
        return reply.json()

    def metrics(self):
        """{name: value} of what has no labels or {name{labels}: value}."""
        text = requests.get(self.url + "/metrics", timeout=PATIENCE_S).text
        return {m[1]: float(m[2]) for m in re.finditer(r"^([a-z_]\S*(?:\{.*\})?) (\S+)$", text, re.M)}

    def blocks_in_use(self):
        return sum(v for k, v in self.metrics().items()
                   if k.startswith("octavo_kv_pool_bytes{") and 'kind="free"' not in k)

    def is_idle(self):
        m = self.metrics()
        return m["octavo_sequences_running"] == 0 and m["octavo_sequences_waiting"] == 0 and not self.blocks_in_use()

    def vocab_size(self):
        return requests.get(self.url + "/v1/models", timeout=PATIENCE_S).json()["data"][0]["meta"]["n_vocab"]

    def outcomes(self):
        return collections.Counter({k.split('"')[1]: int(v) for k, v in self.metrics().items()
                                    if k.startswith("octavo_requests_total")})


def pytest_configure(config):
    config.addinivalue_line("markers", "every_model: for what differs between models; runs on qwen05 too")


def pytest_terminal_summary(terminalreporter):
    if not MODEL.exists():
        terminalreporter.write_line(f"SKIPPED the API suite: {MODEL} is not there; tests/models.sh smollm2 brings it",
                                    red=True)


@pytest.fixture(scope="session", autouse=True)
def needs_model():
    if not MODEL.exists():
        pytest.skip(f"{MODEL} is not there; tests/models.sh smollm2 brings it")
    assert BINARY.exists(), f"{BINARY} is not there: build it, or name it in OCTAVO_BIN"


@pytest.fixture(scope="session")
def server():
    """One server that the tests share; whatever they do, it is idle and whole at the end."""
    server = Server("--ctx-size", CTX_SIZE, "--kv-recent", 1, "--kv-cache-bytes", 256 << 20, "--parallel", 16,
                    "--max-body-bytes", 4 << 20)
    yield server
    wait_until(server.is_idle, "all sequences are gone")
    server.stop()


@pytest.fixture(scope="session")
def client(server):
    return server.client()


@pytest.fixture(scope="session")
def roomy():
    """A server whose context takes what tools are told in, which is much in the tiny model's tokens."""
    server = Server("--ctx-size", 4096, "--kv-format", "f16", "--kv-cache-bytes", 256 << 20)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def caller():
    """A server on a model that calls tools when it should."""
    model = MODEL.with_name("qwen05.gguf")
    if SANITIZED or not model.exists():
        pytest.skip(f"{model} is not there (tests/models.sh qwen05 brings it), or too slow under a sanitizer")
    server = Server("--ctx-size", 2048, "--kv-format", "f16", "--kv-cache-bytes", 256 << 20, model=model)
    yield server
    server.stop()


@pytest.fixture
def start():
    """Servers of a test's own."""
    started = []

    def make(*options, **more):
        started.append(Server(*options, **more))
        return started[-1]
    yield make
    for server in started:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()
