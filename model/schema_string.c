#include "model/schema_internal.h"

#include "config/buf.h"
#include "config/utf8.h"

#include <string.h>

/*
 * Strings: any, of a length, of a pattern or format; what asks for two of these at once goes through
 * automata. Lengths count characters: an escape is one, a pair of surrogates is one.
 */

enum { MAX_REGEXES = 16 };

/* A regular expression that a string must match. */
struct string_regex {
    const struct json *schema;
    const char *keyword, *pattern;
    bool search;
    bool negated; /* it must not */
};

struct string_facts {
    int64_t min, max; /* max -1: no end */
    int n_regexes, n_excluded;
    bool negated; /* one of the regexes */
    struct string_regex regexes[MAX_REGEXES];
    const char **excluded; /* by `not` */
};

/* --- Any string --- */

static int byte_set(struct schema *s, const char *bytes)
{
    uint8_t set[32] = {0};
    for (; *bytes; bytes++) set[(uint8_t)*bytes >> 3] |= (uint8_t)(1u << (*bytes & 7));
    return grammar_byte(s->builder, set);
}

/* \uXXXX: not U+0000, which our own reader refuses and C programs trip over; surrogates in pairs. */
static int unicode_escape(struct schema *s)
{
    int hex = byte_set(s, "0123456789abcdefABCDEF"), hex1 = byte_set(s, "123456789abcdefABCDEF");
    int d = byte_set(s, "dD"), zero = schema_literal(s, "0"), nodes[6], choices[5];
    int low = byte_set(s, "01234567"), high_half = byte_set(s, "89abAB"), low_half = byte_set(s, "cdefCDEF");
    /* The first digit that is not zero stands first, second, third or last. */
    choices[0] = grammar_sequence(s->builder, (int[]){byte_set(s, "123456789abcefABCEF"), hex, hex, hex}, 4);
    choices[1] = grammar_sequence(s->builder, (int[]){zero, hex1, hex, hex}, 4);
    choices[2] = grammar_sequence(s->builder, (int[]){zero, zero, hex1, hex}, 4);
    choices[3] = grammar_sequence(s->builder, (int[]){zero, zero, zero, hex1}, 4);
    choices[4] = grammar_sequence(s->builder, (int[]){d, low, hex, hex}, 4);
    int single = grammar_choice(s->builder, choices, 5);
    nodes[0] = grammar_sequence(s->builder, (int[]){d, high_half, hex, hex}, 4);
    nodes[1] = schema_literal(s, "\\u");
    nodes[2] = grammar_sequence(s->builder, (int[]){d, low_half, hex, hex}, 4);
    int pair = grammar_sequence(s->builder, nodes, 3);
    return schema_sequence(s, schema_literal(s, "\\u"), grammar_choice(s->builder, (int[]){single, pair}, 2),
                           -2);
}

static int character_node(struct schema *s)
{
    static const struct grammar_range forbidden[] = {{0, 0x1F}, {'"', '"'}, {'\\', '\\'}};
    if (s->character >= 0) return s->character;
    int plain = grammar_character(s->builder, forbidden, 3, true);
    int brief = schema_sequence(s, schema_literal(s, "\\"), byte_set(s, "\"\\/bfnrt"), -2);
    return s->character = grammar_choice(s->builder, (int[]){plain, brief, unicode_escape(s)}, 3);
}

static int quoted(struct schema *s, int inside)
{
    return schema_sequence(s, schema_literal(s, "\""), inside, schema_literal(s, "\""));
}

int schema_any_string(struct schema *s)
{
    if (s->string >= 0) return s->string;
    s->string = grammar_rule(s->builder, "string");
    if (s->string >= 0)
        grammar_define(s->builder, s->string,
                       quoted(s, grammar_repeat(s->builder, character_node(s), 0, -1)));
    return s->string;
}

/* --- What is asked of a string --- */

static bool regex_add(struct schema *s, struct string_facts *facts, struct string_regex regex)
{
    for (int i = 0; i < facts->n_regexes; i++)
        if (facts->regexes[i].search == regex.search && facts->regexes[i].negated == regex.negated &&
            strcmp(facts->regexes[i].pattern, regex.pattern) == 0)
            return true;
    if (facts->n_regexes == MAX_REGEXES) {
        schema_fail(s, ERR_LIMIT, regex.schema, regex.keyword, "more than %d patterns hold for one string",
                    MAX_REGEXES);
        return false;
    }
    facts->regexes[facts->n_regexes++] = regex;
    return true;
}

