#include "model/jinja_value.h"

#include <assert.h>
#include <string.h>

/* --- Making --- */

struct jinja_value jinja_value_none(void)
{
    return (struct jinja_value){.type = JINJA_NONE};
}

struct jinja_value jinja_value_bool(bool value)
{
    return (struct jinja_value){.type = JINJA_BOOL, .boolean = value};
}

struct jinja_value jinja_value_int(int64_t value)
{
    return (struct jinja_value){.type = JINJA_INT, .integer = value};
}

struct jinja_value jinja_value_float(double value)
{
    return (struct jinja_value){.type = JINJA_FLOAT, .real = value};
}

struct jinja_value jinja_value_text(struct jinja_text text)
{
    return (struct jinja_value){.type = JINJA_STRING, .text = text};
}

struct jinja_value jinja_value_string(const char *bytes, size_t length, bool literal)
{
    return jinja_value_text((struct jinja_text){.bytes = bytes, .length = length, .literal = literal});
}

struct jinja_value jinja_value_list(struct arena *arena, enum jinja_list_kind kind, size_t n)
{
    struct jinja_list *list = arena_alloc(arena, 1, sizeof *list);
    struct jinja_value *items = arena_alloc(arena, n, sizeof *items);
    if (!list || !items) return (struct jinja_value){.type = JINJA_MISSING};
    *list = (struct jinja_list){.kind = kind, .n = n, .items = items};
    return (struct jinja_value){.type = JINJA_LIST, .list = list};
}

struct jinja_value jinja_value_dict(struct arena *arena, size_t capacity)
{
    struct jinja_dict *dict = arena_alloc(arena, 1, sizeof *dict);
    struct jinja_pair *pairs = arena_alloc(arena, capacity, sizeof *pairs);
    if (!dict || !pairs) return (struct jinja_value){.type = JINJA_MISSING};
    *dict = (struct jinja_dict){.capacity = capacity, .pairs = pairs};
    return (struct jinja_value){.type = JINJA_DICT, .dict = dict};
}

/* A key that is not there yet. */
static bool pair_append(struct arena *arena, struct jinja_dict *dict, struct jinja_value key,
                        struct jinja_value value)
{
    if (dict->n == dict->capacity) {
        size_t capacity = dict->capacity * 2 + 4;
        struct jinja_pair *pairs = arena_alloc(arena, capacity, sizeof *pairs);
        if (!pairs) return false;
        if (dict->n > 0) memcpy(pairs, dict->pairs, dict->n * sizeof *pairs);
        dict->pairs = pairs;
        dict->capacity = capacity;
    }
    dict->pairs[dict->n++] = (struct jinja_pair){key, value};
    return true;
}

bool jinja_value_put(struct arena *arena, struct jinja_dict *dict, struct jinja_value key,
                     struct jinja_value value)
{
    struct jinja_value *known = (struct jinja_value *)jinja_value_get(dict, &key);
    if (!known) return pair_append(arena, dict, key, value);
    *known = value;
    return true;
}

bool jinja_value_put_name(struct arena *arena, struct jinja_dict *dict, const char *key,
                          struct jinja_value value)
{
    return jinja_value_put(arena, dict, jinja_value_string(key, strlen(key), true), value);
}

static struct jinja_value number_of(const struct json *node)
{
    if (json_is_integer(node) && !json_is_fraction(node)) return jinja_value_int(json_int64(node));
    return jinja_value_float(json_number(node));
}

struct jinja_value jinja_value_json(struct arena *arena, const struct json *node)
{
    struct jinja_value out = jinja_value_none();
    size_t length = 0, i = 0;
    switch (json_type(node)) {
    case JSON_NULL:
        return out;
    case JSON_BOOL:
        return jinja_value_bool(json_bool(node));
    case JSON_NUMBER:
        return number_of(node);
    case JSON_STRING: {
        const char *text = json_string(node, &length);
        return jinja_value_string(text, length, false);
    }
    case JSON_ARRAY:
        out = jinja_value_list(arena, JINJA_LIST_PLAIN, json_length(node));
        if (out.type == JINJA_MISSING) return out;
        for (const struct json *child = json_first(node); child; child = json_next(child), i++) {
            out.list->items[i] = jinja_value_json(arena, child);
            if (out.list->items[i].type == JINJA_MISSING) return out.list->items[i];
        }
        return out;
    case JSON_OBJECT:
        out = jinja_value_dict(arena, json_length(node));
        if (out.type == JINJA_MISSING) return out;
        for (const struct json *child = json_first(node); child; child = json_next(child)) {
            const char *key = json_key(child);
            struct jinja_value value = jinja_value_json(arena, child);
            if (value.type == JINJA_MISSING) return value;
            pair_append(arena, out.dict, jinja_value_string(key, strlen(key), false), value); /* fits */
        }
        return out;
    }
    return out;
}

