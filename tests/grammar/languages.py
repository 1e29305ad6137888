"""Random regular languages, written as octavo's pattern, as Python's and as GBNF; and the tool that knows what octavo's
grammars accept.

The built programs are looked for in $OCTAVO_BUILD (default: build/release), sample grammars (*.gbnf) in
$OCTAVO_GRAMMARS (default: grammars/ in $OCTAVO_MODELS): any folder of such files, as vendor/llama.cpp/grammars of the PyPI sdist of
llama-cpp-python.
"""
import json
import os
import pathlib
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOOL = pathlib.Path(os.environ.get("OCTAVO_BUILD", ROOT / "build/release")) / "grammar"
MODELS = pathlib.Path(os.environ.get("OCTAVO_MODELS", ROOT / "models"))
GRAMMARS = pathlib.Path(os.environ.get("OCTAVO_GRAMMARS", MODELS / "grammars"))


def ask(jobs):
    """The tool's answers, a dict for each job (tests/tools/grammar.c says of what)."""
    assert TOOL.exists(), f"{TOOL} is not there: build it, or name its folder in OCTAVO_BUILD"
    lines = "".join(json.dumps(job) + "\n" for job in jobs)
    done = subprocess.run([TOOL], input=lines.encode(), stdout=subprocess.PIPE, check=True)
    answers = [json.loads(line) for line in done.stdout.split(b"\n")[:-1]]
    assert len(answers) == len(jobs)
    return answers


# --- A language as a tree of tuples ---

LETTERS = ["a", "b", "c", "-", "é", "漢", "😀", " ", "\n", '"', "\\", "/", "0", "_", "]", "^", "\t", "\x01"]
# Classes as items of a class: in GBNF, and in Python's re with octavo's meaning of them.
CLASSES = {r"\d": "0-9", r"\w": "0-9A-Z_a-z", r"\s": " \\t\\n\\r\\x0B\\x0C"}
PYTHON = {r"\d": "0-9", r"\w": "0-9A-Z_a-z", r"\s": r"\s"}


def random_set(rng, letters):
    """A class: items are letters, ranges of letters and names of classes."""
    items = []
    for _ in range(rng.randint(1, 3)):
        kind = rng.random()
        if kind < 0.6:
            items.append(rng.choice(letters))
        elif kind < 0.8:
            items.append(tuple(sorted(rng.choices(letters, k=2))))
        else:
            items.append(rng.choice(list(CLASSES)))
    return ("set", rng.random() < 0.3, items)


def random_tree(rng, depth=3, letters=LETTERS, anchors=False):
    kind = rng.random()
    if anchors and kind < 0.12:
        return ("anchor", rng.choice("^$"))
    if depth == 0 or kind < 0.3:
        kind = rng.random()
        if kind < 0.75:
            return ("letter", rng.choice(letters))
        return ("any",) if kind < 0.8 else random_set(rng, letters)
    if kind < 0.6:
        return ("sequence", [random_tree(rng, depth - 1, letters, anchors) for _ in range(rng.randint(0, 4))])
    if kind < 0.8:
        return ("choice", [random_tree(rng, depth - 1, letters, anchors) for _ in range(rng.randint(2, 3))])
    low = rng.randint(0, 3)
    bounds = rng.choice([(0, None), (1, None), (0, 1), (low, low), (low, None), (low, low + rng.randint(0, 3))])
    return ("repeat", random_tree(rng, depth - 1, letters), *bounds)


def quantifier(low, high, rng=None):
    shorts = {(0, None): "*", (1, None): "+", (0, 1): "?"}
    text = shorts.get((low, high))
    if text is None or (rng and rng.random() < 0.2):
        text = "{%d}" % low if low == high else "{%d,%s}" % (low, "" if high is None else high)
    return text


# --- As a pattern ---

def pattern_letter(letter, in_class, rng=None):
    code = ord(letter)
    if rng and rng.random() < 0.15:
        return "\\u%04x" % code if code < 0x10000 else "\\u{%X}" % code
    if rng and code < 0x100 and rng.random() < 0.1:
        return "\\x%02X" % code
    special = "]\\^-[" if in_class else ".^$*+?()[]{}|\\/"
    return "\\" + letter if letter in special else letter


