#include "model/schema_internal.h"

#include <string.h>
#include <xxhash.h>

/*
 * Whether a value satisfies a schema, for values that the schema itself lists (const, enum) and names of
 * members: the text of a listed value is offered only when everything else that is asked holds for it.
 */

enum { MAX_DEPTH = 200 };

bool schema_equal(struct schema *s, const struct json *a, const struct json *b)
{
    if (!schema_work(s, 1) || json_type(a) != json_type(b) || json_length(a) != json_length(b)) return false;
    switch (json_type(a)) {
    case JSON_NULL:
        return true;
    case JSON_BOOL:
        return json_bool(a) == json_bool(b);
    case JSON_NUMBER:
        return json_number(a) == json_number(b);
    case JSON_STRING:
        return strcmp(json_string(a, NULL), json_string(b, NULL)) == 0;
    case JSON_ARRAY:
        for (a = json_first(a), b = json_first(b); a; a = json_next(a), b = json_next(b))
            if (!schema_equal(s, a, b)) return false;
        return true;
    default:
        break;
    }
    for (a = json_first(a); a; a = json_next(a)) {
        const struct json *other = schema_get(s, b, json_key(a));
        if (!other || !schema_equal(s, a, other)) return false;
    }
    return true;
}

/* Equal values have equal hashes: members of objects in any order. As deep as the JSON reader allows. */
static uint64_t value_hash(const struct json *value)
{
    enum json_type type = json_type(value);
    uint64_t hash = (uint64_t)type;
    size_t length = 0;
    if (type == JSON_STRING) {
        const char *text = json_string(value, &length);
        hash = XXH3_64bits(text, length);
    } else if (type == JSON_NUMBER) {
        double number = json_number(value) + 0.0; /* -0 is 0 */
        hash = XXH3_64bits(&number, sizeof number);
    } else if (type == JSON_BOOL) {
        hash += json_bool(value) ? 16 : 8;
    }
    for (const struct json *child = json_first(value); child; child = json_next(child)) {
        uint64_t below = (value_hash(child) + 1) * 0x9E3779B97F4A7C15u;
        if (type == JSON_OBJECT)
            hash += XXH3_64bits_withSeed(json_key(child), strlen(json_key(child)), below);
        if (type == JSON_ARRAY) hash = (hash ^ below) * 0xBF58476D1CE4E5B9u;
    }
    return hash ^ hash >> 32;
}

/* The index of an enum's values, made when it is first asked for. */
static const struct schema_list *list_index(struct schema *s, const struct json *values)
{
    for (const struct schema_list *known = s->lists; known; known = known->next)
        if (known->values == values) return known;
    struct schema_list *list = schema_keep(s, 1, sizeof *list);
    size_t n = json_length(values);
    if (!list || !schema_work(s, (int64_t)n)) return NULL;
    *list = (struct schema_list){.values = values, .n_slots = 8, .next = s->lists};
    while (list->n_slots < n * 2) list->n_slots *= 2;
    list->slots = schema_keep(s, list->n_slots, sizeof *list->slots);
    if (!list->slots) return NULL;
    for (const struct json *value = json_first(values); value; value = json_next(value)) {
        size_t slot = (size_t)value_hash(value) & (list->n_slots - 1);
        while (list->slots[slot] && !schema_equal(s, list->slots[slot], value) && !s->err)
            slot = (slot + 1) & (list->n_slots - 1);
        if (s->err) return NULL;
        list->slots[slot] = value;
    }
    return s->lists = list;
}

static bool list_has(struct schema *s, const struct json *values, const struct json *value)
{
    enum { SHORT_LIST = 8 }; /* json_length counts */
    int i = 0;
    const struct json *one = json_first(values);
    for (; one && i < SHORT_LIST; one = json_next(one), i++)
        if (schema_equal(s, one, value)) return true;
    const struct schema_list *list = one ? list_index(s, values) : NULL;
    if (!list) return false;
    size_t slot = (size_t)value_hash(value) & (list->n_slots - 1);
    for (; list->slots[slot] && !s->err; slot = (slot + 1) & (list->n_slots - 1))
        if (schema_equal(s, list->slots[slot], value)) return true;
    return false;
}

