#include "model/schema_internal.h"

#include "config/buf.h"

#include <stdlib.h>
#include <string.h>

/*
 * What `not` says, in keywords that say it themselves. A schema fails where one of its keywords does, so its
 * opposite is a choice among the opposites of the keywords; each is written down as a schema of our own:
 *
 *   minimum: 3            {"type": "number", "exclusiveMaximum": 3}
 *   required: [a, b]      an object without a, or one without b
 *   properties: {a: S}    {"type": "object", "required": ["a"], "properties": {"a": {"not": S}}}
 *   anyOf: [S, T]         {"allOf": [{"not": S}, {"not": T}]}
 *
 * The ones within are met in their turn. Types are taken away on the spot; texts stay with the `not` and are
 * kept away from by who writes strings. The opposite of what only counts or compares whole values
 * (uniqueItems, additionalProperties, an object in enum) cannot be written down: such a member is opaque, and
 * only listed values can be tried on it.
 */

enum { MAX_MADE_BYTES = 1 << 20, MAX_BRANCHES = 6 };
static const double MAX_EXACT = 9007199254740992; /* 2^53 */

/* The keyword of a `not` if there is but one that asserts anything. */
static const struct json *only_keyword(struct schema *s, const struct json *negated)
{
    const struct json *only = NULL;
    for (const struct json *value = json_first(negated); value; value = json_next(value)) {
        s->work++;
        if (!schema_keyword_asserts(json_key(value))) continue;
        if (only) return NULL;
        only = value;
    }
    return only;
}

const struct json *schema_excluded(struct schema *s, const struct json *schema, const char *keyword)
{
    const struct json *only = only_keyword(s, schema_get(s, schema, "not"));
    return only && strcmp(json_key(only), keyword) == 0 ? only : NULL;
}

static void not_write(struct buf *out, const struct json *schema)
{
    buf_text(out, "{\"not\":");
    json_write_tree(out, schema);
    buf_text(out, "}");
}

const struct json *schema_negation(struct schema *s, const struct json *origin, const char *keyword,
                                   const struct json *schema)
{
    struct buf text;
    buf_init(&text, MAX_MADE_BYTES);
    not_write(&text, schema);
    const struct json *made = schema_make(s, origin, keyword, &text);
    buf_free(&text);
    return made;
}

/* --- The opposite of a keyword, as alternatives: each with a comma before it --- */

struct negating {
    struct schema *s;
    const struct json *schema; /* in which the keyword stands */
    struct buf *out;
};

static const struct json *beside(const struct negating *it, const char *keyword)
{
    return schema_get(it->s, it->schema, keyword);
}

static void write_not(const struct negating *it, const struct json *schema)
{
    not_write(it->out, schema);
}

static void write_bound(const struct negating *it, const char *type, const char *keyword, int64_t value)
{
    buf_printf(it->out, ",{\"type\":\"%s\",\"%s\":%lld}", type, keyword, (long long)value);
}

/* {"type":"object","required":[NAME],"properties":{OTHER:...: what follows ends it with }}. */
static void write_member(const struct negating *it, const char *required, const char *name)
{
    buf_text(it->out, ",{\"type\":\"object\"");
    if (required) {
        buf_text(it->out, ",\"required\":[");
        json_write_text(it->out, required);
        buf_text(it->out, "]");
    }
    buf_text(it->out, ",\"properties\":{");
    json_write_text(it->out, name);
    buf_text(it->out, ":");
}

/* What octavo takes for a format is less than what others may, so its opposite would be more. */
static bool negate_format(const struct negating *it, const struct json *value)
{
    bool refused = false;
    (void)it;
    return !schema_format_pattern(json_string(value, NULL), &refused) && !refused; /* else it never fails */
}

/* {"not": it} alone, for keywords that `not` understands by themselves. */
static bool negate_alone(const struct negating *it, const struct json *value)
{
    buf_text(it->out, ",{\"not\":{");
    json_write_text(it->out, json_key(value));
    buf_text(it->out, ":");
    json_write_tree(it->out, value);
    buf_text(it->out, "}}");
    return true;
}

static bool negate_number(const struct negating *it, const struct json *value)
{
    static const char *const opposites[][2] = {{"minimum", "exclusiveMaximum"},
                                               {"maximum", "exclusiveMinimum"},
                                               {"exclusiveMinimum", "maximum"},
                                               {"exclusiveMaximum", "minimum"}};
    for (size_t i = 0; i < sizeof opposites / sizeof *opposites; i++) {
        if (strcmp(json_key(value), opposites[i][0]) != 0) continue;
        buf_printf(it->out, ",{\"type\":\"number\",\"%s\":", opposites[i][1]);
        json_write_tree(it->out, value);
        buf_text(it->out, "}");
        return true;
    }
    if (json_number(value) != 1) return false; /* multipleOf */
    buf_text(it->out, ",{\"type\":\"number\",\"not\":{\"type\":\"integer\"}}");
    return true;
}

