#include "model/schema_internal.h"

#include "config/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

/*
 * From a JSON Schema to the grammar of its instances.
 *
 * What an instance must satisfy is a set of schemas, for allOf, $ref and members named in several places all
 * ask at once. Each such set is a goal and gets one rule, whose meaning comes from a queue: so a schema that
 * refers to itself ends, and no nesting of the client's deepens the stack of C.
 *
 *   schema_parts    takes a goal apart: the schema objects that hold in any case (members), and anyOf, oneOf
 *                   and the like, of which branches hold (choices)
 *   schema_combine  makes each choice in each way; without choices left, lists values (enum, const) or
 *                   offers each type that is left
 *   schema_object, schema_array, schema_string, schema_number  write one type, and meet new goals below
 *
 * A context-free grammar has no "and" and no "not". Within strings, keys and numbers automata do that
 * (automaton.h); elsewhere a schema that needs it is refused. The texts are a subset of what the schema
 * accepts: numbers have bounded digits, members the schema's order, white space a bounded amount.
 */

enum { KEPT_MAX_BYTES = 48 << 20, SCRATCH_MAX_BYTES = 48 << 20, MAX_WORK = 100000000, MAX_GOALS = 20000 };

/* --- Errors and limits --- */

int schema_fail(struct schema *s, enum err err, const struct json *at, const char *keyword,
                const char *format, ...)
{
    if (s->err) return -1;
    char pointer[160], reason[240];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(reason, sizeof reason, format, arguments);
    va_end(arguments);
    at = schema_ref_written(s, at, &keyword);
    schema_ref_pointer(s, at, pointer, sizeof pointer);
    s->err = err_set(s->info, err, "JSON schema, %s%s%s: %s", pointer, keyword ? "/" : "",
                     keyword ? keyword : "", reason);
    return -1;
}

int schema_exhausted(struct schema *s, const struct json *at, const char *keyword)
{
    return schema_fail(s, ERR_LIMIT, at, keyword, "too large to compile");
}

/* The clock costs as much as some hundred steps. */
static void time_check(struct schema *s)
{
    struct err_info info;
    s->work_timed = s->work;
    if (grammar_builder_check(s->builder, &info))
        schema_fail(s, ERR_LIMIT, s->root, NULL, "%s", info.message);
}

bool schema_work(struct schema *s, int64_t steps)
{
    s->work += steps;
    if (s->work - s->work_timed > 16384) time_check(s);
    if (s->work > MAX_WORK)
        schema_fail(s, ERR_LIMIT, s->root, NULL,
                    "too much work to compile (over %d steps): too many combinations of anyOf, oneOf and "
                    "allOf, or too many members",
                    MAX_WORK);
    return !s->err;
}

static void *arena_take(struct schema *s, struct arena *arena, size_t count, size_t size)
{
    void *memory = arena_alloc(arena, count, size);
    if (!memory) schema_exhausted(s, s->root, NULL);
    return memory;
}

void *schema_alloc(struct schema *s, size_t count, size_t size)
{
    return arena_take(s, s->scratch, count, size);
}

void *schema_keep(struct schema *s, size_t count, size_t size)
{
    return arena_take(s, s->arena, count, size);
}

const struct json *schema_get(struct schema *s, const struct json *schema, const char *key)
{
    for (const struct json *member = json_first(schema); member; member = json_next(member)) {
        s->work++;
        if (strcmp(json_key(member), key) == 0) return member;
    }
    return NULL;
}

const struct json *schema_make(struct schema *s, const struct json *origin, const char *keyword,
                               const struct buf *text)
{
    uint64_t hash = text->failed ? 0 : XXH3_64bits(text->data, text->length);
    for (struct schema_made *known = s->made; known && !text->failed; known = known->next) {
        s->work++;
        if (known->hash == hash && strcmp(known->text, text->data) == 0) return known->tree;
    }
    struct schema_made *made = schema_keep(s, 1, sizeof *made);
    char *copy = made && !text->failed ? arena_copy(s->arena, text->data, text->length) : NULL;
    if (!copy || json_parse(copy, text->length, &json_limits_default, &made->tree, NULL)) {
        schema_exhausted(s, origin, NULL);
        return NULL;
    }
    made->text = copy;
    made->hash = hash;
    made->origin = origin;
    made->keyword = keyword;
    made->next = s->made;
    s->made = made;
    return made->tree;
}

/* --- Goals --- */

static int address_compare(const void *a, const void *b)
{
    uintptr_t first = (uintptr_t) * (const struct json *const *)a,
              second = (uintptr_t) * (const struct json *const *)b;
    return (first > second) - (first < second);
}

static struct schema_goal *goal_create(struct schema *s, const struct json **schemas, int n)
{
    if (s->n_goals == MAX_GOALS) {
        schema_fail(s, ERR_LIMIT, s->root, NULL, "more than %d different sets of schemas hold somewhere",
                    MAX_GOALS);
        return NULL;
    }
    struct schema_goal *goal = schema_keep(s, 1, sizeof *goal);
    if (!goal) return NULL;
    if (s->n_goals == s->queue_capacity) {
        int capacity = s->queue_capacity ? s->queue_capacity * 2 : 64;
        struct schema_goal **queue = schema_keep(s, (size_t)capacity, sizeof *queue);
        if (!queue) return NULL;
        if (s->n_goals) memcpy(queue, s->queue, (size_t)s->n_goals * sizeof *queue);
        s->queue = queue;
        s->queue_capacity = capacity;
    }
    *goal = (struct schema_goal){.schemas = schemas, .n = n, .rule = grammar_rule(s->builder, "schema")};
    s->queue[s->n_goals++] = goal;
    return goal;
}

