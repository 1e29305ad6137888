#include "model/schema_internal.h"

#include "config/buf.h"

#include <string.h>

/*
 * Objects: the named members in the order in which the schema names them, those that are not required
 * optional, then any others that it allows. A name is looked up in each schema by itself, for
 * additionalProperties speaks only of what its neighbours properties and patternProperties do not name.
 *
 * Other members' names are a set of strings, less the named ones: an automaton. Where patterns divide the
 * names, each class of names has its own. Nothing in a context-free grammar keeps such a name from coming
 * twice; the last one counts for most readers, and every one satisfies the schema. But a count of them may be
 * wrong then, so minProperties that needs two of them is refused.
 */

enum { MAX_PATTERNS = 4, MAX_NAMES = 4000, MAX_COUNTED = 20000, MAX_NAME_BYTES = 1 << 20 };

/* One pattern of patternProperties. */
struct key_pattern {
    int member; /* of parts */
    const struct json *value;
    struct automaton *names;
};

struct object_facts {
    const struct schema_parts *parts;
    int n, n_required;
    const char **names; /* of properties and required, each once */
    bool *required;
    int n_patterns;
    struct key_pattern patterns[MAX_PATTERNS];
    int64_t min, max; /* max -1: no end */
    bool has_names_rule, has_unevaluated;
};

/* --- What is asked of an object --- */

static int name_index(struct schema *s, const struct object_facts *facts, const char *name)
{
    for (int i = 0; i < facts->n; i++) {
        s->work++;
        if (strcmp(facts->names[i], name) == 0) return i;
    }
    return -1;
}

static bool name_add(struct schema *s, struct object_facts *facts, const char *name, bool required)
{
    int i = name_index(s, facts, name);
    if (i < 0) {
        if (facts->n == MAX_NAMES) {
            schema_fail(s, ERR_LIMIT, facts->parts->members[0].schema, "properties",
                        "more than %d named members in one object", MAX_NAMES);
            return false;
        }
        i = facts->n++;
        facts->names[i] = name;
    }
    facts->n_required += required && !facts->required[i];
    facts->required[i] |= required;
    return schema_work(s, 1);
}

static bool patterns_add(struct schema *s, struct object_facts *facts, int member)
{
    const struct json *schema = facts->parts->members[member].schema;
    const struct json *value = json_first(schema_get(s, schema, "patternProperties"));
    for (; value; value = json_next(value)) {
        if (facts->n_patterns == MAX_PATTERNS) {
            schema_fail(s, ERR_LIMIT, schema, "patternProperties",
                        "more than %d patterns hold for one object", MAX_PATTERNS);
            return false;
        }
        struct automaton *names = schema_pattern_automaton(s, schema, json_key(value));
        if (!names) return false;
        facts->patterns[facts->n_patterns++] = (struct key_pattern){member, value, names};
    }
    return true;
}

static bool facts_gather(struct schema *s, const struct schema_parts *parts, struct object_facts *facts)
{
    *facts = (struct object_facts){.parts = parts, .max = -1};
    size_t n = 1;
    for (int i = 0; i < parts->n; i++)
        n += json_length(schema_get(s, parts->members[i].schema, "properties")) +
             json_length(schema_get(s, parts->members[i].schema, "required"));
    if (!schema_work(s, (int64_t)n)) return false;
    facts->names = schema_alloc(s, n, sizeof *facts->names);
    facts->required = schema_alloc(s, n, sizeof *facts->required);
    if (!facts->names || !facts->required) return false;
    for (int i = 0; i < parts->n; i++) {
        const struct json *schema = parts->members[i].schema, *name;
        for (name = json_first(schema_get(s, schema, "properties")); name; name = json_next(name))
            if (!name_add(s, facts, json_key(name), false)) return false;
        if (!patterns_add(s, facts, i)) return false;
        int64_t min = schema_count(s, schema, "minProperties", 0),
                max = schema_count(s, schema, "maxProperties", -1);
        if (min > facts->min) facts->min = min;
        if (max >= 0 && (facts->max < 0 || max < facts->max)) facts->max = max;
        if (schema_get(s, schema, "propertyNames")) facts->has_names_rule = true;
        if (schema_get(s, schema, "unevaluatedProperties")) facts->has_unevaluated = true;
    }
    for (int i = 0; i < parts->n; i++) {
        const struct json *name = json_first(schema_get(s, parts->members[i].schema, "required"));
        for (; name; name = json_next(name))
            if (!name_add(s, facts, json_string(name, NULL), true)) return false;
    }
    return !s->err;
}

/* --- The schemas of a member --- */

