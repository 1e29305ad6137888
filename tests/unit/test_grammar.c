/*
 * Grammars: what they derive is compared with a recogniser of another kind (a table over all parts of a
 * short text, the least fixed point, which knows no automata), and every mask with grammar_accept for every
 * token. Random grammars have recursion of every kind, ambiguity, repeats that count, nodes used twice.
 */
#include "model/grammar_text.h"

#include "tests/unit/support/grammar_fixture.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct grammar_fixture fixture;

static const char *const texts[] = {
    "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb", /* 75 characters */
    "ab",
    "abc",
    "abab",
    "aa",
    "aaa",
    "aaaa",
    "aaaaaaaa",
    "bc",
    "cab",
    "ba",
    "bb",
    "bbbb",
    "cc",
    "ca",
    "aab",
    "\"a",
    "a\"",
    "\",",
    "\"}",
    "\"}}",
    "\"]",
    "}}",
    "]]",
    "]}",
    "}]",
    "[[",
    "[1",
    "],[",
    "},{",
    "\": ",
    "\":",
    "{\"",
    "{\"a",
    "{\"a\":",
    "12",
    "123",
    "1,",
    "2]",
    "-1",
    "0.",
    ".5",
    "e1",
    "e+",
    "true",
    "tr",
    "ue",
    "false",
    "null",
    "nu",
    "  ",
    "   ",
    "\n\n",
    "\n  ",
    " \"",
    ", \"",
    "\\n",
    "\\\"",
    "\\u",
    "\\u00",
    "00",
    "hello",
    " world",
    "the",
    " the",
    "ing",
    "\xC3\xA9",
    "\xC3",
    "\xE2\x82",
    "\xA9",
    "\xE2\x82\xAC",
    "\x82\xAC",
    "caf\xC3\xA9",
    "\xF0\x9F\x98\x80",
    "\xF0\x9F",
    "x\xC3",
    "\xAC\xE2",
    "\xC3\xA9\xC3\xA9",
    "\xED\xA0\x80",
    "<tool>",
    "<to",
    "ol>",
    "</",
    "tool>",
    "a<",
    "<<",
    "<a",
    "abcabcabcabcabc",
    "hello world, this is long text",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "a\nb",
    "\"\"",
    "\"\\",
    "()",
    "((",
    "))",
    "+a",
    "a+a",
    "+",
    "aaaaa\"",
    "aaaaaa",
    "aaaaaaa",
    "\xC3\xA9"
    "a",
    "a\xC3\xA9"
    "a",
    "\x7F"
    "a",
};
enum { N_TEXTS = sizeof texts / sizeof *texts };

static int setup(void **state)
{
    (void)state;
    const char *list[N_TEXTS];
    size_t n = 0;
    for (size_t i = 0; i < N_TEXTS; i++)
        if (strlen(texts[i]) > 1) list[n++] = texts[i];
    grammar_fixture_init(&fixture, list, n);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    grammar_fixture_free(&fixture);
    return 0;
}

static uint32_t random_next(uint64_t *seed) /* Steele, Vigna: splitmix64 */
{
    uint64_t z = *seed += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return (uint32_t)((z ^ z >> 31) >> 32);
}

static int below(uint64_t *seed, int n)
{
    return (int)(random_next(seed) % (uint32_t)n);
}

/* ---- Small helpers ---- */

static struct grammar *build_limited(struct grammar_builder *builder, int root, enum err expected,
                                     const char *part)
{
    struct grammar *grammar = NULL;
    struct err_info info = {0};
    enum err err = grammar_build(builder, root, fixture.vocabulary, &grammar, &info);
    if (err != expected) fail_msg("expected %s, got %s: %s", err_name(expected), err_name(err), info.message);
    if (part && !strstr(info.message, part)) fail_msg("'%s' does not say '%s'", info.message, part);
    grammar_builder_free(builder);
    return grammar;
}

static struct grammar *build(struct grammar_builder *builder, int root)
{
    return build_limited(builder, root, ERR_OK, NULL);
}

static struct grammar_builder *builder_new(void)
{
    struct grammar_builder *builder = grammar_builder_create(&grammar_limits_default);
    assert_non_null(builder);
    return builder;
}

static int literal(struct grammar_builder *builder, const char *text)
{
    return grammar_literal(builder, text, strlen(text));
}

static int set_of(struct grammar_builder *builder, const char *bytes)
{
    uint8_t set[32] = {0};
    for (; *bytes; bytes++) set[(unsigned char)*bytes >> 3] |= (uint8_t)(1u << (*bytes & 7));
    return grammar_byte(builder, set);
}

#define SEQUENCE(builder, ...)                                                                               \
    grammar_sequence(builder, (int[]){__VA_ARGS__}, (int)(sizeof((int[]){__VA_ARGS__}) / sizeof(int)))
#define CHOICE(builder, ...)                                                                                 \
    grammar_choice(builder, (int[]){__VA_ARGS__}, (int)(sizeof((int[]){__VA_ARGS__}) / sizeof(int)))

static struct grammar_state *state_new(const struct grammar *grammar)
{
    void *memory = malloc(grammar_state_bytes(grammar));
    assert_non_null(memory);
    return grammar_state_init(memory, grammar);
}

