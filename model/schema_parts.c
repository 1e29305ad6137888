#include "model/schema_internal.h"

#include "config/buf.h"

#include <string.h>

/*
 * Taking a schema apart: what holds in any case, and what is a choice. $ref and allOf are followed on the
 * spot; anyOf, oneOf, if and dependentRequired become choices; `not` becomes what it says (schema_negate.c).
 */

enum { MAX_LINEAGE = 200, MAX_MADE_BYTES = 1 << 20 };

bool schema_parts_copy(struct schema *s, struct schema_parts *to, const struct schema_parts *from)
{
    *to = *from;
    to->capacity = from->n + 4;
    to->choices_capacity = from->n_choices + 4;
    to->members = schema_alloc(s, (size_t)to->capacity, sizeof *to->members);
    to->choices = schema_alloc(s, (size_t)to->choices_capacity, sizeof *to->choices);
    if (!to->members || !to->choices || !schema_work(s, from->n + from->n_choices + 1)) return false;
    if (from->n) memcpy(to->members, from->members, (size_t)from->n * sizeof *to->members);
    if (from->n_choices) memcpy(to->choices, from->choices, (size_t)from->n_choices * sizeof *to->choices);
    return true;
}

static bool member_add(struct schema *s, struct schema_parts *parts, struct schema_member member)
{
    if (parts->n == parts->capacity) {
        int capacity = parts->capacity ? parts->capacity * 2 : 8;
        struct schema_member *members = schema_alloc(s, (size_t)capacity, sizeof *members);
        if (!members) return false;
        if (parts->n) memcpy(members, parts->members, (size_t)parts->n * sizeof *members);
        parts->members = members;
        parts->capacity = capacity;
    }
    parts->members[parts->n++] = member;
    return true;
}

static bool choice_add(struct schema *s, struct schema_parts *parts, struct schema_choice choice)
{
    if (parts->n_choices == parts->choices_capacity) {
        int capacity = parts->choices_capacity ? parts->choices_capacity * 2 : 4;
        struct schema_choice *choices = schema_alloc(s, (size_t)capacity, sizeof *choices);
        if (!choices) return false;
        if (parts->n_choices) memcpy(choices, parts->choices, (size_t)parts->n_choices * sizeof *choices);
        parts->choices = choices;
        parts->choices_capacity = capacity;
    }
    parts->choices[parts->n_choices++] = choice;
    return true;
}

/* --- Keywords that include other schemas --- */

static bool branches_add(struct schema *s, struct schema_parts *parts, const char *keyword,
                         const struct schema_lineage *lineage)
{
    const struct json *list = schema_get(s, lineage->schema, keyword);
    if (!list) return true;
    size_t n = json_length(list);
    if (n == 1) return schema_parts_add(s, parts, json_first(list), lineage);
    const struct json **branches = schema_alloc(s, n, sizeof *branches);
    if (!branches || !schema_work(s, (int64_t)n)) return false;
    int i = 0;
    for (const struct json *branch = json_first(list); branch; branch = json_next(branch))
        branches[i++] = branch;
    return choice_add(s, parts,
                      (struct schema_choice){.keyword = keyword,
                                             .schema = lineage->schema,
                                             .branches = branches,
                                             .n = i,
                                             .exactly_one = strcmp(keyword, "oneOf") == 0,
                                             .lineage = lineage});
}

/* {"properties":{NAME:false}}: an object without the member. */
static const struct json *absence_make(struct schema *s, const struct json *origin, const char *name)
{
    struct buf text;
    buf_init(&text, MAX_MADE_BYTES);
    buf_text(&text, "{\"properties\":{");
    json_write_text(&text, name);
    buf_text(&text, ":false}}");
    const struct json *made = schema_make(s, origin, "dependentRequired", &text);
    buf_free(&text);
    return made;
}

/* {"required":[NAME and NAMES]}; names may be NULL. */
static const struct json *presence_make(struct schema *s, const struct json *origin, const char *first,
                                        const struct json *names)
{
    struct buf text;
    buf_init(&text, MAX_MADE_BYTES);
    buf_text(&text, "{\"required\":[");
    json_write_text(&text, first);
    for (const struct json *name = json_first(names); name; name = json_next(name)) {
        buf_text(&text, ",");
        json_write_text(&text, json_string(name, NULL));
    }
    buf_text(&text, "]}");
    const struct json *made = schema_make(s, origin, "dependentRequired", &text);
    buf_free(&text);
    return made;
}

/* Either the member is absent, or it is there and what depends on it holds. */
static bool dependents_add(struct schema *s, struct schema_parts *parts, const char *keyword,
                           const struct schema_lineage *lineage)
{
    const struct json *map = schema_get(s, lineage->schema, keyword);
    if (!map) return true;
    for (const struct json *dependent = json_first(map); dependent; dependent = json_next(dependent)) {
        const struct json **branches = schema_alloc(s, 2, sizeof *branches);
        const struct json **with = schema_alloc(s, 2, sizeof *with);
        if (!branches || !with) return false;
        bool names = json_type(dependent) == JSON_ARRAY;
        const struct json *present =
            presence_make(s, lineage->schema, json_key(dependent), names ? dependent : NULL);
        branches[0] = absence_make(s, lineage->schema, json_key(dependent));
        branches[1] = names ? present : dependent;
        with[1] = present;
        if (!branches[0] || !present ||
            !choice_add(s, parts,
                        (struct schema_choice){.keyword = keyword,
                                               .schema = lineage->schema,
                                               .branches = branches,
                                               .n = 2,
                                               .with = with,
                                               .lineage = lineage}))
            return false;
    }
    return true;
}

