#include "model/gguf_dump.h"

#include "config/json.h"
#include "config/utf8.h"
#include "model/gguf_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { TEXT_STRING_BYTES = 60 };

static const size_t element_bytes[GGUF_TYPES] = {
    [GGUF_U8] = 1,  [GGUF_I8] = 1,   [GGUF_U16] = 2, [GGUF_I16] = 2, [GGUF_U32] = 4, [GGUF_I32] = 4,
    [GGUF_F32] = 4, [GGUF_BOOL] = 1, [GGUF_U64] = 8, [GGUF_I64] = 8, [GGUF_F64] = 8};

/* A string of at most cut bytes (whole characters), and how long it is when that is not all. */
static void string_write(struct buf *out, const char *bytes, size_t length, size_t cut)
{
    size_t shown = length;
    if (length > cut) {
        shown = cut;
        while (shown > 0 && ((unsigned char)bytes[shown] & 0xC0) == 0x80) shown--;
    }
    json_write_string(out, bytes, shown);
    if (shown < length) buf_printf(out, "... (%zu bytes)", length);
}

/* One element; returns the address of the next. */
static const uint8_t *element_write(struct buf *out, enum gguf_type type, const uint8_t *at, size_t cut)
{
    union {
        uint8_t u8;
        int8_t i8;
        uint16_t u16;
        int16_t i16;
        uint32_t u32;
        int32_t i32;
        uint64_t u64;
        int64_t i64;
        float f32;
        double f64;
    } value;
    if (type == GGUF_STRING) {
        memcpy(&value.u64, at, sizeof value.u64);
        at += sizeof value.u64;
        string_write(out, (const char *)at, (size_t)value.u64, cut);
        return at + value.u64;
    }
    memcpy(&value, at, element_bytes[type]);
    switch (type) {
    case GGUF_U8:
        json_write_int64(out, value.u8);
        break;
    case GGUF_I8:
        json_write_int64(out, value.i8);
        break;
    case GGUF_U16:
        json_write_int64(out, value.u16);
        break;
    case GGUF_I16:
        json_write_int64(out, value.i16);
        break;
    case GGUF_U32:
        json_write_int64(out, value.u32);
        break;
    case GGUF_I32:
        json_write_int64(out, value.i32);
        break;
    case GGUF_U64:
        buf_printf(out, "%" PRIu64, value.u64);
        break;
    case GGUF_I64:
        json_write_int64(out, value.i64);
        break;
    case GGUF_F32:
        json_write_float(out, value.f32);
        break;
    case GGUF_F64:
        json_write_double(out, value.f64);
        break;
    default:
        json_write_bool(out, value.u8 != 0);
        break;
    }
    return at + element_bytes[type];
}

/* The first max_elements, in brackets. */
static void array_write(struct buf *out, const struct gguf_key *key, size_t max_elements, size_t cut)
{
    const uint8_t *at = key->value;
    size_t n = key->n < max_elements ? key->n : max_elements;
    buf_text(out, "[");
    for (size_t i = 0; i < n; i++) {
        if (i > 0) buf_text(out, ", ");
        at = element_write(out, key->element, at, cut);
    }
    buf_text(out, "]");
}

/* "4096 x 32000" */
static void dims_print(const struct gguf_tensor *tensor, char *out, size_t size)
{
    size_t used = 0;
    out[0] = '\0';
    for (int i = 0; i < tensor->n_dims && used < size; i++)
        used += (size_t)snprintf(out + used, size - used, "%s%" PRId64, i ? " x " : "", tensor->dims[i]);
}

static size_t tensor_offset(const struct gguf *gguf, const struct gguf_tensor *tensor)
{
    return (size_t)((const uint8_t *)tensor->data - gguf->bytes);
}

/* Characters, so that columns align whatever the alphabet; a name that is not UTF-8 only looks crooked. */
static int name_width(struct gguf_string name)
{
    return (int)utf8_count(name.bytes, name.length);
}

/* A name without its quotes, padded to width. */
static void name_pad(struct buf *out, struct gguf_string name, int width)
{
    struct buf quoted;
    buf_init(&quoted, SIZE_MAX);
    json_write_string(&quoted, name.bytes, name.length);
    if (!quoted.failed) buf_append(out, quoted.data + 1, quoted.length - 2);
    buf_free(&quoted);
    int missing = width - name_width(name);
    buf_printf(out, "%*s", missing > 0 ? missing : 0, "");
}

