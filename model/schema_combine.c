#include "model/schema_internal.h"

#include "config/buf.h"

#include <math.h>
#include <string.h>

/*
 * The node of a conjunction: each branch of each choice by itself, then values where they are listed, then
 * type by type.
 */

enum { MAX_CHOICES_DEEP = 64, MAX_VALUE_BYTES = 1 << 20, MAX_DISJOINT_DEPTH = 8 };

/* --- Values --- */

static int members_write(struct schema *s, const struct json *at, const struct json *value)
{
    bool object = json_type(value) == JSON_OBJECT;
    int node = schema_literal(s, object ? "{" : "[");
    if (!json_first(value)) return schema_sequence(s, node, schema_literal(s, object ? "}" : "]"), -2);
    for (const struct json *child = json_first(value); child; child = json_next(child)) {
        int separator = child == json_first(value) ? schema_gap(s) : schema_comma(s);
        node = schema_sequence(s, node, separator, -2);
        if (object) node = schema_sequence(s, node, schema_key(s, json_key(child)), schema_colon(s));
        node = schema_sequence(s, node, schema_value(s, at, child), -2);
    }
    return schema_sequence(s, node, schema_gap(s), schema_literal(s, object ? "}" : "]"));
}

int schema_value(struct schema *s, const struct json *at, const struct json *value)
{
    if (!schema_work(s, 1)) return -1;
    switch (json_type(value)) {
    case JSON_NULL:
        return schema_literal(s, "null");
    case JSON_BOOL:
        return schema_literal(s, json_bool(value) ? "true" : "false");
    case JSON_STRING:
        return schema_key(s, json_string(value, NULL));
    case JSON_NUMBER:
        break;
    default:
        return members_write(s, at, value);
    }
    double number = json_number(value);
    if (!json_is_integer(value) && number == floor(number) && !json_is_fraction(value))
        return schema_fail(s, ERR_UNSUPPORTED, at, schema_get(s, at, "const") ? "const" : "enum",
                           "unsupported: an integer beyond 2^53, which double does not hold exactly");
    struct buf text;
    buf_init(&text, MAX_VALUE_BYTES);
    if (json_is_integer(value))
        json_write_int64(&text, json_int64(value));
    else
        json_write_double(&text, number);
    int node =
        text.failed ? schema_exhausted(s, at, NULL) : grammar_literal(s->builder, text.data, text.length);
    buf_free(&text);
    return node;
}

static bool parts_accept(struct schema *s, const struct schema_parts *parts, const struct json *value)
{
    if (!(schema_type_of(value) & parts->types)) return false;
    for (int i = 0; i < parts->n; i++)
        if (!schema_accepts(s, parts->members[i].schema, value, 0)) return false;
    return !s->err;
}

/* The values of const or enum that all members accept. */
static int finite_combine(struct schema *s, const struct schema_parts *parts, const struct json *finite)
{
    const struct json *value = schema_get(s, finite, "const"), *list = schema_get(s, finite, "enum");
    size_t n = value ? 1 : json_length(list);
    int *nodes = schema_alloc(s, n, sizeof *nodes), n_nodes = 0;
    if (!nodes) return -1;
    for (value = value ? value : json_first(list); value && n > 0; value = json_next(value), n--)
        if (parts_accept(s, parts, value)) nodes[n_nodes++] = schema_value(s, finite, value);
    return s->err ? -1 : grammar_choice(s->builder, nodes, n_nodes);
}

/* --- Choices --- */

/* Of oneOf: where two branches may hold at once, each gets the other's opposite. */
static bool branches_part(struct schema *s, const struct schema_choice *choice, struct schema_parts *branches)
{
    int n = choice->n;
    bool *overlap = schema_alloc(s, (size_t)n * (size_t)n, sizeof *overlap);
    struct arena *outer = NULL;
    if (!overlap || !schema_scratch_begin(s, &outer)) return false;
    s->undecided = true; /* else what both accept would be refused by this oneOf, and they be disjoint */
    for (int i = 0; i < n; i++)
        for (int j = 0; j < i; j++)
            overlap[i * n + j] = overlap[j * n + i] =
                !schema_disjoint(s, &branches[j], &branches[i], MAX_DISJOINT_DEPTH);
    s->undecided = false;
    schema_scratch_end(s, outer);
    for (int i = 0; i < n && !s->err; i++) {
        bool was_opaque = branches[i].opaque != NULL;
        for (int j = 0; j < n; j++) {
            if (!overlap[i * n + j]) continue;
            const struct json *negation = schema_negation(s, choice->schema, "oneOf", choice->branches[j]);
            if (!negation || !schema_parts_add(s, &branches[i], negation, choice->lineage)) return false;
            if (!branches[i].opaque || was_opaque || branches[i].types == 0 ||
                schema_parts_finite(s, &branches[i]))
                continue;
            return schema_fail(s, ERR_UNSUPPORTED, choice->schema, "oneOf",
                               "unsupported keyword 'oneOf' here: branches %d and %d may both hold, and the "
                               "opposite of one cannot be told. Give them different types, or a required "
                               "property with different const, or use anyOf",
                               i < j ? i : j, i < j ? j : i) >= 0;
        }
    }
    return !s->err;
}

