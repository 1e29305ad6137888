#!/usr/bin/env python3
"""Records what transformers (fp32) says about a GGUF file, for tests/unit/test_golden.c.

    make_golden.py MODEL.gguf TEXT OUT.golden [--positions 512]

Needs torch, transformers, accelerate and gguf from PyPI; run once per model, by hand. transformers dequantizes the very same
weights that octavo reads, so what differs between the two is arithmetic alone. TEXT is WikiText-2's test split
(wiki.test.raw); its first POSITIONS tokens are recorded as ids, the text itself is not.

File, little-endian:
    "OGLD", u32 version 1, u32 n_positions, u32 n_top, u32 n_prompts, u32 n_steps
    i32 tokens[n_positions]
    i32 top_ids[n_positions][n_top], f32 top_logprobs[n_positions][n_top], largest first
    f32 rest_logprob[n_positions]      log of the probability outside the top n_top
    n_prompts times: u32 n, i32 prompt[n], i32 greedy[n_steps], f32 gap[n_steps]
The distribution at position i is that of the token after tokens[0..i]. gap is the reference's logit of its greedy
choice less the logit of its second.
"""
import argparse
import os
import struct

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

N_TOP = 64
N_STEPS = 48
PROMPTS = [
    "The capital of France is",
    "Once upon a time, in a village by the sea, there lived",
    "def fibonacci(n):\n    \"\"\"Return the n-th Fibonacci number.\"\"\"\n",
    "Water boils at a lower temperature on a mountain because",
    "#include <stdio.h>\n\nint main(void)\n{\n",
    "The three laws of motion are",
    "SELECT name, COUNT(*) FROM orders",
    "Photosynthesis is the process by which",
    "To make a simple bread you need flour, water, salt and yeast. First,",
    "import numpy as np\n\ndef softmax(x):\n",
    "The quick brown fox",
    "In 1969, two astronauts",
    "A binary search tree is a data structure in which",
    "{\"name\": \"Alice\", \"age\": 30, \"city\":",
    "The difference between a virus and a bacterium is that",
    "for (let i = 0; i < items.length; i++) {\n",
    "My favourite season is autumn because",
    "The Pythagorean theorem states that",
    "class Stack:\n    def __init__(self):\n        self.items = []\n\n    def push(self, item):\n",
    "1, 1, 2, 3, 5, 8, 13,",
]


def distributions(model, tokens):
    """Top ids, their logprobs, and the log of what is left, at every position."""
    logits = model(tokens[None]).logits[0].double()
    logprobs = logits.log_softmax(-1)
    top = logprobs.topk(N_TOP, -1)
    rest = logprobs.scatter(-1, top.indices, -torch.inf).logsumexp(-1)
    return top.indices, top.values, rest


def greedy(model, prompts):
    """N_STEPS greedy tokens after each prompt, end tokens included, and the gap to the second choice at each step.

    All prompts at once, padded on the left; masked positions do not reach the logits."""
    width = max(len(prompt) for prompt in prompts)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    step = torch.stack([torch.nn.functional.pad(p, (width - len(p), 0)) for p in prompts])
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    tokens, gaps, cache = [], [], None
    for _ in range(N_STEPS):
        out = model(step, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True,
                    logits_to_keep=1)
        cache = out.past_key_values
        top = out.logits[:, -1].topk(2)
        tokens.append(top.indices[:, 0])
        gaps.append(top.values[:, 0] - top.values[:, 1])
        step = top.indices[:, :1]
        positions = positions[:, -1:] + 1
        mask = torch.nn.functional.pad(mask, (0, 1), value=1)
    return torch.stack(tokens, 1), torch.stack(gaps, 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("text")
    parser.add_argument("out")
    parser.add_argument("--positions", type=int, default=512)
    arguments = parser.parse_args()
    torch.set_grad_enabled(False)
    folder, name = os.path.split(os.path.abspath(arguments.model))
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32,
                                                 attn_implementation="eager").eval()

    def encode(text):
        return torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"])

    with open(arguments.text, encoding="utf-8") as file:
        tokens = encode(file.read(64 * arguments.positions))[: arguments.positions]
    assert len(tokens) == arguments.positions
    prompts = [encode(text) for text in PROMPTS]
    ids, logprobs, rest = distributions(model, tokens)
    partial = arguments.out + ".partial"
    with open(partial, "wb") as file:
        file.write(b"OGLD" + struct.pack("<5I", 1, len(tokens), N_TOP, len(PROMPTS), N_STEPS))
        file.write(tokens.numpy().astype("<i4").tobytes())
        file.write(ids.numpy().astype("<i4").tobytes())
        file.write(logprobs.numpy().astype("<f4").tobytes())
        file.write(rest.numpy().astype("<f4").tobytes())
        for text, prompt, chosen, gap in zip(PROMPTS, prompts, *greedy(model, prompts)):
            file.write(struct.pack("<I", len(prompt)) + prompt.numpy().astype("<i4").tobytes())
            file.write(chosen.numpy().astype("<i4").tobytes() + gap.numpy().astype("<f4").tobytes())
            print(repr(text), "->", repr(tokenizer.decode(chosen)), "smallest gap %.4f" % gap.min())
    os.replace(partial, arguments.out)
    print(arguments.out, os.path.getsize(arguments.out), "bytes")


if __name__ == "__main__":
    main()
