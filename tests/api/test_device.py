"""The CUDA backend behind the API, on the card that tests/cuda/emulator plays (cmake --preset emulated), or on a real one
(OCTAVO_BIN=build/cuda/octavo OCTAVO_API_DEVICE=cuda; there tests/cuda/fault.c breaks it): the same requests as on the CPU,
errors of the card, two servers on it, and cards that are too small."""
import json
import subprocess
import threading

import pytest
import requests

from conftest import BINARY, CARD, EMULATED, PATIENCE_S, Server, wait_until

pytestmark = pytest.mark.skipif(not CARD, reason="needs the emulated card (cmake --preset emulated) or OCTAVO_API_DEVICE=cuda")
emulated = pytest.mark.skipif(not EMULATED, reason="needs the emulated card, whose memory a test can choose")
PROMPT = [(i * 37) % 240 + 5 for i in range(150)]
CTX_SIZE = 512 if EMULATED else 8192  # what runs longer than a test takes
LONG = CTX_SIZE - len(PROMPT) - 10
OPTIONS = ("--ctx-size", CTX_SIZE, "--kv-recent", 1, "--kv-cache-bytes", (64 if EMULATED else 1024) << 20)
FORMATS = ("--kv-format", "f16,o2,rotatekv", "--no-calibration")


def device(server):
    return next(k for k in server.metrics() if "cuda:" in k or "cpu (" in k)


def test_logprobs_of_the_cpu(start):
    """A random model has no opinions, so it is logprobs that are compared, not words."""
    scores = {}
    for name in ("cpu", "cuda"):
        server = start(*OPTIONS, *FORMATS, "--device", name, "--activation-bits", 16)
        assert ("cuda:" in device(server)) == (name == "cuda")
        for kv_format in ("f16", "o2", "rotatekv"):
            reply = server.complete(PROMPT, echo=True, logprobs=1, max_tokens=0, kv_format=kv_format)
            scores[name, kv_format] = reply["choices"][0]["logprobs"]["token_logprobs"][1:]
        server.stop()
    for kv_format, limit in (("f16", 0.01), ("o2", 0.1), ("rotatekv", 0.1)):  # noise of fp16, which turns some codes
        errors = [abs(a - b) for a, b in zip(scores["cpu", kv_format], scores["cuda", kv_format])]
        assert sum(errors) / len(errors) < limit


@pytest.mark.parametrize("kv_format", ["o2", "rotatekv"])
def test_batches_chunks_and_hits_change_nothing(start, kv_format):
    server = start(*OPTIONS, *FORMATS, "--device", "cuda", "--max-batch-tokens", 48, "--parallel", 4)
    body = {"max_tokens": 20, "temperature": 0, "ignore_eos": True, "logprobs": 1}

    def tokens(prompt):
        return server.complete(prompt, kv_format=kv_format, **body)["choices"][0]["logprobs"]

    prompts = [PROMPT[:n] for n in (140, 70, 9)]
    alone = [tokens(p) for p in prompts]
    again = [None] * len(prompts)

    def run(i):
        again[i] = tokens(prompts[i])
    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(prompts))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert again == alone
    assert server.metrics()["octavo_prefix_cache_hit_tokens_total"] > 0
    server.stop()


SAMPLINGS = ({"temperature": 0}, {"temperature": 1}, {"temperature": 1, "top_p": 0.9}, {"temperature": 0.8, "top_k": 20},
             {"temperature": 1.2, "min_p": 0.1}, {"temperature": 0.7, "top_k": 50, "top_p": 0.8, "min_p": 0.01})


def test_what_the_card_tells_of_logits_is_enough(start):
    """Without logprobs a row of logits stays on the card, with them it comes over: the same tokens, alone and together."""
    server = start(*OPTIONS, "--device", "cuda", "--parallel", len(SAMPLINGS))
    bodies = [{"max_tokens": 12, "ignore_eos": True, "seed": 11, **sampling} for sampling in SAMPLINGS]
    texts = [server.complete(PROMPT[:30], **body)["choices"][0]["text"] for body in bodies]
    whole = [server.complete(PROMPT[:30], logprobs=1, **body)["choices"][0]["text"] for body in bodies]
    assert whole == texts
    together = [None] * len(bodies)

    def run(i):
        together[i] = server.complete(PROMPT[:30], **bodies[i])["choices"][0]["text"]
    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(bodies))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert together == texts
    assert len(set(texts)) > 1
    server.stop()


