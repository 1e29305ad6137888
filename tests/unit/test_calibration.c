/*
 * The side file, and a whole calibration of a tiny model. What the moments and transforms are is judged by
 * tests/model against NumPy.
 */
#include "cache/calibration.h"

#include "config/log.h"
#include "kernels/workers.h"
#include "model/calibrate.h"
#include "model/calibration_text.h"
#include "model/tokenizer.h"
#include "tests/unit/support/rig.h"
#include "tests/unit/support/tiny_model.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static const struct kv_shape shape = {.n_layers = 2, .n_heads = 4, .n_kv_heads = 2, .head_dim = 32};
static const uint64_t hash[2] = {0x0123456789abcdef, 0xfedcba9876543210};

static size_t floats_of(const struct kv_shape *s)
{
    size_t D = (size_t)s->head_dim;
    return (size_t)(s->n_layers * s->n_kv_heads) * (2 * D + D / 16 + 2 + 2 * D * D);
}

static struct calibration *some_calibration(void)
{
    struct calibration *c;
    assert_int_equal(calibration_create(&shape, &c, NULL), ERR_OK);
    memcpy(c->model_hash, hash, sizeof hash);
    for (size_t i = 0; i < floats_of(&shape); i++) c->key_mean[i] = sinf((float)i);
    for (int i = 0; i < 8; i++) c->key_sigma[i] = 10.5F - (float)i;
    for (int i = 0; i < 4; i++) c->key_weight[i] = c->value_weight[i] = 0.5F + (float)i;
    return c;
}

/* A path in a fresh folder; path_remove deletes both. */
static char *path_make(void)
{
    char folder[] = "/tmp/octavo-calibration-XXXXXX";
    assert_non_null(mkdtemp(folder));
    char *path = malloc(sizeof folder + 16);
    assert_non_null(path);
    sprintf(path, "%s/m.octocal", folder);
    return path;
}

static void path_remove(char *path)
{
    unlink(path);
    *strrchr(path, '/') = 0;
    assert_int_equal(rmdir(path), 0); /* nothing else was left there */
    free(path);
}

/* The file of some_calibration. */
static char *some_bytes(size_t *length)
{
    struct calibration *c = some_calibration();
    char *path = path_make();
    assert_int_equal(calibration_save(c, path, NULL), ERR_OK);
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    char *bytes = malloc(1 << 20);
    assert_non_null(bytes);
    *length = fread(bytes, 1, 1 << 20, file);
    fclose(file);
    path_remove(path);
    calibration_free(c);
    return bytes;
}

/* An exact copy is parsed, so that a sanitizer sees a read past its end. */
static enum err parse(const char *bytes, size_t length, struct err_info *info)
{
    struct calibration *c;
    char *copy = malloc(length + !length);
    assert_non_null(copy);
    memcpy(copy, bytes, length);
    *info = (struct err_info){0};
    enum err err = calibration_parse("m.octocal", copy, length, &shape, hash, &c, info);
    if (err == ERR_OK) calibration_free(c);
    free(copy);
    return err;
}

static void refused(const char *bytes, size_t length)
{
    struct err_info info;
    assert_int_equal(parse(bytes, length, &info), ERR_FORMAT);
    assert_non_null(strstr(info.message, "m.octocal: "));
}

static void test_round_trip(void **state)
{
    (void)state;
    struct calibration *saved = some_calibration(), *loaded;
    struct err_info info;
    char *path = path_make();
    assert_int_equal(calibration_load(path, &shape, hash, &loaded, &info), ERR_IO);
    assert_non_null(strstr(info.message, path));
    for (int i = 0; i < 2; i++) /* the second time over the first */
        assert_int_equal(calibration_save(saved, path, &info), ERR_OK);
    assert_int_equal(calibration_load(path, &shape, hash, &loaded, &info), ERR_OK);
    assert_memory_equal(&loaded->shape, &saved->shape, sizeof shape);
    assert_memory_equal(loaded->model_hash, hash, sizeof hash);
    assert_memory_equal(loaded->key_mean, saved->key_mean, floats_of(&shape) * sizeof(float));
    calibration_free(loaded);
    calibration_free(saved);
    path_remove(path);
}

