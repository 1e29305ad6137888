#define _GNU_SOURCE /* memmem */
#include "model/jinja_text.h"
#include "config/utf8.h"

#include <assert.h>
#include <string.h>
#include <utf8proc.h>

/* --- Builder --- */

void jinja_builder_init(struct jinja_builder *builder, struct arena *arena, size_t limit)
{
    *builder = (struct jinja_builder){.arena = arena, .limit = limit};
}

static bool builder_reserve(struct jinja_builder *builder, size_t more)
{
    if (builder->failed) return false;
    if (more > builder->limit - builder->length) {
        builder->failed = builder->too_long = true;
        return false;
    }
    size_t need = builder->length + more;
    if (need <= builder->capacity) return true;
    size_t capacity = builder->capacity < 64 ? 64 : builder->capacity;
    while (capacity < need) capacity *= 2;
    char *bytes = arena_alloc(builder->arena, capacity, 1);
    unsigned char *marks = builder->marks ? arena_alloc(builder->arena, capacity, 1) : NULL;
    if (!bytes || (builder->marks && !marks)) {
        builder->failed = true;
        return false;
    }
    if (builder->length > 0) memcpy(bytes, builder->bytes, builder->length);
    if (marks && builder->length > 0) memcpy(marks, builder->marks, builder->length);
    builder->bytes = bytes;
    builder->marks = marks;
    builder->capacity = capacity;
    return true;
}

/* From here on each byte has a mark of its own. */
static bool builder_mark(struct jinja_builder *builder)
{
    builder->marks = arena_alloc(builder->arena, builder->capacity, 1);
    if (!builder->marks) {
        builder->failed = true;
        return false;
    }
    memset(builder->marks, builder->literal, builder->length);
    return true;
}

void jinja_builder_add(struct jinja_builder *builder, struct jinja_text text)
{
    if (text.length == 0 || !builder_reserve(builder, text.length)) return;
    if (builder->length == 0 && !text.marks) builder->literal = text.literal;
    bool mixed = text.marks || text.literal != builder->literal;
    if (!builder->marks && mixed && !builder_mark(builder)) return;
    memcpy(builder->bytes + builder->length, text.bytes, text.length);
    if (builder->marks && text.marks)
        memcpy(builder->marks + builder->length, text.marks, text.length);
    else if (builder->marks)
        memset(builder->marks + builder->length, text.literal, text.length);
    builder->length += text.length;
}

void jinja_builder_bytes(struct jinja_builder *builder, const char *bytes, size_t length)
{
    jinja_builder_add(builder, (struct jinja_text){.bytes = bytes, .length = length, .literal = true});
}

void jinja_builder_string(struct jinja_builder *builder, const char *string)
{
    jinja_builder_bytes(builder, string, strlen(string));
}

void jinja_builder_char(struct jinja_builder *builder, uint32_t code, bool literal)
{
    char bytes[4];
    size_t size = utf8_encode(code, bytes);
    jinja_builder_add(builder, (struct jinja_text){.bytes = bytes, .length = size, .literal = literal});
}

struct jinja_text jinja_builder_text(const struct jinja_builder *builder)
{
    return (struct jinja_text){.bytes = builder->bytes ? builder->bytes : "",
                               .length = builder->length,
                               .marks = builder->marks,
                               .literal = builder->literal};
}

/* --- Places --- */

bool jinja_text_literal_at(const struct jinja_text *text, size_t at)
{
    return text->marks ? text->marks[at] != 0 : text->literal;
}

struct jinja_text jinja_text_cut(struct jinja_text text, size_t from, size_t to)
{
    assert(from <= to && to <= text.length);
    text.bytes += from;
    if (text.marks) text.marks += from;
    text.length = to - from;
    return text;
}

size_t jinja_text_chars(struct jinja_text text)
{
    return utf8_count(text.bytes, text.length);
}

size_t jinja_text_offset(struct jinja_text text, size_t character)
{
    for (size_t i = 0; i < text.length; i++)
        if (((unsigned char)text.bytes[i] & 0xC0) != 0x80 && character-- == 0) return i;
    return text.length;
}

size_t jinja_text_find(struct jinja_text text, struct jinja_text needle, size_t from)
{
    if (from > text.length) return SIZE_MAX;
    const char *found = memmem(text.bytes + from, text.length - from, needle.bytes, needle.length);
    return found ? (size_t)(found - text.bytes) : SIZE_MAX;
}

