"""Client faults: a 4xx with OpenAI's error object that names the field; the next good request is answered."""
import json
import threading

import openai
import pytest
import requests

from conftest import CTX_SIZE, NAME, every_model, real, wait_until


def check(reply, status, param=None, code=None):
    assert reply.status_code == status, reply.text
    assert reply.headers["Content-Type"] == "application/json"
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["message"]
    assert error["type"] == ("invalid_request_error" if status < 429 else "rate_limit_error" if status == 429 else
                             "server_error")
    assert error["param"] == param
    if code:
        assert error["code"] == code
    return error


@pytest.mark.parametrize("field, value, param", [
    ("prompt", None, "prompt"), ("prompt", 5, "prompt"), ("prompt", [], "prompt"), ("prompt", [[]], "prompt[0]"),
    ("prompt", ["a", 1], "prompt[1]"), ("prompt", [1, "a"], "prompt[1]"), ("prompt", [10 ** 9], "prompt[0]"),
    ("prompt", [-1], "prompt[0]"), ("prompt", [[1], [1, True]], "prompt[1][1]"), ("prompt", {"a": 1}, "prompt"),
    ("model", 1, "model"), ("n", 0, "n"), ("n", True, "n"), ("n", "2", "n"), ("n", 1000, "n"), ("n", 1.5, "n"),
    ("best_of", 0, "best_of"), ("best_of", True, "best_of"), ("max_tokens", -1, "max_tokens"), ("max_tokens", 2.5, "max_tokens"),
    ("max_tokens", [4], "max_tokens"), ("temperature", -1, "temperature"), ("temperature", 3, "temperature"),
    ("temperature", "0", "temperature"), ("top_p", 2, "top_p"), ("top_k", -5, "top_k"), ("min_p", 2, "min_p"),
    ("seed", "a", "seed"), ("seed", 0.5, "seed"), ("stop", 5, "stop"), ("stop", [""], "stop"),
    ("stop", ["a"] * 17, "stop"), ("presence_penalty", 9, "presence_penalty"),
    ("frequency_penalty", None.__class__.__name__, "frequency_penalty"), ("repetition_penalty", 0, "repetition_penalty"),
    ("logit_bias", {"a": 1}, "logit_bias"), ("logit_bias", {"1": 1000}, "logit_bias"), ("logit_bias", 1, "logit_bias"),
    ("logprobs", 21, "logprobs"), ("logprobs", True, "logprobs"), ("echo", 1, "echo"), ("stream", "yes", "stream"),
    ("stream_options", {"include_usage": True}, "stream_options"), ("suffix", "b", "suffix"), ("user", 5, "user"),
    ("ignore_eos", "no", "ignore_eos"), ("stop_token_ids", [10 ** 7], "stop_token_ids[0]"),
    ("kv_format", "q8", "kv_format"),
])
def test_field(server, field, value, param):
    check(server.post(**{"prompt": "a", "max_tokens": 1, field: value}), 400, param)


@pytest.mark.parametrize("body, part", [
    (b"", "no body"), (b"{", ""), (b"nonsense", ""), (b'{"prompt":"a",}', ""), (b'{"prompt":"a"} x', ""),
    (b'{"prompt":"a","prompt":"b"}', "prompt"), (b'{"prompt":NaN}', ""), (b'{"prompt":"\xff"}', ""),
    (b'{"prompt":"\\ud800"}', ""), (b'{"prompt":"a\\u0000"}', ""), (b'{"prompt":"a","temperature":1e999}', ""),
    (b'{"prompt":' + b"[" * 100 + b"1" + b"]" * 100 + b"}", ""), (b"[]", "object"), (b'"prompt"', "object"),
    (b"\xef\xbb\xbf{}", ""),
])
def test_json(server, body, part):
    reply = requests.post(server.url + "/v1/completions", data=body, timeout=60)
    assert reply.status_code == 400, reply.text
    assert part in reply.json()["error"]["message"]


def test_the_server_goes_on(server):
    assert server.complete("Hello", max_tokens=1)["choices"]


def test_unknown_fields_are_ignored(server):
    server.complete("Hello", max_tokens=1, no_such_field={"a": [1, 2]}, stream_options=None, logit_bias=None)


