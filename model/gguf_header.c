/*
 * The header of a GGUF file: one pass that checks everything which is later used without a check.
 *
 *   "GGUF", version, number of tensors, number of keys
 *   keys:     name, type, value (a scalar, a string, or an array of these)
 *   tensors:  name, dims, element type, offset of the data
 *   padding to general.alignment, then the data
 *
 * Integers are little-endian and nothing is aligned. A cursor walks the header and never passes the end of
 * the file; counts are bounded by the bytes that are left before memory is asked for, so a hostile count
 * cannot cost more memory than a few times the file. Format: github.com/ggml-org/ggml, docs/gguf.md.
 */
#include "model/gguf_internal.h"

#include <stdlib.h>
#include <string.h>

enum {
    HEADER_BYTES = 24,
    MAX_ENTRIES = 1 << 16,   /* keys, and tensors: real files have hundreds */
    MAX_ALIGNMENT = 1 << 20, /* general.alignment */
    MIN_KEY_BYTES = 8 + 1 + 4 + 1,
    MIN_TENSOR_BYTES = 8 + 1 + 4 + 8 + 4 + 8,
};

struct cursor {
    const uint8_t *bytes;
    size_t length;
    size_t at; /* <= length */
};

const char *gguf_type_name(enum gguf_type type)
{
    static const char *const names[GGUF_TYPES] = {
        "u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64", "i64", "f64",
    };
    return names[type];
}

/* Bytes of one value of a fixed size; 0 for strings and arrays. */
static size_t type_bytes(enum gguf_type type)
{
    static const uint8_t bytes[GGUF_TYPES] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    return bytes[type];
}

/* --- the cursor: each returns false when the file ends first
 * ------------------------------------------------ */

static bool take_bytes(struct cursor *cursor, void *out, size_t n)
{
    if (cursor->length - cursor->at < n) return false;
    memcpy(out, cursor->bytes + cursor->at, n);
    cursor->at += n;
    return true;
}

static bool take_u32(struct cursor *cursor, uint32_t *out)
{
    return take_bytes(cursor, out, sizeof *out);
}

static bool take_u64(struct cursor *cursor, uint64_t *out)
{
    return take_bytes(cursor, out, sizeof *out);
}

static bool take_string(struct cursor *cursor, struct gguf_string *out)
{
    uint64_t length;
    if (!take_u64(cursor, &length) || length > cursor->length - cursor->at) return false;
    *out = (struct gguf_string){(const char *)cursor->bytes + cursor->at, (size_t)length};
    cursor->at += (size_t)length;
    return true;
}

/* --- keys ------------------------------------------------------------------------------------------------
 */

static enum err key_error(struct err_info *info, const struct gguf_key *key, const char *what, uint64_t value)
{
    struct gguf_label label = gguf_label_of(key->name);
    return err_set_param(info, ERR_FORMAT, label.text, "key '%s': %s %llu", label.text, what,
                         (unsigned long long)value);
}

static enum err key_truncated(struct err_info *info, const struct gguf_key *key, const struct cursor *cursor)
{
    struct gguf_label label = gguf_label_of(key->name);
    return err_set_param(info, ERR_FORMAT, label.text,
                         "key '%s': its value at offset %zu runs past the end of the file (%zu bytes)",
                         label.text, cursor->at, cursor->length);
}

/* Walk over n values of one type. */
static enum err skip_values(struct cursor *cursor, const struct gguf_key *key, enum gguf_type type,
                            uint64_t n, struct err_info *info)
{
    size_t size = type_bytes(type), left = cursor->length - cursor->at;
    if (type == GGUF_STRING) {
        if (n > left / sizeof(uint64_t)) return key_truncated(info, key, cursor);
        struct gguf_string ignored;
        for (uint64_t i = 0; i < n; i++) {
            if (!take_string(cursor, &ignored)) return key_truncated(info, key, cursor);
        }
        return ERR_OK;
    }
    if (n > left / size) return key_truncated(info, key, cursor);
    cursor->at += (size_t)n * size;
    return ERR_OK;
}

