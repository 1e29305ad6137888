"""config/json.c against Python's json module: the same documents are accepted, with the same meaning.

Python is laxer in a few known ways; `judge` makes it as strict as config/json.h says."""
import json
import math
import os
import pathlib
import random
import re
import subprocess

BUILD = pathlib.Path(os.environ.get("OCTAVO_BUILD", "build/release"))

SEEDS = [
    '{"model":"m","prompt":["a\\u00e9\\ud83d\\ude00","b"],"max_tokens":16,"temperature":0.7,"stop":null,"stream":true}',
    '[1,[2,[3,{"a":[],"b":{}}]],-0,1e-40,1.5E+10,0.1,123456789012345678]',
    '{"a":{"b":{"c":[true,false,null]}},"d":"\\"\\\\\\/\\b\\f\\n\\r\\t","\u00fc":"\u20ac\U0001f600"}',
    '"plain"', "-12.5e-3", " [ ] ", "{}", '{"":""}', "[[[[]]]]", '{"a":1,"b":2,"c":3}',
]
PIECES = ["{", "}", "[", "]", ",", ":", '"', "\\", "\\u", "\\ud83d", "\\ude00", "\\u0000", "\\u00E9", "0", "1", "-",
          "+", ".", "e", "E", "e400", "1e308", "true", "false", "null", "NaN", "Infinity", " ", "\n", "\t", "\0", "a",
          '"a"', '"a":1', "\u00e9", "\x01", "\x7f", "/", "'", "//"]


class Refused(Exception):
    pass


def members(pairs):
    if len({key for key, _ in pairs}) != len(pairs):
        raise Refused("duplicate key")
    return dict(pairs)


def number(text):
    if len(text) > 63 or math.isinf(float(text)):
        raise Refused("number")
    return float(text)


def constant(name):
    raise Refused(name)


def check_strings(value):
    if isinstance(value, str):
        if "\0" in value or re.search("[\ud800-\udfff]", value):
            raise Refused("string")
    elif isinstance(value, list):
        for element in value:
            check_strings(element)
    elif isinstance(value, dict):
        for key, element in value.items():
            check_strings(key)
            check_strings(element)


def judge(document):
    """The value, or None when it is to be refused."""
    try:
        text = document.decode("utf-8")
        value = json.loads(text, object_pairs_hook=members, parse_float=number, parse_int=number,
                           parse_constant=constant)
        check_strings(value)
        return [value]
    except (Refused, ValueError, RecursionError):
        return None


def documents(count):
    rng = random.Random(20261124)
    for seed in SEEDS:
        yield seed.encode()
    for _ in range(count):
        text = bytearray(rng.choice(SEEDS).encode())
        for _ in range(rng.choice([1, 1, 1, 2, 3, 6])):
            at = rng.randrange(len(text) + 1)
            kind = rng.randrange(4)
            if kind == 0:
                del text[at:at + rng.randrange(1, 4)]
            elif kind == 1:
                text[at:at] = rng.choice(PIECES).encode()
            elif kind == 2 and at < len(text):
                text[at] = rng.randrange(256)
            else:
                end = rng.randrange(at, len(text) + 1)
                text[at:at] = text[at:end][:20]
        yield bytes(text)


def test_accepts_and_means_the_same_as_python():
    cases = list(documents(30000))
    done = subprocess.run([BUILD / "json_check"], input="".join(case.hex() + "\n" for case in cases), text=True,
                          capture_output=True, check=True)
    answers = done.stdout.split("\n")[:-1]
    assert len(answers) == len(cases)
    accepted = 0
    for case, answer in zip(cases, answers):
        expected = judge(case)
        assert answer.startswith("ok ") == (expected is not None), (case, answer)
        if expected is not None:
            assert json.loads(bytes.fromhex(answer[3:]), parse_int=float) == expected[0], (case, answer)
            accepted += 1
    assert 2000 < accepted < len(cases) - 2000, f"{accepted} of {len(cases)} accepted: the cases are lopsided"
