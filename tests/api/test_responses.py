"""What a user of OpenAI's /v1/responses meets, through the official client where it matters."""
import asyncio
import json
import typing

import openai
import pydantic
import pytest
import requests

from conftest import CTX_SIZE, NAME, PATIENCE_S, every_model, real
from sse import events_of

PATH = "/v1/responses"
HELLO = "Hello! Who are you?"
TURN = [{"role": "user", "content": HELLO}]
BASE = {"input": HELLO, "max_output_tokens": 8, "temperature": 0}
GREEDY = dict(model=NAME, temperature=0)


def ask(server, **body):
    reply = server.post(PATH, **{**BASE, **body})
    assert reply.status_code == 200, reply.text
    return reply.json()


def text_of(response):
    return "".join(part["text"] for item in response["output"] for part in item["content"])


def chat(server, messages, **more):
    """The same through /v1/chat/completions."""
    reply = server.post("/v1/chat/completions", messages=messages, **{"max_tokens": 8, "temperature": 0, **more})
    assert reply.status_code == 200, reply.text
    return reply.json()


# --- Whole replies

def test_shape(server):
    response = ask(server, max_output_tokens=3, ignore_eos=True, metadata={"a": "b"}, user="me", instructions="Be brief.", temperature=0.5, top_p=0.75)
    assert response["id"].startswith("resp_") and response["object"] == "response" and response["model"] == NAME
    assert response["status"] == "incomplete" and response["incomplete_details"] == {"reason": "max_output_tokens"}
    [item] = response["output"]
    assert item["type"] == "message" and item["role"] == "assistant" and item["id"].startswith("msg_") and item["status"] == "incomplete"
    [part] = item["content"]
    assert part["type"] == "output_text" and part["annotations"] == []
    assert response["usage"]["output_tokens"] == 3 and response["usage"]["output_tokens_details"] == {"reasoning_tokens": 0}
    assert response["usage"]["total_tokens"] == response["usage"]["input_tokens"] + 3
    echo = dict(metadata={"a": "b"}, user="me", instructions="Be brief.", temperature=0.5, top_p=0.75, max_output_tokens=3, store=False, error=None, previous_response_id=None,
                parallel_tool_calls=True, tools=[], tool_choice="auto", text={"format": {"type": "text"}}, truncation="disabled")
    assert {k: response[k] for k in echo} == echo


def test_completed(client):
    response = client.responses.create(input=TURN, max_output_tokens=100, extra_body={"stop": None}, **GREEDY)
    assert response.status in ("completed", "incomplete") and response.object == "response"
    assert response.output[0].status == response.status and response.created_at > 1.7e9
    assert response.output_text == response.output[0].content[0].text


@real
def test_says_paris(client):
    response = client.responses.create(input="What is the capital of France?", max_output_tokens=30, **GREEDY)
    assert "Paris" in response.output_text and response.status == "completed" and response.incomplete_details is None


def test_it_is_a_chat(server):
    response = ask(server, instructions="Be brief.")
    same = chat(server, [{"role": "system", "content": "Be brief."}, *TURN])
    assert text_of(response) == same["choices"][0]["message"]["content"]
    assert response["usage"]["input_tokens"] == same["usage"]["prompt_tokens"]
    assert response["usage"]["output_tokens"] == same["usage"]["completion_tokens"]


@pytest.mark.parametrize("items", [
    TURN, [{"type": "message", **TURN[0]}], [{"role": "user", "content": [{"type": "input_text", "text": HELLO}]}],
], ids=str)
def test_forms_of_input(server, items):
    assert text_of(ask(server, input=items)) == text_of(ask(server))


def test_history(server):
    """What a response gave goes back as it came."""
    first = ask(server)
    turns = [*TURN, *first["output"], {"role": "user", "content": "Why?"}]
    same = chat(server, [*TURN, {"role": "assistant", "content": text_of(first)}, {"role": "user", "content": "Why?"}])
    again = ask(server, input=turns)
    assert text_of(again) == same["choices"][0]["message"]["content"] and again["usage"]["input_tokens"] == same["usage"]["prompt_tokens"]