/* 0: refused; 1: a beginning; 2: it may end there; 3: it must. */
static int judge(const struct grammar *grammar, const char *text, size_t length)
{
    struct grammar_state *state = state_new(grammar);
    int verdict = 0;
    if (grammar_accept_bytes(state, text, length))
        verdict = grammar_must_end(state) ? 3 : grammar_can_end(state) ? 2 : 1;
    free(state);
    return verdict;
}

#define JUDGE(grammar, text, verdict) assert_int_equal(judge(grammar, text, sizeof(text) - 1), verdict)

/* Random walks: at every state the mask against grammar_accept. */
static void walk(const struct grammar *grammar, uint64_t seed, int n_walks, int n_steps)
{
    struct grammar_scratch *scratch = grammar_scratch_create(fixture.vocabulary);
    uint32_t allowed[64];
    struct grammar_state *state = state_new(grammar);
    assert_non_null(scratch);
    for (int w = 0; w < n_walks; w++) {
        grammar_state_init(state, grammar);
        for (int s = 0; s < n_steps; s++) {
            int n = grammar_fixture_check(&fixture, grammar, state, scratch, allowed);
            bool can_end = grammar_can_end(state);
            assert_int_equal(can_end, allowed[fixture.end >> 5] >> (fixture.end & 31) & 1);
            assert_false(allowed[fixture.unused >> 5] >> (fixture.unused & 31) & 1);
            if (grammar_must_end(state)) assert_int_equal(n, 1);
            assert_true(n > 0); /* the vocabulary has every byte */
            if (n == (int)can_end) break;
            int32_t token = -1;
            for (int chosen = below(&seed, n - can_end); chosen >= 0;)
                if (++token != fixture.end && allowed[token >> 5] >> (token & 31) & 1) chosen--;
            assert_true(grammar_accept(state, token));
        }
    }
    free(state);
    grammar_scratch_free(scratch);
}

/* ---- Random grammars and the other recogniser ---- */

enum { LONGEST = 5, N_NODES = 24, N_RULES = 3, MOST_PARTS = 3 };

struct tree {
    enum { T_LITERAL, T_SET, T_SEQUENCE, T_CHOICE, T_REPEAT, T_RULE, T_WITHOUT } kind;
    char text[8];
    int parts[MOST_PARTS], n;
    int min, max;
    bool is_large; /* repeat: what is repeated has many more alternatives, so that the repeat counts */
};

struct random_grammar {
    struct tree nodes[N_NODES];
    int n;
    int rules[N_RULES]; /* their meanings */
};

static const struct random_grammar *random_grammar_make(struct random_grammar *it, uint64_t *seed)
{
    memset(it, 0, sizeof *it);
    it->n = 4 + below(seed, N_NODES - 3);
    for (int i = 0; i < it->n; i++) {
        struct tree *node = &it->nodes[i];
        int kind = i < 2 ? below(seed, 2) : below(seed, 14);
        node->kind = kind < 2    ? T_LITERAL
                     : kind < 3  ? T_SET
                     : kind < 7  ? T_SEQUENCE
                     : kind < 9  ? T_CHOICE
                     : kind < 11 ? T_REPEAT
                     : kind < 13 ? T_RULE
                                 : T_WITHOUT;
        if (i < 2 && kind) node->kind = T_SET;
        int length = below(seed, 3) + (node->kind != T_LITERAL);
        for (int j = 0; j < length; j++) node->text[j] = (char)('a' + below(seed, 3));
        node->n =
            node->kind == T_RULE ? below(seed, N_RULES) : below(seed, MOST_PARTS) + (below(seed, 8) > 0);
        if (node->n > MOST_PARTS) node->n = MOST_PARTS;
        for (int j = 0; j < MOST_PARTS && i > 0; j++) node->parts[j] = below(seed, i);
        node->min = below(seed, 4);
        node->max = below(seed, 3) ? node->min + below(seed, 4) : -1;
        node->is_large = below(seed, 2);
    }
    for (int r = 0; r < N_RULES; r++) it->rules[r] = it->n - 1 - below(seed, it->n > 8 ? 8 : it->n);
    return it;
}

static int tree_build(struct grammar_builder *builder, const struct random_grammar *it, int rules[N_RULES])
{
    int nodes[N_NODES];
    for (int r = 0; r < N_RULES; r++) rules[r] = grammar_rule(builder, "rule");
    for (int i = 0; i < it->n; i++) {
        const struct tree *node = &it->nodes[i];
        int parts[MOST_PARTS];
        for (int j = 0; j < MOST_PARTS; j++) parts[j] = i ? nodes[node->parts[j]] : -1;
        switch (node->kind) {
        case T_LITERAL:
            nodes[i] = literal(builder, node->text);
            break;
        case T_SET:
            nodes[i] = set_of(builder, node->text);
            break;
        case T_SEQUENCE:
            nodes[i] = grammar_sequence(builder, parts, node->n);
            break;
        case T_CHOICE:
            nodes[i] = grammar_choice(builder, parts, node->n);
            break;
        case T_RULE:
            nodes[i] = rules[node->n];
            break;
        case T_WITHOUT:
            nodes[i] =
                grammar_without(builder, (const char *[]){node->text}, (size_t[]){strlen(node->text)}, 1);
            nodes[i] = SEQUENCE(builder, literal(builder, "a"), nodes[i]);
            break;
        case T_REPEAT:
            if (node->is_large)
                parts[0] =
                    CHOICE(builder, parts[0], literal(builder, "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"),
                           literal(builder, "yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy"));
            nodes[i] = grammar_repeat(builder, parts[0], node->min, node->max);
        }
    }
    for (int r = 0; r < N_RULES; r++) grammar_define(builder, rules[r], nodes[it->rules[r]]);
    return nodes[it->n - 1];
}

