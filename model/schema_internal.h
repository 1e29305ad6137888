#ifndef MODEL_SCHEMA_INTERNAL_H
#define MODEL_SCHEMA_INTERNAL_H

#include "config/arena.h"
#include "config/json.h"
#include "model/automaton.h"
#include "model/grammar_text.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * What the files of grammar_schema share. schema.c tells the plan.
 *
 * Errors are sticky: whoever meets one calls schema_fail, which keeps the first; the functions that return a
 * node then return -1, those that return bool false, and callers go up without adding anything.
 */

/* The types of JSON as bits. A number is one of two: integers are numbers, too. */
enum {
    SCHEMA_NULL = 1,
    SCHEMA_BOOL = 2,
    SCHEMA_INTEGER = 4,
    SCHEMA_FRACTION = 8,
    SCHEMA_STRING = 16,
    SCHEMA_ARRAY = 32,
    SCHEMA_OBJECT = 64,
    SCHEMA_NUMBER = SCHEMA_INTEGER | SCHEMA_FRACTION,
    SCHEMA_ALL = 127,
};

/* How the text came to a schema: by which schemas, each inside the one before or referred to by it, without
   going down into an instance. */
struct schema_lineage {
    const struct json *schema;
    const struct schema_lineage *parent;
    bool is_silent; /* what comes by it evaluates no member and no element of those above */
};

/* A schema object that an instance must satisfy, but for its anyOf, oneOf and the like, which are choices. */
struct schema_member {
    const struct json *schema;
    const struct schema_lineage *lineage; /* of which it is the last */
};

/* One of the branches must hold as well. */
struct schema_choice {
    const char *keyword;
    const struct json *schema; /* where it stands */
    const struct json **branches;
    int n;
    bool exactly_one;
    const struct json **with; /* [n] holds together with the branch; NULL: nothing does */
    const struct schema_lineage *lineage;
};

/* All that one instance must satisfy, taken apart: a conjunction. Copied when a choice is made. Begins as
   {.types = SCHEMA_ALL}. */
struct schema_parts {
    int n, capacity, n_choices, choices_capacity;
    struct schema_member *members;
    struct schema_choice *choices;
    unsigned types;            /* 0: nothing satisfies it */
    const struct json *opaque; /* a member with a `not` that only listed values can be tried on; NULL: none */
};

/* A set of schemas that one instance must satisfy, and the rule that derives such instances. */
struct schema_goal {
    const struct json **schemas; /* sorted by address, without doubles */
    int n, rule;
    struct schema_goal *same_slot;
};

/* The values of a long enum, to be found by hash. */
struct schema_list {
    const struct json *values; /* the array */
    const struct json **slots; /* [n_slots] open addressing */
    size_t n_slots;
    struct schema_list *next;
};

enum { SCHEMA_GOAL_SLOTS = 1024, SCHEMA_CHECKED_SLOTS = 512 };

struct schema {
    struct grammar_builder *builder;
    struct arena *arena;   /* kept until the end */
    struct arena *scratch; /* of one goal, or less */
    const struct json *root;
    enum err err;
    struct err_info *info;
    int64_t work;       /* steps so far, against hostile schemas: schema_work */
    int64_t work_timed; /* of which, when the clock was last looked at */
    /* A oneOf is being taken apart: of members, schema_accepts leaves out what includes schemas in place, for
       those that hold are members themselves, and the others may come to this oneOf. */
    bool undecided;
    struct schema_goal *goals[SCHEMA_GOAL_SLOTS];
    struct schema_goal **queue; /* the goals in the order of their making; those from done on lack meaning */
    int n_goals, done, queue_capacity;
    struct schema_made *made;
    struct schema_regex *regexes;
    struct schema_list *lists;
    const struct json *checked[SCHEMA_CHECKED_SLOTS]; /* schemas that schema_check found right, by address */
    /* nodes in common, -1 until they are needed */
    int gap, colon, comma, string, character, number, integer;
};

