"""The quantizer of format rotatekv against NumPy, written from the paper (arXiv 2501.16383): the same keys and values
in, the same codes out.

The program rotate_dump puts kernels/kv_rotate.h on the command line. Only codes whose value stands within float32's
error of a rounding boundary may differ.
"""

import os
import pathlib
import subprocess

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
ROTATE_DUMP = pathlib.Path(os.environ.get("OCTAVO_BUILD", ROOT / "build/release")) / "rotate_dump"
TIE = 2e-4  # in steps of the grid


def hadamard(n, repeat=1):
    h = np.ones((1, 1))
    while len(h) < n:
        h = np.block([[h, h], [h, -h]])
    return np.kron(np.eye(repeat), h) / np.sqrt(n)


def rope(x, heads, positions, sign):
    """x [tokens, heads * D]; pairs (i, i + D/2) of each head turned by sign * position * frequency."""
    split = x.reshape(len(x), heads, 2, -1)
    half = split.shape[-1]
    angle = sign * positions[:, None, None] * 10000.0 ** (-np.arange(half) / half)
    a, b, c, s = split[:, :, 0], split[:, :, 1], np.cos(angle), np.sin(angle)
    return np.stack([a * c - b * s, b * c + a * s], 2).reshape(x.shape)


def quantize(x):
    """-> codes, scale, zero point, and whether a code is one that rounding could turn either way."""
    low, high = x.min(-1, keepdims=True) * 0.8, x.max(-1, keepdims=True) * 0.8
    scale = np.maximum(high - low, 1e-8) / 3
    zero = np.rint(-low / scale)
    near = lambda y: abs(y - np.floor(y) - 0.5) < TIE
    return np.clip(np.rint(x / scale) + zero, 0, 3), scale, zero, near(x / scale) | near(-low / scale)


def unpack(data, n_channels, groups):
    """A layer's keys or values: codes [tokens, channels], scales and zeros [tokens, groups, 1], bytes used."""
    quads = np.frombuffer(data, np.uint8, n_channels // 4 * 64).reshape(n_channels // 4, 64)
    codes = np.stack([quads >> 2 * i & 3 for i in range(4)], 1).reshape(n_channels, 64).T
    scales = np.frombuffer(data, np.float16, groups * 64, quads.size).reshape(groups, 64)
    zeros = np.frombuffer(data, np.int16, groups * 64, quads.size + groups * 128).reshape(groups, 64)
    side = lambda x: x.T[..., None].astype(float)
    return codes.astype(int), side(scales), side(zeros), quads.size + groups * 256


def check(found, x, group):
    """x [tokens, channels] in the order of the codes -> what the codes say."""
    codes, scales, zeros, _ = found
    x = x.reshape(64, -1, group)
    expected, scale, zero, tie = quantize(x)
    codes = codes.reshape(x.shape)
    # A zero point is exact but for ties; its group's codes move with it.
    moved = zeros != zero
    assert (~moved | tie.any(-1, keepdims=True)).all()
    assert ((codes == expected) | tie | moved).all()
    assert (codes != expected).mean() < 0.01
    assert np.allclose(scales, scale, rtol=2**-11 + 1e-6, atol=2**-25)
    return (scales * (codes - zeros)).reshape(64, -1)


@pytest.mark.parametrize("heads, dim, group", [(3, 64, 64), (2, 128, 128), (8, 128, 128), (1, 64, 64), (2, 80, 32)])
def test_codes(tmp_path, heads, dim, group):
    layers, blocks, channels = 2, 5, heads * dim
    tokens = blocks * 64
    rng = np.random.default_rng(heads * 1000 + dim)
    # Biases like Qwen's: most channels near zero, some far off.
    mean = rng.normal(size=(layers, channels)) * np.where(rng.random(channels) < 0.1, 30, 0.5)
    spread = np.exp(rng.normal(size=(layers, 1, channels)))
    keys = mean[:, None] + spread * rng.normal(size=(layers, tokens, channels))
    keys = np.stack([rope(k, heads, np.arange(tokens), 1) for k in keys]).astype(np.float32)
    values = rng.normal(size=(layers, tokens, channels)).astype(np.float32)
    with open(tmp_path / "in", "wb") as file:
        mean.astype("<f4").tofile(file)
        for layer in range(layers):
            for b in range(blocks):
                for x in keys[layer], values[layer]:
                    np.ascontiguousarray(x[64 * b : 64 * b + 64].T, "<f4").tofile(file)
    arguments = [layers, heads, dim, blocks, tmp_path / "in", tmp_path / "out"]
    subprocess.run([ROTATE_DUMP, *map(str, arguments)], check=True)
    data = (tmp_path / "out").read_bytes()

    power = dim & -dim
    per_head = hadamard(power, channels // power)
    whole = hadamard(channels) if channels & (channels - 1) == 0 else per_head
    order = np.frombuffer(data, "<i4", layers * channels).reshape(layers, channels)
    at = order.nbytes
    for layer in range(layers):
        assert (np.diff((whole @ mean[layer])[order[layer]]) > -1e-4).all()
        assert sorted(order[layer]) == list(range(channels))
        for b in range(blocks):
            rows = np.arange(64 * b, 64 * b + 64)
            plain = rope(keys[layer, rows].astype(float), heads, rows, -1)
            found = unpack(data[at:], channels, channels // group)
            keys_hat = np.empty((64, channels))
            keys_hat[:, order[layer]] = check(found, (plain @ whole)[:, order[layer]], group)
            keys_hat = rope(keys_hat @ whole, heads, rows, 1)
            at += found[3]
            found = unpack(data[at:], channels, heads)
            values_hat = check(found, values[layer, rows] @ per_head, dim) @ per_head
            at += found[3]
            decoded = np.frombuffer(data, "<f4", 2 * channels * 64, at).reshape(2, channels, 64)
            at += decoded.nbytes
            assert abs(decoded[0].T - keys_hat).max() < 1e-5 * abs(keys_hat).max()
            assert abs(decoded[1].T - values_hat).max() < 1e-5 * abs(values_hat).max()
    assert at == len(data)
