"""What a user of /v1/completions meets, through the official client where it matters."""
import concurrent.futures
import math

import openai
import pytest
import requests

from conftest import NAME, PATIENCE_S, every_model, real, wait_until

GREEDY = dict(model=NAME, temperature=0)


def joined(stream):
    """Texts by choice, finish reasons by choice, the last usage, all chunks."""
    texts, reasons, usage, chunks = {}, {}, None, []
    for chunk in stream:
        chunks.append(chunk)
        usage = chunk.usage or usage
        for choice in chunk.choices:
            assert choice.index not in reasons, "a choice goes on after its finish_reason"
            texts[choice.index] = texts.get(choice.index, "") + choice.text
            if choice.finish_reason:
                reasons[choice.index] = choice.finish_reason
    return texts, reasons, usage, chunks


@real
def test_plain(client):
    reply = client.completions.create(prompt="The capital of France is", max_tokens=8, **GREEDY)
    assert reply.object == "text_completion" and reply.model == NAME and reply.id.startswith("cmpl-")
    assert "Paris" in reply.choices[0].text
    assert reply.choices[0].finish_reason == "length" and reply.choices[0].index == 0
    assert reply.choices[0].logprobs is None
    usage = reply.usage
    assert usage.completion_tokens == 8 and usage.total_tokens == usage.prompt_tokens + 8


def test_default_max_tokens(client):
    reply = client.completions.create(prompt="Once upon a time", extra_body={"ignore_eos": True}, **GREEDY)
    assert reply.usage.completion_tokens == 16


@every_model
@pytest.mark.parametrize("more", [
    {}, {"seed": 3, "temperature": 1.0}, {"n": 3, "seed": 3, "temperature": 1.0}, {"echo": True},
    {"logprobs": 3}, {"logprobs": 2, "echo": True}, {"stop": [" the", "."]}, {"prompt": ["One two", "A b c"], "n": 2,
                                                                              "seed": 8, "temperature": 0.8},
], ids=str)
def test_stream_equals_whole(client, more):
    arguments = {**GREEDY, "prompt": "Here is a short story about a café in Zürich:", "max_tokens": 40, **more}
    whole = client.completions.create(**arguments)
    texts, reasons, usage, chunks = joined(
        client.completions.create(stream=True, stream_options={"include_usage": True}, **arguments))
    assert texts == {c.index: c.text for c in whole.choices}
    assert reasons == {c.index: c.finish_reason for c in whole.choices}
    assert usage == whole.usage
    assert len({c.id for c in chunks}) == 1 and chunks[-1].choices == []
    assert all(c.usage is None for c in chunks[:-1])
    for choice in whole.choices:
        if choice.logprobs is None:
            continue
        parts = [c.logprobs for chunk in chunks for c in chunk.choices if c.index == choice.index and c.logprobs]
        for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
            assert sum((getattr(p, name) for p in parts), []) == getattr(choice.logprobs, name)


def test_stream_without_usage(client):
    chunks = list(client.completions.create(prompt="Hello", max_tokens=4, stream=True, **GREEDY))
    assert all(c.usage is None and len(c.choices) == 1 for c in chunks)
    assert [c.choices[0].finish_reason for c in chunks][:-1] == [None] * (len(chunks) - 1)


@real
def test_n(client):
    reply = client.completions.create(model=NAME, prompt="My favourite colour is", max_tokens=12, n=4, seed=11,
                                      temperature=1.2)
    assert [c.index for c in reply.choices] == [0, 1, 2, 3]
    assert len({c.text for c in reply.choices}) > 1
    alone = client.completions.create(model=NAME, prompt="My favourite colour is", max_tokens=12, seed=13,
                                      temperature=1.2)
    assert alone.choices[0].text == reply.choices[2].text, "choice i draws with seed + i"


