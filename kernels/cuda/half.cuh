#ifndef KERNELS_CUDA_HALF_CUH
#define KERNELS_CUDA_HALF_CUH

#include <cuda_fp16.h>

/* What the CPU writes to pages in fp16: nothing becomes infinite. */
__device__ static inline __half half_saturated(float x)
{
    x = x > -65504.0f ? x : -65504.0f;
    x = x < 65504.0f ? x : 65504.0f;
    return __float2half_rn(x);
}

#endif
