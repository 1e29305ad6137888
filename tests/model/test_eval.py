"""`octavo eval` on a tiny random model: its figures against NumPy on the logits of each cache, its task, its errors."""
import json
import os
import pathlib
import random
import subprocess

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("OCTAVO_BUILD", ROOT / "build/release")).absolute()
OCTAVO = pathlib.Path(os.environ.get("OCTAVO_BIN", BUILD / "octavo")).absolute()
CTX, WINDOWS = 320, 2

pytestmark = pytest.mark.skipif(not OCTAVO.exists(), reason=f"{OCTAVO} is not built")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("eval") / "tiny.gguf"
    subprocess.run([BUILD / "tiny", path, "layers=2"], check=True)
    words = random.Random(3)
    text = " ".join("".join(words.choices("abcdefghijklmnop", k=words.randint(1, 9))) for _ in range(400))
    path.with_name("text").write_text(text)
    return path


def run(*arguments, code=0):
    done = subprocess.run([OCTAVO, "eval", *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


def rows(*arguments):
    return [json.loads(line) for line in run(*arguments, "--no-calibration", "--json").splitlines()]


def logits(model, cache, ids, recent):
    done = subprocess.run([BUILD / "logits", model, cache, "64", str(recent)], check=True, capture_output=True,
                          input="\n".join(map(str, ids)).encode())
    return np.frombuffer(done.stdout, np.float32).reshape(len(ids), -1).astype(float)


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def test_figures(model):
    text = model.with_name("text")
    ids = subprocess.run([BUILD / "tokenize", model], check=True, capture_output=True, input=text.read_bytes())
    ids = np.array(ids.stdout.split(), int)
    formats, recent = ["f16", "o2", "k4v1.5", "rotatekv"], 2
    found = rows(model, "--text", text, "--ctx", CTX, "--windows", WINDOWS, "--kv-format", ",".join(formats),
                 "--kv-recent", recent)
    assert [row["format"] for row in found] == formats
    per_cache = {"base": [], **{name: [] for name in formats}}
    next_ids = []
    for w in range(WINDOWS):
        window = ids[w * CTX : (w + 1) * CTX]
        next_ids += list(window[1:])
        for name in per_cache:
            per_cache[name].append(log_softmax(logits(model, "f16" if name == "base" else name, window, recent)[:-1]))
    per_cache = {name: np.concatenate(x) for name, x in per_cache.items()}
    base, at = per_cache["base"], np.arange(len(next_ids))
    for row in found:
        other = per_cache[row["format"]]
        kl = (np.exp(base) * (base - other)).sum(-1)
        assert row["base_ppl"] == pytest.approx(np.exp(-base[at, next_ids].mean()), rel=1e-6)
        assert row["ppl"] == pytest.approx(np.exp(-other[at, next_ids].mean()), rel=1e-6)
        assert row["kl"] == pytest.approx(kl.mean(), abs=1e-6)
        assert row["kl99"] == pytest.approx(np.sort(kl)[int(0.99 * (len(kl) - 1))], abs=2e-5)
        assert row["top1"] == pytest.approx((base.argmax(-1) == other.argmax(-1)).mean(), abs=1e-5)
        assert (row["ctx"], row["windows"], row["recent"], row["rule"]) == (CTX, WINDOWS, recent, "block")
    assert found[0]["kl"] == 0 and found[0]["top1"] == 1 and found[0]["bits"] == 16
    assert all(0 < row["kl"] < 1 and row["bits"] < 16 for row in found[1:])


def test_several_recents(model):
    """A row for each pair, the same as when they are compared alone; f16 and rotatekv know no recent blocks."""
    arguments = [model, "--text", model.with_name("text"), "--ctx", CTX, "--windows", 1]
    together = rows(*arguments, "--kv-format", "f16,o2,rotatekv", "--kv-recent", "0,2")
    assert [(row["format"], row["recent"]) for row in together] == [("f16", 0), ("o2", 0), ("o2", 2), ("rotatekv", 0)]
    for row in together[1:3]:
        assert rows(*arguments, "--kv-format", "o2", "--kv-recent", row["recent"]) == [row]
    assert together[1]["kl"] > together[2]["kl"] and together[1]["bits"] < together[2]["bits"]


def test_rule_all(model):
    """More is coded than by blocks, so more is lost; f16 loses nothing; more bits lose less."""
    arguments = [model, "--text", model.with_name("text"), "--ctx", CTX, "--windows", 1,
                 "--kv-format", "f16,o8,o2,rotatekv"]
    block = {row["format"]: row["kl"] for row in rows(*arguments, "--kv-recent", 0)}
    found = {row["format"]: row for row in rows(*arguments, "--rule", "all")}
    assert found["f16"]["kl"] == 0
    assert 0 < found["o8"]["kl"] < found["o2"]["kl"] / 10
    assert found["o2"]["kl"] > 1.5 * block["o2"] and found["rotatekv"]["kl"] > 1.5 * block["rotatekv"]
    assert all(row["rule"] == "all" and row["recent"] == 0 for row in found.values())


@pytest.fixture(scope="module")
def problems(model):
    path = model.with_name("problems.jsonl")
    numbers = random.Random(5)
    with open(path, "w") as file:
        for i in range(5):
            a, b = numbers.randint(1, 5000), numbers.randint(1, 5000)
            json.dump({"question": f"Ann has {a} and gets {b}. How many?", "answer": f"{a}+{b}\n#### {a + b:,}"}, file)
            file.write("\n")
    return path


@pytest.mark.parametrize("style", [["--shots", "2"], ["--shots", "0"], ["--chat"]])
def test_task(model, problems, style, tmp_path):
    """A random model solves nothing, but whatever it writes does not depend on what is beside it."""
    details = []
    for parallel in 1, 7:
        found = rows(model, "--task", "gsm8k", "--data", problems, "--kv-format", "f16,o2,rotatekv", "--max-tokens", 90,
                     "--kv-recent", 1, "--parallel", parallel, "--details", tmp_path / "details", *style)
        details.append([json.loads(line) for line in (tmp_path / "details").read_text().splitlines()])
    assert details[0] == details[1]
    assert [(d["problem"], d["format"]) for d in details[0]] == [(p, f) for p in range(5)
                                                                  for f in ("f16", "f16", "o2", "rotatekv")]
    outcome = {f: [d for d in details[0][i::4]] for i, f in [(0, "base"), (1, "f16"), (2, "o2"), (3, "rotatekv")]}
    assert [d["text"] for d in outcome["base"]] == [d["text"] for d in outcome["f16"]]
    assert any(d["tokens"] > 64 for d in details[0])
    for row in found:
        correct = [d["correct"] for d in outcome[row["format"]]]
        base = [d["correct"] for d in outcome["base"]]
        assert row["correct"] == sum(correct) and row["accuracy"] == sum(correct) / 5
        assert row["lost"] == sum(b and not c for b, c in zip(base, correct))
        assert row["gained"] == sum(c and not b for b, c in zip(base, correct))
        assert row["problems"] == 5 and row["recent"] == 1
    for d in details[0]:
        assert d["correct"] == (d["answer"] is not None and abs(d["answer"] - d["expected"]) < 1e-3)


@pytest.fixture(scope="module")
def questions(model):
    """Questions of two kinds, long enough that the first blocks are coded before an answer is read."""
    words = random.Random(8)

    def text(n):
        return " ".join("".join(words.choices("abcdefghé", k=words.randint(1, 6))) for _ in range(n))
    path = model.with_name("questions.jsonl")
    with open(path, "w") as file:
        for i in range(7):
            n = words.randint(2, 4)
            json.dump({"context" if i % 3 == 2 else "question": text(9 + 12 * (i % 2)),
                       "choices": [text(1 + (i + k) % 3 * 4) for k in range(n)], "answer": words.randrange(n)}, file)
            file.write("\n\n" if i == 4 else "\n")
    return path


@pytest.mark.parametrize("shots", [0, 2])
def test_choices(model, questions, shots, tmp_path):
    """Log-likelihoods against NumPy on the logits of each context and choice alone; what follows from them."""
    formats, details = ["f16", "o2", "k4v1.5"], tmp_path / "details"
    found = rows(model, "--task", "choices", "--data", questions, "--kv-format", ",".join(formats), "--kv-recent", 0,
                 "--shots", shots, "--details", details)
    details = [json.loads(line) for line in details.read_text().splitlines()]

    def ids(text):
        done = subprocess.run([BUILD / "tokenize", model, "--bos"], check=True, capture_output=True, input=text.encode())
        return [int(n) for n in done.stdout.split()]

    items = [json.loads(line) for line in questions.read_text().splitlines() if line]
    contexts = [f"Question: {item['question']}\nAnswer:" if "question" in item else item["context"] for item in items]
    examples = "".join(f"{context} {item['choices'][item['answer']]}\n\n" for item, context in
                       list(zip(items, contexts))[:shots])
    asked = list(zip(items, contexts))[shots:]
    assert [(d["problem"], d["format"]) for d in details] == [(q, f) for q in range(len(asked)) for f in ["f16", *formats]]
    for (item, context), d in ((asked[d["problem"]], d) for d in details):
        n = len(ids(examples + context))
        assert d["tokens"] == n and d["expected"] == item["answer"] and len(d["logprobs"]) == len(item["choices"])
        for choice, logprob in zip(item["choices"], d["logprobs"]):
            whole = ids(f"{examples}{context} {choice}")
            after = log_softmax(logits(model, d["format"], whole, 0))[n - 1:-1]
            assert logprob == pytest.approx(after[np.arange(len(after)), whole[n:]].sum(), abs=1e-4)
        assert d["answer"] == np.argmax(d["logprobs"])
        assert d["answer_norm"] == np.argmax(np.array(d["logprobs"]) / [len(c) for c in item["choices"]])
    assert max(d["tokens"] for d in details) > 64
    base = details[::len(formats) + 1]
    for i, row in enumerate(found):
        assert row["format"] == formats[i] and row["problems"] == len(asked) and row["shots"] == shots
        mine = details[i + 1::len(formats) + 1]
        assert (mine[0]["logprobs"] == base[0]["logprobs"]) == (row["format"] == "f16")
        for end in "", "_norm":
            right = [d["answer" + end] == d["expected"] for d in mine]
            there = [d["answer" + end] == d["expected"] for d in base]
            assert row["correct" + end] == sum(right) and row["accuracy" + end] == pytest.approx(np.mean(right), abs=1e-5)
            assert row["base_accuracy" + end] == pytest.approx(np.mean(there), abs=1e-5)
            assert row["lost" + end] == sum(t and not r for t, r in zip(there, right))
            assert row["gained" + end] == sum(r and not t for t, r in zip(there, right))
            assert row["changed" + end] == sum(a["answer" + end] != b["answer" + end] for a, b in zip(mine, base))


def test_choices_limit(model, questions):
    arguments = [model, "--task", "choices", "--data", questions, "--shots", 1]
    assert [line.split()[0] for line in run(*arguments, "--no-calibration", "--limit", 3).splitlines()] == ["format", "f16", "o2"]
    assert [row["problems"] for row in rows(*arguments, "--limit", 3)] == [3]


@pytest.mark.parametrize("line, message", [
    ("[]", "question"), ("{}", "question"), ('{"question": "q", "context": "c", "choices": ["a", "b"], "answer": 0}', "one of"),
    ('{"question": "", "choices": ["a", "b"], "answer": 0}', "one of"),
    ('{"context": "c ", "choices": ["a", "b"], "answer": 0}', "white space"),
    ('{"question": "q", "answer": 0}', '"choices"'), ('{"question": "q", "choices": ["a"], "answer": 0}', "2 to 26"),
    ('{"question": "q", "choices": ["a", ""], "answer": 0}', "with text"),
    ('{"question": "q", "choices": ["a", 1], "answer": 0}', "with text"),
    ('{"question": "q", "choices": ["a", "b"]}', "from 0 to 1"), ('{"question": "q", "choices": ["a", "b"], "answer": 2}', "from 0 to 1"),
    ('{"question": "q", "choices": ["a", "b"], "answer": "b"}', "from 0 to 1"), ('{"question"', "line 2"),
])
def test_choices_faults(model, tmp_path, line, message):
    data = tmp_path / "questions.jsonl"
    data.write_text('{"question": "q", "choices": ["a", "b"], "answer": 0}\n' + line)
    found = run(model, "--task", "choices", "--data", data, "--shots", 0, code=1)
    assert "line 2: " in found and message in found


def test_limit_and_output(model, problems):
    text = run(model, "--task", "gsm8k", "--data", problems, "--limit", 1, "--shots", 0, "--max-tokens", 2,
               "--no-calibration", "--kv-format", "o2")
    assert [line.split()[0] for line in text.splitlines()] == ["format", "f16", "o2"]
    text = run(model, "--text", model.with_name("text"), "--ctx", 64, "--windows", 1, "--no-calibration")
    assert [line.split()[0] for line in text.splitlines()] == ["format", "f16", "o2"]


def test_help():
    assert "--rule" in run("--help")


TEXT, TASK = ["--text", "TEXT"], ["--task", "gsm8k", "--data", "PROBLEMS"]
CHOICES = ["--task", "choices", "--data", "QUESTIONS"]
USAGE = [
    ([], "one of --text FILE and --task NAME"),
    (TEXT + TASK, "not both"),
    (TEXT + ["--limit", "3"], "--limit goes with --task"),
    (TASK + ["--ctx", "64"], "--ctx goes with --text"),
    (["--task", "gsm8k"], "--data FILE"),
    (["--task", "gsm9k"], "gsm8k"),
    (TEXT + ["--windws", "1"], "did you mean '--windows'"),
    (TEXT + ["--ctx", "1"], "--ctx"),
    (TEXT + ["--ctx", "4096k"], "4096k"),
    (TEXT + ["--kv-format", "o2,o5"], "'o5'"),
    (TEXT + ["--kv-format", "o2,o2"], "'o2'"),
    (TEXT + ["--kv-format", ""], "empty"),
    (TEXT + ["--rule", "all", "--ctx", "100"], "multiple of 64"),
    (TEXT + ["--rule", "all", "--kv-recent", "2"], "--kv-recent"),
    (TEXT + ["--kv-recent", "1,,2"], "'1,,2'"),
    (TEXT + ["--kv-recent", "-1"], "'-1'"),
    (TEXT + ["--kv-recent", "0,99999999999999999999"], "whole numbers"),
    (TEXT + ["--kv-recent", "0,1,2,3,4,5,6,7,8"], "more than 8"),
    (TEXT + ["--kv-recent", "0,1,2,3,4,5,6,7", "--kv-format", "o2,o3,o4"], "more than 16"),
    (TEXT + ["--calibration", "x", "--no-calibration"], "contradict"),
    (TEXT + ["--ctx", "4096"], "fewer than one window"),
    (TEXT + ["--ctx", "64", "--windows", "999"], "--windows 999"),
    (TASK + ["--shots", "9"], "--shots"),
    (TASK + ["--chat", "--shots", "2"], "--chat"),
    (TASK + ["--max-tokens", "65000"], "context"),
    (TEXT + ["second"], "second"),
    (CHOICES + ["--max-tokens", "3"], "--max-tokens goes with --task gsm8k"),
    (CHOICES + ["--chat"], "--chat goes with --task gsm8k"),
    (CHOICES + ["--windows", "1"], "--windows goes with --text"),
    (CHOICES + ["--shots", "7"], "no more problems"),
]
FAILED = [
    (["--text", "/nowhere/text"], "--text: /nowhere/text: No such file"),
    (["--text", "/"], "directory"),
    (TASK[:2] + ["--data", "TEXT"], "line 1"),
    (TASK[:2] + ["--data", "/nowhere/p"], "--data: /nowhere/p"),
    (TASK + ["--details", "/nowhere/d"], "--details: /nowhere/d"),
    (TEXT + ["--ctx", "64", "--calibration", "TEXT"], "not an octavo calibration"),
]


@pytest.mark.parametrize("arguments, message, code",
                         [(*case, 2) for case in USAGE] + [(*case, 1) for case in FAILED])
def test_errors(model, problems, questions, arguments, message, code):
    names = {"TEXT": model.with_name("text"), "PROBLEMS": problems, "QUESTIONS": questions}
    found = run(model, *[names.get(argument, argument) for argument in arguments], code=code)
    assert found.splitlines()[-1].startswith("octavo eval: ") and message in found


def test_model_errors(tmp_path):
    assert "No such file" in run(tmp_path / "none.gguf", "--text", "x", code=1)
    (tmp_path / "text").write_text("not a model at all")
    run(tmp_path / "text", "--text", "x", code=1)
    assert "no model is named" in run("--text", "x", code=2)
