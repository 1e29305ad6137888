"""Structured output, through the official client and by the names that users of vLLM and llama-server know. The judge
of JSON is the jsonschema package, of the rest Python's re. What is not complete (finish_reason length) is a prefix."""
import concurrent.futures
import json
import re
from typing import Literal, Optional

import jsonschema
import pydantic
import pytest

from conftest import NAME, SANITIZED, every_model, real

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
ASK = [{"role": "user", "content": "Tell me about Anna, who is 30 years old and lives in Bern, as JSON."}]
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "sex": {"enum": ["f", "m", None]},
        "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "minItems": 1, "maxItems": 3},
        "home": {"$ref": "#/$defs/place"},
    },
    "required": ["name", "age", "sex", "tags", "home"],
    "additionalProperties": False,
    "$defs": {"place": {
        "type": "object",
        "properties": {"city": {"type": "string", "pattern": "^[A-Z][a-z]{2,9}$"}, "near": {"anyOf": [
            {"type": "null"}, {"const": "a lake"}]}},
        "required": ["city", "near"], "additionalProperties": False}},
}
GREEDY = {"temperature": 0}
WARM = {"temperature": 1, "seed": 7}
BOUNDED = {"model": NAME, "messages": ASK, "max_tokens": 300}


def schema_format(schema, name="person"):
    return {"type": "json_schema", "json_schema": {"name": name, "strict": True, "schema": schema}}


def validate(text, schema):
    value = json.loads(text)
    jsonschema.Draft202012Validator(schema).validate(value)
    return value


def ask(server, path, **body):
    """(text, finish_reason) of each choice."""
    about = {"messages": ASK} if path == CHAT else {"prompt": "Anna, 30, lives in Bern. As JSON:\n"}
    reply = server.post(path, **{"max_tokens": 300, **about, **body})
    assert reply.status_code == 200, reply.text
    return [(c["message"]["content"] if path == CHAT else c["text"], c["finish_reason"])
            for c in reply.json()["choices"]]


def fault(server, path=COMPLETIONS, **body):
    """The error object of what must be refused."""
    reply = server.post(path, **{"prompt": "x", "messages": ASK, "max_tokens": 1, **body})
    assert reply.status_code == 400, (reply.status_code, reply.text)
    error = reply.json()["error"]
    assert error["type"] == "invalid_request_error" and error["message"]
    return error


# ---- JSON ----


@every_model
@pytest.mark.parametrize("sampling", [GREEDY, WARM], ids=["greedy", "temperature 1"])
def test_schema(client, sampling):
    reply = client.chat.completions.create(**BOUNDED, response_format=schema_format(PERSON), **sampling)
    [choice] = reply.choices
    assert choice.finish_reason == "stop"
    validate(choice.message.content, PERSON)


@real
def test_the_model_still_says_what_it_knows(client):
    reply = client.chat.completions.create(**BOUNDED, response_format=schema_format(PERSON), **GREEDY)
    person = json.loads(reply.choices[0].message.content)
    assert person["name"].startswith("Anna") and person["age"] == 30 and person["home"]["city"] == "Bern"


@every_model
def test_streams_say_the_same(client):
    body = {**BOUNDED, **WARM, "response_format": schema_format(PERSON)}
    whole = client.chat.completions.create(**body).choices[0]
    text, reason = "", None
    for chunk in client.chat.completions.create(**body, stream=True):
        text += chunk.choices[0].delta.content or ""
        reason = chunk.choices[0].finish_reason or reason
    assert text == whole.message.content and reason == whole.finish_reason == "stop"
    validate(text, PERSON)


def test_choices_differ_and_all_hold(client):
    reply = client.chat.completions.create(**BOUNDED, **WARM, n=4, response_format=schema_format(PERSON))
    texts = [c.message.content for c in reply.choices]
    assert len(set(texts)) > 1
    for choice in reply.choices:
        assert choice.finish_reason == "stop"
        validate(choice.message.content, PERSON)


class Step(pydantic.BaseModel):
    number: int = pydantic.Field(ge=1, le=9)
    what: str = pydantic.Field(max_length=20)


class Plan(pydantic.BaseModel):
    """What pydantic makes of it has titles, defaults, $defs and anyOf with null."""
    title: str = pydantic.Field(max_length=20)
    kind: Literal["short", "long"]
    steps: list[Step] = pydantic.Field(min_length=1, max_length=2)
    note: Optional[Literal["none", "some"]]


def test_pydantic_helper(client):
    reply = client.chat.completions.parse(model=NAME, messages=ASK, max_tokens=300, response_format=Plan, **GREEDY)
    plan = reply.choices[0].message.parsed
    assert isinstance(plan, Plan) and plan.steps and all(1 <= step.number <= 9 for step in plan.steps)


