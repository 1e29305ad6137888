/* Loading a model: what is refused and how it is said. What the numbers are is judged by tests/golden. */
#define _GNU_SOURCE /* memmem */
#include "config/log.h"
#include "kernels/workers.h"
#include "model/model.h"
#include "tests/unit/support/rig.h"
#include "tests/unit/support/tiny_model.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct workers *workers;
static struct backend *backend;

static struct tiny_model small(void)
{
    struct tiny_model tiny = tiny_model_default();
    tiny.n_layers = 1;
    tiny.head_dim = 32;
    tiny.n_heads = 2;
    tiny.n_kv_heads = 1;
    tiny.n_embd = 64;
    tiny.n_ff = 96;
    return tiny;
}

/* Loads the file in bytes; the first error of the reader or of the model. */
static enum err load(const void *bytes, size_t length, struct err_info *info)
{
    struct gguf *gguf = NULL;
    struct model *model = NULL;
    *info = (struct err_info){0};
    enum err err = gguf_open_memory(bytes, length, &gguf, info);
    if (!err) err = model_load(gguf, backend, 4, 4, &model, info);
    assert_true(err ? model == NULL : model != NULL);
    model_free(model);
    gguf_close(gguf);
    return err;
}

static uint8_t *find(uint8_t *bytes, size_t length, const char *text)
{
    uint8_t *found = memmem(bytes, length, text, strlen(text));
    if (!found) fail_msg("the file has no '%s'", text);
    return found;
}

static void expect(const void *bytes, size_t length, enum err code, const char *param, const char *words)
{
    struct err_info info;
    enum err err = load(bytes, length, &info);
    if (err != code || strcmp(info.param, param) != 0 || !strstr(info.message, words)) {
        fail_msg("wanted %s of '%s', got %s of '%s': %s", err_name(code), param, err_name(err), info.param,
                 info.message);
    }
}

static void test_config(void **state)
{
    (void)state;
    struct tiny_model tiny = small();
    size_t length;
    void *bytes = tiny_model_bytes(&tiny, &length);
    struct gguf *gguf;
    struct model *model;
    struct err_info info;
    assert_int_equal(gguf_open_memory(bytes, length, &gguf, &info), ERR_OK);
    assert_int_equal(model_load(gguf, backend, 16, 2, &model, &info), ERR_OK);
    const struct model_config *config = model_config(model);
    assert_string_equal(config->arch, "llama");
    assert_string_equal(config->name, "tiny");
    assert_int_equal(config->n_layers, 1);
    assert_int_equal(config->n_heads, 2);
    assert_int_equal(config->n_kv_heads, 1);
    assert_int_equal(config->head_dim, 32);
    assert_int_equal(config->n_ff, 96);
    assert_int_equal(config->context_length, 4096);
    int64_t n = 2 * (int64_t)config->n_vocab * 64 + 3 * 64 + 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 96;
    assert_int_equal(config->n_params, n);
    assert_true(model_weight_bytes(model) > (size_t)n / 2); /* the embeddings stay in the file */
    assert_true(model_scratch_bytes(model) > 0);
    struct kv_shape shape;
    model_kv_shape(model, &shape);
    assert_int_equal(shape.n_layers, 1);
    assert_int_equal(shape.head_dim, 32);
    assert_true(model_inv_freq(model)[0] == 1.0);
    assert_true(fabs(model_inv_freq(model)[8] - 0.01) < 1e-12);
    model_free(model);
    gguf_close(gguf);
    free(bytes);
}

/* A key's u32 value replaced. */
static void expect_patched(const char *key, uint32_t value, enum err code, const char *param,
                           const char *words)
{
    struct tiny_model tiny = small();
    size_t length;
    uint8_t *bytes = tiny_model_bytes(&tiny, &length);
    memcpy(find(bytes, length, key) + strlen(key) + sizeof(uint32_t), &value, sizeof value);
    expect(bytes, length, code, param, words);
    free(bytes);
}

