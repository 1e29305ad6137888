#include "model/jinja_builtin.h"
#include "model/jinja_sort.h"

#include <stdlib.h>
#include <string.h>

/*
 * Filters over lists. map, select and their kin are generators in Python: they give lists that can be walked
 * once.
 */
#define FILTER(name)                                                                                         \
    struct jinja_value name(struct jinja_run *run, struct jinja_value value,                                 \
                            const struct jinja_arguments *arguments);                                        \
    struct jinja_value name(struct jinja_run *run, struct jinja_value value,                                 \
                            const struct jinja_arguments *arguments)

static bool is_true(const struct jinja_value *value)
{
    return value->type != JINJA_MISSING && jinja_value_truth(value);
}

static struct jinja_value new_list(struct jinja_run *run, enum jinja_list_kind kind, size_t n)
{
    return jinja_made(run, jinja_value_list(run->arena, kind, n));
}

/* item.a.b or item.0, as Jinja2's make_attrgetter; otherwise (may be MISSING) where there is none. */
static struct jinja_value attribute_of(struct jinja_run *run, struct jinja_value item,
                                       const struct jinja_value *path, const struct jinja_value *otherwise)
{
    if (path->type != JINJA_STRING) item = jinja_getitem(run, item, *path);
    size_t at = 0;
    while (path->type == JINJA_STRING && at <= path->text.length && !jinja_failed(run)) {
        struct jinja_text dot = {.bytes = ".", .length = 1};
        size_t end = jinja_text_find(path->text, dot, at);
        if (end == SIZE_MAX) end = path->text.length;
        struct jinja_value part = jinja_value_text(jinja_text_cut(path->text, at, end));
        char digits[20];
        bool number = end > at && end - at < sizeof digits;
        for (size_t i = at; i < end; i++)
            number = number && path->text.bytes[i] >= '0' && path->text.bytes[i] <= '9';
        if (number) {
            memcpy(digits, path->text.bytes + at, end - at);
            digits[end - at] = '\0';
            part = jinja_value_int(strtoll(digits, NULL, 10));
        }
        item = jinja_getitem(run, item, part);
        if (item.type == JINJA_UNDEFINED && otherwise->type != JINJA_MISSING) return *otherwise;
        at = end + 1;
    }
    return item;
}

static const struct jinja_value missing = {.type = JINJA_MISSING};

/* --- Order --- */

FILTER(jinja_filter_dictsort)
{
    static const char *const names[] = {"case_sensitive", "by", "reverse", NULL};
    struct jinja_value given[3];
    if (!jinja_bind(run, "dictsort", arguments, names, given)) return value;
    if (value.type == JINJA_UNDEFINED) return jinja_fail_undefined(run, &value);
    if (value.type != JINJA_DICT)
        return jinja_fail(run, "'%s' object has no attribute 'items'", jinja_value_type(&value));
    bool by_value = given[1].type != JINJA_MISSING && jinja_value_is_text(&given[1], "value");
    if (!by_value && given[1].type != JINJA_MISSING && !jinja_value_is_text(&given[1], "key"))
        return jinja_fail(run, "You can only sort by either \"key\" or \"value\"");
    size_t n = value.dict->n;
    struct jinja_sorted *things = arena_alloc(run->arena, n, sizeof *things);
    struct jinja_value out = new_list(run, JINJA_LIST_PLAIN, n);
    if (!things) return jinja_fail_memory(run);
    for (size_t i = 0; i < n && !jinja_failed(run); i++) {
        const struct jinja_pair *pair = &value.dict->pairs[i];
        things[i].key = jinja_sort_key(run, by_value ? pair->value : pair->key, is_true(&given[0]));
        things[i].from = i;
    }
    jinja_sort(run, things, n, is_true(&given[2]));
    for (size_t i = 0; i < n && !jinja_failed(run); i++) {
        const struct jinja_pair *pair = &value.dict->pairs[things[i].from];
        struct jinja_value item = new_list(run, JINJA_LIST_TUPLE, 2);
        if (jinja_failed(run)) break;
        item.list->items[0] = pair->key;
        item.list->items[1] = pair->value;
        out.list->items[i] = item;
    }
    return out;
}

static bool is_given(const struct jinja_value *value)
{
    return value->type != JINJA_MISSING && value->type != JINJA_NONE;
}

