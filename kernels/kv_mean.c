#include "kernels/kv_mean.h"

#include <math.h>

size_t kv_mean_basis_count(int head_dim, int frame_tokens)
{
    size_t n_pairs = (size_t)head_dim / 2;
    return n_pairs * (2 + (size_t)frame_tokens + 2 * KV_MEAN_TERMS);
}

/* How many leading pairs turn too far to be polynomials; all of them where polynomials would not be fewer. */
static int fast_pairs(int n_pairs, double from_centre, const double *inv_freq)
{
    int n_fast = n_pairs;
    while (n_fast > 0 && inv_freq[n_fast - 1] * from_centre < KV_MEAN_RADIANS) n_fast--;
    return n_pairs - n_fast > KV_MEAN_TERMS ? n_fast : n_pairs;
}

void kv_mean_basis_fill(struct kv_mean_basis *basis, int head_dim, int frame_tokens, const double *inv_freq,
                        float *memory)
{
    int n_pairs = head_dim / 2, n_places = frame_tokens / 2;
    double radius = n_places;
    int n_fast = fast_pairs(n_pairs, radius, inv_freq), n_terms = n_fast < n_pairs ? KV_MEAN_TERMS : 0;
    float *centre_cos = memory, *centre_sin = centre_cos + n_pairs, *even = centre_sin + n_pairs;
    float *odd = even + (n_fast + n_terms) * n_places, *even_terms = odd + (n_fast + n_terms) * n_places;
    float *odd_terms = even_terms + (n_pairs - n_fast) * KV_MEAN_TERMS;
    for (int i = 0; i < n_pairs; i++) {
        centre_cos[i] = (float)cos((radius - .5) * inv_freq[i]);
        centre_sin[i] = (float)sin((radius - .5) * inv_freq[i]);
    }
    for (int place = 0; place < n_places; place++) {
        double s = place + .5, angle = acos(s / radius); /* T_n(cos angle) = cos(n angle) */
        for (int i = 0; i < n_fast; i++) {
            even[i * n_places + place] = (float)cos(s * inv_freq[i]);
            odd[i * n_places + place] = (float)sin(s * inv_freq[i]);
        }
        for (int j = 0; j < n_terms; j++) {
            even[(n_fast + j) * n_places + place] = (float)cos(2 * j * angle);
            odd[(n_fast + j) * n_places + place] = (float)cos((2 * j + 1) * angle);
        }
    }
    for (int i = n_fast; i < n_pairs; i++) {
        double z = inv_freq[i] * radius;
        for (int j = 0; j < KV_MEAN_TERMS; j++) {
            int at = (i - n_fast) * KV_MEAN_TERMS + j, sign = j % 2 ? -1 : 1;
            even_terms[at] = (float)(sign * jn(2 * j, z) * (j ? 2 : 1));
            odd_terms[at] = (float)(sign * jn(2 * j + 1, z) * 2);
        }
    }
    *basis = (struct kv_mean_basis){.n_fast = n_fast,
                                    .n_terms = n_terms,
                                    .centre_cos = centre_cos,
                                    .centre_sin = centre_sin,
                                    .even = even,
                                    .odd = odd,
                                    .even_terms = even_terms,
                                    .odd_terms = odd_terms};
}
