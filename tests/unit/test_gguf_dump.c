#include "config/json.h"
#include "model/gguf_dump.h"
#include "model/gguf_writer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* A file with a value of every type, a string that is no UTF-8 and a long one. */
static void *file_create(size_t *length)
{
    static const char *const words[] = {"a", "b\n", "\xFF", "d"};
    static const float reals[] = {0.1f, -2};
    static const uint64_t dims[] = {32, 3};
    char text[200] = "";
    memset(text, 'x', sizeof text - 1);
    struct gguf_writer *writer = gguf_writer_create(32);
    gguf_writer_string(writer, "general.architecture", "llama");
    gguf_writer_string(writer, "long", text);
    gguf_writer_u32(writer, "u32", 7);
    gguf_writer_f32(writer, "f32", 1e-5f);
    gguf_writer_bool(writer, "bool", true);
    gguf_writer_strings(writer, "words", words, 4);
    gguf_writer_f32s(writer, "reals", reals, 2);
    gguf_writer_raw(writer, "i8", 1, "\xFE", 1);
    gguf_writer_raw(writer, "u64", 10, "\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF", 8);
    gguf_writer_raw(writer, "f64", 12, "\0\0\0\0\0\0\xE0\x3F", 8);
    float data[96] = {0};
    gguf_writer_tensor(writer, "weight", DTYPE_F32, 2, dims, data, sizeof data);
    return gguf_writer_finish(writer, length);
}

static const struct json *find(const struct json *list, const char *name)
{
    for (const struct json *entry = json_first(list); entry; entry = json_next(entry))
        if (strcmp(json_string(json_get(entry, "name"), NULL), name) == 0) return entry;
    fail_msg("no %s", name);
    return NULL;
}

static void json_holds_every_key_and_tensor(void **state)
{
    (void)state;
    size_t length;
    void *bytes = file_create(&length);
    struct gguf *gguf;
    struct err_info info;
    assert_int_equal(gguf_open_memory(bytes, length, &gguf, &info), ERR_OK);
    struct buf text;
    buf_init(&text, SIZE_MAX);
    gguf_dump_json(gguf, 3, &text);
    struct json *root;
    assert_int_equal(json_parse(text.data, text.length, &json_limits_default, &root, &info), ERR_OK);
    assert_int_equal(json_int64(json_get(root, "file_bytes")), length);

    const struct json *keys = json_get(root, "keys");
    assert_int_equal(json_length(keys), 10);
    assert_string_equal(json_string(json_get(find(keys, "general.architecture"), "value"), NULL), "llama");
    assert_int_equal(strlen(json_string(json_get(find(keys, "long"), "value"), NULL)), 199);
    assert_int_equal(json_int64(json_get(find(keys, "u32"), "value")), 7);
    assert_true((float)json_number(json_get(find(keys, "f32"), "value")) == 1e-5f);
    assert_true(json_bool(json_get(find(keys, "bool"), "value")));
    assert_int_equal(json_int64(json_get(find(keys, "i8"), "value")), -2);
    assert_true(json_number(json_get(find(keys, "u64"), "value")) == (double)UINT64_MAX);
    assert_true(json_number(json_get(find(keys, "f64"), "value")) == 0.5);
    const struct json *words = find(keys, "words");
    assert_string_equal(json_string(json_get(words, "type"), NULL), "array");
    assert_string_equal(json_string(json_get(words, "element_type"), NULL), "string");
    assert_int_equal(json_int64(json_get(words, "length")), 4);
    assert_int_equal(json_length(json_get(words, "value")), 3);
    assert_string_equal(json_string(json_at(json_get(words, "value"), 1), NULL), "b\n");
    assert_string_equal(json_string(json_at(json_get(words, "value"), 2), NULL), "\xEF\xBF\xBD");

    const struct json *tensor = find(json_get(root, "tensors"), "weight");
    assert_string_equal(json_string(json_get(tensor, "type"), NULL), "F32");
    assert_int_equal(json_int64(json_at(json_get(tensor, "dims"), 0)), 32);
    assert_int_equal(json_int64(json_get(tensor, "bytes")), 384);
    assert_int_equal(json_int64(json_get(tensor, "offset")) % 32, 0);
    json_free(root);
    buf_free(&text);
    gguf_close(gguf);
    free(bytes);
}

static void text_is_cut_and_has_no_control_characters(void **state)
{
    (void)state;
    size_t length;
    void *bytes = file_create(&length);
    struct gguf *gguf;
    assert_int_equal(gguf_open_memory(bytes, length, &gguf, NULL), ERR_OK);
    struct buf text;
    buf_init(&text, SIZE_MAX);
    gguf_dump_text(gguf, 2, &text);
    assert_non_null(strstr(text.data, "... (199 bytes)\n"));
    assert_non_null(strstr(text.data, "words                 string[4]       [\"a\", \"b\\n\"] ...\n"));
    assert_non_null(strstr(text.data, "1 tensors, 96 elements, 384 bytes\n  weight  F32    32 x 3"));
    for (size_t i = 0; i < text.length; i++)
        assert_true((unsigned char)text.data[i] >= 0x20 || text.data[i] == '\n');
    buf_free(&text);
    gguf_close(gguf);
    free(bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(json_holds_every_key_and_tensor),
        cmocka_unit_test(text_is_cut_and_has_no_control_characters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
