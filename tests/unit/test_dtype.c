#include "kernels/dtype.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Every type against what the `gguf` package makes of the same bytes (tests/golden/make_dtypes.py), to the
 * bit. */
static void test_golden(void **state)
{
    (void)state;
    FILE *file = fopen("tests/golden/dtypes.golden", "rb");
    assert_non_null(file);
    uint32_t head[3];
    int n_types = 0;
    while (fread(head, sizeof *head, 3, file) == 3) {
        uint32_t dtype = head[0], n = head[1], bytes = head[2];
        assert_non_null(dtype_name(dtype));
        assert_int_equal(bytes, n / dtype_block_elements(dtype) * dtype_block_bytes(dtype));
        void *source = malloc(bytes);
        float *expected = malloc(n * sizeof *expected), *out = malloc(n * sizeof *out);
        assert_true(source && expected && out);
        assert_int_equal(fread(source, 1, bytes, file), bytes);
        assert_int_equal(fread(expected, sizeof *expected, n, file), n);
        dtype_to_f32((enum dtype)dtype, source, n, out);
        for (uint32_t i = 0; i < n; i++)
            if (memcmp(&out[i], &expected[i], sizeof *out))
                fail_msg("%s: element %u is %.9g, expected %.9g", dtype_name(dtype), i, (double)out[i],
                         (double)expected[i]);
        free(source);
        free(expected);
        free(out);
        n_types++;
    }
    fclose(file);
    assert_int_equal(n_types, 11);
}

static double half_value(int magnitude)
{
    int exponent = magnitude >> 10, fraction = magnitude & 1023;
    return exponent ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24);
}

static void test_every_half(void **state)
{
    (void)state;
    for (int bits = 0; bits < 0x10000; bits++) {
        float value = dtype_f16_to_f32((uint16_t)bits);
        int magnitude = bits & 0x7fff;
        assert_int_equal(signbit(value) != 0, bits >> 15);
        if (magnitude > 0x7c00) {
            assert_true(isnan(value));
            assert_int_equal(dtype_f32_to_f16(value), bits | 0x200); /* a NaN stays one and becomes quiet */
            continue;
        }
        if (magnitude == 0x7c00)
            assert_true(isinf(value));
        else
            assert_true(fabs((double)value) == half_value(magnitude));
        assert_int_equal(dtype_f32_to_f16(value), bits);
    }
}

/* Between two neighbouring halves: below the middle down, above it up, in the middle to the even one. */
static void test_rounding_to_half(void **state)
{
    (void)state;
    for (int below = 0; below < 0x7c00; below++) {
        double low = half_value(below), high = below + 1 < 0x7c00 ? half_value(below + 1) : 65536.0;
        float middle = (float)((low + high) / 2);
        assert_true(middle == (low + high) / 2); /* a float holds it exactly */
        int even = below % 2 ? below + 1 : below;
        for (int sign = 0; sign < 2; sign++) {
            float direction = sign ? -1.0f : 1.0f;
            int bit = sign << 15;
            assert_int_equal(dtype_f32_to_f16(direction * middle), bit | even);
            assert_int_equal(dtype_f32_to_f16(direction * nextafterf(middle, 0.0f)), bit | below);
            assert_int_equal(dtype_f32_to_f16(direction * nextafterf(middle, 1e9f)), bit | (below + 1));
        }
    }
    assert_int_equal(dtype_f32_to_f16(1e30f), 0x7c00);
    assert_int_equal(dtype_f32_to_f16(-INFINITY), 0xfc00);
    assert_int_equal(dtype_f32_to_f16(1e-30f), 0);
}

static void test_unknown(void **state)
{
    (void)state;
    static const uint32_t unknown[] = {4, 5, 9, 10, 11, 15, 29, 31, 1000, UINT32_MAX};
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++) {
        assert_null(dtype_name(unknown[i]));
        assert_int_equal(dtype_block_elements(unknown[i]), 0);
        assert_int_equal(dtype_block_bytes(unknown[i]), 0);
    }
    assert_string_equal(dtype_name(DTYPE_Q4_K), "Q4_K");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),
        cmocka_unit_test(test_every_half),
        cmocka_unit_test(test_rounding_to_half),
        cmocka_unit_test(test_unknown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