static bool negate_count(const struct negating *it, const struct json *value)
{
    static const struct {
        const char *keyword, *type, *opposite;
        int step;
    } opposites[] = {{"minLength", "string", "maxLength", -1},
                     {"maxLength", "string", "minLength", 1},
                     {"minItems", "array", "maxItems", -1},
                     {"maxItems", "array", "minItems", 1},
                     {"minProperties", "object", "maxProperties", -1},
                     {"maxProperties", "object", "minProperties", 1}};
    int64_t count = json_int64(value);
    for (size_t i = 0; i < sizeof opposites / sizeof *opposites; i++) {
        if (strcmp(json_key(value), opposites[i].keyword) != 0) continue;
        if (count == INT64_MAX || (count == 0 && opposites[i].step < 0)) continue; /* it never fails */
        write_bound(it, opposites[i].type, opposites[i].opposite, count + opposites[i].step);
    }
    return true;
}

static bool negate_members(const struct negating *it, const struct json *value)
{
    bool names = json_type(value) == JSON_ARRAY; /* required; else properties */
    for (const struct json *member = json_first(value); member; member = json_next(member)) {
        write_member(it, names ? NULL : json_key(member),
                     names ? json_string(member, NULL) : json_key(member));
        if (names)
            buf_text(it->out, "false");
        else
            write_not(it, member);
        buf_text(it->out, "}}");
    }
    return true;
}

/* dependentRequired, dependentSchemas. */
static bool negate_dependents(const struct negating *it, const struct json *value)
{
    for (const struct json *dependent = json_first(value); dependent; dependent = json_next(dependent)) {
        for (const struct json *name = json_type(dependent) == JSON_ARRAY ? json_first(dependent) : NULL;
             name; name = json_next(name)) {
            if (strcmp(json_string(name, NULL), json_key(dependent)) == 0) continue;
            write_member(it, json_key(dependent), json_string(name, NULL));
            buf_text(it->out, "false}}");
        }
        if (json_type(dependent) == JSON_ARRAY) continue;
        write_member(it, json_key(dependent), json_key(dependent));
        buf_text(it->out, "true},\"not\":");
        json_write_tree(it->out, dependent);
        buf_text(it->out, "}");
    }
    return true;
}

static bool negate_prefix(const struct negating *it, const struct json *value)
{
    int i = 0;
    for (const struct json *element = json_first(value); element; element = json_next(element), i++) {
        buf_printf(it->out, ",{\"type\":\"array\",\"minItems\":%d,\"prefixItems\":[", i + 1);
        for (int before = 0; before < i; before++) buf_text(it->out, "true,");
        write_not(it, element);
        buf_text(it->out, "]}");
        if (!schema_work(it->s, i + 1)) return false;
    }
    return true;
}

static bool negate_items(const struct negating *it, const struct json *value)
{
    const struct json *prefix = beside(it, "prefixItems");
    if (json_type(value) == JSON_BOOL) {
        if (!json_bool(value)) write_bound(it, "array", "minItems", (int64_t)json_length(prefix) + 1);
        return true;
    }
    if (prefix) return false;
    buf_text(it->out, ",{\"type\":\"array\",\"contains\":");
    write_not(it, value);
    buf_text(it->out, "}");
    return true;
}

static bool negate_contains(const struct negating *it, const struct json *value)
{
    if (beside(it, "minContains") || beside(it, "maxContains")) return false;
    buf_text(it->out, ",{\"type\":\"array\",\"items\":");
    write_not(it, value);
    buf_text(it->out, "}");
    return true;
}

/* None of the branches holds. */
static void write_none(const struct negating *it, const struct json *branches)
{
    buf_text(it->out, ",{\"allOf\":[");
    for (const struct json *branch = json_first(branches); branch; branch = json_next(branch)) {
        write_not(it, branch);
        if (json_next(branch)) buf_text(it->out, ",");
    }
    buf_text(it->out, "]}");
}