static enum err parse_array(struct cursor *cursor, struct gguf_key *key, struct err_info *info)
{
    uint32_t element;
    uint64_t n;
    if (!take_u32(cursor, &element) || !take_u64(cursor, &n)) return key_truncated(info, key, cursor);
    if (element == GGUF_ARRAY) return key_error(info, key, "an array of arrays, type", element);
    if (element >= GGUF_TYPES) return key_error(info, key, "unknown element type", element);
    key->element = (enum gguf_type)element;
    key->value = cursor->bytes + cursor->at;
    enum err err = skip_values(cursor, key, key->element, n, info);
    key->n = (size_t)n;
    return err;
}

static enum err parse_key(struct cursor *cursor, size_t i, struct gguf_key *key, struct err_info *info)
{
    uint32_t type;
    size_t start = cursor->at;
    if (!take_string(cursor, &key->name) || key->name.length == 0) {
        return err_set(
            info, ERR_FORMAT,
            "key %zu at offset %zu: its name is empty or runs past the end of the file (%zu bytes)", i, start,
            cursor->length);
    }
    if (!take_u32(cursor, &type)) return key_truncated(info, key, cursor);
    if (type >= GGUF_TYPES) return key_error(info, key, "unknown value type", type);
    key->type = (enum gguf_type)type;
    if (key->type == GGUF_ARRAY) return parse_array(cursor, key, info);
    key->value = cursor->bytes + cursor->at;
    key->n = 1;
    return skip_values(cursor, key, key->type, 1, info);
}

static enum err parse_keys(struct gguf *gguf, struct cursor *cursor, struct err_info *info)
{
    for (size_t i = 0; i < gguf->n_keys; i++) {
        enum err err = parse_key(cursor, i, &gguf->keys[i], info);
        if (err) return err;
        if (!gguf_index_insert(&gguf->key_index, gguf->keys, sizeof *gguf->keys, i)) {
            return key_error(info, &gguf->keys[i], "appears a second time, as key", i);
        }
    }
    return ERR_OK;
}

/* --- tensors ---------------------------------------------------------------------------------------------
 */

/* Types that are known and not read, for the message. */
static const char *foreign_type(uint32_t type)
{
    static const char *const names[] = {
        [9] = "Q8_1",     [10] = "Q2_K",  [11] = "Q3_K",   [15] = "Q8_K",  [16] = "IQ2_XXS", [17] = "IQ2_XS",
        [18] = "IQ3_XXS", [19] = "IQ1_S", [20] = "IQ4_NL", [21] = "IQ3_S", [22] = "IQ2_S",   [23] = "IQ4_XS",
        [24] = "I8",      [25] = "I16",   [26] = "I32",    [27] = "I64",   [28] = "F64",     [29] = "IQ1_M",
        [34] = "TQ1_0",   [35] = "TQ2_0", [39] = "MXFP4",
    };
    bool known = type < sizeof names / sizeof *names && names[type];
    return known ? names[type] : "unknown";
}

static enum err tensor_truncated(struct err_info *info, const struct gguf_tensor *tensor,
                                 const struct cursor *cursor)
{
    struct gguf_label label = gguf_label_of(tensor->name);
    return err_set_param(
        info, ERR_FORMAT, label.text,
        "tensor '%s': its description at offset %zu runs past the end of the file (%zu bytes)", label.text,
        cursor->at, cursor->length);
}

/* dims, and the number of elements. */
static enum err parse_dims(struct cursor *cursor, struct gguf_tensor *tensor, size_t *n,
                           struct err_info *info)
{
    struct gguf_label label = gguf_label_of(tensor->name);
    uint32_t n_dims;
    if (!take_u32(cursor, &n_dims)) return tensor_truncated(info, tensor, cursor);
    if (n_dims < 1 || n_dims > GGUF_MAX_DIMS) {
        return err_set_param(info, ERR_FORMAT, label.text, "tensor '%s': %u dimensions, 1 to %d are allowed",
                             label.text, n_dims, GGUF_MAX_DIMS);
    }
    tensor->n_dims = (int)n_dims;
    *n = 1;
    for (int i = 0; i < GGUF_MAX_DIMS; i++) tensor->dims[i] = 1;
    for (int i = 0; i < tensor->n_dims; i++) {
        uint64_t dim;
        if (!take_u64(cursor, &dim)) return tensor_truncated(info, tensor, cursor);
        if (dim == 0 || dim > INT64_MAX || __builtin_mul_overflow(*n, (size_t)dim, n)) {
            return err_set_param(info, ERR_FORMAT, label.text, "tensor '%s': dimension %d cannot be %llu",
                                 label.text, i, (unsigned long long)dim);
        }
        tensor->dims[i] = (int64_t)dim;
    }
    return ERR_OK;
}

