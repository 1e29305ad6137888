"""The coded cache format in NumPy, from the words of kernels/kv_codec.h and kernels/cpu/kv_write.h: to the bit where
they fix the order of fp32 operations, in float64 elsewhere."""

import numpy as np

TOKENS, GROUP = 64, 16
F32 = np.float32


def fma(a, b, c):
    """fmaf of float32 arrays: product exact and sum rounded to odd in float64, so that the rounding to float32 is the
    only one that counts."""
    product = a.astype(float) * b.astype(float)
    c = np.broadcast_to(np.asarray(c, float), product.shape)
    total = product + c
    part = total - product
    error = (product - (total - part)) + (c - part)
    bits = total.view(np.int64)
    is_even = (bits & 1 == 0) & (error != 0)
    away = np.where((error > 0) == (total > 0), 1, -1)
    return np.where(is_even, bits + away, bits).view(float).astype(F32)


def half(x):
    """float32 to fp16, saturated."""
    return np.clip(x, F32(-65504), F32(65504)).astype(np.float16)


def fma_sum(a, b):
    """sum_i a_i b_i over the first axis, increasing i."""
    total = np.zeros(np.broadcast_shapes(a.shape, b.shape)[1:], F32)
    for i in range(len(a)):
        total = fma(*np.broadcast_arrays(a[i], b[i]), total)
    return total


# ---- transforms of a page, columns [D][64] of float32 ----


def mix(matrix, x):
    return fma_sum(matrix.T[:, :, None], x[:, None, :])


def fast_hadamard(x):
    stride = 1
    while stride < len(x):
        pairs = x.reshape(-1, 2, stride, x.shape[1])
        x = np.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], 1).reshape(x.shape)
        stride *= 2
    return x * (F32(1) / np.sqrt(F32(len(x))))