def test_json_object(client):
    complete = 0
    for seed in range(4):
        reply = client.chat.completions.create(**BOUNDED, temperature=0.7, seed=seed,
                                               response_format={"type": "json_object"})
        [choice] = reply.choices
        assert choice.message.content.startswith("{")
        if choice.finish_reason == "stop":
            assert isinstance(json.loads(choice.message.content), dict)
            complete += 1
        else:
            assert choice.finish_reason == "length" and reply.usage.completion_tokens == 300
    assert complete > 0 or SANITIZED  # a random model does not come to an end


LIST = {"type": "array", "items": {"type": "integer", "minimum": 10, "maximum": 99}, "minItems": 2, "maxItems": 5}


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("field", [
    {"response_format": schema_format(LIST, "list")},
    {"response_format": {"type": "json_schema", "schema": LIST}},
    {"response_format": {"type": "json_object", "schema": LIST}},
    {"guided_json": LIST}, {"guided_json": json.dumps(LIST)},
    {"structured_outputs": {"json": LIST}}, {"structured_outputs": {"json": json.dumps(LIST)}},
    {"json_schema": LIST},
], ids=lambda f: json.dumps(f)[:50])
def test_names_of_schemas(server, path, field):
    [(text, reason)] = ask(server, path, **WARM, **field)
    assert reason == "stop"
    validate(text, LIST)


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_structured_json_object(server, path):
    [(text, reason)] = ask(server, path, **WARM, structured_outputs={"json_object": True}, max_tokens=20)
    assert text.startswith("{")
    if reason == "stop":
        json.loads(text)


# ---- The others ----


@every_model
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("sampling", [GREEDY, WARM], ids=["greedy", "temperature 1"])
@pytest.mark.parametrize("field", [
    {"guided_choice": ["red", "green", "blue", "greenish"]},
    {"structured_outputs": {"choice": ["red", "green", "blue", "greenish"]}},
], ids=["guided_choice", "structured_outputs"])
def test_choice(server, path, sampling, field):
    [(text, reason)] = ask(server, path, **sampling, **field)
    assert text in ("red", "green", "blue", "greenish") and reason == "stop"


REGEX = r"[A-Z][a-z]{2,8}, \d{1,3} (years|months)( old)?(, (née|born) [A-ZÄÖÜ][a-zäöü]{2,5})?"
GBNF = r'''
root  ::= greeting ", " name ("!" | "?" | ".")   # a comment
greeting ::= "Hello" | "Good " ("morning" | "evening")
name  ::= [A-Z] [a-z]{2,7} ("-" name)?
'''


@every_model
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("name", ["guided_regex", "structured_outputs"])
def test_regex(server, path, name):
    body = {name: REGEX if name == "guided_regex" else {"regex": REGEX}}
    for text, reason in ask(server, path, n=3, **WARM, **body):
        assert reason == "stop" and re.fullmatch(REGEX, text)


@every_model
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("name", ["grammar", "guided_grammar", "structured_outputs"])
def test_grammar(server, path, name):
    for text, reason in ask(server, path, n=3, **WARM, **{name: {"grammar": GBNF} if name[0] == "s" else GBNF}):
        assert re.match(r"(Hello|Good (morning|evening)), [A-Z][a-z]{2,7}(-[A-Z][a-z]{2,7})*", text)
        if reason == "stop":
            assert re.fullmatch(r"(Hello|Good (morning|evening)), [A-Z][a-z]{2,7}(-[A-Z][a-z]{2,7})*[!?.]", text)


@pytest.mark.parametrize("field", [
    {"response_format": {"type": "text"}}, {"response_format": None}, {"grammar": ""}, {"guided_json": None},
    {"guided_decoding_backend": "auto"},
], ids=str)
def test_nothing_is_asked(server, field):
    assert ask(server, COMPLETIONS, max_tokens=8, **GREEDY, **field) == ask(server, COMPLETIONS, max_tokens=8, **GREEDY)


# ---- How it ends ----


@every_model
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_cut_is_length(server, path):
    [(text, reason)] = ask(server, path, guided_regex="(ab){200}", max_tokens=9)
    assert reason == "length" and "ab" * 200 != text and ("ab" * 200).startswith(text)


def test_stop_strings_still_stop(server):
    [(text, reason)] = ask(server, CHAT, guided_regex="(ab){20}", stop=["bab"])
    assert (text, reason) == ("a", "stop")


