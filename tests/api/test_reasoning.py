"""Models that think before they answer: with a template that opens <think>, any model does.

The last example of a conversation is what SmolLM2 repeats, its tags too; what is true of any thoughts runs everywhere."""
import json
import re

import anthropic
import pytest
import requests

import conftest
from conftest import NAME, PATIENCE_S, real
from test_errors import check

TEMPLATE = """{%- for m in messages -%}
{{- '<|im_start|>' + m.role + '\\n' }}
{%- if m.role == 'assistant' and m.reasoning_content %}{{- '<think>\\n' + m.reasoning_content + '\\n</think>\\n\\n' }}{% endif %}
{{- (m.content or '') + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and not enable_thinking %}{{- '<think>\\n\\n</think>\\n\\n' }}
{%- elif opens is not defined or opens %}{{- '<think>\\n' }}{% endif %}
{%- endif %}"""
QUESTION = {"role": "user", "content": "Name a colour."}
THOUGHT = "The sky is blue, so blue it is."


def conversation(answer="Blue."):
    return [QUESTION, {"role": "assistant", "reasoning_content": THOUGHT, "content": answer}] * 4 + [QUESTION]


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    path = tmp_path_factory.mktemp("template") / "thinks.jinja"
    path.write_text(TEMPLATE)
    return path


@pytest.fixture(scope="module")
def thinker(template):
    server = conftest.Server("--ctx-size", 4096, "--kv-format", "f16", "--kv-cache-bytes", 256 << 20, "--chat-template", template)
    yield server
    server.stop()


def chat(server, messages=None, **body):
    body = {"messages": messages or conversation(), "max_tokens": 60, "temperature": 0, **body}
    reply = server.post("/v1/chat/completions", **body)
    assert reply.status_code == 200, reply.text
    return reply.json()


def stream(server, n=1, **body):
    """What the deltas of each choice say: {field: text joined}, and the usage."""
    texts, usage, order = [{} for _ in range(n)], None, [[] for _ in range(n)]
    body = {"messages": conversation(), "max_tokens": 60, "temperature": 0, "stream": True, "n": n, **body,
            "stream_options": {"include_usage": True}}
    reply = requests.post(server.url + "/v1/chat/completions", json=body, timeout=PATIENCE_S)
    assert reply.status_code == 200, reply.text
    for line in reply.text.split("\n\n"):
        if not line.startswith("data: {"):
            continue
        event = json.loads(line[6:])
        usage = event.get("usage") or usage
        for choice in event["choices"]:
            for field in ("reasoning_content", "content"):
                if choice["delta"].get(field):
                    texts[choice["index"]][field] = texts[choice["index"]].get(field, "") + choice["delta"][field]
                    order[choice["index"]].append(field)
    assert all(fields == sorted(fields, reverse=True) for fields in order), "thoughts come first"
    return texts, usage


@real
def test_split(thinker):
    """Whole and streamed, beside what the model wrote itself."""
    reply = chat(thinker, logprobs=True)
    message, raw = reply["choices"][0]["message"], chat(thinker, reasoning_format="none")["choices"][0]["message"]
    assert message["reasoning_content"] == THOUGHT and message["content"] == "Blue."
    assert raw["content"].strip() == f"{THOUGHT}\n</think>\n\nBlue." and "reasoning_content" not in raw
    assert list(message) == ["role", "content", "reasoning_content", "refusal"]
    (texts,), usage = stream(thinker)
    assert texts == {"reasoning_content": THOUGHT, "content": "Blue."}
    assert usage["completion_tokens_details"] == reply["usage"]["completion_tokens_details"]
    end, at, n = raw["content"].index("</think>") + len("</think>"), 0, 0
    for token in reply["choices"][0]["logprobs"]["content"]:
        n += at < end
        at += len(token["bytes"])
    assert reply["usage"]["completion_tokens_details"] == {"reasoning_tokens": n}


