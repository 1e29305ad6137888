#include "model/schema_internal.h"

#include <string.h>

/*
 * Arrays: the elements of prefixItems by position, then those of items, between minItems and maxItems of
 * them. Which schemas an element must satisfy is asked of each member by itself: `items` speaks of what its
 * own prefixItems leaves. uniqueItems is enforced where the elements are few listed values: a rule for each
 * set of those that are still free.
 */

enum { MAX_PREFIX = 1000, MAX_UNIQUE = 8 };

/* Whether a schema says something of element i; what it says in *out. */
static bool element_evaluated(struct schema *s, const struct json *schema, int i, const struct json **out)
{
    const struct json *prefix = schema_get(s, schema, "prefixItems");
    *out = i >= 0 ? json_at(prefix, (size_t)i) : NULL;
    s->work += i;
    if (!*out) *out = schema_get(s, schema, "items");
    return *out != NULL;
}

int schema_array_element(struct schema *s, const struct schema_parts *parts, int i, const struct json ***list)
{
    const struct json **schemas = schema_alloc(s, (size_t)parts->n * 2 + 1, sizeof *schemas), *found;
    int n = 0;
    if (!schemas || !schema_work(s, parts->n)) return -1;
    for (int m = 0; m < parts->n; m++)
        if (element_evaluated(s, parts->members[m].schema, i, &found)) schemas[n++] = found;
    for (int m = 0; m < parts->n; m++) {
        const struct json *rest = schema_get(s, parts->members[m].schema, "unevaluatedItems");
        bool evaluated = false;
        for (int below = 0; rest && below < parts->n && !evaluated; below++)
            evaluated = schema_member_is_under(&parts->members[below], parts->members[m].schema) &&
                        element_evaluated(s, parts->members[below].schema, i, &found);
        if (rest && !evaluated) schemas[n++] = rest;
    }
    *list = schemas;
    return n;
}

static int element_node(struct schema *s, const struct schema_parts *parts, int i)
{
    const struct json **list;
    int n = schema_array_element(s, parts, i, &list);
    return n < 0 ? -1 : schema_goal(s, list, n);
}

/* --- What is asked of an array --- */

struct array_facts {
    int64_t min, max; /* max -1: no end */
    int n_prefix;
    const struct json *unique;   /* a schema with uniqueItems: true */
    const struct json *contains; /* a schema with contains */
    int64_t n_contains;          /* at least so many */
};

static bool contains_gather(struct schema *s, const struct json *schema, struct array_facts *facts)
{
    const struct json *contains = schema_get(s, schema, "contains");
    if (!contains) return true;
    int64_t n = schema_count(s, schema, "minContains", 1);
    if (facts->contains || schema_get(s, schema, "maxContains")) {
        schema_fail(s, ERR_UNSUPPORTED, schema, facts->contains ? "contains" : "maxContains",
                    "unsupported keyword '%s'%s", facts->contains ? "contains" : "maxContains",
                    facts->contains ? ", twice for one array" : "");
        return false;
    }
    if (n == 0) return true;
    facts->contains = schema;
    facts->n_contains = n;
    return true;
}

static bool facts_gather(struct schema *s, const struct schema_parts *parts, struct array_facts *facts)
{
    *facts = (struct array_facts){.max = -1};
    for (int i = 0; i < parts->n; i++) {
        const struct json *schema = parts->members[i].schema;
        int64_t min = schema_count(s, schema, "minItems", 0), max = schema_count(s, schema, "maxItems", -1);
        if (min > facts->min) facts->min = min;
        if (max >= 0 && (facts->max < 0 || max < facts->max)) facts->max = max;
        size_t n_prefix = json_length(schema_get(s, schema, "prefixItems"));
        if (n_prefix > MAX_PREFIX) return schema_exhausted(s, schema, "prefixItems") >= 0;
        if ((int)n_prefix > facts->n_prefix) facts->n_prefix = (int)n_prefix;
        const struct json *unique = schema_get(s, schema, "uniqueItems");
        if (unique && json_bool(unique)) facts->unique = schema;
        if (!contains_gather(s, schema, facts)) return false;
    }
    return !s->err;
}

/* --- Kinds of arrays --- */