/* A name, or all names of a class: those that match the patterns of matched and are named nowhere. */
struct key {
    const char *name;
    unsigned matched;
};

/* Adds what schema number m says of a key; true when it says something. */
static bool key_evaluate(struct schema *s, const struct object_facts *facts, int m, struct key key,
                         const struct json **list, int *n)
{
    const struct json *schema = facts->parts->members[m].schema;
    const struct json *own = key.name ? schema_get(s, schema_get(s, schema, "properties"), key.name) : NULL;
    int before = *n;
    if (own) list[(*n)++] = own;
    for (int p = 0; p < facts->n_patterns; p++)
        if (facts->patterns[p].member == m && (key.matched >> p & 1)) list[(*n)++] = facts->patterns[p].value;
    if (*n > before) return true;
    const struct json *other = schema_get(s, schema, "additionalProperties");
    if (other) list[(*n)++] = other;
    return other != NULL;
}

/* unevaluatedProperties speaks of keys of which neither its schema nor one that this includes speaks. */
static int unevaluated_add(struct schema *s, const struct object_facts *facts, const bool *evaluated,
                           const struct json **list, int n)
{
    const struct schema_parts *parts = facts->parts;
    for (int m = 0; m < parts->n; m++) {
        const struct json *rest = schema_get(s, parts->members[m].schema, "unevaluatedProperties");
        bool done = false;
        for (int below = 0; rest && below < parts->n && !done; below++)
            done =
                evaluated[below] && schema_member_is_under(&parts->members[below], parts->members[m].schema);
        if (rest && !done) list[n++] = rest;
    }
    return n;
}

/* Whether propertyNames, where there are any, accept a name. */
static bool name_is_accepted(struct schema *s, const struct schema_parts *parts, const char *name)
{
    struct buf text;
    buf_init(&text, MAX_NAME_BYTES);
    json_write_text(&text, name);
    const struct json *value = schema_make(s, parts->members[0].schema, "propertyNames", &text);
    buf_free(&text);
    for (int m = 0; value && m < parts->n; m++) {
        const struct json *rule = schema_get(s, parts->members[m].schema, "propertyNames");
        if (rule && !schema_accepts(s, rule, value, 0)) return false;
    }
    return value != NULL;
}

static const struct json *never_make(struct schema *s, const struct json *origin)
{
    struct buf text;
    buf_init(&text, 16);
    buf_text(&text, "false");
    const struct json *never = schema_make(s, origin, "propertyNames", &text);
    buf_free(&text);
    return never;
}

/* Returns how many schemas, -1 on failure. */
static int key_schemas(struct schema *s, const struct object_facts *facts, struct key key,
                       const struct json ***out)
{
    const struct schema_parts *parts = facts->parts;
    const struct json **list = schema_alloc(s, (size_t)parts->n * 2 + MAX_PATTERNS + 1, sizeof *list);
    bool *evaluated = schema_alloc(s, (size_t)parts->n + 1, sizeof *evaluated);
    if (!list || !evaluated || !schema_work(s, parts->n)) return -1;
    for (int p = 0; key.name && p < facts->n_patterns; p++)
        if (automaton_matches(facts->patterns[p].names, key.name, strlen(key.name))) key.matched |= 1u << p;
    int n = 0;
    for (int m = 0; m < parts->n; m++) evaluated[m] = key_evaluate(s, facts, m, key, list, &n);
    if (facts->has_unevaluated) n = unevaluated_add(s, facts, evaluated, list, n);
    if (key.name && facts->has_names_rule && !name_is_accepted(s, parts, key.name)) {
        list[n++] = never_make(s, parts->members[0].schema);
        if (!list[n - 1]) return -1;
    }
    *out = list;
    return s->err ? -1 : n;
}

int schema_object_value(struct schema *s, const struct schema_parts *parts, const char *name,
                        const struct json ***list)
{
    struct object_facts facts;
    return facts_gather(s, parts, &facts) ? key_schemas(s, &facts, (struct key){name, 0}, list) : -1;
}

/* --- Members as nodes --- */

static bool has_never(const struct json **list, int n)
{
    for (int i = 0; i < n; i++)
        if (json_type(list[i]) == JSON_BOOL && !json_bool(list[i])) return true;
    return false;
}

/* "name": value; -2: it can never be. */
static int named_node(struct schema *s, const struct object_facts *facts, const char *name)
{
    const struct json **list;
    int n = key_schemas(s, facts, (struct key){name, 0}, &list);
    if (n < 0) return -1;
    if (has_never(list, n)) return -2;
    return schema_sequence(s, schema_key(s, name), schema_colon(s), schema_goal(s, list, n));
}