typedef bool table[LONGEST + 1][LONGEST + 1]; /* [from][to] of the text */

static bool sequence_derives(const struct tree *node, table *known, int from, int to)
{
    bool reached[LONGEST + 1] = {false};
    reached[from] = true;
    for (int p = 0; p < node->n; p++) {
        bool next[LONGEST + 1] = {false};
        for (int i = from; i <= to; i++)
            for (int j = i; reached[i] && j <= to; j++) next[j] |= known[node->parts[p]][i][j];
        memcpy(reached, next, sizeof reached);
    }
    return reached[to];
}

/* Pieces that are not empty; empty ones make up for what is missing. */
static bool repeat_derives(const struct tree *node, table *known, int from, int to)
{
    bool may_be_empty = known[node->parts[0]][from][from];
    bool reached[LONGEST + 1] = {false};
    reached[from] = true;
    for (int n = 0; n <= LONGEST && (node->max < 0 || n <= node->max); n++) {
        if (reached[to] && (n >= node->min || may_be_empty)) return true;
        bool next[LONGEST + 1] = {false};
        for (int i = from; i <= to; i++)
            for (int j = i + 1; reached[i] && j <= to; j++) next[j] |= known[node->parts[0]][i][j];
        memcpy(reached, next, sizeof reached);
    }
    return false;
}

static bool tree_derives(const struct random_grammar *it, const struct tree *node, table *known,
                         const char *text, int from, int to)
{
    int length = to - from;
    switch (node->kind) {
    case T_LITERAL:
        return (int)strlen(node->text) == length && memcmp(node->text, text + from, length) == 0;
    case T_SET:
        return length == 1 && strchr(node->text, text[from]);
    case T_SEQUENCE:
        return sequence_derives(node, known, from, to);
    case T_REPEAT:
        return node->max == 0 ? length == 0 : repeat_derives(node, known, from, to);
    case T_RULE:
        return known[it->rules[node->n]][from][to];
    case T_CHOICE:
        for (int p = 0; p < node->n; p++)
            if (known[node->parts[p]][from][to]) return true;
        return false;
    case T_WITHOUT:
        if (length == 0 || text[from] != 'a') return false;
        for (int i = from + 1; i + (int)strlen(node->text) <= to; i++)
            if (memcmp(text + i, node->text, strlen(node->text)) == 0) return false;
        return true;
    }
    return false;
}

static bool random_grammar_derives(const struct random_grammar *it, const char *text)
{
    table known[N_NODES];
    memset(known, 0, sizeof known);
    int length = (int)strlen(text);
    for (bool changed = true; changed;) {
        changed = false;
        for (int n = 0; n < it->n; n++)
            for (int i = 0; i <= length; i++)
                for (int j = i; j <= length; j++)
                    if (!known[n][i][j] && tree_derives(it, &it->nodes[n], known, text, i, j))
                        known[n][i][j] = changed = true;
    }
    return known[it->n - 1][0][length];
}

/* All texts over a, b, c of up to LONGEST bytes; a text that begins one must not be refused. */
static int language_check(const struct random_grammar *it, const struct grammar *grammar, uint64_t seed)
{
    char text[LONGEST + 1] = {0};
    int n_derived = 0;
    for (int length = 0; length <= LONGEST; length++) {
        int n = 1;
        for (int i = 0; i < length; i++) n *= 3;
        for (int k = 0; k < n; k++) {
            for (int i = 0, rest = k; i < length; i++, rest /= 3) text[i] = (char)('a' + rest % 3);
            text[length] = 0;
            bool expected = random_grammar_derives(it, text);
            int verdict = judge(grammar, text, (size_t)length);
            if ((verdict >= 2) != expected)
                fail_msg("seed %llu: '%s' is %s", (unsigned long long)seed, text,
                         expected ? "refused" : "accepted");
            n_derived += expected;
            for (int i = 0; expected && i < length; i++)
                assert_int_not_equal(
                    judge(grammar, text, (size_t)i) & 1 ? 1 : judge(grammar, text, (size_t)i), 0);
        }
    }
    return n_derived;
}

static void test_random(void **state)
{
    (void)state;
    int n_built = 0, n_derived = 0;
    for (uint64_t i = 1; i <= 300; i++) {
        uint64_t seed = i;
        struct random_grammar it;
        random_grammar_make(&it, &seed);
        struct grammar_builder *builder = builder_new();
        int rules[N_RULES], root = tree_build(builder, &it, rules);
        struct grammar *grammar = NULL;
        struct err_info info = {0};
        enum err err = grammar_build(builder, root, fixture.vocabulary, &grammar, &info);
        grammar_builder_free(builder);
        if (err == ERR_INVALID) { /* derives nothing, or only what has letters of its own: nothing short */
            assert_non_null(strstr(info.message, "derives no text"));
            assert_false(random_grammar_derives(&it, ""));
            continue;
        }
        assert_int_equal(err, ERR_OK);
        n_built++;
        n_derived += language_check(&it, grammar, i);
        if (i % 4 == 0) walk(grammar, i, 2, 12);
        grammar_release(grammar);
    }
    assert_true(n_built > 150);
    assert_true(n_derived > 2500);
}