/* A schema that octavo writes to say what a keyword means; freed with the compile. */
struct schema_made {
    struct json *tree;
    const char *text;
    uint64_t hash;
    const struct json *origin; /* the schema and keyword it stands for in messages */
    const char *keyword;
    struct schema_made *next;
};

/* --- schema.c --- */

/* Remembers an error of the keyword (NULL: of the schema) at a schema; the message begins with its JSON
   pointer. Returns -1. */
int schema_fail(struct schema *s, enum err err, const struct json *at, const char *keyword,
                const char *format, ...) __attribute__((format(printf, 5, 6)));
/* Out of memory or past a limit of ours; returns -1. */
int schema_exhausted(struct schema *s, const struct json *at, const char *keyword);
/* Counts steps; false once there are too many. */
bool schema_work(struct schema *s, int64_t steps);
/* The rule for instances that satisfy all of these schemas. */
int schema_goal(struct schema *s, const struct json *const *schemas, int n);
/* Bytes, zeroed, until the goal under way or the whole is done; schema_exhausted on failure. */
void *schema_keep(struct schema *s, size_t count, size_t size);
void *schema_alloc(struct schema *s, size_t count, size_t size);
/* Until the end, schema_alloc takes from memory of its own, which then goes: for what is done once for each
   of many combinations. False, after schema_fail: there is no end to be called. */
bool schema_scratch_begin(struct schema *s, struct arena **outer);
void schema_scratch_end(struct schema *s, struct arena *outer);
/* A keyword's value, or NULL. Counts the steps of looking. */
const struct json *schema_get(struct schema *s, const struct json *schema, const char *key);
/* Parses a schema of our own making, once for equal texts; NULL on failure. */
const struct json *schema_make(struct schema *s, const struct json *origin, const char *keyword,
                               const struct buf *text);

/* --- schema_keyword.c --- */

/* Every keyword of a schema object is one that octavo enforces or an annotation, and of the right shape. */
bool schema_check(struct schema *s, const struct json *schema);
/* Whether instances can fail a keyword; then, else and the like, which go with another, count. */
bool schema_keyword_asserts(const char *name);
/* The types that the keyword `type` names, SCHEMA_ALL without it. Checked before. */
unsigned schema_types(const struct json *schema);
unsigned schema_type_of(const struct json *value);
/* A keyword that counts (minLength, maxItems, ...), or otherwise. */
int64_t schema_count(struct schema *s, const struct json *schema, const char *keyword, int64_t otherwise);

/* --- schema_ref.c --- */

/* What $ref of a schema refers to. */
const struct json *schema_ref_target(struct schema *s, const struct json *schema, const struct json *ref);
/* "#/properties/a": the JSON pointer of a schema of the tree, in out. */
void schema_ref_pointer(const struct schema *s, const struct json *schema, char *out, size_t size);
/* Of a schema that octavo made, the one of the tree that it stands for, and the keyword; of others itself. */
const struct json *schema_ref_written(const struct schema *s, const struct json *schema,
                                      const char **keyword);

/* --- schema_parts.c --- */

bool schema_parts_copy(struct schema *s, struct schema_parts *to, const struct schema_parts *from);
/* Adds a schema and all that it includes in place. lineage: of the schema it stands in. */
bool schema_parts_add(struct schema *s, struct schema_parts *parts, const struct json *schema,
                      const struct schema_lineage *lineage);
/* parts and one branch of a choice. The choice itself is the caller's to take away. */
bool schema_parts_choose(struct schema *s, const struct schema_parts *parts,
                         const struct schema_choice *choice, int branch, struct schema_parts *out);
/* A member with const or enum; NULL: none. */
const struct json *schema_parts_finite(struct schema *s, const struct schema_parts *parts);
/* The member was included by the schema, in place, and evaluates for it. */
bool schema_member_is_under(const struct schema_member *member, const struct json *schema);

/* --- schema_negate.c --- */

