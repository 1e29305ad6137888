"""Patterns as octavo reads them, judged by Python's re."""
import json
import os
import random
import re
import sys
import unicodedata

import pytest

sys.path.insert(0, os.path.dirname(__file__))
import languages  # noqa: E402

SEED = int(os.environ.get("OCTAVO_TEST_SEED", "7"))
FEW = languages.LETTERS[:3]


def compiled(tree):
    return re.compile(languages.pattern(tree, python=languages.PYTHON))


def matches(judge, text, search):
    return bool(judge.search(text) if search else judge.fullmatch(text))


def check(answer, job, judge, texts, decode=lambda text: text):
    """Where the tool and re do not agree about one pattern."""
    search, found = job.get("search", False), []
    for text, accepted, alive in zip(texts, answer["accepted"], answer["alive"], strict=True):
        expected = matches(judge, decode(text), search)
        if (accepted == "1") != expected:
            found.append(f"{text!r}: python {expected}, ours {accepted}")
        if expected and alive != len(text.encode()):
            found.append(f"{text!r}: matches, but only {alive} bytes were followed")
    for text in answer["walks"]:
        if not matches(judge, decode(text), search):
            found.append(f"{text!r} was generated and does not match")
    found += [f"{text!r} was followed and cannot be finished" for text in answer["dead"]]
    return [f"{job['regex']!r} (python {judge.pattern!r}, search {search}) {line}" for line in found]


def compare(jobs):
    """jobs: (job, judge, texts). Returns how many patterns octavo took."""
    answers = languages.ask([{**job, "texts": texts, "walks": 4, "seed": i} for i, (job, _, texts) in enumerate(jobs)])
    found, n = [], 0
    for (job, judge, texts), answer in zip(jobs, answers, strict=True):
        if "error" in answer:
            found += acceptable(job, judge, texts, answer)
        else:
            found += check(answer, job, judge, texts)
            n += 1
    assert not found, f"{len(found)} differ:\n" + "\n".join(found[:10])
    return n


def acceptable(job, judge, texts, answer):
    """A refused pattern is fine for an anchor inside of it, or when nothing matches it."""
    if answer["code"] == "unsupported" and "is only supported at the" in answer["error"]:
        return []
    if "matches nothing" in answer["error"] or "empty" in answer["error"]:
        return [f"{job['regex']!r} is refused, but matches {text!r}" for text in texts
                if matches(judge, text, job.get("search", False))]
    return [f"{job['regex']!r} is refused: {answer['error']}"]


@pytest.mark.parametrize("search", [False, True])
def test_random_patterns(search):
    rng, jobs = random.Random(SEED + search), []
    for i in range(1500):
        letters = FEW if i % 2 else languages.LETTERS
        tree = languages.random_tree(rng, letters=letters, anchors=search or i % 5 == 0)
        texts = [languages.random_text(rng, letters) for _ in range(12)]
        jobs.append(({"regex": languages.pattern(tree, rng), "search": search}, compiled(tree), texts))
    assert compare(jobs) > 1000


def test_all_short_texts():
    """Every text of up to five of three letters, for 300 patterns."""
    rng, texts = random.Random(SEED), [""]
    for text in texts:
        if len(text) < 5:
            texts += [text + c for c in FEW]
    jobs = []
    for i in range(300):
        tree = languages.random_tree(rng, letters=FEW, anchors=True)
        jobs.append(({"regex": languages.pattern(tree, rng), "search": i % 2 == 0}, compiled(tree), texts))
    assert compare(jobs) > 150


def spelled(rng, text):
    """One of the ways in which JSON generators write the inside of a string."""
    names = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r", "\b": "\\b", "\f": "\\f"}
    out = []
    for c in text:
        ways = [names[c]] if c in names else []
        if ord(c) < 0x20:
            ways += ["\\u%04x" % ord(c), "\\u%04X" % ord(c)]
        if c == "/":
            ways += ["\\/"]
        if ord(c) >= 0x20 and c not in '"\\':
            ways.append(c)
        out.append(rng.choice(ways))
    return "".join(out)


@pytest.mark.parametrize("search", [False, True])
def test_inside_of_json_strings(search):
    rng, jobs, found = random.Random(SEED + 10 + search), [], []
    for _ in range(800):
        tree = languages.random_tree(rng, anchors=search)
        texts = [spelled(rng, languages.random_text(rng)) for _ in range(10)]
        job = {"regex": languages.pattern(tree, rng), "search": search, "json_string": True}
        jobs.append((job, compiled(tree), texts))
    answers = languages.ask([{**job, "texts": texts, "walks": 4, "seed": i} for i, (job, _, texts) in enumerate(jobs)])
    for (job, judge, texts), answer in zip(jobs, answers, strict=True):
        def decode(text):
            return json.loads(f'"{text}"')
        if "error" in answer:
            found += acceptable(job, judge, [decode(t) for t in texts], answer)
        else:
            found += check(answer, job, judge, texts, decode)
    assert not found, f"{len(found)} differ:\n" + "\n".join(found[:10])