/* ---- JSON: strings, numbers, recursion ---- */

static int json_character(struct grammar_builder *b)
{
    static const struct grammar_range not_plain[] = {{0, 0x1F}, {'"', '"'}, {'\\', '\\'}};
    int hex = set_of(b, "0123456789abcdefABCDEF");
    int escape = CHOICE(b, set_of(b, "\"\\/bfnrt"), SEQUENCE(b, literal(b, "u"), hex, hex, hex, hex));
    return CHOICE(b, grammar_character(b, not_plain, 3, true), SEQUENCE(b, literal(b, "\\"), escape));
}

static int string_node(struct grammar_builder *b, int64_t min, int64_t max)
{
    int quote = literal(b, "\"");
    return SEQUENCE(b, quote, grammar_repeat(b, json_character(b), min, max), quote);
}

static int json_list(struct grammar_builder *b, const char *open, int item, const char *close, int64_t max)
{
    int space = grammar_repeat(b, set_of(b, " \n"), 0, 3);
    int more = SEQUENCE(b, space, literal(b, ","), space, item);
    int items = SEQUENCE(b, item, grammar_repeat(b, more, 0, max), space);
    return SEQUENCE(b, literal(b, open), space, grammar_repeat(b, items, 0, 1), literal(b, close));
}

static int json_value(struct grammar_builder *b, int64_t longest, int64_t most)
{
    int value = grammar_rule(b, "value"), space = grammar_repeat(b, literal(b, " "), 0, 2);
    int digits = grammar_repeat(b, set_of(b, "0123456789"), 1, -1);
    int number = SEQUENCE(b, grammar_repeat(b, literal(b, "-"), 0, 1), digits,
                          grammar_repeat(b, SEQUENCE(b, literal(b, "."), digits), 0, 1));
    int pair = SEQUENCE(b, string_node(b, 0, longest), space, literal(b, ":"), space, value);
    grammar_define(b, value,
                   CHOICE(b, json_list(b, "{", pair, "}", most), json_list(b, "[", value, "]", most),
                          string_node(b, 0, longest), number, literal(b, "true"), literal(b, "null")));
    return value;
}

static void test_json(void **state)
{
    (void)state;
    static const int64_t sizes[][2] = {{-1, -1}, {7, 2}, {40, 200}, {100000, 1}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct grammar_builder *builder = builder_new();
        struct grammar *grammar = build(builder, json_value(builder, sizes[i][0], sizes[i][1]));
        JUDGE(grammar, "", 1);
        JUDGE(grammar, "[1, {\"a\": [true, \"x\"]}", 1);
        JUDGE(grammar, "[1, {\"a\": [true, \"\\u00e9\\n\"]}]", 3);
        JUDGE(grammar, "12", 2);
        JUDGE(grammar, "12.", 1);
        JUDGE(grammar, "12.]", 0);
        JUDGE(grammar, "[1,]", 0);
        JUDGE(grammar, "[[[]]", 1);
        JUDGE(grammar, "[[[]]]", 3);
        JUDGE(grammar, "\"\xC3\"", 0);
        walk(grammar, 77 + i, 8, 24);
        grammar_release(grammar);
    }
}

/* Around the ends of counted strings every mask is another one. */
static void test_string_lengths(void **state)
{
    (void)state;
    static const int64_t lengths[][2] = {{0, 1},   {0, 5},   {4, 9},    {20, 20}, {0, 33},
                                         {31, 64}, {0, 300}, {300, -1}, {1, -1},  {2, -1}};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        int64_t min = lengths[i][0], max = lengths[i][1];
        struct grammar_builder *builder = builder_new();
        int string = string_node(builder, min, max);
        struct grammar *grammar =
            build(builder, SEQUENCE(builder, string, literal(builder, ","), string, literal(builder, "}")));
        for (int64_t n = 0; n < 340; n++) {
            char text[700] = "\"";
            size_t length = 1;
            for (int64_t j = 0; j < n; j++) {
                const char *character = j % 3 == 0 ? "a" : j % 3 == 1 ? "\xC3\xA9" : "\\\"";
                if (length + 3 > sizeof text) break;
                memcpy(text + length, character, strlen(character));
                length += strlen(character);
            }
            if (length + 3 > sizeof text) break;
            assert_int_equal(judge(grammar, text, length), max < 0 || n <= max);
            memcpy(text + length, "\",", 2);
            assert_int_equal(judge(grammar, text, length + 2), n >= min && (max < 0 || n <= max));
        }
        walk(grammar, 5 + i, 4, 60);
        grammar_release(grammar);
    }
}

/* Free text, and what follows it is of the same characters. */
static void test_free_text_then_text(void **state)
{
    (void)state;
    static const int64_t lengths[][2] = {{0, 5}, {3, 40}, {6, 6}, {2, -1}, {0, -1}};
    for (size_t i = 0; i < 2 * sizeof lengths / sizeof *lengths; i++) {
        struct grammar_builder *builder = builder_new();
        int text = grammar_repeat(builder, json_character(builder), lengths[i / 2][0], lengths[i / 2][1]);
        int after = grammar_repeat(builder, set_of(builder, "abe\xC3\xA9\n"), 3, i & 1 ? 50 : 5);
        struct grammar *grammar = build(builder, SEQUENCE(builder, literal(builder, "x"), text, after));
        walk(grammar, 31 + i, 4, 16);
        grammar_release(grammar);
    }
}

