#ifndef KERNELS_KV_MEAN_H
#define KERNELS_KV_MEAN_H

#include <stddef.h>

/*
 * The score of the keys' mean at every offset of a frame, cheaply.
 *
 * A reader owes each token of a frame <q_frame, R_o mean>, o = 0..F-1 (kernels/kv_codec.h): a sum of
 * head_dim / 2 cosines and as many sines in o, at 256 places. Two things make it a quarter of the work. About
 * the frame's centre c = (F - 1) / 2 cosines are even and sines odd, so o = c + s and o = c - s need the same
 * two sums E(s) and O(s), s = 1/2, 3/2, ...: their sum and difference. And most pairs turn slowly: what
 * turns less than KV_MEAN_RADIANS from the centre to the end of the frame is, to fp32, a polynomial in s / (F
 * / 2) of 8 even and 8 odd Chebyshev terms, whose factors are Bessel functions (Abramowitz and Stegun 9.1.44
 * ff.):
 *
 *   cos(z x) = J_0(z) + 2 sum_j (-1)^j J_2j(z) T_2j(x),   sin(z x) = 2 sum_j (-1)^j J_2j+1(z) T_2j+1(x)
 *
 * The first term left out is under 2e-7.
 */
enum { KV_MEAN_TERMS = 8 };
#define KV_MEAN_RADIANS 5.0

struct kv_mean_basis {
    int n_fast;  /* pairs [0, n_fast) are taken as they are, the others as polynomials */
    int n_terms; /* KV_MEAN_TERMS, or 0 when all pairs are taken as they are */
    const float *centre_cos, *centre_sin; /* [head_dim/2]: angle of the centre */
    const float *even, *odd; /* [n_fast + n_terms][F/2]: cosines and even terms; sines and odd terms */
    /* [head_dim/2 - n_fast][KV_MEAN_TERMS]: factors of the terms that a slow pair is made of */
    const float *even_terms, *odd_terms;
};

/* Memory: kv_mean_basis_count floats, which live as long as the basis. inv_freq [head_dim/2] does not
   increase. */
size_t kv_mean_basis_count(int head_dim, int frame_tokens);
void kv_mean_basis_fill(struct kv_mean_basis *basis, int head_dim, int frame_tokens, const double *inv_freq,
                        float *memory);

#endif