def test_developer_and_system(server):
    for role in ("developer", "system"):
        assert text_of(ask(server, input=[{"role": role, "content": "Be brief."}, *TURN])) == text_of(ask(server, instructions="Be brief."))


def test_cached_tokens(server):
    body = {"input": "Another prompt that nobody else has. " * 11}
    ask(server, **body)
    usage = ask(server, **body)["usage"]
    assert 64 <= usage["input_tokens_details"]["cached_tokens"] < usage["input_tokens"]


def test_there_is_always_an_item(server):
    response = ask(server, max_output_tokens=0)
    assert text_of(response) == "" and len(response["output"]) == 1


def test_what_users_write_is_never_a_control_token(server):
    count = lambda text: ask(server, input=text, max_output_tokens=1)["usage"]["input_tokens"]
    encoded = lambda text: len(server.post("/tokenize", content=text, parse_special=False).json()["tokens"])
    assert count("x <|im_end|>") - count("x ") == encoded("x <|im_end|>") - encoded("x ")


# --- Streams

def test_order_of_events(server):
    reply = requests.post(server.url + PATH, json={**BASE, "stream": True, "ignore_eos": True}, timeout=PATIENCE_S)
    assert reply.headers["Content-Type"].startswith("text/event-stream")
    events = events_of(reply)
    names = [name for name, _ in events]
    assert names[:4] == ["response.created", "response.in_progress", "response.output_item.added", "response.content_part.added"]
    assert set(names[4:-4]) == {"response.output_text.delta"}
    assert names[-4:] == ["response.output_text.done", "response.content_part.done", "response.output_item.done", "response.incomplete"]
    assert all(data["type"] == name for name, data in events)
    assert [data["sequence_number"] for _, data in events] == list(range(len(events)))
    created, added, final = events[0][1]["response"], events[2][1], events[-1][1]["response"]
    assert created["status"] == "in_progress" and created["output"] == [] and created["usage"] is None and created["id"] == final["id"]
    assert added["output_index"] == 0 and added["item"]["status"] == "in_progress" and added["item"]["content"] == []
    for _, data in events[3:-2]:
        assert data["item_id"] == added["item"]["id"] and data["output_index"] == 0 and data["content_index"] == 0
    text = "".join(data["delta"] for name, data in events if name.endswith("text.delta"))
    assert text == events[-4][1]["text"] == events[-3][1]["part"]["text"] == final["output"][0]["content"][0]["text"]
    assert text == text_of(ask(server, ignore_eos=True)) and events[-2][1]["item"] == final["output"][0]


def test_stream_without_text(server):
    reply = requests.post(server.url + PATH, json={**BASE, "max_output_tokens": 0, "stream": True}, timeout=PATIENCE_S)
    assert [name.removeprefix("response.") for name, _ in events_of(reply)] == [
        "created", "in_progress", "output_item.added", "content_part.added", "output_text.done", "content_part.done", "output_item.done", "incomplete"]


@every_model
def test_stream_equals_whole(client):
    arguments = dict(input=TURN, max_output_tokens=12, **GREEDY)
    whole = client.responses.create(**arguments)
    events = list(client.responses.create(stream=True, **arguments))
    assert events[0].type == "response.created" and events[-1].type == "response." + whole.status
    assert events[-1].response.output_text == whole.output_text and events[-1].response.usage == whole.usage


