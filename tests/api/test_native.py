"""POST /completion as llama-server's clients know it."""
import json
import math

import pytest
import requests

from conftest import CTX_SIZE, NAME, PATIENCE_S, Server, real

TOKENS = [(i * 37) % 240 + 5 for i in range(12)]


def complete(server, **body):
    reply = requests.post(server.url + "/completion", json=body, timeout=PATIENCE_S)
    assert reply.status_code == 200, reply.text
    return reply.json()


def events(server, **body):
    reply = requests.post(server.url + "/completion", json={**body, "stream": True}, stream=True, timeout=PATIENCE_S)
    assert reply.status_code == 200 and reply.headers["Content-Type"].startswith("text/event-stream")
    lines = [line for line in reply.iter_lines() if line]
    assert all(line.startswith(b"data: ") for line in lines), "no [DONE], no other lines"
    return [json.loads(line[6:]) for line in lines]


def test_reply(server):
    reply = complete(server, prompt=TOKENS, n_predict=7, temperature=0, ignore_eos=True, return_tokens=True, seed=5)
    assert reply["stop"] is True and reply["truncated"] is False and reply["stop_type"] == "limit"
    assert reply["tokens_predicted"] == 7 and reply["tokens_evaluated"] == 12 and len(reply["tokens"]) == 7
    assert reply["timings"]["predicted_n"] == 7
    assert reply["timings"]["prompt_n"] + reply["timings"]["cache_n"] == 12
    settings = reply["generation_settings"]
    assert settings["n_predict"] == 7 and settings["seed"] == 5 and settings["temperature"] == 0
    assert settings["top_k"] == 40 and settings["top_p"] == pytest.approx(.95) and settings["min_p"] == pytest.approx(.05)
    assert reply["has_new_line"] == ("\n" in reply["content"])
    assert complete(server, prompt=TOKENS, n_predict=7, temperature=0, ignore_eos=True)["tokens"] == []


def test_drawn_seed_can_be_sent_back(server):
    first = complete(server, prompt=TOKENS, n_predict=8, temperature=1, return_tokens=True)
    seed = first["generation_settings"]["seed"]
    assert complete(server, prompt=TOKENS, n_predict=8, temperature=1, return_tokens=True, seed=seed)["tokens"] == first["tokens"]
    assert complete(server, prompt=TOKENS, n_predict=1, seed=-5)["generation_settings"]["seed"] == -5


def test_stream_equals_whole(server):
    body = {"prompt": TOKENS, "n_predict": 16, "seed": 3, "ignore_eos": True, "return_tokens": True}
    whole, parts = complete(server, **body), events(server, **body)
    assert [e["stop"] for e in parts] == [False] * (len(parts) - 1) + [True]
    assert "".join(e["content"] for e in parts) == whole["content"]
    tokens = sum((e["tokens"] for e in parts), [])
    assert tokens == whole["tokens"][:len(tokens)]
    last = parts[-1]
    for name in ("stop_type", "tokens_predicted", "has_new_line", "generation_settings", "prompt"):
        assert {**last, "generation_settings": {**last["generation_settings"], "stream": False}}[name] == whole[name]


def test_prompts_of_all_kinds(server):
    plain = complete(server, prompt="Hello there", n_predict=4, temperature=0)
    ids, first = (requests.post(server.url + "/tokenize", json={"content": text}, timeout=PATIENCE_S).json()["tokens"]
                  for text in ("Hello there", "Hello"))
    mixed = complete(server, prompt=[*first, " there"], n_predict=4, temperature=0)
    assert mixed["prompt"] == plain["prompt"] == "Hello there"
    many = complete(server, prompt=["Hello there", ids, "Something else"], n_predict=4, temperature=0)
    assert [m["index"] for m in many] == [0, 1, 2]
    assert many[0]["content"] == many[1]["content"] == plain["content"]
    wrapped = {"prompt_string": "Hello there"}
    assert complete(server, prompt=wrapped, n_predict=4, temperature=0)["content"] == plain["content"]
    both = complete(server, prompt=[ids, {**wrapped, "multimodal_data": []}], n_predict=4, temperature=0)
    assert [b["content"] for b in both] == [plain["content"]] * 2


def test_probabilities(server):
    reply = complete(server, prompt=TOKENS, n_predict=5, n_probs=3, temperature=0, ignore_eos=True)
    entries = reply["completion_probabilities"]
    assert 0 < len(entries) <= 5
    for entry in entries:
        assert len(entry["top_logprobs"]) == 3
        assert entry["logprob"] == max(t["logprob"] for t in entry["top_logprobs"]) <= 0
        assert entry["id"] == entry["top_logprobs"][0]["id"] and isinstance(entry["bytes"], list)


