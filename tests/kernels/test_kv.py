"""The paged cache against NumPy in float64: codes, scales, sinks, and attention over what the pages say.

The program kv_dump builds a random sequence and writes its inputs, tables, pages and attention; everything
here is computed anew from the inputs, with matrices and angles of its own.
"""

import os
import pathlib
import subprocess

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
KV_DUMP = pathlib.Path(os.environ.get("OCTAVO_BUILD", ROOT / "build/release")) / "kv_dump"
STEP4 = 0.3352
FRAME = 256
BITS = {"q4": 4, "o4": 4, "q2": 2}


def dump(path, level, layers, heads, kv_heads, dim, kind, recent, tokens, sinks, tables, chunk, threads=2):
    arguments = [level, threads, layers, heads, kv_heads, dim, kind, recent, tokens, sinks, tables, chunk, path]
    subprocess.run([KV_DUMP, *map(str, arguments)], check=True)
    records = {}
    data = path.read_bytes()
    at = 0
    while at < len(data):
        fields = []
        for _ in range(3):
            end = data.index(b"\n", at)
            fields.append(data[at:end].decode())
            at = end + 1
        name, kind_, count = fields[0], np.dtype("<" + fields[1]), int(fields[2])
        records[name] = np.frombuffer(data, kind_, count, at)
        at += count * kind_.itemsize
    return records


def rope(x, positions, sign=1):
    """Pairs (i, i + D/2) turned by sign * position * frequency; x [..., tokens, D]."""
    half = x.shape[-1] // 2
    angle = sign * np.asarray(positions, float)[:, None] * 10000.0 ** (-np.arange(half) / half)
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], -1)


