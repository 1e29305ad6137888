/* The tokenizer on a small vocabulary: encoding, added tokens, broken files, streaming detokenization,
 * threads. What real vocabularies give is compared with Hugging Face's tokenizers in tests/tokenizer. */
#include "config/buf.h"
#include "config/utf8.h"
#include "model/gguf_writer.h"
#include "model/tokenizer.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { N_BYTES = 256, MOST_TOKENS = 320, MOST_MERGES = 32 };

/* A tokenizer's part of a GGUF file: the 256 bytes first (token b is byte b), then what a test adds. */
struct recipe {
    const char *model, *pre;
    const char *tokens[MOST_TOKENS];
    int32_t types[MOST_TOKENS];
    size_t n_tokens, n_types;
    const char *merges[MOST_MERGES];
    size_t n_merges;
    int64_t bos, eos, eot; /* -1: not written */
    int add_bos;           /* -1: not written */
    char names[N_BYTES][3];
};

static const char *byte_name(struct recipe *recipe, int byte)
{
    int shifted = 0x100; /* bytes that are not printable in Latin-1 get U+0100 and on, in order */
    for (int b = 0; b <= byte; b++) {
        bool printable = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
        int point = printable ? b : shifted++;
        if (b < byte) continue;
        if (point < 0x80) {
            recipe->names[byte][0] = (char)point;
        } else {
            recipe->names[byte][0] = (char)(0xC0 | point >> 6);
            recipe->names[byte][1] = (char)(0x80 | (point & 0x3F));
        }
    }
    return recipe->names[byte];
}

static int32_t add(struct recipe *recipe, const char *text, int type)
{
    recipe->tokens[recipe->n_tokens] = text;
    recipe->types[recipe->n_tokens] = type;
    recipe->n_types = recipe->n_tokens + 1;
    return (int32_t)recipe->n_tokens++;
}

static void add_merge(struct recipe *recipe, const char *merge, const char *result)
{
    recipe->merges[recipe->n_merges++] = merge;
    if (result) add(recipe, result, 1);
}

/* The bytes, five merges and four added tokens. */
enum { AB = N_BYTES, ABAB, THE, AA, SPACE_A, EOS, START, TOOL, STARTS, N_BASIC };

static struct recipe basic(const char *pre)
{
    static struct recipe recipe;
    recipe = (struct recipe){.model = "gpt2", .pre = pre, .bos = START, .eos = EOS, .eot = -1, .add_bos = -1};
    for (int b = 0; b < N_BYTES; b++) add(&recipe, byte_name(&recipe, b), 1);
    add_merge(&recipe, "a b", "ab");
    add_merge(&recipe, "ab ab", "abab");
    add(&recipe, "the", 1); /* no merge leads to it */
    add_merge(&recipe, "a a", "aa");
    add_merge(&recipe, "\xC4\xA0 a",
              "\xC4\xA0"
              "a");
    add(&recipe, "<|endoftext|>", 3);
    add(&recipe, "<|start|>", 3);
    add(&recipe, "<tool>", 4);
    add(&recipe, "<|start|>x", 3);
    assert_int_equal(recipe.n_tokens, N_BASIC);
    return recipe;
}

static enum err recipe_create(const struct recipe *recipe, struct tokenizer **out, struct err_info *info)
{
    struct gguf_writer *writer = gguf_writer_create(32);
    if (recipe->model) gguf_writer_string(writer, "tokenizer.ggml.model", recipe->model);
    if (recipe->pre) gguf_writer_string(writer, "tokenizer.ggml.pre", recipe->pre);
    gguf_writer_strings(writer, "tokenizer.ggml.tokens", recipe->tokens, recipe->n_tokens);
    if (recipe->n_types)
        gguf_writer_i32s(writer, "tokenizer.ggml.token_type", recipe->types, recipe->n_types);
    gguf_writer_strings(writer, "tokenizer.ggml.merges", recipe->merges, recipe->n_merges);
    if (recipe->bos >= 0) gguf_writer_u32(writer, "tokenizer.ggml.bos_token_id", (uint32_t)recipe->bos);
    if (recipe->eos >= 0) gguf_writer_u32(writer, "tokenizer.ggml.eos_token_id", (uint32_t)recipe->eos);
    if (recipe->eot >= 0) gguf_writer_u32(writer, "tokenizer.ggml.eot_token_id", (uint32_t)recipe->eot);
    if (recipe->add_bos >= 0) gguf_writer_bool(writer, "tokenizer.ggml.add_bos_token", recipe->add_bos);
    size_t length = 0;
    void *file = gguf_writer_finish(writer, &length);
    struct gguf *gguf = NULL;
    assert_int_equal(gguf_open_memory(file, length, &gguf, info), ERR_OK);
    enum err err = tokenizer_create(gguf, out, info);
    gguf_close(gguf); /* the tokenizer must not need it */
    memset(file, 0xEE, length);
    free(file);
    return err;
}