int schema_goal(struct schema *s, const struct json *const *schemas, int n)
{
    const struct json **sorted = schema_keep(s, (size_t)n + 1, sizeof *sorted);
    if (!sorted || !schema_work(s, n + 1)) return -1;
    if (n) memcpy(sorted, schemas, (size_t)n * sizeof *sorted);
    qsort(sorted, (size_t)n, sizeof *sorted, address_compare);
    int distinct = 0;
    uint64_t hash = 0;
    for (int i = 0; i < n; i++) {
        if (distinct && sorted[distinct - 1] == sorted[i]) continue;
        sorted[distinct++] = sorted[i];
        hash = (hash ^ (uintptr_t)sorted[i]) * 0x9E3779B97F4A7C15u;
    }
    struct schema_goal **slot = &s->goals[(hash >> 40) % SCHEMA_GOAL_SLOTS];
    for (struct schema_goal *goal = *slot; goal; goal = goal->same_slot)
        if (goal->n == distinct && memcmp(goal->schemas, sorted, (size_t)distinct * sizeof *sorted) == 0)
            return goal->rule;
    struct schema_goal *goal = goal_create(s, sorted, distinct);
    if (!goal) return -1;
    goal->same_slot = *slot;
    *slot = goal;
    return goal->rule;
}

bool schema_scratch_begin(struct schema *s, struct arena **outer)
{
    struct arena *fresh = arena_create(SCRATCH_MAX_BYTES);
    if (!fresh) return schema_exhausted(s, s->root, NULL) >= 0;
    *outer = s->scratch;
    s->scratch = fresh;
    return true;
}

void schema_scratch_end(struct schema *s, struct arena *outer)
{
    arena_free(s->scratch);
    s->scratch = outer;
}

static int goal_node(struct schema *s, const struct schema_goal *goal)
{
    struct schema_parts parts = {.types = SCHEMA_ALL};
    struct arena *outer = NULL;
    if (!schema_scratch_begin(s, &outer)) return -1;
    bool added = true;
    for (int i = 0; i < goal->n && added; i++) added = schema_parts_add(s, &parts, goal->schemas[i], NULL);
    int node = added ? schema_combine(s, &parts) : -1;
    schema_scratch_end(s, outer);
    return node;
}

/* --- Nodes in common --- */

int schema_literal(struct schema *s, const char *text)
{
    return grammar_literal(s->builder, text, strlen(text));
}

int schema_sequence(struct schema *s, int a, int b, int c)
{
    int nodes[3], n = 0;
    if (a != -2) nodes[n++] = a;
    if (b != -2) nodes[n++] = b;
    if (c != -2) nodes[n++] = c;
    return grammar_sequence(s->builder, nodes, n);
}

/* A rule with this meaning: for what is used in many places. */
static int shared_rule(struct schema *s, const char *name, int node)
{
    int rule = grammar_rule(s->builder, name);
    if (rule >= 0) grammar_define(s->builder, rule, node);
    return rule;
}

int schema_gap(struct schema *s)
{
    if (s->gap >= 0) return s->gap;
    int space = schema_literal(s, " ");
    int line = schema_sequence(s, schema_literal(s, "\n"), grammar_repeat(s->builder, space, 0, 32), -2);
    int choices[] = {schema_literal(s, ""), schema_literal(s, " "), line};
    return s->gap = shared_rule(s, "gap", grammar_choice(s->builder, choices, 3));
}

int schema_comma(struct schema *s)
{
    if (s->comma >= 0) return s->comma;
    return s->comma = schema_sequence(s, schema_literal(s, ","), schema_gap(s), -2);
}

int schema_colon(struct schema *s)
{
    if (s->colon >= 0) return s->colon;
    int choices[] = {schema_literal(s, ":"), schema_literal(s, ": ")};
    return s->colon = grammar_choice(s->builder, choices, 2);
}

/* --- The entry --- */

enum err grammar_schema(struct grammar_builder *builder, const struct json *schema, int *out,
                        struct err_info *info)
{
    static const char any_object[] = "{\"type\":\"object\"}";
    struct json *fallback = NULL;
    struct err_info mine = {.code = ERR_OK};
    enum err err = ERR_OK;
    if (!schema) {
        err = json_parse(any_object, sizeof any_object - 1, &json_limits_default, &fallback, info);
        if (err) return err;
        schema = fallback;
    }
    struct schema s = {.builder = builder, .root = schema, .info = info ? info : &mine};
    s.gap = s.colon = s.comma = s.string = s.character = s.number = s.integer = -1;
    s.arena = arena_create(KEPT_MAX_BYTES);
    if (!s.arena) {
        err = err_set(info, ERR_MEMORY, "not enough memory to compile a JSON schema");
        goto out;
    }
    int root = schema_goal(&s, &schema, 1);
    for (; s.done < s.n_goals && !s.err; s.done++) {
        int node = goal_node(&s, s.queue[s.done]);
        /* Without an error of ours it is a limit of the builder's, which grammar_build will report. */
        if (node < 0 || s.queue[s.done]->rule < 0) break;
        grammar_define(builder, s.queue[s.done]->rule, node);
    }
    err = s.err;
    if (!err) *out = s.done == s.n_goals ? root : -1;
out:
    for (struct schema_made *made = s.made; made; made = made->next) json_free(made->tree);
    arena_free(s.arena);
    json_free(fallback);
    return err;
}
