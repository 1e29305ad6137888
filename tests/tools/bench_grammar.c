/*
 * bench_grammar MODEL.gguf [REPEATS [-v]]: what masks cost on a real vocabulary. Texts are followed token by
 * token through grammars; at each place the mask is made once with a new grammar (cold) and once when the
 * grammar has seen the text (warm). Microseconds of the thread's own time, which other load disturbs least.
 */
#include "model/grammar_text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void die(const char *message)
{
    fprintf(stderr, "bench_grammar: %s\n", message);
    exit(1);
}

static int literal(struct grammar_builder *b, const char *text)
{
    return grammar_literal(b, text, strlen(text));
}

static int set(struct grammar_builder *b, const char *bytes)
{
    uint8_t bits[32] = {0};
    for (; *bytes; bytes++) bits[(unsigned char)*bytes >> 3] |= (uint8_t)(1u << (*bytes & 7));
    return grammar_byte(b, bits);
}

#define SEQUENCE(b, ...)                                                                                     \
    grammar_sequence(b, (int[]){__VA_ARGS__}, (int)(sizeof((int[]){__VA_ARGS__}) / sizeof(int)))
#define CHOICE(b, ...)                                                                                       \
    grammar_choice(b, (int[]){__VA_ARGS__}, (int)(sizeof((int[]){__VA_ARGS__}) / sizeof(int)))

/* ---- Parts of JSON ---- */

static int string_node(struct grammar_builder *b, int64_t min, int64_t max)
{
    static const struct grammar_range not_plain[] = {{0, 0x1F}, {'"', '"'}, {'\\', '\\'}};
    int hex = set(b, "0123456789abcdefABCDEF");
    int character =
        CHOICE(b, grammar_character(b, not_plain, 3, true),
               SEQUENCE(b, literal(b, "\\"),
                        CHOICE(b, set(b, "\"\\/bfnrt"), SEQUENCE(b, literal(b, "u"), hex, hex, hex, hex))));
    int quote = literal(b, "\"");
    return SEQUENCE(b, quote, grammar_repeat(b, character, min, max), quote);
}

static int number_node(struct grammar_builder *b)
{
    int digits = grammar_repeat(b, set(b, "0123456789"), 1, -1);
    return SEQUENCE(
        b, grammar_repeat(b, literal(b, "-"), 0, 1),
        CHOICE(b, literal(b, "0"),
               SEQUENCE(b, set(b, "123456789"), grammar_repeat(b, set(b, "0123456789"), 0, -1))),
        grammar_repeat(b, SEQUENCE(b, literal(b, "."), digits), 0, 1),
        grammar_repeat(b, SEQUENCE(b, set(b, "eE"), grammar_repeat(b, set(b, "+-"), 0, 1), digits), 0, 1));
}

static int space(struct grammar_builder *b)
{
    return grammar_repeat(b, set(b, " \n\t\r"), 0, 20);
}

static int list(struct grammar_builder *b, const char *open, int item, const char *close, int64_t max)
{
    int more = SEQUENCE(b, space(b), literal(b, ","), space(b), item);
    return SEQUENCE(b, literal(b, open), space(b),
                    grammar_repeat(b, SEQUENCE(b, item, grammar_repeat(b, more, 0, max), space(b)), 0, 1),
                    literal(b, close));
}

/* ---- Grammars ---- */

static int any_json(struct grammar_builder *b)
{
    int value = grammar_rule(b, "value");
    int pair = SEQUENCE(b, string_node(b, 0, -1), space(b), literal(b, ":"), space(b), value);
    int object = list(b, "{", pair, "}", -1);
    grammar_define(b, value,
                   CHOICE(b, object, list(b, "[", value, "]", -1), string_node(b, 0, -1), number_node(b),
                          literal(b, "true"), literal(b, "false"), literal(b, "null")));
    return object;
}

static int property(struct grammar_builder *b, const char *name, int value)
{
    return SEQUENCE(b, space(b), literal(b, "\""), literal(b, name), literal(b, "\""), space(b),
                    literal(b, ":"), space(b), value, space(b));
}

static int person_with(struct grammar_builder *b, int64_t longest)
{
    int comma = literal(b, ",");
    return SEQUENCE(b, literal(b, "{"), property(b, "name", string_node(b, 1, longest)), comma,
                    property(b, "age", number_node(b)), comma,
                    property(b, "tags", list(b, "[", string_node(b, 0, longest), "]", 9)), comma,
                    property(b, "about", string_node(b, 0, longest)), literal(b, "}"));
}