static bool negate_branches(const struct negating *it, const struct json *value)
{
    if (strcmp(json_key(value), "allOf") == 0) {
        for (const struct json *branch = json_first(value); branch; branch = json_next(branch)) {
            buf_text(it->out, ",");
            write_not(it, branch);
        }
        return true;
    }
    write_none(it, value);
    if (strcmp(json_key(value), "anyOf") == 0) return true;
    if (json_length(value) > MAX_BRANCHES) return false; /* oneOf: or two hold */
    for (const struct json *a = json_first(value); a; a = json_next(a))
        for (const struct json *b = json_next(a); b; b = json_next(b)) {
            buf_text(it->out, ",{\"allOf\":[");
            json_write_tree(it->out, a);
            buf_text(it->out, ",");
            json_write_tree(it->out, b);
            buf_text(it->out, "]}");
        }
    return true;
}

static bool negate_condition(const struct negating *it, const struct json *value)
{
    const struct json *branches[] = {beside(it, "then"), beside(it, "else")};
    for (int i = 0; i < 2; i++) {
        if (!branches[i]) continue;
        buf_text(it->out, ",{\"allOf\":[");
        if (i == 0)
            json_write_tree(it->out, value);
        else
            write_not(it, value);
        buf_text(it->out, ",");
        write_not(it, branches[i]);
        buf_text(it->out, "]}");
    }
    return true;
}

static bool negate_reference(const struct negating *it, const struct json *value)
{
    const struct json *target = schema_ref_target(it->s, it->schema, value);
    if (!target) return false;
    buf_text(it->out, ",");
    write_not(it, target);
    return true;
}

static bool negate_not(const struct negating *it, const struct json *value)
{
    buf_text(it->out, ",");
    json_write_tree(it->out, value);
    return true;
}

/* Keywords that never fail where they are true, {} or not there for what they go with. */
static bool negate_nothing(const struct negating *it, const struct json *value)
{
    const char *name = json_key(value);
    (void)it;
    if (strcmp(name, "then") == 0 || strcmp(name, "else") == 0 || strcmp(name, "minContains") == 0 ||
        strcmp(name, "maxContains") == 0)
        return true; /* told by `if` and `contains` */
    if (strcmp(name, "uniqueItems") == 0) return !json_bool(value);
    return json_type(value) == JSON_BOOL ? json_bool(value) : !json_first(value);
}

static bool keyword_negate(const struct negating *it, const struct json *value)
{
    static const struct {
        const char *name;
        bool (*negate)(const struct negating *it, const struct json *value);
    } ways[] = {
        {"type", negate_alone},
        {"const", negate_alone},
        {"enum", negate_alone},
        {"pattern", negate_alone},
        {"format", negate_format},
        {"minimum", negate_number},
        {"maximum", negate_number},
        {"exclusiveMinimum", negate_number},
        {"exclusiveMaximum", negate_number},
        {"multipleOf", negate_number},
        {"minLength", negate_count},
        {"maxLength", negate_count},
        {"minItems", negate_count},
        {"maxItems", negate_count},
        {"minProperties", negate_count},
        {"maxProperties", negate_count},
        {"required", negate_members},
        {"properties", negate_members},
        {"dependentRequired", negate_dependents},
        {"dependentSchemas", negate_dependents},
        {"prefixItems", negate_prefix},
        {"items", negate_items},
        {"contains", negate_contains},
        {"allOf", negate_branches},
        {"anyOf", negate_branches},
        {"oneOf", negate_branches},
        {"if", negate_condition},
        {"$ref", negate_reference},
        {"not", negate_not},
    };
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++)
        if (strcmp(json_key(value), ways[i].name) == 0) return ways[i].negate(it, value);
    return negate_nothing(it, value);
}

/* --- `not` --- */

static bool opaque_set(struct schema_parts *parts, const struct schema_lineage *lineage)
{
    parts->opaque = lineage->schema;
    return true;
}

static bool alternatives_add(struct schema *s, struct schema_parts *parts,
                             const struct schema_lineage *lineage, struct buf *text)
{
    buf_text(text, "]}");
    const struct json *made = schema_make(s, lineage->schema, "not", text);
    struct schema_lineage *silent = schema_alloc(s, 1, sizeof *silent);
    if (!made || !silent) return false;
    /* What a `not` looks at, it does not evaluate. */
    *silent = (struct schema_lineage){lineage->schema, lineage, true};
    return schema_parts_add(s, parts, made, silent);
}

