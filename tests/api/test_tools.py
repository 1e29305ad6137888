"""Tools through the official client: calls that are asked for, offered and refused; streams as the client accumulates them;
calls and their results in the history. SmolLM2's template knows no tools, so they are told in words; Qwen2.5's does."""
import json
import re

import jsonschema
import openai
import pytest
import requests

from conftest import MODEL, NAME, SANITIZED, Server, every_model, real

CHAT = "/v1/chat/completions"
WEATHER = {"type": "function", "function": {
    "name": "get_weather", "description": "Get the current weather in a given city",
    "parameters": {"type": "object", "properties": {
        "city": {"type": "string", "description": "Name of the city", "maxLength": 20},
        "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]}},
        "required": ["city", "unit"], "additionalProperties": False}}}
ADD = {"type": "function", "function": {
    "name": "add", "parameters": {"type": "object", "properties": {
        "a": {"type": "integer", "minimum": 0, "maximum": 99}, "b": {"type": "integer", "minimum": 0, "maximum": 99}},
        "required": ["a", "b"], "additionalProperties": False}}}
ANY = {"type": "function", "function": {"name": "look-up_2"}}
TOOLS = [WEATHER, ADD]
SCHEMAS = {t["function"]["name"]: t["function"].get("parameters", {"type": "object"}) for t in (WEATHER, ADD, ANY)}
ASK = [{"role": "user", "content": "What is the weather in Paris?"}]
NAMED = {"type": "function", "function": {"name": "add"}}


@pytest.fixture(scope="module")
def server(roomy):
    """Tools are told in many tokens of the tiny model."""
    return roomy


@pytest.fixture(scope="module")
def client(server):
    return server.client()


def check_call(call):
    """Its arguments, which must be what the tool's schema asks for."""
    assert call.type == "function" and re.fullmatch("call_[a-zA-Z0-9]{16,}", call.id)
    value = json.loads(call.function.arguments)
    jsonschema.Draft202012Validator(SCHEMAS[call.function.name]).validate(value)
    return value


def ask(client, **body):
    body = {"model": NAME, "messages": ASK, "tools": TOOLS, "max_tokens": 100, "temperature": 0, **body}
    return client.chat.completions.create(**body).choices[0]


def streamed(client, **body):
    """The choice that the client's own accumulation makes of a stream, and the deltas."""
    body = {"model": NAME, "messages": ASK, "tools": TOOLS, "max_tokens": 100, "temperature": 0, **body}
    deltas = []
    with client.chat.completions.stream(**body) as stream:
        for event in stream:
            if event.type == "chunk":
                deltas += [c.delta for c in event.chunk.choices]
        return stream.current_completion_snapshot.choices[0], deltas


# --- Calls that must come ---

@every_model
@pytest.mark.parametrize("choice", ["required", NAMED, {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [NAMED]}}],
                         ids=["required", "named", "allowed"])
@pytest.mark.parametrize("sampling", [{"temperature": 0}, {"temperature": 1, "seed": 3}], ids=["greedy", "warm"])
def test_must_call(client, choice, sampling):
    reply = ask(client, tool_choice=choice, parallel_tool_calls=False, **sampling)
    if SANITIZED and reply.finish_reason == "length":
        pytest.skip("a random model need not come to an end")
    assert reply.finish_reason == "tool_calls" and reply.message.content is None and reply.message.role == "assistant"
    assert len(reply.message.tool_calls) == 1
    check_call(reply.message.tool_calls[0])
    if choice != "required":
        assert reply.message.tool_calls[0].function.name == "add"


@real
def test_many_choices(client):
    """n choices, all held to it, with ids of their own."""
    reply = client.chat.completions.create(model=NAME, messages=ASK, tools=TOOLS, tool_choice="required", n=6, seed=5,
                                           temperature=1.2, max_tokens=100, parallel_tool_calls=False)
    calls = [c for choice in reply.choices for c in choice.message.tool_calls]
    assert len(calls) == 6 and len({c.id for c in calls}) == 6
    for call in calls:
        check_call(call)


