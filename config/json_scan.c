#include "config/json_scan.h"

#include "config/utf8.h"

#include <assert.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/*
 * A scanner without recursion: a stack of open arrays and objects, and the decoded keys of the open objects,
 * which serve to find duplicates when an object closes (by sorting, so that many keys cost no more than
 * n log n) and to tell in messages where the scan stands.
 */

enum { MAX_NUMBER = 63 }; /* what cJSON's number buffer holds */

struct key {
    const char *bytes; /* decoded, in scan.decoded */
    size_t length;
    size_t at; /* offset of its opening quote */
};

struct frame {
    bool object;
    size_t index;     /* of the element being read, in an array */
    size_t first_key; /* of this object, in scan.keys */
    size_t decoded;   /* length of scan.decoded when it opened */
};

struct scan {
    const char *text;
    size_t length, at;
    const struct json_limits *limits;
    struct err_info *info;
    size_t n_values;
    int depth;
    struct key *keys; /* of all open objects, innermost last */
    size_t n_keys, keys_capacity;
    char *decoded; /* bytes of those keys; a key is never longer decoded than written */
    size_t decoded_length;
    struct frame frames[JSON_MAX_DEPTH]; /* last: the one part not zeroed at the start */
};

/* "messages[2].content" */
static void path_print(const struct scan *s, char *out, size_t size)
{
    size_t used = 0;
    out[0] = '\0';
    for (int i = 0; i < s->depth && used < size; i++) {
        const struct frame *frame = &s->frames[i];
        int length = 0;
        if (!frame->object) {
            length = snprintf(out + used, size - used, "[%zu]", frame->index);
        } else {
            size_t last = i + 1 < s->depth ? s->frames[i + 1].first_key : s->n_keys;
            if (last == frame->first_key) break;
            const struct key *key = &s->keys[last - 1];
            length = snprintf(out + used, size - used, "%s%.*s", used ? "." : "",
                              (int)(key->length < size ? key->length : size), key->bytes);
        }
        used += (size_t)(length > 0 ? length : 0);
    }
    /* Keys are the client's: none may break a line of the log. */
    for (char *at = out; *at; at++)
        if ((unsigned char)*at < 0x20 || *at == 0x7F) *at = '?';
}

__attribute__((format(printf, 4, 5))) static enum err scan_fail(struct scan *s, enum err code, size_t at,
                                                                const char *format, ...)
{
    char what[256], path[sizeof s->info->param];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    path_print(s, path, sizeof path);
    return err_set_param(s->info, code, path, "JSON: %s at byte %zu%s%s%s", what, at, path[0] ? " (in '" : "",
                         path, path[0] ? "')" : "");
}

/* Fails with "expected X, found 'c'". */
static enum err scan_expected(struct scan *s, const char *what)
{
    if (s->at >= s->length) return scan_fail(s, ERR_INVALID, s->at, "expected %s, but the text ends", what);
    unsigned char byte = (unsigned char)s->text[s->at];
    if (byte > 0x20 && byte < 0x7F)
        return scan_fail(s, ERR_INVALID, s->at, "expected %s, found '%c'", what, byte);
    return scan_fail(s, ERR_INVALID, s->at, "expected %s, found byte 0x%02x", what, byte);
}

static int scan_peek(const struct scan *s)
{
    return s->at < s->length ? (unsigned char)s->text[s->at] : -1;
}

static void scan_space(struct scan *s)
{
    while (s->at < s->length && strchr(" \t\n\r", s->text[s->at]) && s->text[s->at]) s->at++;
}

static bool is_digit(int c)
{
    return c >= '0' && c <= '9';
}

/* Four hexadecimal digits at offset `at`; -1 when they are not there. */
static int scan_hex4(const struct scan *s, size_t at)
{
    if (s->length - at < 4) return -1;
    int value = 0;
    for (size_t i = at; i < at + 4; i++) {
        int c = (unsigned char)s->text[i];
        int digit = is_digit(c)            ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0) return -1;
        value = value * 16 + digit;
    }
    return value;
}