def hadamard(dim):
    block = dim & -dim
    h = np.ones((1, 1))
    while len(h) < block:
        h = np.block([[h, h], [h, -h]])
    return np.kron(np.eye(dim // block), h) / np.sqrt(block)


def unpack(codes, bits, n_rows, n_columns):
    """The page's tiles (kernels/kv_page.h) to a matrix of codes."""
    per_byte = 8 // bits
    tiles = codes.reshape(n_rows // 8, n_columns // 4 // per_byte, 8, 4)
    out = np.empty((n_rows, n_columns), int)
    for quad in range(n_columns // 4):
        tile = tiles[:, quad // per_byte] >> (bits * (quad % per_byte)) & (2**bits - 1)
        out[:, 4 * quad : 4 * quad + 4] = tile.reshape(n_rows, 4)
    return out


def nested(code4):
    return (code4 >= 5).astype(int) + (code4 >= 8) + (code4 >= 11)


class Case:
    def __init__(self, path, layers, heads, kv_heads, dim, kind, recent, tokens, sinks, tables, chunk, level):
        self.layers, self.heads, self.kv_heads, self.dim = layers, heads, kv_heads, dim
        self.kind, self.recent, self.tokens, self.is_identity = kind, recent, tokens, tables == "identity"
        self.data = dump(path, level, layers, heads, kv_heads, dim, kind, recent, tokens, sinks, tables, chunk)
        self.q = self.array("q", heads)
        self.k = self.array("k", kv_heads)
        self.v = self.array("v", kv_heads)
        self.out = self.array("out", heads)
        n_sealed = tokens // 64 if kind != "f16" else 0
        self.masks = []
        for b in range(n_sealed):
            mask = np.zeros(64, bool)
            if b == 0:
                mask[:sinks] = True
            if b % 3 == 1:
                mask[[5, 17, 63]] = True
            self.masks.append(mask)

    def array(self, name, heads):
        return self.data[name].reshape(self.layers, self.tokens, heads, self.dim).astype(float)

    def table(self, name, layer, head):
        """The page's transform or mean, or its identity setting."""
        square = name.endswith("transform")
        if name not in self.data:
            return hadamard(self.dim) if square else np.zeros(self.dim)
        table = self.data[name].astype(float).reshape(-1, self.dim, self.dim) if square else self.data[
            name
        ].astype(float).reshape(-1, self.dim)
        return table[0] if name == "value_transform" else table[layer * self.kv_heads + head]

    def half_page(self, block, layer, head):
        """Keys and values [64][D] of an f16 block."""
        page = self.data[f"f16.{block}"].reshape(self.layers, self.kv_heads, 2, 64 * self.dim)[layer, head]
        return page[0].reshape(self.dim, 64).T.astype(float), page[1].reshape(64, self.dim).astype(float)

    def coded_page(self, block, layer, head):
        """Codes of keys and values [64][D], and the scale arrays."""
        bits = BITS[self.kind]
        page = self.data[f"coded.{block}"].reshape(self.layers, self.kv_heads, -1)[layer, head]
        n = 64 * self.dim * bits // 8
        keys = unpack(page[:n], bits, 64, self.dim)
        values = unpack(page[n : 2 * n], bits, self.dim, 64).T
        return keys, values, page[2 * n :].view("<f2").astype(float).reshape(-1, 64)

    def transformed(self, block, layer, head):
        """What was quantized: keys and values [64][D] in float64 from the f16 page."""
        keys, values = self.half_page(block, layer, head)
        frame = block * 64 // FRAME
        offsets = block * 64 - frame * FRAME + np.arange(64)
        mean = rope(np.broadcast_to(self.table("key_mean", layer, head), (64, self.dim)), offsets)
        x = rope(keys, np.full(64, frame * FRAME), -1) - mean
        y = values - self.table("value_mean", layer, head)
        return (
            x @ self.table("key_transform", layer, head).T,
            y @ self.table("value_transform", layer, head).T,
        )

    def coded_attention(self, block, bits, layer, head, q):
        """Scores and values [64][D] of a coded block: exact, and with the roundings the kernels define (the
        transformed query to int8, the weights p * scale of a block to u8)."""
        keys, values, scales = self.coded_page(block, layer, head)
        at = 0
        if bits < BITS[self.kind]:
            keys, values, at = nested(keys), nested(values), 2
        frame = block * 64 // FRAME
        offsets = block * 64 - frame * FRAME + np.arange(64)
        q_frame = rope(q[None], [frame * FRAME], -1)[0]
        mean = rope(np.broadcast_to(self.table("key_mean", layer, head), (64, self.dim)), offsets)
        q_codes = q_frame @ self.table("query_transform", layer, head)
        step = np.abs(q_codes).max() / 127
        x = (keys - (2**bits - 1) / 2) * scales[at][:, None]
        scores = [x @ q_codes + mean @ q_frame, x @ (np.rint(q_codes / step) * step) + mean @ q_frame]
        levels = (values - (2**bits - 1) / 2) @ self.table("value_transform", layer, head)
        return scores, levels, scales[at + 1], self.table("value_mean", layer, head)

    def attention(self, layer, head, row):
        """softmax(q k / sqrt D) v over the tiers that the row sees, exact and as rounded."""
        own = row // 64
        q = self.q[layer, row, head] / np.sqrt(self.dim)
        kv_head = head // (self.heads // self.kv_heads)
        outs, sums, peak = np.zeros((2, self.dim)), np.zeros(2), 20.0

        def add_half(keys, values):
            p = np.exp(keys @ q - peak)
            outs[:] += p @ values
            sums[:] += p.sum()

        for b in range(own):
            keys, values = self.half_page(b, layer, kv_head)
            if self.kind == "f16":
                add_half(keys, values)
                continue
            mask = self.masks[b]
            add_half(keys[mask], values[mask])
            bits = 2 if self.kind == "q4" and own - b > self.recent else BITS[self.kind]
            scores, levels, scales, mean = self.coded_attention(b, bits, layer, kv_head, q)
            for i in range(2):
                p = np.where(mask, 0, np.exp(scores[i] - peak))
                weights = p * scales
                if i == 1:
                    step = weights.max() / 255
                    weights = np.rint(weights / step) * step
                outs[i] += weights @ levels + p.sum() * mean
                sums[i] += p.sum()
        keys, values = self.half_page(own, layer, kv_head)
        add_half(keys[: row % 64 + 1], values[: row % 64 + 1])
        return outs / sums[:, None]


CASES = [
    # layers heads kv_heads dim kind recent tokens sinks tables chunk
    (1, 3, 1, 64, "f16", 0, 333, 0, "identity", 64),
    (2, 6, 2, 32, "q4", 2, 700, 4, "identity", 100),
    (1, 3, 1, 64, "o4", 0, 400, 4, "identity", 17),
    (1, 6, 1, 128, "q4", 0, 330, 4, "identity", 512),
    (1, 4, 2, 64, "q2", 0, 640, 0, "identity", 33),
    (1, 2, 1, 48, "q4", 1, 300, 4, "identity", 64),
    (2, 4, 2, 32, "q4", 1, 600, 4, "dense", 50),
    (1, 4, 2, 64, "q4", 1, 400, 4, "means", 64),
    (1, 2, 2, 16, "q2", 0, 1200, 1, "identity", 1200),
    (1, 16, 1, 96, "o4", 0, 200, 4, "means", 40),
    (1, 2, 1, 256, "q4", 1, 300, 4, "identity", 300),
]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join(map(str, case)))
def case(request, tmp_path_factory):
    return Case(tmp_path_factory.mktemp("kv") / "dump", *request.param, level="auto")


def pages(case):
    blocks = case.tokens // 64 if case.kind != "f16" else 0
    return [(b, layer, head) for b in range(blocks) for layer in range(case.layers) for head in range(case.kv_heads)]


def test_half_pages_hold_keys_and_values(case):
    for b in range((case.tokens + 63) // 64):
        n = min(64, case.tokens - 64 * b)
        for layer in range(case.layers):
            for head in range(case.kv_heads):
                keys, values = case.half_page(b, layer, head)
                expected = case.k[layer, 64 * b : 64 * b + n, head].astype(np.float16)
                assert np.array_equal(keys[:n].astype(np.float16), expected)
                expected = case.v[layer, 64 * b : 64 * b + n, head].astype(np.float16)
                assert np.array_equal(values[:n].astype(np.float16), expected)


def test_codes_and_scales(case):
    for b, layer, head in pages(case):
        keys, values, scales = case.coded_page(b, layer, head)
        for part, (x, codes) in enumerate(zip(case.transformed(b, layer, head), (keys, values))):
            norm = (x**2).sum(1)
            cell = x / (np.sqrt(norm / case.dim)[:, None] * STEP4)
            code4 = np.clip(np.floor(cell) + 8, 0, 15).astype(int)
            # A boundary within rounding of the value leaves the choice of the code to the rounding.
            tie = np.abs(cell - np.rint(cell)) < 2e-5
            expected = code4 if case.kind != "q2" else nested(code4)
            assert np.all((codes == expected) | tie)
            assert tie.mean() < 1e-3
            found4 = codes if case.kind != "q2" else None
            levels = []
            if case.kind != "q2":
                levels.append((part, found4 - 7.5))
            if case.kind == "q4":
                levels.append((part + 2, nested(found4) - 1.5))
            if case.kind == "q2":
                levels.append((part, codes - 1.5))
            for index, level in levels:
                scale = norm / (x * level).sum(1)
                assert np.allclose(scales[index], scale, rtol=2**-10, atol=0)


def test_sinks_are_copies(case):
    for b, layer, head in pages(case):
        keys, values = case.half_page(b, layer, head)
        for s, t in enumerate(np.flatnonzero(case.masks[b])):
            sink = case.data[f"sink.{b}.{s}"].reshape(case.layers, case.kv_heads, 2, case.dim)[layer, head]
            assert np.array_equal(sink[0].astype(float), keys[t])
            assert np.array_equal(sink[1].astype(float), values[t])


def test_attention_over_the_pages(case):
    """Exact mathematics within what int8 queries and u8 weights cost (the outputs are averages of up to
    hundreds of random values, so an error of 1 % of one value shows in full); their rounding redone, within
    fp32."""
    rng = np.random.default_rng(1)
    rows = {0, 63, 64, 65, 127, 128, case.tokens - 1, *rng.integers(0, case.tokens, 12)}
    exact_errors, rounded_errors = [], []
    for row in sorted(r for r in rows if r < case.tokens):
        for layer in range(case.layers):
            for head in range(case.heads):
                exact, rounded = case.attention(layer, head, row)
                out = case.out[layer, row, head]
                exact_errors.append(np.linalg.norm(out - exact) / np.linalg.norm(exact))
                rounded_errors.append(np.linalg.norm(out - rounded) / np.linalg.norm(rounded))
    # The random transforms and means of the other tables make queries and keys several times larger.
    assert max(exact_errors) < (2e-6 if case.kind == "f16" else 2.5e-2 if case.is_identity else 8e-2)
    # A value at a rounding boundary may go the other way than in float64, which costs one step of 127 or 255.
    assert np.median(rounded_errors) < 5e-6
    assert max(rounded_errors) < 2e-3


@pytest.mark.parametrize("bits,distortion", [(4, 0.01154), (2, 0.1188)])
def test_distortion_on_gaussian_vectors(tmp_path, bits, distortion):
    """The squared error on the grid itself is that of the best uniform quantizer."""
    case = Case(tmp_path / "dump", 1, 1, 1, 256, "q4", 0, 1024, 0, "identity", 512, level="auto")
    errors = []
    for b, layer, head in pages(case):
        keys, values, _ = case.coded_page(b, layer, head)
        for x, codes in zip(case.transformed(b, layer, head), (keys, values)):
            level = codes - 7.5 if bits == 4 else nested(codes) - 1.5
            best = (x * level).sum(1) / (level**2).sum(1)
            errors.append(((x - best[:, None] * level) ** 2).sum(1) / (x**2).sum(1))
    assert np.mean(errors) == pytest.approx(distortion, rel=0.03)