/* What an element is compared by: itself or an attribute. */
static struct jinja_value order_key(struct jinja_run *run, struct jinja_value item,
                                    const struct jinja_value *attribute, bool case_sensitive)
{
    if (is_given(attribute)) item = attribute_of(run, item, attribute, &missing);
    return jinja_sort_key(run, item, case_sensitive);
}

/* What sort compares: a list of one or more attributes ("a,b"). */
static struct jinja_value sort_key(struct jinja_run *run, struct jinja_value item,
                                   const struct jinja_value *attribute, bool case_sensitive)
{
    if (!is_given(attribute)) return jinja_sort_key(run, item, case_sensitive);
    bool text = attribute->type == JINJA_STRING;
    size_t n = 1, at = 0;
    for (size_t i = 0; text && i < attribute->text.length; i++) n += attribute->text.bytes[i] == ',';
    struct jinja_value out = new_list(run, JINJA_LIST_PLAIN, n);
    for (size_t i = 0; i < n && !jinja_failed(run); i++) {
        struct jinja_value part = *attribute;
        if (text) {
            const char *comma = memchr(part.text.bytes + at, ',', part.text.length - at);
            size_t end = comma ? (size_t)(comma - part.text.bytes) : part.text.length;
            part.text = jinja_text_cut(part.text, at, end);
            at = end + 1;
        }
        out.list->items[i] = order_key(run, item, &part, case_sensitive);
    }
    return out;
}

FILTER(jinja_filter_sort)
{
    static const char *const names[] = {"reverse", "case_sensitive", "attribute", NULL};
    struct jinja_value given[3];
    if (!jinja_bind(run, "sort", arguments, names, given)) return value;
    const struct jinja_list *list = jinja_walk(run, value);
    if (!list) return value;
    struct jinja_sorted *things = arena_alloc(run->arena, list->n, sizeof *things);
    struct jinja_value out = new_list(run, JINJA_LIST_PLAIN, list->n);
    if (!things) return jinja_fail_memory(run);
    for (size_t i = 0; i < list->n && !jinja_failed(run); i++) {
        things[i].key = sort_key(run, list->items[i], &given[2], is_true(&given[1]));
        things[i].from = i;
    }
    jinja_sort(run, things, list->n, is_true(&given[0]));
    for (size_t i = 0; i < list->n && !jinja_failed(run); i++)
        out.list->items[i] = list->items[things[i].from];
    return out;
}

static struct jinja_value extreme(struct jinja_run *run, struct jinja_value value,
                                  const struct jinja_arguments *arguments, bool largest)
{
    static const char *const names[] = {"case_sensitive", "attribute", NULL};
    struct jinja_value given[2];
    if (!jinja_bind(run, largest ? "max" : "min", arguments, names, given)) return value;
    const struct jinja_list *list = jinja_walk(run, value);
    if (!list) return value;
    if (list->n == 0) return (struct jinja_value){.type = JINJA_UNDEFINED};
    size_t best = 0;
    struct jinja_value best_key = order_key(run, list->items[0], &given[1], is_true(&given[0]));
    for (size_t i = 1; i < list->n && !jinja_failed(run); i++) {
        struct jinja_value key = order_key(run, list->items[i], &given[1], is_true(&given[0]));
        int order = jinja_failed(run) ? 0 : jinja_order(run, &key, &best_key);
        if (largest ? order <= 0 : order >= 0) continue;
        best = i;
        best_key = key;
    }
    return list->items[best];
}

FILTER(jinja_filter_max)
{
    return extreme(run, value, arguments, true);
}

FILTER(jinja_filter_min)
{
    return extreme(run, value, arguments, false);
}

FILTER(jinja_filter_unique)
{
    static const char *const names[] = {"case_sensitive", "attribute", NULL};
    struct jinja_value given[2];
    if (!jinja_bind(run, "unique", arguments, names, given)) return value;
    const struct jinja_list *list = jinja_walk(run, value);
    if (!list) return value;
    struct jinja_value out = new_list(run, JINJA_LIST_ITERATOR, list->n);
    struct jinja_value keys = new_list(run, JINJA_LIST_PLAIN, list->n);
    size_t n = 0;
    for (size_t i = 0; i < list->n && !jinja_failed(run); i++) {
        struct jinja_value key = order_key(run, list->items[i], &given[1], is_true(&given[0]));
        bool known = false;
        if (!jinja_spend(run, n / 4)) break;
        for (size_t k = 0; k < n && !known; k++) known = jinja_value_equal(&keys.list->items[k], &key);
        if (known) continue;
        keys.list->items[n] = key;
        out.list->items[n++] = list->items[i];
    }
    if (!jinja_failed(run)) out.list->n = n;
    return out;
}

