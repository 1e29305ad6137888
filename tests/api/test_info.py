"""What a server tells of itself: /props, /tokenizer_info, /slots, /v1/octavo/sequences, and what it has not."""
import concurrent.futures
import time

import openai
import pytest
import requests

from conftest import CTX_SIZE, NAME, PATIENCE_S, SANITIZED, every_model, wait_until

LONG = dict(prompt="Tell me everything:", max_tokens=3900 if SANITIZED else 1500, ignore_eos=True, temperature=0)


def get(server, path, **more):
    return requests.get(server.url + path, timeout=PATIENCE_S, **more)


@every_model
def test_props(server):
    props = get(server, "/props").json()
    assert props["default_generation_settings"]["n_ctx"] == CTX_SIZE and props["total_slots"] == 16
    assert props["default_generation_settings"]["params"]["temperature"] == 0.8
    assert props["model_path"].endswith(".gguf") and props["model_alias"] == NAME
    assert [f["name"] for f in props["kv_formats"]] == ["f16", "o2", "o4"] and props["kv_format"] == "f16"
    assert props["modalities"] == {"vision": False, "audio": False} and props["endpoint_slots"] is True
    assert props["bos_token"] and props["eos_token"] and "messages" in props["chat_template"]
    assert props["build_info"].startswith("octavo ")


@every_model
def test_tokenizer_info(server):
    """As lm-eval's remote tokenizer uses it: the texts of the special tokens are those tokens."""
    info = get(server, "/tokenizer_info").json()
    assert info["vocab_size"] == server.vocab_size() and info["model_max_length"] == CTX_SIZE
    for name in ("bos", "eos"):
        tokens = server.post("/tokenize", prompt=info[name + "_token"], add_special_tokens=False).json()["tokens"]
        assert tokens == [info[name + "_token_id"]]
        assert info["added_tokens_decoder"][str(tokens[0])] == {"content": info[name + "_token"], "special": True}
    assert info["eos_token_id"] in info["end_token_ids"]
    assert info["chat_template"] == get(server, "/props").json()["chat_template"]


def test_other_names(server):
    assert get(server, "/models").json() == get(server, "/v1/models").json()
    assert get(server, "/v1/health").json() == {"status": "ok"}


def test_embeddings(server, client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model=NAME, input="hello")
    assert caught.value.code == "embeddings_not_supported" and "pooling" in caught.value.message
    assert server.complete("Hello", max_tokens=1)


def test_sequences_idle(server):
    wait_until(lambda: get(server, "/v1/octavo/sequences").json()["data"] == [], "nothing is alive")
    slots = get(server, "/slots").json()
    assert [s["id"] for s in slots] == list(range(16)) and not any(s["is_processing"] for s in slots)
    assert get(server, "/slots?fail_on_no_slot=1").status_code == 200


def test_sequences(start):
    """Two run, two wait: what is told of them is so; then nothing is left. No text is told."""
    server = start("--ctx-size", 4096, "--kv-cache-bytes", 256 << 20, "--parallel", 2)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        began = time.monotonic()
        pool.submit(server.post, **LONG, n=2, kv_format="o2")
        wait_until(lambda: server.metrics()["octavo_sequences_running"] == 2, "two run")
        waiting = pool.submit(server.post, prompt=["Hello", "One two three"], max_tokens=1, priority=7)
        wait_until(lambda: len(get(server, "/v1/octavo/sequences").json()["data"]) == 4, "two more wait")
        reply = get(server, "/v1/octavo/sequences")
        listed = reply.json()
        assert "Tell" not in reply.text and listed["parallel"] == 2 and listed["not_listed"] == 0
        running, queued = listed["data"][:2], listed["data"][2:]
        assert sorted(s["slot"] for s in running) == [0, 1] and {s["index"] for s in running} == {0, 1}
        assert len({s["id"] for s in running}) == 1 and running[0]["id"].startswith("cmpl-")
        prompt_tokens = len(server.post("/tokenize", prompt=LONG["prompt"]).json()["tokens"])
        for s in running:
            assert s["state"] in ("prefill", "decode") and s["kv_format"] == "o2" and s["priority"] == 0
            assert s["prompt_tokens"] == prompt_tokens and s["tokens"] == prompt_tokens + s["generated_tokens"]
            assert s["max_tokens"] == LONG["max_tokens"] and 0 < s["age_s"] < time.monotonic() - began + 1
        for s in queued:
            assert s["state"] == "waiting" and s["slot"] is None and s["kv_bytes"] == 0 and s["priority"] == 7
            assert s["kv_format"] == "f16"
        wait_until(lambda: all(s["kv_bytes"] > 0 and s["generated_tokens"] > 1
                               for s in get(server, "/v1/octavo/sequences").json()["data"][:2]), "they generate")
        slots = get(server, "/slots").json()
        assert [s["is_processing"] for s in slots] == [True, True]
        assert all(s["n_prompt_tokens"] == prompt_tokens and
                   s["next_token"][0]["n_decoded"] + s["next_token"][0]["n_remain"] == LONG["max_tokens"] for s in slots)
        full = get(server, "/slots?fail_on_no_slot=1")
        assert full.status_code == 503 and full.json()["error"]["code"] == "no_slot"
        assert waiting.result().status_code == 200
    wait_until(lambda: get(server, "/v1/octavo/sequences").json()["data"] == [], "nothing is alive")
    server.stop()
