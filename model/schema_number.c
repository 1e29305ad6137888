#include "model/schema_internal.h"

#include "config/buf.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/*
 * Numbers as texts of decimal digits. A bound compares digit by digit, a multiple keeps a remainder: both are
 * automata over the text, exact in decimal (0.3 is a multiple of 0.1, whatever floating point says), and meet
 * with the automaton of how a number is written.
 *
 * Digits are limited, for a model could write them for ever and readers hold numbers as doubles: without
 * bounds 20 before the point, 20 after it and an exponent of two; with them no exponent, and at most 15
 * significant digits when there is a fraction, so that no two numbers written are one double.
 */

enum { INT_DIGITS = 20, FRACTION_ZEROS = 20, SIGNIFICANT_DIGITS = 15, MAX_DIGITS = 340, MAX_MODULUS = 5000 };

/* --- Decimals --- */

/* The fewest digits that read back as the double, without exponent. */
struct decimal {
    bool negative;
    int n_whole, n_fraction; /* whole: at least one digit, no leading zeros; fraction: no trailing ones */
    char whole[MAX_DIGITS], fraction[MAX_DIGITS + 32];
};

static void decimal_of(double value, struct decimal *out)
{
    *out = (struct decimal){.negative = value < 0};
    struct buf text;
    buf_init(&text, 64);
    json_write_double(&text, fabs(value));
    char digits[64];
    int n = 0, point = -1, exponent = 0;
    for (const char *c = text.data; c && *c; c++) {
        if (*c == '.') point = n;
        if (*c == 'e' || *c == 'E') {
            exponent = atoi(c + 1);
            break;
        }
        if (*c >= '0' && *c <= '9') digits[n++] = *c;
    }
    buf_free(&text);
    point = (point < 0 ? n : point) + exponent; /* digits before the point; may lie outside */
    for (int i = 0; i < point && out->n_whole < MAX_DIGITS - 1; i++) {
        char digit = i < n ? digits[i] : '0';
        if (out->n_whole || digit != '0') out->whole[out->n_whole++] = digit;
    }
    if (out->n_whole == 0) out->whole[out->n_whole++] = '0';
    for (int i = point; i < n; i++) out->fraction[out->n_fraction++] = i < 0 ? '0' : digits[i];
    while (out->n_fraction && out->fraction[out->n_fraction - 1] == '0') out->n_fraction--;
}

/* --- How a number is written --- */

enum { WRITE_START, WRITE_MINUS, WRITE_ZERO, WRITE_WHOLE, WRITE_POINT, WRITE_FRACTION };

/* state: the phase, and above it the significant digits so far and the zeros before them. context: whether
   fractions are allowed. */
static bool write_step(const void *context, uint64_t state, uint8_t byte, uint64_t *next)
{
    bool fractions = *(const bool *)context;
    uint64_t phase = state & 0xFF, significant = state >> 8 & 0xFF, zeros = state >> 16;
    bool digit = byte >= '0' && byte <= '9';
    switch (phase) {
    case WRITE_START:
        *next = WRITE_MINUS;
        if (byte == '-') return true;
        /* fall through */
    case WRITE_MINUS:
        *next = byte == '0' ? WRITE_ZERO : WRITE_WHOLE | 1 << 8;
        return digit && (byte != '0' || phase == WRITE_START || fractions);
    case WRITE_ZERO:
    case WRITE_WHOLE:
        *next = WRITE_POINT | significant << 8;
        if (byte == '.') return fractions && significant < SIGNIFICANT_DIGITS;
        *next = WRITE_WHOLE | (significant + 1) << 8;
        return digit && phase == WRITE_WHOLE && significant < INT_DIGITS;
    default:
        if (significant == 0 && byte == '0')
            zeros++;
        else
            significant++;
        *next = WRITE_FRACTION | significant << 8 | zeros << 16;
        return digit && significant <= SIGNIFICANT_DIGITS && zeros <= FRACTION_ZEROS;
    }
}

static bool write_accepts(const void *context, uint64_t state)
{
    (void)context;
    uint64_t phase = state & 0xFF;
    return phase == WRITE_ZERO || phase == WRITE_WHOLE || phase == WRITE_FRACTION;
}

/* --- Bounds --- */

enum relation { BOUND_MORE, BOUND_AT_LEAST, BOUND_LESS, BOUND_AT_MOST };

struct bound {
    struct decimal value;
    enum relation relation;
};