@every_model
def test_model(server, client):
    check(server.post(prompt="a", model="gpt-4"), 404, "model", "model_not_found")
    with pytest.raises(openai.NotFoundError) as caught:
        client.completions.create(model="gpt-4", prompt="a")
    assert caught.value.code == "model_not_found"
    for model in ("", None, NAME):
        assert server.post(prompt="a", model=model, max_tokens=1).status_code == 200
    assert server.post(prompt="a", max_tokens=1).status_code == 200


@every_model
def test_context(server, client):
    """Prompt and output together, to the token."""
    before = server.outcomes()
    long = [1] * (CTX_SIZE - 8)
    assert server.complete(long, max_tokens=8, ignore_eos=True)["usage"]["completion_tokens"] == 8
    error = check(server.post(prompt=long, max_tokens=9), 400, "max_tokens", "context_length_exceeded")
    for number in (CTX_SIZE - 8, 9, CTX_SIZE + 1, CTX_SIZE):
        assert str(number) in error["message"]
    check(server.post(prompt=[1] * (CTX_SIZE + 1), max_tokens=0), 400, "max_tokens", "context_length_exceeded")
    check(server.post(prompt="word " * 5000), 400, "prompt", "context_length_exceeded")
    assert server.complete(long, ignore_eos=True)["usage"]["completion_tokens"] == 8, "the default shrinks to fit"
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model=NAME, prompt=long, max_tokens=100)
    assert server.outcomes()["rejected_capacity"] == before["rejected_capacity"] + 4


def test_too_much_at_once(server):
    """Counts that are fine one by one, but not multiplied."""
    reply = server.post(prompt=["a"] * 1000, n=2)
    check(reply, 400, "n")
    reply = server.post(prompt=[[1]] * 1024, max_tokens=500, logprobs=20, echo=True, stop=["x"] * 16)
    check(reply, 400, "max_tokens")


@real
def test_pool_too_small(start):
    server = start("--kv-cache-bytes", 8 << 20, "--ctx-size", CTX_SIZE)
    error = check(server.post(prompt=[1] * 100, max_tokens=400), 400, "max_tokens", "capacity_exceeded")
    assert "kv-cache" in error["message"]
    assert server.complete("Hello", max_tokens=1)
    server.stop()


def test_busy(start):
    """One runs, one waits, the third is told to come back; when the two leave there is room again."""
    server = start("--parallel", 1, "--max-queue", 1, "--ctx-size", 8192, "--kv-cache-bytes", 256 << 20)
    holders = [requests.post(server.url + "/v1/completions", stream=True, timeout=60, json=dict(
        prompt="a", max_tokens=8000, ignore_eos=True, stream=True, temperature=0)) for _ in range(1)]
    holders.append(threading.Thread(target=lambda: server.post(prompt="a", max_tokens=2)))
    holders[1].start()
    wait_until(lambda: server.metrics()["octavo_sequences_waiting"] == 1, "the queue is full")
    reply = server.post(prompt="a", max_tokens=4)
    check(reply, 429, code="server_busy")
    assert int(reply.headers["Retry-After"]) >= 1
    with pytest.raises(openai.RateLimitError):
        server.client().completions.create(model=NAME, prompt="a")
    assert server.outcomes()["rejected_busy"] == 2
    holders[0].close()
    holders[1].join()
    assert server.post(prompt="a", max_tokens=4).status_code == 200
    server.stop()


def test_busy_when_the_wait_is_long(start):
    """Once it is known how long sequences run, nobody is let in who would wait longer than he is said to."""
    server = start("--parallel", 1, "--max-queue-wait-ms", 1, "--ctx-size", 8192, "--kv-cache-bytes", 256 << 20)
    assert server.post(prompt="a", max_tokens=100, ignore_eos=True).status_code == 200
    with requests.post(server.url + "/v1/completions", stream=True, timeout=60, json=dict(
            prompt="a", max_tokens=8000, ignore_eos=True, stream=True, temperature=0)):
        wait_until(lambda: server.metrics()["octavo_sequences_running"] == 1, "it runs")
        reply = server.post(prompt="a", max_tokens=4)  # even before the engine's second step, which learns of the first
        check(reply, 429, code="server_busy")
        assert "--max-queue-wait-ms 1)" in reply.json()["error"]["message"]
        assert int(reply.headers["Retry-After"]) >= 1
    wait_until(server.is_idle, "it left")
    assert server.post(prompt="a", max_tokens=4).status_code == 200
    server.stop()


