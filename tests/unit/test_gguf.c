/* The GGUF reader: what it reads, and every way a file can be wrong. */
#include "model/gguf.h"
#include "model/gguf_writer.h"
#include "tests/unit/support/tiny_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { TYPE_U8 = 0, TYPE_ARRAY = 9, TYPE_U64 = 10, TYPE_F64 = 12 };

/* Opens a copy without a byte to spare, so that asan sees any read past the end. */
static enum err open_exact(const void *bytes, size_t length, struct err_info *info)
{
    struct gguf *gguf = NULL;
    void *copy = malloc(length ? length : 1);
    assert_non_null(copy);
    memcpy(copy, bytes, length);
    *info = (struct err_info){0};
    enum err err = gguf_open_memory(copy, length, &gguf, info);
    if (err) assert_null(gguf);
    for (size_t i = 0; !err && i < gguf_tensor_count(gguf); i++) {
        const struct gguf_tensor *tensor = gguf_tensor_at(gguf, i);
        const volatile uint8_t *data = tensor->data;
        (void)data[0];
        (void)data[tensor->bytes - 1];
    }
    gguf_close(gguf);
    free(copy);
    return err;
}

static struct gguf_writer *writer_with_keys(void)
{
    struct gguf_writer *writer = gguf_writer_create(64);
    gguf_writer_u32(writer, "number", 7);
    gguf_writer_f32(writer, "real", 0.5F);
    gguf_writer_bool(writer, "flag", true);
    gguf_writer_string(writer, "text", "hello");
    gguf_writer_strings(writer, "texts", (const char *[]){"a", "", "ccc"}, 3);
    gguf_writer_i32s(writer, "numbers", (const int32_t[]){1, -2, 3}, 3);
    gguf_writer_f32s(writer, "reals", (const float[]){1, 2}, 2);
    gguf_writer_raw(writer, "wide", TYPE_U64, (const uint64_t[]){UINT64_C(1) << 40}, 8);
    gguf_writer_raw(writer, "narrow", TYPE_U8, (const uint8_t[]){200}, 1);
    gguf_writer_raw(writer, "double", TYPE_F64, (const double[]){0.25}, 8);
    return writer;
}

static void test_values(void **state)
{
    (void)state;
    struct err_info info;
    struct gguf *gguf;
    size_t length;
    struct gguf_writer *writer = writer_with_keys();
    float weights[6] = {1, 2, 3, 4, 5, 6};
    gguf_writer_tensor(writer, "m", DTYPE_F32, 2, (uint64_t[]){3, 2}, weights, sizeof weights);
    gguf_writer_tensor(writer, "h", DTYPE_F16, 1, (uint64_t[]){4}, weights, 8);
    void *bytes = gguf_writer_finish(writer, &length);
    assert_int_equal(gguf_open_memory(bytes, length, &gguf, &info), ERR_OK);

    uint32_t u32 = 0;
    float f32 = 0;
    bool flag = false;
    struct gguf_string text, texts[3];
    int32_t numbers[3];
    float reals[2];
    size_t n;
    assert_int_equal(gguf_get_u32(gguf, "number", &u32, &info), ERR_OK);
    assert_int_equal(u32, 7);
    assert_int_equal(gguf_get_u32(gguf, "narrow", &u32, &info), ERR_OK);
    assert_int_equal(u32, 200);
    assert_int_equal(gguf_get_f32(gguf, "real", &f32, &info), ERR_OK);
    assert_true(f32 == 0.5F);
    assert_int_equal(gguf_get_f32(gguf, "double", &f32, &info), ERR_OK);
    assert_true(f32 == 0.25F);
    assert_int_equal(gguf_get_bool(gguf, "flag", &flag, &info), ERR_OK);
    assert_true(flag);
    assert_int_equal(gguf_get_string(gguf, "text", &text, &info), ERR_OK);
    assert_int_equal(text.length, 5);
    assert_memory_equal(text.bytes, "hello", 5);
    assert_int_equal(gguf_array_length(gguf, "texts", &n, &info), ERR_OK);
    assert_int_equal(n, 3);
    assert_int_equal(gguf_get_strings(gguf, "texts", texts, 3, &info), ERR_OK);
    assert_int_equal(texts[1].length, 0);
    assert_memory_equal(texts[2].bytes, "ccc", 3);
    assert_int_equal(gguf_get_i32s(gguf, "numbers", numbers, 3, &info), ERR_OK);
    assert_int_equal(numbers[1], -2);
    assert_int_equal(gguf_get_f32s(gguf, "reals", reals, 2, &info), ERR_OK);
    assert_true(reals[1] == 2.0F);

    const struct gguf_tensor *tensor = gguf_tensor_find(gguf, "m");
    assert_non_null(tensor);
    assert_int_equal(tensor->n_dims, 2);
    assert_int_equal(tensor->dims[0], 3);
    assert_int_equal(tensor->bytes, sizeof weights);
    assert_memory_equal(tensor->data, weights, sizeof weights);
    assert_int_equal((uintptr_t)((const char *)gguf_tensor_find(gguf, "h")->data - (const char *)bytes) % 64,
                     0);
    assert_null(gguf_tensor_find(gguf, "nothing"));
    assert_null(gguf_tensor_at(gguf, 2));
    assert_true(gguf_tensor_bytes(gguf) > 0 && gguf_tensor_bytes(gguf) < length);
    gguf_close(gguf);
    free(bytes);
}

