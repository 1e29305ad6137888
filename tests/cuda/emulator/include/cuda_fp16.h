#ifndef EMULATOR_CUDA_FP16_H
#define EMULATOR_CUDA_FP16_H

/* fp16 as octavo's kernels use it. Needs a processor with F16C. */
#include <cuda_runtime.h>
#include <immintrin.h>
#include <string.h>

struct __half {
    unsigned short bits;
};

struct alignas(4) __half2 {
    __half x, y;
};

typedef __half half;
typedef __half2 half2;

static inline __half __ushort_as_half(unsigned short bits)
{
    return __half{bits};
}
static inline unsigned short __half_as_ushort(__half x)
{
    return x.bits;
}
static inline float __half2float(__half x)
{
    return _cvtsh_ss(x.bits);
}
static inline __half __float2half_rn(float x)
{
    return __half{_cvtss_sh(x, 0)};
}
static inline __half __float2half(float x)
{
    return __float2half_rn(x);
}

/* Rounded once: the sum of a product of two fp16 numbers and a third is exact in double precision, or so far
   from a tie that the rest does not matter. */
static inline __half emulated_half(double x)
{
    _Float16 rounded = (_Float16)x;
    __half out;
    memcpy(&out, &rounded, sizeof out);
    return out;
}

static inline __half __hadd(__half a, __half b)
{
    return __float2half_rn(__half2float(a) + __half2float(b));
}
static inline __half __hmul(__half a, __half b)
{
    return __float2half_rn(__half2float(a) * __half2float(b));
}
static inline __half __hfma(__half a, __half b, __half c)
{
    return emulated_half((double)__half2float(a) * (double)__half2float(b) + (double)__half2float(c));
}

static inline __half2 __floats2half2_rn(float x, float y)
{
    return __half2{__float2half_rn(x), __float2half_rn(y)};
}
static inline __half2 __halves2half2(__half x, __half y)
{
    return __half2{x, y};
}
static inline __half2 __half2half2(__half x)
{
    return __half2{x, x};
}
static inline __half __low2half(__half2 x)
{
    return x.x;
}
static inline __half __high2half(__half2 x)
{
    return x.y;
}
static inline float __low2float(__half2 x)
{
    return __half2float(x.x);
}
static inline float __high2float(__half2 x)
{
    return __half2float(x.y);
}
static inline float2 __half22float2(__half2 x)
{
    return float2{__half2float(x.x), __half2float(x.y)};
}
static inline __half2 __hadd2(__half2 a, __half2 b)
{
    return __half2{__hadd(a.x, b.x), __hadd(a.y, b.y)};
}
static inline __half2 __hmul2(__half2 a, __half2 b)
{
    return __half2{__hmul(a.x, b.x), __hmul(a.y, b.y)};
}
static inline __half2 __hfma2(__half2 a, __half2 b, __half2 c)
{
    return __half2{__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)};
}

#endif