static void test_wrong_values(void **state)
{
    (void)state;
    expect_patched("llama.block_count", 0, ERR_FORMAT, "llama.block_count", "not between");
    expect_patched("llama.block_count", 2, ERR_FORMAT, "blk.1.attn_q.weight", "missing");
    expect_patched("llama.block_count", 1U << 31, ERR_FORMAT, "llama.block_count", "not between");
    expect_patched("llama.attention.head_count", 0, ERR_FORMAT, "llama.attention.head_count", "not between");
    expect_patched("llama.attention.head_count_kv", 3, ERR_FORMAT, "llama.attention.head_count_kv", "divide");
    expect_patched("llama.attention.head_count_kv", 2, ERR_FORMAT, "blk.0.attn_k.weight",
                   "shape [64, 32] found, [64, 64] expected");
    expect_patched("llama.attention.head_count", 4, ERR_FORMAT, "blk.0.attn_k.weight",
                   "shape [64, 32] found, [64, 16] expected");
    expect_patched("llama.attention.head_count", 8, ERR_UNSUPPORTED, "llama.attention.key_length",
                   "heads of 8");
    expect_patched("llama.attention.head_count", 3, ERR_FORMAT, "llama.embedding_length",
                   "multiple of the 3 heads");
    expect_patched("llama.embedding_length", 128, ERR_FORMAT, "token_embd.weight",
                   "[64, 275] found, [128, 275]");
    expect_patched("llama.feed_forward_length", 97, ERR_UNSUPPORTED, "llama.feed_forward_length",
                   "multiple of 32");
    expect_patched("llama.feed_forward_length", 128, ERR_FORMAT, "blk.0.ffn_gate.weight", "[64, 96] found");
    expect_patched("llama.rope.freq_base", 0xff800000, ERR_FORMAT, "llama.rope.freq_base", "above zero");
    expect_patched("llama.attention.layer_norm_rms_epsilon", 0x7fc00000, ERR_FORMAT,
                   "llama.attention.layer_norm_rms_epsilon", "above zero");
}

/* Every tensor in turn under a name that nobody looks for. */
static void test_missing_tensors(void **state)
{
    (void)state;
    struct tiny_model tiny = small();
    struct err_info info;
    struct gguf *gguf;
    size_t length;
    tiny.arch = "qwen2";
    uint8_t *bytes = tiny_model_bytes(&tiny, &length);
    assert_int_equal(gguf_open_memory(bytes, length, &gguf, &info), ERR_OK);
    for (size_t i = 0; i < gguf_tensor_count(gguf); i++) {
        char name[64] = {0};
        struct gguf_string view = gguf_tensor_at(gguf, i)->name;
        memcpy(name, view.bytes, view.length);
        bytes[view.bytes - (const char *)bytes] = 'X';
        bool tied =
            strcmp(name, "output.weight") == 0; /* its absence has a meaning; the renamed one has none */
        expect(bytes, length, tied ? ERR_UNSUPPORTED : ERR_FORMAT, tied ? "Xutput.weight" : name,
               tied ? "not part of a qwen2 model" : "missing");
        bytes[view.bytes - (const char *)bytes] = (uint8_t)name[0];
    }
    gguf_close(gguf);
    free(bytes);
}

