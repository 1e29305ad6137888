#ifndef KERNELS_CPU_EXP_H
#define KERNELS_CPU_EXP_H

#include <math.h>
#include <stdint.h>
#include <string.h>

/*
 * exp(x) in fp32: the reference, operation for operation, of exp_avx2.h.
 *
 * x = n ln2 + r with |r| <= ln2/2; n comes from adding 1.5 * 2^23, which rounds to nearest even and leaves
 * n in the low bits; r by two fmaf with ln2 in a high part and a rest; exp(r) by the polynomial of degree 6
 * whose relative error on that range is 3e-9 before rounding (measured result: within 1 ulp); times 2^n by
 * adding n to the exponent. Arguments below -87 give 0, above 88 give exp(88): no infinities, no subnormals.
 */
#define EXP_LOWEST  -87.0f
#define EXP_HIGHEST 88.0f
#define EXP_LOG2E   0x1.715476p+0f
#define EXP_ROUND   0x1.8p+23f
#define EXP_LN2_HI  0x1.62e4p-1f
#define EXP_LN2_LO  0x1.7f7d1cp-20f
#define EXP_C6      0x1.6a23cep-10f
#define EXP_C5      0x1.123a2p-7f
#define EXP_C4      0x1.5558f2p-5f
#define EXP_C3      0x1.555492p-3f
#define EXP_C2      0x1.fffffcp-2f

static inline float exp_scalar(float x)
{
    float bounded = x < EXP_HIGHEST ? x : EXP_HIGHEST; /* as minps, maxps: a NaN takes the bound */
    bounded = bounded > EXP_LOWEST ? bounded : EXP_LOWEST;
    float shifted = fmaf(bounded, EXP_LOG2E, EXP_ROUND);
    float n = shifted - EXP_ROUND;
    float r = fmaf(n, -EXP_LN2_HI, bounded);
    r = fmaf(n, -EXP_LN2_LO, r);
    float p = fmaf(EXP_C6, r, EXP_C5);
    p = fmaf(p, r, EXP_C4);
    p = fmaf(p, r, EXP_C3);
    p = fmaf(p, r, EXP_C2);
    p = fmaf(p, r, 1.0f);
    p = fmaf(p, r, 1.0f);
    uint32_t shifted_bits, bits;
    memcpy(&shifted_bits, &shifted, sizeof shifted_bits);
    memcpy(&bits, &p, sizeof bits);
    bits += shifted_bits << 23;
    memcpy(&p, &bits, sizeof p);
    return x < EXP_LOWEST ? 0.0f : p;
}

#endif