@real
def test_opened_by_the_model(thinker):
    """The prompt does not open thoughts; the model does as it did before, and what it begins with is looked at."""
    plain = [QUESTION, {"role": "assistant", "content": "Blue."}] * 4 + [QUESTION]
    for examples, thought in ((conversation(), THOUGHT), (plain, None)):
        message = chat(thinker, examples, chat_template_kwargs={"opens": False})["choices"][0]["message"]
        assert message.get("reasoning_content") == thought and re.fullmatch(r"[A-Z][a-z]+\.", message["content"])
        (texts,), _ = stream(thinker, messages=examples, chat_template_kwargs={"opens": False})
        assert texts == {k: message[k] for k in ("reasoning_content", "content") if k in message}


@pytest.mark.parametrize("n", [1, 3])
def test_cut_off(thinker, n):
    """Thoughts that max_tokens ends are thoughts, and there is no answer."""
    body = dict(max_tokens=5, ignore_eos=True, n=n, seed=3, temperature=1)
    reply = chat(thinker, [QUESTION], **body)
    for choice in reply["choices"]:
        assert choice["message"]["content"] == "" and choice["message"]["reasoning_content"] and choice["finish_reason"] == "length"
    assert reply["usage"]["completion_tokens_details"]["reasoning_tokens"] == 5 * n
    texts, usage = stream(thinker, messages=[QUESTION], **body)
    assert texts == [{"reasoning_content": c["message"]["reasoning_content"]} for c in reply["choices"]]
    assert usage["completion_tokens_details"] == reply["usage"]["completion_tokens_details"]


def test_no_thinking(thinker):
    """The template has closed thoughts already: all is the answer, and there is no count."""
    reply = chat(thinker, [QUESTION], max_tokens=6, ignore_eos=True, chat_template_kwargs={"enable_thinking": False})
    assert reply["choices"][0]["message"]["content"] and "reasoning_content" not in reply["choices"][0]["message"]
    assert "completion_tokens_details" not in reply["usage"]


def test_prefill(thinker):
    """An answer that goes on within thoughts, or behind them."""
    for begun, field in (("<think>\nThe sky", "reasoning_content"), ("<think>\nThe sky</think>\n\nWell", "content"), ("Well", "content")):
        message = chat(thinker, [QUESTION, {"role": "assistant", "content": begun}], max_tokens=5, ignore_eos=True,
                       continue_final_message=True)["choices"][0]["message"]
        assert message[field] and ("reasoning_content" in message) == (field == "reasoning_content")


def test_server_option(start, template):
    server = start("--ctx-size", 512, "--chat-template", template, "--reasoning-format", "none")
    for body, thinks in (({}, False), ({"reasoning_format": "auto"}, True), ({"reasoning_format": "deepseek"}, True),
                         ({"reasoning_format": None}, False)):
        message = chat(server, [QUESTION], max_tokens=4, ignore_eos=True, **body)["choices"][0]["message"]
        assert ("reasoning_content" in message) == thinks and bool(message["content"]) != thinks
    server.stop()


@pytest.mark.parametrize("value", ["deepseek-legacy", "", 1, True])
def test_bad_field(thinker, value):
    check(thinker.post("/v1/chat/completions", messages=[QUESTION], max_tokens=1, reasoning_format=value), 400, "reasoning_format")


def test_other_templates(server):
    """A model whose template knows no thoughts: tags are text."""
    reply = chat(server, [QUESTION, {"role": "assistant", "content": "<think>"}], max_tokens=4, ignore_eos=True,
                 continue_final_message=True)
    assert reply["choices"][0]["message"]["content"] and "completion_tokens_details" not in reply["usage"]


SCHEMA = {"type": "object", "properties": {"colour": {"enum": ["blue", "red"]}}, "required": ["colour"], "additionalProperties": False}