@real
def test_stream_helper(client):
    arguments = dict(input="What is the capital of France?", max_output_tokens=30, **GREEDY)
    with client.responses.stream(**arguments) as stream:
        deltas = [event for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert "".join(e.delta for e in deltas) == deltas[-1].snapshot == final.output_text
    assert final.output_text == client.responses.create(**arguments).output_text and final.status == "completed"


def test_async(server):
    async def run():
        async with openai.AsyncOpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0, timeout=PATIENCE_S) as client:
            whole = await client.responses.create(input=HELLO, max_output_tokens=8, **GREEDY)
            text = ""
            async for event in await client.responses.create(input=HELLO, max_output_tokens=8, stream=True, **GREEDY):
                text += event.delta if event.type == "response.output_text.delta" else ""
            return whole.output_text, text
    whole, text = asyncio.run(run())
    assert whole == text


def test_deadline_in_the_stream(server):
    body = {**BASE, "stream": True, "ignore_eos": True, "max_output_tokens": 400, "timeout_ms": 60}
    reply = requests.post(server.url + PATH, json=body, timeout=PATIENCE_S)
    if reply.status_code == 504:
        assert reply.json()["error"]["code"] == "timeout"
        return
    events = events_of(reply)
    if events[-1][0] != "response.incomplete":
        assert [name for name, _ in events[-2:]] == ["error", "response.failed"]
        assert events[-1][1]["response"]["status"] == "failed" and events[-1][1]["response"]["error"]["message"]


# --- Tools

WEATHER = {"type": "function", "name": "get_weather", "description": "Weather of a city", "strict": False,
           "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}
QUESTION = [{"role": "user", "content": "What is the weather in Paris?"}]


def test_a_call_and_its_result(caller):
    client = caller.client()
    arguments = dict(max_output_tokens=100, tools=[WEATHER], **GREEDY)
    response = client.responses.create(input=QUESTION, **arguments)
    [call] = [item for item in response.output if item.type == "function_call"]
    assert response.status == "completed" and call.name == "get_weather" and json.loads(call.arguments) == {"city": "Paris"}
    with client.responses.stream(input=QUESTION, **arguments) as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert [(i.name, i.arguments) for i in final.output] == [(call.name, call.arguments)]
    assert [e.snapshot for e in events if e.type == "response.function_call_arguments.delta"][-1] == call.arguments
    turns = [*QUESTION, *response.output, {"type": "function_call_output", "call_id": call.call_id, "output": "31 degrees and sunny"}]
    answer = client.responses.create(input=turns, tool_choice="none", **{**arguments, "max_output_tokens": 12})
    same = chat(caller, [*QUESTION, {"role": "assistant", "content": "", "tool_calls": [
        {"id": call.call_id, "type": "function", "function": {"name": "get_weather", "arguments": call.arguments}}]},
        {"role": "tool", "tool_call_id": call.call_id, "content": "31 degrees and sunny"}], max_tokens=12, tool_choice="none",
        tools=[{"type": "function", "function": {k: WEATHER[k] for k in ("name", "description", "parameters", "strict")}}])
    assert answer.output_text == same["choices"][0]["message"]["content"]
    assert answer.usage.input_tokens == same["usage"]["prompt_tokens"]


def test_order_of_events_of_a_call(caller):
    body = {**BASE, "max_output_tokens": 100, "input": QUESTION, "tools": [WEATHER], "stream": True}
    events = events_of(requests.post(caller.url + PATH, json=body, timeout=PATIENCE_S))
    names = [name.removeprefix("response.") for name, _ in events if not name.endswith(".delta")]
    assert names == ["created", "in_progress", "output_item.added", "function_call_arguments.done", "output_item.done", "completed"]
    assert [data["sequence_number"] for _, data in events] == list(range(len(events)))
    added, done, final = events[2][1]["item"], events[-3][1], events[-1][1]["response"]
    assert added["arguments"] == "" and added["status"] == "in_progress" and done["item_id"] == added["id"]
    assert "".join(d["delta"] for n, d in events if n.endswith(".delta")) == done["arguments"] == final["output"][0]["arguments"]


def test_tools_that_may_not_be_called(caller):
    response = ask(caller, max_output_tokens=60, input=QUESTION, tools=[WEATHER], tool_choice="none")
    assert {item["type"] for item in response["output"]} == {"message"}


SCHEMA = {"type": "object", "properties": {"colour": {"enum": ["red", "blue"]}}, "required": ["colour"], "additionalProperties": False}
PAINT = {"type": "function", "name": "paint", "parameters": SCHEMA}


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "paint"}, {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "paint"}]}], ids=str)
def test_calls_that_must_be(roomy, choice):
    body = {"max_output_tokens": 100, "tools": [PAINT] if choice == "required" else [PAINT, {"type": "function", "name": "sing"}], "tool_choice": choice, "parallel_tool_calls": False}
    response = ask(roomy, **body)
    [call] = response["output"]
    assert call["type"] == "function_call" and call["name"] == "paint" and json.loads(call["arguments"])["colour"] in ("red", "blue")
    assert call["status"] == response["status"] == "completed" and response["tool_choice"] == choice
    events = events_of(requests.post(roomy.url + PATH, json={**BASE, **body, "stream": True}, timeout=PATIENCE_S))
    assert "".join(data["delta"] for name, data in events if name.endswith(".delta")) == call["arguments"]