def test_where_time_and_memory_go(start):
    server = start(*OPTIONS, "--device", "cuda")
    assert "MiB of the card: weights" in server.log()
    server.complete(PROMPT, max_tokens=8, ignore_eos=True, kv_format="o2")
    metrics = server.metrics()
    parts = [metrics[f'octavo_forward_seconds_total{{part="{part}"}}'] for part in ("attention", "products", "rest")]
    forward = metrics['octavo_engine_seconds_total{phase="forward"}']
    assert all(part > 0 for part in parts) and sum(parts) <= forward * 1.01
    assert metrics['octavo_engine_seconds_total{phase="host"}'] > 0
    memory = {kind: metrics[f'octavo_device_memory_bytes{{kind="{kind}"}}']
              for kind in ("weights", "activations", "kv_cache", "scratch", "other", "free")}
    assert all(memory[kind] > 0 for kind in memory if kind != "other")
    assert not EMULATED or sum(memory.values()) == 8 << 30  # all that card has
    server.stop()


@pytest.fixture
def breakable(start, tmp_path):
    """A server of one place, and a function that makes the card's next launches fail."""
    path = tmp_path / "fail"
    environment = {"OCTAVO_EMULATED_FAIL": str(path)} if EMULATED else {
        "CUDA_FAULT_FILE": str(path), "LD_PRELOAD": str(BINARY.parent / "libcuda_fault.so")}
    server = start(*OPTIONS, "--device", "cuda", "--parallel", 1, environment=environment)
    return server, lambda n: (tmp_path / "new").write_text(f"{n}\n") and (tmp_path / "new").rename(path)


def memory_of_others(server):
    return server.metrics()['octavo_device_memory_bytes{kind="other"}']


def health(server):
    """A process that becomes another closes its doors (503), and then refuses connections for a moment."""
    try:
        reply = requests.get(server.url + "/health", timeout=PATIENCE_S)
    except requests.ConnectionError:
        return 0, "refused"
    return reply.status_code, reply.json().get("status", "closing")


class Background(threading.Thread):
    def __init__(self, server, **body):
        super().__init__()
        self.server, self.body = server, {"temperature": 0, "ignore_eos": True, **body}
        self.start()

    def run(self):
        self.reply = self.server.post(**self.body)

    def wait(self):
        self.join(PATIENCE_S)
        return self.reply


def run_long(server):
    """A request that runs, for longer than any test."""
    running = Background(server, prompt=PROMPT, max_tokens=LONG)
    wait_until(lambda: server.metrics()["octavo_sequences_running"] == 1, "the request runs")
    return running


def wait_restarted(server, others):
    wait_until(lambda: health(server) == (200, "ok"), "the server is back")
    assert server.metrics()["octavo_backend_restarts_total"] == 1
    assert memory_of_others(server) < others + (16 << 20), "what the card held before is free"


def test_restart(breakable):
    """What runs and what waits is told; the process becomes a new one on the same port, with the same answers."""
    server, fail = breakable
    expected = server.complete(PROMPT, max_tokens=5, temperature=0, ignore_eos=True)["choices"]
    others = memory_of_others(server)
    body = {"prompt": PROMPT[:8], "max_tokens": LONG, "ignore_eos": True, "stream": True}
    running = requests.post(server.url + "/v1/completions", json=body, stream=True, timeout=PATIENCE_S)
    lines = (line for line in running.iter_lines() if line)
    next(lines)
    queued = Background(server, prompt=PROMPT, max_tokens=5)
    wait_until(lambda: server.metrics()["octavo_sequences_waiting"] == 1, "the second request waits")
    fail(1)
    last = [json.loads(line[6:]) for line in lines if line.startswith(b"data: {")][-1]
    assert last["error"]["code"] == "device_failed" and "illegal memory access" in last["error"]["message"]
    assert queued.wait().status_code == 503 and queued.reply.json()["error"]["code"] == "device_failed"
    assert int(queued.reply.headers["Retry-After"]) > 0
    wait_restarted(server, others)
    assert server.complete(PROMPT, max_tokens=5, temperature=0, ignore_eos=True)["choices"] == expected
    assert server.outcomes()["ok"] == 1
    wait_until(server.is_idle, "all sequences are gone")
    server.stop()


def test_several_attempts(breakable):
    """The card fails again in the first two warm-ups; the third attempt serves."""
    server, fail = breakable
    others = memory_of_others(server)
    running = run_long(server)
    fail(3)
    assert running.wait().status_code == 503 and running.reply.json()["error"]["code"] == "device_failed"
    wait_until(lambda: health(server) == (503, "restarting"), "/health tells of the restart")
    wait_restarted(server, others)
    assert "restart 2 of 5" in server.log()
    assert server.complete(PROMPT, max_tokens=1)
    server.stop()


