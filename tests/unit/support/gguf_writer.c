#include "tests/unit/support/gguf_writer.h"

#include <stdlib.h>
#include <string.h>

enum { TYPE_U32 = 4, TYPE_I32 = 5, TYPE_F32 = 6, TYPE_BOOL = 7, TYPE_STRING = 8, TYPE_ARRAY = 9 };

struct bytes {
    char *data;
    size_t length, capacity;
};

struct gguf_writer {
    uint32_t alignment;
    uint64_t n_keys, n_tensors;
    struct bytes keys, tensors, data;
};

static void put(struct bytes *out, const void *data, size_t length)
{
    if (out->length + length > out->capacity) {
        out->capacity = 2 * (out->length + length) + 256;
        out->data = realloc(out->data, out->capacity);
        if (!out->data) abort();
    }
    if (length) memcpy(out->data + out->length, data, length);
    out->length += length;
}

static void put_u32(struct bytes *out, uint32_t value)
{
    put(out, &value, sizeof value);
}

static void put_u64(struct bytes *out, uint64_t value)
{
    put(out, &value, sizeof value);
}

static void put_string(struct bytes *out, const char *text)
{
    put_u64(out, strlen(text));
    put(out, text, strlen(text));
}

static void put_padding(struct bytes *out, size_t alignment)
{
    while (out->length % alignment) put(out, "", 1);
}

struct gguf_writer *gguf_writer_create(uint32_t alignment)
{
    struct gguf_writer *writer = calloc(1, sizeof *writer);
    if (!writer) abort();
    writer->alignment = alignment ? alignment : 32;
    if (writer->alignment != 32) gguf_writer_u32(writer, "general.alignment", alignment);
    return writer;
}

static struct bytes *key_begin(struct gguf_writer *writer, const char *key, uint32_t type)
{
    put_string(&writer->keys, key);
    put_u32(&writer->keys, type);
    writer->n_keys++;
    return &writer->keys;
}

static struct bytes *array_begin(struct gguf_writer *writer, const char *key, uint32_t type, size_t n)
{
    struct bytes *out = key_begin(writer, key, TYPE_ARRAY);
    put_u32(out, type);
    put_u64(out, n);
    return out;
}

void gguf_writer_u32(struct gguf_writer *writer, const char *key, uint32_t value)
{
    put_u32(key_begin(writer, key, TYPE_U32), value);
}

void gguf_writer_f32(struct gguf_writer *writer, const char *key, float value)
{
    put(key_begin(writer, key, TYPE_F32), &value, sizeof value);
}

void gguf_writer_bool(struct gguf_writer *writer, const char *key, bool value)
{
    put(key_begin(writer, key, TYPE_BOOL), value ? "\1" : "\0", 1);
}

void gguf_writer_string(struct gguf_writer *writer, const char *key, const char *value)
{
    put_string(key_begin(writer, key, TYPE_STRING), value);
}

void gguf_writer_strings(struct gguf_writer *writer, const char *key, const char *const *values, size_t n)
{
    struct bytes *out = array_begin(writer, key, TYPE_STRING, n);
    for (size_t i = 0; i < n; i++) put_string(out, values[i]);
}

void gguf_writer_i32s(struct gguf_writer *writer, const char *key, const int32_t *values, size_t n)
{
    put(array_begin(writer, key, TYPE_I32, n), values, n * sizeof *values);
}

void gguf_writer_f32s(struct gguf_writer *writer, const char *key, const float *values, size_t n)
{
    put(array_begin(writer, key, TYPE_F32, n), values, n * sizeof *values);
}

void gguf_writer_raw(struct gguf_writer *writer, const char *key, uint32_t type, const void *payload,
                     size_t bytes)
{
    put(key_begin(writer, key, type), payload, bytes);
}

void gguf_writer_tensor_at(struct gguf_writer *writer, const char *name, uint32_t dtype, uint32_t n_dims,
                           const uint64_t *dims, uint64_t offset)
{
    put_string(&writer->tensors, name);
    put_u32(&writer->tensors, n_dims);
    put(&writer->tensors, dims, n_dims * sizeof *dims);
    put_u32(&writer->tensors, dtype);
    put_u64(&writer->tensors, offset);
    writer->n_tensors++;
}

void gguf_writer_tensor(struct gguf_writer *writer, const char *name, uint32_t dtype, uint32_t n_dims,
                        const uint64_t *dims, const void *data, size_t bytes)
{
    put_padding(&writer->data, writer->alignment);
    gguf_writer_tensor_at(writer, name, dtype, n_dims, dims, writer->data.length);
    put(&writer->data, data, bytes);
}

void *gguf_writer_finish(struct gguf_writer *writer, size_t *length)
{
    struct bytes out = {0};
    put(&out, "GGUF", 4);
    put_u32(&out, 3);
    put_u64(&out, writer->n_tensors);
    put_u64(&out, writer->n_keys);
    put(&out, writer->keys.data, writer->keys.length);
    put(&out, writer->tensors.data, writer->tensors.length);
    put_padding(&out, writer->alignment);
    put_padding(&writer->data, writer->alignment);
    put(&out, writer->data.data, writer->data.length);
    free(writer->keys.data);
    free(writer->tensors.data);
    free(writer->data.data);
    free(writer);
    *length = out.length;
    return out.data;
}
