#include "model/jinja_builtin.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/*
 * Statements. A scope is a list of names; `set` writes into the innermost one, and a name is looked for from
 * there outwards, then among the functions. Loops (each turn), macros and blocks open a scope, `if` does not:
 * that is Jinja2's rule too, and why templates use namespaces. All memory is the arena's, so a macro may keep
 * the scope it was defined in.
 */
const struct jinja_limits jinja_limits_default = {
    .max_steps = 20000000, .max_depth = 800, .max_output_bytes = (size_t)64 << 20};

/* --- Errors and limits --- */

struct jinja_value jinja_fail(struct jinja_run *run, const char *format, ...)
{
    struct jinja_value undefined = {.type = JINJA_UNDEFINED};
    if (jinja_failed(run)) return undefined;
    char what[400];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    run->err = err_set(run->info, ERR_INVALID, "chat template, line %d: %s", run->line, what);
    return undefined;
}

static struct jinja_value fail_limit(struct jinja_run *run, const char *what)
{
    struct jinja_value undefined = {.type = JINJA_UNDEFINED};
    if (!jinja_failed(run))
        run->err = err_set(run->info, ERR_LIMIT, "chat template, line %d: %s", run->line, what);
    return undefined;
}

struct jinja_value jinja_fail_memory(struct jinja_run *run)
{
    return fail_limit(run, "these messages need more memory than one request may take");
}

struct jinja_value jinja_fail_depth(struct jinja_run *run)
{
    return fail_limit(run, "nested too deeply");
}

struct jinja_value jinja_fail_undefined(struct jinja_run *run, const struct jinja_value *value)
{
    int length = value->undefined.name_length < 100 ? (int)value->undefined.name_length : 100;
    if (!value->undefined.name) return jinja_fail(run, "a value is undefined");
    if (!value->undefined.owner) return jinja_fail(run, "'%.*s' is undefined", length, value->undefined.name);
    return jinja_fail(run, "'%s' has no attribute '%.*s'", value->undefined.owner, length,
                      value->undefined.name);
}

bool jinja_spend(struct jinja_run *run, size_t steps)
{
    if (jinja_failed(run)) return false;
    if (steps > (size_t)run->steps) {
        fail_limit(run, "these messages need more steps than one request may take");
        return false;
    }
    run->steps -= (int64_t)steps;
    return true;
}

struct jinja_value jinja_made(struct jinja_run *run, struct jinja_value value)
{
    return value.type == JINJA_MISSING ? jinja_fail_memory(run) : value;
}

void jinja_build(struct jinja_run *run, struct jinja_builder *builder)
{
    jinja_builder_init(builder, run->arena, run->limits->max_output_bytes);
}

struct jinja_value jinja_built(struct jinja_run *run, const struct jinja_builder *builder)
{
    if (builder->failed)
        return builder->too_long ? fail_limit(run, "the text becomes too long") : jinja_fail_memory(run);
    jinja_spend(run, builder->length / 64);
    return jinja_value_text(jinja_builder_text(builder));
}

/* --- Scopes --- */

static struct jinja_scope *scope_open(struct jinja_run *run, struct jinja_scope *parent)
{
    struct jinja_scope *scope = arena_alloc(run->arena, 1, sizeof *scope);
    if (!scope) {
        jinja_fail_memory(run);
        return NULL;
    }
    scope->parent = parent;
    return scope;
}

static void scope_bind(struct jinja_run *run, struct jinja_scope *scope, int symbol, struct jinja_value value)
{
    for (struct jinja_binding *binding = scope->bindings; binding; binding = binding->next)
        if (binding->symbol == symbol) {
            binding->value = value;
            return;
        }
    struct jinja_binding *binding = arena_alloc(run->arena, 1, sizeof *binding);
    if (!binding) {
        jinja_fail_memory(run);
        return;
    }
    *binding = (struct jinja_binding){.symbol = symbol, .value = value, .next = scope->bindings};
    scope->bindings = binding;
}

static const struct jinja_value *scope_find(const struct jinja_scope *scope, int symbol)
{
    for (; scope; scope = scope->parent)
        for (const struct jinja_binding *binding = scope->bindings; binding; binding = binding->next)
            if (binding->symbol == symbol) return &binding->value;
    return NULL;
}

struct jinja_value jinja_name(struct jinja_run *run, int symbol)
{
    const struct jinja_value *value = scope_find(run->scope, symbol);
    if (value) return *value;
    struct jinja_text name = run->jinja->symbols[symbol];
    const struct jinja_function *function = jinja_builtin_function(name);
    if (function) return (struct jinja_value){.type = JINJA_FUNCTION, .function = function};
    return jinja_undefined(NULL, name);
}