@every_model
def test_batch_prompts(client, server):
    prompts = ["The sun is", "Water boils at", "def add(a, b):"]
    batch = client.completions.create(prompt=prompts, max_tokens=10, n=2, seed=5, model=NAME, temperature=1.0)
    assert [c.index for c in batch.choices] == list(range(6))
    prompt_tokens = 0
    for i, prompt in enumerate(prompts):
        alone = client.completions.create(prompt=prompt, max_tokens=10, n=2, seed=5, model=NAME, temperature=1.0)
        assert [c.text for c in alone.choices] == [c.text for c in batch.choices[2 * i:2 * i + 2]]
        prompt_tokens += alone.usage.prompt_tokens
    assert batch.usage.prompt_tokens == prompt_tokens
    tokens = [server.post("/tokenize", content=p).json()["tokens"] for p in prompts]
    by_ids = client.completions.create(prompt=tokens, max_tokens=10, n=2, seed=5, model=NAME, temperature=1.0)
    assert [c.text for c in by_ids.choices] == [c.text for c in batch.choices]
    one = client.completions.create(prompt=tokens[0], max_tokens=10, n=2, seed=5, model=NAME, temperature=1.0)
    assert [c.text for c in one.choices] == [c.text for c in batch.choices[:2]]


def test_seeds(client):
    arguments = dict(model=NAME, prompt="A random list of words:", max_tokens=24, temperature=1.0)

    def text(**more):
        return client.completions.create(**arguments, **more).choices[0].text
    assert text(seed=1) == text(seed=1)
    assert text(seed=1) != text(seed=2)
    assert len({text() for _ in range(3)}) > 1, "no seed: another one each time"
    assert len({text(seed=-1) for _ in range(3)}) > 1, "-1: the same"


@real
def test_sampling_parameters(client):
    arguments = dict(model=NAME, prompt="The capital of France is", max_tokens=8)
    greedy = client.completions.create(**arguments, temperature=0).choices[0].text
    for only_best in ({"top_p": 0}, {"extra_body": {"top_k": 1}}, {"extra_body": {"min_p": 1.0}}):
        assert client.completions.create(**arguments, temperature=1.0, seed=4, **only_best).choices[0].text == greedy


@real
def test_logit_bias(client, server):
    token = server.post("/tokenize", content=" Paris").json()["tokens"]
    assert len(token) == 1
    arguments = dict(prompt="The capital of France is", max_tokens=8, **GREEDY)
    assert "Paris" in client.completions.create(**arguments).choices[0].text
    banned = client.completions.create(**arguments, logit_bias={str(token[0]): -100}).choices[0].text
    assert " Paris" not in banned
    forced = client.completions.create(**arguments, logit_bias={str(token[0]): 100}).choices[0].text
    assert forced == " Paris" * 8


@real
def test_penalties(client):
    arguments = dict(prompt="la la la la la la", max_tokens=40, **GREEDY)
    plain = client.completions.create(**arguments).choices[0].text
    for more in ({"presence_penalty": 2.0}, {"frequency_penalty": 2.0}, {"extra_body": {"repetition_penalty": 1.8}}):
        assert client.completions.create(**arguments, **more).choices[0].text != plain


@real
def test_logprobs(client):
    reply = client.completions.create(prompt="The capital of France is", max_tokens=6, logprobs=5, **GREEDY)
    choice, logprobs = reply.choices[0], reply.choices[0].logprobs
    assert "".join(logprobs.tokens) == choice.text
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.top_logprobs) == 6
    for token, logprob, top, offset in zip(logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs,
                                           logprobs.text_offset):
        assert choice.text[offset:].startswith(token)
        assert len(top) == 5 and top[token] == logprob == max(top.values()), "greedy takes the likeliest"
        assert sum(map(math.exp, top.values())) <= 1 + 1e-4
    zero = client.completions.create(prompt="The capital of France is", max_tokens=6, logprobs=0, **GREEDY)
    assert zero.choices[0].logprobs.token_logprobs == logprobs.token_logprobs
    assert zero.choices[0].logprobs.top_logprobs is None


