#include "config/option_table.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

/* From what the user wrote to the field: reading, range, contradiction, storing. */

bool option_list_holds(const char *list, const char *word)
{
    size_t length = strlen(word);
    for (const char *at = list; at && *at; at += strspn(at, " |")) {
        size_t size = strcspn(at, " |");
        if (size == length && memcmp(at, word, size) == 0) return true;
        at += size;
    }
    return false;
}

union option_value {
    const char *text;
    int64_t integer;
    double real;
    bool flag;
};

__attribute__((format(printf, 4, 5))) static enum err
value_fail(struct option_run *run, const struct option *option, const char *written, const char *format, ...)
{
    char what[300];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    return err_set_param(run->info, ERR_USAGE, option->name, "%s: %s", written, what);
}

static enum err range_check(struct option_run *run, const struct option *option, const char *written,
                            const char *text, double value)
{
    bool bounded = option->max != 0;
    if (value >= (double)option->min && (!bounded || value <= (double)option->max)) return ERR_OK;
    if (bounded)
        return value_fail(run, option, written, "%s is out of range: %" PRId64 " to %" PRId64, text,
                          option->min, option->max);
    return value_fail(run, option, written, "%s is out of range: at least %" PRId64, text, option->min);
}

static enum err integer_read(struct option_run *run, const struct option *option, const char *written,
                             const char *text, int64_t *out)
{
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (isspace((unsigned char)text[0]) || end == text || *end)
        return value_fail(run, option, written, "'%s' is not a whole number", text);
    if (errno == ERANGE) return value_fail(run, option, written, "%s is out of range", text);
    *out = value;
    return range_check(run, option, written, text, (double)value);
}

/* Digits with at most one point between or around them; a length of 0 when there is no number. */
static size_t decimal_length(const char *text)
{
    size_t whole = strspn(text, "0123456789"), part = 0;
    if (text[whole] == '.') part = strspn(text + whole + 1, "0123456789");
    if (whole + part == 0) return 0;
    return text[whole] == '.' ? whole + 1 + part : whole;
}

/* Multiplier of a suffix ("", "k", "Mi", "GiB" ...); 0 for an unknown one. */
static double suffix_unit(const char *suffix)
{
    static const char letters[] = "kmgt";
    size_t length = strlen(suffix);
    if (length > 0 && (suffix[length - 1] == 'B' || suffix[length - 1] == 'b')) length--;
    if (length == 0) return 1;
    const char *letter = strchr(letters, tolower((unsigned char)suffix[0]));
    bool binary = length == 2 && suffix[1] == 'i';
    if (!letter || !*letter || (length != 1 && !binary)) return 0;
    return pow(binary ? 1024 : 1000, (double)(letter - letters + 1));
}

static enum err bytes_read(struct option_run *run, const struct option *option, const char *written,
                           const char *text, int64_t *out)
{
    size_t length = decimal_length(text);
    double unit = option->unit ? (double)option->unit : suffix_unit(text + length);
    if (length == 0 || unit == 0 || (option->unit && text[length]))
        return value_fail(run, option, written,
                          option->unit ? "'%s' is not a number" : "'%s' is not a size (such as 512Mi or 4G)",
                          text);
    double value = floor(strtod(text, NULL) * unit);
    /* Past 2^53 bytes double would round what was asked; nobody has that much memory. */
    if (value > 9007199254740992.0) return value_fail(run, option, written, "%s is out of range", text);
    *out = (int64_t)value;
    return range_check(run, option, written, text, value);
}

static enum err real_read(struct option_run *run, const struct option *option, const char *written,
                          const char *text, double *out)
{
    char *end;
    double value = strtod(text, &end);
    if (isspace((unsigned char)text[0]) || end == text || *end || !isfinite(value))
        return value_fail(run, option, written, "'%s' is not a number", text);
    *out = value;
    return range_check(run, option, written, text, value);
}

static enum err flag_read(struct option_run *run, const struct option *option, const char *written,
                          const char *text, bool *out)
{
    if (option_list_holds("true|yes|on|1", text))
        *out = true;
    else if (option_list_holds("false|no|off|0", text))
        *out = false;
    else
        return value_fail(run, option, written, "'%s' is neither true nor false", text);
    return ERR_OK;
}