static void test_save_fails(void **state)
{
    (void)state;
    struct calibration *c = some_calibration();
    struct err_info info;
    char *path = path_make();
    assert_int_equal(mkdir(path, 0700), 0); /* in the way */
    assert_int_equal(calibration_save(c, path, &info), ERR_IO);
    assert_non_null(strstr(info.message, path));
    assert_int_equal(rmdir(path), 0);
    path_remove(path); /* checks that the temporary file is gone */
    assert_int_equal(calibration_save(c, "/nowhere/at/all.octocal", &info), ERR_IO);
    calibration_free(c);
}

static void test_every_truncation(void **state)
{
    (void)state;
    size_t length;
    char *bytes = some_bytes(&length);
    struct err_info info;
    assert_int_equal(parse(bytes, length, &info), ERR_OK);
    for (size_t n = 0; n < length; n++) refused(bytes, n);
    bytes[length] = 0;
    refused(bytes, length + 1);
    free(bytes);
}

static void test_every_byte_flipped(void **state)
{
    (void)state;
    size_t length;
    char *bytes = some_bytes(&length);
    for (size_t i = 0; i < length; i++) {
        char bit = (char)(1 << i % 8);
        for (int all = i < 256; all >= 0; all--) { /* two patterns in the header and after it */
            char flip = all ? (char)0xff : bit;
            bytes[i] ^= flip;
            refused(bytes, length);
            bytes[i] ^= flip;
        }
    }
    free(bytes);
}

static void test_other_model(void **state)
{
    (void)state;
    size_t length;
    char *bytes = some_bytes(&length);
    struct calibration *c;
    struct err_info info;
    uint64_t other[2] = {hash[0], hash[1] + 1};
    assert_int_equal(calibration_parse("f", bytes, length, &shape, other, &c, &info), ERR_FORMAT);
    assert_non_null(strstr(info.message, "another model"));
    int at[] = {offsetof(struct kv_shape, n_layers), offsetof(struct kv_shape, n_heads),
                offsetof(struct kv_shape, n_kv_heads), offsetof(struct kv_shape, head_dim)};
    for (int i = 0; i < 4; i++) {
        struct kv_shape wrong = shape;
        *(int *)((char *)&wrong + at[i]) *= 2;
        assert_int_equal(calibration_parse("f", bytes, length, &wrong, hash, &c, &info), ERR_FORMAT);
        assert_non_null(strstr(info.message, "the model has"));
    }
    free(bytes);
}

static void test_bad_values(void **state)
{
    (void)state;
    char *path = path_make();
    struct calibration *c = some_calibration(), *loaded;
    struct err_info info;
    c->query_transform[3] = NAN;
    assert_int_equal(calibration_save(c, path, NULL), ERR_OK);
    assert_int_equal(calibration_load(path, &shape, hash, &loaded, &info), ERR_FORMAT);
    assert_non_null(strstr(info.message, "not finite"));
    c->query_transform[3] = 0;
    c->key_sigma[3] = 0;
    assert_int_equal(calibration_save(c, path, NULL), ERR_OK);
    assert_int_equal(calibration_load(path, &shape, hash, &loaded, &info), ERR_FORMAT);
    assert_non_null(strstr(info.message, "not positive"));
    c->key_sigma[3] = c->key_sigma[2] + 1;
    assert_int_equal(calibration_save(c, path, NULL), ERR_OK);
    assert_int_equal(calibration_load(path, &shape, hash, &loaded, &info), ERR_FORMAT);
    assert_non_null(strstr(info.message, "spread 3 is larger"));
    c->key_sigma[3] = c->key_sigma[2];
    c->value_weight[2] = 0;
    assert_int_equal(calibration_save(c, path, NULL), ERR_OK);
    assert_int_equal(calibration_load(path, &shape, hash, &loaded, &info), ERR_FORMAT);
    assert_non_null(strstr(info.message, "weights 2 are 2.5 and 0,"));
    calibration_free(c);
    path_remove(path);
}

/* --- A whole calibration --- */

enum { N_TOKENS = 700 };

struct watch {
    int calls, last, total, stop_at;
};

static bool watch(void *context, int done, int total)
{
    struct watch *w = context;
    assert_int_equal(done, w->last + 1);
    w->calls++;
    w->last = done;
    w->total = total;
    return done != w->stop_at;
}