@real
def test_echo(client):
    prompt = "The capital of <|im_end|> Fränce is"
    reply = client.completions.create(prompt=prompt, max_tokens=4, echo=True, **GREEDY)
    alone = client.completions.create(prompt=prompt, max_tokens=4, **GREEDY)
    assert reply.choices[0].text == prompt + alone.choices[0].text
    assert reply.usage == alone.usage


@every_model
def test_echo_of_tokens(client, server):
    tokens = server.post("/tokenize", content="Hello world").json()["tokens"]
    reply = client.completions.create(prompt=tokens, max_tokens=0, echo=True, **GREEDY)
    assert reply.choices[0].text == "Hello world"
    assert reply.choices[0].finish_reason == "length" and reply.usage.completion_tokens == 0


@real
def test_prompt_scoring(client):
    """echo + logprobs + max_tokens 0, as lm-eval asks: the same numbers as when the text was generated."""
    made = client.completions.create(prompt="Two plus two is", max_tokens=12, logprobs=3, **GREEDY).choices[0]
    text = "Two plus two is" + made.text
    scored = client.completions.create(prompt=text, max_tokens=0, echo=True, logprobs=3, **GREEDY).choices[0]
    assert scored.text == text
    assert scored.logprobs.token_logprobs[0] is None and scored.logprobs.top_logprobs[0] is None
    assert "".join(scored.logprobs.tokens) == text
    for token, offset in zip(scored.logprobs.tokens, scored.logprobs.text_offset):
        assert text[offset:].startswith(token)
    if scored.logprobs.tokens[-12:] == made.logprobs.tokens:  # tokenized as it was made
        assert scored.logprobs.token_logprobs[-12:] == made.logprobs.token_logprobs


@real
def test_stop_strings(client):
    """Every substring of a known continuation stops it there, wherever the borders of tokens are."""
    full = client.completions.create(prompt="The capital of France is", max_tokens=24, **GREEDY).choices[0].text
    for start in range(1, len(full) - 6, 9):
        stop = full[start:start + 6]
        cut = full.index(stop)
        for stream in (False, True):
            reply = client.completions.create(prompt="The capital of France is", max_tokens=24, stop=stop,
                                              stream=stream, **GREEDY)
            texts, reasons, _, _ = joined(reply) if stream else ({0: reply.choices[0].text},
                                                                 {0: reply.choices[0].finish_reason}, None, None)
            assert texts.get(0, "") == full[:cut] and reasons[0] == "stop"
    never = client.completions.create(prompt="The capital of France is", max_tokens=24, stop=["\x01", full + "x"],
                                      **GREEDY)
    assert never.choices[0].text == full and never.choices[0].finish_reason == "length"


@real
def test_stop_string_counts_as_success(client, server):
    before = server.outcomes()
    reply = client.completions.create(prompt="1, 2, 3, 4, 5,", max_tokens=200, stop=" 8", **GREEDY)
    assert reply.choices[0].finish_reason == "stop"
    wait_until(lambda: server.outcomes()["ok"] == before["ok"] + 1, "it counts as ok")
    assert server.outcomes()["cancelled"] == before["cancelled"]


@real
def test_stop_token_ids(client, server):
    full = client.completions.create(prompt="The capital of France is", max_tokens=12, logprobs=0, **GREEDY).choices[0]
    token = server.post("/tokenize", content=full.logprobs.tokens[5]).json()["tokens"]
    assert len(token) == 1
    first = full.logprobs.tokens.index(full.logprobs.tokens[5])
    reply = client.completions.create(prompt="The capital of France is", max_tokens=12,
                                      extra_body={"stop_token_ids": token}, **GREEDY)
    assert reply.choices[0].finish_reason == "stop"
    assert reply.choices[0].text == "".join(full.logprobs.tokens[:first + 1]), "a stop token's own text is kept"


