#include "config/utf8.h"
#include "model/jinja_builtin.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/*
 * What Python's operators do to the values: attributes and items, slices, arithmetic, order, membership.
 */

struct jinja_value jinja_undefined(const char *owner, struct jinja_text name)
{
    return (struct jinja_value){
        .type = JINJA_UNDEFINED,
        .undefined = {.owner = owner, .name = name.bytes, .name_length = name.length}};
}

/* --- Walking --- */

static const struct jinja_list *walk_text(struct jinja_run *run, struct jinja_text text)
{
    size_t n = jinja_text_chars(text), at = 0, size;
    if (!jinja_spend(run, n)) return NULL;
    struct jinja_value out = jinja_made(run, jinja_value_list(run->arena, JINJA_LIST_PLAIN, n));
    if (jinja_failed(run)) return NULL;
    for (size_t i = 0; i < n; i++, at += size) {
        utf8_decode(text.bytes + at, &size);
        out.list->items[i] = jinja_value_text(jinja_text_cut(text, at, at + size));
    }
    return out.list;
}

static const struct jinja_list *walk_keys(struct jinja_run *run, const struct jinja_dict *dict)
{
    struct jinja_value out = jinja_made(run, jinja_value_list(run->arena, JINJA_LIST_PLAIN, dict->n));
    if (jinja_failed(run)) return NULL;
    for (size_t i = 0; i < dict->n; i++) out.list->items[i] = dict->pairs[i].key;
    return out.list;
}

const struct jinja_list *jinja_walk(struct jinja_run *run, struct jinja_value value)
{
    static const struct jinja_list empty = {.kind = JINJA_LIST_PLAIN};
    if (jinja_failed(run)) return NULL;
    switch (value.type) {
    case JINJA_UNDEFINED:
        return &empty;
    case JINJA_STRING:
        return walk_text(run, value.text);
    case JINJA_DICT:
        return jinja_spend(run, value.dict->n) ? walk_keys(run, value.dict) : NULL;
    case JINJA_LIST:
        break;
    default:
        jinja_fail(run, "'%s' object is not iterable", jinja_value_type(&value));
        return NULL;
    }
    if (!jinja_spend(run, value.list->n)) return NULL;
    if (value.list->kind != JINJA_LIST_ITERATOR) return value.list;
    struct jinja_list *rest = arena_alloc(run->arena, 1, sizeof *rest);
    if (!rest) {
        jinja_fail_memory(run);
        return NULL;
    }
    *rest = *value.list;
    value.list->n = 0;
    return rest;
}

bool jinja_length(struct jinja_run *run, const struct jinja_value *value, size_t *out)
{
    *out = 0;
    switch (value->type) {
    case JINJA_UNDEFINED:
        return true;
    case JINJA_STRING:
        *out = jinja_text_chars(value->text);
        return jinja_spend(run, value->text.length / 64);
    case JINJA_DICT:
        *out = value->dict->n;
        return true;
    case JINJA_LIST:
        *out = value->list->n;
        if (value->list->kind != JINJA_LIST_ITERATOR) return true;
        break;
    default:
        break;
    }
    jinja_fail(run, "object of type '%s' has no len()", jinja_value_type(value));
    return false;
}

/* --- Attributes and items --- */

static const char *owner_name(const struct jinja_value *value)
{
    static const char *const lists[] = {"list object", "tuple object", "range object", "dict_items object",
                                        "generator object"};
    switch (value->type) {
    case JINJA_NONE:
        return "None";
    case JINJA_BOOL:
        return "bool object";
    case JINJA_INT:
        return "int object";
    case JINJA_FLOAT:
        return "float object";
    case JINJA_STRING:
        return "str object";
    case JINJA_LIST:
        return lists[value->list->kind];
    case JINJA_DICT:
        return "dict object";
    case JINJA_NAMESPACE:
        return "Namespace object";
    case JINJA_LOOP:
        return "LoopContext object";
    default:
        return "function object";
    }
}

static bool is_name(struct jinja_text name, const char *text)
{
    return name.length == strlen(text) && memcmp(name.bytes, text, name.length) == 0;
}

