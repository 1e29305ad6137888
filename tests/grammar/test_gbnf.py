"""GBNF as octavo reads it: regular grammars judged by Python's re, recursive ones by what they describe, and llama.cpp's
samples."""
import json
import os
import random
import re
import sys

import pytest

sys.path.insert(0, os.path.dirname(__file__))
import languages  # noqa: E402

SEED = int(os.environ.get("OCTAVO_TEST_SEED", "7"))
FILES = sorted(languages.GRAMMARS.glob("*.gbnf"))


def compiled(tree):
    text = languages.pattern(tree, python=languages.CLASSES).replace("[^\\n\\r\u2028\u2029]", "(?s:.)")
    return re.compile(text)


def test_random_grammars():
    rng, jobs, found, n = random.Random(SEED), [], [], 0
    for i in range(1500):
        letters = languages.LETTERS[:3] if i % 2 else languages.LETTERS
        tree = languages.random_tree(rng, letters=letters)
        texts = [languages.random_text(rng, letters) for _ in range(12)]
        jobs.append(({"gbnf": languages.Gbnf(tree, rng).text, "texts": texts, "walks": 4, "seed": i}, compiled(tree)))
    for (job, judge), answer in zip(jobs, languages.ask([job for job, _ in jobs]), strict=True):
        if "error" in answer:
            if "empty" not in answer["error"] and "nothing" not in answer["error"]:
                found.append(f"{job['gbnf']!r}: {answer['error']}")
            continue
        n += 1
        for text, accepted in zip(job["texts"], answer["accepted"], strict=True):
            if (accepted == "1") != bool(judge.fullmatch(text)):
                found.append(f"{job['gbnf']!r} (python {judge.pattern!r}) {text!r}: ours {accepted}")
        for text in answer["walks"]:
            if not judge.fullmatch(text):
                found.append(f"{job['gbnf']!r}: generated {text!r}")
        found += [f"{job['gbnf']!r}: dead end {text!r}" for text in answer["dead"]]
    assert not found, f"{len(found)} differ:\n" + "\n".join(found[:10])
    assert n > 1300


def balanced(text):
    stack = []
    for c in text:
        if c in "([":
            stack.append(")]"["([".index(c)])
        elif not stack or stack.pop() != c:
            return False
    return not stack


def palindrome(text):
    return text == text[::-1]


RECURSIVE = {
    'root ::= ("(" root ")" | "[" root "]")*': balanced,
    'root ::= "" | one root\none ::= "(" root ")" | "[" root "]"': balanced,
    'root ::= "(" root "(" | ")" root ")" | "[" root "[" | "]" root "]" | [\\[\\]()]?': palindrome,
}


@pytest.mark.parametrize("gbnf", RECURSIVE)
def test_recursion(gbnf):
    texts = [""]
    for text in texts:
        if len(text) < 6:
            texts += [text + c for c in "()[]"]
    [answer] = languages.ask([{"gbnf": gbnf, "texts": texts, "walks": 200, "seed": SEED}])
    judge = RECURSIVE[gbnf]
    assert answer["accepted"] == "".join("01"[judge(t)] for t in texts)
    assert answer["walks"] and all(judge(t) for t in answer["walks"])
    assert answer["dead"] == []


@pytest.mark.skipif(not FILES, reason=f"no sample grammars in {languages.GRAMMARS}: name their folder in OCTAVO_GRAMMARS")
@pytest.mark.parametrize("path", FILES or [None], ids=lambda p: p.stem if p else "none")
def test_sample(path):
    samples = {
        "arithmetic": ("x = 1\n", "(a +2) *3= 4 \nb=c\n", "x = \n", "1+2=3"),
        "c": ("int main(){return 0;}", "", "int f(){", "x"),
        "chess": ("1. e4 e5\n2. Nf3 Nc6\n", "1. O-O O-O-O\n9. exd8=Q+ Kd7#\n", "1. e4 e5\n", "e4"),
        "english": ("Hello world!", "a\tb", "", "é"),
        "japanese": ("こんにちは 世界", "カタカナ", "abc", ""),
        "json": ('{"a": [1, -2.5e1, "x\\u00e9", null]}', "{}", "[1]", '{"a": }'),
        "json_arr": ('[\n1,\n{"a": true}]', '[\n"x"]', "[1]", "{}"),
        "list": ("- a\n- b\n", "- é漢\n", "-a\n", "- a"),
    }
    texts = samples.get(path.stem, ())
    [answer] = languages.ask([{"gbnf": path.read_text(), "texts": texts, "walks": 20, "seed": SEED}])
    assert "error" not in answer, answer
    assert answer["accepted"] == "1100"[:len(texts)], answer
    assert answer["dead"] == []
    if path.stem.startswith("json"):
        for text in answer["walks"]:
            json.loads(text)


TOKENS = {
    "root ::= <think> !</think>* </think> .*": ("<think>why?</think>so", "<think></think>", "<think>", "why</think>"),
    "root ::= <|im_start|> [a-z]+": ("<|im_start|>abc", "<|im_start|>z", "abc", "<|im_start|>"),
}


@pytest.mark.parametrize("gbnf", TOKENS)
def test_tokens_as_text(gbnf):
    [answer] = languages.ask([{"gbnf": gbnf, "texts": TOKENS[gbnf]}])
    assert answer.get("accepted") == "1100", answer


REFUSED = {
    'root ::= <[1000]>': "line 1, column 10: tokens by their number are not supported: write the token's text, as in <think>",
    'root ::= ("a"\n  !<x> "b")': "line 2, column 3: a negated token is only supported repeated: !<x>*",
}


@pytest.mark.parametrize("gbnf", REFUSED)
def test_refused(gbnf):
    [answer] = languages.ask([{"gbnf": gbnf}])
    assert answer == {"error": REFUSED[gbnf], "code": "unsupported"}


def test_limits():
    many = "\n".join(f"r{i} ::= r{i + 1}" for i in range(20000)) + '\nr20000 ::= "a"\nroot ::= r0'
    for gbnf, word in (("root ::= " + "(" * 300, "parentheses in each other"), ("#" * 1100000, "bytes"),
                       ('root ::= "a"{9999999999}', "repetition")):
        [answer] = languages.ask([{"gbnf": gbnf}])
        assert answer.get("code") == "limit" and word in answer["error"], answer
    [answer] = languages.ask([{"gbnf": many, "texts": ["a"]}])
    assert answer.get("accepted") == "1" or answer.get("code") == "limit", answer