static int brackets(struct schema *s, int inside)
{
    int gap = schema_gap(s), nodes[] = {schema_literal(s, "["), gap, inside, gap, schema_literal(s, "]")};
    return grammar_sequence(s->builder, nodes, 5);
}

/* Elements by position, from the last backwards: each is followed by the rest or, where the array may end, by
   nothing. */
static int plain_array(struct schema *s, const struct schema_parts *parts, const struct array_facts *facts)
{
    int prefix = facts->n_prefix;
    if (facts->max >= 0 && facts->max < prefix) prefix = (int)facts->max;
    int comma = schema_comma(s), tail = schema_literal(s, "");
    if (facts->max < 0 || facts->max > prefix) {
        int64_t min = facts->min > prefix ? facts->min - prefix : 0;
        int64_t max = facts->max < 0 ? -1 : facts->max - prefix;
        int rest = element_node(s, parts, prefix);
        if (prefix == 0) { /* the first has no comma */
            int more = grammar_repeat(s->builder, schema_sequence(s, comma, rest, -2), min ? min - 1 : 0,
                                      max < 0 ? -1 : max - 1);
            tail = brackets(s, schema_sequence(s, rest, more, -2));
        } else {
            tail = grammar_repeat(s->builder, schema_sequence(s, comma, rest, -2), min, max);
        }
    } else if (prefix == 0) {
        return schema_literal(s, "[]");
    }
    for (int i = prefix - 1; i >= 0; i--) {
        tail = schema_sequence(s, element_node(s, parts, i), tail, -2);
        if (i == 0)
            tail = brackets(s, tail);
        else
            tail = grammar_repeat(s->builder, schema_sequence(s, comma, tail, -2), i < facts->min, 1);
    }
    return facts->min > 0 ? tail : grammar_choice(s->builder, (int[]){schema_literal(s, "[]"), tail}, 2);
}

/* At least n of the elements satisfy `contains`, too: any ones between them. */
static int containing_array(struct schema *s, const struct schema_parts *parts,
                            const struct array_facts *facts)
{
    const struct json **list;
    int n = schema_array_element(s, parts, 0, &list), comma = schema_comma(s);
    if (n < 0) return -1;
    if (facts->n_prefix || facts->max >= 0 || facts->unique || facts->min > facts->n_contains)
        return schema_fail(s, ERR_UNSUPPORTED, facts->contains, "contains",
                           "unsupported keyword 'contains' beside prefixItems, minItems, maxItems or "
                           "uniqueItems");
    int any = schema_goal(s, list, n);
    list[n] = schema_get(s, facts->contains, "contains"); /* one more than there can be */
    int match = schema_goal(s, list, n + 1);
    int before = grammar_repeat(s->builder, schema_sequence(s, any, comma, -2), 0, -1);
    int after = grammar_repeat(s->builder, schema_sequence(s, comma, any, -2), 0, -1);
    int more = schema_sequence(s, after, comma, match);
    more = grammar_repeat(s->builder, more, facts->n_contains - 1, facts->n_contains - 1);
    return brackets(s, schema_sequence(s, before, match, schema_sequence(s, more, after, -2)));
}

/* The values that an element may have, if they are few; -1: they are not, or an error. */
static int unique_values(struct schema *s, const struct schema_parts *parts, const struct json *values[])
{
    const struct json **list;
    struct schema_parts element = {.types = SCHEMA_ALL};
    int n_schemas = schema_array_element(s, parts, 0, &list), n = 0;
    for (int i = 0; i < n_schemas; i++)
        if (!schema_parts_add(s, &element, list[i], NULL)) return -1;
    const struct json *finite = n_schemas < 0 ? NULL : schema_parts_finite(s, &element);
    const struct json *value = schema_get(s, finite, "const");
    bool one = value != NULL;
    for (value = one ? value : json_first(schema_get(s, finite, "enum")); value;
         value = one ? NULL : json_next(value)) {
        bool wanted = schema_type_of(value) & element.types;
        for (int i = 0; i < n_schemas && wanted; i++) wanted = schema_accepts(s, list[i], value, 0);
        for (int i = 0; i < n && wanted; i++) wanted = !schema_equal(s, values[i], value);
        if (wanted && n == MAX_UNIQUE) return -1;
        if (wanted) values[n++] = value;
    }
    return s->err || !finite ? -1 : n;
}

