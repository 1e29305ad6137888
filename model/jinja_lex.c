#include "model/jinja_lex.h"

#include "config/utf8.h"
#include "model/jinja_text.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_BRACKETS = 256 };

struct lexer {
    struct arena *arena;
    const char *source;
    size_t length, at;
    struct jinja_token *tokens;
    size_t n, capacity;
    int line; /* of the last token */
    size_t line_offset;
    bool line_starting; /* the last tag ended a line, or there was none yet */
    char brackets[MAX_BRACKETS];
    int n_brackets;
    struct err_info *info;
    enum err err;
};

void jinja_lex_place(const char *source, size_t offset, int *line, int *column)
{
    *line = *column = 1;
    for (size_t i = 0; i < offset; i++) {
        if (source[i] == '\n') {
            (*line)++;
            *column = 1;
        } else if (((unsigned char)source[i] & 0xC0) != 0x80) {
            (*column)++;
        }
    }
}

static bool fail(struct lexer *lexer, enum err err, size_t offset, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

static bool fail(struct lexer *lexer, enum err err, size_t offset, const char *format, ...)
{
    char what[256];
    int line, column;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    jinja_lex_place(lexer->source, offset, &line, &column);
    lexer->err = err_set(lexer->info, err, "line %d, column %d: %s", line, column, what);
    return false;
}

static bool no_memory(struct lexer *lexer)
{
    lexer->err = err_set(lexer->info, ERR_LIMIT, "the template is too large");
    return false;
}

static bool token_add(struct lexer *lexer, struct jinja_token token)
{
    if (lexer->n == lexer->capacity) {
        size_t capacity = lexer->capacity * 2 + 64;
        struct jinja_token *tokens = arena_alloc(lexer->arena, capacity, sizeof *tokens);
        if (!tokens) return no_memory(lexer);
        if (lexer->n > 0) memcpy(tokens, lexer->tokens, lexer->n * sizeof *tokens);
        lexer->tokens = tokens;
        lexer->capacity = capacity;
    }
    for (; lexer->line_offset < token.offset; lexer->line_offset++)
        lexer->line += lexer->source[lexer->line_offset] == '\n';
    token.line = lexer->line;
    lexer->tokens[lexer->n++] = token;
    return true;
}

static bool at_text(const struct lexer *lexer, size_t at, const char *text)
{
    size_t length = strlen(text);
    return lexer->length - at >= length && memcmp(lexer->source + at, text, length) == 0;
}

static size_t skip_space(const struct lexer *lexer, size_t at)
{
    while (at < lexer->length) {
        size_t size;
        if (!jinja_char_is_space(utf8_decode(lexer->source + at, &size))) break;
        at += size;
    }
    return at;
}

/* --- Data --- */

/* Length of data[0..length) once the tag after it has taken its white space. */
static size_t data_trimmed(const struct lexer *lexer, size_t start, size_t end, char sign, bool block)
{
    struct jinja_text data = {.bytes = lexer->source + start, .length = end - start};
    if (sign == '-') return jinja_text_strip(data, NULL, false, true).length;
    if (sign == '+' || !block) return data.length;
    size_t line = data.length;
    while (line > 0 && data.bytes[line - 1] != '\n') line--;
    if (line == 0 && !lexer->line_starting) return data.length;
    struct jinja_text rest = jinja_text_cut(data, line, data.length);
    return jinja_text_strip(rest, NULL, true, false).length == 0 ? line : data.length;
}

static bool data_add(struct lexer *lexer, size_t start, size_t length)
{
    if (length == 0) return true;
    return token_add(lexer, (struct jinja_token){
                                .type = JINJA_TOKEN_DATA,
                                .offset = start,
                                .text = {.bytes = lexer->source + start, .length = length, .literal = true}});
}

/* At "+%}", "-%}" or "%}" (close: the last two characters): passes over it and what it takes; 0: not there.
   Only a variable's end leaves the newline. */
static size_t tag_end(const struct lexer *lexer, size_t at, const char *close, bool block)
{
    if (block && at < lexer->length && lexer->source[at] == '+' && at_text(lexer, at + 1, close))
        return at + 3;
    if (at < lexer->length && lexer->source[at] == '-' && at_text(lexer, at + 1, close))
        return skip_space(lexer, at + 3);
    if (!at_text(lexer, at, close)) return 0;
    at += 2;
    return block && at < lexer->length && lexer->source[at] == '\n' ? at + 1 : at;
}

static char sign_at(const struct lexer *lexer, size_t at)
{
    char c = at < lexer->length ? lexer->source[at] : '\0';
    return c == '-' || c == '+' ? c : '\0';
}

static void tag_done(struct lexer *lexer, size_t end)
{
    lexer->at = end;
    lexer->line_starting = lexer->source[end - 1] == '\n';
}

static bool comment_skip(struct lexer *lexer, size_t start)
{
    for (size_t at = start + 2 + (sign_at(lexer, start + 2) != 0); at < lexer->length; at++) {
        size_t end = tag_end(lexer, at, "#}", true);
        if (end == 0) continue;
        tag_done(lexer, end);
        return true;
    }
    return fail(lexer, ERR_FORMAT, start, "a comment has no end");
}

/* Past "{% raw %}" at start; 0 when it is another tag. */
static size_t raw_begin(const struct lexer *lexer, size_t start)
{
    size_t at = start + 2 + (sign_at(lexer, start + 2) != 0);
    at = skip_space(lexer, at);
    if (!at_text(lexer, at, "raw")) return 0;
    at = skip_space(lexer, at + 3);
    if (at < lexer->length && lexer->source[at] == '-' && at_text(lexer, at + 1, "%}"))
        return skip_space(lexer, at + 3);
    return at_text(lexer, at, "%}") ? at + 2 : 0;
}

static bool raw_read(struct lexer *lexer, size_t tag, size_t start)
{
    lexer->line_starting = lexer->source[start - 1] == '\n';
    for (size_t at = start; at < lexer->length; at++) {
        if (!at_text(lexer, at, "{%")) continue;
        char sign = sign_at(lexer, at + 2);
        size_t name = skip_space(lexer, at + 2 + (sign != 0));
        if (!at_text(lexer, name, "endraw")) continue;
        size_t end = tag_end(lexer, skip_space(lexer, name + 6), "%}", true);
        if (end == 0) continue;
        if (!data_add(lexer, start, data_trimmed(lexer, start, at, sign, true))) return false;
        tag_done(lexer, end);
        return true;
    }
    return fail(lexer, ERR_FORMAT, tag, "raw has no endraw");
}

/* --- Inside tags --- */

static bool is_name(char c)
{
    return isalnum((unsigned char)c) || c == '_' || (unsigned char)c >= 0x80;
}

static size_t skip_digits(const struct lexer *lexer, size_t at)
{
    while (at < lexer->length && (isdigit((unsigned char)lexer->source[at]) ||
                                  (lexer->source[at] == '_' && at + 1 < lexer->length &&
                                   isdigit((unsigned char)lexer->source[at + 1]))))
        at++;
    return at;
}

static bool digit_at(const struct lexer *lexer, size_t at)
{
    return at < lexer->length && isdigit((unsigned char)lexer->source[at]);
}

/* 12, 1_000, 1.5, 2e-3; 0x, 0o and 0b are not taken. */
static bool number_read(struct lexer *lexer)
{
    size_t start = lexer->at, end = skip_digits(lexer, start);
    bool dotted = start > 0 && lexer->source[start - 1] == '.'; /* x.0.1: two indexes, no fraction */
    bool real = false;
    if (!dotted && end < lexer->length && lexer->source[end] == '.' && digit_at(lexer, end + 1)) {
        end = skip_digits(lexer, end + 1);
        real = true;
    }
    if (!dotted && end < lexer->length && (lexer->source[end] | 0x20) == 'e') {
        size_t digits = end + 1;
        if (digits < lexer->length && (lexer->source[digits] == '-' || lexer->source[digits] == '+'))
            digits++;
        if (digit_at(lexer, digits)) {
            end = skip_digits(lexer, digits);
            real = true;
        }
    }
    char digits[64];
    size_t n = 0;
    for (size_t i = start; i < end; i++) {
        if (lexer->source[i] == '_') continue;
        if (n + 1 == sizeof digits) return fail(lexer, ERR_LIMIT, start, "the number is too long");
        digits[n++] = lexer->source[i];
    }
    digits[n] = '\0';
    if (!real && n > 1 && digits[0] == '0' && strspn(digits, "0") < n)
        return fail(lexer, ERR_FORMAT, start, "a number begins with 0");
    if (!real && end < lexer->length && lexer->source[end] && strchr("xXoObB", lexer->source[end]))
        return fail(lexer, ERR_UNSUPPORTED, start, "numbers to other bases are not supported");
    struct jinja_token token = {.type = real ? JINJA_TOKEN_FLOAT : JINJA_TOKEN_INTEGER, .offset = start};
    errno = 0;
    if (real)
        token.real = strtod(digits, NULL);
    else
        token.integer = strtoll(digits, NULL, 10);
    if (!real && errno == ERANGE) return fail(lexer, ERR_LIMIT, start, "the number is too large");
    lexer->at = end;
    return token_add(lexer, token);
}

/* \xhh, \uhhhh, \Uhhhhhhhh: n digits at `at`; UINT32_MAX when they are not there. */
static uint32_t hex_read(const char *bytes, size_t length, size_t at, size_t n)
{
    uint32_t code = 0;
    if (length - at < n) return UINT32_MAX;
    for (size_t i = at; i < at + n; i++) {
        if (!isxdigit((unsigned char)bytes[i])) return UINT32_MAX;
        uint32_t digit = isdigit((unsigned char)bytes[i]) ? (uint32_t)(bytes[i] - '0')
                                                          : (uint32_t)((bytes[i] | 0x20) - 'a' + 10);
        code = code << 4 | digit;
    }
    return code > 0x10FFFF || (code >= 0xD800 && code < 0xE000) ? UINT32_MAX : code;
}

/* The escape after a backslash at bytes[*at]; Python's rules: an unknown one stays as it is. */
static bool escape_read(struct lexer *lexer, struct jinja_builder *out, const char *bytes, size_t length,
                        size_t *at)
{
    static const char names[] = "\\'\"abfnrtv", values[] = "\\'\"\a\b\f\n\r\t\v";
    char c = bytes[*at];
    const char *name = c ? strchr(names, c) : NULL;
    size_t n_hex = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    (*at)++;
    if (name) {
        jinja_builder_bytes(out, &values[name - names], 1);
    } else if (c == '\n') { /* the line goes on */
    } else if (c >= '0' && c <= '7') {
        uint32_t code = (uint32_t)(c - '0');
        for (int i = 0; i < 2 && *at < length && bytes[*at] >= '0' && bytes[*at] <= '7'; i++)
            code = code << 3 | (uint32_t)(bytes[(*at)++] - '0');
        jinja_builder_char(out, code, true);
    } else if (n_hex > 0) {
        uint32_t code = hex_read(bytes, length, *at, n_hex);
        if (code == UINT32_MAX) return fail(lexer, ERR_FORMAT, lexer->at, "a bad \\%c escape in a string", c);
        jinja_builder_char(out, code, true);
        *at += n_hex;
    } else if (c == 'N') {
        return fail(lexer, ERR_UNSUPPORTED, lexer->at, "\\N escapes are not supported");
    } else {
        jinja_builder_bytes(out, "\\", 1);
        (*at)--;
    }
    return true;
}

static bool string_read(struct lexer *lexer)
{
    size_t start = lexer->at, end = start + 1;
    char quote = lexer->source[start];
    while (end < lexer->length && lexer->source[end] != quote) end += lexer->source[end] == '\\' ? 2 : 1;
    if (end >= lexer->length) return fail(lexer, ERR_FORMAT, start, "a string has no end");
    const char *bytes = lexer->source + start + 1;
    size_t length = end - start - 1;
    struct jinja_token token = {.type = JINJA_TOKEN_STRING,
                                .offset = start,
                                .text = {.bytes = bytes, .length = length, .literal = true}};
    if (memchr(bytes, '\\', length)) {
        struct jinja_builder out;
        jinja_builder_init(&out, lexer->arena, SIZE_MAX);
        for (size_t at = 0; at < length;) {
            const char *backslash = memchr(bytes + at, '\\', length - at);
            size_t plain = backslash ? (size_t)(backslash - bytes) - at : length - at;
            jinja_builder_bytes(&out, bytes + at, plain);
            at += plain + 1;
            if (backslash && !escape_read(lexer, &out, bytes, length, &at)) return false;
        }
        if (out.failed) return no_memory(lexer);
        token.text = jinja_builder_text(&out);
        token.text.literal = true;
    }
    lexer->at = end + 1;
    return token_add(lexer, token);
}

static bool bracket_read(struct lexer *lexer, char c, size_t offset)
{
    static const char open[] = "([{", close[] = ")]}";
    if (strchr(open, c)) {
        if (lexer->n_brackets == MAX_BRACKETS) return fail(lexer, ERR_LIMIT, offset, "nested too deeply");
        lexer->brackets[lexer->n_brackets++] = c;
        return true;
    }
    const char *which = strchr(close, c);
    if (!which) return true;
    if (lexer->n_brackets == 0 || lexer->brackets[lexer->n_brackets - 1] != open[which - close])
        return fail(lexer, ERR_FORMAT, offset, "unexpected '%c'", c);
    lexer->n_brackets--;
    return true;
}

static bool operator_read(struct lexer *lexer)
{
    static const char *const operators[] = {"//", "**", "==", "!=", ">=", "<=", "+", "-", "/",
                                            "*",  "%",  "~",  "[",  "]",  "(",  ")", "{", "}",
                                            ">",  "<",  "=",  ".",  ":",  "|",  ",", ";"};
    for (size_t i = 0; i < sizeof operators / sizeof operators[0]; i++) {
        if (!at_text(lexer, lexer->at, operators[i])) continue;
        size_t length = strlen(operators[i]), offset = lexer->at;
        lexer->at += length;
        return bracket_read(lexer, operators[i][0], offset) &&
               token_add(lexer, (struct jinja_token){.type = JINJA_TOKEN_OPERATOR,
                                                     .offset = offset,
                                                     .text = {.bytes = operators[i], .length = length}});
    }
    return fail(lexer, ERR_FORMAT, lexer->at, "unexpected character '%c'", lexer->source[lexer->at]);
}

/* From "{%" or "{{" up to its end. */
static bool tag_read(struct lexer *lexer, size_t start, bool block)
{
    lexer->at = start + 2 + (sign_at(lexer, start + 2) != 0);
    lexer->n_brackets = 0;
    if (!token_add(lexer,
                   (struct jinja_token){.type = block ? JINJA_TOKEN_BLOCK_BEGIN : JINJA_TOKEN_VARIABLE_BEGIN,
                                        .offset = start}))
        return false;
    while ((lexer->at = skip_space(lexer, lexer->at)) < lexer->length) {
        size_t at = lexer->at, end = 0;
        char c = lexer->source[at];
        bool done;
        if (lexer->n_brackets == 0) end = tag_end(lexer, at, block ? "%}" : "}}", block);
        if (end > 0) {
            tag_done(lexer, end);
            return token_add(
                lexer, (struct jinja_token){.type = block ? JINJA_TOKEN_BLOCK_END : JINJA_TOKEN_VARIABLE_END,
                                            .offset = at});
        }
        if (isdigit((unsigned char)c)) {
            done = number_read(lexer);
        } else if (is_name(c)) {
            while (lexer->at < lexer->length && is_name(lexer->source[lexer->at])) lexer->at++;
            done = token_add(
                lexer, (struct jinja_token){
                           .type = JINJA_TOKEN_NAME,
                           .offset = at,
                           .text = {.bytes = lexer->source + at, .length = lexer->at - at, .literal = true}});
        } else {
            done = c == '"' || c == '\'' ? string_read(lexer) : operator_read(lexer);
        }
        if (!done) return false;
    }
    return fail(lexer, ERR_FORMAT, start, "a tag has no end");
}

/* --- The whole --- */

/* Data up to the next tag, and the tag. */
static bool part_read(struct lexer *lexer)
{
    size_t start = lexer->at, at = start;
    while (at < lexer->length && !at_text(lexer, at, "{%") && !at_text(lexer, at, "{{") &&
           !at_text(lexer, at, "{#"))
        at++;
    if (at == lexer->length) {
        lexer->at = at;
        return data_add(lexer, start, at - start);
    }
    char kind = lexer->source[at + 1];
    if (!data_add(lexer, start, data_trimmed(lexer, start, at, sign_at(lexer, at + 2), kind != '{')))
        return false;
    if (kind == '#') return comment_skip(lexer, at);
    size_t raw = kind == '%' ? raw_begin(lexer, at) : 0;
    if (raw > 0) return raw_read(lexer, at, raw);
    return tag_read(lexer, at, kind == '%');
}

/* "\r\n" and "\r" become "\n"; the last one, if it ends the text, goes. */
static bool source_normalize(struct lexer *lexer, const char *source, size_t length)
{
    char *copy = arena_alloc(lexer->arena, length + 1, 1);
    if (!copy) return no_memory(lexer);
    size_t n = 0;
    for (size_t i = 0; i < length; i++) {
        if (source[i] != '\r')
            copy[n++] = source[i];
        else if (i + 1 == length || source[i + 1] != '\n')
            copy[n++] = '\n';
    }
    if (n > 0 && copy[n - 1] == '\n') n--;
    copy[n] = '\0';
    lexer->source = copy;
    lexer->length = n;
    return true;
}

enum err jinja_lex(struct arena *arena, const char *source, size_t length, struct jinja_tokens *out,
                   struct err_info *info)
{
    struct lexer lexer = {.arena = arena, .line = 1, .line_starting = true, .info = info};
    if (utf8_valid(source, length) != length)
        return err_set(info, ERR_FORMAT, "byte %zu is not UTF-8", utf8_valid(source, length));
    bool done = source_normalize(&lexer, source, length);
    while (done && lexer.at < lexer.length) done = part_read(&lexer);
    done = done && token_add(&lexer, (struct jinja_token){.type = JINJA_TOKEN_END, .offset = lexer.length});
    if (!done) return lexer.err;
    *out = (struct jinja_tokens){
        .source = lexer.source, .length = lexer.length, .tokens = lexer.tokens, .n = lexer.n};
    return ERR_OK;
}