# --- Structured output

def test_json_schema(client):
    text = {"format": {"type": "json_schema", "name": "paint", "schema": SCHEMA, "strict": True}}
    response = client.responses.create(input=HELLO, max_output_tokens=100, text=text, **GREEDY)
    assert json.loads(response.output_text)["colour"] in ("red", "blue") and response.status == "completed"
    assert response.text.format.type == "json_schema" and response.text.format.name == "paint"


class Paint(pydantic.BaseModel):
    colour: typing.Literal["red", "blue"]


def test_parse(client):
    """The helpers that turn a class into a schema and a reply into an object."""
    arguments = dict(input=HELLO, max_output_tokens=100, text_format=Paint, **GREEDY)
    parsed = client.responses.parse(**arguments).output_parsed
    assert isinstance(parsed, Paint)
    with client.responses.stream(**arguments) as stream:
        done = [event for event in stream if event.type == "response.output_text.done"]
    assert done[0].parsed == parsed


@real
def test_json_object(client):
    response = client.responses.create(input="Say {} in JSON.", max_output_tokens=200, text={"format": {"type": "json_object"}}, **GREEDY)
    if response.status == "completed":
        assert isinstance(json.loads(response.output_text), dict)
    assert response.output_text.startswith("{")


# --- Faults

def item(content, role="user"):
    return {"input": [{"role": role, "content": content}]}