/* Missing keys and other types: ERR_FORMAT, the key in param, the out-parameter untouched. */
static void test_wrong_values(void **state)
{
    (void)state;
    struct err_info info;
    struct gguf *gguf;
    size_t length, n = 9;
    void *bytes = gguf_writer_finish(writer_with_keys(), &length);
    assert_int_equal(gguf_open_memory(bytes, length, &gguf, &info), ERR_OK);
    uint32_t u32 = 9;
    float f32 = 9, reals[3];
    bool flag;
    struct gguf_string text, texts[3];
    int32_t numbers[3] = {9, 9, 9};
    assert_int_equal(gguf_get_u32(gguf, "absent", &u32, &info), ERR_FORMAT);
    assert_string_equal(info.param, "absent");
    assert_non_null(strstr(info.message, "missing"));
    assert_int_equal(gguf_get_u32(gguf, "text", &u32, &info), ERR_FORMAT);
    assert_string_equal(info.param, "text");
    assert_int_equal(gguf_get_u32(gguf, "wide", &u32, &info), ERR_FORMAT);
    assert_int_equal(gguf_get_u32(gguf, "numbers", &u32, &info), ERR_FORMAT);
    assert_int_equal(gguf_get_f32(gguf, "number", &f32, &info), ERR_FORMAT);
    assert_int_equal(gguf_get_bool(gguf, "number", &flag, &info), ERR_FORMAT);
    assert_int_equal(gguf_get_string(gguf, "texts", &text, &info), ERR_FORMAT);
    assert_int_equal(gguf_array_length(gguf, "number", &n, &info), ERR_FORMAT);
    assert_int_equal(gguf_get_strings(gguf, "texts", texts, 2, &info), ERR_FORMAT);
    assert_non_null(strstr(info.message, "3 elements found, 2 expected"));
    assert_int_equal(gguf_get_strings(gguf, "numbers", texts, 3, &info), ERR_FORMAT);
    assert_int_equal(gguf_get_i32s(gguf, "texts", numbers, 3, &info), ERR_FORMAT);
    assert_int_equal(gguf_get_i32s(gguf, "number", numbers, 1, &info), ERR_FORMAT);
    assert_int_equal(gguf_get_f32s(gguf, "numbers", reals, 3, &info), ERR_FORMAT);
    assert_int_equal(u32, 9);
    assert_int_equal(n, 9);
    assert_int_equal(numbers[0], 9);
    gguf_close(gguf);
    free(bytes);
}

/* One broken file: must fail with code, name `param`, and say `words`. */
static void expect(struct gguf_writer *writer, enum err code, const char *param, const char *words)
{
    struct err_info info;
    size_t length;
    void *bytes = gguf_writer_finish(writer, &length);
    enum err err = open_exact(bytes, length, &info);
    if (err != code || strcmp(info.param, param) != 0 || !strstr(info.message, words)) {
        fail_msg("got %s, param '%s': %s", err_name(err), info.param, info.message);
    }
    free(bytes);
}

