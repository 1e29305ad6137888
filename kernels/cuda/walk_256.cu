#include "kernels/cuda/walk_kernel.cuh"

template cudaError_t walk_launch<256>(const cuda_walk &walk, cudaStream_t stream);