def test_probabilities_of_the_draw(server):
    """post_sampling_probs are of what was left to draw from: top_k of it, sharing 1 by the model's own odds."""
    body = {"prompt": TOKENS, "n_predict": 5, "n_probs": 5, "seed": 4, "ignore_eos": True, "temperature": 1, "min_p": 0,
            "top_p": 1}
    own = complete(server, **body, top_k=3)["completion_probabilities"]
    drawn = complete(server, **body, top_k=3, post_sampling_probs=True)["completion_probabilities"]
    assert [e["id"] for e in own] == [e["id"] for e in drawn] and len(drawn) > 0
    for a, b in zip(own, drawn):
        best = a["top_logprobs"][:3]
        mass = sum(math.exp(t["logprob"]) for t in best)
        assert [t["id"] for t in b["top_probs"]] == [t["id"] for t in best]
        assert [t["prob"] for t in b["top_probs"]] == pytest.approx([math.exp(t["logprob"]) / mass for t in best], rel=1e-4)
        assert b["prob"] == next(t["prob"] for t in b["top_probs"] if t["id"] == b["id"])
    whole = complete(server, **body, top_k=0, post_sampling_probs=True)["completion_probabilities"]
    plain = complete(server, **body, top_k=0)["completion_probabilities"]
    assert [e["prob"] for e in whole] == pytest.approx([math.exp(e["logprob"]) for e in plain], rel=1e-4)
    sure = complete(server, **{**body, "temperature": 0}, post_sampling_probs=True)["completion_probabilities"]
    assert all(e["prob"] == 1 and len(e["top_probs"]) == 1 for e in sure)


def test_response_fields(server):
    names = ["content", "generation_settings/n_predict", "timings/predicted_n", "no/such", "stop_type"]
    body = {"prompt": TOKENS, "n_predict": 3, "temperature": 0, "ignore_eos": True}
    reply, whole = complete(server, **body, response_fields=names), complete(server, **body)
    assert reply == {"content": whole["content"], "generation_settings/n_predict": 3, "timings/predicted_n": 3,
                     "stop_type": "limit"}
    assert events(server, **body, response_fields=["stop"])[-1] == {"stop": True}
    assert complete(server, **body, response_fields=["nothing"]) == {}
    assert complete(server, **body, response_fields=[]).keys() == whole.keys()


def test_timings_and_progress(server):
    """Where they are asked for every event has timings, and a prompt says how far it is before its text comes."""
    prompt = [(i * 41) % 230 + 5 for i in range(300)]
    parts = events(server, prompt=prompt, n_predict=3, ignore_eos=True, timings_per_token=True, return_progress=True,
                   cache_salt="progress")
    assert all("timings" in p for p in parts)
    assert all(v >= 0 for p in parts for v in p["timings"].values())
    progress = [p for p in parts if "prompt_progress" in p]
    assert progress == parts[:len(progress)] and len(progress) >= 2
    steps = [p["prompt_progress"] for p in progress]
    assert {s["total"] for s in steps} == {300} and {s["cache"] for s in steps} == {0}
    done = [s["processed"] for s in steps]
    assert done[0] == 0 and done[-1] == 300 and done == sorted(set(done))
    assert progress[0]["timings"]["prompt_n"] == progress[0]["timings"]["prompt_ms"] == 0
    last = parts[-1]["timings"]
    assert last["prompt_n"] == 300 and last["predicted_n"] == 3
    assert last["predicted_per_second"] == pytest.approx(2e3 / last["predicted_ms"]), "the first comes with the prompt"
    again = events(server, prompt=prompt, n_predict=1, return_progress=True, cache_salt="progress")
    first = next(p["prompt_progress"] for p in again)
    assert first["processed"] == first["cache"] > 0
    assert "prompt_progress" not in complete(server, prompt=TOKENS, n_predict=1, return_progress=True)
    assert not any("timings" in p for p in events(server, prompt=TOKENS, n_predict=2)[:-1])


