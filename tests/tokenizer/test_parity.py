"""octavo's token ids against Hugging Face's tokenizers, id for id.

Models are looked for in $OCTAVO_MODELS (default: models/), WikiText-2's test split in $OCTAVO_WIKITEXT (default:
shared/data/wiki.test.raw), the built programs in $OCTAVO_BUILD (default: build/release).
"""
import functools
import os
import pathlib
import random
import subprocess
import sys
import sysconfig
import unicodedata

import gguf
import pytest

sys.path.insert(0, os.path.dirname(__file__))
import judge  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODELS = pathlib.Path(os.environ.get("OCTAVO_MODELS", ROOT / "models"))
WIKITEXT = pathlib.Path(os.environ.get("OCTAVO_WIKITEXT", ROOT / "shared/data/wiki.test.raw"))
TOKENIZE = pathlib.Path(os.environ.get("OCTAVO_BUILD", ROOT / "build/release")) / "tokenize"
HOSTILE = (ROOT / "tests/data/hostile.txt").read_bytes().decode()


class Ours:
    """The tool `tokenize` on one model file."""

    def __init__(self, path):
        self.path = str(path)

    def run(self, data, *flags):
        return subprocess.run([TOKENIZE, self.path, *flags], input=data, stdout=subprocess.PIPE, check=True).stdout

    def encode(self, text, special=True):
        flags = ["--special"] if special else []
        return [int(line) for line in self.run(text.encode(), *flags).split()]

    def encode_many(self, texts, special=True):
        """Texts without NUL."""
        flags = ["--many", "--special"] if special else ["--many"]
        out = self.run("\0".join(texts).encode(), *flags).decode()
        lists, ids = [], []
        for line in out.split("\n")[:-1]:
            if line:
                ids.append(int(line))
            else:
                lists.append(ids)
                ids = []
        return lists + [ids]

    def decode(self, ids):
        return self.run("\n".join(map(str, ids)).encode(), "--decode")


def write_with_pre(vocabulary, pre, path):
    """A GGUF file with this vocabulary and another pre-tokenizer."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    writer.add_token_merges(vocabulary.merges)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


read_vocabulary = functools.lru_cache(judge.Vocabulary)


@pytest.fixture(scope="module", params=["smollm2", "qwen05", "smollm2 as gpt-2", "qwen05 as llama-bpe"])
def pair(request, tmp_path_factory):
    """(octavo's tokenizer, Hugging Face's) of a model, or of its vocabulary under another pre-tokenizer."""
    model, _, pre = request.param.partition(" as ")
    path = MODELS / f"{model}.gguf"
    if not path.exists():
        pytest.skip(f"{path} is missing")
    vocabulary = read_vocabulary(path)
    if pre:
        path = tmp_path_factory.mktemp("gguf") / f"{pre}.gguf"
        write_with_pre(vocabulary, pre, path)
    return Ours(path), judge.judge(vocabulary, pre)


def reference(tokenizer, texts):
    return [encoding.ids for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]


def assert_same(ours, theirs, texts):
    for text, mine, reference_ids in zip(texts, ours, theirs, strict=True):
        if mine == reference_ids:
            continue
        at = next((i for i, (a, b) in enumerate(zip(mine, reference_ids)) if a != b), min(len(mine), len(reference_ids)))
        pytest.fail(
            f"token {at} differs: ours {mine[at : at + 5]}, Hugging Face's {reference_ids[at : at + 5]}, "
            f"in {text[:200]!r}"
        )


def assert_parity(pair, texts):
    ours, tokenizer = pair
    assert_same(ours.encode_many(texts), reference(tokenizer, texts), texts)


def test_wikitext(pair):
    if not WIKITEXT.exists():
        pytest.skip(f"{WIKITEXT} is missing")
    assert_parity(pair, [WIKITEXT.read_bytes().decode()])


def test_source_code(pair):
    """This repository and the modules of Python's standard library."""
    paths = [path for folder in ("config", "kernels", "cache", "model", "server", "tests", "docs")
             for path in sorted((ROOT / folder).rglob("*")) if path.is_file()]
    paths += sorted(pathlib.Path(sysconfig.get_path("stdlib")).glob("*.py"))
    texts = []
    for path in paths:
        try:
            text = path.read_bytes().decode()
        except (UnicodeDecodeError, OSError):
            continue
        if "\0" not in text:
            texts.append(text)
    assert len(texts) > 100
    assert_parity(pair, texts)


def test_hostile_page(pair):
    ours, tokenizer = pair
    assert "\0" in HOSTILE
    assert_same([ours.encode(HOSTILE)], reference(tokenizer, [HOSTILE]), [HOSTILE])
    assert_parity(pair, HOSTILE.replace("\0", "\n").split("\n"))


def code_points():
    """Every code point of planes 0 to 3 and 14 but surrogates and NUL; of the others, where nothing but private use
    is assigned, every 257th."""
    for plane in range(17):
        step = 1 if plane in (0, 1, 2, 3, 14) else 257
        for point in range(plane << 16, (plane + 1) << 16, step):
            if not 0xD800 <= point < 0xE000 and point != 0:
                yield chr(point)


def test_every_code_point(pair):
    """Each one among letters, digits, spaces and apostrophes: its class decides where words end."""
    around = [f"{c}a {c}1'{c} \n {c}|" for c in code_points()]
    assert_parity(pair, ["".join(around[i : i + 16]) for i in range(0, len(around), 16)])


