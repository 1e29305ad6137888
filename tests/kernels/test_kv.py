"""The paged cache against NumPy: codes, scales and pages to the bit, and attention over what the pages say.

The program kv_dump builds a random sequence and writes its inputs, tables, pages and attention; everything here is
computed anew from the inputs (kv_reference.py).
"""

import os
import pathlib
import subprocess

import kv_reference as kv
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
KV_DUMP = pathlib.Path(os.environ.get("OCTAVO_BUILD", ROOT / "build/release")) / "kv_dump"
FRAME = 256


def dump(path, level, layers, heads, kv_heads, dim, form, recent, tokens, sinks, tables, chunk, threads=2):
    arguments = [level, threads, layers, heads, kv_heads, dim, form, recent, tokens, sinks, tables, chunk, path]
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
        name, kind, count = fields[0], np.dtype("<" + fields[1]), int(fields[2])
        records[name] = np.frombuffer(data, kind, count, at)
        at += count * kind.itemsize
    return records


def rope(x, positions, sign=1):
    """Pairs (i, i + D/2) turned by sign * position * frequency, in float64; x [..., tokens, D]."""
    n = x.shape[-1] // 2
    angle = sign * np.asarray(positions, float)[:, None] * 10000.0 ** (-np.arange(n) / n)
    a, b = x[..., :n], x[..., n:]
    return np.concatenate([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], -1)


