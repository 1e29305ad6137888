"""Fill in the middle (/v1/completions with suffix, /infill), llama-server's own /completion, best_of."""
import json
import math
import os
import pathlib

import pytest
import requests

import conftest
from conftest import NAME, PATIENCE_S, SANITIZED, every_model

GREEDY = dict(temperature=0, max_tokens=24)
PREFIX, SUFFIX = "def fib(n):\n    if n < 2:\n        return n\n    return ", "\n\nprint(fib(10))\n"


@pytest.fixture(scope="module")
def coder():
    path = pathlib.Path(os.environ.get("OCTAVO_MODELS", conftest.ROOT / "models")).absolute() / "qwen05.gguf"
    if SANITIZED or not path.exists():
        pytest.skip(f"{path} is not there (tests/models.sh qwen05 brings it), or too slow under a sanitizer")
    server = conftest.Server("--ctx-size", 1024, "--kv-format", "f16", "--kv-cache-bytes", 256 << 20, model=path)
    yield server
    server.stop()


@every_model
def test_suffix(coder):
    """The prompt that Qwen2.5-Coder's model card writes by hand gives the same answer."""
    reply = coder.complete(PREFIX, suffix=SUFFIX, **GREEDY)
    by_hand = coder.complete(f"<|fim_prefix|>{PREFIX}<|fim_suffix|>{SUFFIX}<|fim_middle|>",
                             stop_token_ids=[151662, 151663, 151664], **GREEDY)
    assert reply["choices"][0]["text"] == by_hand["choices"][0]["text"]
    assert reply["choices"][0]["text"].startswith("fib(n-1) + fib(n-2)")
    assert reply["usage"] == {**by_hand["usage"], "prompt_tokens_details": reply["usage"]["prompt_tokens_details"]}


def test_suffix_is_text(coder):
    """What looks like a control token in prompt or suffix is text."""
    reply = coder.complete("a<|fim_middle|>", suffix="<|fim_suffix|>b", **GREEDY)
    pieces = coder.post("/tokenize", content="a<|fim_middle|>", parse_special=False).json()["tokens"]
    pieces += coder.post("/tokenize", content="<|fim_suffix|>b", parse_special=False).json()["tokens"]
    assert reply["usage"]["prompt_tokens"] == len(pieces) + 3 > 10


def test_suffix_with_tokens_and_streams(coder):
    ids = coder.post("/tokenize", content=PREFIX).json()["tokens"]
    whole = coder.complete(PREFIX, suffix=SUFFIX, n=2, **GREEDY)
    assert coder.complete(ids, suffix=SUFFIX, **GREEDY)["choices"][0]["text"] == whole["choices"][0]["text"]
    stream = coder.client().completions.create(model=NAME, prompt=PREFIX, suffix=SUFFIX, n=2, stream=True, **GREEDY)
    texts = ["", ""]
    for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == [c["text"] for c in whole["choices"]]


def infill(server, **body):
    return server.post("/infill", **{"input_prefix": PREFIX, "input_suffix": SUFFIX, "temperature": 0, "n_predict": 24,
                                     **body})


@every_model
def test_infill(coder):
    reply = infill(coder).json()
    assert reply["content"] == coder.complete(PREFIX, suffix=SUFFIX, **GREEDY)["choices"][0]["text"]
    assert reply["stop"] is True and reply["stop_type"] in ("eos", "limit")
    assert infill(coder, input_prefix=PREFIX[:-7], prompt=PREFIX[-7:]).json()["content"] == reply["content"]


def test_infill_files(coder):
    """llama.cpp's own test of this model, with the answer that it expects; there the prompt is part of a repository."""
    reply = coder.post("/infill", input_extra=[{"filename": "llama.h", "text": "LLAMA_API int32_t llama_n_threads();\n"}],
                       input_prefix="#include <cstdio>\n#include \"llama.h\"\n\nint main() {\n", temperature=0,
                       prompt="    int n_threads = llama_", input_suffix="}\n", n_predict=16).json()
    assert reply["content"].startswith("n_threads();\n    printf(")
    plain = coder.post("/infill", input_prefix="a", input_suffix="b", n_predict=1).json()
    assert reply["tokens_evaluated"] > 40 and plain["tokens_evaluated"] == 5


def test_infill_drops_what_does_not_fit(coder):
    files = [{"filename": f"{i}.c", "text": "int x;\n" * 100} for i in range(20)]
    reply = infill(coder, input_extra=files)
    assert reply.status_code == 200 and reply.json()["tokens_evaluated"] == 1024 - 24