static struct tokenizer *create(const struct recipe *recipe)
{
    struct tokenizer *tokenizer = NULL;
    struct err_info info = {0};
    if (recipe_create(recipe, &tokenizer, &info) != ERR_OK) fail_msg("%s", info.message);
    return tokenizer;
}

static struct tokenizer *create_basic(const char *pre)
{
    struct recipe recipe = basic(pre);
    return create(&recipe);
}

static void assert_ids(const struct tokenizer *tokenizer, const char *text, size_t length, bool add_special,
                       bool parse_special, const int32_t *expected, size_t n_expected)
{
    int32_t *tokens = NULL;
    size_t n = 0;
    struct err_info info = {0};
    assert_int_equal(
        tokenizer_encode(tokenizer, text, length, add_special, parse_special, 10000, &tokens, &n, &info),
        ERR_OK);
    assert_int_equal(n, n_expected);
    if (n) assert_memory_equal(tokens, expected, n * sizeof *tokens);
    free(tokens);
}

#define IDS(tokenizer, text, add_special, parse_special, ...)                                                \
    assert_ids(tokenizer, text, sizeof(text) - 1, add_special, parse_special,                                \
               (const int32_t[]){__VA_ARGS__}, sizeof((const int32_t[]){__VA_ARGS__}) / sizeof(int32_t))

static void test_merges(void **state)
{
    (void)state;
    struct tokenizer *tokenizer = create_basic("gpt-2");
    assert_ids(tokenizer, "", 0, true, true, NULL, 0);
    IDS(tokenizer, "ab", false, false, AB);
    IDS(tokenizer, "ababab", false, false, ABAB, AB);
    IDS(tokenizer, "aab", false, false, 'a', AB); /* rank before place */
    IDS(tokenizer, "aaa", false, false, AA, 'a'); /* the leftmost of equals */
    IDS(tokenizer, "the", false, false, 't', 'h', 'e');
    IDS(tokenizer, "a a", false, false, 'a', SPACE_A);
    IDS(tokenizer, "a  a", false, false, 'a', ' ', SPACE_A);
    IDS(tokenizer, "x\0y", false, false, 'x', 0, 'y');
    tokenizer_free(tokenizer);
    tokenizer_free(NULL);
}

static void test_whole_words(void **state)
{
    (void)state;
    struct tokenizer *tokenizer =
        create_basic("llama-bpe"); /* takes whole words, adds BOS, digits by three */
    IDS(tokenizer, "the", false, false, THE);
    IDS(tokenizer, "the", true, false, START, THE);
    IDS(tokenizer, "thea", false, false, 't', 'h', 'e', 'a');
    IDS(tokenizer, "1234", false, false, '1', '2', '3', '4');
    tokenizer_free(tokenizer);
}

static void test_added_tokens(void **state)
{
    (void)state;
    struct tokenizer *tokenizer = create_basic("qwen2");
    IDS(tokenizer, "a<|start|>b", false, true, 'a', START, 'b');
    IDS(tokenizer, "<|start|>xab", false, true, STARTS, AB); /* the longest */
    IDS(tokenizer, "<<|start|>", false, true, '<', START);
    IDS(tokenizer, "a<|start|>b", false, false, 'a', '<', '|', 's', 't', 'a', 'r', 't', '|', '>', 'b');
    IDS(tokenizer, "a<tool>b", false, false, 'a', TOOL, 'b'); /* user-defined: in either case */
    IDS(tokenizer, "a<tool>b", false, true, 'a', TOOL, 'b');
    IDS(tokenizer, "ab<|start|", false, true, AB, '<', '|', 's', 't', 'a', 'r', 't', '|');
    tokenizer_free(tokenizer);
}

static void test_bos(void **state)
{
    (void)state;
    struct recipe recipe = basic("smollm");
    struct tokenizer *tokenizer = create(&recipe);
    IDS(tokenizer, "ab", true, true, AB); /* the rule does not ask for it */
    tokenizer_free(tokenizer);
    recipe.add_bos = 1;
    tokenizer = create(&recipe);
    IDS(tokenizer, "ab", true, true, START, AB);
    IDS(tokenizer, "", true, true, START);
    IDS(tokenizer, "ab", false, true, AB);
    tokenizer_free(tokenizer);
    recipe = basic("llama-bpe");
    recipe.add_bos = 0;
    tokenizer = create(&recipe);
    IDS(tokenizer, "ab", true, true, AB);
    tokenizer_free(tokenizer);
}