/* In layer 1 what reads the first KV head is doubled. */
static void output_double(void *bytes, size_t length)
{
    struct gguf *gguf;
    assert_int_equal(gguf_open_memory(bytes, length, &gguf, NULL), ERR_OK);
    const struct gguf_tensor *tensor = gguf_tensor_find(gguf, "blk.1.attn_output.weight");
    assert_int_equal(tensor->dtype, DTYPE_F32);
    float *matrix = (float *)((char *)bytes + ((const char *)tensor->data - (const char *)bytes));
    for (int64_t r = 0; r < tensor->dims[1]; r++)
        for (int64_t c = 0; c < tensor->dims[0] / 2; c++) matrix[r * tensor->dims[0] + c] *= 2;
    gguf_close(gguf);
}

static enum err run(const struct tiny_model *tiny, void (*change)(void *bytes, size_t length), int threads,
                    size_t n_tokens, struct watch *w, struct calibration **out, struct err_info *info)
{
    size_t length, n;
    void *bytes = tiny_model_bytes(tiny, &length);
    if (change != NULL) change(bytes, length);
    struct rig *rig = rig_create(&(struct rig_setup){.bytes = bytes,
                                                     .length = length,
                                                     .level = "auto",
                                                     .threads = threads,
                                                     .max_rows = CALIBRATE_SEQUENCE_TOKENS,
                                                     .max_logits = 1,
                                                     .max_tokens = 64,
                                                     .max_sequences = 1});
    struct tokenizer *tokenizer;
    int32_t *tokens;
    assert_int_equal(tokenizer_create(rig->gguf, &tokenizer, info), ERR_OK);
    assert_int_equal(tokenizer_encode(tokenizer, calibration_text, 4 * n_tokens, false, false, SIZE_MAX,
                                      &tokens, &n, info),
                     ERR_OK);
    assert_true(n >= n_tokens);
    struct calibrate_options options = {rig->backend, rig->workers, 4, watch, w};
    enum err err = calibrate_run(rig->model, rig->gguf, &options, tokens, n_tokens, out, info);
    free(tokens);
    tokenizer_free(tokenizer);
    rig_free(rig);
    free(bytes);
    return err;
}

/* query^T key is the identity: scores do not change but for what is lost by rounding keys. */
static void cancels(const float *key, const float *query, int D, bool query_transposed)
{
    for (int a = 0; a < D; a++)
        for (int b = 0; b < D; b++) {
            double sum = 0;
            for (int i = 0; i < D; i++)
                sum += (double)key[i * D + a] * query[query_transposed ? b * D + i : i * D + b];
            if (!(fabs(sum - (a == b)) < 2e-3)) fail_msg("[%d][%d] is %g", a, b, sum);
        }
}

/* The kernels get the file's transforms: no other. */
static void tables_cancel(const struct calibration *c)
{
    double inv_freq[KV_MAX_HEAD_DIM / 2];
    int D = c->shape.head_dim, heads = c->shape.n_layers * c->shape.n_kv_heads;
    struct kv_tables *tables;
    for (int i = 0; i < D / 2; i++) inv_freq[i] = pow(10000, -2.0 * i / D);
    assert_int_equal(calibration_tables(c, 4, inv_freq, &tables, NULL), ERR_OK);
    for (size_t h = 0; h < (size_t)heads; h++) {
        size_t at = h * (size_t)(D * D);
        cancels(c->key_transform + at, c->query_transform + at, D, false);
        cancels(tables->key_transform + at, tables->query_transform + at, D, true);
    }
    size_t heads_square = (size_t)(heads * D * D);
    assert_memory_equal(tables->key_transform, c->key_transform, heads_square * sizeof(float));
    assert_int_equal(tables->frame_tokens, KV_FRAME_TOKENS);
    cancels(tables->value_transform, tables->value_transform, D, true); /* orthogonal */
    kv_tables_free(tables);
}

