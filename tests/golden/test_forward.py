"""The forward pass on random models of every element type against NumPy in float64 (weights read by the package gguf)."""
import os
import subprocess

import gguf
import numpy as np
import pytest

# Of the error relative to the spread of the logits. With F32 weights it is 1e-5 (values that round to another fp16
# in the cache); 16-bit activations bring it to 2e-4, and to 1e-3 where offsets of the weights cancel (Q4_K).
TOLERANCE = 2e-3
BUILD = os.environ.get("OCTAVO_BUILD", "build/release")
TYPES = {"F32": 0, "F16": 1, "BF16": 30, "Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8, "Q4_K": 12, "Q5_K": 13,
         "Q6_K": 14}
MODELS = [
    dict(arch="llama"),
    dict(arch="qwen2"),
    dict(arch="llama", tied=1, rope_factors=1, head_dim=64, heads=6, kv_heads=2, layers=3),
    dict(arch="qwen2", tied=1, embd=96, head_dim=16, heads=8, kv_heads=1, ff=160, freq_base=1000000),
    dict(arch="llama", rope_scaling="linear", heads=2, kv_heads=2, layers=1),
]


def field(reader, name, default=None):
    found = reader.fields.get(name)
    return default if found is None else found.contents()


def rms_norm(x, gain, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * gain


def rotate(x, inv_freq, interleaved):
    """x [tokens][heads][head_dim]. GGUF's llama rows are for pairs (2i, 2i+1), qwen2's for (i, i + D/2)."""
    angle = np.arange(len(x))[:, None, None] * inv_freq
    half = x.shape[-1] // 2
    a, b = (x[..., 0::2], x[..., 1::2]) if interleaved else (x[..., :half], x[..., half:])
    return np.concatenate([a * np.cos(angle) - b * np.sin(angle), a * np.sin(angle) + b * np.cos(angle)], -1)


def forward(path, ids):
    """Logits [ids][vocabulary] in float64, but for keys and values, which the cache holds in fp16."""
    reader = gguf.GGUFReader(path)
    arch = field(reader, "general.architecture")
    weights = {t.name: gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float64) for t in reader.tensors}
    heads = field(reader, arch + ".attention.head_count")
    kv_heads = field(reader, arch + ".attention.head_count_kv")
    width = field(reader, arch + ".embedding_length")
    head_dim = field(reader, arch + ".attention.key_length", width // heads)
    eps = field(reader, arch + ".attention.layer_norm_rms_epsilon")
    inv_freq = field(reader, arch + ".rope.freq_base") ** (-np.arange(0, head_dim, 2) / head_dim)
    inv_freq = inv_freq / weights.get("rope_freqs.weight", 1)
    if field(reader, arch + ".rope.scaling.type") == "linear":
        inv_freq = inv_freq / field(reader, arch + ".rope.scaling.factor")
    n = len(ids)
    hidden_from = np.triu(np.full((n, n), -np.inf), 1)

    def linear(x, name):
        return x @ weights[name + ".weight"].T + weights.get(name + ".bias", 0)

    x = weights["token_embd.weight"][ids]
    for layer in range(field(reader, arch + ".block_count")):
        blk = f"blk.{layer}."
        h = rms_norm(x, weights[blk + "attn_norm.weight"], eps)
        q = rotate(linear(h, blk + "attn_q").reshape(n, heads, head_dim), inv_freq, arch == "llama")
        k = rotate(linear(h, blk + "attn_k").reshape(n, kv_heads, head_dim), inv_freq, arch == "llama")
        v = linear(h, blk + "attn_v").reshape(n, kv_heads, head_dim)
        k, v = (np.repeat(a.astype(np.float16).astype(np.float64), heads // kv_heads, 1) for a in (k, v))
        scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(head_dim) + hidden_from
        p = np.exp(scores - scores.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        x = x + linear(np.einsum("hqk,khd->qhd", p, v).reshape(n, -1), blk + "attn_output")
        h = rms_norm(x, weights[blk + "ffn_norm.weight"], eps)
        gate = linear(h, blk + "ffn_gate")
        x = x + linear(gate / (1 + np.exp(-gate)) * linear(h, blk + "ffn_up"), blk + "ffn_down")
    x = rms_norm(x, weights["output_norm.weight"], eps)
    return x @ weights.get("output.weight", weights["token_embd.weight"]).T


def ours(path, ids, *arguments):
    text = "\n".join(map(str, ids)).encode()
    out = subprocess.run([f"{BUILD}/logits", path, "f16", *arguments], input=text, stdout=subprocess.PIPE, check=True)
    return np.frombuffer(out.stdout, "<f4").reshape(len(ids), -1)


def make(path, **options):
    subprocess.run([f"{BUILD}/tiny", path] + [f"{k}={v}" for k, v in options.items()], check=True)


def check(path):
    ids = np.random.default_rng(7).integers(0, 256, 150)
    want = forward(path, ids)
    got = ours(path, ids, "100")
    error = np.sqrt(((got - want) ** 2).mean()) / want.std()
    assert error < TOLERANCE, f"relative error {error:.2e}"
    return error


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("arch", ["llama", "qwen2"])
def test_types(tmp_path, name, arch):
    path = str(tmp_path / "m.gguf")
    make(path, arch=arch, dtype=TYPES[name], embd=256, heads=8, kv_heads=2, ff=512)
    print(name, arch, f"{check(path):.2e}")


@pytest.mark.parametrize("options", MODELS, ids=lambda o: "-".join(map(str, o.values())))
def test_shapes(tmp_path, options):
    path = str(tmp_path / "m.gguf")
    make(path, dtype=TYPES["F32"], seed=3, **options)
    print(f"{check(path):.2e}")