/* Repeats that are written out: places through which any character leads. */
static void test_chains_of_characters(void **state)
{
    (void)state;
    static const char *const patterns[] = {"\"[^\"\\n]{0,9}\"", "[^\"]{5}",          "x[^\"\\n]{2,6}[^\"]*\"",
                                           "[^\"]{3}abc",       "([^\"]{3}\\n)*",    "[^\"]{4}\"?",
                                           "([^\"]{2})*\"",     "[^\"\\\\]{0,40}\"", "[^\"\n]{3}[a-c\\n]{2}",
                                           "(a|[^\"]{3})\""};
    for (size_t i = 0; i < 2 * sizeof patterns / sizeof *patterns; i++) {
        const char *pattern = patterns[i / 2];
        struct grammar_builder *builder = builder_new();
        static const struct grammar_regex_options whole = {0};
        int node = -1;
        assert_int_equal(grammar_regex(builder, pattern, strlen(pattern), &whole, &node, NULL), ERR_OK);
        /* As the whole, and called by a rule that has it inside itself. */
        int rule = grammar_rule(builder, "rule");
        int inside = SEQUENCE(builder, literal(builder, "{"), rule, set_of(builder, "}e\n"));
        grammar_define(builder, rule, CHOICE(builder, node, inside));
        struct grammar *grammar = build(builder, i & 1 ? rule : node);
        walk(grammar, 61 + i, 6, 24);
        grammar_release(grammar);
    }
}

static void test_long_repeats(void **state)
{
    (void)state;
    struct grammar_builder *builder = builder_new();
    int letters = grammar_repeat(builder, set_of(builder, "abc"), 100000, 100000);
    struct grammar *grammar = build(builder, SEQUENCE(builder, letters, literal(builder, "<")));
    assert_true(grammar_bytes(grammar) < 100000);
    struct grammar_state *it = state_new(grammar);
    struct grammar_scratch *scratch = grammar_scratch_create(fixture.vocabulary);
    uint32_t allowed[64];
    char text[1000];
    memset(text, 'a', sizeof text);
    for (int i = 0; i < 100; i++) {
        assert_true(grammar_fixture_check(&fixture, grammar, it, scratch, allowed) > 3);
        if (i < 99) assert_true(grammar_accept_bytes(it, text, sizeof text));
    }
    assert_false(grammar_accept_bytes(it, "<", 1));
    assert_true(grammar_accept_bytes(it, text, 990));
    for (int i = 0; i < 10; i++) {
        grammar_fixture_check(&fixture, grammar, it, scratch, allowed);
        assert_true(grammar_accept_bytes(it, "b", 1));
    }
    assert_false(grammar_accept_bytes(it, "b", 1));
    assert_true(grammar_accept_bytes(it, "<", 1));
    assert_true(grammar_must_end(it));
    free(it);
    grammar_scratch_free(scratch);
    grammar_release(grammar);

    /* What is repeated may end in several ways, and something of the same kind follows. */
    builder = builder_new();
    int word = SEQUENCE(builder, grammar_repeat(builder, set_of(builder, "ab"), 1, -1),
                        grammar_repeat(builder, literal(builder, "c"), 0, 1));
    grammar = build(builder, SEQUENCE(builder, grammar_repeat(builder, word, 40, 60), literal(builder, "a")));
    memset(text, 'a', sizeof text);
    assert_int_equal(judge(grammar, text, 40), 1);
    assert_int_equal(judge(grammar, text, 41), 2);
    assert_int_equal(judge(grammar, text, 900), 2);
    for (int i = 0; i < 61; i++) memcpy(text + 2 * i, "bc", 2);
    assert_int_equal(judge(grammar, text, 120), 1);
    assert_int_equal(judge(grammar, text, 122), 0);
    walk(grammar, 3, 4, 70);
    grammar_release(grammar);
}

/* ---- Characters ---- */

static bool in_ranges(const struct grammar_range *ranges, int n, uint32_t point)
{
    for (int i = 0; i < n; i++)
        if (point >= ranges[i].first && point <= ranges[i].last) return true;
    return false;
}