/* Names that propertyNames allow; NULL on failure. */
static struct automaton *names_restrict(struct schema *s, const struct object_facts *facts,
                                        struct automaton *names)
{
    for (int m = 0; m < facts->parts->n && names; m++) {
        const struct json *schema = facts->parts->members[m].schema;
        const struct json *rule = schema_get(s, schema, "propertyNames");
        struct schema_parts parts = {.types = SCHEMA_ALL};
        if (!rule) continue;
        if (!schema_parts_add(s, &parts, rule, NULL)) return NULL;
        const struct json *finite = schema_parts_finite(s, &parts);
        struct automaton *allowed = NULL;
        if (!(parts.types & SCHEMA_STRING)) {
            allowed = automaton_names(s->scratch, NULL, 0);
        } else if (finite) {
            const struct json *value = schema_get(s, finite, "const"), *list = schema_get(s, finite, "enum");
            const char **texts = schema_alloc(s, json_length(list) + 1, sizeof *texts);
            int n = 0;
            for (value = value ? value : json_first(list); texts && value;
                 value = list ? json_next(value) : NULL)
                if (json_type(value) == JSON_STRING && schema_accepts(s, rule, value, 0))
                    texts[n++] = json_string(value, NULL);
            allowed = texts && !s->err ? automaton_names(s->scratch, texts, n) : NULL;
        } else if (parts.n_choices || parts.opaque) {
            schema_fail(s, ERR_UNSUPPORTED, schema, "propertyNames",
                        "unsupported keyword 'propertyNames' with %s",
                        parts.n_choices ? parts.choices[0].keyword : "not");
        } else {
            allowed = schema_string_automaton(s, &parts);
        }
        names = schema_automaton_check(s, automaton_and(s->scratch, names, allowed), schema, "propertyNames");
    }
    return names;
}

/* Members of one class of names; -2: there are none. */
static int class_node(struct schema *s, const struct object_facts *facts, unsigned matched)
{
    const struct json **list, *at = facts->parts->n ? facts->parts->members[0].schema : s->root;
    int n = key_schemas(s, facts, (struct key){NULL, matched}, &list);
    if (n < 0) return -1;
    if (has_never(list, n)) return -2;
    const char *keyword = facts->n_patterns ? "patternProperties" : "properties";
    int key;
    if (facts->n_patterns || facts->n || facts->has_names_rule) {
        struct automaton *names = automaton_text(s->scratch);
        if (facts->n)
            names = automaton_minus(s->scratch, names, automaton_names(s->scratch, facts->names, facts->n));
        for (int p = 0; p < facts->n_patterns; p++)
            names = matched >> p & 1 ? automaton_and(s->scratch, names, facts->patterns[p].names)
                                     : automaton_minus(s->scratch, names, facts->patterns[p].names);
        if (!schema_automaton_check(s, names, at, keyword)) return -1;
        names = names_restrict(s, facts, names);
        if (!names) return -1;
        if (automaton_is_empty(names)) return -2;
        key = schema_automaton_string(s, at, keyword, names);
    } else {
        key = schema_any_string(s);
    }
    return schema_sequence(s, key, schema_colon(s), schema_goal(s, list, n));
}

/* Any member that is not named; -2: none may be. */
static int other_node(struct schema *s, const struct object_facts *facts)
{
    int nodes[1 << MAX_PATTERNS], n = 0;
    for (unsigned matched = 0; matched < 1u << facts->n_patterns; matched++) {
        int node = class_node(s, facts, matched);
        if (node == -1) return -1;
        if (node >= 0) nodes[n++] = node;
    }
    return n == 0 ? -2 : n == 1 ? nodes[0] : grammar_choice(s->builder, nodes, n);
}

/* --- Orders of members --- */

/* The members as nodes, without those that can never be. */
struct layout {
    int n, first_required; /* n: no member is required */
    const int *nodes;
    const bool *required;
    int other; /* -2: none */
    int comma;
    int64_t min, max;
};

static int optional(struct schema *s, int node)
{
    return grammar_repeat(s->builder, node, 0, 1);
}

/* Members from i on and others, each after a comma. */
static int tail_node(struct schema *s, const struct layout *layout, int i, int rest)
{
    int node = schema_sequence(s, layout->comma, layout->nodes[i], -2);
    return schema_sequence(s, layout->required[i] ? node : optional(s, node), rest, -2);
}

