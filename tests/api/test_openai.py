"""What openai's Python client does around its requests: raw responses, parsed replies in streams, tools made of pydantic
models, retries when the server is busy, timeouts. (The other suites use the client for nearly all they ask.)"""
import asyncio
import threading

import openai
import pydantic
import pytest
import requests

from conftest import NAME, PATIENCE_S, SANITIZED, wait_until

HELLO = [{"role": "user", "content": "Name a colour and a number."}]
GREEDY = dict(model=NAME, temperature=0)
STREAM = dict(stream=True, stream_options={"include_usage": True})


class Pair(pydantic.BaseModel):
    colour: str = pydantic.Field(max_length=8)
    number: int = pydantic.Field(ge=1, le=9)


class Paint(pydantic.BaseModel):
    """Paints something."""
    colour: str = pydantic.Field(max_length=8)


@pytest.fixture(scope="module")
def later(server):
    """The asynchronous client, in a loop of its own for each call."""
    def run(ask):
        async def body():
            async with openai.AsyncOpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0,
                                          timeout=PATIENCE_S) as client:
                return await ask(client)
        return asyncio.run(body())
    return run


def test_raw_response(client):
    """The headers are there, and the body is what the client makes of it by itself."""
    raw = client.chat.completions.with_raw_response.create(messages=HELLO, max_tokens=6, **GREEDY)
    assert raw.status_code == 200 and raw.headers["content-type"] == "application/json" and raw.headers["x-request-id"]
    parsed = raw.parse()
    assert parsed.choices == client.chat.completions.create(messages=HELLO, max_tokens=6, **GREEDY).choices
    assert parsed._request_id is None or parsed._request_id == raw.headers["x-request-id"]


def test_request_id_of_faults(client):
    with pytest.raises(openai.BadRequestError) as fault:
        client.chat.completions.create(messages=[], **GREEDY)
    assert fault.value.request_id and fault.value.param == "messages" and fault.value.type == "invalid_request_error"


def test_streaming_response(client):
    """The bytes as they come: lines of events, and the end marked."""
    with client.chat.completions.with_streaming_response.create(messages=HELLO, max_tokens=4, **STREAM, **GREEDY) as raw:
        assert raw.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in raw.iter_lines() if line]
    assert all(line.startswith("data: ") for line in lines) and lines[-1] == "data: [DONE]"


def stream_events(stream):
    events = list(stream)
    return [event.type for event in events], stream.get_final_completion()


def test_stream_of_a_model(client):
    """chat.completions.stream with a pydantic model: its last event has the object."""
    arguments = dict(messages=HELLO, max_tokens=120, response_format=Pair, **GREEDY)
    try:
        whole = client.chat.completions.parse(**arguments)
    except openai.LengthFinishReasonError:
        assert SANITIZED
        pytest.skip("a random model need not come to an end")
    with client.chat.completions.stream(**arguments) as stream:
        types, final = stream_events(stream)
    assert types.count("content.done") == 1 and types.count("content.delta") > 3
    assert isinstance(final.choices[0].message.parsed, Pair)
    assert final.choices[0].message.parsed == whole.choices[0].message.parsed


def test_parse_that_was_cut(client):
    """What max_tokens cut is no object: the client says so by the finish_reason."""
    with pytest.raises(openai.LengthFinishReasonError) as cut:
        client.chat.completions.parse(messages=HELLO, max_tokens=3, response_format=Pair, **GREEDY)
    assert cut.value.completion.usage.completion_tokens == 3


def test_pydantic_tool(roomy):
    """pydantic_function_tool makes a strict tool; parse and stream give the call's arguments as the model."""
    client = roomy.client()
    arguments = dict(messages=[{"role": "user", "content": "Paint it blue."}], tools=[openai.pydantic_function_tool(Paint)],
                     tool_choice="required", parallel_tool_calls=False, max_tokens=120, **GREEDY)
    reply = client.chat.completions.create(**arguments).choices[0]
    if SANITIZED and reply.finish_reason == "length":
        pytest.skip("a random model need not come to an end")
    [call] = client.chat.completions.parse(**arguments).choices[0].message.tool_calls
    assert isinstance(call.function.parsed_arguments, Paint) and call.function.name == "Paint"
    with client.chat.completions.stream(**arguments) as stream:
        types, final = stream_events(stream)
    assert types.count("tool_calls.function.arguments.done") == 1
    assert final.choices[0].message.tool_calls[0].function.parsed_arguments == call.function.parsed_arguments


def test_async_helpers(client, later):
    """Streams, parsed replies and responses of the asynchronous client are those of the other."""
    async def ask(there):
        async with there.chat.completions.stream(messages=HELLO, max_tokens=8, **GREEDY) as stream:
            async for _ in stream:
                pass
            chat = stream.current_completion_snapshot
        async with there.responses.stream(input=HELLO, max_output_tokens=16, **GREEDY) as stream:
            response = "".join([event.delta async for event in stream if event.type == "response.output_text.delta"])
        raw = await there.chat.completions.with_raw_response.create(messages=HELLO, max_tokens=8, **GREEDY)
        several = await asyncio.gather(*[there.completions.create(prompt="One two", max_tokens=5, **GREEDY) for _ in range(5)])
        return chat, response, raw.parse(), several
    chat, response, raw, several = later(ask)
    here = client.chat.completions.create(messages=HELLO, max_tokens=8, **GREEDY).choices[0].message.content
    assert chat.choices[0].message.content == raw.choices[0].message.content == here
    assert response == client.responses.create(input=HELLO, max_output_tokens=16, **GREEDY).output_text
    assert {reply.choices[0].text for reply in several} == {client.completions.create(prompt="One two", max_tokens=5, **GREEDY).choices[0].text}


def test_retry_when_busy(start):
    """429 with Retry-After: the client waits as long as it was told, asks again, and gets its answer."""
    server = start("--parallel", 1, "--max-queue", 1, "--ctx-size", 8192, "--kv-cache-bytes", 256 << 20)
    runs = requests.post(server.url + "/v1/completions", stream=True, timeout=PATIENCE_S, json=dict(
        prompt="a", max_tokens=8000, ignore_eos=True, stream=True, temperature=0))
    waits = threading.Thread(target=lambda: server.post(prompt="a", max_tokens=2))
    waits.start()
    wait_until(lambda: server.metrics()["octavo_sequences_waiting"] == 1, "the queue is full")
    replies = []
    ask = server.client().with_options(max_retries=50).completions.with_raw_response.create
    asks = threading.Thread(target=lambda: replies.append(ask(model=NAME, prompt="a", max_tokens=4)))
    asks.start()
    wait_until(lambda: server.outcomes()["rejected_busy"] >= 1, "it was refused")
    runs.close()
    asks.join(PATIENCE_S)
    waits.join(PATIENCE_S)
    assert replies[0].retries_taken == server.outcomes()["rejected_busy"] >= 1
    assert replies[0].parse().usage.completion_tokens >= 1
    server.stop()


def test_timeout(start):
    """A client that gives up is forgotten: its sequence goes, and the next one is served."""
    server = start("--ctx-size", 8192, "--kv-cache-bytes", 256 << 20)
    client = server.client()
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=3).completions.create(prompt="a", max_tokens=8000, extra_body={"ignore_eos": True}, **GREEDY)
    wait_until(lambda: server.outcomes()["cancelled"] == 1 and server.is_idle(), "the sequence is gone")
    assert client.completions.create(prompt="a", max_tokens=2, **GREEDY).choices[0].text is not None
    server.stop()


def test_models(client):
    [model] = client.models.list()
    assert client.models.retrieve(model.id) == model
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nope")