static bool listed(struct schema *s, const struct json *schema, const struct json *value)
{
    const struct json *only = schema_get(s, schema, "const"), *list = schema_get(s, schema, "enum");
    if (only && !schema_equal(s, only, value)) return false;
    return !list || list_has(s, list, value);
}

/* How many of a list of schemas accept the value. */
static int count_accepting(struct schema *s, const struct json *list, const struct json *value, int depth)
{
    int n = 0;
    for (const struct json *one = json_first(list); one && !s->err; one = json_next(one))
        n += schema_accepts(s, one, value, depth);
    return n;
}

static bool included_accept(struct schema *s, const struct json *schema, const struct json *value, int depth)
{
    const struct json *ref = schema_get(s, schema, "$ref"), *all = schema_get(s, schema, "allOf");
    const struct json *any = schema_get(s, schema, "anyOf"), *one = schema_get(s, schema, "oneOf");
    const struct json *condition = schema_get(s, schema, "if");
    if (ref) {
        const struct json *target = schema_ref_target(s, schema, ref);
        if (!target || !schema_accepts(s, target, value, depth)) return false;
    }
    if (all && count_accepting(s, all, value, depth) != (int)json_length(all)) return false;
    if (any && count_accepting(s, any, value, depth) == 0) return false;
    if (one && count_accepting(s, one, value, depth) != 1) return false;
    if (!condition) return true;
    const struct json *branch =
        schema_get(s, schema, schema_accepts(s, condition, value, depth) ? "then" : "else");
    return !branch || schema_accepts(s, branch, value, depth);
}

static bool applied_accept(struct schema *s, const struct json *schema, const struct json *value, int depth)
{
    const struct json *negated = schema_get(s, schema, "not");
    if (negated && schema_accepts(s, negated, value, depth)) return false;
    bool is_member = depth == 1;
    return (s->undecided && is_member) || included_accept(s, schema, value, depth);
}

static bool unevaluated_refused(struct schema *s, const struct json *schema, const char *keyword)
{
    if (!schema_get(s, schema, keyword)) return false;
    schema_fail(s, ERR_UNSUPPORTED, schema, keyword, "unsupported keyword '%s' beside const or enum",
                keyword);
    return true;
}

bool schema_accepts(struct schema *s, const struct json *schema, const struct json *value, int depth)
{
    if (!schema_work(s, 4)) return false;
    if (depth > MAX_DEPTH)
        return schema_fail(s, ERR_LIMIT, schema, NULL, "more than %d schemas for one value of const or enum",
                           MAX_DEPTH) >= 0;
    if (json_type(schema) == JSON_BOOL) return json_bool(schema);
    if (json_type(schema) != JSON_OBJECT)
        return schema_fail(s, ERR_INVALID, schema, NULL, "must be a schema: an object, true or false") >= 0;
    if (!schema_check(s, schema)) return false;
    if (!(schema_type_of(value) & schema_types(schema)) || !listed(s, schema, value)) return false;
    size_t length;
    bool accepts = true;
    switch (json_type(value)) {
    case JSON_NUMBER:
        accepts = schema_number_accepts(s, schema, json_number(value));
        break;
    case JSON_STRING: {
        const char *text = json_string(value, &length);
        accepts = schema_string_accepts(s, schema, text, length);
        break;
    }
    case JSON_ARRAY:
        if (unevaluated_refused(s, schema, "unevaluatedItems")) return false;
        accepts = schema_array_accepts(s, schema, value, depth + 1);
        break;
    case JSON_OBJECT:
        if (unevaluated_refused(s, schema, "unevaluatedProperties")) return false;
        accepts = schema_object_accepts(s, schema, value, depth + 1);
        break;
    default:
        break;
    }
    return accepts && applied_accept(s, schema, value, depth + 1) && !s->err;
}