/* The rest of an array in which the values of `used` stand: rules[used]. */
static int unique_rest(struct schema *s, const struct array_facts *facts, const int *nodes, int n,
                       const int *rules, unsigned used)
{
    int count = __builtin_popcount(used), alternatives[MAX_UNIQUE + 1], n_alternatives = 0;
    if (count >= facts->min) alternatives[n_alternatives++] = schema_literal(s, "");
    for (int i = 0; i < n && (facts->max < 0 || count < facts->max); i++) {
        if (used >> i & 1) continue;
        int node = schema_sequence(s, nodes[i], rules[used | 1u << i], -2);
        alternatives[n_alternatives++] = count ? schema_sequence(s, schema_comma(s), node, -2) : node;
    }
    return grammar_choice(s->builder, alternatives, n_alternatives);
}

static int unique_array(struct schema *s, const struct schema_parts *parts, const struct array_facts *facts)
{
    const struct json *values[MAX_UNIQUE];
    int nodes[MAX_UNIQUE], rules[1 << MAX_UNIQUE];
    int n = facts->n_prefix ? -1 : unique_values(s, parts, values);
    if (n < 0)
        return schema_fail(s, ERR_UNSUPPORTED, facts->unique, "uniqueItems",
                           "unsupported keyword 'uniqueItems', but for items of an enum of at most %d values",
                           MAX_UNIQUE);
    for (int i = 0; i < n; i++) nodes[i] = schema_value(s, facts->unique, values[i]);
    for (unsigned used = 1; used < 1u << n; used++) rules[used] = grammar_rule(s->builder, "unique");
    for (unsigned used = 1; used < 1u << n; used++)
        if (rules[used] >= 0)
            grammar_define(s->builder, rules[used], unique_rest(s, facts, nodes, n, rules, used));
    struct array_facts some = *facts;
    some.min = facts->min > 1 ? facts->min : 1;
    int tail = brackets(s, unique_rest(s, &some, nodes, n, rules, 0));
    return facts->min > 0 ? tail : grammar_choice(s->builder, (int[]){schema_literal(s, "[]"), tail}, 2);
}

int schema_array(struct schema *s, const struct schema_parts *parts)
{
    struct array_facts facts;
    if (!facts_gather(s, parts, &facts)) return -1;
    if (facts.max >= 0 && facts.max < facts.min) return grammar_choice(s->builder, NULL, 0);
    if (facts.contains) return containing_array(s, parts, &facts);
    if (facts.unique && (facts.max < 0 || facts.max > 1)) return unique_array(s, parts, &facts);
    return plain_array(s, parts, &facts);
}

/* --- Values --- */

static bool elements_accept(struct schema *s, const struct json *schema, const struct json *value, int depth)
{
    const struct json *prefix = json_first(schema_get(s, schema, "prefixItems"));
    const struct json *items = schema_get(s, schema, "items"), *contains = schema_get(s, schema, "contains");
    int64_t matches = 0;
    for (const struct json *element = json_first(value); element; element = json_next(element)) {
        const struct json *own = prefix ? prefix : items;
        if (own && !schema_accepts(s, own, element, depth)) return false;
        if (contains && schema_accepts(s, contains, element, depth)) matches++;
        if (prefix) prefix = json_next(prefix);
    }
    int64_t max = schema_count(s, schema, "maxContains", -1);
    return !contains || (matches >= schema_count(s, schema, "minContains", 1) && (max < 0 || matches <= max));
}

bool schema_array_accepts(struct schema *s, const struct json *schema, const struct json *value, int depth)
{
    int64_t length = (int64_t)json_length(value), max = schema_count(s, schema, "maxItems", -1);
    if (length < schema_count(s, schema, "minItems", 0) || (max >= 0 && length > max)) return false;
    const struct json *unique = schema_get(s, schema, "uniqueItems");
    if (unique && json_bool(unique))
        for (const struct json *a = json_first(value); a; a = json_next(a))
            for (const struct json *b = json_first(value); b != a; b = json_next(b))
                if (!schema_work(s, 1) || schema_equal(s, a, b)) return false;
    return elements_accept(s, schema, value, depth);
}