/* Methods that would change a list or dict: the sandbox hides them. */
static bool is_hidden(enum jinja_type type, struct jinja_text name)
{
    static const char *const lists[] = {"append", "clear",  "pop",    "reverse", "insert",
                                        "sort",   "extend", "remove", NULL};
    static const char *const dicts[] = {"clear", "pop", "popitem", "setdefault", "update", NULL};
    const char *const *names = type == JINJA_LIST ? lists : dicts;
    for (; *names; names++)
        if (is_name(name, *names)) return true;
    return false;
}

static struct jinja_value loop_attribute(const struct jinja_value *of, struct jinja_text name)
{
    const struct jinja_loop *loop = of->loop;
    const struct jinja_list *list = loop->list;
    int64_t i = (int64_t)loop->i, n = (int64_t)list->n;
    if (is_name(name, "index")) return jinja_value_int(i + 1);
    if (is_name(name, "index0")) return jinja_value_int(i);
    if (is_name(name, "revindex")) return jinja_value_int(n - i);
    if (is_name(name, "revindex0")) return jinja_value_int(n - i - 1);
    if (is_name(name, "first")) return jinja_value_bool(i == 0);
    if (is_name(name, "last")) return jinja_value_bool(i + 1 == n);
    if (is_name(name, "length")) return jinja_value_int(n);
    if (is_name(name, "depth")) return jinja_value_int(1);
    if (is_name(name, "depth0")) return jinja_value_int(0);
    if (is_name(name, "previtem") && i > 0) return list->items[i - 1];
    if (is_name(name, "nextitem") && i + 1 < n) return list->items[i + 1];
    return jinja_undefined("LoopContext object", name);
}

/* The method, bound to what has it; type JINJA_MISSING: there is none of this name. */
static struct jinja_value bind_method(struct jinja_run *run, const struct jinja_value *of,
                                      struct jinja_text name)
{
    const struct jinja_method *method = jinja_builtin_method(of->type, name);
    if (!method) return (struct jinja_value){.type = JINJA_MISSING};
    struct jinja_method_call *call = arena_alloc(run->arena, 1, sizeof *call);
    if (!call) return jinja_fail_memory(run);
    *call = (struct jinja_method_call){.self = *of, .method = method};
    return (struct jinja_value){.type = JINJA_METHOD, .method = call};
}

static struct jinja_value item_of_dict(struct jinja_run *run, const struct jinja_dict *dict,
                                       const struct jinja_value *key)
{
    const struct jinja_value *found = jinja_spend(run, dict->n / 8) ? jinja_value_get(dict, key) : NULL;
    return found ? *found : (struct jinja_value){.type = JINJA_MISSING};
}

/* What Python's getattr finds; JINJA_MISSING: nothing. */
static struct jinja_value attribute(struct jinja_run *run, const struct jinja_value *of,
                                    struct jinja_text name)
{
    struct jinja_value key = jinja_value_text(name);
    if (of->type == JINJA_LOOP) {
        struct jinja_value method = bind_method(run, of, name);
        return method.type != JINJA_MISSING ? method : loop_attribute(of, name);
    }
    if (of->type == JINJA_NAMESPACE) return item_of_dict(run, of->dict, &key);
    if (of->type == JINJA_MACRO && is_name(name, "name")) return of->macro->node->value;
    if ((of->type == JINJA_DICT || of->type == JINJA_LIST) && is_hidden(of->type, name))
        return jinja_undefined(owner_name(of), name);
    return bind_method(run, of, name);
}

struct jinja_value jinja_getattr(struct jinja_run *run, struct jinja_value of, struct jinja_text name)
{
    if (of.type == JINJA_UNDEFINED) return jinja_fail_undefined(run, &of);
    struct jinja_value found = attribute(run, &of, name), key = jinja_value_text(name);
    if (found.type == JINJA_MISSING && of.type == JINJA_DICT) found = item_of_dict(run, of.dict, &key);
    return found.type != JINJA_MISSING ? found : jinja_undefined(owner_name(&of), name);
}

static bool index_of(const struct jinja_value *index, size_t n, size_t *out)
{
    int64_t i = index->type == JINJA_BOOL ? index->boolean : index->integer;
    if (i < 0) i += (int64_t)n;
    *out = (size_t)i;
    return i >= 0 && i < (int64_t)n;
}