/* Makes the last choice in each way. */
static int choice_combine(struct schema *s, const struct schema_parts *parts)
{
    if (parts->n_choices > MAX_CHOICES_DEEP)
        return schema_fail(s, ERR_LIMIT, parts->choices[0].schema, parts->choices[0].keyword,
                           "more than %d choices hold at once", MAX_CHOICES_DEEP);
    const struct schema_choice choice = parts->choices[parts->n_choices - 1];
    struct schema_parts rest = *parts;
    rest.n_choices--;
    struct schema_parts *branches = schema_alloc(s, (size_t)choice.n, sizeof *branches);
    int *nodes = schema_alloc(s, (size_t)choice.n, sizeof *nodes), n_nodes = 0;
    if (!branches || !nodes) return -1;
    for (int i = 0; i < choice.n; i++)
        if (!schema_parts_choose(s, &rest, &choice, i, &branches[i])) return -1;
    if (choice.exactly_one && !branches_part(s, &choice, branches)) return -1;
    for (int i = 0; i < choice.n; i++) {
        /* Without this, ten conditions of one member would make a thousand empty combinations. */
        if (branches[i].n_choices && schema_is_void(s, &branches[i])) continue;
        int node = s->err ? -1 : schema_combine(s, &branches[i]);
        if (node < 0) return -1;
        nodes[n_nodes++] = node;
    }
    return grammar_choice(s->builder, nodes, n_nodes);
}

/* --- Types --- */

/* The values that `not` with const or enum excludes, one after the other. Begins as {.parts, .member = -1}.
 */
struct exclusions {
    const struct schema_parts *parts;
    int member; /* of the value */
    bool listed;
    const struct json *value;
};

static bool exclusions_next(struct schema *s, struct exclusions *it)
{
    it->value = it->value && it->listed ? json_next(it->value) : NULL;
    while (!it->value && ++it->member < it->parts->n) {
        const struct json *schema = it->parts->members[it->member].schema;
        it->value = schema_excluded(s, schema, "const");
        it->listed = !it->value;
        if (it->listed) it->value = json_first(schema_excluded(s, schema, "enum"));
    }
    return it->value && schema_work(s, 1);
}

static bool bool_excluded(struct schema *s, const struct schema_parts *parts, bool value)
{
    for (struct exclusions it = {.parts = parts, .member = -1}; exclusions_next(s, &it);)
        if (json_type(it.value) == JSON_BOOL && json_bool(it.value) == value) return true;
    return false;
}

/* Values of `not` with const or enum that nobody keeps away from. */
static bool exclusions_check(struct schema *s, const struct schema_parts *parts)
{
    for (struct exclusions it = {.parts = parts, .member = -1}; exclusions_next(s, &it);)
        if (schema_type_of(it.value) & parts->types & (SCHEMA_ARRAY | SCHEMA_OBJECT))
            return schema_fail(s, ERR_UNSUPPORTED, parts->members[it.member].schema, "not",
                               "unsupported keyword 'not' of %s", json_type_name(json_type(it.value))) >= 0;
    return !s->err;
}

static int types_combine(struct schema *s, const struct schema_parts *parts)
{
    int nodes[8], n = 0;
    if (parts->types & SCHEMA_OBJECT) nodes[n++] = schema_object(s, parts);
    if (parts->types & SCHEMA_ARRAY) nodes[n++] = schema_array(s, parts);
    if (parts->types & SCHEMA_STRING) nodes[n++] = schema_string(s, parts);
    if (parts->types & SCHEMA_NUMBER) nodes[n++] = schema_number(s, parts);
    for (int value = 1; value >= 0; value--)
        if ((parts->types & SCHEMA_BOOL) && !bool_excluded(s, parts, value))
            nodes[n++] = schema_literal(s, value ? "true" : "false");
    if (parts->types & SCHEMA_NULL) nodes[n++] = schema_literal(s, "null");
    if (s->err) return -1;
    return n == 1 ? nodes[0] : grammar_choice(s->builder, nodes, n);
}

int schema_combine(struct schema *s, const struct schema_parts *parts)
{
    if (!schema_work(s, 1)) return -1;
    if (parts->types == 0) return grammar_choice(s->builder, NULL, 0);
    const struct json *finite = schema_parts_finite(s, parts);
    if (finite) return finite_combine(s, parts, finite);
    if (parts->opaque) {
        const char *keyword = "not";
        schema_ref_written(s, parts->opaque, &keyword);
        return schema_fail(s, ERR_UNSUPPORTED, parts->opaque, "not",
                           "unsupported keyword '%s' here: the opposite of what it has cannot be told",
                           keyword);
    }
    if (parts->n_choices) return choice_combine(s, parts);
    if (!exclusions_check(s, parts)) return -1;
    struct arena *outer = NULL;
    if (!schema_scratch_begin(s, &outer)) return -1;
    int node = types_combine(s, parts);
    schema_scratch_end(s, outer);
    return node;
}
