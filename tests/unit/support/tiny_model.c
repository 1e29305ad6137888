#include "tests/unit/support/tiny_model.h"

#include "model/gguf_writer.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* "Ġ" (U+0120) is how GPT-2 spells the byte 0x20. */
static const char *const merges[] = {
    "h e",        "i n",           "\u0120 t", "\u0120t he", "e r", "o n",   "\u0120 a", "n d",
    "\u0120a nd", "\u0120 \u0120", "r e",      "l l",        "l o", "he ll", "hell o",
};
static const char *const specials[] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|file_sep|>"};

enum {
    N_BYTES = 256,
    N_MERGES = sizeof merges / sizeof *merges,
    N_SPECIALS = sizeof specials / sizeof *specials,
    N_NATURAL = N_BYTES + N_MERGES + N_SPECIALS,
    TOKEN_NORMAL = 1,
    TOKEN_CONTROL = 3,
    TOKEN_UNUSED = 5,
};

int tiny_model_eos(void)
{
    return N_BYTES + N_MERGES;
}

int tiny_model_bos(void)
{
    return N_BYTES + N_MERGES + 1;
}

int tiny_model_eot(void)
{
    return N_BYTES + N_MERGES + 2;
}

struct tiny_model tiny_model_default(void)
{
    struct tiny_model tiny = {
        .arch = "llama",
        .n_layers = 2,
        .n_heads = 4,
        .n_kv_heads = 2,
        .head_dim = 32,
        .n_embd = 128,
        .n_ff = 256,
        .context_length = 4096,
        .rope_freq_base = 10000.0F,
        .pre = "smollm",
        .seed = 1,
    };
    tiny_model_set_dtype(&tiny, DTYPE_Q8_0);
    return tiny;
}

void tiny_model_set_dtype(struct tiny_model *tiny, enum dtype dtype)
{
    tiny->embd = tiny->q = tiny->k = tiny->v = tiny->o = dtype;
    tiny->gate = tiny->up = tiny->down = tiny->output = dtype;
}

/* --- random numbers --------------------------------------------------------------------------------------
 */

static uint64_t random_next(uint64_t *state) /* splitmix64, Vigna 2015 */
{
    uint64_t z = *state += 0x9e3779b97f4a7c15U;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
    return z ^ (z >> 31);
}

/* Sum of four uniforms, standard deviation 1: as good as normal here, and the same on every libm. */
static float random_normal(uint64_t *state)
{
    double sum = 0;
    for (int i = 0; i < 4; i++) sum += (double)(random_next(state) >> 11) * 0x1p-53 - 0.5;
    return (float)(sum * 1.7320508075688772);
}

static void random_bytes(uint64_t *state, uint8_t *out, size_t n)
{
    for (size_t i = 0; i < n; i++) out[i] = (uint8_t)(random_next(state) >> 24);
}

static void put_half(uint8_t *at, float value)
{
    uint16_t half = dtype_f32_to_f16(value);
    memcpy(at, &half, sizeof half);
}

/* One block of a quantized type: random bytes, then the scales (ggml-common.h: block_q4_0 ...) set so that
   the values have mean about 0 and standard deviation about `spread`, varied by a factor of two. */
static void random_block(uint64_t *state, enum dtype dtype, float spread, uint8_t *block)
{
    random_bytes(state, block, dtype_block_bytes(dtype));
    spread *= 0.7F + 0.7F * (float)(random_next(state) % 1000) / 1000.0F;
    const float deviation4 = 4.61F, deviation5 = 9.23F, deviation6 = 18.5F, deviation8 = 73.9F;
    switch (dtype) {
    case DTYPE_Q8_0:
        put_half(block, spread / deviation8);
        break;
    case DTYPE_Q4_0:
        put_half(block, spread / deviation4);
        break;
    case DTYPE_Q4_1:
        put_half(block, spread / deviation4);
        put_half(block + 2, -7.5F * spread / deviation4);
        break;
    case DTYPE_Q5_0:
        put_half(block, spread / deviation5);
        break;
    case DTYPE_Q5_1:
        put_half(block, spread / deviation5);
        put_half(block + 2, -15.5F * spread / deviation5);
        break;
    case DTYPE_Q4_K:
        put_half(block, spread / deviation4 / 32);
        put_half(block + 2, 7.5F * spread / deviation4 / 32);
        break;
    case DTYPE_Q5_K:
        put_half(block, spread / deviation5 / 32);
        put_half(block + 2, 15.5F * spread / deviation5 / 32);
        break;
    case DTYPE_Q6_K:
        put_half(block + 208, spread / deviation6 / deviation8);
        break;
    default:
        abort();
    }
}