/* The opposite of several keywords, or of one that is not told otherwise. */
static bool keywords_negate(struct schema *s, struct schema_parts *parts,
                            const struct schema_lineage *lineage, const struct json *negated)
{
    struct buf text, all;
    struct negating it = {s, negated, &text};
    bool told = true;
    buf_init(&text, MAX_MADE_BYTES);
    for (const struct json *value = json_first(negated); value && told && !s->err; value = json_next(value))
        if (schema_keyword_asserts(json_key(value))) told = keyword_negate(&it, value);
    if (!told || s->err) {
        buf_free(&text);
        return !s->err && opaque_set(parts, lineage);
    }
    if (text.length == 0 && !text.failed) {
        parts->types = 0; /* nothing of it can fail */
        return true;
    }
    buf_init(&all, MAX_MADE_BYTES);
    buf_text(&all, "{\"anyOf\":[");
    if (!text.failed) buf_text(&all, text.data + 1);
    all.failed |= text.failed;
    bool added = alternatives_add(s, parts, lineage, &all);
    buf_free(&text);
    buf_free(&all);
    return added;
}

static int number_compare(const void *a, const void *b)
{
    double x = json_number(*(const struct json *const *)a), y = json_number(*(const struct json *const *)b);
    return (x > y) - (x < y);
}

/* Numbers between those of a list, below the first and above the last; any other type. */
static bool numbers_exclude(struct schema *s, struct schema_parts *parts,
                            const struct schema_lineage *lineage, const struct json *const *numbers, int n)
{
    struct buf text;
    buf_init(&text, MAX_MADE_BYTES);
    buf_text(&text, "{\"anyOf\":[{\"exclusiveMaximum\":");
    for (int i = 0; i < n; i++) {
        json_write_tree(&text, numbers[i]);
        buf_text(&text, "},{\"type\":\"number\",\"exclusiveMinimum\":");
        json_write_tree(&text, numbers[i]);
        if (i + 1 < n) buf_text(&text, ",\"exclusiveMaximum\":");
    }
    buf_text(&text, "}");
    bool added = alternatives_add(s, parts, lineage, &text);
    buf_free(&text);
    return added;
}

/* `not` of const or enum. Strings and booleans stay away from them where they are written, and the types of
   which nothing is left go; arrays and objects are refused by who would write them. */
static bool values_exclude(struct schema *s, struct schema_parts *parts, const struct schema_lineage *lineage,
                           const struct json *only)
{
    bool listed = strcmp(json_key(only), "enum") == 0, has[2] = {false, false};
    size_t length = listed ? json_length(only) : 1;
    const struct json **numbers = schema_alloc(s, length, sizeof *numbers), *value = only;
    int n = 0;
    if (!numbers || !schema_work(s, (int64_t)length)) return false;
    for (value = listed ? json_first(only) : only; value; value = listed ? json_next(value) : NULL) {
        if (json_type(value) == JSON_NULL) parts->types &= ~(unsigned)SCHEMA_NULL;
        if (json_type(value) == JSON_BOOL) has[json_bool(value)] = true;
        if (json_type(value) == JSON_NUMBER) numbers[n++] = value;
    }
    if (has[0] && has[1]) parts->types &= ~(unsigned)SCHEMA_BOOL;
    if (n == 0 || !(parts->types & SCHEMA_NUMBER)) return true;
    qsort(numbers, (size_t)n, sizeof *numbers, number_compare);
    int distinct = 0;
    for (int i = 0; i < n; i++) {
        double number = json_number(numbers[i]);
        if (number >= MAX_EXACT || number <= -MAX_EXACT) return opaque_set(parts, lineage);
        if (distinct == 0 || json_number(numbers[distinct - 1]) < number) numbers[distinct++] = numbers[i];
    }
    return numbers_exclude(s, parts, lineage, numbers, distinct);
}

bool schema_negate(struct schema *s, struct schema_parts *parts, const struct schema_lineage *lineage)
{
    const struct json *negated = schema_get(s, lineage->schema, "not");
    if (!negated) return true;
    if (json_type(negated) == JSON_BOOL) {
        if (json_bool(negated)) parts->types = 0;
        return true;
    }
    if (!schema_check(s, negated)) return false;
    const struct json *only = only_keyword(s, negated);
    const char *keyword = only ? json_key(only) : "";
    if (strcmp(keyword, "type") == 0) {
        unsigned types = schema_types(negated);
        parts->types &= ~types;
        return true;
    }
    if (strcmp(keyword, "const") == 0 || strcmp(keyword, "enum") == 0)
        return values_exclude(s, parts, lineage, only);
    if (strcmp(keyword, "pattern") == 0) { /* who writes the string keeps away from what matches */
        parts->types &= SCHEMA_STRING;
        return true;
    }
    return keywords_negate(s, parts, lineage, negated);
}