/* Adds what `not` of the last of the lineage says, to parts that have that schema. */
bool schema_negate(struct schema *s, struct schema_parts *parts, const struct schema_lineage *lineage);
/* {"not": schema}; the keyword is for messages. NULL on failure. */
const struct json *schema_negation(struct schema *s, const struct json *origin, const char *keyword,
                                   const struct json *schema);
/* The value of the keyword in a schema's `not`, when nothing else is asked there; NULL: it is not so. */
const struct json *schema_excluded(struct schema *s, const struct json *schema, const char *keyword);

/* --- schema_combine.c --- */

/* The node of all that satisfies parts. */
int schema_combine(struct schema *s, const struct schema_parts *parts);
/* A value as JSON text. */
int schema_value(struct schema *s, const struct json *at, const struct json *value);

/* --- schema_disjoint.c --- */

/* True only when it is certain that no instance satisfies both. */
bool schema_disjoint(struct schema *s, const struct schema_parts *a, const struct schema_parts *b, int depth);
/* True only when it is certain, and soon seen, that nothing satisfies parts. */
bool schema_is_void(struct schema *s, const struct schema_parts *parts);

/* --- schema_accept.c --- */

/* Whether a value satisfies a schema. */
bool schema_accepts(struct schema *s, const struct json *schema, const struct json *value, int depth);
/* Whether two values are equal as JSON Schema has it: 1 and 1.0 are, members in any order. */
bool schema_equal(struct schema *s, const struct json *a, const struct json *b);

/* --- the types --- */

int schema_string(struct schema *s, const struct schema_parts *parts);
/* The strings, not spelled; NULL on failure. */
struct automaton *schema_string_automaton(struct schema *s, const struct schema_parts *parts);
bool schema_string_accepts(struct schema *s, const struct json *schema, const char *text, size_t length);
int schema_any_string(struct schema *s);
/* A JSON string of any of these texts; the keyword is for messages. */
int schema_automaton_string(struct schema *s, const struct json *at, const char *keyword,
                            const struct automaton *texts);
/* Strings in which a pattern of patternProperties matches; NULL on failure. */
struct automaton *schema_pattern_automaton(struct schema *s, const struct json *schema, const char *pattern);
/* a again, its size counted as work; NULL after schema_fail when it is NULL or there is too much. */
struct automaton *schema_automaton_check(struct schema *s, struct automaton *a, const struct json *at,
                                         const char *keyword);

/* A regular expression for a format; NULL: not one that octavo knows. *refused: a format of the draft that
   octavo does not enforce. */
const char *schema_format_pattern(const char *name, bool *refused);

int schema_number(struct schema *s, const struct schema_parts *parts);
struct automaton *schema_number_automaton(struct schema *s, const struct schema_parts *parts);
bool schema_number_accepts(struct schema *s, const struct json *schema, double value);

int schema_array(struct schema *s, const struct schema_parts *parts);
/* The schemas that element i must satisfy. Returns how many, -1 on failure; *list in the arena. */
int schema_array_element(struct schema *s, const struct schema_parts *parts, int i,
                         const struct json ***list);
bool schema_array_accepts(struct schema *s, const struct json *schema, const struct json *value, int depth);

int schema_object(struct schema *s, const struct schema_parts *parts);
/* The schemas that the member named key must satisfy. */
int schema_object_value(struct schema *s, const struct schema_parts *parts, const char *key,
                        const struct json ***list);
bool schema_object_accepts(struct schema *s, const struct json *schema, const struct json *value, int depth);
/* White space: after a bracket or comma and before a closing bracket; a comma and a colon with theirs. */
int schema_gap(struct schema *s);
int schema_comma(struct schema *s);
int schema_colon(struct schema *s);
/* The bytes of a NUL-terminated text. */
int schema_literal(struct schema *s, const char *text);
/* A JSON string of exactly this text. */
int schema_key(struct schema *s, const char *text);
int schema_sequence(struct schema *s, int a, int b, int c); /* a, b, c: -2 is none */

#endif