static uint8_t *random_matrix(uint64_t *state, enum dtype dtype, size_t n, float spread, size_t *bytes)
{
    size_t elements = dtype_block_elements(dtype), size = dtype_block_bytes(dtype);
    assert(elements && n % elements == 0);
    *bytes = n / elements * size;
    uint8_t *data = malloc(*bytes);
    if (!data) abort();
    for (size_t i = 0; i < n / elements; i++) {
        uint8_t *block = data + i * size;
        if (elements > 1) {
            random_block(state, dtype, spread, block);
            continue;
        }
        float value = random_normal(state) * spread;
        uint32_t bits;
        memcpy(&bits, &value, sizeof bits);
        if (dtype == DTYPE_F32) memcpy(block, &value, sizeof value);
        if (dtype == DTYPE_F16) put_half(block, value);
        if (dtype == DTYPE_BF16) memcpy(block, (uint16_t[]){(uint16_t)(bits >> 16)}, 2);
    }
    return data;
}

/* --- the file --------------------------------------------------------------------------------------------
 */

static size_t put_utf8(char *out, int code_point)
{
    if (code_point < 0x80) {
        out[0] = (char)code_point;
        return 1;
    }
    out[0] = (char)(0xc0 | (code_point >> 6));
    out[1] = (char)(0x80 | (code_point & 0x3f));
    return 2;
}

/* GPT-2's bytes_to_unicode: printable bytes stand for themselves, the others for U+0100 and on. */
static void byte_tokens(char (*names)[32])
{
    int id = 0, next = 0x100;
    for (int pass = 0; pass < 2; pass++) {
        for (int b = 0; b < N_BYTES; b++) {
            bool plain = (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
            if (plain != (pass == 0)) continue;
            size_t length = put_utf8(names[id], plain ? b : next);
            names[id++][length] = '\0';
            next += !plain;
        }
    }
}

static void write_vocabulary(struct gguf_writer *writer, const struct tiny_model *tiny, int n_vocab)
{
    char(*names)[32] = calloc((size_t)n_vocab, sizeof *names);
    const char **tokens = calloc((size_t)n_vocab, sizeof *tokens);
    int32_t *types = calloc((size_t)n_vocab, sizeof *types);
    if (!names || !tokens || !types) abort();
    byte_tokens(names);
    for (int i = 0; i < N_MERGES; i++) {
        const char *space = strchr(merges[i], ' ');
        snprintf(names[N_BYTES + i], sizeof *names, "%.*s%s", (int)(space - merges[i]), merges[i], space + 1);
    }
    for (int i = 0; i < N_SPECIALS; i++) {
        snprintf(names[N_BYTES + N_MERGES + i], sizeof *names, "%s", specials[i]);
    }
    for (int i = N_NATURAL; i < n_vocab; i++) snprintf(names[i], sizeof *names, "[PAD%d]", i);
    for (int i = 0; i < n_vocab; i++) {
        tokens[i] = names[i];
        types[i] = i < N_BYTES + N_MERGES ? TOKEN_NORMAL : i < N_NATURAL ? TOKEN_CONTROL : TOKEN_UNUSED;
    }
    gguf_writer_string(writer, "tokenizer.ggml.model", "gpt2");
    gguf_writer_string(writer, "tokenizer.ggml.pre", tiny->pre);
    gguf_writer_strings(writer, "tokenizer.ggml.tokens", tokens, (size_t)n_vocab);
    gguf_writer_i32s(writer, "tokenizer.ggml.token_type", types, (size_t)n_vocab);
    gguf_writer_strings(writer, "tokenizer.ggml.merges", merges, N_MERGES);
    gguf_writer_u32(writer, "tokenizer.ggml.eos_token_id", (uint32_t)tiny_model_eos());
    gguf_writer_u32(writer, "tokenizer.ggml.bos_token_id", (uint32_t)tiny_model_bos());
    gguf_writer_u32(writer, "tokenizer.ggml.eot_token_id", (uint32_t)tiny_model_eot());
    gguf_writer_bool(writer, "tokenizer.ggml.add_bos_token", tiny->add_bos);
    free(names);
    free(tokens);
    free(types);
}

static void write_config(struct gguf_writer *writer, const struct tiny_model *tiny)
{
    char key[96];
    const struct {
        const char *key;
        int value;
    } numbers[] = {
        {"block_count", tiny->n_layers},          {"context_length", tiny->context_length},
        {"embedding_length", tiny->n_embd},       {"feed_forward_length", tiny->n_ff},
        {"attention.head_count", tiny->n_heads},  {"attention.head_count_kv", tiny->n_kv_heads},
        {"attention.key_length", tiny->head_dim}, {"attention.value_length", tiny->head_dim},
    };
    gguf_writer_string(writer, "general.architecture", tiny->arch);
    gguf_writer_string(writer, "general.name", "tiny");
    bool square = tiny->n_heads * tiny->head_dim == tiny->n_embd;
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers - (square ? 2 : 0); i++) {
        snprintf(key, sizeof key, "%s.%s", tiny->arch, numbers[i].key);
        gguf_writer_u32(writer, key, (uint32_t)numbers[i].value);
    }
    snprintf(key, sizeof key, "%s.rope.freq_base", tiny->arch);
    gguf_writer_f32(writer, key, tiny->rope_freq_base);
    if (tiny->rope_scaling) {
        snprintf(key, sizeof key, "%s.rope.scaling.type", tiny->arch);
        gguf_writer_string(writer, key, tiny->rope_scaling);
        snprintf(key, sizeof key, "%s.rope.scaling.factor", tiny->arch);
        gguf_writer_f32(writer, key, 4.0F);
    }
    snprintf(key, sizeof key, "%s.attention.layer_norm_rms_epsilon", tiny->arch);
    gguf_writer_f32(writer, key, 1e-5F);
}