FILTER(jinja_filter_reverse)
{
    (void)arguments;
    if (value.type == JINJA_STRING) {
        struct jinja_value bounds[3] = {jinja_value_none(), jinja_value_none(), jinja_value_int(-1)};
        return jinja_slice(run, value, bounds);
    }
    const struct jinja_list *list = jinja_walk(run, value);
    if (!list) return value;
    struct jinja_value out = new_list(run, JINJA_LIST_ITERATOR, list->n);
    for (size_t i = 0; i < list->n && !jinja_failed(run); i++)
        out.list->items[i] = list->items[list->n - 1 - i];
    return out;
}

/* --- Choice --- */

/* Whether the elements are kept: arguments from `from` on are a test's name and its argument; none: truth. */
static struct jinja_value choose(struct jinja_run *run, struct jinja_value value,
                                 const struct jinja_arguments *arguments, bool by_attribute, bool wanted)
{
    size_t from = by_attribute ? 1 : 0;
    if (!jinja_value_truth(&value)) return new_list(run, JINJA_LIST_ITERATOR, 0); /* whatever it is */
    if (by_attribute && arguments->n == 0) return jinja_fail(run, "Missing parameter for attribute name");
    const struct jinja_test *test = NULL;
    if (arguments->n > from) {
        const struct jinja_value *name = &arguments->values[from];
        if (name->type == JINJA_STRING) test = jinja_builtin_test(name->text);
        if (!test) return jinja_fail(run, "there is no such test");
        if ((int)(arguments->n - from - 1) != test->n_arguments)
            return jinja_fail(run, "the test '%s' takes %d argument(s)", test->name, test->n_arguments);
    }
    const struct jinja_list *list = jinja_walk(run, value);
    if (!list) return value;
    struct jinja_value out = new_list(run, JINJA_LIST_ITERATOR, list->n);
    size_t n = 0;
    for (size_t i = 0; i < list->n && !jinja_failed(run); i++) {
        struct jinja_value item = list->items[i];
        if (by_attribute) item = attribute_of(run, item, &arguments->values[0], &missing);
        if (jinja_failed(run)) break;
        bool holds = test ? test->holds(run, &item, &arguments->values[from + 1]) : jinja_value_truth(&item);
        if (holds == wanted) out.list->items[n++] = list->items[i];
    }
    if (!jinja_failed(run)) out.list->n = n;
    return out;
}

FILTER(jinja_filter_select)
{
    return choose(run, value, arguments, false, true);
}

FILTER(jinja_filter_reject)
{
    return choose(run, value, arguments, false, false);
}

FILTER(jinja_filter_selectattr)
{
    return choose(run, value, arguments, true, true);
}

FILTER(jinja_filter_rejectattr)
{
    return choose(run, value, arguments, true, false);
}

static struct jinja_value map_attribute(struct jinja_run *run, struct jinja_value value,
                                        const struct jinja_arguments *arguments)
{
    static const char *const names[] = {"attribute", "default", NULL};
    struct jinja_value given[2];
    if (!jinja_value_truth(&value)) return new_list(run, JINJA_LIST_ITERATOR, 0); /* whatever it is */
    if (!jinja_bind(run, "map", arguments, names, given)) return value;
    const struct jinja_list *list = jinja_walk(run, value);
    if (!list) return value;
    struct jinja_value out = new_list(run, JINJA_LIST_ITERATOR, list->n);
    for (size_t i = 0; i < list->n && !jinja_failed(run); i++)
        out.list->items[i] = attribute_of(run, list->items[i], &given[0], &given[1]);
    return out;
}