def test_given_up(breakable):
    server, fail = breakable
    running = run_long(server)
    fail(1000)
    assert running.wait().status_code == 503
    assert server.process.wait(PATIENCE_S) == 1, "someone else has to decide"
    assert "restart 5 of 5" in server.log()


def test_stop_during_restart(breakable):
    server, fail = breakable
    running = run_long(server)
    fail(1000)
    running.wait()
    wait_until(lambda: health(server)[1] == "restarting", "/health tells of the restart")
    server.stop()


@emulated
@pytest.mark.parametrize("memory, options, named", [
    (256 << 10, (), "weights"),
    (512 << 10, ("--device-weights", "f16"), "--device-weights file"),
    (2 << 20, ("--max-batch-tokens", 4096), "--max-batch-tokens"),
    (64 << 20, ("--kv-cache-bytes", 1 << 30), "--kv-cache-bytes"),
    (64 << 20, ("--gpu-memory-utilization", .01), "raise it"),
])
def test_card_too_small(start, memory, options, named):
    """The message says what there is, what is needed, and what to lower."""
    server = start("--ctx-size", 512, "--device", "cuda", *options, wait=False,
                   environment={"OCTAVO_EMULATED_MEMORY": str(memory)})
    assert server.process.wait(PATIENCE_S) in (1, 2)
    last = server.log().splitlines()[-1]
    assert named in last and "bytes" in last, server.log()


@emulated
def test_share_of_the_card(start):
    """As vLLM's option says: weights, activations and cache are the share."""
    server = start("--ctx-size", 512, "--gpu-memory-utilization", .5, environment={"OCTAVO_EMULATED_MEMORY": str(64 << 20)})
    metrics = server.metrics()
    used = sum(metrics[f'octavo_device_memory_bytes{{kind="{kind}"}}'] for kind in ("weights", "activations"))
    pool = sum(v for k, v in metrics.items() if k.startswith("octavo_kv_pool_bytes{"))
    assert 0.9 * (32 << 20) < used + pool <= 32 << 20
    server.stop()


@emulated
def test_weights_as_in_the_file(start, tmp_path):
    """On a card where they would not fit in fp16 they stay quantized, and say the same."""
    model = tmp_path / "wide.gguf"
    subprocess.run([BINARY.parent / "tiny", model, "heads=4", "kv_heads=2", "head_dim=64", "embd=256", "ff=4096"], check=True)
    replies, weights = [], []
    for memory, options in ((8 << 30, ("--device-weights", "f16")), (16 << 20, ())):
        server = start("--ctx-size", 256, "--max-batch-tokens", 80, "--parallel", 4, "--device", "cuda", *options, model=model,
                       environment={"OCTAVO_EMULATED_MEMORY": str(memory)})
        reply = server.complete(PROMPT[:100], max_tokens=3, temperature=0, ignore_eos=True, logprobs=1, kv_format="f16")
        replies.append(reply["choices"])
        weights.append(server.metrics()['octavo_device_memory_bytes{kind="weights"}'])
        assert ("weights stay quantized" in server.log()) == (not options)
        server.stop()
    assert replies[0] == replies[1]
    assert weights[1] < 0.55 * weights[0]  # 8.5 bits, norms


def test_two_servers_on_one_card(start):
    """Each has its bounded part of the card's memory; together they say what each says alone."""
    body = {"temperature": 0, "ignore_eos": True, "logprobs": 1, "kv_format": "o2"}
    servers = [start(*OPTIONS, "--device", "cuda") for _ in range(2)]
    alone = [server.complete(PROMPT, max_tokens=30, **body)["choices"] for server in servers]
    assert alone[0] == alone[1]
    together = [Background(server, prompt=PROMPT[n:], max_tokens=30, **body) for n in (0, 50) for server in servers]
    replies = [request.wait().json()["choices"] for request in together]
    assert replies[0] == replies[1] == alone[0] and replies[2] == replies[3]
    for server in servers:
        server.stop()


def test_prompt_cache_of_the_card(start, tmp_path):
    """Blocks leave the card and come back; those of the CPU are others."""
    options = (*OPTIONS, "--prompt-cache", tmp_path / "cache")
    body = {"max_tokens": 8, "temperature": 0, "ignore_eos": True, "logprobs": 1, "kv_format": "o2"}
    first = start(*options, "--device", "cuda")
    expected = first.complete(PROMPT, **body)
    first.stop()
    second = start(*options, "--device", "cuda")
    again = second.complete(PROMPT, **body)
    assert again["choices"] == expected["choices"]
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] >= 64
    second.stop()
    other = start(*options, "--device", "cpu", wait=False)
    assert other.process.wait(PATIENCE_S) == 1 and "made with another" in other.log()