static void write_matrix(struct gguf_writer *writer, uint64_t *state, const char *name, enum dtype dtype,
                         int n_rows, int n_cols, float spread)
{
    size_t bytes;
    uint8_t *data = random_matrix(state, dtype, (size_t)n_rows * (size_t)n_cols, spread, &bytes);
    uint64_t dims[2] = {(uint64_t)n_cols, (uint64_t)n_rows};
    gguf_writer_tensor(writer, name, (uint32_t)dtype, 2, dims, data, bytes);
    free(data);
}

static void write_vector(struct gguf_writer *writer, uint64_t *state, const char *name, int n, float mean,
                         float spread)
{
    float *data = malloc((size_t)n * sizeof *data);
    if (!data) abort();
    for (int i = 0; i < n; i++) data[i] = mean + spread * random_normal(state);
    gguf_writer_tensor(writer, name, DTYPE_F32, 1, (uint64_t[]){(uint64_t)n}, data, (size_t)n * sizeof *data);
    free(data);
}

static void write_layer(struct gguf_writer *writer, uint64_t *state, const struct tiny_model *tiny, int layer)
{
    const int n_q = tiny->n_heads * tiny->head_dim, n_kv = tiny->n_kv_heads * tiny->head_dim;
    const float by_embd = 1 / sqrtf((float)tiny->n_embd);
    const struct {
        const char *name;
        enum dtype dtype;
        int n_rows, n_cols;
        float spread;
        bool bias;
    } matrices[] = {
        {"attn_q", tiny->q, n_q, tiny->n_embd, 1.5F * by_embd, true},
        {"attn_k", tiny->k, n_kv, tiny->n_embd, 1.5F * by_embd, true},
        {"attn_v", tiny->v, n_kv, tiny->n_embd, by_embd, true},
        {"attn_output", tiny->o, tiny->n_embd, n_q, 1 / sqrtf((float)n_q), false},
        {"ffn_gate", tiny->gate, tiny->n_ff, tiny->n_embd, by_embd, false},
        {"ffn_up", tiny->up, tiny->n_ff, tiny->n_embd, by_embd, false},
        {"ffn_down", tiny->down, tiny->n_embd, tiny->n_ff, 1 / sqrtf((float)tiny->n_ff), false},
    };
    char name[64];
    snprintf(name, sizeof name, "blk.%d.attn_norm.weight", layer);
    write_vector(writer, state, name, tiny->n_embd, 1.0F, 0.1F);
    for (size_t i = 0; i < sizeof matrices / sizeof *matrices; i++) {
        snprintf(name, sizeof name, "blk.%d.%s.weight", layer, matrices[i].name);
        write_matrix(writer, state, name, matrices[i].dtype, matrices[i].n_rows, matrices[i].n_cols,
                     matrices[i].spread);
        if (matrices[i].bias && strcmp(tiny->arch, "qwen2") == 0) {
            snprintf(name, sizeof name, "blk.%d.%s.bias", layer, matrices[i].name);
            write_vector(writer, state, name, matrices[i].n_rows, 0.0F, 0.5F);
        }
    }
    snprintf(name, sizeof name, "blk.%d.ffn_norm.weight", layer);
    write_vector(writer, state, name, tiny->n_embd, 1.0F, 0.1F);
}

void *tiny_model_bytes(const struct tiny_model *tiny, size_t *length)
{
    int n_vocab = tiny->n_vocab ? tiny->n_vocab : N_NATURAL;
    assert(n_vocab >= N_NATURAL);
    uint64_t state = tiny->seed;
    struct gguf_writer *writer = gguf_writer_create(32);
    write_config(writer, tiny);
    write_vocabulary(writer, tiny, n_vocab);
    write_matrix(writer, &state, "token_embd.weight", tiny->embd, n_vocab, tiny->n_embd, 1.0F);
    for (int layer = 0; layer < tiny->n_layers; layer++) write_layer(writer, &state, tiny, layer);
    write_vector(writer, &state, "output_norm.weight", tiny->n_embd, 1.0F, 0.1F);
    if (!tiny->tied) {
        /* A spread above 1/sqrt(n_embd) gives distributions peaked enough for a greedy choice to be clear. */
        write_matrix(writer, &state, "output.weight", tiny->output, n_vocab, tiny->n_embd,
                     3 / sqrtf((float)tiny->n_embd));
    }
    if (tiny->rope_factors) write_vector(writer, &state, "rope_freqs.weight", tiny->head_dim / 2, 2.0F, 0.3F);
    return gguf_writer_finish(writer, length);
}

bool tiny_model_write(const struct tiny_model *tiny, const char *path)
{
    size_t length;
    void *bytes = tiny_model_bytes(tiny, &length);
    FILE *file = fopen(path, "wb");
    bool ok = file && fwrite(bytes, 1, length, file) == length;
    if (file) ok = fclose(file) == 0 && ok;
    free(bytes);
    return ok;
}
