#include "model/gguf_writer.h"

#include "config/buf.h"
#include "model/gguf_internal.h"

#include <stdlib.h>
#include <string.h>

enum { ALIGNMENT = 32, VERSION = 3 };

struct gguf_writer {
    uint32_t alignment;
    uint64_t n_keys, n_tensors;
    struct buf keys, tensors, data;
};

static void put_u32(struct buf *out, uint32_t value)
{
    buf_append(out, &value, sizeof value);
}

static void put_u64(struct buf *out, uint64_t value)
{
    buf_append(out, &value, sizeof value);
}

static void put_string(struct buf *out, const char *text)
{
    put_u64(out, strlen(text));
    buf_text(out, text);
}

static void put_padding(struct buf *out, size_t alignment)
{
    while (out->length % alignment && !out->failed) buf_append(out, "", 1);
}

struct gguf_writer *gguf_writer_create(uint32_t alignment)
{
    struct gguf_writer *writer = calloc(1, sizeof *writer);
    if (!writer) return NULL;
    buf_init(&writer->keys, SIZE_MAX);
    buf_init(&writer->tensors, SIZE_MAX);
    buf_init(&writer->data, SIZE_MAX);
    writer->alignment = alignment ? alignment : ALIGNMENT;
    if (writer->alignment != ALIGNMENT) gguf_writer_u32(writer, "general.alignment", alignment);
    return writer;
}

static struct buf *key_begin(struct gguf_writer *writer, const char *key, uint32_t type)
{
    put_string(&writer->keys, key);
    put_u32(&writer->keys, type);
    writer->n_keys++;
    return &writer->keys;
}

static struct buf *array_begin(struct gguf_writer *writer, const char *key, uint32_t type, size_t n)
{
    struct buf *out = key_begin(writer, key, GGUF_ARRAY);
    put_u32(out, type);
    put_u64(out, n);
    return out;
}

void gguf_writer_u32(struct gguf_writer *writer, const char *key, uint32_t value)
{
    put_u32(key_begin(writer, key, GGUF_U32), value);
}

void gguf_writer_f32(struct gguf_writer *writer, const char *key, float value)
{
    buf_append(key_begin(writer, key, GGUF_F32), &value, sizeof value);
}

void gguf_writer_bool(struct gguf_writer *writer, const char *key, bool value)
{
    buf_append(key_begin(writer, key, GGUF_BOOL), value ? "\1" : "\0", 1);
}

void gguf_writer_string(struct gguf_writer *writer, const char *key, const char *value)
{
    put_string(key_begin(writer, key, GGUF_STRING), value);
}

void gguf_writer_strings(struct gguf_writer *writer, const char *key, const char *const *values, size_t n)
{
    gguf_writer_strings_begin(writer, key, n);
    for (size_t i = 0; i < n; i++) gguf_writer_item(writer, values[i]);
}

void gguf_writer_strings_begin(struct gguf_writer *writer, const char *key, size_t n)
{
    array_begin(writer, key, GGUF_STRING, n);
}

void gguf_writer_item(struct gguf_writer *writer, const char *value)
{
    put_string(&writer->keys, value);
}

void gguf_writer_i32s(struct gguf_writer *writer, const char *key, const int32_t *values, size_t n)
{
    buf_append(array_begin(writer, key, GGUF_I32, n), values, n * sizeof *values);
}

void gguf_writer_f32s(struct gguf_writer *writer, const char *key, const float *values, size_t n)
{
    buf_append(array_begin(writer, key, GGUF_F32, n), values, n * sizeof *values);
}

void gguf_writer_raw(struct gguf_writer *writer, const char *key, uint32_t type, const void *payload,
                     size_t bytes)
{
    buf_append(key_begin(writer, key, type), payload, bytes);
}

void gguf_writer_tensor_at(struct gguf_writer *writer, const char *name, uint32_t dtype, uint32_t n_dims,
                           const uint64_t *dims, uint64_t offset)
{
    put_string(&writer->tensors, name);
    put_u32(&writer->tensors, n_dims);
    buf_append(&writer->tensors, dims, n_dims * sizeof *dims);
    put_u32(&writer->tensors, dtype);
    put_u64(&writer->tensors, offset);
    writer->n_tensors++;
}

void gguf_writer_tensor(struct gguf_writer *writer, const char *name, uint32_t dtype, uint32_t n_dims,
                        const uint64_t *dims, const void *data, size_t bytes)
{
    put_padding(&writer->data, writer->alignment);
    gguf_writer_tensor_at(writer, name, dtype, n_dims, dims, writer->data.length);
    buf_append(&writer->data, data, bytes);
}

static void append(struct buf *out, const struct buf *part)
{
    buf_append(out, part->data, part->length);
    out->failed = out->failed || part->failed;
}

void *gguf_writer_finish(struct gguf_writer *writer, size_t *length)
{
    struct buf out;
    buf_init(&out, SIZE_MAX);
    buf_text(&out, "GGUF");
    put_u32(&out, VERSION);
    put_u64(&out, writer->n_tensors);
    put_u64(&out, writer->n_keys);
    append(&out, &writer->keys);
    append(&out, &writer->tensors);
    put_padding(&out, writer->alignment);
    put_padding(&writer->data, writer->alignment);
    append(&out, &writer->data);
    buf_free(&writer->keys);
    buf_free(&writer->tensors);
    buf_free(&writer->data);
    free(writer);
    if (out.failed) buf_free(&out);
    *length = out.length;
    return out.data;
}
