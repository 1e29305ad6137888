"""Prompts that begin alike: what is found in the cache gives the same text, costs no prefill, is kept apart by salt and
format, and survives a restart."""
import concurrent.futures
import os
import random

import pytest
import requests

from conftest import CTX_SIZE, PATIENCE_S, SANITIZED, Server, every_model, wait_until

BLOCK = 64


def prompt_of(seed, n=5 * BLOCK + 10):
    """A prompt that begins like no other test's, so that nothing of it can be in the cache yet."""
    numbers = random.Random(f"prefix cache {seed}")
    return [numbers.randrange(3, 253) for _ in range(n)]


def run(server, prompt, **body):
    reply = server.complete(prompt, **{"max_tokens": 12, "temperature": 0, "logprobs": 2, "ignore_eos": True, **body})
    return reply["choices"][0], reply["usage"]


def cached(usage):
    return usage["prompt_tokens_details"]["cached_tokens"]


@every_model
@pytest.mark.parametrize("kv_format", ["f16", "o2", "o4"])
def test_hit_equals_cold(server, kv_format):
    prompt = prompt_of(kv_format)
    cold, usage = run(server, prompt, kv_format=kv_format)
    assert cached(usage) == 0
    hit, usage = run(server, prompt, kv_format=kv_format)
    assert cached(usage) == 5 * BLOCK
    assert hit == cold  # text and log probabilities, to the bit
    longer = prompt[: 3 * BLOCK] + prompt_of(77, BLOCK)
    through_hit, usage = run(server, longer, kv_format=kv_format)
    assert cached(usage) == 3 * BLOCK
    alone, usage = run(server, longer, kv_format=kv_format, cache_salt="alone")
    assert cached(usage) == 0
    assert through_hit == alone


def test_formats_and_salts_are_apart(server):
    prompt = prompt_of(2000)
    run(server, prompt, kv_format="o2")
    assert cached(run(server, prompt, kv_format="o4")[1]) == 0
    assert cached(run(server, prompt, kv_format="o2", cache_salt="x")[1]) == 0
    assert cached(run(server, prompt, kv_format="o2", cache_salt="x")[1]) == 5 * BLOCK


def test_the_last_token_is_always_computed(server):
    prompt = prompt_of(3000, 2 * BLOCK)
    run(server, prompt)
    choice, usage = run(server, prompt)
    assert cached(usage) == BLOCK
    assert choice == run(server, prompt, cache_salt="cold")[0]


def test_prompt_scores_are_computed(server):
    prompt = prompt_of(5000)
    first, _ = run(server, prompt, echo=True, max_tokens=1)
    second, usage = run(server, prompt, echo=True, max_tokens=1)
    assert first == second and cached(usage) == 0


@every_model
def test_choices_and_a_herd_compute_once(server):
    prompt = prompt_of(6000)
    computed = server.metrics()["octavo_prompt_tokens_total"]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: run(server, prompt, n=2), range(8)))
    assert all(choice == results[0][0] for choice, _ in results)
    computed = server.metrics()["octavo_prompt_tokens_total"] - computed
    assert computed <= len(prompt) + 16 * (len(prompt) - 5 * BLOCK + BLOCK)


def shared_once(server, n, n_common):
    """Whether n sequences run that are past their common blocks, and the cache holds these once: what they use of it is
    what each holds in complete blocks, less all but one of the copies there would be. By one look at /metrics."""
    metrics = server.metrics()
    blocks = metrics['octavo_kv_pool_blocks{kind="old",format="f16"}']
    if metrics["octavo_sequences_running"] != n or blocks < n * n_common:
        return False
    block_bytes = metrics['octavo_kv_pool_bytes{kind="old",format="f16"}'] / blocks
    return metrics['octavo_prefix_cache_bytes{state="used"}'] == (blocks - (n - 1) * n_common) * block_bytes


@pytest.mark.parametrize("ask", ["clients", "n", "best_of"])
def test_a_shared_prompt_is_held_once(start, ask):
    """A system prompt of five blocks and sixteen that generate behind it: its blocks are in the cache once."""
    server = start("--ctx-size", 1024, "--kv-format", "f16", "--kv-cache-bytes", 512 << 20, "--parallel", 16)
    prompt = prompt_of(6500)[:5 * BLOCK]
    streams = ask != "best_of"
    body = dict(max_tokens=600 if streams else 120, ignore_eos=True, stream=streams, temperature=1, seed=1)
    if ask == "clients":
        bodies = [dict(prompt=prompt + prompt_of(6600 + i, 10), **body) for i in range(16)]
    else:
        bodies = [dict({"prompt": prompt + prompt_of(6600, 10), ask: 16}, **body)]

    def seen():
        """One round of requests, looked at until it was seen or the first of them is over."""
        ended, looks = server.outcomes()["ok"], []

        def is_over():
            looks.append(shared_once(server, 16, 5))
            return looks[-1] or server.outcomes()["ok"] > ended
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            replies = [pool.submit(requests.post, server.url + "/v1/completions", json=b, stream=True, timeout=PATIENCE_S)
                       for b in bodies]
            wait_until(is_over, "sixteen run and the prompt is held once, or one is done")
            for reply in replies:
                reply.result().close()
        wait_until(server.is_idle, "the server is idle")
        return looks[-1]

    assert any(seen() for _ in range(5)), "never did sixteen run with the prompt held once"
    server.stop()


