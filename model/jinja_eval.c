#include "model/jinja_builtin.h"

/*
 * Expressions.
 */

static size_t count(const struct jinja_node *first)
{
    size_t n = 0;
    for (const struct jinja_node *node = first; node; node = node->next) n++;
    return n;
}

static struct jinja_value eval_list(struct jinja_run *run, const struct jinja_node *node)
{
    enum jinja_list_kind kind = node->kind == JINJA_TUPLE ? JINJA_LIST_TUPLE : JINJA_LIST_PLAIN;
    struct jinja_value out = jinja_made(run, jinja_value_list(run->arena, kind, count(node->items)));
    size_t i = 0;
    for (const struct jinja_node *item = node->items; item && !jinja_failed(run); item = item->next)
        out.list->items[i++] = jinja_eval(run, item);
    return out;
}

static struct jinja_value eval_dict(struct jinja_run *run, const struct jinja_node *node)
{
    struct jinja_value out = jinja_made(run, jinja_value_dict(run->arena, count(node->items)));
    for (const struct jinja_node *entry = node->items; entry && !jinja_failed(run); entry = entry->next) {
        struct jinja_value key = jinja_eval(run, entry->left), value = jinja_eval(run, entry->right);
        if (jinja_failed(run)) break;
        if (key.type == JINJA_LIST ? key.list->kind != JINJA_LIST_TUPLE : key.type == JINJA_DICT)
            return jinja_fail(run, "unhashable type: '%s'", jinja_value_type(&key));
        if (!jinja_spend(run, out.dict->n)) break;
        if (!jinja_value_put(run->arena, out.dict, key, value)) return jinja_fail_memory(run);
    }
    return out;
}

/* The arguments of a call or filter, in the arena; caller (may be NULL) comes as one more, named so. */
static struct jinja_arguments eval_arguments(struct jinja_run *run, const struct jinja_node *node,
                                             const struct jinja_value *caller)
{
    struct jinja_arguments out = {0};
    size_t n = count(node->items);
    if (n == 0 && !caller) return out;
    struct jinja_value *values = arena_alloc(run->arena, n, sizeof *values);
    struct jinja_named *named = arena_alloc(run->arena, n + 1, sizeof *named);
    if (!values || !named) {
        jinja_fail_memory(run);
        return out;
    }
    for (const struct jinja_node *item = node->items; item && !jinja_failed(run); item = item->next) {
        if (item->kind == JINJA_KEYWORD)
            named[out.n_named++] =
                (struct jinja_named){.name = item->value.text, .value = jinja_eval(run, item->left)};
        else
            values[out.n++] = jinja_eval(run, item);
    }
    if (caller)
        named[out.n_named++] =
            (struct jinja_named){.name = run->jinja->symbols[JINJA_SYMBOL_CALLER], .value = *caller};
    out.values = values;
    out.named = named;
    return out;
}

struct jinja_value jinja_call(struct jinja_run *run, struct jinja_value callee,
                              const struct jinja_arguments *arguments)
{
    switch (callee.type) {
    case JINJA_MACRO:
        return jinja_macro_call(run, callee.macro, arguments);
    case JINJA_FUNCTION:
        return callee.function->call(run, arguments);
    case JINJA_METHOD:
        return callee.method->method->call(run, callee.method->self, arguments);
    case JINJA_UNDEFINED:
        return jinja_fail_undefined(run, &callee);
    default:
        return jinja_fail(run, "'%s' object is not callable", jinja_value_type(&callee));
    }
}

struct jinja_value jinja_eval_call(struct jinja_run *run, const struct jinja_node *node,
                                   const struct jinja_value *caller)
{
    struct jinja_value callee = jinja_eval(run, node->left);
    struct jinja_arguments arguments = eval_arguments(run, node, caller);
    run->line = node->line;
    if (jinja_failed(run)) return callee;
    return jinja_call(run, callee, &arguments);
}

struct jinja_value jinja_filter_apply(struct jinja_run *run, const struct jinja_node *node,
                                      struct jinja_value value)
{
    if (run->depth == run->limits->max_depth) return jinja_fail_depth(run);
    run->depth++;
    if (node->left && node->left->kind == JINJA_FILTERED)
        value = jinja_filter_apply(run, node->left, value);
    else if (node->left)
        value = jinja_eval(run, node->left);
    run->depth--;
    struct jinja_arguments arguments = eval_arguments(run, node, NULL);
    if (jinja_failed(run)) return value;
    run->line = node->line;
    if (!node->filter)
        return jinja_fail(run, "there is no filter '%.*s'", (int)node->value.text.length,
                          node->value.text.bytes);
    return node->filter->apply(run, value, &arguments);
}

static struct jinja_value eval_test(struct jinja_run *run, const struct jinja_node *node)
{
    struct jinja_value value = jinja_eval(run, node->left);
    struct jinja_arguments arguments = eval_arguments(run, node, NULL);
    if (jinja_failed(run)) return value;
    run->line = node->line;
    if (!node->tester)
        return jinja_fail(run, "there is no test '%.*s'", (int)node->value.text.length,
                          node->value.text.bytes);
    if ((int)(arguments.n + arguments.n_named) != node->tester->n_arguments)
        return jinja_fail(run, "the test '%s' takes %d argument(s)", node->tester->name,
                          node->tester->n_arguments);
    const struct jinja_value *argument = arguments.n_named > 0 ? &arguments.named[0].value : arguments.values;
    return jinja_value_bool(node->tester->holds(run, &value, argument));
}