static void assign_attribute(struct jinja_run *run, const struct jinja_node *target, struct jinja_value value)
{
    struct jinja_value owner = jinja_name(run, target->symbol);
    if (owner.type != JINJA_NAMESPACE) {
        jinja_fail(run, "cannot assign attribute on non-namespace object");
        return;
    }
    if (!jinja_value_put(run->arena, owner.dict, target->value, value)) jinja_fail_memory(run);
}

static void assign(struct jinja_run *run, const struct jinja_node *target, struct jinja_value value)
{
    if (jinja_failed(run)) return;
    if (target->kind == JINJA_NAME) {
        scope_bind(run, run->scope, target->symbol, value);
        return;
    }
    if (target->kind == JINJA_NAMESPACE_TARGET) {
        assign_attribute(run, target, value);
        return;
    }
    const struct jinja_list *list = jinja_walk(run, value);
    if (!list) return;
    size_t n = 0, i = 0;
    for (const struct jinja_node *item = target->items; item; item = item->next) n++;
    if (list->n != n) {
        jinja_fail(run, "%zu names for %zu values", n, list->n);
        return;
    }
    for (const struct jinja_node *item = target->items; item; item = item->next)
        assign(run, item, list->items[i++]);
}

/* --- Statements --- */

static void run_body(struct jinja_run *run, const struct jinja_node *first);

/* A body in a scope of its own. */
static void run_scoped(struct jinja_run *run, const struct jinja_node *first)
{
    struct jinja_scope *outer = run->scope, *scope = scope_open(run, outer);
    if (!scope) return;
    run->scope = scope;
    run_body(run, first);
    run->scope = outer;
}

/* What a body writes, as a value. */
static struct jinja_value run_captured(struct jinja_run *run, const struct jinja_node *first)
{
    struct jinja_builder text, *outer = run->out;
    jinja_build(run, &text);
    run->out = &text;
    run_scoped(run, first);
    run->out = outer;
    return jinja_built(run, &text);
}

static void print(struct jinja_run *run, const struct jinja_node *node)
{
    struct jinja_value value = jinja_eval(run, node->left);
    if (jinja_failed(run)) return;
    size_t before = run->out->length;
    jinja_write_str(run, run->out, &value);
    jinja_spend(run, (run->out->length - before) / 64);
}

static void run_if(struct jinja_run *run, const struct jinja_node *node)
{
    for (const struct jinja_node *branch = node->items; branch; branch = branch->next) {
        if (branch->left) {
            struct jinja_value condition = jinja_eval(run, branch->left);
            if (jinja_failed(run)) return;
            if (!jinja_value_truth(&condition)) continue;
        }
        run_body(run, branch->items);
        return;
    }
}

/* The elements for which the loop's own condition holds. */
static const struct jinja_list *loop_filter(struct jinja_run *run, const struct jinja_node *node,
                                            const struct jinja_list *all)
{
    struct jinja_value kept = jinja_made(run, jinja_value_list(run->arena, JINJA_LIST_PLAIN, all->n));
    struct jinja_scope *outer = run->scope;
    size_t n = 0;
    for (size_t i = 0; i < all->n && !jinja_failed(run); i++) {
        run->scope = scope_open(run, outer);
        if (!run->scope) break;
        assign(run, node->left, all->items[i]);
        struct jinja_value condition = jinja_eval(run, node->test);
        if (jinja_value_truth(&condition)) kept.list->items[n++] = all->items[i];
    }
    run->scope = outer;
    if (jinja_failed(run)) return NULL;
    kept.list->n = n;
    return kept.list;
}

static void run_for(struct jinja_run *run, const struct jinja_node *node)
{
    struct jinja_value walked = jinja_eval(run, node->right);
    const struct jinja_list *list = jinja_walk(run, walked);
    if (list && node->test) list = loop_filter(run, node, list);
    if (!list) return;
    if (list->n == 0) {
        run_scoped(run, node->others);
        return;
    }
    struct jinja_loop *loop = arena_alloc(run->arena, 1, sizeof *loop);
    struct jinja_value *changed = arena_alloc(run->arena, 1, sizeof *changed);
    if (!loop || !changed) {
        jinja_fail_memory(run);
        return;
    }
    *loop = (struct jinja_loop){.list = list, .changed = changed};
    struct jinja_scope *outer = run->scope;
    for (; loop->i < list->n && !jinja_failed(run); loop->i++) {
        run->scope = scope_open(run, outer);
        if (!run->scope) break;
        scope_bind(run, run->scope, JINJA_SYMBOL_LOOP,
                   (struct jinja_value){.type = JINJA_LOOP, .loop = loop});
        assign(run, node->left, list->items[loop->i]);
        run_body(run, node->items);
        bool stop = run->flow == JINJA_STOP_LOOP;
        run->flow = JINJA_GO_ON;
        if (stop) break;
    }
    run->scope = outer;
}