def test_little_room(tmp_path):
    """A pool for two sequences, eight clients, prompts that share beginnings: all finish, as they would alone."""
    for admission in ("no-evict", "optimistic"):
        server = Server("--ctx-size", CTX_SIZE, "--kv-cache-bytes", 24 << 20, "--kv-recent", 1, "--admission", admission,
                        "--max-batch-tokens", 96)
        prompts = [prompt_of(1, 2 * BLOCK) + prompt_of(i, 2 * BLOCK + i) for i in range(8)]
        alone = [run(server, p, max_tokens=100, cache_salt=f"alone{i}")[0] for i, p in enumerate(prompts)]
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            together = list(pool.map(lambda p: run(server, p, max_tokens=100)[0], prompts))
        assert together == alone
        wait_until(server.is_idle, "the server is idle")
        server.stop()


def test_prompt_cache_file(tmp_path):
    path = tmp_path / "prompts"
    options = ("--ctx-size", CTX_SIZE, "--kv-cache-bytes", 64 << 20, "--prompt-cache", path)
    server = Server(*options)
    prompt = prompt_of(7000)
    cold, usage = run(server, prompt, kv_format="o2")
    assert cached(usage) == 0
    server.stop()
    assert path.stat().st_size > 1000
    server = Server(*options)
    hit, usage = run(server, prompt, kv_format="o2")
    assert cached(usage) == 5 * BLOCK and hit == cold
    server.stop()
    other = Server(*options, "--kv-recent", 3, wait=False)
    assert other.process.wait(PATIENCE_S) == 1
    assert "made with another model, calibration" in other.log()


def damage(path):
    """One byte in each page that is there changes."""
    with open(path, "r+b") as file:
        at = 4096
        while True:
            try:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:
                return
            byte = os.pread(file.fileno(), 1, at)
            if not byte:
                return
            os.pwrite(file.fileno(), bytes([byte[0] ^ 1]), at)
            at += 4096


def test_swap_file(tmp_path):
    """What does not fit the cache goes to the file and comes back; whether it does is a matter of what is cheaper, the
    text is not."""
    path = tmp_path / "swap"
    server = Server("--ctx-size", CTX_SIZE, "--kv-cache-bytes", (1 if SANITIZED else 32) << 20, "--max-batch-tokens", 64,
                    "--swap-bytes", "256Mi", "--swap-file", path)
    prompts = [prompt_of(7100 + i) for i in range(8)]
    cold = [run(server, prompt)[0] for prompt in prompts]
    assert path.exists()
    assert [run(server, prompt)[0] for prompt in prompts] == cold
    metrics = server.metrics()
    assert SANITIZED or metrics["octavo_swap_hit_blocks_total"] > 0  # of a real model a block takes far longer to compute
    assert metrics['octavo_swap_failures_total{reason="checksum"}'] == 0
    damage(path)
    assert [run(server, prompt)[0] for prompt in prompts] == cold
    if not SANITIZED:
        assert server.metrics()['octavo_swap_failures_total{reason="checksum"}'] > 0
        assert "a block is not what was written" in server.log()
    path.write_bytes(b"")  # somebody empties it under the server's feet
    assert [run(server, prompt)[0] for prompt in prompts] == cold
    server.stop()
    assert not path.exists()


def test_swap_file_that_cannot_be(tmp_path):
    letter = tmp_path / "letter"
    letter.write_text("somebody's own")
    for options, status, message in (
            (("--swap-bytes", "64Mi", "--swap-file", letter), 1, "left alone"),
            (("--swap-bytes", "64Mi", "--swap-file", tmp_path / "none" / "swap"), 1, "No such file"),
            (("--swap-bytes", "1k"), 2, "does not hold two blocks"),
            (("--swap-file", tmp_path / "swap"), 2, "--swap-file needs --swap-bytes"),
            (("--swap-bytes", "64Mi", "--no-prefix-cache"), 2, "do without --no-prefix-cache")):
        server = Server("--ctx-size", CTX_SIZE, "--kv-cache-bytes", 64 << 20, *options, wait=False)
        assert server.process.wait(PATIENCE_S) == status
        assert message in server.log()
    assert letter.read_text() == "somebody's own"


def test_no_prefix_cache():
    server = Server("--ctx-size", CTX_SIZE, "--kv-cache-bytes", 64 << 20, "--no-prefix-cache")
    prompt = prompt_of(8000)
    first, _ = run(server, prompt)
    second, usage = run(server, prompt)
    assert first == second and cached(usage) == 0
    server.stop()


def test_time_is_up(server):
    reply = server.post(prompt=prompt_of(9000), max_tokens=150, ignore_eos=True, timeout_ms=1)
    assert reply.status_code == 504, reply.text
    assert reply.json()["error"]["code"] == "timeout" and "time is up" in reply.json()["error"]["message"]
    reply = requests.post(server.url + "/v1/completions", json={"prompt": prompt_of(9001), "max_tokens": 150,
                                                                "ignore_eos": True},
                          headers={"X-Request-Timeout": "0.001"}, timeout=PATIENCE_S)
    assert reply.status_code == 504
    for bad in ("", "soon", "-1", "0", "1e9"):
        reply = requests.post(server.url + "/v1/completions", json={"prompt": "x", "max_tokens": 1},
                              headers={"X-Request-Timeout": bad}, timeout=PATIENCE_S)
        assert reply.status_code == 400 and "X-Request-Timeout" in reply.text


@pytest.mark.parametrize("field, value", [("priority", 1.5), ("priority", "high"), ("timeout_ms", 0),
                                          ("timeout_ms", "1s"), ("cache_salt", 5), ("priority", 10**9)])
def test_fields_are_checked(server, field, value):
    reply = server.post(prompt="x", max_tokens=1, **{field: value})
    assert reply.status_code == 400 and reply.json()["error"]["param"] == field


def test_priority_is_taken(server):
    assert server.complete("x", max_tokens=1, priority=-5)["usage"]["completion_tokens"] == 1