def rotate_back(x, cosines, sines):
    a, b = x[: len(x) // 2], x[len(x) // 2 :]
    c, s = cosines[:, None], sines[:, None]
    return np.concatenate([a * c + b * s, b * c - a * s])


def subtract_key_mean(x, mean, cosines, sines):
    """cosines, sines [D/2][64]: of the tokens' offsets in the frame."""
    a, b = -mean[: len(mean) // 2, None], -mean[len(mean) // 2 :, None]
    return x + np.concatenate([a * cosines - b * sines, b * cosines + a * sines])


# ---- codes ----


def trellis_u(previous, code):
    return 5 * (code >> 1) + 3 * (code & 1) + 4 * (previous & 1) + 3 * (1 - (previous >> 1))


def trellis(x):
    """Words x [16][...] of integers to codes: the least sum of (x - 4 level)^2; of equals the lowest previous state at
    each step, then the lowest start."""
    n_steps, shape = len(x), x.shape[1:]
    x = x.reshape(n_steps, -1).astype(int)
    costs = {u: 2 * (2 * u - 15) ** 2 - x * (2 * u - 15) for u in range(16)}
    best, chosen = None, None
    for start in range(4):
        sums = np.stack([costs[trellis_u(start, code)][0] for code in range(4)])
        before = [np.full((4, x.shape[1]), start)]
        for step in range(1, n_steps):
            paths = np.stack(
                [[sums[p] + costs[trellis_u(p, code)][step] for code in range(4)] for p in range(4)]
            )
            before.append(paths.argmin(0))
            sums = paths.min(0)
        codes, code = [], np.full(x.shape[1], start)
        for step in reversed(range(n_steps)):
            codes.insert(0, code)
            code = np.take_along_axis(before[step], code[None], 0)[0]
        codes = np.stack(codes)
        if best is None:
            best, chosen = sums[start], codes
        else:
            chosen = np.where(sums[start] < best, codes, chosen)
            best = np.minimum(best, sums[start])
    return chosen.reshape(n_steps, *shape)


def group_encode(e, bits, is_values):
    """e [16][64] of one group to (what is stored, u), both [16][64]: stored 0/1, 2-bit codes or 4-bit codes."""
    if bits == 1:
        stored = (e >= 0).astype(int)
        return stored, 8 * stored
    if bits == 4:
        u = np.clip(np.floor(e * F32(0.5)), -8, 7).astype(int) + 8
        return u, u
    x = np.rint(np.clip(e * F32(4), -96, 96)).astype(int)
    if is_values:  # words run along 16 tokens
        words = x.reshape(GROUP, 4, 16).transpose(2, 0, 1)
        codes = trellis(words)
        u = trellis_u(np.roll(codes, 1, 0), codes)
        return tuple(y.transpose(1, 2, 0).reshape(GROUP, TOKENS) for y in (codes, u))
    codes = trellis(x)
    return codes, trellis_u(np.roll(codes, 1, 0), codes)


def level(u, bits):
    return 2 * u - (8 if bits == 1 else 15)


def encode(z, parts, weight, is_values):
    """z [D][64] -> per part: what is stored [D][64] and the scales [64] in fp16. parts: [(bits, unit, gain)]."""
    groups = z.reshape(-1, GROUP, TOKENS)
    zz = [fma_sum(g, g) for g in groups]
    first = [g for g, bits in enumerate(parts[0][0]) if bits]
    norm = np.zeros(TOKENS, F32)
    for g in first:
        norm = norm + zz[g]
    is_some = norm >= F32(1e-30)
    with np.errstate(divide="ignore", invalid="ignore"):
        r = np.where(is_some, np.sqrt(norm / F32(GROUP * len(first))), F32(0))
        y = groups * np.where(is_some, F32(1) / r, F32(0))
    zy, coded, result = [np.zeros(TOKENS, F32) for _ in zz], set(), []
    for bits, unit, gain in parts:
        stored = np.zeros(groups.shape, int)
        for g in np.flatnonzero(bits):
            coded.add(int(g))
            stored[g], u = group_encode(y[g] * (F32(1) / unit[g]), bits[g], is_values)
            levels = level(u, bits[g]).astype(F32)
            zy[g] = zy[g] + unit[g] * fma_sum(groups[g], levels)
            y[g] = fma(np.broadcast_to(-unit[g], levels.shape), levels, y[g])
        num, den = np.zeros(TOKENS, F32), np.zeros(TOKENS, F32)
        for g in sorted(coded):
            num = num + weight[g] * zz[g]
            den = den + (weight[g] * gain[g]) * zy[g]
        with np.errstate(divide="ignore", invalid="ignore"):
            scale = np.where(den > 0, np.minimum(num / den, F32(32) * r), F32(0))
        result.append((stored.reshape(-1, TOKENS), half(scale)))
    return result


# ---- geometry ----


def row_bytes(stored, bits):
    """stored [rows][16] of one group of columns -> [runs][rows][4] bytes; of 1 bit half a run."""
    by_byte = stored.reshape(len(stored), 4, 4)
    if bits == 4:
        return np.stack([by_byte[:, :, 2 * run] | by_byte[:, :, 2 * run + 1] << 4 for run in range(2)])
    return (by_byte << (bits * np.arange(4))).sum(2)[None]


def row_tile_runs(groups):
    """The runs of eight rows; groups: [(stored [8][16], bits)]. Groups of 1 bit share runs in pairs."""
    runs, open_run = [], None
    for stored, bits in groups:
        new = row_bytes(stored, bits)
        if bits != 1:
            runs += list(new)
        elif open_run is None:
            open_run = new[0]
            runs.append(open_run)
        else:
            open_run |= new[0] << 4
            open_run = None
    return b"".join(run.astype(np.uint8).tobytes() for run in runs)


def pack(stored, bits, is_values):
    """stored [D][64] to the bytes of a page."""
    tiles = []
    if is_values:
        for row in range(0, len(stored), 8):
            b = bits[row // GROUP]
            tiles.append([(stored[row : row + 8, t : t + 16], b) for t in range(0, TOKENS, 16) if b])
    else:
        for t in range(0, TOKENS, 8):
            groups = [(stored[GROUP * g : GROUP * (g + 1), t : t + 8].T, b) for g, b in enumerate(bits) if b]
            tiles.append(groups)
    return b"".join(map(row_tile_runs, tiles))
