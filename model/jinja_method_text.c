#include "config/utf8.h"
#include "model/jinja_builtin.h"

#include <string.h>

/*
 * Methods of strings.
 */
#define METHOD(name)                                                                                         \
    static struct jinja_value name(struct jinja_run *run, struct jinja_value self,                           \
                                   const struct jinja_arguments *arguments)

static const char *const no_names[] = {NULL};

static bool is_given(const struct jinja_value *value)
{
    return value->type != JINJA_MISSING && value->type != JINJA_NONE;
}

static bool wants_text(struct jinja_run *run, const struct jinja_value *value)
{
    if (value->type == JINJA_STRING) return true;
    if (value->type == JINJA_UNDEFINED)
        jinja_fail_undefined(run, value);
    else
        jinja_fail(run, "expected a str, not %s", jinja_value_type(value));
    return false;
}

static bool wants_int(struct jinja_run *run, const struct jinja_value *value, int64_t otherwise, int64_t *out)
{
    *out = otherwise;
    if (!is_given(value)) return true;
    if (value->type == JINJA_INT) *out = value->integer;
    if (value->type == JINJA_BOOL) *out = value->boolean;
    if (value->type == JINJA_INT || value->type == JINJA_BOOL) return true;
    jinja_fail(run, "'%s' object cannot be interpreted as an integer", jinja_value_type(value));
    return false;
}

/* --- Ends --- */

static struct jinja_value strip(struct jinja_run *run, struct jinja_value self,
                                const struct jinja_arguments *arguments, bool left, bool right)
{
    static const char *const names[] = {"chars", NULL};
    struct jinja_value chars;
    if (!jinja_bind(run, "strip()", arguments, names, &chars)) return self;
    if (is_given(&chars) && !wants_text(run, &chars)) return self;
    if (!jinja_spend(run, self.text.length / 64)) return self;
    self.text = jinja_text_strip(self.text, is_given(&chars) ? &chars.text : NULL, left, right);
    return self;
}

METHOD(text_strip)
{
    return strip(run, self, arguments, true, true);
}

METHOD(text_lstrip)
{
    return strip(run, self, arguments, true, false);
}

METHOD(text_rstrip)
{
    return strip(run, self, arguments, false, true);
}

/* The part of the text between two characters, as slices count them. */
static bool part(struct jinja_run *run, struct jinja_text text, const struct jinja_value *from,
                 const struct jinja_value *to, struct jinja_text *out)
{
    *out = text;
    if (!is_given(from) && !is_given(to)) return true;
    struct jinja_value bounds[3] = {is_given(from) ? *from : jinja_value_none(),
                                    is_given(to) ? *to : jinja_value_none(), jinja_value_none()};
    struct jinja_value cut = jinja_slice(run, jinja_value_text(text), bounds);
    if (jinja_failed(run)) return false;
    *out = cut.text;
    return true;
}

/* startswith and endswith: one text or a tuple of them. */
static struct jinja_value has_end(struct jinja_run *run, struct jinja_value self,
                                  const struct jinja_arguments *arguments, bool start)
{
    static const char *const names[] = {"affix", "start", "end", NULL};
    struct jinja_value given[3];
    struct jinja_text text;
    if (!jinja_bind(run, start ? "startswith()" : "endswith()", arguments, names, given) ||
        !part(run, self.text, &given[1], &given[2], &text))
        return self;
    const struct jinja_value *affixes = &given[0];
    size_t n = 1;
    if (given[0].type == JINJA_LIST && given[0].list->kind == JINJA_LIST_TUPLE) {
        affixes = given[0].list->items;
        n = given[0].list->n;
    }
    for (size_t i = 0; i < n; i++) {
        if (!wants_text(run, &affixes[i])) return self;
        if (start ? jinja_text_starts(text, affixes[i].text) : jinja_text_ends(text, affixes[i].text))
            return jinja_value_bool(true);
    }
    return jinja_value_bool(false);
}