static int others_tail(struct schema *s, const struct layout *layout)
{
    if (layout->other == -2) return schema_literal(s, "");
    return grammar_repeat(s->builder, schema_sequence(s, layout->comma, layout->other, -2), 0, -1);
}

/* What stands between the braces when members need not be counted: before the first that is required each
   brings the comma behind it, after it the comma before it. Without one, each may be the first. */
static int inside_node(struct schema *s, const struct layout *layout)
{
    int rest = others_tail(s, layout), n = layout->n, first = layout->first_required;
    if (first < n) {
        for (int i = n - 1; i > first; i--) rest = tail_node(s, layout, i, rest);
        rest = schema_sequence(s, layout->nodes[first], rest, -2);
        for (int i = first - 1; i >= 0; i--)
            rest = schema_sequence(s, optional(s, schema_sequence(s, layout->nodes[i], layout->comma, -2)),
                                   rest, -2);
        return rest;
    }
    int *choices = schema_alloc(s, (size_t)n + 1, sizeof *choices), n_choices = 0;
    if (!choices) return -1;
    if (layout->other != -2) choices[n_choices++] = schema_sequence(s, layout->other, rest, -2);
    for (int i = n - 1; i >= 0; i--) {
        choices[n_choices++] = schema_sequence(s, layout->nodes[i], rest, -2);
        if (i == 0) break;
        int rule = grammar_rule(s->builder, "members");
        if (rule >= 0) grammar_define(s->builder, rule, tail_node(s, layout, i, rest));
        rest = rule;
    }
    return grammar_choice(s->builder, choices, n_choices);
}

/* Others after `count` members: as many as the bounds leave. None at all is the caller's case. */
static int counted_others(struct schema *s, const struct layout *layout, int64_t count)
{
    int64_t lack = layout->min - count, room = layout->max < 0 ? -1 : layout->max - count;
    if (layout->other == -2 || room == 0 || lack > 1)
        return lack > 0 || count == 0 ? grammar_choice(s->builder, NULL, 0) : schema_literal(s, "");
    if (lack < 0) lack = 0;
    if (count)
        return grammar_repeat(s->builder, schema_sequence(s, layout->comma, layout->other, -2), lack, room);
    int more = grammar_repeat(s->builder, schema_sequence(s, layout->comma, layout->other, -2), 0,
                              room < 0 ? -1 : room - 1);
    return schema_sequence(s, layout->other, more, -2);
}

/* A rule for each pair of the next member and how many came before it. after: what follows, by how many there
   are then. */
static int counted_node(struct schema *s, const struct layout *layout, const struct json *at)
{
    int64_t cap = layout->max < 0 ? layout->min : layout->max; /* where counting may stop */
    if (cap > layout->n) cap = layout->n;
    if (cap < 1) cap = 1;
    if ((layout->n + 1) * (cap + 1) > MAX_COUNTED) return schema_exhausted(s, at, "minProperties");
    int *after = schema_alloc(s, (size_t)cap + 1, sizeof *after);
    int *rules = schema_alloc(s, (size_t)cap + 1, sizeof *rules);
    if (!after || !rules) return -1;
    for (int64_t count = 0; count <= cap; count++) after[count] = counted_others(s, layout, count);
    for (int i = layout->n - 1; i >= 0; i--) {
        for (int64_t count = 0; count <= cap; count++) {
            int choices[2], n = 0;
            bool room = layout->max < 0 || count < layout->max;
            int node = layout->nodes[i];
            if (count) node = schema_sequence(s, layout->comma, node, -2);
            if (room) choices[n++] = schema_sequence(s, node, after[count < cap ? count + 1 : cap], -2);
            if (!layout->required[i]) choices[n++] = after[count];
            rules[count] = grammar_rule(s->builder, "members");
            if (rules[count] >= 0)
                grammar_define(s->builder, rules[count], grammar_choice(s->builder, choices, n));
        }
        memcpy(after, rules, ((size_t)cap + 1) * sizeof *after);
    }
    return after[0];
}

/* --- Together --- */

static int braces(struct schema *s, int inside)
{
    int gap = schema_gap(s), nodes[] = {schema_literal(s, "{"), gap, inside, gap, schema_literal(s, "}")};
    return grammar_sequence(s->builder, nodes, 5);
}

