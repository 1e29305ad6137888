"""Hugging Face tokenizers made from a GGUF file's vocabulary and merges: the judges of octavo's tokenizer.

Normalizer, pre-tokenizer and model settings are those of the models' own tokenizer.json: SmolLM2's has no
normalizer, Digits (individual) and ByteLevel with its regex, BPE without unk_token; Qwen2's has NFC, a Split by
regex and ByteLevel without regex (the same is in transformers' models/qwen2/tokenization_qwen2.py); Llama 3's
is a Split by regex, ByteLevel, and BPE with ignore_merges; GPT-2's is ByteLevel with its regex.
"""
from gguf import GGUFReader
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 1, 2, 3, 4, 5

QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3 = QWEN2.replace(r"\p{N}|", r"\p{N}{1,3}|", 1)


def _split(pattern):
    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated", invert=False)
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _pre_tokenizer(pre):
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    return {
        "gpt-2": gpt2,
        "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), gpt2]),
        "qwen2": _split(QWEN2),
        "llama-bpe": _split(LLAMA3),
    }[pre]


class Vocabulary:
    """What a GGUF file says about its tokenizer."""

    def __init__(self, path):
        fields = GGUFReader(path).fields
        strings = lambda key: [bytes(fields[key].parts[i]).decode() for i in fields[key].data]
        self.tokens = strings("tokenizer.ggml.tokens")
        self.merges = strings("tokenizer.ggml.merges")
        types = fields["tokenizer.ggml.token_type"]
        self.types = [int(types.parts[i][0]) for i in types.data]
        self.pre = fields["tokenizer.ggml.pre"].contents()


def judge(vocabulary, pre=None):
    """The Hugging Face tokenizer of this vocabulary, with the rules of `pre` (the file's own by default)."""
    pre = pre or vocabulary.pre
    vocab = {
        token: i
        for i, (token, kind) in enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True))
        if kind != UNUSED
    }
    merges = [tuple(merge.split(" ")) for merge in vocabulary.merges]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=pre == "llama-bpe"))
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = _pre_tokenizer(pre)
    tokenizer.decoder = decoders.ByteLevel()
    added = [
        AddedToken(token, special=kind == CONTROL, normalized=False)
        for token, kind in zip(vocabulary.tokens, vocabulary.types, strict=True)
        if kind in (CONTROL, USER_DEFINED)
    ]
    tokenizer.add_tokens(added)
    return tokenizer
