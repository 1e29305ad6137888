"""`serve --load-format dummy`: a model of given sizes with random weights behind the whole API."""
import subprocess

import pytest
import requests

from conftest import BINARY, Server

SHAPE = "layers=2,width=128,heads=4,kv-heads=2,head-dim=32,ff=256,vocab=600,ctx=512"


@pytest.fixture(scope="module")
def dummy():
    server = Server("--load-format", "dummy", "--shape", SHAPE, "--kv-format", "o2,f16", "--kv-cache-bytes", "32Mi",
                    model=None)
    yield server
    server.stop()


def test_texts_are_a_token_a_byte(dummy):
    text = "Zürich, 8 °C "
    asked = dummy.complete(text + "<|im_start|>", max_tokens=1)
    assert asked["usage"]["prompt_tokens"] == len(text.encode()) + 1
    tokens = dummy.post("/tokenize", prompt="Zürich").json()["tokens"]
    assert tokens == list("Zürich".encode())
    back = dummy.post("/detokenize", tokens=tokens + [259]).json()
    assert back["prompt"] == "Zürich a"


def test_the_same_shape_is_the_same_model(dummy):
    prompt = [1, 2, 3, 400, 599]
    asked = {"logprobs": 3, "ignore_eos": True, "max_tokens": 12, "temperature": 0}
    here = dummy.complete(prompt, **asked)["choices"][0]
    other = Server("--load-format", "dummy", "--shape", SHAPE, "--kv-format", "o2", "--kv-cache-bytes", "32Mi",
                   "--threads", "1", model=None)
    try:
        there = other.complete(prompt, **asked)["choices"][0]
    finally:
        other.stop()
    assert here["logprobs"] == there["logprobs"] and here["text"] == there["text"]
    assert len(set(here["logprobs"]["tokens"])) > 2


def test_chats_and_structure(dummy):
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": ["yes", "no"]}}}
    reply = dummy.post("/v1/chat/completions", messages=[{"role": "user", "content": "hello"}], max_tokens=20,
                       temperature=0, response_format=schema)
    assert reply.status_code == 200, reply.text
    assert reply.json()["choices"][0]["message"]["content"] in ('"yes"', '"no"')


def test_what_the_server_says_of_it(dummy):
    model = requests.get(dummy.url + "/v1/models", timeout=60).json()["data"][0]
    assert model["meta"]["n_vocab"] == 600 and model["meta"]["n_embd"] == 128 and model["meta"]["n_ctx_train"] == 512
    params = 2 * 600 * 128 + 2 * (2 * 128 * 128 + 2 * 64 * 128 + 3 * 128 * 256 + 2 * 128) + 128
    assert model["meta"]["n_params"] == params
    norms = 5 * 128
    assert model["meta"]["size"] == (params - norms) // 32 * 18 + norms * 4
    assert requests.get(dummy.url + "/props", timeout=60).json()["model_path"] == SHAPE
    assert "calibration" not in dummy.log()


@pytest.mark.parametrize("arguments, words", [
    (["--load-format", "dummy"], "needs --shape"),
    (["--shape", "llama-8b"], "--shape is for --load-format dummy"),
    (["--load-format", "dummy", "--shape", "llama-8b", "x.gguf"], "leave 'x.gguf' out"),
    (["--load-format", "dummy", "--shape", "lama-8b"], "did you mean 'llama-8b'"),
    (["--load-format", "awq"], "--load-format"),
])
def test_contradictions(arguments, words):
    done = subprocess.run([BINARY, "serve", *arguments], capture_output=True, text=True, timeout=600)
    assert done.returncode == 2 and words in done.stderr, done.stderr