static struct jinja_value item_of_text(struct jinja_run *run, struct jinja_text text,
                                       const struct jinja_value *index)
{
    size_t i, size;
    if (!jinja_spend(run, text.length / 64) || !index_of(index, jinja_text_chars(text), &i))
        return (struct jinja_value){.type = JINJA_MISSING};
    size_t at = jinja_text_offset(text, i);
    utf8_decode(text.bytes + at, &size);
    return jinja_value_text(jinja_text_cut(text, at, at + size));
}

struct jinja_value jinja_getitem(struct jinja_run *run, struct jinja_value of, struct jinja_value index)
{
    struct jinja_value found = {.type = JINJA_MISSING};
    bool number = index.type == JINJA_INT || index.type == JINJA_BOOL;
    size_t i;
    if (of.type == JINJA_UNDEFINED) return jinja_fail_undefined(run, &of);
    if (of.type == JINJA_DICT)
        found = item_of_dict(run, of.dict, &index);
    else if (of.type == JINJA_STRING && number)
        found = item_of_text(run, of.text, &index);
    else if (of.type == JINJA_LIST && of.list->kind < JINJA_LIST_VIEW && number &&
             index_of(&index, of.list->n, &i))
        found = of.list->items[i];
    if (found.type == JINJA_MISSING && index.type == JINJA_STRING) found = attribute(run, &of, index.text);
    if (found.type != JINJA_MISSING) return found;
    struct jinja_text element = {.bytes = "(element)", .length = 9};
    return jinja_undefined(owner_name(&of), index.type == JINJA_STRING ? index.text : element);
}

/* --- Slices --- */

/* A bound of a slice of n elements, with Python's rules for what lies outside. */
static bool slice_bound(struct jinja_run *run, const struct jinja_value *bound, int64_t n, bool backwards,
                        int64_t otherwise, int64_t *out)
{
    if (bound->type == JINJA_NONE) {
        *out = otherwise;
        return true;
    }
    if (bound->type != JINJA_INT && bound->type != JINJA_BOOL) {
        jinja_fail(run, "slice indices must be integers or None or have an __index__ method");
        return false;
    }
    int64_t i = bound->type == JINJA_BOOL ? bound->boolean : bound->integer;
    if (i < 0) i = i < -n ? -1 : i + n;
    int64_t low = backwards ? -1 : 0, high = backwards ? n - 1 : n;
    *out = i < low ? low : i > high ? high : i;
    return true;
}

struct range {
    int64_t start, step, n; /* n elements */
};

static bool slice_range(struct jinja_run *run, const struct jinja_value bounds[3], int64_t length,
                        struct range *out)
{
    int64_t step = 1, start, stop;
    if (bounds[2].type == JINJA_INT) step = bounds[2].integer;
    if (bounds[2].type != JINJA_INT && bounds[2].type != JINJA_NONE) {
        jinja_fail(run, "slice indices must be integers or None or have an __index__ method");
        return false;
    }
    if (step == 0) {
        jinja_fail(run, "slice step cannot be zero");
        return false;
    }
    bool backwards = step < 0;
    if (!slice_bound(run, &bounds[0], length, backwards, backwards ? length - 1 : 0, &start) ||
        !slice_bound(run, &bounds[1], length, backwards, backwards ? -1 : length, &stop))
        return false;
    int64_t span = backwards ? start - stop : stop - start;
    uint64_t size = backwards ? 0 - (uint64_t)step : (uint64_t)step;
    int64_t n = span > 0 ? (int64_t)(((uint64_t)span - 1) / size + 1) : 0;
    *out = (struct range){start, n > 1 ? step : 1, n};
    return true;
}

static struct jinja_value slice_text(struct jinja_run *run, struct jinja_text text, struct range range)
{
    if (range.n == 0) return jinja_value_string("", 0, true);
    if (range.step == 1) {
        size_t from = jinja_text_offset(text, (size_t)range.start);
        struct jinja_text rest = jinja_text_cut(text, from, text.length);
        return jinja_value_text(jinja_text_cut(rest, 0, jinja_text_offset(rest, (size_t)range.n)));
    }
    const struct jinja_list *chars = walk_text(run, text);
    struct jinja_builder out;
    jinja_build(run, &out);
    for (int64_t i = 0; chars && i < range.n; i++)
        jinja_builder_add(&out, chars->items[range.start + i * range.step].text);
    return jinja_built(run, &out);
}