@real
@pytest.mark.parametrize("form, answer, pattern", [
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "c", "schema": SCHEMA}}}, '{"colour": "blue"}',
     r'\{\s*"colour": ?"(blue|red)"\s*\}'),
    ({"guided_regex": "[A-Z][a-z]{2,8}[.]"}, "Blue.", r"[A-Z][a-z]{2,8}[.]"),
    ({"guided_choice": [" Blue", "\nRed"]}, "Blue", r" Blue|\nRed"),
    ({"grammar": 'root ::= "\\n\\n" [a-z]+ "!"'}, "blue!", r"\n\n[a-z]+!"),
], ids=["schema", "regex", "choice", "grammar"])
def test_form_of_the_answer(thinker, form, answer, pattern):
    """Thoughts are free, the answer has the form to the byte, in streams too."""
    reply = chat(thinker, conversation(answer), **form)["choices"][0]
    assert reply["message"]["reasoning_content"] == THOUGHT and reply["finish_reason"] == "stop"
    assert re.fullmatch(pattern, reply["message"]["content"])
    (texts,), _ = stream(thinker, messages=conversation(answer), **form)
    assert texts == {k: reply["message"][k] for k in ("reasoning_content", "content")}
    kwargs = {"enable_thinking": False}
    message = chat(thinker, conversation(answer), chat_template_kwargs=kwargs, **form)["choices"][0]["message"]
    assert re.fullmatch(pattern, message["content"]) and "reasoning_content" not in message


@real
def test_form_holds_without_thoughts(thinker):
    """A pattern that tags would fit too: where the prompt opens no thoughts the whole reply is held to it."""
    reply = chat(thinker, guided_regex="<think>[a-z]{3}", chat_template_kwargs={"opens": False})["choices"][0]
    assert re.fullmatch("<think>[a-z]{3}", reply["message"]["content"]) and reply["finish_reason"] == "stop"
    form = {"response_format": {"type": "json_object"}}
    message = chat(thinker, conversation('{"colour": "blue"}'), chat_template_kwargs={"opens": False}, **form)["choices"][0]["message"]
    assert message["reasoning_content"] == THOUGHT and json.loads(message["content"])


TOOL = {"type": "function", "function": {"name": "paint", "parameters": SCHEMA}}


@real
@pytest.mark.parametrize("streamed", [False, True])
def test_tools(thinker, streamed):
    """A call behind thoughts."""
    answer = '<tool_call>\n{"name": "paint", "arguments": {"colour": "blue"}}\n</tool_call>'
    body = dict(tools=[TOOL], messages=conversation(answer), max_tokens=100, temperature=0, model=NAME)
    for choice in ("required", "auto"):
        arguments = {**body, "tool_choice": choice}
        if streamed:
            reasoning, name, call, finish = "", "", "", None
            for chunk in thinker.client().chat.completions.create(stream=True, **arguments):
                delta, finish = chunk.choices[0].delta, chunk.choices[0].finish_reason
                reasoning += getattr(delta, "reasoning_content", None) or ""
                assert not delta.content
                for part in delta.tool_calls or []:
                    name, call = name + (part.function.name or ""), call + part.function.arguments
        else:
            choice_ = thinker.client().chat.completions.create(**arguments).choices[0]
            reasoning, finish = choice_.message.reasoning_content, choice_.finish_reason
            name, call = choice_.message.tool_calls[0].function.name, choice_.message.tool_calls[0].function.arguments
        assert (reasoning, name, json.loads(call), finish) == (THOUGHT, "paint", {"colour": "blue"}, "tool_calls")


# --- The other protocols ---

def blocks():
    examples = [{"role": "user", "content": QUESTION["content"]},
                {"role": "assistant", "content": [{"type": "thinking", "thinking": THOUGHT, "signature": ""},
                                                  {"type": "text", "text": "Blue."}]}] * 4
    return examples + [examples[0]]


@real
def test_messages(thinker):
    client = anthropic.Anthropic(base_url=thinker.url, api_key="none", max_retries=0, timeout=PATIENCE_S)
    body = dict(model=NAME, max_tokens=60, extra_body={"temperature": 0}, messages=blocks(), thinking={"type": "enabled", "budget_tokens": 1024})
    message = client.messages.create(**body)
    assert [(b.type, getattr(b, b.type)) for b in message.content] == [("thinking", THOUGHT), ("text", "Blue.")]
    with client.messages.stream(**body) as events:
        kinds = [e.type for e in events if e.type in ("thinking", "text", "content_block_stop")]
        final = events.get_final_message()
    assert [(b.type, getattr(b, b.type)) for b in final.content] == [("thinking", THOUGHT), ("text", "Blue.")]
    assert final.usage.output_tokens == message.usage.output_tokens
    assert kinds.index("content_block_stop") > kinds.index("thinking") and kinds.index("text") > kinds.index("content_block_stop")
    body["thinking"] = {"type": "disabled"}
    assert [b.type for b in client.messages.create(**body).content] == ["text"]