static int person(struct grammar_builder *b)
{
    return person_with(b, -1);
}

static int person_short(struct grammar_builder *b)
{
    return person_with(b, 100);
}

static int person_long(struct grammar_builder *b)
{
    return person_with(b, 100000);
}

static int numbers(struct grammar_builder *b)
{
    return list(b, "[", number_node(b), "]", 1000);
}

static int parentheses(struct grammar_builder *b)
{
    int e = grammar_rule(b, "e");
    int word = grammar_repeat(b, set(b, "abcdefghijklmnopqrstuvwxyz"), 1, 20);
    grammar_define(
        b, e,
        CHOICE(b, SEQUENCE(b, e, set(b, "+*"), e), SEQUENCE(b, literal(b, "("), e, literal(b, ")")), word));
    return e;
}

static int free_text(struct grammar_builder *b)
{
    const char *call = "<tool_call>";
    return SEQUENCE(b, grammar_without(b, &call, (size_t[]){strlen(call)}, 1),
                    grammar_repeat(b, SEQUENCE(b, literal(b, call), any_json(b)), 0, 1));
}

static int letters(struct grammar_builder *b)
{
    return grammar_repeat(b, set(b, "abcdefghijklmnopqrstuvwxyz "), 0, 200);
}

static int regex(struct grammar_builder *b, const char *pattern)
{
    static const struct grammar_regex_options whole = {0};
    struct err_info info;
    int node = -1;
    if (grammar_regex(b, pattern, strlen(pattern), &whole, &node, &info)) die(info.message);
    return node;
}

static int quoted_text(struct grammar_builder *b)
{
    return regex(b, "\"[^\"]*\"");
}

static int quoted_short(struct grammar_builder *b)
{
    return regex(b, "\"[^\"\\n]{0,120}\"");
}

static int words(struct grammar_builder *b)
{
    return regex(b, "\\p{L}+( \\p{L}+)*[.]");
}

static int lines(struct grammar_builder *b)
{
    return regex(b, "(- .*\\n)+");
}

static const char person_text[] =
    "{\"name\": \"Ada King, Countess of Lovelace\", \"age\": 36.125e0, \"tags\": [\"mathematics\", "
    "\"poetical science\", \"\\u0041nalytical Engine\"], \"about\": \"Translated Menabrea's memoir, and "
    "wrote notes.\\nThree \\\"times\\\" as long.\"}";

static const struct bench {
    const char *name;
    int (*make)(struct grammar_builder *b);
    const char *text;
} benches[] = {
    {"any JSON", any_json, person_text},
    {"any JSON, nested", any_json,
     "{\"a\": [[1, 2, [3, {\"b\": [[[\"deep text in here\"]]]}]], {\"c\": {\"d\": {\"e\": null}}}], \"f\": "
     "true}"},
    {"object", person, person_text},
    {"object, maxLength 100", person_short, person_text},
    {"object, maxLength 100000", person_long, person_text},
    {"numbers", numbers, "[1, 22, 333.25, -4e10, 5555555, 66.0e-7, 1000000, 0.125, 31415926535, -1]"},
    {"recursion, ambiguous", parentheses, "((alpha+beta)*(gamma+(delta*epsilon))+((((zeta)))))*eta"},
    {"text without a string", free_text,
     "The quick brown fox jumps over the lazy dog <b>and</b> is called: <tool_call>{\"name\": \"fox\"}"},
    {"letters {0,200}", letters,
     "the quick brown fox jumps over the lazy dog and the dog does nothing at all about that"},
    {"regex \"[^\"]*\"", quoted_text, "\"The quick brown fox\n jumps \\ over: the lazy dog - na\u00efve\""},
    {"regex \"[^\"\\n]{0,120}\"", quoted_short,
     "\"The quick brown fox jumps \\ over: the lazy dog - na\u00efve\""},
    {"regex \\p{L}+ words", words, "The quick brown fox jumps over the lazy na\u00efve dog."},
    {"regex (- .*\\n)+", lines, "- The quick brown fox\n- jumps over the lazy \"dog\"\n- na\u00efve\n"},
};

static bool is_verbose; /* each token of the first repeat */

struct times {
    double *cold, *warm;
    size_t n;
};

static void report(const char *name, const char *how, double *times, size_t n)
{
    qsort(times, n, sizeof *times, compare);
    printf("%-26s %-5s median %8.1f us   p99 %8.1f us   most %8.1f us\n", name, how, times[n / 2],
           times[n * 99 / 100], times[n - 1]);
}