struct jinja_value jinja_slice(struct jinja_run *run, struct jinja_value of,
                               const struct jinja_value bounds[3])
{
    size_t length;
    struct range range;
    if (of.type == JINJA_UNDEFINED) return jinja_fail_undefined(run, &of);
    bool text = of.type == JINJA_STRING, list = of.type == JINJA_LIST && of.list->kind < JINJA_LIST_VIEW;
    if (!text && !list) return jinja_fail(run, "'%s' object cannot be sliced", jinja_value_type(&of));
    if (!jinja_length(run, &of, &length) || !slice_range(run, bounds, (int64_t)length, &range)) return of;
    if (!jinja_spend(run, (size_t)range.n / 8)) return of;
    if (text) return slice_text(run, of.text, range);
    struct jinja_value out = jinja_made(run, jinja_value_list(run->arena, of.list->kind, (size_t)range.n));
    for (int64_t i = 0; i < range.n && !jinja_failed(run); i++)
        out.list->items[i] = of.list->items[range.start + i * range.step];
    return out;
}

/* --- Arithmetic --- */

static const char *const symbols[] = {
    "+", "-", "*", "/", "//", "%", "** or pow()", "==", "!=", "<", "<=", ">", ">=", "in", "not in"};

static struct jinja_value too_large(struct jinja_run *run)
{
    return jinja_fail(run, "the number is too large");
}

static struct jinja_value power_int(struct jinja_run *run, int64_t base, int64_t exponent)
{
    if (exponent < 0) return jinja_value_float(pow((double)base, (double)exponent));
    int64_t out = 1;
    if (base == 0 || base == 1) return jinja_value_int(exponent == 0 ? 1 : base);
    if (base == -1) return jinja_value_int(exponent % 2 ? -1 : 1);
    for (; exponent > 0; exponent--)
        if (__builtin_mul_overflow(out, base, &out)) return too_large(run);
    return jinja_value_int(out);
}

static struct jinja_value arithmetic_int(struct jinja_run *run, enum jinja_operation operation, int64_t a,
                                         int64_t b)
{
    int64_t out = 0;
    bool zero = b == 0 || (a == INT64_MIN && b == -1);
    switch (operation) {
    case JINJA_ADD:
        return __builtin_add_overflow(a, b, &out) ? too_large(run) : jinja_value_int(out);
    case JINJA_SUBTRACT:
        return __builtin_sub_overflow(a, b, &out) ? too_large(run) : jinja_value_int(out);
    case JINJA_MULTIPLY:
        return __builtin_mul_overflow(a, b, &out) ? too_large(run) : jinja_value_int(out);
    case JINJA_DIVIDE:
        return zero ? jinja_fail(run, "division by zero") : jinja_value_float((double)a / (double)b);
    case JINJA_FLOOR_DIVIDE:
        if (zero) return jinja_fail(run, "integer division or modulo by zero");
        return jinja_value_int(a / b - (a % b != 0 && (a < 0) != (b < 0)));
    case JINJA_MODULO:
        if (zero) return jinja_fail(run, "integer modulo by zero");
        return jinja_value_int(a % b != 0 && (a < 0) != (b < 0) ? a % b + b : a % b);
    default:
        return power_int(run, a, b);
    }
}

static struct jinja_value arithmetic_float(struct jinja_run *run, enum jinja_operation operation, double a,
                                           double b)
{
    double rest;
    switch (operation) {
    case JINJA_ADD:
        return jinja_value_float(a + b);
    case JINJA_SUBTRACT:
        return jinja_value_float(a - b);
    case JINJA_MULTIPLY:
        return jinja_value_float(a * b);
    case JINJA_DIVIDE:
        return b == 0 ? jinja_fail(run, "float division by zero") : jinja_value_float(a / b);
    case JINJA_POWER:
        return jinja_value_float(pow(a, b));
    default:
        if (b == 0) return jinja_fail(run, "float floor division or modulo by zero");
        rest = fmod(a, b);
        if (rest != 0 && (rest < 0) != (b < 0)) rest += b;
        if (operation == JINJA_MODULO) return jinja_value_float(rest == 0 ? copysign(0, b) : rest);
        return jinja_value_float(floor((a - rest) / b + 0.5));
    }
}