/* --- if --- */

/* `if` holds, and `then`, or its opposite, and `else`. Without if those say nothing. */
static bool condition_add(struct schema *s, struct schema_parts *parts, const struct schema_lineage *lineage)
{
    const struct json *condition = schema_get(s, lineage->schema, "if");
    const struct json *then[] = {schema_get(s, lineage->schema, "else"),
                                 schema_get(s, lineage->schema, "then")};
    if (!condition || (!then[0] && !then[1])) return true;
    bool empty = json_type(condition) == JSON_OBJECT && !json_first(condition);
    if (json_type(condition) == JSON_BOOL || empty) {
        const struct json *branch = then[empty || json_bool(condition)];
        return !branch || schema_parts_add(s, parts, branch, lineage);
    }
    const struct json **branches = schema_alloc(s, 2, sizeof *branches);
    const struct json **with = schema_alloc(s, 2, sizeof *with);
    if (!branches || !with) return false;
    branches[0] = schema_negation(s, lineage->schema, "if", condition);
    branches[1] = condition;
    with[0] = then[0];
    with[1] = then[1];
    return branches[0] && choice_add(s, parts,
                                     (struct schema_choice){.keyword = "if",
                                                            .schema = lineage->schema,
                                                            .branches = branches,
                                                            .n = 2,
                                                            .with = with,
                                                            .lineage = lineage});
}

/* --- Adding --- */

static bool parts_have(const struct schema_parts *parts, const struct json *schema)
{
    for (int i = 0; i < parts->n; i++)
        if (parts->members[i].schema == schema) return true;
    return false;
}

static bool lineage_fault(struct schema *s, const struct json *schema, const struct schema_lineage *lineage)
{
    int depth = 0;
    for (; lineage; lineage = lineage->parent) {
        if (lineage->schema == schema) {
            schema_fail(s, ERR_INVALID, schema, NULL,
                        "refers to itself without going into an object or array: it derives nothing");
            return true;
        }
        if (++depth == MAX_LINEAGE) {
            schema_fail(s, ERR_LIMIT, schema, NULL, "more than %d schemas include each other in place",
                        MAX_LINEAGE);
            return true;
        }
    }
    return false;
}

static bool members_add(struct schema *s, struct schema_parts *parts, const struct schema_lineage *lineage)
{
    const struct json *schema = lineage->schema, *ref = schema_get(s, schema, "$ref");
    if (ref) {
        const struct json *target = schema_ref_target(s, schema, ref);
        if (!target || !schema_parts_add(s, parts, target, lineage)) return false;
    }
    const struct json *all = schema_get(s, schema, "allOf");
    if (all)
        for (const struct json *one = json_first(all); one; one = json_next(one))
            if (!schema_parts_add(s, parts, one, lineage)) return false;
    return branches_add(s, parts, "anyOf", lineage) && branches_add(s, parts, "oneOf", lineage) &&
           dependents_add(s, parts, "dependentRequired", lineage) &&
           dependents_add(s, parts, "dependentSchemas", lineage) && schema_negate(s, parts, lineage) &&
           condition_add(s, parts, lineage);
}

bool schema_parts_add(struct schema *s, struct schema_parts *parts, const struct json *schema,
                      const struct schema_lineage *lineage)
{
    if (!schema_work(s, 1 + parts->n)) return false;
    if (json_type(schema) == JSON_BOOL) {
        if (!json_bool(schema)) parts->types = 0;
        return true;
    }
    if (json_type(schema) != JSON_OBJECT) {
        schema_fail(s, ERR_INVALID, schema, NULL, "must be a schema: an object, true or false, not %s",
                    json_type_name(json_type(schema)));
        return false;
    }
    if (lineage_fault(s, schema, lineage)) return false;
    if (parts_have(parts, schema)) return true;
    if (!schema_check(s, schema)) return false;
    if (schema != s->root && schema_get(s, schema, "$id")) {
        schema_fail(s, ERR_UNSUPPORTED, schema, "$id",
                    "unsupported but at the root: it would change what references below it mean");
        return false;
    }
    struct schema_lineage *own = schema_alloc(s, 1, sizeof *own);
    if (!own) return false;
    *own = (struct schema_lineage){schema, lineage, false};
    parts->types &= schema_types(schema);
    return member_add(s, parts, (struct schema_member){schema, own}) && members_add(s, parts, own);
}

bool schema_parts_choose(struct schema *s, const struct schema_parts *parts,
                         const struct schema_choice *choice, int branch, struct schema_parts *out)
{
    if (!schema_parts_copy(s, out, parts) ||
        !schema_parts_add(s, out, choice->branches[branch], choice->lineage))
        return false;
    return !choice->with || !choice->with[branch] ||
           schema_parts_add(s, out, choice->with[branch], choice->lineage);
}

bool schema_member_is_under(const struct schema_member *member, const struct json *schema)
{
    for (const struct schema_lineage *at = member->lineage; at && !at->is_silent; at = at->parent)
        if (at->schema == schema) return true;
    return false;
}

const struct json *schema_parts_finite(struct schema *s, const struct schema_parts *parts)
{
    static const char *const keywords[] = {"const", "enum"};
    for (int k = 0; k < 2; k++)
        for (int i = 0; i < parts->n; i++)
            if (schema_get(s, parts->members[i].schema, keywords[k])) return parts->members[i].schema;
    return NULL;
}
