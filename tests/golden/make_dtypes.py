#!/usr/bin/env python3
"""Records tests/golden/dtypes.golden: blocks of random bytes in every GGUF type that octavo reads, and what the
`gguf` package makes of them. Needs numpy and gguf.

The file: for each type, little-endian u32 type, u32 number of elements, u32 bytes; then the bytes, then the
elements in fp32."""
import pathlib
import struct

import gguf
import numpy as np

TYPES = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"]
HALVES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}

rng = np.random.default_rng(20261124)
with open(pathlib.Path(__file__).parent / "dtypes.golden", "wb") as out:
    for name in TYPES:
        dtype = gguf.GGMLQuantizationType[name]
        elements, size = gguf.GGML_QUANT_SIZES[dtype]
        n_blocks = max(4, 64 // elements)
        blocks = rng.integers(0, 256, (n_blocks, size), dtype=np.uint8)
        for at in HALVES.get(name, []):
            scales = (rng.standard_normal(n_blocks) * 0.05).astype(np.float16)
            scales[0] = np.float16(6e-8)  # a subnormal
            blocks[:, at : at + 2] = scales.view(np.uint8).reshape(n_blocks, 2)
        if name == "F32":
            blocks = rng.standard_normal(n_blocks).astype("<f4").view(np.uint8).reshape(n_blocks, 4)
        if name in ("F16", "BF16"):
            blocks[:, 1] &= 0xBF  # neither infinities nor NaN
        values = gguf.quants.dequantize(blocks.reshape(1, -1), dtype).astype("<f4").reshape(-1)
        assert values.size == n_blocks * elements and np.isfinite(values).all()
        out.write(struct.pack("<III", int(dtype), values.size, blocks.size))
        out.write(blocks.tobytes())
        out.write(values.tobytes())