static void test_questions(void **state)
{
    (void)state;
    struct recipe recipe = basic("qwen2");
    recipe.bos = -1;
    recipe.eot = STARTS;
    struct tokenizer *tokenizer = create(&recipe);
    assert_int_equal(tokenizer_vocab_size(tokenizer), N_BASIC);
    assert_int_equal(tokenizer_bos(tokenizer), -1);
    assert_int_equal(tokenizer_eos(tokenizer), EOS);
    assert_true(tokenizer_is_end(tokenizer, EOS));
    assert_true(tokenizer_is_end(tokenizer, STARTS));
    assert_false(tokenizer_is_end(tokenizer, START));
    assert_true(tokenizer_is_special(tokenizer, START));
    assert_false(tokenizer_is_special(tokenizer, TOOL));
    assert_false(tokenizer_is_special(tokenizer, AB));
    const int32_t outside[] = {-1, N_BASIC, INT32_MAX, INT32_MIN};
    for (size_t i = 0; i < 4; i++) {
        size_t length = 9;
        assert_non_null(tokenizer_bytes(tokenizer, outside[i], &length));
        assert_int_equal(length, 0);
        assert_false(tokenizer_is_end(tokenizer, outside[i]));
        assert_false(tokenizer_is_special(tokenizer, outside[i]));
    }
    size_t length = 0;
    assert_memory_equal(tokenizer_bytes(tokenizer, SPACE_A, &length), " a", 2);
    assert_int_equal(length, 2);
    for (int b = 0; b < N_BYTES; b++) {
        const char *bytes = tokenizer_bytes(tokenizer, b, &length);
        assert_int_equal(length, 1);
        assert_int_equal((unsigned char)bytes[0], b);
    }
    tokenizer_free(tokenizer);
}

static void test_limit(void **state)
{
    (void)state;
    struct tokenizer *tokenizer = create_basic("gpt-2");
    int32_t *tokens = NULL;
    size_t n = 7;
    struct err_info info = {0};
    assert_int_equal(tokenizer_encode(tokenizer, "x y", 3, false, false, 3, &tokens, &n, &info), ERR_OK);
    free(tokens);
    tokens = NULL;
    n = 7;
    assert_int_equal(tokenizer_encode(tokenizer, "x yz", 4, false, false, 3, &tokens, &n, &info), ERR_LIMIT);
    assert_non_null(strstr(info.message, "more than 3 tokens"));
    assert_null(tokens);
    assert_int_equal(n, 7);
    tokenizer_free(tokenizer);
}

static void assert_rejected(const struct recipe *recipe, enum err expected, const char *message)
{
    struct tokenizer *tokenizer = NULL;
    struct err_info info = {0};
    assert_int_equal(recipe_create(recipe, &tokenizer, &info), expected);
    assert_null(tokenizer);
    if (!strstr(info.message, message)) fail_msg("'%s' does not contain '%s'", info.message, message);
}

static void test_broken_files(void **state)
{
    (void)state;
    struct recipe recipe = basic("gpt-2");
    recipe.model = "llama";
    assert_rejected(&recipe, ERR_UNSUPPORTED, "tokenizer model 'llama'");
    recipe.model = NULL;
    assert_rejected(&recipe, ERR_FORMAT, "tokenizer.ggml.model");

    recipe = basic("deepseek-llm");
    assert_rejected(&recipe, ERR_UNSUPPORTED, "pre-tokenizer 'deepseek-llm'");
    recipe.pre = NULL;
    assert_rejected(&recipe, ERR_FORMAT, "tokenizer.ggml.pre");

    recipe = basic("gpt-2");
    recipe.tokens[THE] = "ab";
    assert_rejected(&recipe, ERR_FORMAT, "tokenizer.ggml.tokens[258] is 'ab', which is already token 256");

    recipe = basic("gpt-2");
    recipe.types[2] = 9;
    assert_rejected(&recipe, ERR_FORMAT, "tokenizer.ggml.token_type[2] is 9");
    recipe.n_types--;
    assert_rejected(&recipe, ERR_FORMAT, "tokenizer.ggml.token_type");

    static const struct {
        const char *merge, *message;
    } merges[] = {
        {"ab", "[4] is 'ab', not two tokens"},
        {"ab ", "[4] is 'ab ', not two tokens"},
        {"", "[4] is '', not two tokens"},
        {" ab", "[4] is ' ab', not two tokens"},
        {"nix a", "left token is not"},
        {"a nix", "right token is not"},
        {"x y", "result is not in the vocabulary"},
        {"a b c", "right token is not"},
    };
    for (size_t i = 0; i < sizeof merges / sizeof merges[0]; i++) {
        recipe = basic("gpt-2");
        add_merge(&recipe, merges[i].merge, NULL);
        assert_rejected(&recipe, ERR_FORMAT, merges[i].message);
    }

    recipe = basic("gpt-2");
    recipe.eos = N_BASIC;
    assert_rejected(&recipe, ERR_FORMAT, "tokenizer.ggml.eos_token_id is 265, but the vocabulary has 265");
    recipe = basic("gpt-2");
    recipe.eot = UINT32_MAX;
    assert_rejected(&recipe, ERR_FORMAT, "tokenizer.ggml.eot_token_id");
    recipe = basic("gpt-2");
    recipe.bos = -1;
    recipe.add_bos = 1;
    assert_rejected(&recipe, ERR_FORMAT, "add_bos_token is set without");
    recipe = basic("gpt-2");
    recipe.n_tokens = recipe.n_types = 0;
    assert_rejected(&recipe, ERR_FORMAT, "tokenizer.ggml.tokens has 0");
}

