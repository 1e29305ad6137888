"""Prompt scores over HTTP (echo, logprobs, max_tokens 0) against `octavo eval` on the same tokens, for cached formats too:
what lm-eval's local-completions computes is what our own evaluation computes."""
import json
import math
import subprocess

import pytest

from conftest import BINARY, CTX_SIZE, ENVIRONMENT, MODEL, PATIENCE_S, ROOT, every_model

N_TOKENS = CTX_SIZE - 32


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("scores") / "text"
    path.write_text((ROOT / "ARCHITECTURE.md").read_text()[:6000])
    return path


@pytest.fixture(scope="module")
def evaluated(text):
    """Perplexity by format; the shared server has kv-recent 1 and no calibration."""
    done = subprocess.run([BINARY, "eval", MODEL, "--text", text, "--ctx", str(N_TOKENS), "--windows", "1", "--kv-format",
                           "f16,o2,o4", "--kv-recent", "1", "--no-calibration", "--json"],
                          capture_output=True, text=True, timeout=5 * PATIENCE_S, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {line["format"]: line["ppl"] for line in lines} | {"f16": lines[0]["base_ppl"]}


def score(server, prompt, **more):
    reply = server.complete(prompt, max_tokens=0, echo=True, logprobs=0, **more)
    return reply["choices"][0]["logprobs"]["token_logprobs"]


@every_model
@pytest.mark.parametrize("kv_format", ["f16", "o2", "o4"])
def test_perplexity(server, text, evaluated, kv_format):
    tokens = server.post("/tokenize", content=text.read_text()).json()["tokens"][:N_TOKENS]
    logprobs = score(server, tokens, kv_format=kv_format)
    assert len(logprobs) == N_TOKENS and logprobs[0] is None
    perplexity = math.exp(-math.fsum(logprobs[1:]) / (N_TOKENS - 1))
    assert perplexity == pytest.approx(evaluated[kv_format], rel=2e-5)


def test_formats_differ(evaluated):
    """Else the comparison above would say nothing."""
    assert len({round(p, 4) for p in evaluated.values()}) == 3


@every_model
@pytest.mark.parametrize("kv_format", ["f16", "o2"])
def test_as_lm_eval_asks(server, text, kv_format):
    """lm-eval 0.4 (local-completions) sends context and continuation as token ids in a batch, with max_tokens 1, logprobs 1,
    echo and a seed, and sums token_logprobs[len(context):-1]. In a batch or alone, with one token more or not: the same."""
    tokens = server.post("/tokenize", content=text.read_text()).json()["tokens"]
    items = [(tokens[i * 60:i * 60 + 40 + i], tokens[i * 60 + 40 + i:i * 60 + 55]) for i in range(5)]
    reply = server.complete([c + r for c, r in items], max_tokens=1, temperature=0, echo=True, logprobs=1, seed=1234,
                            kv_format=kv_format)
    for (context, rest), choice in zip(items, sorted(reply["choices"], key=lambda c: c["index"])):
        there = choice["logprobs"]["token_logprobs"][len(context):-1]
        assert there == score(server, context + rest, kv_format=kv_format)[len(context):]
        greedy = [max(top, key=top.get) == token for token, top in
                  zip(choice["logprobs"]["tokens"], choice["logprobs"]["top_logprobs"]) if top]
        assert len(greedy) == len(context) + len(rest)