static void test_architectures(void **state)
{
    (void)state;
    struct tiny_model tiny = small();
    size_t length;
    tiny.arch = "gemma";
    void *bytes = tiny_model_bytes(&tiny, &length);
    expect(bytes, length, ERR_UNSUPPORTED, "general.architecture",
           "'gemma' is not supported; llama and qwen2");
    free(bytes);
    tiny.arch = "qwen2";
    tiny.rope_scaling = "yarn";
    bytes = tiny_model_bytes(&tiny, &length);
    expect(bytes, length, ERR_UNSUPPORTED, "qwen2.rope.scaling.type", "'yarn' is not supported");
    free(bytes);
    expect("GGUF\3\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 24, ERR_FORMAT, "general.architecture", "missing");
}

static void test_rope(void **state)
{
    (void)state;
    struct tiny_model tiny = small();
    struct err_info info;
    struct gguf *gguf;
    struct model *model;
    size_t length;
    float factors[16];
    tiny.rope_scaling = "linear";
    tiny.rope_factors = true;
    void *bytes = tiny_model_bytes(&tiny, &length);
    assert_int_equal(gguf_open_memory(bytes, length, &gguf, &info), ERR_OK);
    assert_int_equal(model_load(gguf, backend, 1, 1, &model, &info), ERR_OK);
    memcpy(factors, gguf_tensor_find(gguf, "rope_freqs.weight")->data, sizeof factors);
    for (int i = 0; i < 16; i++) {
        double want = pow(10000, -2.0 * i / 32) / 4 / (double)factors[i];
        assert_true(fabs(model_inv_freq(model)[i] / want - 1) < 1e-12);
    }
    model_free(model);
    gguf_close(gguf);
    free(bytes);
}

/* A flipped bit in the header: the model loads or an error says why. */
static void test_flipped(void **state)
{
    (void)state;
    struct tiny_model tiny = small();
    struct err_info info;
    size_t length, refused = 0, loaded = 0;
    tiny.arch = "qwen2";
    uint8_t *bytes = tiny_model_bytes(&tiny, &length);
    size_t header = (size_t)(find(bytes, length, "output.weight") - bytes) + 48;
    for (size_t bit = 0; bit < 8 * header; bit += 41) {
        bytes[bit / 8] ^= (uint8_t)(1U << bit % 8);
        enum err err = load(bytes, length, &info);
        assert_true(err == ERR_OK || info.message[0]);
        refused += err != ERR_OK;
        loaded += err == ERR_OK;
        bytes[bit / 8] ^= (uint8_t)(1U << bit % 8);
    }
    assert_true(refused > 50 && loaded > 50);
    free(bytes);
}

/* Steps without logits, and logits of some rows only, change nothing. */
static void test_logit_rows(void **state)
{
    (void)state;
    struct tiny_model tiny = tiny_model_default();
    size_t length;
    void *bytes = tiny_model_bytes(&tiny, &length);
    struct rig *rig = rig_create(&(struct rig_setup){.bytes = bytes,
                                                     .length = length,
                                                     .level = "auto",
                                                     .threads = 2,
                                                     .max_rows = 32,
                                                     .max_tokens = 64,
                                                     .max_sequences = 2});
    const int n_vocab = model_config(rig->model)->n_vocab;
    const size_t row = (size_t)n_vocab * sizeof(float);
    int32_t tokens[20];
    for (int i = 0; i < 20; i++) tokens[i] = i * 13 % 256;
    struct kv_sequence *whole = rig_sequence(rig), *split = rig_sequence(rig);
    float *want = malloc(20 * row);
    assert_non_null(want);
    memcpy(want, rig_step(rig, &(struct rig_part){whole, tokens, 20, false}, 1), 20 * row);

    struct err_info info;
    struct attention_span span;
    const float *logits;
    struct model_batch batch = {.n_tokens = 10, .tokens = tokens, .n_spans = 1, .spans = &span};
    assert_int_equal(kv_sequence_begin(split, 10, &info), ERR_OK);
    kv_sequence_span(split, 0, &span);
    model_forward(rig->model, &batch, &logits);
    kv_sequence_end(split);
    assert_int_equal(kv_sequence_begin(split, 10, &info), ERR_OK);
    kv_sequence_span(split, 0, &span);
    batch.tokens = tokens + 10;
    batch.n_logits = 3;
    batch.logit_rows = (const int32_t[]){1, 2, 7};
    model_forward(rig->model, &batch, &logits);
    kv_sequence_end(split);
    for (int i = 0; i < 3; i++) {
        assert_memory_equal(logits + (size_t)i * (size_t)n_vocab,
                            want + (size_t)(10 + batch.logit_rows[i]) * (size_t)n_vocab, row);
    }
    kv_sequence_free(whole);
    kv_sequence_free(split);
    rig_free(rig);
    free(want);
    free(bytes);
}

static int set_up(void **state)
{
    (void)state;
    log_configure(LOG_LEVEL_WARN, 0);
    return workers_create(1, &workers, NULL) || backend_cpu_create(workers, "auto", &backend, NULL);
}

static int tear_down(void **state)
{
    (void)state;
    backend->destroy(backend);
    workers_free(workers);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_config),
        cmocka_unit_test(test_wrong_values),
        cmocka_unit_test(test_missing_tensors),
        cmocka_unit_test(test_architectures),
        cmocka_unit_test(test_rope),
        cmocka_unit_test(test_flipped),
        cmocka_unit_test(test_logit_rows),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