static void run(const struct bench *bench, const struct tokenizer *tokenizer,
                const struct grammar_vocabulary *vocabulary, int repeats)
{
    struct err_info info = {0};
    int32_t *tokens = NULL;
    size_t n = 0;
    if (tokenizer_encode(tokenizer, bench->text, strlen(bench->text), false, false, 10000, &tokens, &n,
                         &info))
        die(info.message);
    struct grammar_scratch *scratch = grammar_scratch_create(vocabulary);
    uint32_t *allowed = malloc(((size_t)tokenizer_vocab_size(tokenizer) / 32 + 1) * sizeof *allowed);
    struct times times = {malloc(n * (size_t)repeats * sizeof(double)),
                          malloc(n * (size_t)repeats * sizeof(double)), 0};
    double *builds = malloc((size_t)repeats * sizeof *builds), accept_us = 0;
    if (!scratch || !allowed || !times.cold || !times.warm || !builds) die("no memory");
    size_t bytes = 0, state_bytes = 0;
    for (int r = 0; r < repeats; r++) {
        double start = now_us();
        struct grammar_builder *builder = grammar_builder_create(&grammar_limits_default);
        struct grammar *grammar = NULL;
        if (!builder || grammar_build(builder, bench->make(builder), vocabulary, &grammar, &info))
            die(info.message);
        grammar_builder_free(builder);
        builds[r] = now_us() - start;
        state_bytes = grammar_state_bytes(grammar);
        void *memory = malloc(state_bytes);
        if (!memory) die("no memory");
        for (int warm = 0; warm < 2; warm++) {
            struct grammar_state *state = grammar_state_init(memory, grammar);
            for (size_t i = 0; i < n; i++) {
                start = now_us();
                int n_allowed = grammar_mask(state, scratch, allowed);
                double us = now_us() - start;
                (warm ? times.warm : times.cold)[(size_t)r * n + i] = us;
                if (is_verbose && r == 0) {
                    size_t length = 0;
                    const char *text = tokenizer_bytes(tokenizer, tokens[i], &length);
                    printf("  %s %8.1f us, %6d allowed, then '%.*s'\n", warm ? "warm" : "cold", us, n_allowed,
                           (int)length, text);
                }
                start = now_us();
                if (!grammar_accept(state, tokens[i])) die("the text is not of the grammar");
                accept_us += now_us() - start;
            }
        }
        bytes = grammar_bytes(grammar);
        free(memory);
        grammar_release(grammar);
    }
    size_t total = n * (size_t)repeats;
    report(bench->name, "cold", times.cold, total);
    report(bench->name, "warm", times.warm, total);
    qsort(builds, (size_t)repeats, sizeof *builds, compare);
    printf("%-26s       %zu tokens; build %.0f us, %zu bytes after; state %zu bytes; accept %.2f us\n",
           bench->name, n, builds[repeats / 2], bytes, state_bytes, accept_us / (double)total / 2);
    free(tokens);
    free(allowed);
    free(times.cold);
    free(times.warm);
    free(builds);
    grammar_scratch_free(scratch);
}

int main(int argc, char **argv)
{
    is_verbose = argc > 3 && strcmp(argv[3], "-v") == 0;
    int repeats = argc > 2 ? atoi(argv[2]) : 5;
    if (argc < 2 || repeats < 1) {
        fprintf(stderr, "usage: bench_grammar MODEL.gguf [REPEATS [-v]]\n");
        return 2;
    }
    struct err_info info = {0};
    struct gguf *gguf = NULL;
    struct tokenizer *tokenizer = NULL;
    if (gguf_open(argv[1], &gguf, &info) || tokenizer_create(gguf, &tokenizer, &info)) die(info.message);
    gguf_close(gguf);
    for (int r = 0; r < 2; r++) {
        struct grammar_vocabulary *vocabulary = NULL;
        double start = now_us();
        if (grammar_vocabulary_create(tokenizer, &vocabulary, &info)) die(info.message);
        double us = now_us() - start;
        if (r == 0) {
            grammar_vocabulary_free(vocabulary);
            continue;
        }
        printf("vocabulary of %d tokens: tries in %.1f ms\n", tokenizer_vocab_size(tokenizer), us * 1e-3);
        for (size_t i = 0; i < sizeof benches / sizeof *benches; i++)
            run(&benches[i], tokenizer, vocabulary, repeats);
        grammar_vocabulary_free(vocabulary);
    }
    tokenizer_free(tokenizer);
    return 0;
}
