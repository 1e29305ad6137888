/*
 * Values of keys. Integers of any width are read where one is wanted, as long as the value fits: writers of
 * GGUF files do not agree on widths.
 */
#include "model/gguf_internal.h"

#include <string.h>

static enum err find_key(const struct gguf *gguf, const char *name, const struct gguf_key **out,
                         struct err_info *info)
{
    *out = gguf_key_find(gguf, name);
    if (*out) return ERR_OK;
    return err_set_param(info, ERR_FORMAT, name, "key '%s' is missing", name);
}

static enum err wrong_type(const struct gguf_key *key, const char *name, const char *wanted,
                           struct err_info *info)
{
    bool array = key->type == GGUF_ARRAY;
    return err_set_param(info, ERR_FORMAT, name, "key '%s': %s%s found, %s expected", name,
                         array ? "array of " : "", gguf_type_name(array ? key->element : key->type), wanted);
}

/* Element i as an integer; false when the type is none. A u64 above INT64_MAX comes out negative, which no
   caller accepts. */
static bool read_integer(enum gguf_type type, const uint8_t *value, size_t i, int64_t *out)
{
    union {
        uint8_t u8;
        int8_t i8;
        uint16_t u16;
        int16_t i16;
        uint32_t u32;
        int32_t i32;
        int64_t i64;
    } read;
    static const uint8_t sizes[GGUF_TYPES] = {[GGUF_U8] = 1,  [GGUF_I8] = 1,  [GGUF_U16] = 2, [GGUF_I16] = 2,
                                              [GGUF_U32] = 4, [GGUF_I32] = 4, [GGUF_U64] = 8, [GGUF_I64] = 8};
    size_t size = sizes[type];
    if (size == 0) return false;
    memcpy(&read, value + i * size, size);
    switch (type) {
    case GGUF_U8:
        *out = read.u8;
        break;
    case GGUF_I8:
        *out = read.i8;
        break;
    case GGUF_U16:
        *out = read.u16;
        break;
    case GGUF_I16:
        *out = read.i16;
        break;
    case GGUF_U32:
        *out = read.u32;
        break;
    case GGUF_I32:
        *out = read.i32;
        break;
    default:
        *out = read.i64;
        break;
    }
    return true;
}

static bool read_real(enum gguf_type type, const uint8_t *value, size_t i, float *out)
{
    double f64;
    if (type == GGUF_F32) {
        memcpy(out, value + i * sizeof *out, sizeof *out);
        return true;
    }
    if (type != GGUF_F64) return false;
    memcpy(&f64, value + i * sizeof f64, sizeof f64);
    *out = (float)f64;
    return true;
}

bool gguf_has(const struct gguf *gguf, const char *key)
{
    return gguf_key_find(gguf, key) != NULL;
}

enum err gguf_get_u32(const struct gguf *gguf, const char *key, uint32_t *out, struct err_info *info)
{
    const struct gguf_key *found;
    int64_t value;
    enum err err = find_key(gguf, key, &found, info);
    if (err) return err;
    if (!read_integer(found->type, found->value, 0, &value)) return wrong_type(found, key, "u32", info);
    if (value < 0 || value > UINT32_MAX) {
        return err_set_param(info, ERR_FORMAT, key, "key '%s': the value does not fit an u32", key);
    }
    *out = (uint32_t)value;
    return ERR_OK;
}

enum err gguf_get_f32(const struct gguf *gguf, const char *key, float *out, struct err_info *info)
{
    const struct gguf_key *found;
    enum err err = find_key(gguf, key, &found, info);
    if (err) return err;
    if (!read_real(found->type, found->value, 0, out)) return wrong_type(found, key, "f32", info);
    return ERR_OK;
}

enum err gguf_get_bool(const struct gguf *gguf, const char *key, bool *out, struct err_info *info)
{
    const struct gguf_key *found;
    enum err err = find_key(gguf, key, &found, info);
    if (err) return err;
    if (found->type != GGUF_BOOL) return wrong_type(found, key, "bool", info);
    *out = *found->value != 0;
    return ERR_OK;
}

static const uint8_t *read_string(const uint8_t *at, struct gguf_string *out)
{
    uint64_t length;
    memcpy(&length, at, sizeof length);
    *out = (struct gguf_string){(const char *)at + sizeof length, (size_t)length};
    return at + sizeof length + length;
}

enum err gguf_get_string(const struct gguf *gguf, const char *key, struct gguf_string *out,
                         struct err_info *info)
{
    const struct gguf_key *found;
    enum err err = find_key(gguf, key, &found, info);
    if (err) return err;
    if (found->type != GGUF_STRING) return wrong_type(found, key, "string", info);
    read_string(found->value, out);
    return ERR_OK;
}

enum err gguf_array_length(const struct gguf *gguf, const char *key, size_t *n, struct err_info *info)
{
    const struct gguf_key *found;
    enum err err = find_key(gguf, key, &found, info);
    if (err) return err;
    if (found->type != GGUF_ARRAY) return wrong_type(found, key, "array", info);
    *n = found->n;
    return ERR_OK;
}

static enum err find_array(const struct gguf *gguf, const char *key, size_t n, const struct gguf_key **out,
                           struct err_info *info)
{
    enum err err = find_key(gguf, key, out, info);
    if (err) return err;
    if ((*out)->type != GGUF_ARRAY) return wrong_type(*out, key, "array", info);
    if ((*out)->n != n) {
        return err_set_param(info, ERR_FORMAT, key, "key '%s': %zu elements found, %zu expected", key,
                             (*out)->n, n);
    }
    return ERR_OK;
}

enum err gguf_get_strings(const struct gguf *gguf, const char *key, struct gguf_string *out, size_t n,
                          struct err_info *info)
{
    const struct gguf_key *found;
    enum err err = find_array(gguf, key, n, &found, info);
    if (err) return err;
    if (found->element != GGUF_STRING) return wrong_type(found, key, "array of string", info);
    const uint8_t *at = found->value;
    for (size_t i = 0; i < n; i++) at = read_string(at, &out[i]);
    return ERR_OK;
}

enum err gguf_get_i32s(const struct gguf *gguf, const char *key, int32_t *out, size_t n,
                       struct err_info *info)
{
    const struct gguf_key *found;
    int64_t value;
    enum err err = find_array(gguf, key, n, &found, info);
    if (err) return err;
    for (size_t pass = 0; pass < 2; pass++) { /* all are checked before the first is written */
        for (size_t i = 0; i < n; i++) {
            if (!read_integer(found->element, found->value, i, &value)) {
                return wrong_type(found, key, "array of i32", info);
            }
            if (value < INT32_MIN || value > INT32_MAX) {
                return err_set_param(info, ERR_FORMAT, key, "key '%s': element %zu does not fit an i32", key,
                                     i);
            }
            if (pass == 1) out[i] = (int32_t)value;
        }
    }
    return ERR_OK;
}

enum err gguf_get_f32s(const struct gguf *gguf, const char *key, float *out, size_t n, struct err_info *info)
{
    const struct gguf_key *found;
    enum err err = find_array(gguf, key, n, &found, info);
    if (err) return err;
    if (found->element != GGUF_F32 && found->element != GGUF_F64) {
        return wrong_type(found, key, "array of f32", info);
    }
    for (size_t i = 0; i < n; i++) read_real(found->element, found->value, i, &out[i]);
    return ERR_OK;
}
