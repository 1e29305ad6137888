#ifndef MODEL_JINJA_BUILTIN_H
#define MODEL_JINJA_BUILTIN_H

#include "model/jinja_node.h"
#include "model/jinja_text.h"

#include <stdbool.h>

/*
 * What templates can call, and the interpreter's inside that these functions share. A function that fails
 * says so with jinja_fail; its result does not matter then.
 */
struct jinja_run {
    const struct jinja *jinja;
    struct arena *arena;
    const struct jinja_limits *limits;
    int64_t steps; /* left */
    int depth;
    time_t now;
    int line; /* of the statement or call that runs */
    struct jinja_builder *out;
    struct jinja_scope *scope;
    enum { JINJA_GO_ON, JINJA_STOP_LOOP, JINJA_NEXT_TURN } flow;
    enum err err;
    struct err_info *info;
};

struct jinja_named {
    struct jinja_text name;
    struct jinja_value value;
};

struct jinja_arguments {
    size_t n, n_named;
    const struct jinja_value *values;
    const struct jinja_named *named;
};

struct jinja_filter {
    const char *name;
    struct jinja_value (*apply)(struct jinja_run *run, struct jinja_value value,
                                const struct jinja_arguments *arguments);
};

struct jinja_test {
    const char *name;
    bool (*holds)(struct jinja_run *run, const struct jinja_value *value, const struct jinja_value *argument);
    int n_arguments; /* 0 or 1 */
};

struct jinja_function {
    const char *name;
    struct jinja_value (*call)(struct jinja_run *run, const struct jinja_arguments *arguments);
};

struct jinja_method {
    const char *name;
    enum jinja_type type; /* of what has it */
    struct jinja_value (*call)(struct jinja_run *run, struct jinja_value self,
                               const struct jinja_arguments *arguments);
};

struct jinja_method_call {
    struct jinja_value self;
    const struct jinja_method *method;
};

struct jinja_binding {
    int symbol;
    struct jinja_value value;
    struct jinja_binding *next;
};

struct jinja_scope {
    struct jinja_scope *parent;
    struct jinja_binding *bindings;
};

struct jinja_macro {
    const struct jinja_node *node;
    struct jinja_scope *scope; /* where it was defined */
};

struct jinja_loop {
    const struct jinja_list *list;
    size_t i;
    struct jinja_value *changed; /* what loop.changed() saw last; type JINJA_MISSING: nothing yet */
};

/* --- Errors and limits (jinja_run.c) --- */