static void test_characters(void **state)
{
    (void)state;
    static const struct grammar_range ranges[][3] = {
        {{'a', 'z'}, {0x3B1, 0x3C9}, {0x10000, 0x10FFFF}},
        {{0x7F, 0x7FF}, {0x900, 0x7000}, {0, 5}},
        {{0xD7FF, 0xE000}, {0xFFF0, 0x10010}, {0x40000, 0x80001}},
        {{0, 0x10FFFF}, {5, 3}, {0x41, 0x41}},
    };
    for (size_t i = 0; i < 2 * sizeof ranges / sizeof *ranges; i++) {
        bool negated = i & 1;
        struct grammar_builder *builder = builder_new();
        int character = grammar_character(builder, ranges[i / 2], 3, negated);
        if (i / 2 == 3 && negated) {
            build_limited(builder, character, ERR_INVALID, "derives no text");
            continue;
        }
        struct grammar *grammar = build(builder, character);
        for (uint32_t point = 0; point < 0x110000;
             point += point < 0x3000 || (point & 0xFFF) > 0xFF0 ? 1 : 7) {
            char bytes[4] = {0};
            size_t n = 0; /* surrogates too, as if they were characters */
            if (point < 0x80) {
                bytes[n++] = (char)point;
            } else {
                int follow = point < 0x800 ? 1 : point < 0x10000 ? 2 : 3;
                bytes[n++] = (char)((follow == 1 ? 0xC0 : follow == 2 ? 0xE0 : 0xF0) | point >> 6 * follow);
                while (follow-- > 0) bytes[n++] = (char)(0x80 | (point >> 6 * follow & 0x3F));
            }
            bool expected =
                (point < 0xD800 || point > 0xDFFF) && in_ranges(ranges[i / 2], 3, point) != negated;
            if ((judge(grammar, bytes, n) == 3) != expected)
                fail_msg("U+%04X: ranges %zu, negated %d", point, i / 2, negated);
        }
        JUDGE(grammar, "\xC0\x80", 0);
        JUDGE(grammar, "\xED\xA0\x80", 0);
        JUDGE(grammar, "\xF4\x90\x80\x80", 0);
        grammar_release(grammar);
    }
}

static void test_without(void **state)
{
    (void)state;
    const char *const strings[] = {"<tool>", "aab",
                                   "\xC3\xA9"
                                   "c",
                                   "bab"};
    const size_t lengths[] = {6, 3, 3, 3};
    static const char *const pieces[] = {"a", "b", "c", "<", "<to", "ol>", "\xC3\xA9", "tool"};
    for (int n = 0; n <= 4; n++) {
        struct grammar_builder *builder = builder_new();
        struct grammar *grammar = build(builder, grammar_without(builder, strings, lengths, n));
        uint64_t seed = 9;
        for (int i = 0; i < 3000; i++) {
            char text[64] = "";
            for (int j = below(&seed, 8); j >= 0; j--) strcat(text, pieces[below(&seed, 8)]);
            bool expected = true;
            for (int j = 0; j < n; j++) expected &= !strstr(text, strings[j]);
            assert_int_equal(judge(grammar, text, strlen(text)), expected ? 2 : 0);
        }
        JUDGE(grammar, "\xC3", 1);
        JUDGE(grammar, "\x80", 0);
        walk(grammar, 21, 3, 40);
        grammar_release(grammar);
    }
    struct grammar_builder *builder = builder_new();
    int none = grammar_without(builder, (const char *[]){""}, (size_t[]){0}, 1);
    build_limited(builder, none, ERR_INVALID, "derives no text");
}

/* ---- Control and end tokens ---- */

static void test_control(void **state)
{
    (void)state;
    struct grammar_builder *builder = builder_new();
    int call = literal(builder, "\xFF<|call|>");
    int root =
        CHOICE(builder, literal(builder, "<|call|>b"), SEQUENCE(builder, call, literal(builder, "a"), call));
    struct grammar *grammar = build(builder, root);
    walk(grammar, 1, 5, 12);
    struct grammar_state *it = state_new(grammar);
    assert_false(grammar_accept(it, 0xFF)); /* the token of that byte is not one of text */
    assert_false(grammar_accept(it, fixture.end));
    assert_false(grammar_accept(it, fixture.unused));
    assert_false(grammar_accept(it, -1));
    assert_false(grammar_accept(it, fixture.n_tokens));
    assert_true(grammar_accept(it, fixture.control));
    assert_true(grammar_accept(it, 'a'));
    assert_false(grammar_accept(it, '<'));
    assert_false(grammar_can_end(it));
    assert_true(grammar_accept(it, fixture.control));
    assert_true(grammar_must_end(it));
    assert_true(grammar_accept(it, fixture.end));
    assert_true(grammar_accept(it, fixture.end)); /* leaves it as it is */
    assert_false(grammar_accept(it, fixture.control));
    grammar_state_init(it, grammar);
    assert_true(grammar_accept_bytes(it, "<|call|>b", 9)); /* as text */
    free(it);
    grammar_release(grammar);
    builder = builder_new(); /* an end token that the grammar writes itself */
    grammar = build(builder, SEQUENCE(builder, literal(builder, "a"), literal(builder, "\xFF<|endoftext|>"),
                                      literal(builder, "b")));
    it = state_new(grammar);
    assert_false(grammar_accept(it, fixture.end));
    assert_true(grammar_accept(it, 'a'));
    assert_true(grammar_accept(it, fixture.end));
    assert_true(grammar_accept(it, 'b'));
    free(it);
    grammar_release(grammar);
}

/* ---- Recursion, ambiguity, limits while running ---- */

static int sums(struct grammar_builder *builder)
{
    int e = grammar_rule(builder, "e");
    grammar_define(builder, e,
                   CHOICE(builder, SEQUENCE(builder, e, literal(builder, "+"), e),
                          SEQUENCE(builder, literal(builder, "("), e, literal(builder, ")")),
                          grammar_repeat(builder, set_of(builder, "ab"), 1, -1)));
    return e;
}