/* pattern and format, NULL: not there; negated: the pattern of a `not`. */
static bool regexes_add(struct schema *s, struct string_facts *facts, const struct json *schema,
                        const struct json *pattern, const struct json *format, bool negated)
{
    struct string_regex regex = {schema, "pattern", NULL, true, negated};
    facts->negated |= negated && pattern;
    if (pattern) {
        regex.pattern = json_string(pattern, NULL);
        if (!regex_add(s, facts, regex)) return false;
    }
    if (!format) return true;
    bool refused = false;
    const char *name = json_string(format, NULL);
    regex = (struct string_regex){schema, "format", schema_format_pattern(name, &refused), false, false};
    if (refused) {
        schema_fail(s, ERR_UNSUPPORTED, schema, "format", "unsupported format '%.40s'", name);
        return false;
    }
    return !regex.pattern || regex_add(s, facts, regex);
}

static bool own_regexes_add(struct schema *s, struct string_facts *facts, const struct json *schema)
{
    return regexes_add(s, facts, schema, schema_get(s, schema, "pattern"), schema_get(s, schema, "format"),
                       false);
}

/* Strings of `not` with const or enum. */
static bool excluded_add(struct schema *s, struct string_facts *facts, const struct json *schema)
{
    const struct json *one = schema_excluded(s, schema, "const"), *list = schema_excluded(s, schema, "enum");
    size_t n = (one != NULL) + json_length(list);
    if (n == 0) return true;
    const char **names = schema_alloc(s, n + (size_t)facts->n_excluded, sizeof *names);
    if (!names || !schema_work(s, (int64_t)n)) return false;
    if (facts->n_excluded) memcpy(names, facts->excluded, (size_t)facts->n_excluded * sizeof *names);
    facts->excluded = names;
    for (one = one ? one : json_first(list); one; one = list ? json_next(one) : NULL)
        if (json_type(one) == JSON_STRING) names[facts->n_excluded++] = json_string(one, NULL);
    return true;
}

static bool facts_gather(struct schema *s, const struct schema_parts *parts, struct string_facts *facts)
{
    *facts = (struct string_facts){.max = -1};
    for (int i = 0; i < parts->n; i++) {
        const struct json *schema = parts->members[i].schema;
        int64_t min = schema_count(s, schema, "minLength", 0), max = schema_count(s, schema, "maxLength", -1);
        if (min > facts->min) facts->min = min;
        if (max >= 0 && (facts->max < 0 || max < facts->max)) facts->max = max;
        if (!own_regexes_add(s, facts, schema) || !excluded_add(s, facts, schema) ||
            !regexes_add(s, facts, schema, schema_excluded(s, schema, "pattern"), NULL, true))
            return false;
    }
    return !s->err;
}

/* --- As automata --- */

struct automaton *schema_automaton_check(struct schema *s, struct automaton *a, const struct json *at,
                                         const char *keyword)
{
    struct err_info info;
    if (grammar_builder_check(s->builder, &info)) schema_fail(s, ERR_LIMIT, at, keyword, "%s", info.message);
    if (!a)
        schema_fail(s, ERR_LIMIT, at, keyword, "takes an automaton of more than %d states",
                    AUTOMATON_MAX_STATES);
    return a && schema_work(s, (int64_t)a->n * 64) ? a : NULL;
}

static int regex_node(struct schema *s, const struct string_regex *regex, bool json_string)
{
    struct grammar_regex_options options = {.search = regex->search, .json_string = json_string};
    struct err_info info = {.message = ""};
    int node = -1;
    enum err err = grammar_regex(s->builder, regex->pattern, strlen(regex->pattern), &options, &node, &info);
    return err ? schema_fail(s, err, regex->schema, regex->keyword, "%s", info.message) : node;
}

/* Each is made once: values of an enum may ask for it many times. */
struct schema_regex {
    const char *pattern; /* by address */
    struct automaton *automaton;
    struct schema_regex *next;
};