static void keys_text(const struct gguf *gguf, size_t max_elements, struct buf *out)
{
    int width = 0;
    for (size_t i = 0; i < gguf->n_keys; i++)
        if (name_width(gguf->keys[i].name) > width) width = name_width(gguf->keys[i].name);
    buf_printf(out, "%zu keys\n", gguf->n_keys);
    for (size_t i = 0; i < gguf->n_keys; i++) {
        const struct gguf_key *key = &gguf->keys[i];
        bool array = key->type == GGUF_ARRAY;
        char type[64];
        if (array)
            snprintf(type, sizeof type, "%s[%zu]", gguf_type_name(key->element), key->n);
        else
            snprintf(type, sizeof type, "%s", gguf_type_name(key->type));
        buf_text(out, "  ");
        name_pad(out, key->name, width);
        buf_printf(out, "  %-14s  ", type);
        if (array)
            array_write(out, key, max_elements, TEXT_STRING_BYTES);
        else
            element_write(out, key->type, key->value, TEXT_STRING_BYTES);
        if (array && key->n > max_elements) buf_text(out, " ...");
        buf_text(out, "\n");
    }
}

static void tensors_text(const struct gguf *gguf, struct buf *out)
{
    int width = 0, dims_width = 0;
    size_t bytes = 0, elements = 0;
    char dims[128];
    for (size_t i = 0; i < gguf->n_tensors; i++) {
        const struct gguf_tensor *tensor = &gguf->tensors[i];
        dims_print(tensor, dims, sizeof dims);
        if (name_width(tensor->name) > width) width = name_width(tensor->name);
        if ((int)strlen(dims) > dims_width) dims_width = (int)strlen(dims);
        bytes += tensor->bytes;
        size_t n = 1;
        for (int k = 0; k < tensor->n_dims; k++) n *= (size_t)tensor->dims[k];
        elements += n;
    }
    buf_printf(out, "\n%zu tensors, %zu elements, %zu bytes\n", gguf->n_tensors, elements, bytes);
    for (size_t i = 0; i < gguf->n_tensors; i++) {
        const struct gguf_tensor *tensor = &gguf->tensors[i];
        dims_print(tensor, dims, sizeof dims);
        buf_text(out, "  ");
        name_pad(out, tensor->name, width);
        buf_printf(out, "  %-5s  %-*s  %12zu bytes at %zu\n", dtype_name(tensor->dtype), dims_width, dims,
                   tensor->bytes, tensor_offset(gguf, tensor));
    }
}

void gguf_dump_text(const struct gguf *gguf, size_t max_elements, struct buf *out)
{
    keys_text(gguf, max_elements, out);
    tensors_text(gguf, out);
}

void gguf_dump_json(const struct gguf *gguf, size_t max_elements, struct buf *out)
{
    buf_printf(out, "{\"file_bytes\":%zu,\"keys\":[", gguf->length);
    for (size_t i = 0; i < gguf->n_keys; i++) {
        const struct gguf_key *key = &gguf->keys[i];
        buf_text(out, i ? ",\n {\"name\":" : "\n {\"name\":");
        json_write_string(out, key->name.bytes, key->name.length);
        buf_printf(out, ",\"type\":\"%s\",", gguf_type_name(key->type));
        if (key->type == GGUF_ARRAY)
            buf_printf(out, "\"element_type\":\"%s\",\"length\":%zu,", gguf_type_name(key->element), key->n);
        buf_text(out, "\"value\":");
        if (key->type == GGUF_ARRAY)
            array_write(out, key, max_elements, SIZE_MAX);
        else
            element_write(out, key->type, key->value, SIZE_MAX);
        buf_text(out, "}");
    }
    buf_text(out, "],\"tensors\":[");
    for (size_t i = 0; i < gguf->n_tensors; i++) {
        const struct gguf_tensor *tensor = &gguf->tensors[i];
        buf_text(out, i ? ",\n {\"name\":" : "\n {\"name\":");
        json_write_string(out, tensor->name.bytes, tensor->name.length);
        buf_printf(out, ",\"type\":\"%s\",\"dims\":[", dtype_name(tensor->dtype));
        for (int k = 0; k < tensor->n_dims; k++) buf_printf(out, "%s%" PRId64, k ? "," : "", tensor->dims[k]);
        buf_printf(out, "],\"bytes\":%zu,\"offset\":%zu}", tensor->bytes, tensor_offset(gguf, tensor));
    }
    buf_text(out, "]}\n");
}