def test_what_no_json_string_holds():
    [answer] = languages.ask([{"regex": "(?:.|\\s)*", "json_string": True,
                               "texts": ["\n", "\x1f", 'a"', "\\", "\\x", "\\u12", "\\u0041", "\\u001f", "\\u001F", "é", "\x7f"]}])
    assert answer["accepted"] == "00000001111"


REFUSED = {
    r"(?=a)b": "look-around", r"a(?!b)": "look-around", r"(?<=a)b": "look-around", r"(?<!a)b": "look-around",
    r"(a)\1": "back references", r"(?P<x>a)(?P=x)": "back references", r"(?<x>a)\k<x>": "back references",
    r"\bword\b": "word boundaries", r"a\B": "word boundaries", r"(?i)a": "flags", r"(?i:a)": "flags", r"a(?s).": "flags",
    r"\Aa\Z": "write '^' or '$'", r"a++": "possessive", r"a*+": "possessive", r"(?>a)": "(?>",
    r"a^b": "'^' is only supported at the start", r"a$b": "'$' is only supported at the end", r"(a$)?": "'$' is only",
    r"(?#x)a": "(?#", r"\p{Script=Greek}": "the property 'Script=Greek'", r"(?(1)a|b)": "(?(",
}


@pytest.mark.parametrize("pattern", REFUSED)
@pytest.mark.parametrize("search", [False, True])
def test_refused(pattern, search):
    [answer] = languages.ask([{"regex": pattern, "search": search}])
    assert answer.get("code") == "unsupported" and REFUSED[pattern] in answer["error"], answer


@pytest.mark.parametrize("pattern", ["(", ")", "a)", "[a", "[]", "[^]", "*a", "a**", "a{2}{3}", "+", "a{3,2}", "a{1", "a{,3}", "a{1,x}",
                                     "[b-a]", r"[a-\d]", r"[\w-z]", "\\", r"\x1", r"\u12", r"\u{}", r"\u{110000}", r"\uD800", r"\q",
                                     r"\p", r"\p{L", "(?<1", "(?<>a)", "(?", "(?P", "^*", "a|*", r"\é", "(?P<a"])
def test_faults(pattern):
    [answer] = languages.ask([{"regex": pattern}])
    assert answer.get("code") == "invalid", answer
    assert re.match(r"character \d+: ", answer["error"])


@pytest.mark.parametrize("name", ["L", "Lu", "Ll", "Nd", "N", "P", "Zs", "Sc", "Letter", "gc=Lu", "General_Category=Number"])
def test_properties(name):
    """Against unicodedata, for characters that both versions of Unicode know."""
    short = {"Letter": "L", "gc=Lu": "Lu", "General_Category=Number": "N"}.get(name, name)
    rng = random.Random(SEED)
    texts = [chr(c) for c in [*range(1, 0x500), *(rng.randrange(0x500, 0x30000) for _ in range(2000))]
             if unicodedata.category(chr(c)) not in ("Cn", "Cs", "Co")]
    positive, negative, in_class = languages.ask([{"regex": p % name, "texts": texts} for p in (r"\p{%s}", r"\P{%s}", r"[^\P{%s}]")])
    expected = "".join("01"[unicodedata.category(t).startswith(short)] for t in texts)
    assert positive["accepted"] == expected == in_class["accepted"]
    assert negative["accepted"] == expected.translate({48: 49, 49: 48})


def test_white_space_in_dispute():
    """What only one of ECMA-262 and Python calls white space is matched neither by \\s nor by \\S."""
    texts = ["\x1c", "\x85", "\ufeff", "\u2003", "x"]
    answers = languages.ask([{"regex": p, "texts": texts} for p in (r"\s", r"\S", r"[\s]", r"[\S]", r"[^\S]", r"[^\s]")])
    assert [a["accepted"] for a in answers] == ["00010", "00001"] * 3


def test_limits():
    deep = "(" * 300 + "a" + ")" * 300
    for pattern, word in ((deep, "groups in each other"), ("a" * 70000, "bytes"), ("a{3000000000}", "repetition"),
                          ("(" * 60000, "groups in each other")):
        [answer] = languages.ask([{"regex": pattern}])
        assert answer.get("code") == "limit" and word in answer["error"], answer


@pytest.mark.parametrize("pattern", [r"(.*?,){11}P", r"(?:[^,]*,){3}[^,]*", r"(.+\n){3,}", r"(.*a){20}", r"(\w+\s?)+", r"(x+x+)+y"])
def test_many_ways_to_match(pattern):
    """However many ways there are to read a text, it can go on for as long as it likes."""
    texts = ["a,x \n" * 400, "ab" * 1000 + ",\n" * 12 + "Pxxy", "-" * 2000]
    [answer] = languages.ask([{"regex": pattern, "search": True, "texts": texts}])
    assert answer["alive"] == [len(text) for text in texts]
    assert answer["accepted"] == "".join("01"[bool(re.search(pattern, text))] for text in texts)