static struct jinja_value wrong_types(struct jinja_run *run, enum jinja_operation operation,
                                      const struct jinja_value *a, const struct jinja_value *b)
{
    if (operation == JINJA_ADD && (a->type == JINJA_STRING || a->type == JINJA_LIST))
        return jinja_fail(run, "can only concatenate %s (not \"%s\") to %s", jinja_value_type(a),
                          jinja_value_type(b), jinja_value_type(a));
    return jinja_fail(run, "unsupported operand type(s) for %s: '%s' and '%s'", symbols[operation],
                      jinja_value_type(a), jinja_value_type(b));
}

/* Markup escapes plain text that is added to it. */
static struct jinja_value add_texts(struct jinja_run *run, const struct jinja_value *a,
                                    const struct jinja_value *b)
{
    struct jinja_builder out;
    jinja_build(run, &out);
    const struct jinja_value *parts[] = {a, b};
    for (int i = 0; i < 2; i++) {
        if (a->markup != b->markup && !parts[i]->markup)
            jinja_write_escaped(&out, parts[i]->text);
        else
            jinja_builder_add(&out, parts[i]->text);
    }
    struct jinja_value value = jinja_built(run, &out);
    value.markup = a->markup || b->markup;
    return value;
}

static struct jinja_value add_lists(struct jinja_run *run, const struct jinja_list *a,
                                    const struct jinja_list *b)
{
    if (!jinja_spend(run, a->n + b->n)) return jinja_value_none();
    struct jinja_value out = jinja_made(run, jinja_value_list(run->arena, a->kind, a->n + b->n));
    if (jinja_failed(run)) return out;
    if (a->n > 0) memcpy(out.list->items, a->items, a->n * sizeof *a->items);
    if (b->n > 0) memcpy(out.list->items + a->n, b->items, b->n * sizeof *b->items);
    return out;
}

/* A string or list, several times. */
static struct jinja_value repeat(struct jinja_run *run, const struct jinja_value *what, int64_t times)
{
    if (times < 0) times = 0;
    size_t n = what->type == JINJA_STRING ? what->text.length : what->list->n, total;
    if (__builtin_mul_overflow(n, (size_t)times, &total) || total > run->limits->max_output_bytes)
        return jinja_fail_memory(run);
    if (!jinja_spend(run, total / 8)) return *what;
    if (what->type == JINJA_STRING) {
        struct jinja_builder out;
        jinja_build(run, &out);
        for (int64_t i = 0; n > 0 && i < times; i++) jinja_builder_add(&out, what->text);
        return jinja_built(run, &out);
    }
    struct jinja_value out = jinja_made(run, jinja_value_list(run->arena, what->list->kind, total));
    for (size_t i = 0; i < total && !jinja_failed(run); i++) out.list->items[i] = what->list->items[i % n];
    return out;
}

static bool is_plain_list(const struct jinja_value *value)
{
    return value->type == JINJA_LIST && value->list->kind <= JINJA_LIST_TUPLE;
}

static bool is_int(const struct jinja_value *value)
{
    return value->type == JINJA_INT || value->type == JINJA_BOOL;
}

static int64_t int_of(const struct jinja_value *value)
{
    return value->type == JINJA_BOOL ? value->boolean : value->integer;
}

struct jinja_value jinja_binary(struct jinja_run *run, enum jinja_operation operation, struct jinja_value a,
                                struct jinja_value b)
{
    if (a.type == JINJA_UNDEFINED) return jinja_fail_undefined(run, &a);
    if (operation == JINJA_MODULO && a.type == JINJA_STRING) return jinja_format_percent(run, a.text, b);
    if (b.type == JINJA_UNDEFINED) return jinja_fail_undefined(run, &b);
    if (is_int(&a) && is_int(&b)) return arithmetic_int(run, operation, int_of(&a), int_of(&b));
    if (jinja_value_is_number(&a) && jinja_value_is_number(&b))
        return arithmetic_float(run, operation, jinja_value_number(&a), jinja_value_number(&b));
    if (operation == JINJA_ADD && a.type == JINJA_STRING && b.type == JINJA_STRING)
        return add_texts(run, &a, &b);
    if (operation == JINJA_ADD && is_plain_list(&a) && is_plain_list(&b) && a.list->kind == b.list->kind)
        return add_lists(run, a.list, b.list);
    if (operation == JINJA_MULTIPLY && (a.type == JINJA_STRING || is_plain_list(&a)) && is_int(&b))
        return repeat(run, &a, int_of(&b));
    if (operation == JINJA_MULTIPLY && (b.type == JINJA_STRING || is_plain_list(&b)) && is_int(&a))
        return repeat(run, &b, int_of(&a));
    return wrong_types(run, operation, &a, &b);
}