def test_ignore_eos_ends_where_the_grammar_does(server):
    [(text, reason)] = ask(server, COMPLETIONS, guided_regex="[ab]{30}", ignore_eos=True, **WARM)
    assert re.fullmatch("[ab]{30}", text) and reason == "stop"
    [(text, reason)] = ask(server, COMPLETIONS, guided_regex="[ab]*", ignore_eos=True, max_tokens=25, **WARM)
    assert re.fullmatch("[ab]*", text) and reason == "length"


def test_empty_text(server):
    assert ask(server, COMPLETIONS, guided_regex="") == [("", "stop")]
    assert ask(server, CHAT, guided_choice=[""]) == [("", "stop")]


@every_model
def test_logprobs_are_the_models_own(client):
    """The constraint changes what is drawn, not what the model thinks of it."""
    body = dict(model=NAME, prompt="one two three", max_tokens=1, logprobs=5, temperature=0)
    free = client.completions.create(**body).choices[0]
    held = client.completions.create(**body, extra_body={"guided_choice": ["qq"]}).choices[0]
    best = held.logprobs.top_logprobs[0]
    assert {t: p for t, p in best.items() if t != held.text} == free.logprobs.top_logprobs[0]  # what is drawn comes beside
    assert "qq".startswith(held.text) and held.logprobs.token_logprobs[0] < max(free.logprobs.top_logprobs[0].values())


def test_the_company_changes_nothing(server):
    """Alone and among others, to the bit."""
    bodies = [dict(response_format=schema_format(PERSON)), dict(guided_regex=REGEX), dict(grammar=GBNF), {},
              dict(guided_choice=["red", "green"]), dict(response_format={"type": "json_object"})]
    asks = [dict(temperature=0.9, seed=i, max_tokens=60, logprobs=True, **body) for i, body in enumerate(bodies * 2)]

    def content(body):
        reply = server.post(CHAT, messages=ASK, **body)
        assert reply.status_code == 200, reply.text
        choice = reply.json()["choices"][0]
        return choice["message"], choice["logprobs"], choice["finish_reason"]
    alone = [content(body) for body in asks]
    with concurrent.futures.ThreadPoolExecutor(len(asks)) as pool:
        assert list(pool.map(content, asks)) == alone


# ---- What is refused ----

FAULTS = [
    ("response_format", {"response_format": "json"}), ("response_format.type", {"response_format": {"type": "xml"}}),
    ("response_format.json_schema", {"response_format": {"type": "json_schema"}}),
    ("response_format.json_schema.name", {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}}),
    ("response_format.json_schema.schema", {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}),
    ("response_format.json_schema.schema", {"response_format": schema_format({"type": "strange"})}),
    ("guided_json", {"guided_json": {"type": "object", "properties": 5}}), ("guided_json", {"guided_json": "{"}),
    ("guided_json", {"guided_json": 1}), ("guided_regex", {"guided_regex": "(a"}), ("guided_regex", {"guided_regex": r"(a)\1"}),
    ("guided_regex", {"guided_regex": "(?=a)b"}), ("guided_regex", {"guided_regex": []}), ("guided_choice", {"guided_choice": []}),
    ("guided_choice", {"guided_choice": [1]}), ("guided_grammar", {"guided_grammar": "x ::= [a]"}),
    ("guided_grammar", {"guided_grammar": "root ::= nothing"}), ("grammar", {"grammar": "root ::= root"}),
    ("grammar", {"grammar": 'root ::= "a'}), ("grammar", {"grammar": 1}), ("json_schema", {"json_schema": {"$ref": "#/nowhere"}}),
    ("json_schema", {"json_schema": []}), ("structured_outputs", {"structured_outputs": {}}),
    ("structured_outputs.regex", {"structured_outputs": {"regex": "["}}),
    ("structured_outputs.structural_tag", {"structured_outputs": {"structural_tag": "x"}}),
    ("guided_regex", {"guided_json": {}, "guided_regex": "a"}), ("grammar", {"json_schema": {}, "grammar": "root ::= [a]"}),
    ("guided_whitespace_pattern", {"guided_json": {}, "guided_whitespace_pattern": " "}),
]


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("field, body", FAULTS, ids=lambda x: str(x)[:60])
def test_fault(server, path, field, body):
    assert fault(server, path, **body)["param"] == field


def nested(n):
    schema = {"type": "null"}
    for _ in range(n):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


def doubling(n):
    """2^n ways to be a string, if nobody minds."""
    return {"$defs": {f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(n)} |
            {f"d{n}": {"type": "string"}}, "$ref": "#/$defs/d0"}


def overlapping(n):
    """n branches of which any may hold together."""
    return {"type": "object", "oneOf": [{"required": [f"a{i}", f"b{i}"]} for i in range(n)]}