static void run_with(struct jinja_run *run, const struct jinja_node *node)
{
    struct jinja_scope *outer = run->scope, *scope = scope_open(run, outer);
    if (!scope) return;
    for (const struct jinja_node *set = node->others; set; set = set->next) {
        struct jinja_value value = jinja_eval(run, set->right); /* none sees the others */
        run->scope = scope;
        assign(run, set->left, value);
        run->scope = outer;
    }
    run->scope = scope;
    run_body(run, node->items);
    run->scope = outer;
}

static struct jinja_value macro_value(struct jinja_run *run, const struct jinja_node *node)
{
    struct jinja_macro *macro = arena_alloc(run->arena, 1, sizeof *macro);
    if (!macro) return jinja_fail_memory(run);
    *macro = (struct jinja_macro){.node = node, .scope = run->scope};
    return (struct jinja_value){.type = JINJA_MACRO, .macro = macro};
}

static void run_call_block(struct jinja_run *run, const struct jinja_node *node)
{
    struct jinja_value caller = macro_value(run, node->left);
    struct jinja_value value = jinja_eval_call(run, node->right, &caller);
    if (!jinja_failed(run)) jinja_write_str(run, run->out, &value);
}

static void run_filter_block(struct jinja_run *run, const struct jinja_node *node)
{
    struct jinja_value value = run_captured(run, node->items);
    value = jinja_filter_apply(run, node->right, value);
    if (!jinja_failed(run)) jinja_write_str(run, run->out, &value);
}

static void run_set_block(struct jinja_run *run, const struct jinja_node *node)
{
    struct jinja_value value = run_captured(run, node->items);
    if (node->right) value = jinja_filter_apply(run, node->right, value);
    assign(run, node->left, value);
}

static void run_statement(struct jinja_run *run, const struct jinja_node *node)
{
    switch (node->kind) {
    case JINJA_DATA:
        jinja_builder_add(run->out, node->value.text);
        return;
    case JINJA_PRINT:
        print(run, node);
        return;
    case JINJA_IF:
        run_if(run, node);
        return;
    case JINJA_FOR:
        run_for(run, node);
        return;
    case JINJA_SET:
        assign(run, node->left, jinja_eval(run, node->right));
        return;
    case JINJA_SET_BLOCK:
        run_set_block(run, node);
        return;
    case JINJA_MACRO_BLOCK:
        scope_bind(run, run->scope, node->symbol, macro_value(run, node));
        return;
    case JINJA_CALL_BLOCK:
        run_call_block(run, node);
        return;
    case JINJA_FILTER_BLOCK:
        run_filter_block(run, node);
        return;
    case JINJA_WITH:
        run_with(run, node);
        return;
    case JINJA_SCOPE:
        run_scoped(run, node->items);
        return;
    case JINJA_BREAK:
        run->flow = JINJA_STOP_LOOP;
        return;
    default:
        run->flow = JINJA_NEXT_TURN;
        return;
    }
}

static void run_body(struct jinja_run *run, const struct jinja_node *first)
{
    if (run->depth == run->limits->max_depth) {
        jinja_fail_depth(run);
        return;
    }
    run->depth++;
    for (const struct jinja_node *node = first; node; node = node->next) {
        run->line = node->line;
        if (!jinja_spend(run, 1)) break;
        run_statement(run, node);
        if (run->out->failed) jinja_built(run, run->out);
        if (jinja_failed(run) || run->flow != JINJA_GO_ON) break;
    }
    run->depth--;
}

/* --- Macros --- */

/* The named argument; NULL when it was not given. */
static const struct jinja_named *named_find(const struct jinja_arguments *arguments, struct jinja_text name)
{
    struct jinja_value wanted = jinja_value_text(name);
    for (size_t i = 0; i < arguments->n_named; i++) {
        struct jinja_value given = jinja_value_text(arguments->named[i].name);
        if (jinja_value_equal(&given, &wanted)) return &arguments->named[i];
    }
    return NULL;
}