size_t jinja_text_find_last(struct jinja_text text, struct jinja_text needle)
{
    if (needle.length > text.length) return SIZE_MAX;
    for (size_t at = text.length - needle.length + 1; at-- > 0;)
        if (memcmp(text.bytes + at, needle.bytes, needle.length) == 0) return at;
    return SIZE_MAX;
}

static bool ends_line(uint32_t code)
{
    return (code >= '\n' && code <= '\r') || (code >= 0x1C && code <= 0x1E) || code == 0x85 ||
           code == 0x2028 || code == 0x2029;
}

size_t jinja_text_line(struct jinja_text text, size_t from, size_t *next)
{
    size_t at = from, size;
    for (; at < text.length; at += size) {
        uint32_t code = utf8_decode(text.bytes + at, &size);
        if (!ends_line(code)) continue;
        *next = at + size;
        if (code == '\r' && *next < text.length && text.bytes[*next] == '\n') ++*next;
        return at;
    }
    *next = at;
    return at;
}

bool jinja_text_starts(struct jinja_text text, struct jinja_text start)
{
    return start.length <= text.length && memcmp(text.bytes, start.bytes, start.length) == 0;
}

bool jinja_text_ends(struct jinja_text text, struct jinja_text end)
{
    return end.length <= text.length &&
           memcmp(text.bytes + text.length - end.length, end.bytes, end.length) == 0;
}

static bool in_set(const struct jinja_text *set, const char *character, size_t size)
{
    if (!set) {
        size_t bytes;
        return jinja_char_is_space(utf8_decode(character, &bytes));
    }
    for (size_t i = 0; i < set->length;) {
        size_t bytes;
        utf8_decode(set->bytes + i, &bytes);
        if (bytes == size && memcmp(set->bytes + i, character, size) == 0) return true;
        i += bytes;
    }
    return false;
}

struct jinja_text jinja_text_strip(struct jinja_text text, const struct jinja_text *set, bool left,
                                   bool right)
{
    size_t from = 0, to = text.length;
    while (left && from < to) {
        size_t size;
        utf8_decode(text.bytes + from, &size);
        if (!in_set(set, text.bytes + from, size)) break;
        from += size;
    }
    while (right && from < to) {
        size_t at = to - 1;
        while (at > from && ((unsigned char)text.bytes[at] & 0xC0) == 0x80) at--;
        if (!in_set(set, text.bytes + at, to - at)) break;
        to = at;
    }
    return jinja_text_cut(text, from, to);
}

/* An empty old stands before every character and at the end. */
static void replace_nothing(struct jinja_builder *out, struct jinja_text text, struct jinja_text new,
                            int64_t count)
{
    size_t at = 0;
    while (count != 0 && at <= text.length) {
        size_t size = 0;
        jinja_builder_add(out, new);
        if (at < text.length) {
            utf8_decode(text.bytes + at, &size);
            jinja_builder_add(out, jinja_text_cut(text, at, at + size));
        }
        at += size > 0 ? size : 1;
        if (count > 0) count--;
    }
    if (at < text.length) jinja_builder_add(out, jinja_text_cut(text, at, text.length));
}

void jinja_text_replace(struct jinja_builder *out, struct jinja_text text, struct jinja_text old,
                        struct jinja_text new, int64_t count)
{
    if (old.length == 0) {
        replace_nothing(out, text, new, count);
        return;
    }
    size_t done = 0;
    while (count != 0 && !out->failed) {
        size_t at = jinja_text_find(text, old, done);
        if (at == SIZE_MAX) break;
        jinja_builder_add(out, jinja_text_cut(text, done, at));
        jinja_builder_add(out, new);
        done = at + old.length;
        if (count > 0) count--;
    }
    jinja_builder_add(out, jinja_text_cut(text, done, text.length));
}

/* --- Characters --- */

bool jinja_char_is_space(uint32_t code)
{
    return (code >= 9 && code <= 13) || (code >= 0x1C && code <= 0x20) || code == 0x85 || code == 0xA0 ||
           code == 0x1680 || (code >= 0x2000 && code <= 0x200A) || code == 0x2028 || code == 0x2029 ||
           code == 0x202F || code == 0x205F || code == 0x3000;
}