def test_parallel(client):
    """Several calls of one reply; where the end cuts one off, it comes as far as it came."""
    seen = 0
    for seed in range(4):
        reply = ask(client, tool_choice="required", temperature=1.5, seed=seed, max_tokens=150)
        calls = reply.message.tool_calls
        seen = max(seen, len(calls))
        assert reply.finish_reason in ("tool_calls", "length")
        for call in calls if reply.finish_reason == "tool_calls" else calls[:-1]:
            check_call(call)
        assert len({c.id for c in calls}) == len(calls)
    if not SANITIZED:
        assert seen > 1, "no reply of these had two calls; find other seeds"


def test_any_object(client):
    """A tool without parameters takes any object."""
    reply = ask(client, tools=[ANY], tool_choice="required", parallel_tool_calls=False, max_tokens=300, temperature=1, seed=1)
    call = reply.message.tool_calls[0]
    assert call.function.name == "look-up_2" and call.function.arguments.startswith("{")
    if reply.finish_reason == "tool_calls":
        check_call(call)


@real
def test_cut_off(client):
    """max_tokens inside a call: what has come is delivered, and the reason is the length."""
    whole = ask(client, tool_choice=NAMED, parallel_tool_calls=False).message.tool_calls[0].function.arguments
    lengths = set()
    for max_tokens in range(1, 40):
        reply = ask(client, tool_choice=NAMED, parallel_tool_calls=False, max_tokens=max_tokens)
        if reply.finish_reason == "tool_calls":
            break
        assert reply.finish_reason == "length"
        for call in reply.message.tool_calls or []:
            assert whole.startswith(call.function.arguments) and call.function.name == "add"
            lengths.add(len(call.function.arguments))
    assert len(lengths) > 2


# --- Streams ---

@every_model
@pytest.mark.parametrize("choice", ["required", NAMED], ids=["required", "named"])
def test_stream(client, choice):
    body = {"tool_choice": choice, "temperature": 1, "seed": 11, "parallel_tool_calls": False}
    whole = ask(client, **body)
    reply, deltas = streamed(client, **body)
    if SANITIZED and reply.finish_reason == "length":
        pytest.skip("a random model need not come to an end")
    assert reply.finish_reason == "tool_calls" and reply.message.role == "assistant" and not reply.message.content
    assert [(c.function.name, c.function.arguments) for c in reply.message.tool_calls] == \
           [(c.function.name, c.function.arguments) for c in whole.message.tool_calls]
    check_call(reply.message.tool_calls[0])
    # The first delta of a call has id, type, name and no arguments; the others have only arguments, in several pieces.
    heads = [c for d in deltas for c in d.tool_calls or [] if c.id]
    pieces = [c for d in deltas for c in d.tool_calls or [] if not c.id]
    assert [(h.index, h.type, h.function.arguments) for h in heads] == [(0, "function", "")]
    assert len(pieces) > 1 and all(p.type is None and p.function.name is None and p.index == 0 for p in pieces)
    assert deltas[0].role == "assistant" and not deltas[0].tool_calls


def test_stream_parallel(client):
    """Calls one after the other, each with its index."""
    body = {"tool_choice": "required", "temperature": 1.5, "max_tokens": 150}
    for seed in range(4):
        whole = ask(client, seed=seed, **body)
        reply, deltas = streamed(client, seed=seed, **body)
        assert reply.finish_reason == whole.finish_reason
        assert [(c.function.name, c.function.arguments) for c in reply.message.tool_calls] == \
               [(c.function.name, c.function.arguments) for c in whole.message.tool_calls]
        order = [c.index for d in deltas for c in d.tool_calls or []]
        assert order == sorted(order) and set(order) == set(range(len(whole.message.tool_calls)))


def test_logprobs(client):
    """Of every token, those that a call's markers are made of too."""
    reply = client.chat.completions.create(model=NAME, messages=ASK, tools=TOOLS, tool_choice=NAMED, logprobs=True, top_logprobs=2,
                                           temperature=0, max_tokens=100, parallel_tool_calls=False)
    text = "".join(e.token for e in reply.choices[0].logprobs.content)
    assert text.startswith("<tool_call>\n{\"name\": \"add\", \"arguments\": ") and text.endswith("</tool_call>")
    entries = []
    for chunk in client.chat.completions.create(model=NAME, messages=ASK, tools=TOOLS, tool_choice=NAMED, logprobs=True, stream=True,
                                                temperature=0, max_tokens=100, parallel_tool_calls=False):
        entries += [e for c in chunk.choices if c.logprobs for e in c.logprobs.content or []]
    assert "".join(e.token for e in entries) == text