@real
def test_end_token(client):
    prompt = "<|im_start|>user\nSay hi.<|im_end|>\n<|im_start|>assistant\n"
    reply = client.completions.create(prompt=prompt, max_tokens=60, **GREEDY)
    assert reply.choices[0].finish_reason == "stop" and "<|im_end|>" not in reply.choices[0].text
    on = client.completions.create(prompt=prompt, max_tokens=60, extra_body={"ignore_eos": True}, **GREEDY)
    assert on.choices[0].finish_reason == "length" and on.usage.completion_tokens == 60
    assert on.choices[0].text.startswith(reply.choices[0].text)


@real
def test_hostile_text(client):
    """Emoji, combining marks, right-to-left, control characters: in by echo, out the same."""
    prompt = "👩‍👩‍👧‍👦 é é \u202e\u0301 שלום \t\r\n \x7f \uffff 𝔘"
    for stream in (False, True):
        reply = client.completions.create(prompt=prompt, max_tokens=8, echo=True, stream=stream, **GREEDY)
        text = joined(reply)[0][0] if stream else reply.choices[0].text
        assert text.startswith(prompt)


def test_models(client):
    models = client.models.list().data
    assert [m.id for m in models] == [NAME] and models[0].object == "model"
    assert client.models.retrieve(NAME).id == NAME
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


def test_async_client(server):
    import asyncio

    async def run():
        async with openai.AsyncOpenAI(base_url=server.url + "/v1", api_key="x", max_retries=0) as client:
            replies = await asyncio.gather(*(
                client.completions.create(model=NAME, prompt=f"{i} plus {i} is", max_tokens=8, temperature=0)
                for i in range(16)))
            return [r.choices[0].text for r in replies]
    together = asyncio.run(run())
    alone = [server.complete(f"{i} plus {i} is", max_tokens=8, temperature=0)["choices"][0]["text"] for i in range(16)]
    assert together == alone


@every_model
def test_each_request_has_its_own_format(server, client):
    """Formats side by side in one batch: every reply is the one that it is alone."""
    prompt = [i * 31 % 250 + 3 for i in range(330)]  # some sealed blocks

    def ask(kv_format):
        extra = {"ignore_eos": True, **({"kv_format": kv_format} if kv_format else {})}
        reply = client.completions.create(prompt=prompt, max_tokens=16, logprobs=1, extra_body=extra, **GREEDY)
        choice = reply.choices[0]
        return choice.text, tuple(choice.logprobs.token_logprobs)

    alone = {name: ask(name) for name in ("f16", "o2", "o4")}
    assert len(set(alone.values())) == 3, "the formats do not differ"
    assert ask(None) == alone["f16"], "the first of --kv-format is the default"
    with concurrent.futures.ThreadPoolExecutor(9) as pool:
        names = list(alone) * 3
        assert list(pool.map(ask, names)) == [alone[name] for name in names]


def test_formats_are_told(server):
    props = requests.get(server.url + "/props", timeout=PATIENCE_S).json()
    assert props["kv_format"] == "f16"
    f16, o2, o4 = props["kv_formats"]
    assert [f["name"] for f in (f16, o2, o4)] == ["f16", "o2", "o4"]
    assert o2["sequence_bytes"] < o4["sequence_bytes"] < f16["sequence_bytes"]
    assert o2["sequences_fit"] > o4["sequences_fit"] > f16["sequences_fit"] > 0
    log = server.log()
    for name in ("f16", "o2", "o4"):
        assert f"format {name}: " in log and f'octavo_kv_format_bitwidth{{format="{name}"}}' in server.metrics()
    assert "o2 is uncalibrated" in log and "f16 is uncalibrated" not in log
    refused = server.post(prompt="a", max_tokens=1, kv_format="o8")
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "kv_format" and "f16, o2, o4" in refused.json()["error"]["message"]