def test_stop_word(server):
    whole = complete(server, prompt=TOKENS, n_predict=24, seed=9, ignore_eos=True)["content"]
    word = whole[len(whole) // 2:][:3]
    reply = complete(server, prompt=TOKENS, n_predict=24, seed=9, ignore_eos=True, stop=[word])
    assert reply["stop_type"] == "word" and reply["stopping_word"] == word
    assert reply["content"] == whole[:whole.index(word)]


def test_no_limit_ends_with_the_context(server):
    reply = complete(server, prompt=TOKENS * 40, n_predict=-1, ignore_eos=True)
    assert reply["stop_type"] == "limit" and reply["tokens_evaluated"] + reply["tokens_predicted"] == CTX_SIZE
    assert complete(server, prompt=TOKENS * 40, n_predict=10**6, ignore_eos=True)["stop_type"] == "limit"


@real
def test_bias_as_pairs(server):
    plain = complete(server, prompt="The capital of France is", n_predict=1, temperature=0, return_tokens=True)
    never = complete(server, prompt="The capital of France is", n_predict=1, temperature=0, return_tokens=True,
                     logit_bias=[[plain["tokens"][0], False]])
    assert never["tokens"] != plain["tokens"]
    for bias in ([[" Paris the", -100], [" the", -100]], {" Paris the": -100, " the": -100, "5": 0}):
        reply = complete(server, prompt="The capital of France is", n_predict=8, temperature=0, logit_bias=bias)
        assert " Paris" not in reply["content"] and " the" not in reply["content"]


@pytest.mark.parametrize("field, value", [
    ("n_predict", "many"), ("n_predict", -2), ("n_predict", 1.5), ("prompt", {}), ("prompt", {"prompt_string": 5}),
    ("prompt", {"prompt_string": "a", "multimodal_data": ["aGk="]}), ("response_fields", "content"), ("response_fields", [1]),
    ("timings_per_token", 1), ("return_progress", "yes"), ("logit_bias", [["a", "b"]]), ("prompt", []), ("prompt", 5),
    ("prompt[1]", [1, 10**7]), ("prompt[1][0]", ["a", [True]]), ("mirostat", 2), ("dry_multiplier", .8), ("typical_p", .5), ("t_max_predict_ms", 100),
    ("n_probs", 99), ("repetition_penalty", "x"), ("repeat_penalty", "x"), ("temperature", "hot"), ("top_k", .5), ("logit_bias", [[1]]),
    ("post_sampling_probs", 1), ("return_tokens", 1), ("cache_prompt", "no"), ("lora", [{"id": 0, "scale": 1}]),
    ("stream", "yes"), ("kv_format", "o9")])
def test_faults_name_the_field(server, field, value):
    body = {"prompt": "a", "n_predict": 1, field.split("[")[0]: value}
    reply = requests.post(server.url + "/completion", json=body, timeout=PATIENCE_S)
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["param"] == field and reply.json()["error"]["type"] == "invalid_request_error"
    assert complete(server, prompt="a", n_predict=1)["tokens_predicted"] == 1


def test_both_names(server):
    """Of llama-server's name and ours, given both, the first counts."""
    reply = complete(server, prompt="a", n_predict=1, repeat_penalty=1.25, repetition_penalty=1.5)
    assert reply["generation_settings"]["repeat_penalty"] == 1.25


def test_any_model():
    """A client of llama-server that names some model is served, and told which model it got."""
    server = Server("--ctx-size", CTX_SIZE, "--kv-cache-bytes", 32 << 20, "--any-model")
    for path in ("/completion", "/v1/completions"):
        reply = server.post(path, model="gpt-4", prompt="a", max_tokens=1)
        assert reply.status_code == 200 and reply.json()["model"] == NAME
    server.stop()


def test_defaults_of_the_server(start):
    """--seed, --temp, --n-predict and their like are what requests get that do not say, at every endpoint."""
    server = start("--ctx-size", CTX_SIZE, "--kv-cache-bytes", 32 << 20, "--seed", 42, "--n-predict", 6, "--temp", .5, "--top-k", 7,
                   "--top-p", .9, "--min-p", .01)
    wanted = {"seed": 42, "n_predict": 6, "temperature": .5, "top_k": 7}
    params = requests.get(server.url + "/props", timeout=PATIENCE_S).json()["default_generation_settings"]["params"]
    assert {k: params[k] for k in wanted} == wanted and params["top_p"] == .9 and params["min_p"] == .01
    reply = complete(server, prompt=TOKENS, ignore_eos=True)
    assert {k: reply["generation_settings"][k] for k in wanted} == wanted and reply["tokens_predicted"] == 6
    assert complete(server, prompt=TOKENS, ignore_eos=True)["content"] == reply["content"], "one seed for all"
    given = complete(server, prompt=TOKENS, n_predict=3, seed=1, temperature=0, top_k=2)["generation_settings"]
    assert (given["n_predict"], given["seed"], given["temperature"], given["top_k"]) == (3, 1, 0, 2)
    first, second = (server.complete(TOKENS, ignore_eos=True) for _ in range(2))
    assert first["choices"] == second["choices"] and first["usage"]["completion_tokens"] == 6
    same = {"prompt": TOKENS, "max_tokens": 6, "ignore_eos": True, "seed": 42, "temperature": .5, "top_k": 7, "top_p": .9,
            "min_p": .01}
    assert server.complete(**same)["choices"] == first["choices"]
    chat = server.post("/v1/chat/completions", messages=[{"role": "user", "content": "a"}], ignore_eos=True).json()
    assert chat["usage"]["completion_tokens"] == 6
    server.stop()