/* A vocabulary without some bytes: they are dropped, as Hugging Face's BPE does without an unknown token. */
static void test_missing_bytes(void **state)
{
    (void)state;
    struct recipe recipe = basic("gpt-2");
    recipe.tokens[0xFF] = "other";
    recipe.tokens[4] = "another";
    struct tokenizer *tokenizer = create(&recipe);
    IDS(tokenizer, "a\4b\xFF.", false, false, 'a', 'b', '.');
    tokenizer_free(tokenizer);
}

/* ---- Detokenization ---- */

static void assert_text(const struct buf *buf, const char *expected)
{
    assert_int_equal(buf->length, strlen(expected));
    if (buf->length) assert_memory_equal(buf->data, expected, buf->length);
}

static void test_streaming(void **state)
{
    (void)state;
    struct tokenizer *tokenizer = create_basic("gpt-2");
    struct detokenizer detokenizer = {0};
    struct buf out;
    buf_init(&out, 1000);
    static const struct {
        int32_t token;
        const char *text; /* what must be there after it */
    } steps[] = {
        {0xF0, ""},
        {0x9F, ""},
        {0x98, ""},
        {0x80, "\xF0\x9F\x98\x80"},
        {0xE4, ""},
        {'a', "\xEF\xBF\xBD"
              "a"}, /* refuted: one replacement */
        {0xE4, ""},
        {0xBD, ""},
        {0xE4, "\xEF\xBF\xBD"}, /* a maximal part of two bytes */
        {0xBD, ""},
        {0xA0, "\xE4\xBD\xA0"},
        {0xED, ""},
        {0xA0, "\xEF\xBF\xBD\xEF\xBF\xBD"}, /* a surrogate: byte by byte */
        {0xC0, "\xEF\xBF\xBD"},             /* never the beginning of anything */
        {EOS, ""},                          /* skipped */
        {AB, "ab"},
        {TOOL, "<tool>"},
        {-5, ""},
        {0xF4, ""},
        {0x8F, ""},
    };
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        buf_clear(&out);
        detokenizer_push(&detokenizer, tokenizer, steps[i].token, true, &out);
        assert_text(&out, steps[i].text);
    }
    buf_clear(&out);
    detokenizer_flush(&detokenizer, &out);
    assert_text(&out, "\xEF\xBF\xBD"); /* one for the whole beginning */
    detokenizer_flush(&detokenizer, &out);
    assert_text(&out, "\xEF\xBF\xBD");
    detokenizer_push(&detokenizer, tokenizer, EOS, false, &out);
    assert_text(&out, "\xEF\xBF\xBD<|endoftext|>");
    buf_free(&out);
    tokenizer_free(tokenizer);
}