static enum err text_check(struct option_run *run, const struct option *option, const char *written,
                           const char *text)
{
    for (const char *at = text; *at; at++)
        if ((unsigned char)*at < 0x20 || *at == 0x7F)
            return value_fail(run, option, written, "the value holds a control character");
    if (option->kind == OPTION_CHOICE && !option_list_holds(option->choices, text))
        return value_fail(run, option, written, "'%s' is not one of %s", text, option->choices);
    return ERR_OK;
}

static enum err value_read(struct option_run *run, const struct option *option, const char *written,
                           const char *text, union option_value *value)
{
    if (!*text) return value_fail(run, option, written, "the value is empty");
    switch (option->kind) {
    case OPTION_TEXT:
    case OPTION_CHOICE:
        value->text = text;
        return text_check(run, option, written, text);
    case OPTION_INT:
    case OPTION_INT64:
        return integer_read(run, option, written, text, &value->integer);
    case OPTION_BYTES:
        return bytes_read(run, option, written, text, &value->integer);
    case OPTION_REAL:
        return real_read(run, option, written, text, &value->real);
    case OPTION_FLAG:
        return flag_read(run, option, written, text, &value->flag);
    }
    assert(false);
    return ERR_USAGE;
}

static bool value_equals_field(const struct option *option, const char *field,
                               const union option_value *value)
{
    switch (option->kind) {
    case OPTION_TEXT:
    case OPTION_CHOICE: {
        const char *text;
        memcpy(&text, field, sizeof text);
        return strcmp(text, value->text) == 0;
    }
    case OPTION_INT: {
        int number;
        memcpy(&number, field, sizeof number);
        return number == value->integer;
    }
    case OPTION_INT64:
    case OPTION_BYTES:
        return memcmp(field, &value->integer, sizeof value->integer) == 0;
    case OPTION_REAL:
        return memcmp(field, &value->real, sizeof value->real) == 0;
    case OPTION_FLAG:
        return memcmp(field, &value->flag, sizeof value->flag) == 0;
    }
    return false;
}

static void field_store(const struct option *option, char *field, const union option_value *value)
{
    switch (option->kind) {
    case OPTION_TEXT:
    case OPTION_CHOICE:
        memcpy(field, &value->text, sizeof value->text);
        break;
    case OPTION_INT: {
        assert(option->max != 0 && option->max <= INT32_MAX && option->min >= INT32_MIN);
        int number = (int)value->integer;
        memcpy(field, &number, sizeof number);
        break;
    }
    case OPTION_INT64:
    case OPTION_BYTES:
        memcpy(field, &value->integer, sizeof value->integer);
        break;
    case OPTION_REAL:
        memcpy(field, &value->real, sizeof value->real);
        break;
    case OPTION_FLAG:
        memcpy(field, &value->flag, sizeof value->flag);
        break;
    }
}

void option_field_clear(const struct option *option, char *values)
{
    static const union option_value zero;
    field_store(option, values + option->offset, &zero);
}

static enum err contradiction(struct option_run *run, const struct option_field *field,
                              const struct option *option, const char *written, const char *text)
{
    if (option->secret)
        return err_set_param(run->info, ERR_USAGE, option->name, "%s is given twice, with different values",
                             written);
    if (field->via == option)
        return err_set_param(run->info, ERR_USAGE, option->name, "%s is given twice: %s and %s", written,
                             field->text, text);
    return err_set_param(run->info, ERR_USAGE, option->name, "%s %s contradicts %s %s: give one of them",
                         written, text, field->written, field->text);
}

enum err option_set(struct option_run *run, size_t index, enum option_origin origin, const char *written,
                    const char *text)
{
    const struct option *option = &run->table->options[index];
    struct option_field *field = &run->state->fields[option_owner(run->table, index)];
    union option_value value;
    /* A weaker place is read all the same: a wrong line in a file should not lie in wait. */
    enum err err = value_read(run, option, written, text, &value);
    if (err) return err;
    if (field->origin > origin) return ERR_OK;
    if (field->origin == origin) {
        if (value_equals_field(option, run->values + option->offset, &value)) return ERR_OK;
        return contradiction(run, field, option, written, text);
    }
    char *kept = arena_copy(run->state->arena, text, strlen(text));
    const char *name = arena_copy(run->state->arena, written, strlen(written));
    if (!kept || !name) return option_memory(run);
    if (option->kind == OPTION_TEXT || option->kind == OPTION_CHOICE) value.text = kept;
    field_store(option, run->values + option->offset, &value);
    *field = (struct option_field){.origin = origin, .via = option, .text = kept, .written = name};
    return ERR_OK;
}