bool jinja_char_is_printable(uint32_t code)
{
    switch (utf8proc_category((utf8proc_int32_t)code)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
        return false;
    case UTF8PROC_CATEGORY_ZS:
        return code == ' ';
    default:
        return true;
    }
}

bool jinja_char_is_alpha(uint32_t code)
{
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)code);
    return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
}

bool jinja_char_is_digit(uint32_t code)
{
    return utf8proc_category((utf8proc_int32_t)code) == UTF8PROC_CATEGORY_ND;
}

bool jinja_char_is_upper(uint32_t code)
{
    return utf8proc_isupper((utf8proc_int32_t)code) != 0;
}

bool jinja_char_is_lower(uint32_t code)
{
    return utf8proc_islower((utf8proc_int32_t)code) != 0;
}

/* Characters whose upper case is more than one (Unicode's SpecialCasing), as far as they are letters of
   living languages and ligatures. */
static const char *upper_special(uint32_t code)
{
    static const struct {
        uint32_t code;
        const char *upper;
    } special[] = {{0xDF, "SS"},
                   {0x149, "\xCA\xBCN"},
                   {0x1F0, "J\xCC\x8C"},
                   {0xFB00, "FF"},
                   {0xFB01, "FI"},
                   {0xFB02, "FL"},
                   {0xFB03, "FFI"},
                   {0xFB04, "FFL"},
                   {0xFB05, "ST"},
                   {0xFB06, "ST"},
                   {0x587, "\xD4\xB5\xD5\x92"},
                   {0x390, "\xCE\x99\xCC\x88\xCC\x81"},
                   {0x3B0, "\xCE\xA5\xCC\x88\xCC\x81"}};
    for (size_t i = 0; i < sizeof special / sizeof special[0]; i++)
        if (special[i].code == code) return special[i].upper;
    return NULL;
}

static bool is_cased(uint32_t code)
{
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)code);
    return category == UTF8PROC_CATEGORY_LU || category == UTF8PROC_CATEGORY_LL ||
           category == UTF8PROC_CATEGORY_LT;
}

/* A sigma ends its word: a letter before it and none after. */
static bool sigma_is_final(struct jinja_text text, size_t at)
{
    size_t size, before = at;
    if (at == 0) return false;
    do before--;
    while (before > 0 && ((unsigned char)text.bytes[before] & 0xC0) == 0x80);
    if (!is_cased(utf8_decode(text.bytes + before, &size))) return false;
    return at + 2 >= text.length || !is_cased(utf8_decode(text.bytes + at + 2, &size));
}

static void add_cased(struct jinja_builder *out, struct jinja_text text, size_t at, uint32_t code,
                      enum jinja_case mode)
{
    bool literal = jinja_text_literal_at(&text, at);
    const char *special = mode == JINJA_UPPER ? upper_special(code) : NULL;
    if (special) {
        jinja_builder_add(
            out, (struct jinja_text){.bytes = special, .length = strlen(special), .literal = literal});
        return;
    }
    utf8proc_int32_t from = (utf8proc_int32_t)code, to = from;
    if (mode == JINJA_UPPER) to = utf8proc_toupper(from);
    if (mode == JINJA_TITLE) to = utf8proc_totitle(from);
    if (mode == JINJA_LOWER) to = utf8proc_tolower(from);
    if (mode == JINJA_LOWER && code == 0x3A3 && sigma_is_final(text, at)) to = 0x3C2;
    jinja_builder_char(out, (uint32_t)to, literal);
    if (mode == JINJA_LOWER && code == 0x130) jinja_builder_char(out, 0x307, literal);
}

void jinja_text_case(struct jinja_builder *out, struct jinja_text text, enum jinja_case mode)
{
    bool inside = false; /* a word, for title; the text, for capitalize */
    size_t size;
    for (size_t at = 0; at < text.length; at += size) {
        uint32_t code = utf8_decode(text.bytes + at, &size);
        enum jinja_case here = mode;
        if (mode == JINJA_TITLE || mode == JINJA_CAPITALIZE) here = inside ? JINJA_LOWER : JINJA_TITLE;
        add_cased(out, text, at, code, here);
        inside = mode == JINJA_TITLE ? is_cased(code) : true;
    }
}
