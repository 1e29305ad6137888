/* Shapes of models, and models of them with random weights. */
#include "kernels/workers.h"
#include "model/dummy.h"
#include "model/tokenizer.h"
#include "tests/unit/support/rig.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define SMALL "layers=3,width=256,heads=4,kv-heads=2,head-dim=64,ff=512,vocab=700,ctx=512"

static struct model_shape shape_of(const char *text)
{
    struct model_shape shape;
    struct err_info info;
    if (model_shape_parse(text, &shape, &info) != ERR_OK) fail_msg("%s: %s", text, info.message);
    return shape;
}

static void test_shapes_by_name(void **state)
{
    (void)state;
    struct model_shape shape = shape_of("llama-8b");
    assert_string_equal(shape.name, "llama-3.1-8b");
    assert_true(shape.n_layers == 32 && shape.n_embd == 4096 && shape.n_heads == 32 && shape.n_kv_heads == 8);
    assert_true(shape.head_dim == 128 && shape.n_ff == 14336 && shape.n_vocab == 128256 && !shape.tied);
    assert_true(shape_of("llama-3.1-8b").n_layers == 32);
    shape = shape_of("qwen-0.5b,layers=2,type=q8_0,seed=7");
    assert_true(shape.n_layers == 2 && shape.dtype == DTYPE_Q8_0 && shape.seed == 7 && shape.n_ff == 4864);
    assert_string_equal(shape.arch, "qwen2");
    struct kv_shape kv = model_shape_kv(&shape);
    assert_true(kv.n_layers == 2 && kv.n_heads == 14 && kv.n_kv_heads == 2 && kv.head_dim == 64);
}

static void test_shapes_by_keys(void **state)
{
    (void)state;
    struct model_shape shape = shape_of("width=512,heads=8");
    assert_true(shape.n_kv_heads == 8 && shape.head_dim == 64 && shape.n_ff == 1536);
    shape = shape_of(SMALL);
    assert_true(shape.n_layers == 3 && shape.head_dim == 64 && shape.n_vocab == 700 && shape.n_ctx == 512);
    assert_string_equal(shape.name, "custom");
}

static void test_shapes_that_cannot_be(void **state)
{
    (void)state;
    static const struct {
        const char *text, *words;
    } cases[] = {
        {"lama-8b", "did you mean 'llama-8b'"},
        {"x", "unknown shape 'x'; there are smollm2-135m, qwen-0.5b"},
        {"", "unknown shape ''"},
        {"llama-8b,layer=2", "unknown key 'layer'; did you mean 'layers'"},
        {"llama-8b,zzz=2", "there are layers, width"},
        {"layers=2,llama-8b", "a name comes first"},
        {"layers=0", "'0' is not a whole number from 1 to 1024"},
        {"layers=2x", "'2x' is not a whole number"},
        {"layers=", "'' is not a whole number"},
        {"layers=-1", "'-1' is not a whole number"},
        {"vocab=258", "from 259 to"},
        {"vocab=99999999999999999999", "is not a whole number"},
        {"seed=-1", "is not a whole number"},
        {"type=Q3_X", "unknown type 'Q3_X'"},
        {"width=256,ff=100", "ff is 100; matrices of Q4_0 need a multiple of 32"},
        {"smollm2-135m,type=Q4_K", "width is 576; matrices of Q4_K need a multiple of 256"},
        {"heads=6,kv-heads=4,head-dim=64", "6 heads and 4 kv-heads do not go together"},
        {"heads=64,kv-heads=2,head-dim=64", "do not go together"},
        {"heads=4,head-dim=24", "heads of 24 channels"},
        {"a_name_that_is_so_long_that_it_cannot_be_any_shape_that_anybody_knows", "is too long"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct model_shape shape;
        struct err_info info = {.message = ""};
        enum err err = model_shape_parse(cases[i].text, &shape, &info);
        bool refused = err == ERR_USAGE && strcmp(info.param, "shape") == 0;
        if (!refused || !strstr(info.message, cases[i].words))
            fail_msg("'%s': %s, '%s'", cases[i].text, err_name(err), info.message);
    }
}

static struct gguf *dummy_of(const char *text, struct workers *workers)
{
    struct model_shape shape = shape_of(text);
    struct gguf *gguf;
    struct err_info info;
    if (dummy_create(&shape, workers, &gguf, &info) != ERR_OK) fail_msg("%s: %s", text, info.message);
    return gguf;
}

static void test_bytes_follow_from_the_shape(void **state)
{
    (void)state;
    struct workers *workers;
    uint64_t alone[2], together[2], other[2];
    assert_int_equal(workers_create(3, &workers, NULL), ERR_OK);
    struct gguf *gguf = dummy_of("layers=2,width=512,heads=8,vocab=5000", NULL);
    gguf_hash(gguf, alone);
    gguf_close(gguf);
    gguf = dummy_of("layers=2,width=512,heads=8,vocab=5000", workers);
    gguf_hash(gguf, together);
    gguf_close(gguf);
    gguf = dummy_of("layers=2,width=512,heads=8,vocab=5000,seed=2", workers);
    gguf_hash(gguf, other);
    gguf_close(gguf);
    workers_free(workers);
    assert_memory_equal(alone, together, sizeof alone);
    assert_memory_not_equal(alone, other, sizeof alone);
}

/* Mean 0 and deviation 1/sqrt(width), whatever the type. */
static void test_weights_have_their_spread(void **state)
{
    (void)state;
    static const char *const types[] = {"Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K",
                                        "Q5_K", "Q6_K", "F16",  "BF16", "F32"};
    for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
        char text[160];
        snprintf(text, sizeof text, "%s,type=%s", SMALL, types[t]);
        struct gguf *gguf = dummy_of(text, NULL);
        const struct gguf_tensor *tensor = gguf_tensor_find(gguf, "blk.1.ffn_down.weight");
        assert_non_null(tensor);
        size_t n = (size_t)(tensor->dims[0] * tensor->dims[1]);
        float *values = malloc(n * sizeof *values);
        assert_non_null(values);
        dtype_to_f32(tensor->dtype, tensor->data, n, values);
        double sum = 0, squares = 0;
        for (size_t i = 0; i < n; i++) {
            sum += (double)values[i];
            squares += (double)values[i] * (double)values[i];
        }
        double mean = sum / (double)n, deviation = sqrt(squares / (double)n) * 16;
        if (!(fabs(mean) * 16 < 0.05 && deviation > 0.9 && deviation < 1.25))
            fail_msg("%s: mean %g, deviation %g of what it should be", types[t], mean, deviation);
        free(values);
        gguf_close(gguf);
    }
}