static struct automaton *regex_automaton(struct schema *s, const struct string_regex *regex)
{
    for (struct schema_regex *known = s->regexes; known; known = known->next)
        if (known->pattern == regex->pattern) return known->automaton;
    struct schema_regex *made = schema_keep(s, 1, sizeof *made);
    int node = made ? regex_node(s, regex, false) : -1;
    if (node < 0) return NULL;
    struct automaton *a = automaton_of_node(s->builder, s->scratch, node);
    *made = (struct schema_regex){regex->pattern, a ? automaton_copy(s->arena, a) : NULL, s->regexes};
    if (!schema_automaton_check(s, made->automaton, regex->schema, regex->keyword)) return NULL;
    s->regexes = made;
    return made->automaton;
}

struct automaton *schema_pattern_automaton(struct schema *s, const struct json *schema, const char *pattern)
{
    struct string_regex regex = {schema, "patternProperties", pattern, true, false};
    return regex_automaton(s, &regex);
}

/* The one to name when it is too much. */
static const char *facts_keyword(const struct string_facts *facts)
{
    if (facts->n_regexes) return facts->regexes[0].keyword;
    return facts->n_excluded ? "not" : "maxLength";
}

static struct automaton *facts_automaton(struct schema *s, const struct string_facts *facts,
                                         const struct json *at)
{
    struct automaton *a = automaton_text(s->scratch);
    for (int i = 0; i < facts->n_regexes; i++) {
        struct automaton *regex = regex_automaton(s, &facts->regexes[i]);
        if (!regex) return NULL;
        a = facts->regexes[i].negated ? automaton_minus(s->scratch, a, regex)
                                      : automaton_and(s->scratch, a, regex);
    }
    if (facts->min > 0 || facts->max >= 0)
        a = automaton_and(s->scratch, a, automaton_length(s->scratch, facts->min, facts->max));
    if (facts->n_excluded)
        a = automaton_minus(s->scratch, a, automaton_names(s->scratch, facts->excluded, facts->n_excluded));
    return schema_automaton_check(s, a, at, facts_keyword(facts));
}

struct automaton *schema_string_automaton(struct schema *s, const struct schema_parts *parts)
{
    struct string_facts facts;
    return facts_gather(s, parts, &facts)
               ? facts_automaton(s, &facts, parts->n ? parts->members[0].schema : s->root)
               : NULL;
}

int schema_automaton_string(struct schema *s, const struct json *at, const char *keyword,
                            const struct automaton *texts)
{
    struct automaton *spelled = automaton_spelled(s->scratch, texts);
    if (!schema_automaton_check(s, spelled, at, keyword)) return -1;
    return quoted(s, automaton_node(s->builder, s->scratch, spelled));
}

int schema_string(struct schema *s, const struct schema_parts *parts)
{
    struct string_facts facts;
    if (!facts_gather(s, parts, &facts)) return -1;
    if (facts.max >= 0 && facts.max < facts.min) return grammar_choice(s->builder, NULL, 0);
    bool lengths = facts.min > 0 || facts.max >= 0;
    if (facts.n_excluded + facts.n_regexes == 0)
        return lengths ? quoted(s, grammar_repeat(s->builder, character_node(s), facts.min, facts.max))
                       : schema_any_string(s);
    if (facts.n_excluded == 0 && facts.n_regexes == 1 && !facts.negated && !lengths) {
        int inside = regex_node(s, &facts.regexes[0], true);
        return inside < 0 ? -1 : quoted(s, inside);
    }
    const struct json *at = parts->members[0].schema;
    struct automaton *a = facts_automaton(s, &facts, at);
    return a ? schema_automaton_string(s, at, facts_keyword(&facts), a) : -1;
}

bool schema_string_accepts(struct schema *s, const struct json *schema, const char *text, size_t length)
{
    struct string_facts facts = {.max = -1};
    int64_t characters = (int64_t)utf8_count(text, length);
    int64_t max = schema_count(s, schema, "maxLength", -1);
    if (characters < schema_count(s, schema, "minLength", 0) || (max >= 0 && characters > max)) return false;
    if (!own_regexes_add(s, &facts, schema)) return false;
    for (int i = 0; i < facts.n_regexes; i++) {
        struct automaton *a = regex_automaton(s, &facts.regexes[i]);
        if (!a || !automaton_matches(a, text, length)) return false;
    }
    return true;
}

int schema_key(struct schema *s, const char *text)
{
    struct buf out;
    buf_init(&out, 16 + 6 * strlen(text));
    json_write_text(&out, text);
    int node =
        out.failed ? schema_exhausted(s, s->root, NULL) : grammar_literal(s->builder, out.data, out.length);
    buf_free(&out);
    return node;
}