static void test_broken_keys(void **state)
{
    (void)state;
    struct gguf_writer *writer = writer_with_keys();
    gguf_writer_u32(writer, "number", 8);
    expect(writer, ERR_FORMAT, "number", "second time");

    writer = writer_with_keys();
    struct __attribute__((packed)) {
        uint32_t element;
        uint64_t n;
    } nested = {TYPE_ARRAY, 1}, unknown = {77, 1}, huge = {TYPE_U64, UINT64_MAX / 8 + 2},
      texts = {8, UINT64_MAX};
    gguf_writer_raw(writer, "nested", TYPE_ARRAY, &nested, sizeof nested);
    expect(writer, ERR_FORMAT, "nested", "array of arrays");
    writer = writer_with_keys();
    gguf_writer_raw(writer, "odd", TYPE_ARRAY, &unknown, sizeof unknown);
    expect(writer, ERR_FORMAT, "odd", "unknown element type 77");
    writer = writer_with_keys();
    gguf_writer_raw(writer, "huge", TYPE_ARRAY, &huge, sizeof huge);
    expect(writer, ERR_FORMAT, "huge", "past the end");
    writer = writer_with_keys();
    gguf_writer_raw(writer, "texts2", TYPE_ARRAY, &texts, sizeof texts);
    expect(writer, ERR_FORMAT, "texts2", "past the end");
    writer = writer_with_keys();
    gguf_writer_raw(writer, "type", 13, "", 0);
    expect(writer, ERR_FORMAT, "type", "unknown value type 13");
    writer = writer_with_keys();
    gguf_writer_u32(writer, "", 1);
    expect(writer, ERR_FORMAT, "", "key 11");
    writer = gguf_writer_create(48);
    expect(writer, ERR_FORMAT, "general.alignment", "48");
    writer = gguf_writer_create(0);
    gguf_writer_string(writer, "general.alignment", "x");
    expect(writer, ERR_FORMAT, "general.alignment", "u32 expected");
}

static void expect_tensor(uint32_t dtype, uint32_t n_dims, const uint64_t *dims, uint64_t offset,
                          enum err code, const char *words)
{
    struct gguf_writer *writer = gguf_writer_create(0);
    static const float data[64];
    gguf_writer_tensor(writer, "good", DTYPE_F32, 1, (uint64_t[]){64}, data, sizeof data);
    gguf_writer_tensor_at(writer, "blk.0.bad", dtype, n_dims, dims, offset);
    expect(writer, code, "blk.0.bad", words);
}

static void test_broken_tensors(void **state)
{
    (void)state;
    const uint64_t big = UINT64_C(1) << 62;
    expect_tensor(DTYPE_F32, 1, (uint64_t[]){64}, 32, ERR_FORMAT, "past the end");
    expect_tensor(DTYPE_F32, 1, (uint64_t[]){1}, UINT64_MAX - 31, ERR_FORMAT, "past the end");
    expect_tensor(DTYPE_F32, 1, (uint64_t[]){1}, 4, ERR_FORMAT, "alignment");
    expect_tensor(DTYPE_F32, 2, (uint64_t[]){big, 8}, 0, ERR_FORMAT, "dimension 1");
    expect_tensor(DTYPE_F32, 1, (uint64_t[]){big}, 0, ERR_FORMAT, "too many elements");
    expect_tensor(DTYPE_F32, 2, (uint64_t[]){8, 0}, 0, ERR_FORMAT, "dimension 1");
    expect_tensor(DTYPE_F32, 1, (uint64_t[]){UINT64_MAX}, 0, ERR_FORMAT, "dimension 0");
    expect_tensor(DTYPE_F32, 0, NULL, 0, ERR_FORMAT, "0 dimensions");
    expect_tensor(DTYPE_F32, 5, (uint64_t[]){1, 1, 1, 1, 1}, 0, ERR_FORMAT, "5 dimensions");
    expect_tensor(DTYPE_Q8_0, 1, (uint64_t[]){33}, 0, ERR_FORMAT, "multiple of the 32");
    expect_tensor(DTYPE_Q4_K, 2, (uint64_t[]){128, 2}, 0, ERR_FORMAT, "multiple of the 256");
    expect_tensor(11, 1, (uint64_t[]){256}, 0, ERR_UNSUPPORTED, "Q3_K");
    expect_tensor(4000, 1, (uint64_t[]){256}, 0, ERR_UNSUPPORTED, "unknown");

    struct gguf_writer *writer = gguf_writer_create(0);
    gguf_writer_tensor_at(writer, "twice", DTYPE_F32, 1, (uint64_t[]){1}, 0);
    gguf_writer_tensor_at(writer, "twice", DTYPE_F32, 1, (uint64_t[]){1}, 0);
    expect(writer, ERR_FORMAT, "twice", "second time");
}