/* The element type, and the bytes that n elements of it take. */
static enum err parse_type(struct cursor *cursor, struct gguf_tensor *tensor, size_t n, struct err_info *info)
{
    struct gguf_label label = gguf_label_of(tensor->name);
    uint32_t type;
    if (!take_u32(cursor, &type)) return tensor_truncated(info, tensor, cursor);
    if (!dtype_name(type)) {
        return err_set_param(
            info, ERR_UNSUPPORTED, label.text,
            "tensor '%s': element type %u (%s) is not supported; F32, F16, BF16, Q4_0, Q4_1, "
            "Q5_0, Q5_1, Q8_0, Q4_K, Q5_K and Q6_K are",
            label.text, type, foreign_type(type));
    }
    tensor->dtype = (enum dtype)type;
    size_t block = dtype_block_elements(type);
    if ((size_t)tensor->dims[0] % block) {
        return err_set_param(info, ERR_FORMAT, label.text,
                             "tensor '%s': rows of %lld elements are not a multiple of the %zu of a %s block",
                             label.text, (long long)tensor->dims[0], block, dtype_name(type));
    }
    if (__builtin_mul_overflow(n / block, dtype_block_bytes(type), &tensor->bytes)) {
        return err_set_param(info, ERR_FORMAT, label.text, "tensor '%s': too many elements (%zu)", label.text,
                             n);
    }
    return ERR_OK;
}

/* *offset: of the data, from the start of the data section; checked when that is known. */
static enum err parse_tensor(struct cursor *cursor, size_t i, struct gguf_tensor *tensor, uint64_t *offset,
                             struct err_info *info)
{
    size_t n = 0, start = cursor->at;
    if (!take_string(cursor, &tensor->name) || tensor->name.length == 0) {
        return err_set(
            info, ERR_FORMAT,
            "tensor %zu at offset %zu: its name is empty or runs past the end of the file (%zu bytes)", i,
            start, cursor->length);
    }
    enum err err = parse_dims(cursor, tensor, &n, info);
    if (!err) err = parse_type(cursor, tensor, n, info);
    if (!err && !take_u64(cursor, offset)) err = tensor_truncated(info, tensor, cursor);
    return err;
}

static enum err place_tensor(struct gguf *gguf, struct gguf_tensor *tensor, uint64_t offset,
                             size_t data_start, size_t alignment, struct err_info *info)
{
    struct gguf_label label = gguf_label_of(tensor->name);
    size_t room = gguf->length > data_start ? gguf->length - data_start : 0;
    if (offset % alignment) {
        return err_set_param(info, ERR_FORMAT, label.text,
                             "tensor '%s': offset %llu is not a multiple of general.alignment (%zu)",
                             label.text, (unsigned long long)offset, alignment);
    }
    if (offset > room || tensor->bytes > room - (size_t)offset) {
        return err_set_param(
            info, ERR_FORMAT, label.text,
            "tensor '%s': %zu bytes at offset %llu of the data (which starts at %zu) lie past "
            "the end of the file (%zu bytes)",
            label.text, tensor->bytes, (unsigned long long)offset, data_start, gguf->length);
    }
    tensor->data = gguf->bytes + data_start + (size_t)offset;
    return ERR_OK;
}

static enum err find_alignment(const struct gguf *gguf, size_t *alignment, struct err_info *info)
{
    static const char key[] = "general.alignment";
    uint32_t value = 32;
    if (gguf_has(gguf, key)) {
        enum err err = gguf_get_u32(gguf, key, &value, info);
        if (err) return err;
    }
    if (value < 1 || value > MAX_ALIGNMENT || (value & (value - 1))) {
        return err_set_param(info, ERR_FORMAT, key, "key '%s': %u is not a power of two up to %d", key, value,
                             MAX_ALIGNMENT);
    }
    *alignment = value;
    return ERR_OK;
}

