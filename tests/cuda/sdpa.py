#!/usr/bin/env python3
"""Decode attention of PyTorch on the card, in the shapes of cuda_bench: sdpa.py [SHAPE ...]

One new token for each sequence over contiguous fp16 keys and values, by cuDNN and by FlashAttention; the faster of the two is
what docs/cuda.md compares with. Median of 21 launches, timed by events of the card, after three that are not counted.
"""
import sys

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

SHAPES = [(16, 32, 8, 32768), (64, 32, 8, 8192), (128, 32, 8, 4096), (64, 28, 4, 8192), (8, 64, 8, 32768), (1, 32, 8, 131072)]
PEERS = {"cuDNN": SDPBackend.CUDNN_ATTENTION, "FlashAttention": SDPBackend.FLASH_ATTENTION}
HEAD_DIM = 128


def median_us(query, key, value, peer):
    times = []
    with sdpa_kernel(peer):
        for i in range(24):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            torch.nn.functional.scaled_dot_product_attention(query, key, value, enable_gqa=query.shape[1] != key.shape[1])
            end.record()
            torch.cuda.synchronize()
            if i >= 3:
                times.append(start.elapsed_time(end) * 1e3)
    return sorted(times)[len(times) // 2]


def main():
    wanted = [int(number) - 1 for number in sys.argv[1:]] or range(len(SHAPES))
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}")
    for sequences, heads, kv_heads, context in (SHAPES[i] for i in wanted):
        key, value = (torch.randn(sequences, kv_heads, context, HEAD_DIM, device="cuda", dtype=torch.float16) for _ in range(2))
        query = torch.randn(sequences, heads, 1, HEAD_DIM, device="cuda", dtype=torch.float16)
        said = []
        for name, peer in PEERS.items():
            try:
                said.append(f"{name} {median_us(query, key, value, peer):.1f} us")
            except RuntimeError as error:
                said.append(f"{name} fails: {str(error).splitlines()[0]}")
        print(f"sdpa ({sequences},{heads},{kv_heads},{context}): {', '.join(said)}", flush=True)
        del key, value, query


if __name__ == "__main__":
    main()
