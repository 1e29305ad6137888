"""The requests that guidellm 0.8 makes, as it writes them: `"stop": null`, `"ignore_eos"`, usage in every event, content in
parts; to each of its endpoints, streamed or not."""
import pytest
import requests

from conftest import NAME, PATIENCE_S
from sse import events, events_of

N = 7
FORCED = {"stop": None, "ignore_eos": True}
STREAMED = {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
PARTS = [{"role": "user", "content": [{"type": "text", "text": "Name a colour."}]}]
ITEMS = [{"role": "user", "content": [{"type": "input_text", "text": "Name a colour."}]}]


def test_before_it_begins(server):
    """It asks whether the server is well, and takes the first model."""
    assert requests.get(server.url + "/health", timeout=PATIENCE_S).status_code == 200
    models = requests.get(server.url + "/v1/models", timeout=PATIENCE_S).json()["data"]
    assert [model["id"] for model in models] == [NAME]


@pytest.mark.parametrize("path, body", [
    ("/v1/completions", {"prompt": "Name a colour.", "max_tokens": N}),
    ("/v1/chat/completions", {"messages": PARTS, "max_completion_tokens": N}),
], ids=["completions", "chat"])
def test_tokens_are_as_many_as_asked(server, path, body):
    """Whole and streamed; in a stream every event has the usage so far, which only grows, and the last one the whole."""
    body = {"model": NAME, **body, **FORCED}
    whole = server.post(path, **body).json()
    assert whole["usage"]["completion_tokens"] == N and whole["choices"][0]["finish_reason"] == "length"
    stream = events(server, path, **body, **STREAMED)
    used = [event["usage"] for event in stream]
    counts = [usage["completion_tokens"] for usage in used]
    assert counts == sorted(counts) and counts[-1] == N
    assert used[-1] == {**whole["usage"], "prompt_tokens_details": used[-1]["prompt_tokens_details"]}
    assert {usage["prompt_tokens"] for usage in used} == {whole["usage"]["prompt_tokens"]}
    assert all(usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] for usage in used)
    assert stream[-1]["choices"] == [] and "id" in stream[0]
    plain = events(server, path, **body, stream=True, stream_options={"include_usage": True})
    assert [event["usage"] for event in plain[:-1]] == [None] * (len(plain) - 1)
    assert all("usage" not in event for event in
               events(server, path, **body, stream=True, stream_options={"continuous_usage_stats": True}))


def test_responses(server):
    body = {"model": NAME, "input": ITEMS, "max_output_tokens": N, **FORCED}
    whole = server.post("/v1/responses", **body).json()
    assert whole["usage"]["output_tokens"] == N
    _, last = events_of(server.post("/v1/responses", **body, stream=True))[-1]
    assert last["response"]["usage"]["output_tokens"] == N


def test_fault(server):
    reply = server.post(prompt="a", stream=True, stream_options={"include_usage": True, "continuous_usage_stats": 1})
    assert reply.status_code == 400 and reply.json()["error"]["param"] == "stream_options.continuous_usage_stats"