def conditions(n):
    """2^n objects: conditions that have nothing to do with each other."""
    return {"type": "object", "allOf": [{"if": {"required": [f"a{i}"]}, "then": {"required": [f"b{i}"]}} for i in range(n)]}


def fan(n):
    """Each refers thirty times to the next, in place."""
    return {"$defs": {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 30} for i in range(n)} | {f"d{n}": {}}, "$ref": "#/$defs/d0"}


HOSTILE = [
    {"guided_json": overlapping(40)}, {"guided_json": conditions(40)}, {"guided_json": fan(100)},
    {"guided_json": {"allOf": [{"properties": {f"p{i}": {"maximum": i}}} for i in range(6000)]}},
    {"guided_json": {"enum": [[i // 2] for i in range(20000)]}}, {"guided_regex": r"[\p{L}\d]" * 20000},
    {"guided_json": nested(20)}, {"guided_json": '{"items":' * 5000 + "{}" + "}" * 5000}, {"guided_json": doubling(40)},
    {"guided_json": {"enum": [f"value {i}" * 5 for i in range(20000)]}},
    {"guided_json": {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(3000)}}},
    {"guided_json": {"type": "string", "minLength": 2**31, "maxLength": 2**52}},
    {"guided_json": {"type": "string", "pattern": "(a|aa|aaa)*" * 50 + "$"}},
    {"guided_json": {"type": "array", "items": {"type": "array", "items": {"type": "string", "maxLength": 9999}, "maxItems": 9999},
                     "maxItems": 9999}},
    {"guided_json": {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}},
    {"guided_json": {"type": "integer", "minimum": -10**15, "maximum": 10**15}},
    {"guided_regex": "(((a{100}){100}){100}){100}"}, {"guided_regex": "(x+x+)+y"}, {"guided_regex": "(" * 3000 + ")" * 3000},
    {"guided_regex": "|".join(f"word{i}.*" for i in range(5000))}, {"guided_regex": ".{0,100000}a.{0,100000}"},
    {"guided_regex": "(a?){2000}a{2000}"}, {"guided_choice": ["x" * 1000 + str(i) for i in range(2000)]},
    {"grammar": "root ::= " + "(" * 3000 + '"a"' + ")" * 3000}, {"grammar": "root ::= root root | root root root | [a]"},
    {"grammar": "root ::= a\n" + "\n".join(f"r{i} ::= r{i + 1} r{i + 1}" for i in range(40)) + "\nr40 ::= [a]\na ::= r0"},
    {"grammar": 'root ::= "a"{1000000}'}, {"grammar": 'root ::= ("a"? "b"?){3000}'}, {"grammar": "root ::= ((((((([a]*)*)*)*)*)*)*)*"},
]


@pytest.mark.parametrize("body", HOSTILE, ids=lambda b: json.dumps(b)[:60])
def test_hostile(server, body):
    """Taken, or refused by name; and the server goes on."""
    reply = server.post(COMPLETIONS, prompt="x", max_tokens=3, **body)
    assert reply.status_code in (200, 400), reply.text
    if reply.status_code == 400:
        assert reply.json()["error"]["param"] == next(iter(body)) and reply.json()["error"]["message"]
    assert ask(server, COMPLETIONS, guided_choice=["fine"]) == [("fine", "stop")]


def test_a_long_enum_simply_works(server):
    values = [f"value {i}" for i in range(20000)]
    for body in ({"guided_json": {"enum": values}}, {"guided_choice": values}):
        [(text, reason)] = ask(server, COMPLETIONS, **body)
        assert reason == "stop" and text.strip('"') in values


def test_the_limit_is_named(server):
    error = fault(server, guided_json=conditions(40))
    assert error["param"] == "guided_json" and "to compile" in error["message"]


def test_kept_and_counted(server):
    """The same again is found, whatever field it comes in; what it cost is on /metrics."""
    schema = {"type": "object", "properties": {"only here": {"const": 1}}, "required": ["only here"], "additionalProperties": False}

    def numbers():
        m = server.metrics()
        return [m[k] for k in ("octavo_grammar_compile_seconds_count", "octavo_grammar_cache_hits_total",
                               'octavo_constrained_requests_total{kind="json_schema"}')], m["octavo_grammar_mask_seconds_count"]
    before, masks = numbers()
    for body in ({"guided_json": schema}, {"json_schema": schema}, {"response_format": schema_format(schema)}):
        [(text, _)] = ask(server, CHAT, **body)
        assert json.loads(text)["only here"] == 1
    after, masks_after = numbers()
    assert [a - b for a, b in zip(after, before, strict=True)] == [1, 2, 3]
    assert masks_after > masks and server.metrics()["octavo_grammar_cache_bytes"] > 0