# --- Calls that may come, or not ---

@real  # a random model writes bytes that are no text, and a reply that offers tools is text
def test_auto_is_free(client):
    """What a model says without calling is what it says when nothing is held to anything."""
    told = [{"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": "Name three colours."}]
    free = ask(client, messages=told, tool_choice="none", max_tokens=30)
    assert free.message.tool_calls is None and free.finish_reason in ("stop", "length")
    prompt = requests.post(str(client.base_url).replace("/v1/", "/apply-template"), json={"messages": told, "tools": TOOLS}).json()["prompt"]
    offered = ask(client, messages=told, max_tokens=30)
    completed = client.completions.create(model=NAME, prompt=prompt, temperature=0, max_tokens=30, extra_body={"add_special_tokens": False})
    if not offered.message.tool_calls:
        assert offered.message.content == completed.choices[0].text


def test_none(client):
    reply = ask(client, tool_choice="none", max_tokens=5)
    assert reply.message.tool_calls is None and reply.message.content


def test_told_in_words(server):
    """A template that knows no tools: the whole prompt."""
    def prompt(**body):
        reply = requests.post(server.url + "/apply-template", json=body)
        assert reply.status_code == 200, reply.text
        return reply.json()["prompt"]
    if SANITIZED:
        pytest.skip("of SmolLM2's template")
    schema = json.dumps(ANY)
    told = ("# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided with function "
            f"signatures within <tools></tools> XML tags:\n<tools>\n{schema}\n</tools>\n\nFor each function call, return a json "
            "object with function name and arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n"
            '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>')
    call = {"id": "a", "type": "function", "function": {"name": "look-up_2", "arguments": '{"q": "Ü"}'}}
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "So:", "tool_calls": [call, call]},
                {"role": "tool", "tool_call_id": "a", "content": "18"},
                {"role": "tool", "tool_call_id": "a", "content": [{"type": "text", "text": "1"}, {"type": "text", "text": "9"}]}]
    rest = ("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nSo:\n"
            '<tool_call>\n{"name": "look-up_2", "arguments": {"q": "Ü"}}\n</tool_call>\n'
            '<tool_call>\n{"name": "look-up_2", "arguments": {"q": "Ü"}}\n</tool_call><|im_end|>\n'
            "<|im_start|>user\n<tool_response>\n18\n</tool_response>\n<tool_response>\n1\n9\n</tool_response><|im_end|>\n"
            "<|im_start|>assistant\n")
    assert prompt(messages=messages, tools=[ANY]) == f"<|im_start|>system\n{told}<|im_end|>\n" + rest
    system = {"role": "system", "content": "Be kind."}
    assert prompt(messages=[system, *messages], tools=[ANY]) == f"<|im_start|>system\nBe kind.\n\n{told}<|im_end|>\n" + rest
    none = prompt(messages=messages[:1], tools=[ANY], tool_choice="none")
    assert none == prompt(messages=messages[:1]) and "tool" not in none


@every_model
def test_history(client):
    """A call of ours goes back as the client's message object, with its result."""
    reply = ask(client, tool_choice=NAMED, parallel_tool_calls=False)
    call = reply.message.tool_calls[0]
    messages = [*ASK, reply.message, {"role": "tool", "tool_call_id": call.id, "content": "7"}, {"role": "user", "content": "So?"}]
    after = ask(client, messages=messages, max_tokens=20)
    assert after.finish_reason in ("stop", "length", "tool_calls")
    # A whole message with its nulls, and without the tools.
    messages[1] = reply.message.model_dump()
    assert ask(client, messages=messages, max_tokens=5, tools=openai.omit).message.content is not None


# --- Faults ---