METHOD(text_startswith)
{
    return has_end(run, self, arguments, true);
}

METHOD(text_endswith)
{
    return has_end(run, self, arguments, false);
}

METHOD(text_removeprefix)
{
    static const char *const names[] = {"prefix", NULL};
    struct jinja_value prefix;
    if (!jinja_bind(run, "removeprefix()", arguments, names, &prefix) || !wants_text(run, &prefix))
        return self;
    if (jinja_text_starts(self.text, prefix.text))
        self.text = jinja_text_cut(self.text, prefix.text.length, self.text.length);
    return self;
}

METHOD(text_removesuffix)
{
    static const char *const names[] = {"suffix", NULL};
    struct jinja_value suffix;
    if (!jinja_bind(run, "removesuffix()", arguments, names, &suffix) || !wants_text(run, &suffix))
        return self;
    if (jinja_text_ends(self.text, suffix.text))
        self.text = jinja_text_cut(self.text, 0, self.text.length - suffix.text.length);
    return self;
}

/* --- Parts --- */

/* A list that grows by doubling. */
struct parts {
    struct jinja_run *run;
    size_t n, capacity;
    struct jinja_value *items;
};

static void part_add(struct parts *parts, struct jinja_text text)
{
    if (!jinja_spend(parts->run, 1)) return;
    if (parts->n == parts->capacity) {
        size_t capacity = parts->capacity * 2 + 4;
        struct jinja_value *items = arena_alloc(parts->run->arena, capacity, sizeof *items);
        if (!items) {
            jinja_fail_memory(parts->run);
            return;
        }
        if (parts->n > 0) memcpy(items, parts->items, parts->n * sizeof *items);
        parts->items = items;
        parts->capacity = capacity;
    }
    parts->items[parts->n++] = jinja_value_text(text);
}

static struct jinja_value parts_list(struct parts *parts, bool backwards)
{
    struct jinja_value out =
        jinja_made(parts->run, jinja_value_list(parts->run->arena, JINJA_LIST_PLAIN, parts->n));
    for (size_t i = 0; i < parts->n && !jinja_failed(parts->run); i++)
        out.list->items[i] = parts->items[backwards ? parts->n - 1 - i : i];
    return out;
}

static void split_space(struct parts *parts, struct jinja_text text, int64_t limit)
{
    while (!jinja_failed(parts->run)) {
        text = jinja_text_strip(text, NULL, true, false);
        if (text.length == 0) return;
        size_t end = 0, size;
        for (; end < text.length; end += size)
            if (jinja_char_is_space(utf8_decode(text.bytes + end, &size))) break;
        if (limit == 0) end = text.length;
        part_add(parts, jinja_text_cut(text, 0, end));
        text = jinja_text_cut(text, end, text.length);
        if (limit > 0) limit--;
    }
}

static void split_space_last(struct parts *parts, struct jinja_text text, int64_t limit)
{
    while (!jinja_failed(parts->run)) {
        text = jinja_text_strip(text, NULL, false, true);
        if (text.length == 0) return;
        size_t start = text.length;
        while (limit != 0 && start > 0) {
            size_t at = start - 1, size;
            while (at > 0 && ((unsigned char)text.bytes[at] & 0xC0) == 0x80) at--;
            if (jinja_char_is_space(utf8_decode(text.bytes + at, &size))) break;
            start = at;
        }
        if (limit == 0) start = 0;
        part_add(parts, jinja_text_cut(text, start, text.length));
        text = jinja_text_cut(text, 0, start);
        if (limit > 0) limit--;
    }
}

