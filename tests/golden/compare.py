#!/usr/bin/env python3
"""KL divergence of our logits (tests/tools/logits) from a golden file: compare.py NAME.golden LOGITS.bin"""
import struct
import sys

import numpy as np

data = open(sys.argv[1], "rb").read()
assert data[:4] == b"OGLD"
_, n, n_top, _, _ = struct.unpack("<5I", data[4:24])
at = 24 + 4 * n
ids = np.frombuffer(data, "<i4", n * n_top, at).reshape(n, n_top)
want = np.frombuffer(data, "<f4", n * n_top, at + 4 * n * n_top).reshape(n, n_top).astype(np.float64)
rest = np.frombuffer(data, "<f4", n, at + 8 * n * n_top).astype(np.float64)
ours = np.fromfile(sys.argv[2], "<f4").reshape(n, -1).astype(np.float64)
peak = ours.max(-1, keepdims=True)
ours -= peak + np.log(np.exp(ours - peak).sum(-1, keepdims=True))
got = np.take_along_axis(ours, ids, -1)
np.put_along_axis(ours, ids, -np.inf, -1)
got_rest = np.log(np.exp(ours).sum(-1))
kl = (np.exp(want) * (want - got)).sum(-1) + np.exp(rest) * (rest - got_rest)
same = (got[:, 0] >= got.max(-1)) & (got[:, 0] >= ours.max(-1))
print(f"KL mean {kl.mean():.6f}, largest {kl.max():.4f}; same first choice {same.mean():.4f}")