static void test_run(void **state)
{
    (void)state;
    struct tiny_model tiny = tiny_model_default();
    struct watch w = {0}, again = {0};
    struct err_info info = {0};
    struct calibration *c, *same;
    assert_int_equal(run(&tiny, NULL, 1, N_TOKENS, &w, &c, &info), ERR_OK);
    assert_int_equal(w.last, w.total);
    assert_true(c->model_hash[0] != 0 && c->model_hash[1] != 0);
    for (size_t i = 0; i < floats_of(&c->shape); i++)
        if (!isfinite(c->key_mean[i])) fail_msg("entry %zu is not finite", i);
    int n_groups = c->shape.head_dim / KV_CODE_GROUP, heads = c->shape.n_layers * c->shape.n_kv_heads;
    for (int i = 0; i < heads * n_groups; i++) {
        assert_true(c->key_sigma[i] > 0);
        if (i % n_groups > 0) assert_true(c->key_sigma[i] <= c->key_sigma[i - 1]); /* sorted */
    }
    tables_cancel(c);
    /* The number of workers changes nothing. */
    assert_int_equal(run(&tiny, NULL, 3, N_TOKENS, &again, &same, &info), ERR_OK);
    assert_memory_equal(same->key_mean, c->key_mean, floats_of(&c->shape) * sizeof(float));
    calibration_free(same);
    calibration_free(c);
}

/* Errors cost as much as the output matrix makes of them, squared. */
static void test_weights(void **state)
{
    (void)state;
    struct tiny_model tiny = tiny_model_default();
    struct watch w = {0}, again = {0};
    struct err_info info = {0};
    struct calibration *c, *changed;
    tiny.o = DTYPE_F32;
    assert_int_equal(run(&tiny, NULL, 2, N_TOKENS, &w, &c, &info), ERR_OK);
    assert_int_equal(run(&tiny, output_double, 2, N_TOKENS, &again, &changed, &info), ERR_OK);
    for (int head = 0; head < 4; head++) { /* the third is the first of layer 1 */
        float factor = head == 2 ? 4 : 1;
        assert_true(c->key_weight[head] > 0 && c->value_weight[head] > 0);
        assert_float_equal(changed->key_weight[head] / c->key_weight[head], factor, 1e-3);
        assert_float_equal(changed->value_weight[head] / c->value_weight[head], factor, 1e-3);
    }
    calibration_free(changed);
    calibration_free(c);
}

/* A model of a short context is not run past it. */
static void test_short_context(void **state)
{
    (void)state;
    struct tiny_model tiny = tiny_model_default();
    struct watch w = {0};
    struct err_info info = {0};
    struct calibration *c;
    tiny.context_length = 256;
    assert_int_equal(run(&tiny, NULL, 2, N_TOKENS, &w, &c, &info), ERR_OK);
    assert_int_equal(w.total, (N_TOKENS / 256 + 1) * tiny.n_layers);
    calibration_free(c);
}

static void test_stop(void **state)
{
    (void)state;
    struct tiny_model tiny = tiny_model_default();
    struct err_info info = {0};
    struct calibration *c;
    for (int stop_at = 1; stop_at <= 2 * tiny.n_layers; stop_at++) {
        struct watch w = {.stop_at = stop_at};
        assert_int_equal(run(&tiny, NULL, 2, 300, &w, &c, &info), ERR_CLOSED);
        assert_int_equal(w.calls, stop_at);
    }
}

static void test_too_short(void **state)
{
    (void)state;
    struct tiny_model tiny = tiny_model_default();
    struct watch w = {0};
    struct err_info info = {0};
    struct calibration *c;
    assert_int_equal(run(&tiny, NULL, 1, 255, &w, &c, &info), ERR_INVALID);
    assert_non_null(strstr(info.message, "255"));
}

/* Byte for byte the file: valid UTF-8 without a NUL, and enough of it. */
static void test_text(void **state)
{
    (void)state;
    size_t length = (size_t)(calibration_text_end - calibration_text);
    FILE *file = fopen("model/calibration_text.txt", "rb");
    assert_non_null(file);
    char *bytes = malloc(length + 1);
    assert_non_null(bytes);
    assert_int_equal(fread(bytes, 1, length + 1, file), length);
    fclose(file);
    assert_memory_equal(bytes, calibration_text, length);
    assert_null(memchr(bytes, 0, length));
    assert_true(length > 60000);
    free(bytes);
}

int main(void)
{
    log_configure(LOG_LEVEL_ERROR, 0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_save_fails),
        cmocka_unit_test(test_every_truncation),
        cmocka_unit_test(test_every_byte_flipped),
        cmocka_unit_test(test_other_model),
        cmocka_unit_test(test_bad_values),
        cmocka_unit_test(test_run),
        cmocka_unit_test(test_weights),
        cmocka_unit_test(test_short_context),
        cmocka_unit_test(test_stop),
        cmocka_unit_test(test_too_short),
        cmocka_unit_test(test_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