FILTER(jinja_filter_map)
{
    if (arguments->n == 0 && arguments->n_named > 0) return map_attribute(run, value, arguments);
    if (!jinja_value_truth(&value)) return new_list(run, JINJA_LIST_ITERATOR, 0);
    if (arguments->n == 0) return jinja_fail(run, "map requires a filter argument");
    const struct jinja_filter *filter =
        arguments->values[0].type == JINJA_STRING ? jinja_builtin_filter(arguments->values[0].text) : NULL;
    if (!filter) return jinja_fail(run, "map: there is no such filter");
    struct jinja_arguments rest = {.n = arguments->n - 1,
                                   .values = arguments->values + 1,
                                   .n_named = arguments->n_named,
                                   .named = arguments->named};
    if (run->depth == run->limits->max_depth) return jinja_fail_depth(run);
    const struct jinja_list *list = jinja_walk(run, value);
    if (!list) return value;
    struct jinja_value out = new_list(run, JINJA_LIST_ITERATOR, list->n);
    run->depth++;
    for (size_t i = 0; i < list->n && !jinja_failed(run); i++)
        out.list->items[i] = filter->apply(run, list->items[i], &rest);
    run->depth--;
    return out;
}

/* --- Ends, sums, copies --- */

FILTER(jinja_filter_first)
{
    (void)arguments;
    const struct jinja_list *list = jinja_walk(run, value);
    if (!list) return value;
    return list->n > 0 ? list->items[0] : (struct jinja_value){.type = JINJA_UNDEFINED};
}

FILTER(jinja_filter_last)
{
    (void)arguments;
    if (value.type == JINJA_LIST && value.list->kind == JINJA_LIST_ITERATOR)
        return jinja_fail(run, "'generator' object is not reversible");
    const struct jinja_list *list = jinja_walk(run, value);
    if (!list) return value;
    return list->n > 0 ? list->items[list->n - 1] : (struct jinja_value){.type = JINJA_UNDEFINED};
}

FILTER(jinja_filter_items)
{
    (void)arguments;
    if (value.type == JINJA_UNDEFINED) return new_list(run, JINJA_LIST_ITERATOR, 0);
    if (value.type != JINJA_DICT) return jinja_fail(run, "Can only get item pairs from a mapping.");
    struct jinja_value out = jinja_dict_items(run, value.dict);
    if (!jinja_failed(run)) out.list->kind = JINJA_LIST_ITERATOR;
    return out;
}

FILTER(jinja_filter_list)
{
    (void)arguments;
    const struct jinja_list *list = jinja_walk(run, value);
    if (!list) return value;
    struct jinja_value out = new_list(run, JINJA_LIST_PLAIN, list->n);
    if (!jinja_failed(run) && list->n > 0)
        memcpy(out.list->items, list->items, list->n * sizeof *list->items);
    return out;
}

FILTER(jinja_filter_join)
{
    static const char *const names[] = {"d", "attribute", NULL};
    struct jinja_value given[2];
    if (!jinja_bind(run, "join", arguments, names, given)) return value;
    struct jinja_value between =
        given[0].type == JINJA_MISSING ? jinja_value_string("", 0, true) : jinja_str(run, given[0]);
    const struct jinja_list *list = jinja_walk(run, value);
    if (!list) return value;
    struct jinja_builder out;
    jinja_build(run, &out);
    for (size_t i = 0; i < list->n && !jinja_failed(run); i++) {
        struct jinja_value item = list->items[i];
        if (is_given(&given[1])) item = attribute_of(run, item, &given[1], &missing);
        if (i > 0) jinja_builder_add(&out, between.text);
        if (!jinja_failed(run)) jinja_write_str(run, &out, &item);
    }
    return jinja_built(run, &out);
}

FILTER(jinja_filter_sum)
{
    static const char *const names[] = {"attribute", "start", NULL};
    struct jinja_value given[2];
    if (!jinja_bind(run, "sum", arguments, names, given)) return value;
    struct jinja_value sum = given[1].type == JINJA_MISSING ? jinja_value_int(0) : given[1];
    const struct jinja_list *list = jinja_walk(run, value);
    for (size_t i = 0; list && i < list->n && !jinja_failed(run); i++) {
        struct jinja_value item = list->items[i];
        if (is_given(&given[0])) item = attribute_of(run, item, &given[0], &missing);
        if (!jinja_failed(run)) sum = jinja_binary(run, JINJA_ADD, sum, item);
    }
    return sum;
}