/* Sets the error unless there is one; the message gets the line in front. Returns undefined. */
struct jinja_value jinja_fail(struct jinja_run *run, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
struct jinja_value jinja_fail_memory(struct jinja_run *run);
struct jinja_value jinja_fail_depth(struct jinja_run *run);
/* 'x' is undefined, in Jinja2's words. */
struct jinja_value jinja_fail_undefined(struct jinja_run *run, const struct jinja_value *value);
static inline bool jinja_failed(const struct jinja_run *run)
{
    return run->err != ERR_OK;
}
/* Takes steps away; false when none are left. */
bool jinja_spend(struct jinja_run *run, size_t steps);
/* The value, or the error that it stands for when the arena is full. */
struct jinja_value jinja_made(struct jinja_run *run, struct jinja_value value);
struct jinja_value jinja_built(struct jinja_run *run, const struct jinja_builder *builder);
void jinja_build(struct jinja_run *run, struct jinja_builder *builder);

/* --- Evaluating (jinja_eval.c, jinja_operator.c) --- */

struct jinja_value jinja_eval(struct jinja_run *run, const struct jinja_node *node);
struct jinja_value jinja_eval_call(struct jinja_run *run, const struct jinja_node *node,
                                   const struct jinja_value *caller);
struct jinja_value jinja_call(struct jinja_run *run, struct jinja_value callee,
                              const struct jinja_arguments *arguments);
struct jinja_value jinja_filter_apply(struct jinja_run *run, const struct jinja_node *node,
                                      struct jinja_value value);
struct jinja_value jinja_getattr(struct jinja_run *run, struct jinja_value of, struct jinja_text name);
struct jinja_value jinja_getitem(struct jinja_run *run, struct jinja_value of, struct jinja_value index);
struct jinja_value jinja_slice(struct jinja_run *run, struct jinja_value of,
                               const struct jinja_value bounds[3]);
struct jinja_value jinja_binary(struct jinja_run *run, enum jinja_operation operation, struct jinja_value a,
                                struct jinja_value b);
bool jinja_compare(struct jinja_run *run, enum jinja_operation operation, const struct jinja_value *a,
                   const struct jinja_value *b);
/* -1, 0 or 1; fails on types that have no order. */
int jinja_order(struct jinja_run *run, const struct jinja_value *a, const struct jinja_value *b);
/* All elements, in a list that is not to be changed; an iterator is empty after. NULL: failed. */
const struct jinja_list *jinja_walk(struct jinja_run *run, struct jinja_value value);
bool jinja_length(struct jinja_run *run, const struct jinja_value *value, size_t *out);
struct jinja_value jinja_macro_call(struct jinja_run *run, const struct jinja_macro *macro,
                                    const struct jinja_arguments *arguments);
/* The variable or function of this name, else undefined (jinja_run.c). */
struct jinja_value jinja_name(struct jinja_run *run, int symbol);
struct jinja_value jinja_undefined(const char *owner, struct jinja_text name);

/* The pairs as tuples, in a view (jinja_method.c). */
struct jinja_value jinja_dict_items(struct jinja_run *run, const struct jinja_dict *dict);

/* --- Writing (jinja_write.c) --- */

/* str(value); fails for what has no fixed form (a generator). */
void jinja_write_str(struct jinja_run *run, struct jinja_builder *out, const struct jinja_value *value);
void jinja_write_repr(struct jinja_run *run, struct jinja_builder *out, const struct jinja_value *value);
struct jinja_value jinja_str(struct jinja_run *run, struct jinja_value value); /* a string stays itself */
struct jinja_json_style {
    bool ascii, sort_keys;
    bool indented;
    struct jinja_text indent; /* of one level */
    struct jinja_text item_separator, key_separator;
};
void jinja_write_json(struct jinja_run *run, struct jinja_builder *out, const struct jinja_value *value,
                      const struct jinja_json_style *style);
/* The pairs of a dict in the order of their keys, in the arena (jinja_sort.c). */
const struct jinja_pair *jinja_sort_pairs(struct jinja_run *run, const struct jinja_dict *dict);
/* With & < > " ' as HTML writes them. */
void jinja_write_escaped(struct jinja_builder *out, struct jinja_text text);
/* Python's repr of a float. */
size_t jinja_write_float(double value, char out[40]);

/* --- Formatting (jinja_format.c) --- */

struct jinja_value jinja_format_percent(struct jinja_run *run, struct jinja_text format,
                                        struct jinja_value arguments);
struct jinja_value jinja_format_braces(struct jinja_run *run, struct jinja_text format,
                                       const struct jinja_arguments *arguments);

/* --- Tables --- */

const struct jinja_filter *jinja_builtin_filter(struct jinja_text name);
const struct jinja_test *jinja_builtin_test(struct jinja_text name);
const struct jinja_function *jinja_builtin_function(struct jinja_text name);
const struct jinja_method *jinja_builtin_method(enum jinja_type type, struct jinja_text name);
extern const struct jinja_method jinja_text_methods[]; /* of strings (jinja_method_text.c) */
extern const size_t jinja_n_text_methods;
/* What Jinja2 has and this does not. */
bool jinja_builtin_refuses_filter(struct jinja_text name);
/* What is called and not supported, for a message; NULL: it is. */
const char *jinja_builtin_refuses_call(const struct jinja *jinja, const struct jinja_node *callee);

/* Binds arguments to parameters: names ends with NULL; out[i] is JINJA_MISSING where nothing was given.
   False: failed. */
bool jinja_bind(struct jinja_run *run, const char *what, const struct jinja_arguments *arguments,
                const char *const *names, struct jinja_value *out);

#endif