/* Every piece is well-formed by itself, and valid text comes out as it went in, wherever tokens end. */
static void test_pieces_are_text(void **state)
{
    (void)state;
    struct tokenizer *tokenizer = create_basic("gpt-2");
    static const char text[] = "na\xC3\xAFve \xF0\x9F\x91\xA9\xE2\x80\x8D\xF0\x9F\x94\xAC \xE4\xBD\xA0 ab\n";
    struct detokenizer detokenizer = {0};
    struct buf all;
    buf_init(&all, 10000);
    int32_t *tokens = NULL;
    size_t n = 0;
    assert_int_equal(
        tokenizer_encode(tokenizer, text, sizeof text - 1, false, false, 1000, &tokens, &n, NULL), ERR_OK);
    uint32_t random = 1;
    for (int round = 0; round < 200; round++) {
        struct buf piece;
        buf_init(&piece, 100);
        for (size_t i = 0; i < n; i++) {
            /* The first round is the text; later ones have random bytes among it. */
            random = random * 1664525u + 1013904223u;
            int32_t token = round > 0 && random >> 30 == 0 ? (int32_t)(random >> 8 & 0xFF) : tokens[i];
            buf_clear(&piece);
            detokenizer_push(&detokenizer, tokenizer, token, false, &piece);
            assert_int_equal(utf8_valid(piece.data, piece.length), piece.length);
            if (round == 0) buf_append(&all, piece.data, piece.length);
        }
        buf_clear(&piece);
        detokenizer_flush(&detokenizer, &piece);
        buf_free(&piece);
        if (round == 0) assert_text(&all, text);
    }
    free(tokens);
    buf_free(&all);
    tokenizer_free(tokenizer);
}

/* ---- Hostile input: anything quadratic runs into the test's time limit ---- */

static size_t count_tokens(const struct tokenizer *tokenizer, const char *text, size_t length)
{
    int32_t *tokens = NULL;
    size_t n = 0;
    assert_int_equal(tokenizer_encode(tokenizer, text, length, false, true, SIZE_MAX, &tokens, &n, NULL),
                     ERR_OK);
    free(tokens);
    return n;
}

static void test_long_words(void **state)
{
    (void)state;
    struct tokenizer *tokenizer = create_basic("qwen2");
    enum { LENGTH = 1 << 20 };
    char *text = malloc(LENGTH);
    assert_non_null(text);
    memset(text, 'a', LENGTH);
    assert_int_equal(count_tokens(tokenizer, text, LENGTH), LENGTH / 2);
    for (int i = 0; i < LENGTH; i++) text[i] = i % 2 ? 'b' : 'a';
    assert_int_equal(count_tokens(tokenizer, text, LENGTH), LENGTH / 4);
    memset(text, ' ', LENGTH);
    assert_int_equal(count_tokens(tokenizer, text, LENGTH), LENGTH);
    memset(text, '<', LENGTH);
    assert_int_equal(count_tokens(tokenizer, text, LENGTH), LENGTH);
    memset(text, 0xFF, LENGTH);
    assert_int_equal(count_tokens(tokenizer, text, LENGTH), LENGTH);
    /* Marks of falling combining class, again and again: normalization has to sort them all. */
    for (int i = 0; i < LENGTH; i += 4) memcpy(text + i, i % 8 ? "\xCD\x85\xCC\xA3" : "\xCC\x81\xCC\xB4", 4);
    assert_int_equal(count_tokens(tokenizer, text, LENGTH), LENGTH);
    free(text);
    tokenizer_free(tokenizer);
}

/* ---- Threads ---- */

struct worker {
    pthread_t thread;
    const struct tokenizer *tokenizer;
    size_t n;
};

static void *worker_run(void *argument)
{
    struct worker *worker = argument;
    static const char text[] = "ab abab the a\xCC\x81 1234 <|start|> \xF0\x9F\x98\x80 \xFF it's\r\n\n  ab ";
    for (int round = 0; round < 500; round++) {
        int32_t *tokens = NULL;
        size_t n = 0;
        if (tokenizer_encode(worker->tokenizer, text, sizeof text - 1, true, true, 1000, &tokens, &n, NULL) !=
            ERR_OK)
            break;
        free(tokens);
        worker->n += n;
    }
    return NULL;
}

static void test_threads(void **state)
{
    (void)state;
    struct tokenizer *tokenizer = create_basic("qwen2");
    struct worker workers[4] = {0};
    for (int i = 0; i < 4; i++) {
        workers[i].tokenizer = tokenizer;
        assert_int_equal(pthread_create(&workers[i].thread, NULL, worker_run, &workers[i]), 0);
    }
    for (int i = 0; i < 4; i++) pthread_join(workers[i].thread, NULL);
    assert_true(workers[0].n > 0);
    for (int i = 1; i < 4; i++) assert_int_equal(workers[i].n, workers[0].n);
    tokenizer_free(tokenizer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_merges),       cmocka_unit_test(test_whole_words),
        cmocka_unit_test(test_added_tokens), cmocka_unit_test(test_bos),
        cmocka_unit_test(test_questions),    cmocka_unit_test(test_limit),
        cmocka_unit_test(test_broken_files), cmocka_unit_test(test_missing_bytes),
        cmocka_unit_test(test_streaming),    cmocka_unit_test(test_pieces_are_text),
        cmocka_unit_test(test_long_words),   cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
