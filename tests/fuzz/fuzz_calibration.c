/*
 * Any bytes as a calibration file: as they are, and with the checksum put right, so that what lies behind it
 * is reached too. What is accepted must make tables and a plan.
 */
#include "cache/plan.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct kv_shape shape = {.n_layers = 1, .n_heads = 2, .n_kv_heads = 1, .head_dim = 32};
static const uint64_t model_hash[2] = {0x0123456789abcdef, 0xfedcba9876543210};

static void parse(const void *bytes, size_t size)
{
    struct calibration *calibration;
    struct err_info info = {0};
    if (calibration_parse("fuzz", bytes, size, &shape, model_hash, &calibration, &info)) {
        if (info.code != ERR_FORMAT || !info.message[0]) abort(); /* an error says what is wrong */
        return;
    }
    double inv_freq[16];
    struct kv_tables *tables;
    struct kv_plan plan;
    for (int i = 0; i < 16; i++) inv_freq[i] = pow(10000, -i / 16.0);
    if (calibration_tables(calibration, 2, inv_freq, &tables, &info)) abort();
    kv_tables_free(tables);
    if (kv_plan_make(&shape, calibration, 4, 3, &plan, &info)) abort();
    kv_plan_free(&plan);
    calibration_free(calibration);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    XXH128_canonical_t sum;
    parse(data, size);
    if (size < sizeof sum) return 0;
    uint8_t *mended = malloc(size);
    if (mended == NULL) abort();
    memcpy(mended, data, size);
    XXH128_canonicalFromHash(&sum, XXH3_128bits(data, size - sizeof sum));
    memcpy(mended + size - sizeof sum, &sum, sizeof sum);
    parse(mended, size);
    free(mended);
    return 0;
}
