#include "kernels/kv_mean.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

/* cos(w o) and sin(w o) of one pair from the basis, in double: what the centre's turn, symmetry and terms
   make of a mean that has this pair alone. */
static double from_basis(const struct kv_mean_basis *basis, int frame_tokens, int pair, int o, double cosine,
                         double sine)
{
    int n_places = frame_tokens / 2, is_late = o >= n_places, s = is_late ? o - n_places : n_places - 1 - o;
    double c = basis->centre_cos[pair], d = basis->centre_sin[pair];
    double even_factor = cosine * c + sine * d, odd_factor = sine * c - cosine * d, even = 0, odd = 0;
    if (pair < basis->n_fast) {
        even = basis->even[pair * n_places + s];
        odd = basis->odd[pair * n_places + s];
    } else {
        for (int j = 0; j < basis->n_terms; j++) {
            int term = (pair - basis->n_fast) * KV_MEAN_TERMS + j, row = (basis->n_fast + j) * n_places + s;
            even += (double)basis->even_terms[term] * basis->even[row];
            odd += (double)basis->odd_terms[term] * basis->odd[row];
        }
    }
    return even_factor * even + (is_late ? 1 : -1) * odd_factor * odd;
}

static void check_basis(int head_dim, int frame_tokens, double base)
{
    double inv_freq[128], worst = 0;
    for (int i = 0; i < head_dim / 2; i++) inv_freq[i] = pow(base, -2.0 * i / head_dim);
    float *memory = malloc(kv_mean_basis_count(head_dim, frame_tokens) * sizeof *memory);
    assert_non_null(memory);
    struct kv_mean_basis basis;
    kv_mean_basis_fill(&basis, head_dim, frame_tokens, inv_freq, memory);
    assert_true(basis.n_fast + basis.n_terms <= head_dim / 2);
    for (int i = 0; i < head_dim / 2; i++) {
        for (int o = 0; o < frame_tokens; o++) {
            double angle = o * inv_freq[i];
            worst = fmax(worst, fabs(from_basis(&basis, frame_tokens, i, o, 1, 0) - cos(angle)));
            worst = fmax(worst, fabs(from_basis(&basis, frame_tokens, i, o, 0, 1) - sin(angle)));
        }
    }
    free(memory);
    assert_true(worst < 5e-7);
}

static void basis_is_exact_to_fp32(void **state)
{
    (void)state;
    static const int head_dims[] = {16, 48, 64, 80, 128, 256}, frames[] = {64, 192, 256};
    static const double bases[] = {100, 1e4, 1e5, 1e6, 1e7};
    for (size_t d = 0; d < sizeof head_dims / sizeof *head_dims; d++)
        for (size_t f = 0; f < sizeof frames / sizeof *frames; f++)
            for (size_t b = 0; b < sizeof bases / sizeof *bases; b++)
                check_basis(head_dims[d], frames[f], bases[b]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(basis_is_exact_to_fp32)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