static struct jinja_value split(struct jinja_run *run, struct jinja_value self,
                                const struct jinja_arguments *arguments, bool from_end)
{
    static const char *const names[] = {"sep", "maxsplit", NULL};
    struct jinja_value given[2];
    int64_t limit;
    struct parts parts = {.run = run};
    struct jinja_text rest = self.text;
    if (!jinja_bind(run, "split()", arguments, names, given) || !wants_int(run, &given[1], -1, &limit) ||
        !jinja_spend(run, self.text.length / 64))
        return self;
    if (!is_given(&given[0])) {
        if (from_end)
            split_space_last(&parts, rest, limit);
        else
            split_space(&parts, rest, limit);
        return parts_list(&parts, from_end);
    }
    if (!wants_text(run, &given[0])) return self;
    if (given[0].text.length == 0) return jinja_fail(run, "empty separator");
    while (limit != 0 && !jinja_failed(run)) {
        size_t at =
            from_end ? jinja_text_find_last(rest, given[0].text) : jinja_text_find(rest, given[0].text, 0);
        if (at == SIZE_MAX) break;
        size_t after = at + given[0].text.length;
        part_add(&parts, from_end ? jinja_text_cut(rest, after, rest.length) : jinja_text_cut(rest, 0, at));
        rest = from_end ? jinja_text_cut(rest, 0, at) : jinja_text_cut(rest, after, rest.length);
        if (limit > 0) limit--;
    }
    part_add(&parts, rest);
    return parts_list(&parts, from_end);
}

METHOD(text_split)
{
    return split(run, self, arguments, false);
}

METHOD(text_rsplit)
{
    return split(run, self, arguments, true);
}

METHOD(text_splitlines)
{
    static const char *const names[] = {"keepends", NULL};
    struct jinja_value keep;
    struct parts parts = {.run = run};
    if (!jinja_bind(run, "splitlines()", arguments, names, &keep)) return self;
    bool keeps = is_given(&keep) && jinja_value_truth(&keep);
    for (size_t start = 0, next; start < self.text.length; start = next) {
        size_t end = jinja_text_line(self.text, start, &next);
        part_add(&parts, jinja_text_cut(self.text, start, keeps ? next : end));
    }
    return parts_list(&parts, false);
}

static struct jinja_value partition(struct jinja_run *run, struct jinja_value self,
                                    const struct jinja_arguments *arguments, bool last)
{
    static const char *const names[] = {"sep", NULL};
    struct jinja_value sep;
    if (!jinja_bind(run, "partition()", arguments, names, &sep) || !wants_text(run, &sep)) return self;
    if (sep.text.length == 0) return jinja_fail(run, "empty separator");
    struct jinja_value out = jinja_made(run, jinja_value_list(run->arena, JINJA_LIST_TUPLE, 3));
    if (jinja_failed(run)) return self;
    size_t at = last ? jinja_text_find_last(self.text, sep.text) : jinja_text_find(self.text, sep.text, 0);
    struct jinja_value empty = jinja_value_string("", 0, true);
    for (int i = 0; i < 3; i++) out.list->items[i] = empty;
    if (at == SIZE_MAX) {
        out.list->items[last ? 2 : 0] = self;
        return out;
    }
    out.list->items[0] = jinja_value_text(jinja_text_cut(self.text, 0, at));
    out.list->items[1] = sep;
    out.list->items[2] = jinja_value_text(jinja_text_cut(self.text, at + sep.text.length, self.text.length));
    return out;
}

METHOD(text_partition)
{
    return partition(run, self, arguments, false);
}

METHOD(text_rpartition)
{
    return partition(run, self, arguments, true);
}

/* --- Finding --- */

static struct jinja_value find(struct jinja_run *run, struct jinja_value self,
                               const struct jinja_arguments *arguments, bool last, bool must)
{
    static const char *const names[] = {"sub", "start", "end", NULL};
    struct jinja_value given[3];
    struct jinja_text text;
    if (!jinja_bind(run, "find()", arguments, names, given) || !wants_text(run, &given[0]) ||
        !part(run, self.text, &given[1], &given[2], &text) || !jinja_spend(run, text.length / 64))
        return self;
    size_t at = last ? jinja_text_find_last(text, given[0].text) : jinja_text_find(text, given[0].text, 0);
    if (at == SIZE_MAX) return must ? jinja_fail(run, "substring not found") : jinja_value_int(-1);
    at += (size_t)(text.bytes - self.text.bytes);
    return jinja_value_int((int64_t)jinja_text_chars(jinja_text_cut(self.text, 0, at)));
}