static void test_broken_start(void **state)
{
    (void)state;
    struct err_info info;
    struct {
        char magic[4];
        uint32_t version;
        uint64_t n_tensors, n_keys;
    } start = {{'G', 'G', 'U', 'F'}, 3, 0, 0};
    assert_int_equal(open_exact(&start, sizeof start, &info), ERR_OK);
    assert_int_equal(open_exact(&start, sizeof start - 1, &info), ERR_FORMAT);
    assert_int_equal(open_exact("", 0, &info), ERR_FORMAT);
    start.n_keys = UINT64_MAX;
    assert_int_equal(open_exact(&start, sizeof start, &info), ERR_FORMAT);
    start.n_keys = 0;
    start.n_tensors = 1;
    assert_int_equal(open_exact(&start, sizeof start, &info), ERR_FORMAT);
    start.n_tensors = 0;
    start.version = 1;
    assert_int_equal(open_exact(&start, sizeof start, &info), ERR_UNSUPPORTED);
    start.version = 3U << 24;
    assert_int_equal(open_exact(&start, sizeof start, &info), ERR_UNSUPPORTED);
    assert_non_null(strstr(info.message, "big-endian"));
    start.magic[0] = 'X';
    assert_int_equal(open_exact(&start, sizeof start, &info), ERR_FORMAT);
}

static void *tiny_file(size_t *length)
{
    struct tiny_model tiny = tiny_model_default();
    tiny.n_layers = 1;
    return tiny_model_bytes(&tiny, length);
}

/* Every length in the header, and a sample of lengths in the data: always an error that says where. */
static void test_truncated(void **state)
{
    (void)state;
    struct err_info info;
    size_t length;
    uint8_t *bytes = tiny_file(&length);
    for (size_t cut = 0; cut < length; cut += cut < 16384 ? 13 : 997) {
        enum err err = open_exact(bytes, cut, &info);
        assert_int_equal(err, ERR_FORMAT);
        assert_true(info.param[0] || strstr(info.message, "key ") || strstr(info.message, "tensor") ||
                    strstr(info.message, "bytes"));
    }
    assert_int_equal(open_exact(bytes, length, &info), ERR_OK);
    free(bytes);
}

/* A flipped bit in the header gives an error with a message, or a file that can still be read. */
static void test_flipped(void **state)
{
    (void)state;
    struct err_info info;
    size_t length, refused = 0;
    uint8_t *bytes = tiny_file(&length);
    for (size_t bit = 0; bit < 8 * 16384; bit += 7) {
        bytes[bit / 8] ^= (uint8_t)(1U << bit % 8);
        enum err err = open_exact(bytes, length, &info);
        assert_true(err == ERR_OK || ((err == ERR_FORMAT || err == ERR_UNSUPPORTED) && info.message[0]));
        refused += err != ERR_OK;
        bytes[bit / 8] ^= (uint8_t)(1U << bit % 8);
    }
    assert_true(refused > 100);
    free(bytes);
}

static void test_file(void **state)
{
    (void)state;
    struct err_info info;
    struct gguf *gguf;
    struct tiny_model tiny = tiny_model_default();
    char path[] = "/tmp/octavo-gguf-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(gguf_open(path, &gguf, &info), ERR_FORMAT);
    assert_non_null(strstr(info.message, "empty"));
    assert_true(tiny_model_write(&tiny, path));
    assert_int_equal(gguf_open(path, &gguf, &info), ERR_OK);
    const struct gguf_tensor *tensor = gguf_tensor_find(gguf, "blk.1.ffn_down.weight");
    assert_non_null(tensor);
    uint8_t first = *(const uint8_t *)tensor->data;
    gguf_release_pages(gguf);
    assert_int_equal(*(const uint8_t *)tensor->data, first);
    gguf_close(gguf);
    close(fd);
    unlink(path);
    assert_int_equal(gguf_open(path, &gguf, &info), ERR_IO);
    assert_int_equal(gguf_open("/", &gguf, &info), ERR_IO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),       cmocka_unit_test(test_wrong_values),
        cmocka_unit_test(test_broken_keys),  cmocka_unit_test(test_broken_tensors),
        cmocka_unit_test(test_broken_start), cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_flipped),      cmocka_unit_test(test_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