/* How the digits so far compare with the bound's: state is the position, the result and two flags. */
enum { LESS, EQUAL, MORE };
struct comparison {
    uint32_t position;
    unsigned result;
    bool negative, fraction;
};

static struct comparison comparison_unpack(uint64_t state)
{
    return (struct comparison){(uint32_t)(state >> 4), state & 3, state >> 2 & 1, state >> 3 & 1};
}

static uint64_t comparison_pack(struct comparison c)
{
    return (uint64_t)c.position << 4 | (uint64_t)c.fraction << 3 | (uint64_t)c.negative << 2 | c.result;
}

static void comparison_digit(struct comparison *c, uint8_t digit, const char *digits, int n)
{
    uint8_t other = (int)c->position < n ? (uint8_t)digits[c->position] : '0';
    if (c->result == EQUAL && digit != other) c->result = digit < other ? LESS : MORE;
    if ((int)c->position < n) c->position++;
}

/* The whole part is complete: more digits is a larger number. */
static void comparison_whole(struct comparison *c, int n)
{
    if ((int)c->position < n) c->result = LESS;
    if ((int)c->position > n) c->result = MORE;
    c->position = 0;
}

static bool bound_step(const void *context, uint64_t state, uint8_t byte, uint64_t *next)
{
    const struct decimal *value = &((const struct bound *)context)->value;
    struct comparison c = comparison_unpack(state);
    if (byte == '-') {
        c.negative = true;
    } else if (byte == '.') {
        comparison_whole(&c, value->n_whole);
        c.fraction = true;
    } else if (byte >= '0' && byte <= '9') {
        if (c.fraction)
            comparison_digit(&c, byte, value->fraction, value->n_fraction);
        else if ((int)c.position < value->n_whole)
            comparison_digit(&c, byte, value->whole, value->n_whole);
        else
            c.position = (uint32_t)value->n_whole + 1;
    } else {
        return false;
    }
    *next = comparison_pack(c);
    return true;
}

static bool bound_accepts(const void *context, uint64_t state)
{
    const struct bound *bound = context;
    const struct decimal *value = &bound->value;
    struct comparison c = comparison_unpack(state);
    if (!c.fraction) comparison_whole(&c, value->n_whole);
    if (c.result == EQUAL && (int)c.position < value->n_fraction) c.result = LESS;
    bool bound_is_zero = value->n_whole == 1 && value->whole[0] == '0' && value->n_fraction == 0;
    if (c.negative && value->negative)
        c.result = MORE - c.result;
    else if (value->negative)
        c.result = MORE;
    else if (c.negative && !(bound_is_zero && c.result == EQUAL)) /* -0 is 0 */
        c.result = LESS;
    switch (bound->relation) {
    case BOUND_MORE:
        return c.result == MORE;
    case BOUND_AT_LEAST:
        return c.result != LESS;
    case BOUND_LESS:
        return c.result == LESS;
    default:
        return c.result != MORE;
    }
}

/* From 2^53 on the client's bound may have been rounded on reading: the next double inside is safe. */
static struct automaton *bound_automaton(struct schema *s, double value, enum relation relation)
{
    struct bound bound = {.relation = relation};
    bool lower = relation == BOUND_MORE || relation == BOUND_AT_LEAST;
    if (fabs(value) >= 9007199254740992.0) value = nextafter(value, lower ? INFINITY : -INFINITY);
    decimal_of(value, &bound.value);
    struct automaton_source source = {&bound, comparison_pack((struct comparison){.result = EQUAL}),
                                      bound_step, bound_accepts};
    return automaton_explore(s->scratch, &source);
}

/* --- Multiples --- */

/* Of modulus * 10^zeros / 10^places; modulus is no multiple of 10. */
struct multiple {
    uint32_t modulus, zeros, places;
};

/* The value so far is rest * 10^trailing, rest taken modulo. digits: after the point, with 1 for the point
   itself. */
struct remainder {
    uint32_t rest, trailing, digits;
};

static struct remainder remainder_unpack(uint64_t state)
{
    return (struct remainder){state & 0xFFFF, state >> 16 & 0xFF, (uint32_t)(state >> 24)};
}

static void remainder_digit(struct remainder *r, const struct multiple *multiple, uint32_t digit)
{
    if (digit == 0 && r->trailing < multiple->zeros) {
        r->trailing++;
        return;
    }
    uint32_t rest = r->rest;
    if (digit) {
        for (uint32_t i = 0; i < r->trailing; i++) rest = rest * 10 % multiple->modulus;
        r->trailing = 0;
    }
    r->rest = (rest * 10 + digit) % multiple->modulus;
}