METHOD(text_find)
{
    return find(run, self, arguments, false, false);
}

METHOD(text_rfind)
{
    return find(run, self, arguments, true, false);
}

METHOD(text_index)
{
    return find(run, self, arguments, false, true);
}

METHOD(text_rindex)
{
    return find(run, self, arguments, true, true);
}

METHOD(text_count)
{
    static const char *const names[] = {"sub", "start", "end", NULL};
    struct jinja_value given[3];
    struct jinja_text text;
    int64_t n = 0;
    if (!jinja_bind(run, "count()", arguments, names, given) || !wants_text(run, &given[0]) ||
        !part(run, self.text, &given[1], &given[2], &text) || !jinja_spend(run, text.length / 8))
        return self;
    if (given[0].text.length == 0) return jinja_value_int((int64_t)jinja_text_chars(text) + 1);
    for (size_t at = 0; (at = jinja_text_find(text, given[0].text, at)) != SIZE_MAX; n++)
        at += given[0].text.length;
    return jinja_value_int(n);
}

/* --- Changing --- */

METHOD(text_replace)
{
    static const char *const names[] = {"old", "new", "count", NULL};
    struct jinja_value given[3];
    int64_t n;
    if (!jinja_bind(run, "replace()", arguments, names, given) || !wants_text(run, &given[0]) ||
        !wants_text(run, &given[1]) || !wants_int(run, &given[2], -1, &n) ||
        !jinja_spend(run, self.text.length / 64))
        return self;
    struct jinja_builder out;
    jinja_build(run, &out);
    jinja_text_replace(&out, self.text, given[0].text, given[1].text, n);
    return jinja_built(run, &out);
}

static struct jinja_value cased(struct jinja_run *run, struct jinja_value self,
                                const struct jinja_arguments *arguments, enum jinja_case mode)
{
    struct jinja_value none;
    struct jinja_builder out;
    if (!jinja_bind(run, "a method for upper and lower case", arguments, no_names, &none)) return self;
    jinja_build(run, &out);
    jinja_text_case(&out, self.text, mode);
    return jinja_built(run, &out);
}

METHOD(text_upper)
{
    return cased(run, self, arguments, JINJA_UPPER);
}

METHOD(text_lower)
{
    return cased(run, self, arguments, JINJA_LOWER);
}

METHOD(text_title)
{
    return cased(run, self, arguments, JINJA_TITLE);
}

METHOD(text_capitalize)
{
    return cased(run, self, arguments, JINJA_CAPITALIZE);
}

METHOD(text_zfill)
{
    static const char *const names[] = {"width", NULL};
    struct jinja_value given;
    int64_t width, n = (int64_t)jinja_text_chars(self.text);
    if (!jinja_bind(run, "zfill()", arguments, names, &given) || !wants_int(run, &given, 0, &width))
        return self;
    struct jinja_builder out;
    jinja_build(run, &out);
    size_t sign = self.text.length > 0 && strchr("+-", self.text.bytes[0]) != NULL && self.text.bytes[0];
    jinja_builder_add(&out, jinja_text_cut(self.text, 0, sign));
    for (; n < width && !out.failed; n++) jinja_builder_bytes(&out, "0", 1);
    jinja_builder_add(&out, jinja_text_cut(self.text, sign, self.text.length));
    return jinja_built(run, &out);
}

METHOD(text_join)
{
    static const char *const names[] = {"iterable", NULL};
    struct jinja_value given;
    if (!jinja_bind(run, "join()", arguments, names, &given)) return self;
    const struct jinja_list *list = jinja_walk(run, given);
    if (!list) return self;
    struct jinja_builder out;
    jinja_build(run, &out);
    for (size_t i = 0; i < list->n; i++) {
        if (list->items[i].type != JINJA_STRING)
            return jinja_fail(run, "sequence item %zu: expected str instance, %s found", i,
                              jinja_value_type(&list->items[i]));
        if (i > 0) jinja_builder_add(&out, self.text);
        jinja_builder_add(&out, list->items[i].text);
    }
    return jinja_built(run, &out);
}