static enum err parse_tensors(struct gguf *gguf, struct cursor *cursor, struct err_info *info)
{
    size_t alignment = 0;
    uint64_t *offsets = calloc(gguf->n_tensors + 1, sizeof *offsets);
    enum err err = offsets ? find_alignment(gguf, &alignment, info)
                           : err_set(info, ERR_MEMORY, "no memory for %zu tensors", gguf->n_tensors);
    for (size_t i = 0; i < gguf->n_tensors && !err; i++) {
        err = parse_tensor(cursor, i, &gguf->tensors[i], &offsets[i], info);
        if (!err && !gguf_index_insert(&gguf->tensor_index, gguf->tensors, sizeof *gguf->tensors, i)) {
            struct gguf_label label = gguf_label_of(gguf->tensors[i].name);
            err = err_set_param(info, ERR_FORMAT, label.text,
                                "tensor '%s': appears a second time, as tensor %zu", label.text, i);
        }
    }
    if (!err) {
        size_t data_start =
            (cursor->at + alignment - 1) / alignment * alignment; /* at is at most a file's size */
        for (size_t i = 0; i < gguf->n_tensors && !err; i++) {
            err = place_tensor(gguf, &gguf->tensors[i], offsets[i], data_start, alignment, info);
        }
    }
    free(offsets);
    return err;
}

/* --- the whole ---------------------------------------------------------------------------------------- */

static enum err parse_counts(struct gguf *gguf, struct cursor *cursor, struct err_info *info)
{
    char magic[4];
    uint32_t version;
    uint64_t n_tensors, n_keys;
    if (cursor->length < HEADER_BYTES) {
        return err_set(info, ERR_FORMAT, "not a GGUF file: only %zu bytes", cursor->length);
    }
    take_bytes(cursor, magic, sizeof magic);
    take_u32(cursor, &version);
    take_u64(cursor, &n_tensors);
    take_u64(cursor, &n_keys);
    if (memcmp(magic, "GGUF", 4) != 0)
        return err_set(info, ERR_FORMAT, "not a GGUF file: it does not start so");
    if (version == 3U << 24) return err_set(info, ERR_UNSUPPORTED, "a big-endian GGUF file");
    if (version != 3 && version != 2) { /* 2 differs from 3 only in that it cannot be big-endian */
        return err_set(info, ERR_UNSUPPORTED, "GGUF version %u; 3 is supported", version);
    }
    size_t left = cursor->length - cursor->at;
    if (n_tensors > MAX_ENTRIES || n_keys > MAX_ENTRIES || n_keys * MIN_KEY_BYTES > left ||
        n_tensors * MIN_TENSOR_BYTES > left) {
        return err_set(info, ERR_FORMAT,
                       "%llu tensors and %llu keys cannot be in a file of %zu bytes (at most %d of each)",
                       (unsigned long long)n_tensors, (unsigned long long)n_keys, cursor->length,
                       MAX_ENTRIES);
    }
    gguf->n_tensors = (size_t)n_tensors;
    gguf->n_keys = (size_t)n_keys;
    gguf->keys = calloc(gguf->n_keys + 1, sizeof *gguf->keys);
    gguf->tensors = calloc(gguf->n_tensors + 1, sizeof *gguf->tensors);
    if (!gguf->keys || !gguf->tensors || !gguf_index_create(&gguf->key_index, gguf->n_keys) ||
        !gguf_index_create(&gguf->tensor_index, gguf->n_tensors)) {
        return err_set(info, ERR_MEMORY, "no memory for the header of a GGUF file");
    }
    return ERR_OK;
}

enum err gguf_header_parse(struct gguf *gguf, struct err_info *info)
{
    struct cursor cursor = {.bytes = gguf->bytes, .length = gguf->length};
    enum err err = parse_counts(gguf, &cursor, info);
    if (!err) err = parse_keys(gguf, &cursor, info);
    if (!err) err = parse_tensors(gguf, &cursor, info);
    return err;
}