def test_messages_history(thinker):
    """Thoughts of earlier turns reach the template; redacted ones cannot."""
    def count(content):
        reply = thinker.post("/v1/messages/count_tokens", model=NAME, messages=[QUESTION, {"role": "assistant", "content": content}, QUESTION])
        assert reply.status_code == 200, reply.text
        return reply.json()["input_tokens"]

    text, thoughts = {"type": "text", "text": "Blue."}, {"type": "thinking", "thinking": THOUGHT, "signature": "x"}
    assert count([thoughts, text]) > count([text]) == count([{"type": "redacted_thinking", "data": "abc"}, text])
    for block, field in (({"type": "thinking"}, "messages[1].content[0].thinking"), ({"type": "thoughts"}, "messages[1].content[0].type")):
        reply = thinker.post("/v1/messages/count_tokens", model=NAME, messages=[QUESTION, {"role": "assistant", "content": [block]}, QUESTION])
        assert reply.status_code == 400 and field in reply.json()["error"]["message"]
    reply = thinker.post("/v1/messages", model=NAME, messages=[QUESTION], max_tokens=1, thinking={"type": "sometimes"})
    assert reply.status_code == 400 and "thinking.type" in reply.json()["error"]["message"]


def items():
    examples = [{"role": "user", "content": QUESTION["content"]},
                {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": THOUGHT}]},
                {"role": "assistant", "content": "Blue."}] * 4
    return examples + [examples[0]]


@real
def test_responses(thinker):
    client = thinker.client()
    body = dict(model=NAME, input=items(), max_output_tokens=60, temperature=0)
    response = client.responses.create(**body)
    assert [item.type for item in response.output] == ["reasoning", "message"] and response.status == "completed"
    assert response.output[0].content[0].text == THOUGHT and response.output_text == "Blue."
    assert 0 < response.usage.output_tokens_details.reasoning_tokens < response.usage.output_tokens
    assert response.output[0].id.startswith("rs_") and response.output[1].id.startswith("msg_")
    with client.responses.stream(**body) as events:
        seen = [(e.type, getattr(e, "delta", None)) for e in events]
        final = events.get_final_response()
    assert "".join(delta for kind, delta in seen if kind == "response.reasoning_text.delta") == THOUGHT
    kinds = [kind for kind, _ in seen]
    assert [k for k in dict.fromkeys(kinds) if "reasoning" in k or "part" in k][:4] == [
        "response.content_part.added", "response.reasoning_text.delta", "response.reasoning_text.done", "response.content_part.done"]
    assert [i.type for i in final.output] == ["reasoning", "message"] and final.output_text == "Blue."


def test_responses_items(thinker):
    """Thoughts that no turn follows go; what is none is refused with its place."""
    def ask(*items):
        return thinker.post("/v1/responses", model=NAME, max_output_tokens=3, input=[*items])

    thoughts = {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": THOUGHT}]}
    user = {"role": "user", "content": "a"}
    sizes = [ask(*given).json()["usage"]["input_tokens"] for given in ([user], [thoughts, user], [user, thoughts])]
    assert len(set(sizes)) == 1
    assert ask(user, {"type": "reasoning", "encrypted_content": "x"}, {"role": "assistant", "content": "b"}, user).status_code == 200
    reply = ask(user, {"type": "reasoning", "content": [{"type": "reasoning_text"}]}, {"role": "assistant", "content": "b"})
    assert reply.status_code == 400 and reply.json()["error"]["param"] == "input[1].content[0].text"
