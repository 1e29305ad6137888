#ifndef MODEL_JINJA_VALUE_H
#define MODEL_JINJA_VALUE_H

#include "config/arena.h"
#include "config/json.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * The values of a template: Python's, as far as templates get to see them. All memory is an arena's; values
 * are never changed once made (the sandbox forbids it; a namespace is the exception).
 *
 * Text knows of each byte where it comes from: from the template itself ("literal") or from data, that is
 * from a client. The marks follow the bytes through every operation, so whoever tokenizes the output can take
 * "<|im_end|>" for a control token where the template wrote it and for ordinary text where a user did.
 */
struct jinja_text {
    const char *bytes; /* UTF-8, not NUL-terminated */
    size_t length;
    const unsigned char *marks; /* [length] 1: literal; NULL: all bytes are as `literal` says */
    bool literal;
};

enum jinja_type {
    JINJA_MISSING, /* an argument that was not given; templates never see it */
    JINJA_UNDEFINED,
    JINJA_NONE,
    JINJA_BOOL,
    JINJA_INT,
    JINJA_FLOAT,
    JINJA_STRING,
    JINJA_LIST,
    JINJA_DICT,
    JINJA_NAMESPACE,
    JINJA_MACRO,
    JINJA_FUNCTION,
    JINJA_METHOD,
    JINJA_LOOP,
};

struct jinja_value {
    enum jinja_type type;
    bool markup; /* of a string: Python's Markup, which escapes what is added to it */
    union {
        bool boolean;
        int64_t integer;
        double real;
        struct jinja_text text;
        struct jinja_list *list;
        struct jinja_dict *dict; /* also a namespace's */
        const struct jinja_macro *macro;
        const struct jinja_function *function;
        const struct jinja_method_call *method;
        const struct jinja_loop *loop;
        struct {               /* why it is undefined */
            const char *owner; /* type of what lacks the name; NULL: a variable */
            const char *name;
            size_t name_length;
        } undefined;
    };
};

enum jinja_list_kind {
    JINJA_LIST_PLAIN,
    JINJA_LIST_TUPLE,
    JINJA_LIST_RANGE,
    JINJA_LIST_VIEW,     /* keys(), values(), items(): no index */
    JINJA_LIST_ITERATOR, /* what map, select ... give: can be walked once */
};

struct jinja_list {
    enum jinja_list_kind kind;
    size_t n;
    struct jinja_value *items;
};

struct jinja_pair {
    struct jinja_value key, value;
};

struct jinja_dict {
    size_t n, capacity;
    struct jinja_pair *pairs; /* in the order of insertion */
};

/* --- Making values; each that takes memory returns type JINJA_MISSING when the arena is full --- */

struct jinja_value jinja_value_none(void);
struct jinja_value jinja_value_bool(bool value);
struct jinja_value jinja_value_int(int64_t value);
struct jinja_value jinja_value_float(double value);
struct jinja_value jinja_value_text(struct jinja_text text);
/* Borrowed bytes; literal: they are to count as the template's own. */
struct jinja_value jinja_value_string(const char *bytes, size_t length, bool literal);
/* n items, zeroed, for the caller to fill. */
struct jinja_value jinja_value_list(struct arena *arena, enum jinja_list_kind kind, size_t n);
/* Room for capacity pairs. */
struct jinja_value jinja_value_dict(struct arena *arena, size_t capacity);
/* Adds or replaces; false when the arena is full. */
bool jinja_value_put(struct arena *arena, struct jinja_dict *dict, struct jinja_value key,
                     struct jinja_value value);
/* NUL-terminated literal key. */
bool jinja_value_put_name(struct arena *arena, struct jinja_dict *dict, const char *key,
                          struct jinja_value value);
/* A JSON tree as data; its strings are borrowed. The tree's depth is that of json_limits. */
struct jinja_value jinja_value_json(struct arena *arena, const struct json *node);

/* --- Asking --- */

bool jinja_value_truth(const struct jinja_value *value);
/* Python's ==. */
bool jinja_value_equal(const struct jinja_value *a, const struct jinja_value *b);
/* Python's name of the type: "str", "dict", "NoneType". */
const char *jinja_value_type(const struct jinja_value *value);
bool jinja_value_is_number(const struct jinja_value *value); /* bool, int, float */
double jinja_value_number(const struct jinja_value *value);  /* of one of these */
bool jinja_value_is_text(const struct jinja_value *value, const char *text);
/* NULL when there is none. */
const struct jinja_value *jinja_value_get(const struct jinja_dict *dict, const struct jinja_value *key);
const struct jinja_value *jinja_value_get_name(const struct jinja_dict *dict, const char *key);

#endif
