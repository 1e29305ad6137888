#include "model/jinja_builtin.h"

#include <string.h>

/*
 * Methods of dicts, lists and the loop variable, and the table of all; those of strings are in
 * jinja_method_text.c.
 */
#define METHOD(name)                                                                                         \
    static struct jinja_value name(struct jinja_run *run, struct jinja_value self,                           \
                                   const struct jinja_arguments *arguments)

static const char *const no_names[] = {NULL};

struct jinja_value jinja_dict_items(struct jinja_run *run, const struct jinja_dict *dict)
{
    if (!jinja_spend(run, dict->n * 2)) return jinja_value_none();
    struct jinja_value out = jinja_made(run, jinja_value_list(run->arena, JINJA_LIST_VIEW, dict->n));
    for (size_t i = 0; i < dict->n && !jinja_failed(run); i++) {
        struct jinja_value pair = jinja_made(run, jinja_value_list(run->arena, JINJA_LIST_TUPLE, 2));
        if (jinja_failed(run)) break;
        pair.list->items[0] = dict->pairs[i].key;
        pair.list->items[1] = dict->pairs[i].value;
        out.list->items[i] = pair;
    }
    return out;
}

METHOD(dict_items)
{
    struct jinja_value none;
    return jinja_bind(run, "items()", arguments, no_names, &none) ? jinja_dict_items(run, self.dict) : self;
}

static struct jinja_value one_side(struct jinja_run *run, const struct jinja_dict *dict, bool keys)
{
    if (!jinja_spend(run, dict->n)) return jinja_value_none();
    struct jinja_value out = jinja_made(run, jinja_value_list(run->arena, JINJA_LIST_VIEW, dict->n));
    for (size_t i = 0; i < dict->n && !jinja_failed(run); i++)
        out.list->items[i] = keys ? dict->pairs[i].key : dict->pairs[i].value;
    return out;
}

METHOD(dict_keys)
{
    struct jinja_value none;
    return jinja_bind(run, "keys()", arguments, no_names, &none) ? one_side(run, self.dict, true) : self;
}

METHOD(dict_values)
{
    struct jinja_value none;
    return jinja_bind(run, "values()", arguments, no_names, &none) ? one_side(run, self.dict, false) : self;
}

METHOD(dict_get)
{
    static const char *const names[] = {"key", "default", NULL};
    struct jinja_value given[2];
    if (!jinja_bind(run, "get()", arguments, names, given)) return self;
    if (given[0].type == JINJA_MISSING) return jinja_fail(run, "get expected at least 1 argument, got 0");
    if (!jinja_spend(run, self.dict->n / 8)) return self;
    const struct jinja_value *found = jinja_value_get(self.dict, &given[0]);
    if (found) return *found;
    return given[1].type == JINJA_MISSING ? jinja_value_none() : given[1];
}

/* Nothing can be changed, so a copy is the thing itself. */
METHOD(any_copy)
{
    struct jinja_value none;
    jinja_bind(run, "copy()", arguments, no_names, &none);
    return self;
}

METHOD(list_count)
{
    static const char *const names[] = {"value", NULL};
    struct jinja_value wanted;
    int64_t n = 0;
    if (!jinja_bind(run, "count()", arguments, names, &wanted) || !jinja_spend(run, self.list->n))
        return self;
    for (size_t i = 0; i < self.list->n; i++) n += jinja_value_equal(&self.list->items[i], &wanted);
    return jinja_value_int(n);
}

METHOD(list_index)
{
    static const char *const names[] = {"value", NULL};
    struct jinja_value wanted;
    if (!jinja_bind(run, "index()", arguments, names, &wanted) || !jinja_spend(run, self.list->n))
        return self;
    for (size_t i = 0; i < self.list->n; i++)
        if (jinja_value_equal(&self.list->items[i], &wanted)) return jinja_value_int((int64_t)i);
    return jinja_fail(run, "the value is not in the list");
}

METHOD(loop_cycle)
{
    (void)run;
    if (arguments->n == 0) return jinja_fail(run, "no items for cycling given");
    return arguments->values[self.loop->i % arguments->n];
}

METHOD(loop_changed)
{
    struct jinja_value seen = jinja_made(run, jinja_value_list(run->arena, JINJA_LIST_TUPLE, arguments->n));
    if (jinja_failed(run)) return self;
    for (size_t i = 0; i < arguments->n; i++) seen.list->items[i] = arguments->values[i];
    struct jinja_value *last = self.loop->changed;
    if (last->type != JINJA_MISSING && jinja_value_equal(last, &seen)) return jinja_value_bool(false);
    *last = seen;
    return jinja_value_bool(true);
}

static const struct jinja_method methods[] = {
    {"copy", JINJA_DICT, any_copy},      {"get", JINJA_DICT, dict_get},
    {"items", JINJA_DICT, dict_items},   {"keys", JINJA_DICT, dict_keys},
    {"values", JINJA_DICT, dict_values}, {"copy", JINJA_LIST, any_copy},
    {"count", JINJA_LIST, list_count},   {"index", JINJA_LIST, list_index},
    {"cycle", JINJA_LOOP, loop_cycle},   {"changed", JINJA_LOOP, loop_changed},
};

static const struct jinja_method *find(const struct jinja_method *table, size_t n, enum jinja_type type,
                                       struct jinja_text name)
{
    for (size_t i = 0; i < n; i++)
        if (table[i].type == type && strlen(table[i].name) == name.length &&
            memcmp(table[i].name, name.bytes, name.length) == 0)
            return &table[i];
    return NULL;
}

const struct jinja_method *jinja_builtin_method(enum jinja_type type, struct jinja_text name)
{
    const struct jinja_method *found = find(methods, sizeof methods / sizeof methods[0], type, name);
    return found ? found : find(jinja_text_methods, jinja_n_text_methods, type, name);
}

/* Methods and functions of Python and Jinja2 that a call can only mean and that are not here. */
const char *jinja_builtin_refuses_call(const struct jinja *jinja, const struct jinja_node *callee)
{
    static const char *const refused_methods[] = {
        "casefold",    "encode",    "expandtabs", "format_map",       "isidentifier",
        "isprintable", "istitle",   "ljust",      "maketrans",        "rjust",
        "swapcase",    "translate", "fromkeys",   "as_integer_ratio", "bit_length"};
    static const char *const refused_functions[] = {"cycler", "joiner", "lipsum"};
    bool is_method = callee && callee->kind == JINJA_GETATTR;
    if (!is_method && !(callee && callee->kind == JINJA_NAME && callee->symbol >= 0)) return NULL;
    struct jinja_value name = is_method ? callee->value : jinja_value_text(jinja->symbols[callee->symbol]);
    const char *const *refused = is_method ? refused_methods : refused_functions;
    size_t n = is_method ? sizeof refused_methods / sizeof refused_methods[0]
                         : sizeof refused_functions / sizeof refused_functions[0];
    for (size_t i = 0; i < n; i++)
        if (jinja_value_is_text(&name, refused[i])) return refused[i];
    return NULL;
}