static void test_texts_are_bytes(void **state)
{
    (void)state;
    struct gguf *gguf = dummy_of(SMALL, NULL);
    struct tokenizer *tokenizer;
    struct err_info info;
    int32_t *tokens;
    size_t n, length;
    assert_int_equal(tokenizer_create(gguf, &tokenizer, &info), ERR_OK);
    assert_int_equal(tokenizer_vocab_size(tokenizer), 700);
    static const char text[] = "Z\xC3\xBCrich \x00\x7F\xFF a<|im_end|>";
    assert_int_equal(tokenizer_encode(tokenizer, text, sizeof text - 1, false, true, 100, &tokens, &n, &info),
                     ERR_OK);
    assert_int_equal(n, sizeof text - 1 - strlen("<|im_end|>") + 1);
    for (size_t i = 0; i + 1 < n; i++) assert_int_equal(tokens[i], (unsigned char)text[i]);
    assert_int_equal(tokens[n - 1], 258);
    free(tokens);
    for (int32_t token = 0; token < 256; token++) {
        const char *bytes = tokenizer_bytes(tokenizer, token, &length);
        assert_true(length == 1 && (unsigned char)bytes[0] == token);
    }
    assert_memory_equal(tokenizer_bytes(tokenizer, 259 + 26, &length), " aa", 3);
    assert_int_equal(length, 3);
    tokenizer_free(tokenizer);
    gguf_close(gguf);
}

/* Logits of a deep model are finite, spread as they should be, and follow from what was read. */
static void check_logits(const char *text)
{
    enum { TOKENS = 48 };
    struct rig *rig = rig_create(&(struct rig_setup){.gguf = dummy_of(text, NULL),
                                                     .level = "auto",
                                                     .threads = 1,
                                                     .max_rows = TOKENS,
                                                     .max_tokens = TOKENS,
                                                     .max_sequences = 1});
    struct kv_sequence *seq = rig_sequence(rig);
    int n_vocab = model_config(rig->model)->n_vocab, same = 0, first = -1;
    int32_t tokens[TOKENS];
    for (int i = 0; i < TOKENS; i++) tokens[i] = (i * 37 + 5) % n_vocab;
    const float *logits = rig_step(rig, &(struct rig_part){.seq = seq, .tokens = tokens, .n = TOKENS}, 1);
    double sum = 0, squares = 0;
    for (int row = 0; row < TOKENS; row++) {
        int top = 0;
        for (int i = 0; i < n_vocab; i++) {
            double value = (double)logits[(size_t)row * (size_t)n_vocab + (size_t)i];
            assert_true(isfinite(value));
            sum += value;
            squares += value * value;
            if (value > (double)logits[(size_t)row * (size_t)n_vocab + (size_t)top]) top = i;
        }
        if (row == 0) first = top;
        same += top == first;
    }
    double n = (double)TOKENS * n_vocab, deviation = sqrt(squares / n - sum / n * sum / n);
    if (!(deviation > 2.5 && deviation < 6)) fail_msg("%s: logits have deviation %g", text, deviation);
    if (same > TOKENS / 2) fail_msg("%s: %d of %d rows have the same top", text, same, TOKENS);
    kv_sequence_free(seq);
    rig_free(rig);
}

static void test_logits(void **state)
{
    (void)state;
    check_logits(SMALL);
    check_logits("layers=24,width=512,heads=8,kv-heads=2,vocab=2000"); /* untied */
    check_logits("qwen-0.5b,layers=6,width=448,heads=7,kv-heads=1,ff=1024,vocab=2000,type=Q8_0");
    check_logits("layers=4,width=256,heads=2,head-dim=128,vocab=1000,type=Q4_K");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shapes_by_name),
        cmocka_unit_test(test_shapes_by_keys),
        cmocka_unit_test(test_shapes_that_cannot_be),
        cmocka_unit_test(test_bytes_follow_from_the_shape),
        cmocka_unit_test(test_weights_have_their_spread),
        cmocka_unit_test(test_texts_are_bytes),
        cmocka_unit_test(test_logits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
