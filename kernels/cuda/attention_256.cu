#include "kernels/cuda/attention.cuh"

template cudaError_t tiles_launch<256>(const cuda_attention *args, partial_layout layout, int first, int n,
                                       int stage_bytes, int mean_columns, float *partials,
                                       cudaStream_t stream);