static bool multiple_step(const void *context, uint64_t state, uint8_t byte, uint64_t *next)
{
    const struct multiple *multiple = context;
    struct remainder r = remainder_unpack(state);
    if (byte == '.') {
        r.digits = 1;
    } else if (byte >= '0' && byte <= '9') {
        if (r.digits > multiple->places) {
            if (byte != '0') return false;
        } else {
            remainder_digit(&r, multiple, (uint32_t)(byte - '0'));
            r.digits += r.digits > 0;
        }
    } else if (byte != '-') {
        return false;
    }
    *next = r.rest | (uint64_t)r.trailing << 16 | (uint64_t)r.digits << 24;
    return true;
}

static bool multiple_accepts(const void *context, uint64_t state)
{
    const struct multiple *multiple = context;
    struct remainder r = remainder_unpack(state);
    if (r.digits == 0) r.digits = 1;
    for (; r.digits <= multiple->places; r.digits++) remainder_digit(&r, multiple, 0);
    return r.rest == 0 && r.trailing == multiple->zeros;
}

static struct automaton *multiple_automaton(struct schema *s, const struct json *schema, double value)
{
    struct decimal decimal;
    decimal_of(value, &decimal);
    struct multiple multiple = {.places = (uint32_t)decimal.n_fraction};
    uint64_t modulus = 0;
    int n = decimal.n_whole + decimal.n_fraction;
    while (decimal.n_fraction == 0 && n > 1 && decimal.whole[n - 1] == '0') n--, multiple.zeros++;
    for (int i = 0; i < n && modulus <= MAX_MODULUS; i++)
        modulus = modulus * 10 + (uint64_t)((i < decimal.n_whole ? decimal.whole[i]
                                                                 : decimal.fraction[i - decimal.n_whole]) -
                                            '0');
    struct automaton *a = NULL;
    if (modulus <= MAX_MODULUS && multiple.zeros <= INT_DIGITS && multiple.places <= FRACTION_ZEROS) {
        multiple.modulus = (uint32_t)modulus;
        struct automaton_source source = {&multiple, (uint64_t)multiple.zeros << 16, multiple_step,
                                          multiple_accepts};
        a = automaton_explore(s->scratch, &source);
    }
    if (!a)
        schema_fail(s, ERR_UNSUPPORTED, schema, "multipleOf",
                    "unsupported value: at most %d, but for powers of ten times or below it", MAX_MODULUS);
    return a;
}

/* --- Together --- */

static const struct {
    const char *keyword;
    enum relation relation;
} bounds[] = {{"minimum", BOUND_AT_LEAST},
              {"maximum", BOUND_AT_MOST},
              {"exclusiveMinimum", BOUND_MORE},
              {"exclusiveMaximum", BOUND_LESS}};

/* a and the numbers that one schema allows; NULL on failure. */
static struct automaton *number_restrict(struct schema *s, struct automaton *a, const struct json *schema)
{
    for (int i = 0; i < 4 && a; i++) {
        const struct json *bound = schema_get(s, schema, bounds[i].keyword);
        if (!bound) continue;
        a = automaton_and(s->scratch, a, bound_automaton(s, json_number(bound), bounds[i].relation));
        a = schema_automaton_check(s, a, schema, bounds[i].keyword);
    }
    const struct json *multiple = a ? schema_get(s, schema, "multipleOf") : NULL;
    if (!multiple) return a;
    if (!(json_number(multiple) > 0)) {
        schema_fail(s, ERR_INVALID, schema, "multipleOf", "must be above 0");
        return NULL;
    }
    struct automaton *multiples = multiple_automaton(s, schema, json_number(multiple));
    if (!multiples) return NULL;
    return schema_automaton_check(s, automaton_and(s->scratch, a, multiples), schema, "multipleOf");
}

struct automaton *schema_number_automaton(struct schema *s, const struct schema_parts *parts)
{
    bool fractions = parts->types & SCHEMA_FRACTION;
    struct automaton_source source = {&fractions, WRITE_START, write_step, write_accepts};
    const struct json *at = parts->n ? parts->members[parts->n - 1].schema : s->root;
    struct automaton *a = schema_automaton_check(s, automaton_explore(s->scratch, &source), at, "type");
    for (int i = 0; i < parts->n && a; i++) a = number_restrict(s, a, parts->members[i].schema);
    if (!a || parts->types & SCHEMA_INTEGER) return a;
    a = automaton_minus(s->scratch, a, multiple_automaton(s, s->root, 1));
    return schema_automaton_check(s, a, at, "type");
}