/* The escape at s->at (a backslash); its bytes go to out, at most 4. */
static enum err scan_escape(struct scan *s, char *out, size_t *n_out)
{
    static const char letters[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";
    size_t start = s->at++;
    int c = scan_peek(s);
    if (c < 0) return scan_expected(s, "the rest of an escape");
    const char *letter = c ? strchr(letters, c) : NULL;
    if (letter) {
        out[0] = meanings[letter - letters];
        *n_out = 1;
        s->at++;
        return ERR_OK;
    }
    if (c != 'u') return scan_fail(s, ERR_INVALID, start, "unknown escape in a string");
    s->at++;
    int code = scan_hex4(s, s->at);
    if (code < 0) return scan_fail(s, ERR_INVALID, start, "\\u needs four hexadecimal digits");
    if (code == 0) return scan_fail(s, ERR_INVALID, start, "\\u0000 is not accepted in strings");
    s->at += 4;
    if (code >= 0xD800 && code <= 0xDFFF) {
        int low = -1;
        if (code < 0xDC00 && s->length - s->at >= 6 && memcmp(s->text + s->at, "\\u", 2) == 0)
            low = scan_hex4(s, s->at + 2);
        if (low < 0xDC00 || low > 0xDFFF)
            return scan_fail(s, ERR_INVALID, start, "lone surrogate \\u%04x", (unsigned)code);
        code = 0x10000 + (code - 0xD800) * 0x400 + (low - 0xDC00);
        s->at += 6;
    }
    *n_out = utf8_encode((uint32_t)code, out);
    return ERR_OK;
}

/* The string at s->at (a quote). decoded (may be NULL) takes its bytes, *n_decoded their number. */
static enum err scan_string(struct scan *s, char *decoded, size_t *n_decoded)
{
    size_t start = s->at++, n = 0;
    for (;;) {
        if (s->at >= s->length) return scan_fail(s, ERR_INVALID, start, "unterminated string starting");
        unsigned char byte = (unsigned char)s->text[s->at];
        char escaped[4];
        const char *bytes = s->text + s->at;
        size_t size = 0;
        if (byte == '"') break;
        if (byte == '\\') {
            enum err err = scan_escape(s, escaped, &size);
            if (err) return err;
            bytes = escaped;
        } else if (byte < 0x20) {
            return scan_fail(s, ERR_INVALID, s->at, "raw control character 0x%02x in a string", byte);
        } else {
            size = utf8_sequence(bytes, s->length - s->at);
            if (size == 0)
                return scan_fail(s, ERR_INVALID, s->at, "byte 0x%02x does not continue valid UTF-8", byte);
            s->at += size;
        }
        if (decoded) memcpy(decoded + n, bytes, size);
        n += size;
    }
    s->at++;
    if (n_decoded) *n_decoded = n;
    return ERR_OK;
}

static size_t scan_digits(struct scan *s)
{
    size_t start = s->at;
    while (is_digit(scan_peek(s))) s->at++;
    return s->at - start;
}

static enum err scan_number(struct scan *s)
{
    size_t start = s->at;
    if (scan_peek(s) == '-') s->at++;
    if (scan_peek(s) == '0') {
        s->at++;
        if (is_digit(scan_peek(s))) return scan_fail(s, ERR_INVALID, start, "number with a leading zero");
    } else if (scan_digits(s) == 0) {
        return scan_expected(s, "a digit");
    }
    if (scan_peek(s) == '.') {
        s->at++;
        if (scan_digits(s) == 0) return scan_expected(s, "a digit");
    }
    if (scan_peek(s) == 'e' || scan_peek(s) == 'E') {
        s->at++;
        if (scan_peek(s) == '+' || scan_peek(s) == '-') s->at++;
        if (scan_digits(s) == 0) return scan_expected(s, "a digit");
    }
    char copy[MAX_NUMBER + 1];
    size_t length = s->at - start;
    if (length > MAX_NUMBER)
        return scan_fail(s, ERR_INVALID, start, "number longer than %d characters", MAX_NUMBER);
    memcpy(copy, s->text + start, length);
    copy[length] = '\0';
    if (isinf(strtod(copy, NULL)))
        return scan_fail(s, ERR_INVALID, start, "number '%s' is out of range", copy);
    return ERR_OK;
}

static enum err scan_word(struct scan *s, const char *word)
{
    size_t length = strlen(word);
    if (s->length - s->at < length || memcmp(s->text + s->at, word, length) != 0)
        return scan_expected(s, "a value");
    s->at += length;
    return ERR_OK;
}

static enum err scan_count(struct scan *s)
{
    if (s->n_values++ < s->limits->max_values) return ERR_OK;
    return scan_fail(s, ERR_LIMIT, s->at, "more than %zu values", s->limits->max_values);
}

static int key_compare(const void *left, const void *right)
{
    const struct key *a = left, *b = right;
    if (a->length != b->length) return a->length < b->length ? -1 : 1;
    int order = memcmp(a->bytes, b->bytes, a->length);
    if (order != 0) return order;
    return a->at < b->at ? -1 : a->at > b->at;
}

static enum err keys_grow(struct scan *s)
{
    if (s->n_keys < s->keys_capacity) return ERR_OK;
    size_t capacity = s->keys_capacity ? s->keys_capacity * 2 : 32;
    struct key *keys = realloc(s->keys, capacity * sizeof *keys);
    if (!keys) return err_set(s->info, ERR_MEMORY, "JSON: not enough memory for %zu keys", capacity);
    s->keys = keys;
    s->keys_capacity = capacity;
    return ERR_OK;
}

/* A key and its colon. */
static enum err scan_key(struct scan *s)
{
    if (scan_peek(s) != '"') return scan_expected(s, "a key in quotes");
    enum err err = scan_count(s);
    if (!err) err = keys_grow(s);
    if (err) return err;
    if (!s->decoded) {
        s->decoded = malloc(s->length);
        if (!s->decoded) return err_set(s->info, ERR_MEMORY, "JSON: not enough memory");
    }
    struct key key = {.bytes = s->decoded + s->decoded_length, .at = s->at};
    err = scan_string(s, s->decoded + s->decoded_length, &key.length);
    if (err) return err;
    s->decoded_length += key.length;
    s->keys[s->n_keys++] = key;
    scan_space(s);
    if (scan_peek(s) != ':') return scan_expected(s, "':'");
    s->at++;
    return ERR_OK;
}

static enum err scan_open(struct scan *s)
{
    if (s->depth >= s->limits->max_depth)
        return scan_fail(s, ERR_LIMIT, s->at, "nested deeper than %d levels", s->limits->max_depth);
    s->frames[s->depth++] =
        (struct frame){.object = s->text[s->at] == '{', .first_key = s->n_keys, .decoded = s->decoded_length};
    s->at++;
    return ERR_OK;
}

/* The innermost array or object ends at s->at. */
static enum err scan_close(struct scan *s)
{
    struct frame *frame = &s->frames[s->depth - 1];
    size_t n = s->n_keys - frame->first_key;
    if (frame->object && n > 1) {
        struct key *keys = s->keys + frame->first_key;
        qsort(keys, n, sizeof *keys, key_compare);
        for (size_t i = 1; i < n; i++) {
            if (keys[i].length != keys[i - 1].length) continue;
            if (memcmp(keys[i].bytes, keys[i - 1].bytes, keys[i].length) != 0) continue;
            s->n_keys = frame->first_key + i + 1; /* the path then ends in this key */
            return scan_fail(s, ERR_INVALID, keys[i].at, "duplicate key");
        }
    }
    s->n_keys = frame->first_key;
    s->decoded_length = frame->decoded;
    s->depth--;
    s->at++;
    return ERR_OK;
}

/* One value; of an array or object only its opening. */
static enum err scan_value(struct scan *s, bool *opened)
{
    enum err err = scan_count(s);
    if (err) return err;
    *opened = false;
    int c = scan_peek(s);
    switch (c) {
    case '{':
    case '[':
        *opened = true;
        return scan_open(s);
    case '"':
        return scan_string(s, NULL, NULL);
    case 't':
        return scan_word(s, "true");
    case 'f':
        return scan_word(s, "false");
    case 'n':
        return scan_word(s, "null");
    default:
        return c == '-' || is_digit(c) ? scan_number(s) : scan_expected(s, "a value");
    }
}

/* After a value: closes what ends here and stands before the next value; depth 0 when all is read. */
static enum err scan_after(struct scan *s)
{
    while (s->depth > 0) {
        struct frame *frame = &s->frames[s->depth - 1];
        scan_space(s);
        int c = scan_peek(s);
        if (c == ',') {
            s->at++;
            frame->index++;
            scan_space(s);
            return frame->object ? scan_key(s) : ERR_OK;
        }
        if (c != (frame->object ? '}' : ']'))
            return scan_expected(s, frame->object ? "',' or '}'" : "',' or ']'");
        enum err err = scan_close(s);
        if (err) return err;
    }
    return ERR_OK;
}

static enum err scan_document(struct scan *s)
{
    do {
        bool opened;
        scan_space(s);
        enum err err = scan_value(s, &opened);
        if (err) return err;
        scan_space(s);
        if (opened) {
            bool object = s->frames[s->depth - 1].object;
            if (scan_peek(s) != (object ? '}' : ']')) {
                err = object ? scan_key(s) : ERR_OK;
                if (err) return err;
                continue;
            }
        }
        err = scan_after(s);
        if (err) return err;
    } while (s->depth > 0);
    scan_space(s);
    if (s->at < s->length) return scan_expected(s, "the end of the text");
    return ERR_OK;
}

enum err json_scan(const char *text, size_t length, const struct json_limits *limits, struct err_info *info)
{
    assert(limits->max_depth <= JSON_MAX_DEPTH);
    if (length > limits->max_bytes)
        return err_set(info, ERR_LIMIT, "JSON: %zu bytes, at most %zu are accepted", length,
                       limits->max_bytes);
    struct scan s;
    memset(&s, 0, offsetof(struct scan, frames));
    s.text = text;
    s.length = length;
    s.limits = limits;
    s.info = info;
    enum err err = scan_document(&s);
    free(s.keys);
    free(s.decoded);
    return err;
}