@pytest.mark.parametrize("body, param", [
    ({"input_prefix": None}, "input_prefix"), ({"input_suffix": 5}, "input_suffix"), ({"prompt": ["a"]}, "prompt"),
    ({"input_extra": {}}, "input_extra"), ({"input_extra": [{}]}, "input_extra[0].text"),
    ({"input_extra": [{"text": "a"}, {"filename": 1, "text": "a"}]}, "input_extra[1].filename"),
    ({"input_extra": [5]}, "input_extra[0].text"), ({"n_predict": "many"}, "n_predict"), ({"n_probs": 21}, "n_probs"),
])
def test_infill_faults(coder, body, param):
    reply = infill(coder, **body)
    assert reply.status_code == 400 and reply.json()["error"]["param"] == param, reply.text


def test_model_without_the_tokens(server):
    """SmolLM2 and the tiny model have none: a 400 that says so."""
    for path, body, param in (("/v1/completions", {"prompt": "a", "suffix": "b"}, "suffix"),
                              ("/infill", {"input_prefix": "a", "input_suffix": "b"}, "input_suffix")):
        reply = server.post(path, **body)
        assert reply.status_code == 400 and reply.json()["error"]["param"] == param
        assert "fill in the middle" in reply.json()["error"]["message"]


# --- /completion ---

def test_native(server):
    reply = server.post("/completion", prompt="Hello", n_predict=6, temperature=0, n_probs=2, ignore_eos=True,
                        return_tokens=True).json()
    ours = server.complete("Hello", max_tokens=6, temperature=0, logprobs=2, ignore_eos=True)
    assert reply["content"] == ours["choices"][0]["text"]
    assert reply["tokens_predicted"] == 6 == len(reply["tokens"]) and reply["stop_type"] == "limit"
    assert reply["tokens_evaluated"] == ours["usage"]["prompt_tokens"]
    assert [p["logprob"] for p in reply["completion_probabilities"]] == ours["choices"][0]["logprobs"]["token_logprobs"]
    for p, id in zip(reply["completion_probabilities"], reply["tokens"]):
        assert p["id"] == id and len(p["top_logprobs"]) == 2 and p["top_logprobs"][0]["logprob"] >= p["logprob"] - 1e-6
        assert server.post("/detokenize", tokens=[id]).json()["content"].encode() == bytes(p["bytes"]) or \
            "\ufffd" in server.post("/detokenize", tokens=[id]).json()["content"]
    assert reply["timings"]["predicted_n"] == 6 and reply["timings"]["predicted_ms"] >= 0


def test_native_stop(server):
    text = server.complete("Hello", max_tokens=12, temperature=0, ignore_eos=True)["choices"][0]["text"]
    word = text[3:6]
    reply = server.post("/completion", prompt="Hello", n_predict=12, temperature=0, ignore_eos=True,
                        stop=["\u2603no", word]).json()
    assert reply["content"] == text[:text.find(word)]
    assert reply["stop_type"] == "word" and reply["stopping_word"] == word


def test_native_stream_and_several(server):
    body = dict(prompt=["Hello", "One two"], n_predict=8, temperature=0, ignore_eos=True)
    whole = server.post("/completion", **body).json()
    assert [r["index"] for r in whole] == [0, 1]
    reply = requests.post(server.url + "/completion", json={**body, "stream": True}, timeout=PATIENCE_S)
    texts, ends = ["", ""], 0
    for line in reply.text.split("\n\n"):
        if not line:
            continue
        event = json.loads(line.removeprefix("data: "))
        texts[event["index"]] += event["content"]
        ends += event["stop"]
    assert texts == [r["content"] for r in whole] and ends == 2


# --- best_of ---

def test_best_of(server):
    """The n likeliest of the choices that n = best_of gives, the likeliest first; usage counts all."""
    body = dict(temperature=1.2, seed=5, max_tokens=8, ignore_eos=True, logprobs=0)
    everything = server.complete(["Hello", "One two"], n=6, **body)
    best = server.complete(["Hello", "One two"], n=2, best_of=6, **body)
    assert [c["index"] for c in best["choices"]] == [0, 1, 2, 3]
    for p in range(2):
        ranked = sorted(everything["choices"][6 * p:6 * p + 6],
                        key=lambda c: -math.fsum(c["logprobs"]["token_logprobs"]) / len(c["logprobs"]["token_logprobs"]))
        assert [c["text"] for c in ranked[:2]] == [c["text"] for c in best["choices"][2 * p:2 * p + 2]]
        assert ranked[0]["text"] != ranked[-1]["text"]
    assert best["usage"]["completion_tokens"] == 6 * 8 * 2
    assert best["usage"]["prompt_tokens"] == everything["usage"]["prompt_tokens"]


def test_best_of_without_logprobs(server):
    body = dict(temperature=1.2, seed=5, max_tokens=8, ignore_eos=True, n=1, best_of=4)
    plain, scored = server.complete("Hello", **body), server.complete("Hello", logprobs=1, **body)
    assert plain["choices"][0]["text"] == scored["choices"][0]["text"] and plain["choices"][0]["logprobs"] is None
    assert server.complete("Hello", max_tokens=0, best_of=3)["choices"][0]["text"] == ""