static struct jinja_value eval_slice(struct jinja_run *run, const struct jinja_node *node)
{
    struct jinja_value bounds[3], of = jinja_eval(run, node->left);
    const struct jinja_node *bound = node->items;
    for (int i = 0; i < 3; i++, bound = bound->next) bounds[i] = jinja_eval(run, bound);
    return jinja_failed(run) ? of : jinja_slice(run, of, bounds);
}

static struct jinja_value eval_compare(struct jinja_run *run, const struct jinja_node *node)
{
    struct jinja_value left = jinja_eval(run, node->left);
    for (const struct jinja_node *item = node->items; item && !jinja_failed(run); item = item->next) {
        struct jinja_value right = jinja_eval(run, item->left);
        if (jinja_failed(run)) break;
        if (!jinja_compare(run, item->operation, &left, &right)) return jinja_value_bool(false);
        left = right;
    }
    return jinja_value_bool(true);
}

static struct jinja_value eval_concat(struct jinja_run *run, const struct jinja_node *node)
{
    struct jinja_builder text;
    jinja_build(run, &text);
    for (const struct jinja_node *item = node->items; item && !jinja_failed(run); item = item->next) {
        struct jinja_value value = jinja_eval(run, item);
        if (!jinja_failed(run)) jinja_write_str(run, &text, &value);
    }
    return jinja_built(run, &text);
}

static struct jinja_value eval_sign(struct jinja_run *run, const struct jinja_node *node)
{
    struct jinja_value value = jinja_eval(run, node->left);
    bool negate = node->kind == JINJA_NEGATE;
    if (jinja_failed(run)) return value;
    if (value.type == JINJA_UNDEFINED) return jinja_fail_undefined(run, &value);
    if (value.type == JINJA_FLOAT) return jinja_value_float(negate ? -value.real : value.real);
    if (!jinja_value_is_number(&value))
        return jinja_fail(run, "bad operand type for unary %c: '%s'", negate ? '-' : '+',
                          jinja_value_type(&value));
    int64_t integer = value.type == JINJA_BOOL ? value.boolean : value.integer;
    if (integer == INT64_MIN) return jinja_fail(run, "the number is too large");
    return jinja_value_int(negate ? -integer : integer);
}

/* `and`, `or` and `a if b else c` give one of their operands. */
static struct jinja_value eval_choice(struct jinja_run *run, const struct jinja_node *node)
{
    struct jinja_value left = jinja_eval(run, node->left);
    if (jinja_failed(run)) return left;
    bool truth = jinja_value_truth(&left);
    if (node->kind == JINJA_AND) return truth ? jinja_eval(run, node->right) : left;
    if (node->kind == JINJA_OR) return truth ? left : jinja_eval(run, node->right);
    const struct jinja_node *chosen = truth ? node->items : node->items->next;
    return chosen ? jinja_eval(run, chosen) : (struct jinja_value){.type = JINJA_UNDEFINED};
}

static struct jinja_value eval_item(struct jinja_run *run, const struct jinja_node *node)
{
    struct jinja_value of = jinja_eval(run, node->left), index = jinja_eval(run, node->right);
    return jinja_failed(run) ? of : jinja_getitem(run, of, index);
}

static struct jinja_value eval_attribute(struct jinja_run *run, const struct jinja_node *node)
{
    struct jinja_value of = jinja_eval(run, node->left);
    return jinja_failed(run) ? of : jinja_getattr(run, of, node->value.text);
}

static struct jinja_value eval_binary(struct jinja_run *run, const struct jinja_node *node)
{
    struct jinja_value left = jinja_eval(run, node->left), right = jinja_eval(run, node->right);
    return jinja_failed(run) ? left : jinja_binary(run, node->operation, left, right);
}

static struct jinja_value eval_not(struct jinja_run *run, const struct jinja_node *node)
{
    struct jinja_value value = jinja_eval(run, node->left);
    return jinja_value_bool(!jinja_value_truth(&value));
}

static struct jinja_value eval_node(struct jinja_run *run, const struct jinja_node *node)
{
    switch (node->kind) {
    case JINJA_NAME:
        return jinja_name(run, node->symbol);
    case JINJA_TUPLE:
    case JINJA_ARRAY:
        return eval_list(run, node);
    case JINJA_TABLE:
        return eval_dict(run, node);
    case JINJA_GETATTR:
        return eval_attribute(run, node);
    case JINJA_GETITEM:
        return eval_item(run, node);
    case JINJA_SLICE:
        return eval_slice(run, node);
    case JINJA_CALL:
        return jinja_eval_call(run, node, NULL);
    case JINJA_FILTERED:
        return jinja_filter_apply(run, node, jinja_value_none());
    case JINJA_TESTED:
        return eval_test(run, node);
    case JINJA_NOT:
        return eval_not(run, node);
    case JINJA_NEGATE:
    case JINJA_PLUS:
        return eval_sign(run, node);
    case JINJA_AND:
    case JINJA_OR:
    case JINJA_COND:
        return eval_choice(run, node);
    case JINJA_BINARY:
        return eval_binary(run, node);
    case JINJA_CONCAT:
        return eval_concat(run, node);
    case JINJA_COMPARE:
        return eval_compare(run, node);
    default:
        return node->value;
    }
}

struct jinja_value jinja_eval(struct jinja_run *run, const struct jinja_node *node)
{
    struct jinja_value undefined = {.type = JINJA_UNDEFINED};
    if (!jinja_spend(run, 1)) return undefined;
    if (node->kind == JINJA_CONST) return node->value;
    if (run->depth == run->limits->max_depth) return jinja_fail_depth(run);
    run->depth++;
    struct jinja_value value = eval_node(run, node);
    run->depth--;
    return value;
}
