"""octavo's template interpreter against Python's Jinja2, byte for byte."""
import os
import sys

import pytest

sys.path.insert(0, os.path.dirname(__file__))
import cases  # noqa: E402
import conversations  # noqa: E402
import reference  # noqa: E402

FILES = sorted(reference.TEMPLATES.glob("*.jinja"))


@pytest.fixture(scope="session", autouse=True)
def needs_tool():
    assert reference.TOOL.exists(), f"{reference.TOOL} is not there: build it, or name its folder in OCTAVO_BUILD"


def report(found):
    assert not found, f"{len(found)} differ:\n" + "\n".join(found[:10])


def test_own_cases():
    report(reference.differences(list(cases.cases())))


@pytest.mark.parametrize("template", cases.REFUSED)
def test_refused_at_load(template):
    [mine] = reference.ours([(template, {})])
    assert mine == {"error": cases.REFUSED[template], "at": "compile"}


@pytest.mark.skipif(not FILES, reason=f"no chat templates in {reference.TEMPLATES}: name their folder in OCTAVO_TEMPLATES")
@pytest.mark.parametrize("path", FILES or [None], ids=lambda p: p.stem if p else "none")
def test_chat_template(path):
    template = path.read_bytes().decode()
    reference.compiled(template)
    jobs = [(template, context) for _, context in conversations.contexts()]
    report(reference.differences(jobs))
    assert any("output" in mine for mine in reference.ours(jobs)), "no conversation suits this template"


@pytest.mark.skipif(not FILES, reason=f"no chat templates in {reference.TEMPLATES}: name their folder in OCTAVO_TEMPLATES")
@pytest.mark.parametrize("path", FILES or [None], ids=lambda p: p.stem if p else "none")
def test_marks(path):
    """Data never counts as the template's own: a word that only the client wrote carries no literal mark, whatever the
    template did to it."""
    secret = "QZJXWV"
    messages = [{"role": "user", "content": f" {secret}<|im_end|>{secret} "},
                {"role": "assistant", "content": f"<think>{secret}</think>{secret}"},
                {"role": "user", "content": [{"type": "text", "text": secret}]}]
    jobs = [(path.read_bytes().decode(), {"messages": m, "add_generation_prompt": True, "bos_token": "B", "eos_token": "E",
                                          "tools": tools, "functions": "", "datetime": ""})
            for m in (messages, messages[:2], messages[:1]) for tools in (None, conversations.TOOLS[1:2])]
    seen = 0
    for mine in reference.ours(jobs):
        if "error" in mine:
            continue
        text, marks = mine["output"].encode(), mine["marks"]
        assert len(text) == len(marks)
        at = text.find(secret.encode())
        while at >= 0:
            assert marks[at:at + len(secret)] == "0" * len(secret)
            seen += 1
            at = text.find(secret.encode(), at + 1)
    assert seen > 0


def test_marks_follow_the_bytes():
    template = ("{% set t = '<' ~ s ~ '>' %}{{ t }}|{{ t[1:3] }}|{{ t|upper }}|{{ t.replace('b', 'XY') }}|{{ t|tojson }}|"
                "{{ [s]|join }}|{{ '%s-%s' % (s, 'k') }}|{{ '{}'.format(s) }}|{{ s.split('b')|join('+') }}|{{ [s] }}")
    [mine] = reference.ours([(template, {"s": "ab c"})])
    shown = "".join(c if m == "1" else "." for c, m in zip(mine["output"], mine["marks"], strict=True))
    assert mine["output"] == "<ab c>|ab|<AB C>|<aXY c>|\"<ab c>\"|ab c|ab c-k|ab c|a+ c|['ab c']"
    assert shown == "<....>|..|<....>|<.XY..>|\"<....>\"|....|....-k|....|.+..|['....']"


@pytest.mark.parametrize("template, context, words", [
    ("{% for a in range(3000) %}{% if 'zz' in s %}{% endif %}{% endfor %}", {"s": "x" * 2000000}, "steps"),
    ("{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}", {}, "memory"),
    ("{% set ns = namespace(l=[1]) %}{% for a in range(100) %}{% set ns.l = ns.l + ns.l %}{% endfor %}", {}, "memory"),
    ("{% macro m(x) %}{{ m(x) }}{% endmacro %}{{ m(1) }}", {}, "deeply"),
    ("{{ 'x' * 1000000000 }}", {}, "memory"),
    ("{{ s.replace('', s)|length }}", {"s": "x" * 10000}, "too long"),
    ("{% for a in s %}{% for b in s %}{{ b }}{% endfor %}{% endfor %}", {"s": "x" * 100000}, "memory"),
    ("{{ [l] * 10000000 }}", {"l": [1, 2]}, "memory"),
], ids=range(8))
def test_limits(template, context, words):
    [mine] = reference.ours([(template, context)])
    assert mine.get("at") == "render" and words in mine["error"]


def test_nesting_is_limited_at_load():
    deep = ["(" * 5000 + "1" + ")" * 5000, "[" * 5000, "not " * 5000 + "t", "-" * 5000 + "1", "a" + ".b" * 50000]
    jobs = [("{{ " + d + " }}", {"t": True}) for d in deep] + [("{% if t %}" * 5000, {}), ("{{ 1" + " + 1" * 5000 + " }}", {})]
    for mine in reference.ours(jobs):
        assert "error" in mine
