"""Calibration statistics and transforms against NumPy in float64, written from the formulas of the paper trail
(attention-weighted moments, matrix geometric mean), not from the C code."""
import os
import pathlib
import subprocess

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOOL = pathlib.Path(os.environ.get("OCTAVO_BUILD", ROOT / "build/release")) / "statistics_dump"


def rope(x, positions, inverse_frequency):
    angle = positions[:, None] * inverse_frequency
    cosine, sine = np.cos(angle)[:, None], np.sin(angle)[:, None]
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * cosine - b * sine, a * sine + b * cosine], -1)


def root(matrix, inverse=False):
    values, vectors = np.linalg.eigh(matrix)
    values = np.maximum(values, values.max() * 1e-9)
    return (vectors * values ** (-.5 if inverse else .5)) @ vectors.T


def attention(query, key):
    T = len(query)
    scores = np.where(np.tri(T, dtype=bool), query @ key.T / np.sqrt(query.shape[-1]), -np.inf)
    p = np.exp(scores - scores.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


def harm(p, v, mean, o, w):
    """What errors of keys and of values do to the stream: p [T, T], v and o [T, D], w [E, D]."""
    apart = (v[None] - o[:, None]) @ w.T
    return (p ** 2 * (apart ** 2).sum(-1)).sum(), (p ** 2 @ ((v - mean) ** 2).sum(-1)).sum() * (w ** 2).sum() / v.shape[-1]


def reference(q, k_raw, v, w, frame, sinks, inverse_frequency):
    S, T, H, D = q.shape
    Hk = v.shape[2]
    i = np.arange(T)
    causal = i[None] <= i[:, None]
    quantized = causal & (i[:, None] // 64 != i[None] // 64) & (i[None] >= sinks)
    k = np.stack([rope(k_raw[s], i, inverse_frequency) for s in range(S)])
    heads = []
    for h in range(Hk):
        wk, wv, cov_q = np.zeros((S, T)), np.zeros((S, T)), np.zeros((D, D))
        for s in range(S):
            for g in range(H // Hk):
                query = q[s, :, h * (H // Hk) + g]
                p = attention(query, k[s, :, h]) * quantized
                z = p * (1 - p)
                wk[s] += z.sum(0)
                wv[s] += (p * p).sum(0)
                for f in range(0, T, frame):
                    mass = z[:, f:f + frame].sum(1)
                    seen = rope(query[:, None], np.full(T, -f), inverse_frequency)[:, 0]
                    cov_q += (seen * mass[:, None]).T @ seen
        mean_k = np.einsum("st,std->d", wk, k_raw[:, :, h]) / wk.sum()
        mean_v = np.einsum("st,std->d", wv, v[:, :, h]) / wv.sum()
        cov_k = np.zeros((D, D))
        for s in range(S):
            e = rope((k_raw[s, :, h] - mean_k)[:, None], i % frame, inverse_frequency)[:, 0]
            cov_k += (e * wk[s][:, None]).T @ e
        harms = np.zeros(2)
        for s in range(S):
            for head in range(h * (H // Hk), (h + 1) * (H // Hk)):
                p = attention(q[s, :, head], k[s, :, h])
                harms += harm(p * quantized, v[s, :, h], mean_v, p @ v[s, :, h], w[:, head])
        heads.append((mean_k, mean_v, cov_k / wk.sum(), cov_q / wk.sum(), harms))
    return heads


@pytest.mark.skipif(not TOOL.exists(), reason=f"{TOOL} is not built")
@pytest.mark.parametrize("shape", [(2, 600, 6, 2, 64), (1, 330, 4, 4, 32), (3, 257, 8, 1, 128)])
def test_statistics(tmp_path, shape):
    S, T, H, Hk, D = shape
    frame, sinks = 256, 4
    rng = np.random.default_rng(7)
    frequency = 10000.0 ** (-np.arange(0, D, 2) / D)
    mix = rng.standard_normal((D, D)) / np.sqrt(D)
    k_raw = (rng.standard_normal((S, T, Hk, D)) @ mix + rng.standard_normal((Hk, D)) * 3).astype(np.float32)
    q_raw = (rng.standard_normal((S, T, H, D)) @ mix.T * 1.5).astype(np.float32)
    v = (rng.standard_normal((S, T, Hk, D)) + .5).astype(np.float32)
    w = rng.standard_normal((8, H, D)).astype(np.float32) / 4
    i = np.arange(T)
    q = np.stack([rope(q_raw[s].astype(float), i, frequency) for s in range(S)])
    k = np.stack([rope(k_raw[s].astype(float), i, frequency) for s in range(S)])
    o = np.stack([[attention(q[s, :, h], k[s, :, h * Hk // H]) @ v[s, :, h * Hk // H] for h in range(H)] for s in range(S)])
    with open(tmp_path / "in", "wb") as f:
        np.array([S, T, H, Hk, D, frame, sinks], np.int32).tofile(f)
        frequency.tofile(f)
        for a in (q, k, v, o.swapaxes(1, 2), np.einsum("ehi,ehj->hij", w, w)):
            np.ascontiguousarray(a, np.float32).tofile(f)
    subprocess.run([TOOL, tmp_path / "in", tmp_path / "out"], check=True)
    raw = (tmp_path / "out").read_bytes()
    offset = 0

    def take(count, dtype, *dims):
        nonlocal offset
        a = np.frombuffer(raw, dtype, count, offset)
        offset += a.nbytes
        return a.reshape(dims).astype(float)

    heads = reference(q, k_raw.astype(float), v.astype(float), w.astype(float), frame, sinks, frequency)
    for mean_k, mean_v, cov_k, cov_q, harms in heads:
        got = take(D, np.float64, D), take(D, np.float64, D), take(D * D, np.float64, D, D), take(D * D, np.float64, D, D)
        for a, b in zip(got, (mean_k, mean_v, cov_k, cov_q)):
            assert np.abs(a - b).max() <= 2e-4 * np.abs(b).max()
        assert take(2, np.float64, 2) == pytest.approx(harms, rel=2e-4)
        key, query = take(D * D, np.float32, D, D), take(D * D, np.float32, D, D)
        sigma = take(D // 16, np.float32, D // 16)
        eye = np.eye(D)
        cov_k = cov_k + 1e-3 * np.trace(cov_k) / D * eye
        cov_q = cov_q + 1e-3 * np.trace(cov_q) / D * eye
        # The transforms cancel, balance the two moments group by group, and sort the channels.
        assert np.abs(query.T @ key - eye).max() < 2e-3
        spread = np.repeat(sigma, 16)
        balanced = key @ cov_k @ key.T * np.outer(spread, spread)
        other = query @ cov_q @ query.T / np.outer(spread, spread)
        assert np.abs(balanced - other).max() <= 2e-3 * np.abs(balanced).max()
        assert np.allclose(np.diag(balanced).reshape(-1, 16), np.repeat((sigma ** 2)[:, None], 16, 1), rtol=.02)
        r, ri = root(cov_k), root(cov_k, True)
        middle = root(ri @ root(r @ cov_q @ r) @ ri)
        want = np.sort(np.linalg.eigvalsh(middle @ cov_k @ middle))[::-1].reshape(-1, 16).mean(1)
        assert np.allclose(sigma ** 2, want, rtol=5e-3)
    assert offset == len(raw)