/* --- Order and membership --- */

static int order_texts(struct jinja_text a, struct jinja_text b)
{
    size_t n = a.length < b.length ? a.length : b.length;
    int order = memcmp(a.bytes, b.bytes, n); /* UTF-8 has the order of the characters */
    if (order != 0) return order < 0 ? -1 : 1;
    return (a.length > b.length) - (a.length < b.length);
}

static int order_values(struct jinja_run *run, enum jinja_operation operation, const struct jinja_value *a,
                        const struct jinja_value *b)
{
    if (jinja_value_is_number(a) && jinja_value_is_number(b)) {
        double x = jinja_value_number(a), y = jinja_value_number(b);
        return (x > y) - (x < y);
    }
    if (a->type == JINJA_STRING && b->type == JINJA_STRING) return order_texts(a->text, b->text);
    if (is_plain_list(a) && is_plain_list(b) && a->list->kind == b->list->kind) {
        for (size_t i = 0; i < a->list->n && i < b->list->n; i++)
            if (!jinja_value_equal(&a->list->items[i], &b->list->items[i]))
                return jinja_spend(run, 1)
                           ? order_values(run, operation, &a->list->items[i], &b->list->items[i])
                           : 0;
        return (a->list->n > b->list->n) - (a->list->n < b->list->n);
    }
    if (a->type == JINJA_UNDEFINED || b->type == JINJA_UNDEFINED)
        jinja_fail_undefined(run, a->type == JINJA_UNDEFINED ? a : b);
    else
        jinja_fail(run, "'%s' not supported between instances of '%s' and '%s'", symbols[operation],
                   jinja_value_type(a), jinja_value_type(b));
    return 0;
}

int jinja_order(struct jinja_run *run, const struct jinja_value *a, const struct jinja_value *b)
{
    return order_values(run, JINJA_LESS, a, b);
}

static bool contains(struct jinja_run *run, const struct jinja_value *item, const struct jinja_value *in)
{
    if (in->type == JINJA_UNDEFINED) return false;
    if (in->type == JINJA_STRING) {
        if (item->type == JINJA_UNDEFINED) jinja_fail_undefined(run, item);
        if (item->type != JINJA_STRING)
            jinja_fail(run, "'in <string>' requires string as left operand, not %s", jinja_value_type(item));
        if (jinja_failed(run) || !jinja_spend(run, in->text.length / 64)) return false;
        return jinja_text_find(in->text, item->text, 0) != SIZE_MAX;
    }
    if (in->type == JINJA_DICT)
        return jinja_spend(run, in->dict->n / 8) && jinja_value_get(in->dict, item) != NULL;
    if (in->type != JINJA_LIST) {
        jinja_fail(run, "argument of type '%s' is not iterable", jinja_value_type(in));
        return false;
    }
    const struct jinja_list *list = jinja_walk(run, *in);
    for (size_t i = 0; list && i < list->n; i++)
        if (jinja_value_equal(&list->items[i], item)) return true;
    return false;
}

static bool is_nan(const struct jinja_value *value)
{
    return value->type == JINJA_FLOAT && isnan(value->real);
}

bool jinja_compare(struct jinja_run *run, enum jinja_operation operation, const struct jinja_value *a,
                   const struct jinja_value *b)
{
    switch (operation) {
    case JINJA_EQUAL:
        return jinja_value_equal(a, b);
    case JINJA_NOT_EQUAL:
        return !jinja_value_equal(a, b);
    case JINJA_IN:
        return contains(run, a, b);
    case JINJA_NOT_IN:
        return !contains(run, a, b);
    default:
        break;
    }
    int order = order_values(run, operation, a, b);
    if (is_nan(a) || is_nan(b)) return false;
    switch (operation) {
    case JINJA_LESS:
        return order < 0;
    case JINJA_LESS_EQUAL:
        return order <= 0;
    case JINJA_GREATER:
        return order > 0;
    default:
        return order >= 0;
    }
}