static void test_recursion(void **state)
{
    (void)state;
    struct grammar_builder *builder = builder_new();
    struct grammar *grammar = build(builder, sums(builder)); /* left recursive and ambiguous */
    JUDGE(grammar, "a+b+(a+a)+((b))", 2);
    JUDGE(grammar, "a+b+(a+a)+((b)", 1);
    JUDGE(grammar, "a++", 0);
    char text[4001];
    for (size_t i = 0; i < sizeof text; i++) text[i] = i % 2 ? '+' : 'a';
    assert_int_equal(judge(grammar, text, 101), 2);  /* 51 terms: parses by the billion */
    assert_int_equal(judge(grammar, text, 4001), 0); /* a limit, which refuses */
    walk(grammar, 11, 6, 30);
    grammar_release(grammar);
    builder = builder_new();
    int list = grammar_rule(builder, "list"); /* right recursive, through another rule */
    int tail = grammar_rule(builder, "tail");
    grammar_define(builder, tail, CHOICE(builder, list, literal(builder, ".")));
    grammar_define(builder, list, SEQUENCE(builder, set_of(builder, "a+"), tail));
    grammar = build(builder, list);
    assert_int_equal(judge(grammar, text, sizeof text), 1); /* the stack does not grow */
    grammar_release(grammar);
    builder = builder_new(); /* everything that only returns to itself or derives nothing is harmless */
    int a = grammar_rule(builder, "a"), b = grammar_rule(builder, "b"), c = grammar_rule(builder, "c");
    grammar_define(builder, a, CHOICE(builder, a, b, SEQUENCE(builder, a, a), SEQUENCE(builder, c, a)));
    grammar_define(builder, b, CHOICE(builder, a, literal(builder, ""), literal(builder, "ab")));
    grammar_define(builder, c, SEQUENCE(builder, c, literal(builder, "x")));
    grammar = build(builder, a);
    JUDGE(grammar, "", 2);
    JUDGE(grammar, "ababab", 2);
    JUDGE(grammar, "aba", 1);
    JUDGE(grammar, "x", 0);
    walk(grammar, 13, 2, 10);
    grammar_release(grammar);
}

/* Where the stack is full, masks and grammar_accept still agree, and what fits can be finished. */
static void test_depth(void **state)
{
    (void)state;
    struct grammar_limits limits = grammar_limits_default;
    limits.max_depth = 40;
    struct grammar_builder *builder = grammar_builder_create(&limits);
    struct grammar *grammar = build(builder, json_value(builder, -1, -1));
    struct grammar_scratch *scratch = grammar_scratch_create(fixture.vocabulary);
    uint32_t allowed[64];
    struct grammar_state *it = state_new(grammar);
    int depth = 0;
    for (; depth < 100; depth++) {
        grammar_fixture_check(&fixture, grammar, it, scratch, allowed);
        if (!grammar_accept(it, '[')) break;
    }
    assert_in_range(depth, 10, 41);
    while (depth-- > 0) {
        grammar_fixture_check(&fixture, grammar, it, scratch, allowed);
        assert_true(grammar_accept(it, ']'));
    }
    assert_true(grammar_must_end(it));
    walk(grammar, 17, 4, 60);
    free(it);
    grammar_release(grammar);
    /* Strings that count take a frame each; at every depth, also with masks that other depths have made. */
    builder = grammar_builder_create(&limits);
    int nest = grammar_rule(builder, "nest");
    grammar_define(builder, nest,
                   SEQUENCE(builder, literal(builder, "["),
                            CHOICE(builder, nest, string_node(builder, 0, 50), literal(builder, "1")),
                            literal(builder, "]")));
    grammar = build(builder, nest);
    it = state_new(grammar);
    void *memory = malloc(grammar_state_bytes(grammar));
    while (grammar_accept(it, '[')) {
        struct grammar_state *copy = grammar_state_init(memory, grammar);
        grammar_state_copy(copy, it);
        for (const char *c = "\"aa\"]"; *c; c++) {
            grammar_fixture_check(&fixture, grammar, copy, scratch, allowed);
            if (!grammar_accept(copy, *c)) break;
        }
    }
    free(memory);
    free(it);
    grammar_scratch_free(scratch);
    grammar_release(grammar);
    /* More parses at once than there is room for: refused, in masks too. */
    builder = builder_new();
    int nodes[400];
    char text[404];
    memset(text, 'a', sizeof text);
    for (int i = 0; i < 400; i++) { /* machines that nothing merges: each calls itself */
        nodes[i] = grammar_rule(builder, "r");
        int end = grammar_literal(builder, (char[]){(char)('a' + i % 20), (char)('a' + i / 20)}, 2);
        grammar_define(
            builder, nodes[i],
            CHOICE(builder, SEQUENCE(builder, literal(builder, "aa"), nodes[i], literal(builder, "x")), end));
    }
    grammar = build(builder, grammar_choice(builder, nodes, 400));
    walk(grammar, 19, 4, 6);
    JUDGE(grammar, "a", 0);
    JUDGE(grammar, "bc", 3);
    grammar_release(grammar);
}

static void test_small_cache(void **state)
{
    (void)state;
    for (size_t kib = 20; kib <= 200; kib += 60) {
        struct grammar_limits limits = grammar_limits_default;
        limits.max_bytes = kib << 10;
        struct grammar_builder *builder = grammar_builder_create(&limits);
        struct grammar *grammar = NULL;
        struct err_info info = {0};
        enum err err = grammar_build(builder, json_value(builder, 9, 3), fixture.vocabulary, &grammar, &info);
        grammar_builder_free(builder);
        if (err != ERR_OK) {
            assert_int_equal(err, ERR_LIMIT);
            continue;
        }
        walk(grammar, kib, 6, 30);
        assert_true(grammar_bytes(grammar) <= limits.max_bytes);
        grammar_release(grammar);
    }
}