def hadamard(dim):
    block = dim & -dim
    h = np.ones((1, 1))
    while len(h) < block:
        h = np.block([[h, h], [h, -h]])
    return np.kron(np.eye(dim // block), h) / np.sqrt(block)


class Page:
    """One layer and head of one block."""

    def __init__(self, case, block, layer, head):
        self.case, self.block, self.layer, self.head = case, block, layer, head
        self.index = layer * case.kv_heads + head
        self.frame = block * 64 // FRAME
        self.offsets = block * 64 - self.frame * FRAME + np.arange(64)

    def table(self, name):
        """The transform or mean as it stands, or None."""
        if name not in self.case.data:
            return None
        n = self.case.dim
        table = self.case.data[name].reshape((-1, n, n) if name.endswith("transform") else (-1, n))
        return table[0 if name == "value_transform" else self.index]

    def table64(self, name):
        """The same in float64, with the identity setting where there is none."""
        table = self.table(name)
        if table is not None:
            return table.astype(float)
        return hadamard(self.case.dim) if name.endswith("transform") else np.zeros(self.case.dim)

    def half(self, name="f16"):
        """Keys [D][64] and values [64][D] of an f16 page."""
        n = self.case.dim
        data = self.case.data[f"{name}.{self.block}"].reshape(-1, 2, 64 * n)[self.index]
        return data[0].reshape(n, 64), data[1].reshape(64, n)

    def half64(self, name="f16"):
        """Keys and values [64][D]."""
        keys, values = self.half(name)
        return keys.T.astype(float), values.astype(float)

    def z(self, is_values):
        """[D][64] in float32, to the bit."""
        data = self.case.data
        if is_values:
            x = self.half()[1].T.astype(np.float32)
            mean = self.table("value_mean")
            x = x if mean is None else x - mean[:, None]
        else:
            angles = [data[name].reshape(-1, self.case.dim // 2)[self.frame] for name in ("frame_cos", "frame_sin")]
            x = kv.rotate_back(self.half()[0].astype(np.float32), *angles)
            mean = self.table("key_mean")
            angles = [data[name].reshape(-1, FRAME)[:, self.offsets] for name in ("rope_cos", "rope_sin")]
            x = x if mean is None else kv.subtract_key_mean(x, mean, *angles)
        matrix = self.table("value_transform" if is_values else "key_transform")
        return kv.fast_hadamard(x) if matrix is None else kv.mix(matrix, x)

    def z64(self, is_values):
        """The same as mathematics."""
        keys, values = self.half64()
        if is_values:
            return self.table64("value_transform") @ (values - self.table64("value_mean")).T
        mean = rope(np.broadcast_to(self.table64("key_mean"), keys.shape), self.offsets)
        x = rope(keys, np.full(64, self.frame * FRAME), -1) - mean
        return self.table64("key_transform") @ x.T

    def parts(self, is_values):
        """[(bits, unit, gain)] of each part, per group."""
        n, side = self.case.dim // 16, "value" if is_values else "key"
        data = self.case.data
        return [
            (
                data[f"bits.{p}"].reshape(-1, 2, 16)[self.index, int(is_values), :n],
                data[f"{side}_unit.{p}"].reshape(-1, n)[self.index],
                data[f"{side}_gain.{p}"].reshape(-1, n)[self.index],
            )
            for p in range(self.case.n_parts)
        ]

    def weight(self, is_values):
        n = self.case.dim // 16
        return np.ones(n, np.float32) if is_values else self.case.data["key_weight"].reshape(-1, n)[self.index]

    def encoded(self, is_values):
        return kv.encode(self.z(is_values), self.parts(is_values), self.weight(is_values), is_values)

    def part_bytes(self, p):
        offset = self.case.data[f"offset.{p}"]
        return self.case.data[f"part.{p}.{self.block}"][int(offset[self.index]) : int(offset[self.index + 1])]

    def levels(self, is_values):
        """Per part: levels [D][64] and scales [64], from the encoder, which the pages equal."""
        key = (self.block, self.index, is_values)
        if key not in self.case.levels:
            self.case.levels[key] = []
            for (stored, scales), (bits, _, _) in zip(self.encoded(is_values), self.parts(is_values)):
                u = stored.reshape(-1, 16, 64).copy()
                for g, b in enumerate(bits):
                    if b == 2:
                        words = u[g].reshape(16, 4, 16) if is_values else u[g]
                        axis = 2 if is_values else 0
                        u[g] = kv.trellis_u(np.roll(words, 1, axis), words).reshape(16, 64)
                    u[g] = kv.level(8 * u[g] if b == 1 else u[g], b) if b else 0
                self.case.levels[key].append((u.reshape(-1, 64), scales.astype(float)))
        return self.case.levels[key]

    def factors(self, is_values, n_parts):
        """[n_parts][D]: what a level is worth to a reader of so many parts, but for the scale."""
        parts = self.parts(is_values)
        gain = parts[n_parts - 1][2].astype(float)
        return [np.repeat(unit.astype(float) * gain, 16) for _, unit, _ in parts[:n_parts]]

    def decoded(self, is_values, n_parts):
        """z [D][64] as a reader understands it."""
        levels = self.levels(is_values)[:n_parts]
        total = sum(f[:, None] * x for f, (x, _) in zip(self.factors(is_values, n_parts), levels))
        return total * levels[-1][1]


class Case:
    def __init__(self, path, layers, heads, kv_heads, dim, form, recent, tokens, sinks, tables, chunk, level):
        self.layers, self.heads, self.kv_heads, self.dim = layers, heads, kv_heads, dim
        self.form, self.recent, self.tokens, self.is_identity = form, recent, tokens, tables == "identity"
        self.data = dump(path, level, layers, heads, kv_heads, dim, form, recent, tokens, sinks, tables, chunk)
        self.q, self.k, self.v = self.array("q", heads), self.array("k", kv_heads), self.array("v", kv_heads)
        self.out = self.array("out", heads)
        self.n_parts, self.n_old_parts = map(int, self.data.get("n_parts", (0, 0)))
        self.levels = {}
        self.masks = []
        for b in range(tokens // 64 if self.n_parts else 0):
            mask = np.zeros(64, bool)
            if b == 0:
                mask[:sinks] = True
            if b % 3 == 1:
                mask[[5, 17, 63]] = True
            self.masks.append(mask)

    def array(self, name, heads):
        return self.data[name].reshape(self.layers, self.tokens, heads, self.dim).astype(float)

    def pages(self, n_blocks=None):
        n_blocks = len(self.masks) if n_blocks is None else n_blocks
        return [
            Page(self, b, layer, head)
            for b in range(n_blocks)
            for layer in range(self.layers)
            for head in range(self.kv_heads)
        ]

    def coded_attention(self, page, n_parts, q):
        """Of a coded block: scores, exact and with the roundings that the kernels define (queries to int8); levels of
        the values per part, to be multiplied with weights and factors; their scales."""
        q_frame = rope(q[None], [page.frame * FRAME], -1)[0]
        mean = rope(np.broadcast_to(page.table64("key_mean"), (64, self.dim)), page.offsets) @ q_frame
        mixed = q_frame @ page.table64("query_transform")
        exact, rounded = np.zeros(64), np.zeros(64)
        keys = page.levels(False)[:n_parts]
        for factor, (levels, scales) in zip(page.factors(False, n_parts), keys):
            x = mixed * factor
            step = np.abs(x).max() / 127
            exact += x @ levels
            rounded += (np.rint(x / step) * step) @ levels
        return exact * keys[-1][1] + mean, rounded * keys[-1][1] + mean

    def coded_values(self, page, n_parts, weights):
        levels = page.levels(True)[:n_parts]
        x = sum(f * (levels @ weights) for f, (levels, _) in zip(page.factors(True, n_parts), levels))
        return x @ page.table64("value_transform")

    def attention(self, layer, head, row):
        """softmax(q k / sqrt D) v over what the row sees, exact and as rounded."""
        own = row // 64
        q = self.q[layer, row, head] / np.sqrt(self.dim)
        kv_head = head // (self.heads // self.kv_heads)
        outs, sums, peak = np.zeros((2, self.dim)), np.zeros(2), 20.0

        def add_half(keys, values):
            p = np.exp(keys @ q - peak)
            outs[:] += p @ values
            sums[:] += p.sum()

        for b in range(own):
            page = Page(self, b, layer, kv_head)
            keys, values = page.half64()
            if not self.n_parts:
                add_half(keys, values)
                continue
            mask = self.masks[b]
            add_half(keys[mask], values[mask])
            n_parts = self.n_parts if own - b <= self.recent else self.n_old_parts
            for i, scores in enumerate(self.coded_attention(page, n_parts, q)):
                p = np.where(mask, 0, np.exp(scores - peak))
                weights = p * page.levels(True)[n_parts - 1][1]
                if i == 1:
                    step = weights.max() / 255
                    weights = np.rint(weights / step) * step
                outs[i] += self.coded_values(page, n_parts, weights) + p.sum() * page.table64("value_mean")
                sums[i] += p.sum()
        keys, values = Page(self, own, layer, kv_head).half64()
        add_half(keys[: row % 64 + 1], values[: row % 64 + 1])
        return outs / sums[:, None]


CASES = [
    # layers heads kv_heads dim format recent tokens sinks tables chunk
    (1, 3, 1, 64, "f16", 0, 333, 0, "identity", 64),
    (2, 6, 2, 32, "o2", 2, 700, 4, "identity", 100),
    (1, 3, 1, 64, "o4", 0, 400, 4, "identity", 17),
    (1, 6, 1, 128, "o2", 0, 330, 4, "identity", 512),
    (2, 4, 2, 64, "mixed", 1, 400, 0, "identity", 33),
    (1, 2, 1, 80, "o2", 1, 300, 4, "identity", 64),
    (3, 4, 2, 48, "mixed", 1, 330, 4, "dense", 50),
    (1, 4, 2, 64, "o2", 1, 400, 4, "means", 64),
    (1, 2, 2, 16, "mixed", 0, 1200, 1, "identity", 1200),
    (1, 16, 1, 96, "o4", 0, 200, 4, "means", 40),
    (1, 2, 1, 256, "mixed", 1, 200, 4, "means", 200),
]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join(map(str, case)))
def case(request, tmp_path_factory):
    return Case(tmp_path_factory.mktemp("kv") / "dump", *request.param, level="auto")


def test_half_pages_hold_keys_and_values(case):
    for page in case.pages((case.tokens + 63) // 64):
        tokens = slice(64 * page.block, min(64 * page.block + 64, case.tokens))
        n = tokens.stop - tokens.start
        keys, values = page.half()
        assert np.array_equal(keys.T[:n], case.k[page.layer, tokens, page.head].astype(np.float16))
        assert np.array_equal(values[:n], case.v[page.layer, tokens, page.head].astype(np.float16))


def test_angles_are_those_of_the_model(case):
    n = case.dim // 2
    frequency = 10000.0 ** (-np.arange(n) / n)
    for name, function in (("cos", np.cos), ("sin", np.sin)):
        frames = case.data[f"frame_{name}"].reshape(-1, n)
        assert np.allclose(frames, function(np.arange(len(frames))[:, None] * FRAME * frequency), atol=1e-7)
        offsets = case.data[f"rope_{name}"].reshape(n, FRAME)
        assert np.allclose(offsets, function(np.arange(FRAME) * frequency[:, None]), atol=1e-7)


@pytest.mark.parametrize("is_values", [False, True])
def test_transforms_are_mathematics(case, is_values):
    for page in case.pages():
        z, expected = page.z(is_values), page.z64(is_values)
        assert np.abs(z - expected).max() < 3e-6 * np.abs(expected).max()


def test_pages_to_the_bit(case):
    for page in case.pages():
        keys, values = page.encoded(False), page.encoded(True)
        for p in range(case.n_parts):
            expected = kv.pack(keys[p][0], page.parts(False)[p][0], False)
            expected += kv.pack(values[p][0], page.parts(True)[p][0], True)
            expected += keys[p][1].tobytes() + values[p][1].tobytes()
            assert page.part_bytes(p).tobytes() == expected


@pytest.mark.parametrize("is_values", [False, True])
def test_scales_make_the_projection_unbiased(case, is_values):
    for page in case.pages():
        z, weight = page.z64(is_values), np.repeat(page.weight(is_values), 16)[:, None]
        for p in range(case.n_parts):
            is_coded = np.repeat(np.any([bits for bits, _, _ in page.parts(is_values)[: p + 1]], 0), 16)
            found = (weight * z * page.decoded(is_values, p + 1))[is_coded].sum(0)
            assert np.allclose(found, (weight * z * z)[is_coded].sum(0), rtol=2**-10)


def test_sinks_are_copies(case):
    for page in case.pages():
        keys, values = page.half()
        for s, t in enumerate(np.flatnonzero(case.masks[page.block])):
            sink = case.data[f"sink.{page.block}.{s}"].reshape(-1, 2, case.dim)[page.index]
            assert np.array_equal(sink[0], keys[:, t])
            assert np.array_equal(sink[1], values[t])


def test_unsealed_pages_are_what_a_reader_understands(case):
    for page in case.pages():
        exact = page.half64()
        for p in range(case.n_parts):
            keys = np.linalg.solve(page.table64("key_transform"), page.decoded(False, p + 1)).T
            keys += rope(np.broadcast_to(page.table64("key_mean"), keys.shape), page.offsets)
            keys = rope(keys, np.full(64, page.frame * FRAME))
            values = page.decoded(True, p + 1).T @ page.table64("value_transform") + page.table64("value_mean")
            for expected, found, sinks in zip((keys, values), page.half64(f"unsealed.{p}"), exact):
                mask = case.masks[page.block][:, None]
                expected = np.where(mask, sinks, expected)
                assert np.abs(found - expected).max() < 1e-3 * np.abs(expected).max()


def test_scores_within_a_thousandth(case):
    """Of |query| |key|, root mean square, for all that rounding the queries to int8 does."""
    errors = []
    for page in case.pages():
        for row in range(64 * page.block + 64, case.tokens, 61):
            q = case.q[page.layer, row, page.head * (case.heads // case.kv_heads)]
            q_frame = rope(q[None], [page.frame * FRAME], -1)[0]
            length = np.linalg.norm(q_frame @ page.table64("query_transform"))
            for n_parts in range(1, case.n_parts + 1):
                exact, rounded = case.coded_attention(page, n_parts, q)
                key_length = np.linalg.norm(page.decoded(False, n_parts), axis=0)
                errors.append((rounded - exact) / (length * key_length))
    # Few channels average less out, and random tables give the query outliers.
    limit = 1e-3 if case.is_identity and case.dim >= 64 else 1.3e-3
    assert not errors or np.sqrt(np.mean(np.square(errors))) < limit


def test_attention_over_the_pages(case):
    """Exact mathematics within what int8 queries and u8 weights cost (the outputs are averages of up to hundreds of
    random values, so an error of 1 % of one value shows in full); their rounding redone, within fp32."""
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
    # The random transforms and means of the other tables make scores of tens, whose softmax falls on a token or two.
    assert max(exact_errors) < (2e-6 if case.form == "f16" else 2.5e-2 if case.is_identity else 1.5e-1)
    # A value at a rounding boundary may go the other way than in float64, which costs one step of 127 or 255.
    assert np.median(rounded_errors) < 5e-6
    assert max(rounded_errors) < (3e-3 if case.is_identity else 2e-2)
