#include "kernels/cpu/kv_write_simd.h"

const struct kv_kernels kv_kernels_avx2 = {
    .half_to_float = half_to_float,
    .float_to_half = float_to_half,
    .mix = mix,
    .group_norms = group_norms,
    .tile_encode = tile_encode,
    .trellis = kv_trellis_simd,
};