/* ---- Faults ---- */

static void test_faults(void **state)
{
    (void)state;
    struct grammar_builder *b = builder_new();
    build_limited(b, SEQUENCE(b, literal(b, "a"), grammar_rule(b, "lost")), ERR_INVALID, "'lost'");
    b = builder_new();
    int rule = grammar_rule(b, "r");
    grammar_define(b, rule, SEQUENCE(b, rule, literal(b, "a")));
    build_limited(b, rule, ERR_INVALID, "derives no text");
    b = builder_new();
    rule = grammar_rule(b, "twice");
    grammar_define(b, rule, literal(b, "a"));
    grammar_define(b, rule, literal(b, "b"));
    build_limited(b, rule, ERR_INVALID, "'twice'");
    b = builder_new();
    build_limited(b, grammar_repeat(b, literal(b, "a"), 3, 2), ERR_INVALID, "3 to 2");
    b = builder_new();
    build_limited(b, grammar_repeat(b, literal(b, "a"), 0, INT64_MAX), ERR_LIMIT, "repeated");
    b = builder_new();
    assert_int_equal(grammar_sequence(b, (int[]){literal(b, "a"), -1}, 2), -1);
    grammar_fail(b, &(struct err_info){ERR_UNSUPPORTED, "the first", ""});
    grammar_fail(b, &(struct err_info){ERR_INVALID, "the second", ""});
    build_limited(b, literal(b, "a"), ERR_UNSUPPORTED, "the first");
    b = builder_new();
    build_limited(b, grammar_byte(b, (uint8_t[32]){0}), ERR_INVALID, "derives no text");
    b = builder_new();
    build_limited(b, -1, ERR_INVALID, "no start");
    b = builder_new();
    build_limited(b, grammar_choice(b, NULL, 0), ERR_INVALID, "derives no text");
    struct grammar_limits limits = grammar_limits_default;
    limits.max_nodes = 10;
    b = grammar_builder_create(&limits);
    for (int i = 0; i < 20; i++) grammar_rule(b, "r");
    build_limited(b, literal(b, "a"), ERR_LIMIT, "10 nodes");
    limits = grammar_limits_default;
    limits.max_states = 50;
    b = grammar_builder_create(&limits);
    build_limited(b, json_value(b, -1, -1), ERR_LIMIT, "states");
    limits = grammar_limits_default;
    limits.max_bytes = 5000;
    b = grammar_builder_create(&limits);
    build_limited(b, json_value(b, -1, -1), ERR_LIMIT, "bytes");
    /* (a|b)*a(a|b){n}: 2 to the n deterministic states. */
    limits = grammar_limits_default;
    limits.max_time_us = 20000;
    limits.max_states = limits.max_bytes = SIZE_MAX / 64;
    b = grammar_builder_create(&limits);
    int any = set_of(b, "ab"), nodes[60];
    for (int i = 0; i < 60; i++) nodes[i] = any;
    nodes[0] = grammar_repeat(b, any, 0, -1);
    nodes[1] = literal(b, "a");
    build_limited(b, grammar_sequence(b, nodes, 60), ERR_LIMIT, "20 ms");
    /* Deep nests end in an error, not in the C stack's. */
    b = builder_new();
    rule = literal(b, "a");
    for (int i = 0; i < 100000; i++) rule = SEQUENCE(b, literal(b, i & 1 ? "(" : "["), rule);
    build_limited(b, rule, ERR_LIMIT, "deep");
    grammar_release(NULL);
    grammar_builder_free(NULL);
    grammar_scratch_free(NULL);
    grammar_vocabulary_free(NULL);
}

/* ---- Threads ---- */

struct worker {
    pthread_t thread;
    const struct grammar *grammar;
    uint64_t seed;
};

static void *worker_run(void *argument)
{
    struct worker *worker = argument;
    walk(worker->grammar, worker->seed, 4, 24);
    return NULL;
}

static void test_threads(void **state)
{
    (void)state;
    struct grammar_limits limits = grammar_limits_default;
    limits.max_bytes = 130000; /* few entries: they come and go */
    struct grammar_builder *builder = grammar_builder_create(&limits);
    struct grammar *grammar = build(builder, json_value(builder, 20, -1));
    struct worker workers[4];
    for (int i = 0; i < 4; i++) {
        workers[i] = (struct worker){.grammar = grammar, .seed = (uint64_t)i / 2};
        grammar_retain(grammar);
        assert_int_equal(pthread_create(&workers[i].thread, NULL, worker_run, &workers[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(workers[i].thread, NULL);
        grammar_release(grammar);
    }
    grammar_release(grammar);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_json),
        cmocka_unit_test(test_string_lengths),
        cmocka_unit_test(test_free_text_then_text),
        cmocka_unit_test(test_chains_of_characters),
        cmocka_unit_test(test_long_repeats),
        cmocka_unit_test(test_characters),
        cmocka_unit_test(test_without),
        cmocka_unit_test(test_control),
        cmocka_unit_test(test_recursion),
        cmocka_unit_test(test_depth),
        cmocka_unit_test(test_small_cache),
        cmocka_unit_test(test_faults),
        cmocka_unit_test(test_threads),
    };
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, setup, teardown);
}