static bool number_is_free(struct schema *s, const struct schema_parts *parts)
{
    for (int i = 0; i < parts->n; i++) {
        if (schema_get(s, parts->members[i].schema, "multipleOf")) return false;
        for (int k = 0; k < 4; k++)
            if (schema_get(s, parts->members[i].schema, bounds[k].keyword)) return false;
    }
    return true;
}

/* Any number, any integer. */
static int number_rule(struct schema *s, bool fractions)
{
    int *rule = fractions ? &s->number : &s->integer;
    if (*rule >= 0) return *rule;
    static const uint8_t digit_set[32] = {[6] = 0xFF, [7] = 0x03}, first_set[32] = {[6] = 0xFE, [7] = 0x03},
                         e_set[32] = {[8] = 1 << 5, [12] = 1 << 5}, sign_set[32] = {[5] = 1 << 3 | 1 << 5};
    int digit = grammar_byte(s->builder, digit_set), zero = schema_literal(s, "0");
    int minus = grammar_repeat(s->builder, schema_literal(s, "-"), 0, 1);
    int whole = schema_sequence(s, grammar_byte(s->builder, first_set),
                                grammar_repeat(s->builder, digit, 0, INT_DIGITS - 1), -2);
    int node;
    if (fractions) {
        int fraction = schema_sequence(s, schema_literal(s, "."),
                                       grammar_repeat(s->builder, digit, 1, FRACTION_ZEROS), -2);
        int exponent = schema_sequence(s, grammar_byte(s->builder, e_set),
                                       grammar_repeat(s->builder, grammar_byte(s->builder, sign_set), 0, 1),
                                       grammar_repeat(s->builder, digit, 1, 2));
        node = schema_sequence(s, minus, grammar_choice(s->builder, (int[]){zero, whole}, 2), -2);
        node = schema_sequence(s, node, grammar_repeat(s->builder, fraction, 0, 1),
                               grammar_repeat(s->builder, exponent, 0, 1));
    } else {
        node = grammar_choice(s->builder, (int[]){zero, schema_sequence(s, minus, whole, -2)}, 2);
    }
    *rule = grammar_rule(s->builder, fractions ? "number" : "integer");
    if (*rule >= 0) grammar_define(s->builder, *rule, node);
    return *rule;
}

int schema_number(struct schema *s, const struct schema_parts *parts)
{
    bool integers = parts->types & SCHEMA_INTEGER, fractions = parts->types & SCHEMA_FRACTION;
    if (integers && number_is_free(s, parts)) return number_rule(s, fractions);
    struct automaton *a = schema_number_automaton(s, parts);
    return a ? automaton_node(s->builder, s->scratch, a) : -1;
}

bool schema_number_accepts(struct schema *s, const struct json *schema, double value)
{
    const struct json *bound = schema_get(s, schema, "minimum");
    if (bound && value < json_number(bound)) return false;
    bound = schema_get(s, schema, "maximum");
    if (bound && value > json_number(bound)) return false;
    bound = schema_get(s, schema, "exclusiveMinimum");
    if (bound && value <= json_number(bound)) return false;
    bound = schema_get(s, schema, "exclusiveMaximum");
    if (bound && value >= json_number(bound)) return false;
    const struct json *multiple = schema_get(s, schema, "multipleOf");
    if (!multiple) return true;
    if (!(json_number(multiple) > 0))
        return schema_fail(s, ERR_INVALID, schema, "multipleOf", "must be above 0") >= 0;
    struct automaton *a = multiple_automaton(s, schema, json_number(multiple));
    if (!a) return false;
    struct decimal decimal;
    decimal_of(value, &decimal);
    decimal.whole[decimal.n_whole] = '.';
    decimal.fraction[decimal.n_fraction] = '0';
    char text[2 * MAX_DIGITS + 64];
    memcpy(text, decimal.whole, (size_t)decimal.n_whole + 1);
    memcpy(text + decimal.n_whole + 1, decimal.fraction, (size_t)decimal.n_fraction + 1);
    return automaton_matches(a, text, (size_t)(decimal.n_whole + decimal.n_fraction + 2));
}