METHOD(text_format)
{
    return jinja_format_braces(run, self.text, arguments);
}

/* --- Asking --- */

static struct jinja_value all_are(struct jinja_run *run, struct jinja_value self,
                                  const struct jinja_arguments *arguments, bool (*is)(uint32_t))
{
    struct jinja_value none;
    if (!jinja_bind(run, "a method without arguments", arguments, no_names, &none)) return self;
    for (size_t at = 0, size; at < self.text.length; at += size)
        if (!is(utf8_decode(self.text.bytes + at, &size))) return jinja_value_bool(false);
    return jinja_value_bool(self.text.length > 0);
}

METHOD(text_isspace)
{
    return all_are(run, self, arguments, jinja_char_is_space);
}

METHOD(text_isalpha)
{
    return all_are(run, self, arguments, jinja_char_is_alpha);
}

METHOD(text_isdigit)
{
    return all_are(run, self, arguments, jinja_char_is_digit);
}

static bool is_alnum(uint32_t code)
{
    return jinja_char_is_alpha(code) || jinja_char_is_digit(code);
}

METHOD(text_isalnum)
{
    return all_are(run, self, arguments, is_alnum);
}

static struct jinja_value in_case(struct jinja_run *run, struct jinja_value self, const char *test)
{
    const struct jinja_test *found =
        jinja_builtin_test((struct jinja_text){.bytes = test, .length = strlen(test)});
    return jinja_value_bool(found->holds(run, &self, NULL));
}

METHOD(text_isupper)
{
    (void)arguments;
    return in_case(run, self, "upper");
}

METHOD(text_islower)
{
    (void)arguments;
    return in_case(run, self, "lower");
}

const struct jinja_method jinja_text_methods[] = {
    {"capitalize", JINJA_STRING, text_capitalize},
    {"count", JINJA_STRING, text_count},
    {"endswith", JINJA_STRING, text_endswith},
    {"find", JINJA_STRING, text_find},
    {"format", JINJA_STRING, text_format},
    {"index", JINJA_STRING, text_index},
    {"isalnum", JINJA_STRING, text_isalnum},
    {"isalpha", JINJA_STRING, text_isalpha},
    {"isdecimal", JINJA_STRING, text_isdigit},
    {"isdigit", JINJA_STRING, text_isdigit},
    {"islower", JINJA_STRING, text_islower},
    {"isnumeric", JINJA_STRING, text_isdigit},
    {"isspace", JINJA_STRING, text_isspace},
    {"isupper", JINJA_STRING, text_isupper},
    {"join", JINJA_STRING, text_join},
    {"lower", JINJA_STRING, text_lower},
    {"lstrip", JINJA_STRING, text_lstrip},
    {"partition", JINJA_STRING, text_partition},
    {"removeprefix", JINJA_STRING, text_removeprefix},
    {"removesuffix", JINJA_STRING, text_removesuffix},
    {"replace", JINJA_STRING, text_replace},
    {"rfind", JINJA_STRING, text_rfind},
    {"rindex", JINJA_STRING, text_rindex},
    {"rpartition", JINJA_STRING, text_rpartition},
    {"rsplit", JINJA_STRING, text_rsplit},
    {"rstrip", JINJA_STRING, text_rstrip},
    {"split", JINJA_STRING, text_split},
    {"splitlines", JINJA_STRING, text_splitlines},
    {"startswith", JINJA_STRING, text_startswith},
    {"strip", JINJA_STRING, text_strip},
    {"title", JINJA_STRING, text_title},
    {"upper", JINJA_STRING, text_upper},
    {"zfill", JINJA_STRING, text_zfill},
};
const size_t jinja_n_text_methods = sizeof jinja_text_methods / sizeof jinja_text_methods[0];