def test_paths_and_methods(server):
    check(requests.get(server.url + "/v1/nothing", timeout=60), 404, code="unknown_url")
    reply = requests.get(server.url + "/v1/completions", timeout=60)
    check(reply, 405, code="method_not_allowed")
    assert reply.headers["Allow"] == "POST, OPTIONS"
    assert requests.put(server.url + "/health", timeout=60).headers["Allow"] == "GET, HEAD, OPTIONS"
    reply = requests.head(server.url + "/health", timeout=60)
    assert reply.status_code == 200 and reply.content == b""


def test_body_too_long(server):
    reply = server.post(prompt="a" * (5 << 20))
    check(reply, 413, code="request_too_large")
    assert server.complete("Hello", max_tokens=1)


def test_cors(server):
    reply = requests.options(server.url + "/v1/completions", timeout=60, headers={
        "Origin": "http://example.org", "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type"})
    assert reply.status_code == 204 and reply.headers["Access-Control-Allow-Origin"] == "*"
    assert "POST" in reply.headers["Access-Control-Allow-Methods"]
    assert "authorization" in reply.headers["Access-Control-Allow-Headers"].lower()


def test_api_key(start):
    server = start("--ctx-size", 256, environment={"OCTAVO_API_KEY": "secret-1"})
    check(server.post(prompt="a", max_tokens=1), 401, code="invalid_api_key")
    with pytest.raises(openai.AuthenticationError):
        server.client().models.list()
    assert requests.get(server.url + "/metrics", timeout=60).status_code == 401
    assert requests.get(server.url + "/health", timeout=60).status_code == 200
    good = openai.OpenAI(base_url=server.url + "/v1", api_key="secret-1", max_retries=0)
    assert good.completions.create(model=NAME, prompt="a", max_tokens=1).choices
    assert "secret-1" not in server.log()
    server.stop()


@every_model
def test_tokenize(server):
    tokens = server.post("/tokenize", content="Hello, wörld <|im_end|>").json()["tokens"]
    pieces = server.post("/tokenize", content="Hello, wörld <|im_end|>", with_pieces=True).json()["tokens"]
    assert [p["id"] for p in pieces] == tokens
    raw = b"".join(p["piece"].encode() if isinstance(p["piece"], str) else bytes(p["piece"]) for p in pieces)
    assert raw.decode() == "Hello, wörld <|im_end|>"
    as_text = server.post("/tokenize", content="Hello, wörld <|im_end|>", parse_special=False).json()["tokens"]
    assert len(as_text) > len(tokens)
    vllm = server.post("/tokenize", prompt="Hello, wörld <|im_end|>").json()
    assert vllm["count"] == len(vllm["tokens"]) and vllm["max_model_len"] == CTX_SIZE
    for ids in (tokens, as_text):
        reply = server.post("/detokenize", tokens=ids).json()
        assert reply["content"] == reply["prompt"] == "Hello, wörld <|im_end|>"
    assert server.post("/tokenize", content="").json()["tokens"] == []
    assert server.post("/detokenize", tokens=[]).json()["content"] == ""
    check(server.post("/tokenize", text="a"), 400, "content")
    check(server.post("/tokenize", content=5), 400, "content")
    check(server.post("/tokenize", content="a", add_special=1), 400, "add_special")
    check(server.post("/detokenize", tokens=[1, -1]), 400, "tokens[1]")
    check(server.post("/detokenize", tokens="a"), 400, "tokens")
    check(server.post("/detokenize"), 400, "tokens")
    check(server.post("/tokenize", content="a", model={}), 400, "model")
    check(server.post("/detokenize", tokens=[], model=1), 400, "model")


def test_small_endpoints(server):
    assert requests.get(server.url + "/version", timeout=60).json()["version"]
    props = requests.get(server.url + "/props", timeout=60).json()
    assert props["default_generation_settings"]["n_ctx"] == CTX_SIZE and props["total_slots"] == 16
    reply = requests.get(server.url + "/metrics", timeout=60)
    assert reply.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert json.loads(requests.get(server.url + "/v1/models", timeout=60).text)["object"] == "list"
