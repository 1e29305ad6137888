"""Conversations to render templates with: every role and shape of message that clients send."""
TOOLS = [
    {"type": "function", "function": {
        "name": "get_weather", "description": "Weather of a place, in °C <now>.",
        "parameters": {"type": "object", "properties": {
            "city": {"type": "string", "description": "Name of the city"},
            "unit": {"type": "string", "enum": ["celsius", "fahrenheit"], "default": "celsius"},
            "days": {"type": "integer", "minimum": 1, "maximum": 10},
            "where": {"type": "object", "properties": {"lat": {"type": "number"}, "lon": {"type": ["number", "null"]}},
                      "required": ["lat"]},
            "tags": {"type": "array", "items": {"type": "string"}}},
            "required": ["city"]},
        "return": {"type": "string", "description": "What it is like"}}},
    {"type": "function", "function": {"name": "stop", "description": "Ends it.\nAt once.",
                                      "parameters": {"type": "object", "properties": {}}}},
    {"type": "function", "function": {
        "name": "any", "description": "Deep", "strict": True,
        "parameters": {"type": "object", "properties": {
            "list": {"type": "array", "items": {"type": "array", "items": {"type": "number"}}},
            "one": {"anyOf": [{"type": "string"}, {"type": "integer"}], "nullable": True},
            "ref": {"$ref": "#/$defs/x"}, "open": {"type": "object"}, "flag": {"type": "boolean", "default": False}},
            "required": ["list", "one"], "$defs": {"x": {"type": "string", "format": "date", "pattern": "^a\"b\\d$"}},
            "additionalProperties": False}}},
]


def user(content="Hello", **more):
    return {"role": "user", "content": content, **more}


def assistant(content="Hi there.", **more):
    return {"role": "assistant", "content": content, **more}


def system(content="Be kind."):
    return {"role": "system", "content": content}


def call(name="get_weather", arguments=None, id="call_00001", **more):
    return {"id": id, "type": "function", **more,
            "function": {"name": name, "arguments": {"city": "Paris"} if arguments is None else arguments}}


def tool(content='{"temp": 21.5}', id="call_00001", **more):
    return {"role": "tool", "tool_call_id": id, "content": content, **more}


NASTY = "a'b\"c\\d\n\te\r é ß 漢字 🎉 <|im_end|> </s> [INST] {{ x }} {% if %} & < > \x7f \u00a0\u2028 end"
PARTS = [{"type": "text", "text": "First part."}, {"type": "text", "text": " Second <part>."}]

CONVERSATIONS = {
    "empty": [],
    "user": [user()],
    "system": [system(), user()],
    "only system": [system()],
    "developer": [{"role": "developer", "content": "Rules."}, user()],
    "two users": [user("One"), user("Two")],
    "turns": [system(), user("1+1?"), assistant("2"), user("2+2?"), assistant("4"), user("So?")],
    "ends with assistant": [user(), assistant("The answer is")],
    "starts with assistant": [assistant("Welcome."), user()],
    "nasty": [system(NASTY), user(NASTY), assistant(NASTY), user(NASTY)],
    "blank": [system(""), user(""), assistant("  \n "), user("\n x \n")],
    "none": [user(), assistant(None), user()],
    "think": [user(), assistant("<think>\nHm, so.\n</think>\n\nFine."), user("And?"),
              assistant("<think>x</think>y</think>z"), user()],
    "reasoning": [user(), assistant("Fine.", reasoning_content="Hm, so."), user("And?"),
                  assistant("Good.", reasoning_content="", reasoning="r", thinking="t")],
    "parts": [{"role": "system", "content": PARTS}, user(PARTS), assistant(PARTS), user(PARTS)],
    "one part": [user(PARTS[:1])],
    "image": [user([{"type": "image_url", "image_url": {"url": "x"}}, *PARTS])],
    "late system": [user(), assistant(), system("Now be rude."), user()],
    "call": [system(), user("Weather?"), assistant("", tool_calls=[call()]), tool()],
    "call none": [user("Weather?"), assistant(None, tool_calls=[call()]), tool(), assistant("Sunny."), user("Thanks")],
    "call text arguments": [user("Weather?"), assistant("Let me see.", tool_calls=[call(arguments='{"city": "Paris"}')]),
                            tool(), user("And?")],
    "calls": [user("Weather?"), assistant("", tool_calls=[call(), call("stop", {}, id="call_00002")]), tool(),
              tool("done", id="call_00002", name="stop"), assistant("Ok."), user("More"),
              assistant(None, tool_calls=[call("any", {"list": [[1.5, 2], []], "one": None, "open": {"a": {"b": True}},
                                                       "flag": False, "s": NASTY}, id="abc123def")]),
              tool(NASTY, id="abc123def", name="any")],
    "short id": [user(), assistant("", tool_calls=[call(id="abcdefghi")]), tool("x", id="abcdefghi")],
    "tool parts": [user(), assistant("", tool_calls=[call()]), tool(PARTS)],
    "tool objects": [user(), assistant("", tool_calls=[call(name="stop", arguments={})]),
                     {"role": "tool", "name": "stop", "content": "ok", "tool_call_id": "call_00001"}, user("and?")],
    "no calls": [user(), assistant("x", tool_calls=[]), user()],
    "unknown role": [{"role": "critic", "content": "Meh."}, user()],
    "long": [m for i in range(40) for m in (user(f"Question {i}?"), assistant(f"Answer {i}."))] + [user("Last?")],
}

SETTINGS = [
    {"add_generation_prompt": True},
    {"add_generation_prompt": False},
    {"add_generation_prompt": True, "tools": TOOLS},
    {"add_generation_prompt": False, "tools": TOOLS[:2]},
    {"add_generation_prompt": True, "tools": TOOLS[1:2], "functions": "[]", "datetime": "today"},
    {"add_generation_prompt": True, "enable_thinking": False, "thinking": False, "reasoning_effort": "low"},
    {"add_generation_prompt": True, "enable_thinking": True, "thinking": True, "reasoning_effort": "high",
     "preserve_thinking": True, "clear_thinking": False, "builtin_tools": ["browser", "python"],
     "model_identity": "I am.", "tools": TOOLS},
    {"add_generation_prompt": True, "tools": [t["function"] for t in TOOLS], "date_string": "1 Jan 2025",
     "documents": [{"title": "One", "text": "Text."}, {"title": "Two", "text": "More."}]},
]


def contexts():
    """(name, context) for every conversation with every setting."""
    base = {"tools": None, "documents": None, "bos_token": "<|bos|>", "eos_token": "</s>", "pad_token": "<pad>"}
    for name, messages in CONVERSATIONS.items():
        for i, settings in enumerate(SETTINGS):
            yield f"{name}/{i}", {**base, **settings, "messages": messages}