/* --- Asking --- */

bool jinja_value_truth(const struct jinja_value *value)
{
    switch (value->type) {
    case JINJA_MISSING:
    case JINJA_UNDEFINED:
    case JINJA_NONE:
        return false;
    case JINJA_BOOL:
        return value->boolean;
    case JINJA_INT:
        return value->integer != 0;
    case JINJA_FLOAT:
        return value->real != 0;
    case JINJA_STRING:
        return value->text.length > 0;
    case JINJA_LIST:
        return value->list->n > 0 || value->list->kind == JINJA_LIST_ITERATOR;
    case JINJA_DICT:
        return value->dict->n > 0;
    default:
        return true;
    }
}

bool jinja_value_is_number(const struct jinja_value *value)
{
    return value->type == JINJA_BOOL || value->type == JINJA_INT || value->type == JINJA_FLOAT;
}

double jinja_value_number(const struct jinja_value *value)
{
    assert(jinja_value_is_number(value));
    if (value->type == JINJA_FLOAT) return value->real;
    return value->type == JINJA_BOOL ? value->boolean : (double)value->integer;
}

static bool numbers_equal(const struct jinja_value *a, const struct jinja_value *b)
{
    if (a->type == JINJA_INT && b->type == JINJA_INT) return a->integer == b->integer;
    return jinja_value_number(a) == jinja_value_number(b);
}

static bool lists_equal(const struct jinja_list *a, const struct jinja_list *b)
{
    if (a == b) return true;
    if (a->kind != b->kind || a->n != b->n || a->kind == JINJA_LIST_ITERATOR) return false;
    for (size_t i = 0; i < a->n; i++)
        if (!jinja_value_equal(&a->items[i], &b->items[i])) return false;
    return true;
}

static bool dicts_equal(const struct jinja_dict *a, const struct jinja_dict *b)
{
    if (a->n != b->n) return false;
    for (size_t i = 0; i < a->n; i++) {
        const struct jinja_value *other = jinja_value_get(b, &a->pairs[i].key);
        if (!other || !jinja_value_equal(&a->pairs[i].value, other)) return false;
    }
    return true;
}

bool jinja_value_equal(const struct jinja_value *a, const struct jinja_value *b)
{
    if (jinja_value_is_number(a) && jinja_value_is_number(b)) return numbers_equal(a, b);
    if (a->type != b->type) return false;
    switch (a->type) {
    case JINJA_STRING:
        return a->text.length == b->text.length && memcmp(a->text.bytes, b->text.bytes, a->text.length) == 0;
    case JINJA_LIST:
        return lists_equal(a->list, b->list);
    case JINJA_DICT:
        return a->dict == b->dict || dicts_equal(a->dict, b->dict);
    case JINJA_NAMESPACE:
        return a->dict == b->dict;
    case JINJA_MACRO:
        return a->macro == b->macro;
    case JINJA_FUNCTION:
        return a->function == b->function;
    case JINJA_LOOP:
        return a->loop == b->loop;
    case JINJA_METHOD:
        return a->method == b->method;
    default: /* None, undefined */
        return true;
    }
}

const char *jinja_value_type(const struct jinja_value *value)
{
    static const char *const lists[] = {"list", "tuple", "range", "dict_items", "generator"};
    switch (value->type) {
    case JINJA_NONE:
        return "NoneType";
    case JINJA_BOOL:
        return "bool";
    case JINJA_INT:
        return "int";
    case JINJA_FLOAT:
        return "float";
    case JINJA_STRING:
        return "str";
    case JINJA_LIST:
        return lists[value->list->kind];
    case JINJA_DICT:
        return "dict";
    case JINJA_NAMESPACE:
        return "Namespace";
    case JINJA_MACRO:
        return "Macro";
    case JINJA_FUNCTION:
        return "function";
    case JINJA_METHOD:
        return "builtin_function_or_method";
    case JINJA_LOOP:
        return "LoopContext";
    default:
        return "Undefined";
    }
}

bool jinja_value_is_text(const struct jinja_value *value, const char *text)
{
    return value->type == JINJA_STRING && value->text.length == strlen(text) &&
           memcmp(value->text.bytes, text, value->text.length) == 0;
}

const struct jinja_value *jinja_value_get(const struct jinja_dict *dict, const struct jinja_value *key)
{
    for (size_t i = 0; i < dict->n; i++)
        if (jinja_value_equal(&dict->pairs[i].key, key)) return &dict->pairs[i].value;
    return NULL;
}

const struct jinja_value *jinja_value_get_name(const struct jinja_dict *dict, const char *key)
{
    struct jinja_value name = jinja_value_string(key, strlen(key), true);
    return jinja_value_get(dict, &name);
}
