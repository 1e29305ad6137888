"""The prompt of a chat, token for token, against transformers' apply_chat_template with a tokenizer of the same model."""
import copy
import json
import os
import pathlib
import sys

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # transformers asks the hub about large vocabularies, and waits
from transformers import PreTrainedTokenizerFast  # noqa: E402

import conftest  # noqa: E402

sys.path[:0] = [str(conftest.ROOT / "tests" / folder) for folder in ("tokenizer", "jinja")]
import conversations  # noqa: E402
import judge  # noqa: E402
from gguf import GGUFReader  # noqa: E402

MODELS = pathlib.Path(os.environ.get("OCTAVO_MODELS", conftest.ROOT / "models"))
pytestmark = conftest.real
SPECIAL = ("<|im", "</s>", "<|end")


def transformers_tokenizer(path):
    vocabulary = judge.Vocabulary(path)
    fields = GGUFReader(path).fields
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=judge.judge(vocabulary))
    tokenizer.chat_template = fields["tokenizer.chat_template"].contents()
    tokenizer.bos_token = vocabulary.tokens[fields["tokenizer.ggml.bos_token_id"].contents()]
    tokenizer.eos_token = vocabulary.tokens[fields["tokenizer.ggml.eos_token_id"].contents()]
    return tokenizer


def plain(messages):
    """Whether no message holds what looks like a control token, and every content is a string: there apply_chat_template
    and octavo differ on purpose."""
    return all(isinstance(m["content"], str) and not any(s in m["content"] for s in SPECIAL)
               and m["role"] in ("system", "user", "assistant", "tool") for m in messages)


def with_objects(messages):
    """Arguments of tool calls as objects: clients send them as strings, templates want what those say (vLLM does so too)."""
    messages = copy.deepcopy(messages)
    for call in (c for m in messages for c in m.get("tool_calls") or []):
        if isinstance(call["function"]["arguments"], str):
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    return messages


@pytest.mark.parametrize("name", ["smollm2", "qwen05"])
def test_ids(start, name):
    path = MODELS / f"{name}.gguf"
    if not path.exists():
        pytest.skip(f"{path} is not there; tests/models.sh {name} brings it")
    tokenizer = transformers_tokenizer(path)
    server = start("--kv-format", "f16", "--kv-cache-bytes", 64 << 20, "--ctx-size", 512, model=path)
    tame = conversations.NASTY.replace("<|im_end|>", "").replace("</s>", "")
    chats = [m for m in conversations.CONVERSATIONS.values() if m and plain(m)]
    chats += [[{"role": r, "content": tame} for r in ("system", "user", "assistant", "user")]]
    assert len(chats) > 10
    for messages in chats:
        for generation in (True, False):
            for tools in (None, conversations.TOOLS):
                expected = tokenizer.apply_chat_template(with_objects(messages), tools=tools,
                                                         add_generation_prompt=generation, return_dict=False)
                body = {"tools": tools, "tool_choice": "none"} if tools else {}
                reply = server.post("/tokenize", messages=messages, add_generation_prompt=generation, **body)
                assert reply.status_code == 200, reply.text
                assert reply.json()["tokens"] == expected, messages
        if messages[-1]["role"] == "assistant" and messages[-1]["content"].strip():
            expected = tokenizer.apply_chat_template(with_objects(messages), continue_final_message=True, return_dict=False)
            reply = server.post("/tokenize", messages=messages, continue_final_message=True)
            assert reply.json()["tokens"] == expected, messages