POOLS = [
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "0123456789",
    " \t\n\r\u00a0\u2028\u3000\u0085",
    "'.,;:!?-_()[]{}<>|/\\\"#$%&*+=@^`~",
    "\u0300\u0301\u0302\u0308\u0323\u0327\u0338\u0345\u08d3\u1df6\u05b0\u05c1\u0651\u064e\u093c\u3099\u302a\U0001d165\U0001d16e",
    "\u1100\u1161\u11a8\uac00\uac01\u0915\u0958\u212b\u2126\u1e69\u00e9\u0344\u0374\u037e\u1fee\uf900\u0dcf\u0dd9\u09be\u09c7",
    "\u0660\u0966\u2167\u00bd\u00b2\u2460\uff11\U0001d7ce",
    "\u05d0\u0628\u4e2d\u3042\u30a2\u0434\u03b1\u0e01",
    "\u200d\u200b\u2060\ufeff\u180e\ufe0f\u202e\U0001f469\U0001f3fd\U0001f1e9\U0001f525",
]
WORDS = ["'s", "'LL", "n't", "'\u017f", "<|im_start|>", "<|im_end|>", "<tool_call>", "<|endoftext|>", "<|im_", "\r\n", "    "]


def test_random_mixtures(pair):
    rng = random.Random(20261124)
    everything = list(code_points())
    texts = []
    for _ in range(6000):
        parts = []
        for _ in range(rng.randint(1, 40)):
            kind = rng.random()
            if kind < 0.08:
                parts.append(rng.choice(everything))
            elif kind < 0.16:
                parts.append(rng.choice(WORDS))
            else:
                parts.append(rng.choice(rng.choice(POOLS)) * rng.choice([1, 1, 1, 1, 2, 3]))
        texts.append("".join(parts))
    assert_parity(pair, texts)


def test_decomposed_characters(pair):
    """The canonical decomposition of every character, alone and with a mark between; every combining mark between
    marks of low and high class."""
    texts = []
    for c in code_points():
        decomposed = unicodedata.normalize("NFD", c)
        if decomposed != c:
            texts += [f"x{decomposed}y", f"{decomposed[0]}\u0327{decomposed[1:]}", f"{decomposed}\u0301\u0323"]
        if unicodedata.combining(c):
            texts += [f"a{c}\u0301\u0334", f"e\u0345{c}\u0323", f"\u09c7{c}\u09be"]
    assert len(texts) > 30000
    assert_parity(pair, texts)


def test_long_words(pair):
    rng = random.Random(7)
    texts = [
        "a" * 100_000,
        "ab" * 30_000,
        " " * 50_000 + "x",
        "\n" * 50_000,
        "".join(rng.choice("abcdefgh") for _ in range(50_000)),
        "".join(rng.choice("\u0301\u0323\u0327\u0338\u05b0") for _ in range(20_000)),
        "".join(rng.choice("=-_*") for _ in range(20_000)),
        "\u4e2d\u6587" * 10_000,
    ] + ["".join(rng.choice("aeioustn") for _ in range(n)) for n in range(1, 90)]
    assert_parity(pair, texts)


def test_control_tokens_are_text_unless_asked(pair):
    """Without parse_special what looks like a control token is ordinary text: the judge is the same tokenizer without
    its control tokens."""
    ours, tokenizer = pair
    text = "<|im_start|>user\nhi <|im_end|><|endoftext|>"
    plain = ours.encode(text, special=False)
    control = {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    assert control & set(ours.encode(text, special=True))
    assert not control & set(plain)
    assert ours.decode(plain).decode() == text
    ids = []
    for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text):
        ids += [token.id for token in tokenizer.model.tokenize(piece)]
    assert plain == ids


def test_decoding(pair):
    """Text comes back (in NFC where the model wants it), and any ids decode as Python decodes their bytes."""
    ours, tokenizer = pair
    for text in [HOSTILE.replace("\0", ""), "plain text\n"]:
        ids = ours.encode(text)
        assert ours.decode(ids).decode() == tokenizer.decode(ids, skip_special_tokens=False)
    rng = random.Random(5)
    size = tokenizer.get_vocab_size(with_added_tokens=False)
    for _ in range(5):
        ids = [rng.randrange(size) for _ in range(4000)]
        assert ours.decode(ids).decode() == tokenizer.decode(ids, skip_special_tokens=False)


def byte_of_character():
    """GPT-2's alphabet, the other way round."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    characters = {chr(b): b for b in printable}
    others = [b for b in range(256) if b not in printable]
    return characters | {chr(0x100 + i): b for i, b in enumerate(others)}


def test_replacement_is_pythons(pair):
    """Tokens that are single bytes, in random order: mostly invalid UTF-8."""
    ours, tokenizer = pair
    alphabet = byte_of_character()
    bytes_of = {i: alphabet[t] for t, i in tokenizer.get_vocab().items() if len(t) == 1 and t in alphabet}
    rng = random.Random(9)
    leads = [i for i, b in bytes_of.items() if b >= 0xC2]
    tails = [i for i, b in bytes_of.items() if 0x80 <= b < 0xC0]
    ids = [rng.choice(rng.choice([leads, tails, tails, list(bytes_of)])) for _ in range(20_000)]
    expected = bytes(bytes_of[i] for i in ids).decode("utf-8", "replace")
    assert ours.decode(ids).decode() == expected


def test_invalid_bytes_are_kept(pair):
    """Bytes that are not UTF-8 become their own tokens and come back (those that the vocabulary has)."""
    ours, tokenizer = pair
    alphabet = byte_of_character()
    known = {alphabet[t] for t in tokenizer.get_vocab() if len(t) == 1 and t in alphabet}
    data = bytes(b for b in b"ok \xff\xfe caf\xe9 \xe4\xbd \xed\xa0\x80 \xf0\x9f\x98 end\xc3" if b in known)
    ids = [int(line) for line in ours.run(data).split()]
    assert ours.decode(ids).decode() == data.decode("utf-8", "replace")
