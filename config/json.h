#ifndef CONFIG_JSON_H
#define CONFIG_JSON_H

#include "config/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * JSON, read strictly (RFC 8259) and written plainly.
 *
 * Reading: a validating scan (json_scan.c) passes over the text first, then cJSON builds the tree. Besides
 * whatever the grammar forbids (trailing commas, comments, NaN, raw control characters, text after the
 * value), these are refused, because readers disagree about them: duplicate keys, text that is not UTF-8, a
 * byte order mark, lone surrogates, \u0000 (strings here are C strings; none holds a NUL), numbers beyond the
 * range of double or longer than 63 characters.
 *
 * Writing: replies are put together in a struct buf by whoever knows their shape; here are only the leaves.
 */
struct json; /* one value; belongs to the tree that json_parse made */

struct json_limits {
    size_t max_bytes;
    int max_depth;     /* arrays and objects within each other, at most JSON_MAX_DEPTH */
    size_t max_values; /* values and keys; each takes about 80 bytes of heap */
};

enum { JSON_MAX_DEPTH = 256 };

/* 64 levels, 2^20 values; max_bytes is for the caller to set. */
extern const struct json_limits json_limits_default;

/* text need not be NUL-terminated. The caller frees *out with json_free. ERR_INVALID: malformed; ERR_LIMIT:
   too long, too deep or too many values; ERR_MEMORY. The message says what is wrong and at which byte (from
   0); info->param is the path of the place, such as "messages[2].content", empty at the top. */
enum err json_parse(const char *text, size_t length, const struct json_limits *limits, struct json **out,
                    struct err_info *info);
/* The whole tree; NULL-safe. Only for what json_parse returned. */
void json_free(struct json *root);

enum json_type { JSON_NULL, JSON_BOOL, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT };

enum json_type json_type(const struct json *node);
/* "null", "a boolean", "a number", "a string", "an array", "an object", for messages. */
const char *json_type_name(enum json_type type);

/* Member of an object by exact name; NULL when there is none or node is not an object (or is NULL). */
const struct json *json_get(const struct json *node, const char *key);
/* Element i of an array; NULL past its end or when node is not an array. Takes i steps: walk long arrays
   with json_first and json_next. */
const struct json *json_at(const struct json *node, size_t i);
/* Elements of an array, members of an object; 0 for anything else. */
size_t json_length(const struct json *node);
/* Walking arrays and objects, in the order of the text: NULL at the end, or when node is neither. */
const struct json *json_first(const struct json *node);
const struct json *json_next(const struct json *node);
/* Name of a member of an object; NULL for elements and for the root. */
const char *json_key(const struct json *node);

/* These assert the type: ask json_type first. */
bool json_bool(const struct json *node);
double json_number(const struct json *node);
/* NUL-terminated UTF-8 without NUL inside; *length (may be NULL) without the terminator. */
const char *json_string(const struct json *node, size_t *length);

/* A number without fraction (1, 1.0, 1e3) that double holds exactly: |n| < 2^53. */
bool json_is_integer(const struct json *node);
int64_t json_int64(const struct json *node); /* asserts json_is_integer */
/* A number written with a fraction or an exponent: 1.0 and 1e3, not 1. */
bool json_is_fraction(const struct json *node);

struct buf;

/* A quoted string. Bytes that are not UTF-8 become U+FFFD, one for each. */
void json_write_string(struct buf *out, const char *text, size_t length);
void json_write_text(struct buf *out, const char *text); /* the same, NUL-terminated */
/* The fewest digits that read back as the same value. NaN and the infinities, which JSON lacks, are null. */
void json_write_float(struct buf *out, float value);
void json_write_double(struct buf *out, double value);
void json_write_int64(struct buf *out, int64_t value);
void json_write_bool(struct buf *out, bool value);
/* A whole value as it was read: members in their order, 1.0 not as 1. */
void json_write_tree(struct buf *out, const struct json *node);

#endif