CALL = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
RESULT = {"type": "function_call_output", "call_id": "c1", "output": "x"}
TOOL = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": False}
FAULTS = [
    ("input", {"input": None}), ("input", {"input": []}), ("input", {"input": 5}), ("input", {"input": {}}), ("input", {"input": "word " * 5000}), ("input[0]", {"input": ["x"]}),
    ("input[0].role", {"input": [{"content": "x"}]}), ("input[0].role", item("x", "tool")), ("input[0].role", item("x", 1)), ("input[0].content", {"input": [{"role": "user"}]}),
    ("input[0].content", item(5)), ("input[0].content", item([])), ("input[0].content[0]", item(["x"])), ("input[0].content[0].type", item([{"text": "x"}])),
    ("input[0].content[0].type", item([{"type": "input_image", "image_url": "x"}])), ("input[0].content[1].type", item([{"type": "input_text", "text": "x"}, {"type": "input_file"}])),
    ("input[0].content[0].type", item([{"type": "output_text", "text": "x"}])), ("input[0].content[0].text", item([{"type": "input_text"}])), ("input[0].content[0].text", item([{"type": "input_text", "text": 1}])),
    ("input", {"input": [{"type": "reasoning", "summary": []}]}), ("input", {"instructions": "a", "input": [{"type": "reasoning"}] * 2}), ("input[0].type", {"input": [{"type": 1}]}), ("input[1].type", {"input": [*TURN, {"type": "item_reference", "id": "x"}]}),
    ("input[1].call_id", {"input": [*TURN, {**CALL, "call_id": None}]}), ("input[1].name", {"input": [*TURN, {**CALL, "name": 1}]}), ("input[2].arguments", {"input": [*TURN, CALL, {**CALL, "arguments": "{"}]}),
    ("input[1].arguments", {"input": [*TURN, {**CALL, "arguments": {}}]}), ("input[1].arguments", {"input": [*TURN, {**CALL, "arguments": "[]"}]}), ("input[2].call_id", {"input": [*TURN, CALL, {**RESULT, "call_id": 1}]}),
    ("input[2].output", {"input": [*TURN, CALL, {**RESULT, "output": None}]}), ("input[2].output", {"input": [*TURN, CALL, {**RESULT, "output": 5}]}),
    ("input[2].output[0].type", {"input": [*TURN, CALL, {**RESULT, "output": [{"type": "input_image"}]}]}), ("instructions", {"instructions": 5}), ("instructions", {"instructions": ["x"]}),
    ("max_output_tokens", {"max_output_tokens": -1}), ("max_output_tokens", {"max_output_tokens": "5"}), ("max_output_tokens", {"max_output_tokens": 1.5}), ("max_output_tokens", {"max_output_tokens": 100000}),
    ("temperature", {"temperature": 3}), ("top_p", {"top_p": "x"}), ("stream", {"stream": "yes"}), ("model", {"model": 1}), ("user", {"user": 1}), ("metadata", {"metadata": []}), ("store", {"store": "no"}),
    ("stream_options", {"stream_options": 1}), ("previous_response_id", {"previous_response_id": "resp_1"}), ("conversation", {"conversation": "conv_1"}), ("prompt", {"prompt": {"id": "x"}}),
    ("background", {"background": True}), ("background", {"background": 1}), ("truncation", {"truncation": "auto"}), ("include", {"include": "x"}), ("include[0]", {"include": [1]}),
    ("include[0]", {"include": ["message.output_text.logprobs"]}), ("top_logprobs", {"top_logprobs": 2}), ("text", {"text": "x"}), ("text.format", {"text": {"format": "text"}}), ("text.format.type", {"text": {"format": {"type": "xml"}}}),
    ("text.format.schema", {"text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "thing"}}}}), ("tools[0].parameters.type", {"tools": [{**TOOL, "parameters": {"type": "array"}}], "tool_choice": "required"}),
    ("tool_choice.name", {"tools": [TOOL], "tool_choice": {"type": "function", "name": "g"}}), ("tool_choice", {"tool_choice": "required"}), ("text.format.type", {"text": {"format": {}}}),
    ("text.format.name", {"text": {"format": {"type": "json_schema", "schema": {}}}}), ("text.format.schema", {"text": {"format": {"type": "json_schema", "name": "x"}}}),
    ("text.format.strict", {"text": {"format": {"type": "json_schema", "name": "x", "schema": {}, "strict": 1}}}), ("reasoning", {"reasoning": "low"}), ("reasoning.effort", {"reasoning": {"effort": 1}}),
    ("tools", {"tools": {}}), ("tools[0]", {"tools": ["f"]}), ("tools[0].type", {"tools": [{"name": "f"}]}), ("tools[0].type", {"tools": [{"type": "web_search"}]}), ("tools[0].name", {"tools": [{"type": "function"}]}),
    ("tools[1].parameters", {"tools": [TOOL, {**TOOL, "name": "g", "parameters": "x"}]}), ("tools[0].strict", {"tools": [{**TOOL, "strict": "yes"}]}), ("tools[0].description", {"tools": [{**TOOL, "description": 1}]}),
    ("tool_choice", {"tools": [TOOL], "tool_choice": 1}), ("tool_choice", {"tools": [TOOL], "tool_choice": "sometimes"}), ("tool_choice.type", {"tools": [TOOL], "tool_choice": {"type": "file_search"}}),
    ("tool_choice.name", {"tools": [TOOL], "tool_choice": {"type": "function"}}), ("kv_format", {"kv_format": "q8"}),
]


@pytest.mark.parametrize("field, body", FAULTS, ids=lambda x: str(x)[:70])
def test_fault(server, field, body):
    reply = server.post(PATH, **{**BASE, "max_output_tokens": 1, **body})
    assert reply.status_code == 400, reply.text
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["param"] == field and error["type"] == "invalid_request_error" and error["message"]
    assert server.post(PATH, input=HELLO, max_output_tokens=1).status_code == 200


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"input":"a","input":"b"}', b'{"input":NaN}', b'{"input":"\\ud800"}', b'{"input":"\xff"}', b'{"input":"a"} x'])
def test_bad_json(server, body):
    reply = requests.post(server.url + PATH, data=body, timeout=PATIENCE_S)
    assert reply.status_code == 400 and reply.json()["error"]["type"] == "invalid_request_error"


def test_errors_of_the_client(client):
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="nope", input=HELLO)
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model=NAME, input=HELLO, previous_response_id="resp_1")
    assert caught.value.param == "previous_response_id"
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve("resp_1")