def pattern(tree, rng=None, python=None):
    """octavo's pattern, spelled in one of many ways when rng is there; or Python's of the same meaning, with these
    classes."""
    kind = tree[0]
    if python:
        rng = None
    if kind == "letter":
        return pattern_letter(tree[1], False, rng)
    if kind == "any":
        return "[^\\n\\r\u2028\u2029]" if python else "."
    if kind == "anchor":
        return "\\Z" if python and tree[1] == "$" else tree[1]
    if kind == "set":
        items = []
        for item in tree[2]:
            if isinstance(item, tuple):
                items.append("-".join(pattern_letter(c, True, rng) for c in item))
            else:
                items.append((python or {}).get(item, item) if item in CLASSES else pattern_letter(item, True, rng))
        if len(items) == 1 and items[0] in CLASSES and rng and rng.random() < 0.7:
            return items[0].upper() if tree[1] else items[0]
        return "[" + "^" * tree[1] + "".join(items) + "]"
    if kind == "sequence":
        return "".join(pattern(t, rng, python) if t[0] != "choice" else group(t, rng, python) for t in tree[1])
    if kind == "choice":
        return "|".join(pattern(t, rng, python) for t in tree[1])
    inner = pattern(tree[1], rng, python)
    if tree[1][0] not in ("letter", "any", "set"):
        inner = group(tree[1], rng, python)
    lazy = "?" if rng and rng.random() < 0.2 else ""
    return inner + quantifier(tree[2], tree[3], rng) + lazy


def group(tree, rng, python):
    opening = rng.choice(["(", "(?:"]) if rng else "(?:"
    return opening + pattern(tree, rng, python) + ")"


# --- As GBNF ---

def gbnf_letter(letter, in_class, rng):
    code = ord(letter)
    names = {"\n": "\\n", "\t": "\\t", "\r": "\\r", "\\": "\\\\"}
    if letter in names:
        return names[letter]
    if rng.random() < 0.15:
        return "\\x%02x" % code if code < 0x100 else "\\u%04X" % code if code < 0x10000 else "\\U%08x" % code
    if code < 0x20:
        return "\\x%02X" % code
    return "\\" + letter if letter in ("]^-[" if in_class else '"') and letter != "^" else letter


class Gbnf:
    """A tree as a grammar: some of its parts become rules of their own."""

    def __init__(self, tree, rng):
        self.rng = rng
        self.rules = []
        root = self.alternatives(tree)
        lines = [f"root ::= {root}"] + self.rules
        head, rest = lines[0], lines[1:]
        rng.shuffle(rest)
        lines = rest[:1] + [head] + rest[1:]
        self.text = rng.choice(["\n", "\r\n", "\n\n# a comment\n  "]).join(lines) + rng.choice(["", "\n", " # end"])

    def space(self, nested=True):
        return self.rng.choice([" ", " ", "\t ", "  # why\n  ", "\n"]) if nested and self.depth else " "

    depth = 0

    def alternatives(self, tree):
        if tree[0] == "choice":
            bar = self.rng.choice([" | ", "|", " |\n  ", "\n  | "])
            return bar.join(self.sequence(t) for t in tree[1])
        return self.sequence(tree)

    def sequence(self, tree):
        if tree[0] == "sequence":
            # An empty end of a rule would go on over the newline.
            return self.space().join(self.element(t) for t in tree[1]) or '""'
        return self.element(tree)

    def element(self, tree):
        rng, kind = self.rng, tree[0]
        if kind not in ("letter", "any", "set") and rng.random() < 0.3:
            depth, self.depth = self.depth, 0
            name = f"rule-{len(self.rules)}"
            self.rules.append(None)
            index = len(self.rules) - 1
            self.rules[index] = f"{name} ::= {self.alternatives(tree)}"
            self.depth = depth
            return name
        if kind == "letter":
            return '"' + gbnf_letter(tree[1], False, rng) + '"'
        if kind == "any":
            return "."
        if kind == "set":
            items = []
            for item in tree[2]:
                if isinstance(item, tuple):
                    items.append("-".join(gbnf_letter(c, True, rng) for c in item))
                else:
                    items.append(CLASSES.get(item) or gbnf_letter(item, True, rng))
            text = "".join(items)
            if text.startswith("^"):
                text = "\\x5e" + text[1:]
            return "[" + "^" * tree[1] + text + "]"
        if kind == "repeat":
            return self.element(tree[1]) + quantifier(tree[2], tree[3], rng)
        self.depth += 1
        text = "(" + self.alternatives(tree) + ")"
        self.depth -= 1
        return text


# --- Texts ---

def random_text(rng, letters=LETTERS, most=6):
    return "".join(rng.choices(letters, k=rng.randint(0, most)))