@pytest.mark.parametrize("field, body", [
    ("tools", {"tools": "x"}), ("tools[0].type", {"tools": [{"function": {"name": "f"}}]}), ("tools[0].function", {"tools": [{"type": "function"}]}),
    ("tools[1].function.name", {"tools": [ADD, {"type": "function", "function": {"name": "a.b"}}]}),
    ("tools[1].function.name", {"tools": [ADD, ADD]}), ("tools[0].function.name", {"tools": [{"type": "function", "function": {"name": "x" * 65}}]}),
    ("tools[0].function.parameters", {"tools": [{"type": "function", "function": {"name": "f", "parameters": "x"}}]}),
    ("tools[0].function.parameters.type", {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "array"}}}]}),
    ("tool_choice", {"tools": [ADD], "tool_choice": "any"}), ("tool_choice", {"tool_choice": "required"}), ("tool_choice", {"tool_choice": NAMED}),
    ("tool_choice.function.name", {"tools": [WEATHER], "tool_choice": NAMED}),
    ("parallel_tool_calls", {"tools": [ADD], "parallel_tool_calls": 1}),
    ("tools", {"tools": [{"type": "function", "function": {"name": f"f{i}"}} for i in range(129)]}),
    ("tools[0].function.parameters", {"tool_choice": "required", "tools": [{"type": "function", "function": {
        "name": "f", "parameters": {"type": "object", "properties": {"a": {"$dynamicRef": "#x"}}}}}]}),
    ("tools[0].function.parameters", {"tools": [{"type": "function", "function": {
        "name": "f", "strict": True, "parameters": {"type": "object", "minLenght": 3}}}]}),
    ("response_format", {"tools": [ADD], "tool_choice": "required", "response_format": {"type": "json_object"}}),
], ids=lambda x: str(x)[:50])
def test_fault(server, field, body):
    reply = server.post(CHAT, messages=ASK, max_tokens=1, **body)
    assert reply.status_code == 400, reply.text
    error = reply.json()["error"]
    assert error["param"] == field and field in error["message"], error
    assert server.post(CHAT, messages=ASK, max_tokens=1, tools=TOOLS).status_code == 200


# --- A model that was trained to call ---

@pytest.fixture(scope="module")
def qwen():
    model = MODEL.with_name("qwen05.gguf")
    if SANITIZED or not model.exists():
        pytest.skip(f"{model} is not there; tests/models.sh qwen05 brings it")
    server = Server("--ctx-size", 1024, "--kv-format", "f16", "--no-calibration", model=model)
    yield server.client()
    server.stop()


@real
@pytest.mark.parametrize("question, city", [("What is the weather in Paris?", "Paris"), ("What's the weather like in Tokyo right now?", "Tokyo")])
def test_auto_calls(qwen, question, city):
    """Offered, not asked for: the model calls by itself, then answers with the result."""
    messages = [{"role": "user", "content": question}]
    reply = ask(qwen, messages=messages, tools=[WEATHER])
    assert reply.finish_reason == "tool_calls" and reply.message.content is None
    assert [c.function.name for c in reply.message.tool_calls] == ["get_weather"]
    assert check_call(reply.message.tool_calls[0])["city"] == city
    again, _ = streamed(qwen, messages=messages, tools=[WEATHER])
    assert [c.function.arguments for c in again.message.tool_calls] == [c.function.arguments for c in reply.message.tool_calls]
    assert again.finish_reason == "tool_calls" and not again.message.content
    messages += [reply.message, {"role": "tool", "tool_call_id": reply.message.tool_calls[0].id, "content": "21 degrees, sunny"}]
    answer = ask(qwen, messages=messages, tool_choice="none", tools=[WEATHER]).message
    assert answer.tool_calls is None and answer.content


@real
@pytest.mark.parametrize("question", ["Hello! Who are you?", "Write a Python function that adds two numbers.", "Count to ten as a JSON list."])
def test_auto_talks(qwen, question):
    """Offering tools changes nothing of what is said without them: the prompt is the same with tool_choice none."""
    messages = [{"role": "user", "content": question}]
    reply = ask(qwen, messages=messages, tools=[WEATHER], max_tokens=60)
    assert reply.finish_reason in ("stop", "length") and reply.message.tool_calls is None
    assert reply.message.content == ask(qwen, messages=messages, tools=[WEATHER], tool_choice="none", max_tokens=60).message.content


@real
def test_required_by_sense(qwen):
    """Held to the grammar, the model still fills in what was asked for."""
    reply = ask(qwen, tool_choice="required", messages=[{"role": "user", "content": "Add 17 and 25."}], tools=TOOLS)
    assert reply.message.tool_calls[0].function.name == "add"
    assert check_call(reply.message.tool_calls[0]) == {"a": 17, "b": 25}