static void bind_extra(struct jinja_run *run, const struct jinja_macro *macro, size_t n_parameters,
                       const struct jinja_arguments *arguments)
{
    const struct jinja_node *node = macro->node;
    size_t n_extra = arguments->n > n_parameters ? arguments->n - n_parameters : 0;
    struct jinja_value extra = jinja_made(run, jinja_value_list(run->arena, JINJA_LIST_TUPLE, n_extra));
    struct jinja_value named = jinja_made(run, jinja_value_dict(run->arena, arguments->n_named));
    if (jinja_failed(run)) return;
    for (size_t i = 0; i < n_extra; i++) extra.list->items[i] = arguments->values[n_parameters + i];
    for (size_t i = 0; i < arguments->n_named; i++) {
        struct jinja_value key = jinja_value_text(arguments->named[i].name);
        bool known = node->uses_caller && jinja_value_is_text(&key, "caller");
        for (const struct jinja_node *p = node->others; p && !known; p = p->next)
            known = jinja_value_equal(&p->value, &key);
        if (!known && !node->uses_kwargs) {
            jinja_fail(run, "macro '%.*s' takes no keyword argument '%.*s'", (int)node->value.text.length,
                       node->value.text.bytes, (int)key.text.length, key.text.bytes);
            return;
        }
        if (!known) jinja_value_put(run->arena, named.dict, key, arguments->named[i].value); /* fits */
    }
    if (n_extra > 0 && !node->uses_varargs) {
        jinja_fail(run, "macro '%.*s' takes not more than %zu argument(s)", (int)node->value.text.length,
                   node->value.text.bytes, n_parameters);
        return;
    }
    if (node->uses_varargs) scope_bind(run, run->scope, JINJA_SYMBOL_VARARGS, extra);
    if (node->uses_kwargs) scope_bind(run, run->scope, JINJA_SYMBOL_KWARGS, named);
}

static void bind_parameters(struct jinja_run *run, const struct jinja_macro *macro,
                            const struct jinja_arguments *arguments)
{
    const struct jinja_node *node = macro->node;
    struct jinja_text caller_name = run->jinja->symbols[JINJA_SYMBOL_CALLER];
    size_t i = 0;
    for (const struct jinja_node *p = node->others; p && !jinja_failed(run); p = p->next, i++) {
        const struct jinja_named *named = named_find(arguments, p->value.text);
        struct jinja_value value;
        if (i < arguments->n && named)
            value = jinja_fail(run, "macro '%.*s' got two values for '%.*s'", (int)node->value.text.length,
                               node->value.text.bytes, (int)p->value.text.length, p->value.text.bytes);
        else if (i < arguments->n)
            value = arguments->values[i];
        else if (named)
            value = named->value;
        else
            value = p->left ? jinja_eval(run, p->left) : jinja_undefined(NULL, p->value.text);
        scope_bind(run, run->scope, p->symbol, value);
    }
    if (node->uses_caller && !jinja_failed(run)) {
        const struct jinja_named *caller = named_find(arguments, caller_name);
        scope_bind(run, run->scope, JINJA_SYMBOL_CALLER,
                   caller ? caller->value : jinja_undefined(NULL, caller_name));
    }
    bind_extra(run, macro, i, arguments);
}

struct jinja_value jinja_macro_call(struct jinja_run *run, const struct jinja_macro *macro,
                                    const struct jinja_arguments *arguments)
{
    struct jinja_scope *outer_scope = run->scope;
    struct jinja_builder text, *outer_out = run->out;
    int line = run->line;
    jinja_build(run, &text);
    run->scope = scope_open(run, macro->scope);
    run->out = &text;
    if (run->scope) bind_parameters(run, macro, arguments);
    if (!jinja_failed(run)) run_body(run, macro->node->items);
    run->scope = outer_scope;
    run->out = outer_out;
    run->line = line;
    return jinja_built(run, &text);
}

/* --- The whole --- */

static void bind_variables(struct jinja_run *run, const struct jinja_variable *variables, int n)
{
    for (int v = 0; v < n; v++) {
        size_t length = strlen(variables[v].name);
        for (int i = 0; i < run->jinja->n_symbols && !jinja_failed(run); i++)
            if (run->jinja->symbols[i].length == length &&
                memcmp(run->jinja->symbols[i].bytes, variables[v].name, length) == 0)
                scope_bind(run, run->scope, i, variables[v].value);
    }
}

enum err jinja_render(const struct jinja *jinja, struct arena *arena, const struct jinja_variable *variables,
                      int n_variables, time_t now, const struct jinja_limits *limits, struct jinja_text *out,
                      struct err_info *info)
{
    struct jinja_builder text;
    struct jinja_run run = {.jinja = jinja,
                            .arena = arena,
                            .limits = limits,
                            .steps = limits->max_steps,
                            .now = now,
                            .out = &text,
                            .info = info};
    jinja_build(&run, &text);
    run.scope = scope_open(&run, NULL);
    if (run.scope) bind_variables(&run, variables, n_variables);
    if (!jinja_failed(&run)) run_body(&run, jinja->body);
    if (!jinja_failed(&run)) jinja_built(&run, &text);
    if (jinja_failed(&run)) return run.err;
    *out = jinja_builder_text(&text);
    return ERR_OK;
}
