#include "model/schema_internal.h"

/*
 * Whether two conjunctions can hold for one instance: what makes oneOf the same as anyOf. Only a proof
 * counts; "perhaps" is no.
 */

/* Every value that one lists is refused by one of the two. */
static bool finite_disjoint(struct schema *s, const struct schema_parts *a, const struct schema_parts *b)
{
    const struct json *finite = schema_parts_finite(s, a);
    const struct json *value = schema_get(s, finite, "const"), *list = schema_get(s, finite, "enum");
    if (!finite) return false;
    bool one = value != NULL;
    for (value = one ? value : json_first(list); value; value = one ? NULL : json_next(value)) {
        const struct schema_parts *both[] = {a, b};
        bool accepted = schema_type_of(value) & a->types & b->types;
        for (int k = 0; k < 2; k++)
            for (int i = 0; i < both[k]->n && accepted; i++)
                accepted = schema_accepts(s, both[k]->members[i].schema, value, 0);
        if (accepted) return false;
    }
    return !s->err;
}

/* Each branch of a choice is disjoint from the other side. */
static bool choice_disjoint(struct schema *s, const struct schema_parts *a, const struct schema_parts *b,
                            int depth)
{
    for (int c = 0; c < a->n_choices; c++) {
        const struct schema_choice *choice = &a->choices[c];
        bool all = true;
        for (int i = 0; i < choice->n && all; i++) {
            struct schema_parts rest, branch;
            if (!schema_parts_copy(s, &rest, a)) return false;
            rest.choices[c] = rest.choices[--rest.n_choices];
            if (!schema_parts_choose(s, &rest, choice, i, &branch)) return false;
            all = schema_disjoint(s, &branch, b, depth);
        }
        if (all) return true;
    }
    return false;
}

static bool automata_disjoint(struct schema *s, struct automaton *a, struct automaton *b)
{
    struct automaton *both = automaton_and(s->scratch, a, b);
    return both && schema_work(s, both->n) && automaton_is_empty(both);
}

/* The schemas of one place in both. */
static bool schemas_disjoint(struct schema *s, const struct json **a, int n_a, const struct json **b, int n_b,
                             int depth)
{
    struct schema_parts parts_a = {.types = SCHEMA_ALL}, parts_b = {.types = SCHEMA_ALL};
    if (n_a < 0 || n_b < 0) return false;
    for (int i = 0; i < n_a; i++)
        if (!schema_parts_add(s, &parts_a, a[i], NULL)) return false;
    for (int i = 0; i < n_b; i++)
        if (!schema_parts_add(s, &parts_b, b[i], NULL)) return false;
    return schema_disjoint(s, &parts_a, &parts_b, depth - 1);
}

/* A member that one of them requires cannot satisfy both. */
static bool objects_disjoint(struct schema *s, const struct schema_parts *a, const struct schema_parts *b,
                             int depth)
{
    const struct schema_parts *both[] = {a, b};
    for (int k = 0; k < 2; k++)
        for (int i = 0; i < both[k]->n; i++) {
            const struct json *name = json_first(schema_get(s, both[k]->members[i].schema, "required"));
            for (; name && !s->err; name = json_next(name)) {
                const struct json **list_a, **list_b;
                int n_a = schema_object_value(s, a, json_string(name, NULL), &list_a);
                int n_b = schema_object_value(s, b, json_string(name, NULL), &list_b);
                if (schemas_disjoint(s, list_a, n_a, list_b, n_b, depth)) return true;
            }
        }
    return false;
}

static void items_bounds(struct schema *s, const struct schema_parts *parts, int64_t *min, int64_t *max)
{
    *min = 0;
    *max = INT64_MAX;
    for (int i = 0; i < parts->n; i++) {
        int64_t lower = schema_count(s, parts->members[i].schema, "minItems", 0);
        int64_t upper = schema_count(s, parts->members[i].schema, "maxItems", INT64_MAX);
        if (lower > *min) *min = lower;
        if (upper < *max) *max = upper;
    }
}

/* The lengths differ, or an element that both must have cannot satisfy both. */
static bool arrays_disjoint(struct schema *s, const struct schema_parts *a, const struct schema_parts *b,
                            int depth)
{
    enum { MAX_LOOKED_AT = 16 };
    int64_t min_a, max_a, min_b, max_b;
    items_bounds(s, a, &min_a, &max_a);
    items_bounds(s, b, &min_b, &max_b);
    if (min_a > max_b || min_b > max_a) return true;
    int64_t min = min_a > min_b ? min_a : min_b;
    for (int i = 0; i < min && i < MAX_LOOKED_AT && !s->err; i++) {
        const struct json **list_a, **list_b;
        int n_a = schema_array_element(s, a, i, &list_a), n_b = schema_array_element(s, b, i, &list_b);
        if (schemas_disjoint(s, list_a, n_a, list_b, n_b, depth)) return true;
    }
    return false;
}

/* A member that is required has no value. */
static bool member_is_void(struct schema *s, const struct schema_parts *parts, const char *name)
{
    const struct json **list;
    struct schema_parts value = {.types = SCHEMA_ALL};
    int n = schema_object_value(s, parts, name, &list);
    for (int k = 0; k < n; k++)
        if (!schema_parts_add(s, &value, list[k], NULL)) return false;
    return n > 1 &&
           (value.types == 0 || finite_disjoint(s, &value, &(struct schema_parts){.types = SCHEMA_ALL}));
}

bool schema_is_void(struct schema *s, const struct schema_parts *parts)
{
    struct arena *outer = NULL;
    bool is_void = parts->types == 0;
    if (is_void || parts->types != SCHEMA_OBJECT || !schema_work(s, 16)) return is_void;
    if (!schema_scratch_begin(s, &outer)) return false;
    for (int i = 0; i < parts->n; i++) {
        const struct json *name = json_first(schema_get(s, parts->members[i].schema, "required"));
        for (; name && !s->err && !is_void; name = json_next(name))
            is_void = member_is_void(s, parts, json_string(name, NULL));
    }
    schema_scratch_end(s, outer);
    return is_void;
}

bool schema_disjoint(struct schema *s, const struct schema_parts *a, const struct schema_parts *b, int depth)
{
    unsigned shared = a->types & b->types;
    if (!shared) return true;
    if (depth == 0 || !schema_work(s, 16)) return false;
    if (finite_disjoint(s, a, b) || finite_disjoint(s, b, a)) return true;
    if (s->err) return false;
    if (choice_disjoint(s, a, b, depth - 1) || choice_disjoint(s, b, a, depth - 1)) return true;
    if (s->err || (shared & (SCHEMA_NULL | SCHEMA_BOOL))) return false;
    if ((shared & SCHEMA_NUMBER) &&
        !automata_disjoint(s, schema_number_automaton(s, a), schema_number_automaton(s, b)))
        return false;
    if ((shared & SCHEMA_STRING) &&
        !automata_disjoint(s, schema_string_automaton(s, a), schema_string_automaton(s, b)))
        return false;
    if ((shared & SCHEMA_ARRAY) && !arrays_disjoint(s, a, b, depth)) return false;
    return !(shared & SCHEMA_OBJECT) || objects_disjoint(s, a, b, depth);
}