@pytest.mark.parametrize("more", [
    {"store": True}, {"store": False}, {"metadata": {"a": "b"}}, {"truncation": "disabled"}, {"include": ["reasoning.encrypted_content"]}, {"text": {"format": {"type": "text"}, "verbosity": "low"}},
    {"text": {}}, {"reasoning": {"effort": "low", "summary": "auto"}}, {"service_tier": "auto", "prompt_cache_key": "k", "safety_identifier": "s"}, {"tools": []}, {"parallel_tool_calls": False},
    {"stream_options": {"include_obfuscation": False}}, {"background": False}, {"previous_response_id": None}, {"max_output_tokens": None}, {"an_unknown_field": 1}, {"tools": [TOOL], "tool_choice": "none"},
    {"input": [*TURN, CALL, RESULT]}, {"input": [*TURN, {"role": "assistant", "content": "Let me see."}, CALL, {**CALL, "call_id": "c2"}, RESULT, {**RESULT, "call_id": "c2", "output": [{"type": "input_text", "text": "y"}]}]},
    {"input": [*TURN, {**CALL, "arguments": ""}, RESULT]}, {"kv_format": "o2", "seed": 3, "top_k": 5, "priority": 1},
], ids=lambda x: str(x)[:70])
def test_taken(server, more):
    ask(server, **{"max_output_tokens": 1, **more})


def test_context_to_the_token(server):
    n = ask(server)["usage"]["input_tokens"]
    assert ask(server, max_output_tokens=CTX_SIZE - n, ignore_eos=True)["usage"]["total_tokens"] == CTX_SIZE
    reply = server.post(PATH, **{**BASE, "max_output_tokens": CTX_SIZE - n + 1})
    assert reply.status_code == 400 and reply.json()["error"]["code"] == "context_length_exceeded"


def test_timings_and_progress(client):
    events = [e.model_dump() for e in client.responses.create(
        model="", input="hello " * 100, max_output_tokens=16, stream=True,
        extra_body={"timings_per_token": True, "return_progress": True, "cache_salt": "responses-progress"})]
    assert [e["type"] for e in events[:2]] == ["response.created", "response.in_progress"]
    progress = [e for e in events if e.get("prompt_progress")]
    assert events[2:2 + len(progress)] == progress and {e["type"] for e in progress} == {"response.in_progress"}
    total = events[-1]["response"]["usage"]["input_tokens"]
    assert [e["prompt_progress"]["processed"] for e in progress][::len(progress) - 1] == [0, total]
    assert events[-1]["timings"]["prompt_n"] == total
    assert all("timings" in e for e in events if e["type"] == "response.output_text.delta")
    assert [e["sequence_number"] for e in events] == list(range(len(events)))