static int layout_node(struct schema *s, const struct layout *layout, int n_required, const struct json *at)
{
    bool may_be_empty = n_required == 0 && layout->min == 0;
    int possible = layout->other == -2 ? layout->n : layout->n + 1;
    if (layout->max == 0 || possible == 0)
        return may_be_empty ? schema_literal(s, "{}") : grammar_choice(s->builder, NULL, 0);
    if (layout->other != -2 && layout->min > possible)
        return schema_fail(s, ERR_UNSUPPORTED, at, "minProperties",
                           "unsupported: %lld members of which more than one is not named in properties; "
                           "their names could be equal",
                           (long long)layout->min);
    bool bounded = layout->max >= 0 && (layout->other != -2 || layout->max < layout->n);
    bool counted = bounded || (layout->min > n_required && layout->min > 1);
    int inside = counted ? counted_node(s, layout, at) : inside_node(s, layout);
    int some = braces(s, inside);
    return may_be_empty ? grammar_choice(s->builder, (int[]){schema_literal(s, "{}"), some}, 2) : some;
}

int schema_object(struct schema *s, const struct schema_parts *parts)
{
    struct object_facts facts;
    if (!facts_gather(s, parts, &facts)) return -1;
    int *nodes = schema_alloc(s, (size_t)facts.n + 1, sizeof *nodes);
    bool *required = schema_alloc(s, (size_t)facts.n + 1, sizeof *required);
    if (!nodes || !required) return -1;
    struct layout layout = {
        .nodes = nodes, .required = required, .comma = schema_comma(s), .min = facts.min, .max = facts.max};
    layout.first_required = -1;
    for (int i = 0; i < facts.n; i++) {
        int node = named_node(s, &facts, facts.names[i]);
        if (node == -1) return -1;
        if (node == -2 && facts.required[i]) return grammar_choice(s->builder, NULL, 0);
        if (node == -2) continue;
        if (facts.required[i] && layout.first_required < 0) layout.first_required = layout.n;
        required[layout.n] = facts.required[i];
        nodes[layout.n++] = node;
    }
    if (layout.first_required < 0) layout.first_required = layout.n;
    layout.other = other_node(s, &facts);
    if (layout.other == -1) return -1;
    if (facts.max >= 0 && (facts.max < facts.min || facts.max < facts.n_required))
        return grammar_choice(s->builder, NULL, 0);
    return layout_node(s, &layout, facts.n_required, parts->n ? parts->members[0].schema : s->root);
}

/* --- Values --- */

static bool member_accepts(struct schema *s, const struct json *schema, const struct json *member, int depth)
{
    const char *name = json_key(member);
    const struct json *own = schema_get(s, schema_get(s, schema, "properties"), name);
    const struct json *pattern = json_first(schema_get(s, schema, "patternProperties"));
    bool evaluated = own != NULL;
    if (own && !schema_accepts(s, own, member, depth)) return false;
    for (; pattern; pattern = json_next(pattern)) {
        struct automaton *names = schema_pattern_automaton(s, schema, json_key(pattern));
        if (!names) return false;
        if (!automaton_matches(names, name, strlen(name))) continue;
        evaluated = true;
        if (!schema_accepts(s, pattern, member, depth)) return false;
    }
    const struct json *other = schema_get(s, schema, "additionalProperties");
    return evaluated || !other || schema_accepts(s, other, member, depth);
}

static bool dependents_accept(struct schema *s, const struct json *schema, const struct json *value,
                              int depth)
{
    const struct json *dependent = json_first(schema_get(s, schema, "dependentRequired")), *name;
    for (; dependent; dependent = json_next(dependent))
        for (name = json_first(dependent); name && schema_get(s, value, json_key(dependent));
             name = json_next(name))
            if (!schema_get(s, value, json_string(name, NULL))) return false;
    dependent = json_first(schema_get(s, schema, "dependentSchemas"));
    for (; dependent; dependent = json_next(dependent))
        if (schema_get(s, value, json_key(dependent)) && !schema_accepts(s, dependent, value, depth))
            return false;
    return true;
}

bool schema_object_accepts(struct schema *s, const struct json *schema, const struct json *value, int depth)
{
    int64_t length = (int64_t)json_length(value), max = schema_count(s, schema, "maxProperties", -1);
    if (length < schema_count(s, schema, "minProperties", 0) || (max >= 0 && length > max)) return false;
    const struct json *name = json_first(schema_get(s, schema, "required"));
    for (; name; name = json_next(name))
        if (!schema_get(s, value, json_string(name, NULL))) return false;
    const struct json *rule = schema_get(s, schema, "propertyNames");
    struct schema_parts parts = {.n = 1, .members = &(struct schema_member){schema, NULL}};
    for (const struct json *member = json_first(value); member; member = json_next(member))
        if (!member_accepts(s, schema, member, depth) ||
            (rule && !name_is_accepted(s, &parts, json_key(member))))
            return false;
    return dependents_accept(s, schema, value, depth);
}
