/*
 * Random weights without their memory: the matrices of the file are stretches of one and the same random
 * blob, each begun at another place. The backend arranges a matrix of its own from each, so in what is
 * computed and read from memory nothing is shared but the embeddings' mapping, and a model of 4.5 GB takes
 * 300 MB to be drawn.
 *
 * Spreads: a weight has standard deviation 1/sqrt(width), so products of normalised rows have about 1, the
 * residual stream grows with the square root of the layers, and no activation can run away. The scale of a
 * block has a random sign: codes of 4 bits have a mean of -1/2, and without the sign every row would answer
 * to the mean of its input, which then grows from layer to layer until nothing else is left. The last norm's
 * gain makes logits with standard deviation OUTPUT_GAIN: a distribution about as peaked as real ones.
 */
#include "model/dummy.h"

#include "config/utf8.h"
#include "kernels/workers.h"
#include "model/gguf_writer.h"
#include "model/vocabulary.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    N_BYTES = 256,
    END_OF_TEXT = N_BYTES, /* and <|im_start|>, <|im_end|> behind it */
    N_SPECIALS = 3,
    ALIGNMENT = 32,
    STEP = 37,           /* between the beginnings of two matrices, in alignments of whole blocks */
    CHUNK_BLOCKS = 1024, /* drawn from one seed */
    OUTPUT_GAIN = 4,
};

/* The image while it is laid out. Offsets are from the start of the data. */
struct image {
    const struct model_shape *shape;
    struct gguf_writer *writer;
    uint64_t n_matrices;
    size_t ones, gains, zeros; /* fp32 vectors: norms, the last norm, biases */
    size_t blob, stride;       /* where matrices begin, and how far apart */
    size_t data_bytes;         /* so far: the furthest end */
};

/* ---- the header ---- */

static void config_write(struct image *image)
{
    const struct model_shape *shape = image->shape;
    const struct {
        const char *name;
        int value;
    } numbers[] = {
        {"block_count", shape->n_layers},          {"context_length", shape->n_ctx},
        {"embedding_length", shape->n_embd},       {"feed_forward_length", shape->n_ff},
        {"attention.head_count", shape->n_heads},  {"attention.head_count_kv", shape->n_kv_heads},
        {"attention.key_length", shape->head_dim}, {"attention.value_length", shape->head_dim},
    };
    char text[96];
    gguf_writer_string(image->writer, "general.architecture", shape->arch);
    snprintf(text, sizeof text, "dummy-%s", shape->name);
    gguf_writer_string(image->writer, "general.name", text);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        snprintf(text, sizeof text, "%s.%s", shape->arch, numbers[i].name);
        gguf_writer_u32(image->writer, text, (uint32_t)numbers[i].value);
    }
    snprintf(text, sizeof text, "%s.rope.freq_base", shape->arch);
    gguf_writer_f32(image->writer, text, 500000);
    snprintf(text, sizeof text, "%s.attention.layer_norm_rms_epsilon", shape->arch);
    gguf_writer_f32(image->writer, text, 1e-5F);
}

/* Word i: "Ġ" (a space) and i in letters, of which there are as many as it takes. */
static void word_spell(int i, char out[16])
{
    char letters[12];
    int n = 0;
    for (int left = i + 1; left > 0; left = (left - 1) / 26) letters[n++] = (char)('a' + (left - 1) % 26);
    size_t at = (size_t)snprintf(out, 16, "\xC4\xA0");
    while (n > 0) out[at++] = letters[--n];
    out[at] = '\0';
}

/* False without memory. */
static bool types_write(struct image *image)
{
    const size_t n_vocab = (size_t)image->shape->n_vocab;
    int32_t *types = malloc(n_vocab * sizeof *types);
    if (types == NULL) return false;
    for (size_t token = 0; token < n_vocab; token++)
        types[token] = token >= N_BYTES && token < N_BYTES + N_SPECIALS ? TOKEN_CONTROL : TOKEN_NORMAL;
    gguf_writer_i32s(image->writer, "tokenizer.ggml.token_type", types, n_vocab);
    free(types);
    return true;
}

static bool vocabulary_write(struct image *image)
{
    static const char *const specials[N_SPECIALS] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
    const int n_vocab = image->shape->n_vocab;
    struct gguf_writer *writer = image->writer;
    uint16_t alphabet[N_BYTES];
    vocabulary_alphabet(alphabet);
    gguf_writer_string(writer, "tokenizer.ggml.model", "gpt2");
    gguf_writer_string(writer, "tokenizer.ggml.pre", "gpt-2");
    gguf_writer_strings_begin(writer, "tokenizer.ggml.tokens", (size_t)n_vocab);
    for (int token = 0; token < n_vocab; token++) {
        char text[16] = "";
        if (token < N_BYTES)
            utf8_encode(alphabet[token], text);
        else if (token < N_BYTES + N_SPECIALS)
            snprintf(text, sizeof text, "%s", specials[token - N_BYTES]);
        else
            word_spell(token - N_BYTES - N_SPECIALS, text);
        gguf_writer_item(writer, text);
    }
    bool typed = types_write(image);
    gguf_writer_strings(writer, "tokenizer.ggml.merges", NULL, 0);
    gguf_writer_u32(writer, "tokenizer.ggml.eos_token_id", END_OF_TEXT);
    gguf_writer_u32(writer, "tokenizer.ggml.bos_token_id", END_OF_TEXT);
    gguf_writer_u32(writer, "tokenizer.ggml.eot_token_id", END_OF_TEXT + 2);
    return typed;
}

/* ---- where tensors stand ---- */

static void tensor_write(struct image *image, const char *name, enum dtype dtype, int n_cols, int n_rows,
                         size_t offset)
{
    size_t bytes = (size_t)n_cols * (size_t)(n_rows > 0 ? n_rows : 1) / dtype_block_elements(dtype) *
                   dtype_block_bytes(dtype);
    const uint64_t dims[] = {(uint64_t)n_cols, (uint64_t)n_rows};
    gguf_writer_tensor_at(image->writer, name, dtype, n_rows > 0 ? 2 : 1, dims, offset);
    if (offset + bytes > image->data_bytes) image->data_bytes = offset + bytes;
}

static void matrix_write(struct image *image, const char *name, int n_rows, int n_cols)
{
    size_t offset = image->blob + image->n_matrices++ * image->stride;
    tensor_write(image, name, image->shape->dtype, n_cols, n_rows, offset);
}

static void vector_write(struct image *image, const char *name, int n, size_t offset)
{
    tensor_write(image, name, DTYPE_F32, n, 0, offset);
}

static void layer_write(struct image *image, int layer)
{
    const struct model_shape *shape = image->shape;
    const int n_q = shape->n_heads * shape->head_dim, n_kv = shape->n_kv_heads * shape->head_dim;
    const struct {
        const char *name;
        int n_rows, n_cols;
        bool bias;
    } matrices[] = {
        {"attn_q", n_q, shape->n_embd, true},
        {"attn_k", n_kv, shape->n_embd, true},
        {"attn_v", n_kv, shape->n_embd, true},
        {"attn_output", shape->n_embd, n_q, false},
        {"ffn_gate", shape->n_ff, shape->n_embd, false},
        {"ffn_up", shape->n_ff, shape->n_embd, false},
        {"ffn_down", shape->n_embd, shape->n_ff, false},
    };
    char name[64];
    for (size_t i = 0; i < sizeof matrices / sizeof *matrices; i++) {
        snprintf(name, sizeof name, "blk.%d.%s.weight", layer, matrices[i].name);
        matrix_write(image, name, matrices[i].n_rows, matrices[i].n_cols);
        if (!matrices[i].bias || strcmp(shape->arch, "qwen2") != 0) continue;
        snprintf(name, sizeof name, "blk.%d.%s.bias", layer, matrices[i].name);
        vector_write(image, name, matrices[i].n_rows, image->zeros);
    }
    snprintf(name, sizeof name, "blk.%d.attn_norm.weight", layer);
    vector_write(image, name, shape->n_embd, image->ones);
    snprintf(name, sizeof name, "blk.%d.ffn_norm.weight", layer);
    vector_write(image, name, shape->n_embd, image->ones);
}

static size_t round_up(size_t value, size_t multiple)
{
    return (value + multiple - 1) / multiple * multiple;
}

static void tensors_write(struct image *image)
{
    const struct model_shape *shape = image->shape;
    const size_t width = round_up((size_t)shape->n_embd * sizeof(float), ALIGNMENT);
    const size_t heads =
        round_up((size_t)shape->n_heads * (size_t)shape->head_dim * sizeof(float), ALIGNMENT);
    image->gains = image->ones + width;
    image->zeros = image->gains + width;
    image->blob = image->zeros + heads;
    image->stride = STEP * ALIGNMENT * dtype_block_bytes(shape->dtype); /* whole blocks, and aligned */
    matrix_write(image, "token_embd.weight", shape->n_vocab, shape->n_embd);
    if (!shape->tied) matrix_write(image, "output.weight", shape->n_vocab, shape->n_embd);
    vector_write(image, "output_norm.weight", shape->n_embd, image->gains);
    for (int layer = 0; layer < shape->n_layers; layer++) layer_write(image, layer);
}

/* ---- the weights ---- */

/* How a type's blocks become numbers of mean 0: the deviation of its codes, and where its scale stands. A
   second half after the scale is the minimum, -middle times the scale, or middle times it where the type
   subtracts it (Q4_K, Q5_K). */
static const struct recipe {
    enum dtype dtype;
    float deviation, middle;
    size_t scale_at;
} recipes[] = {
    {DTYPE_Q4_0, 4.61F, 0, 0},
    {DTYPE_Q4_1, 4.61F, -7.5F, 0},
    {DTYPE_Q5_0, 9.23F, 0, 0},
    {DTYPE_Q5_1, 9.23F, -15.5F, 0},
    {DTYPE_Q8_0, 73.9F, 0, 0},
    {DTYPE_Q4_K, 4.61F * 36.5F, 7.5F, 0},
    {DTYPE_Q5_K, 9.23F * 36.5F, 15.5F, 0},
    {DTYPE_Q6_K, 18.5F * 73.9F, 0, 208},
};

struct drawing {
    uint8_t *blob;
    size_t n_blocks, block_bytes;
    enum dtype dtype;
    const struct recipe *recipe; /* NULL: numbers, not blocks */
    float spread;
    uint64_t seed;
};

static uint64_t random_next(uint64_t *state) /* splitmix64, Vigna 2015 */
{
    uint64_t z = *state += 0x9e3779b97f4a7c15U;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
    return z ^ (z >> 31);
}

static void half_put(uint8_t *at, float value)
{
    uint16_t half = dtype_f32_to_f16(value);
    memcpy(at, &half, sizeof half);
}

/* The block's bytes are random; its scale becomes what the spread needs, varied by two, of random sign. */
static void block_scale(const struct drawing *drawing, uint8_t *block)
{
    const struct recipe *recipe = drawing->recipe;
    uint8_t *at = block + recipe->scale_at;
    float scale = drawing->spread / recipe->deviation * (0.7F + 0.7F / 127 * (float)(at[0] & 0x7F));
    if (at[0] & 0x80) scale = -scale;
    half_put(at, scale);
    if (recipe->middle != 0) half_put(at + 2, recipe->middle * scale);
    if (drawing->dtype != DTYPE_Q4_K && drawing->dtype != DTYPE_Q5_K) return;
    /* 8 scales and 8 minima of 6 bits (dtype_k_scales): each minimum the same as its scale. */
    uint8_t *packed = block + 4;
    memcpy(packed + 4, packed, 4);
    for (int i = 8; i < 12; i++) packed[i] = (uint8_t)((packed[i] & 0x0F) * 0x11);
}

/* Numbers, uniform with the deviation `spread`. */
static void number_put(const struct drawing *drawing, uint8_t *at, uint64_t random)
{
    float value = drawing->spread * 3.4641016F * ((float)(random >> 40) * 0x1p-24F - 0.5F);
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (drawing->dtype == DTYPE_F32) memcpy(at, &value, sizeof value);
    if (drawing->dtype == DTYPE_F16) half_put(at, value);
    if (drawing->dtype == DTYPE_BF16) memcpy(at, &(uint16_t){(uint16_t)(bits >> 16)}, sizeof(uint16_t));
}

static void chunk_draw(void *context, int item, int worker)
{
    (void)worker;
    const struct drawing *drawing = context;
    size_t first = (size_t)item * CHUNK_BLOCKS, n = drawing->n_blocks - first;
    if (n > CHUNK_BLOCKS) n = CHUNK_BLOCKS;
    uint8_t *at = drawing->blob + first * drawing->block_bytes;
    uint64_t state = drawing->seed ^ (uint64_t)item << 32;
    state = random_next(&state); /* else neighbouring chunks would run on into one another */
    if (drawing->recipe == NULL) {
        for (size_t i = 0; i < n; i++)
            number_put(drawing, at + i * drawing->block_bytes, random_next(&state));
        return;
    }
    for (size_t i = 0; i < n * drawing->block_bytes; i += sizeof(uint64_t)) {
        size_t left = n * drawing->block_bytes - i;
        uint64_t random = random_next(&state);
        memcpy(at + i, &random, left < sizeof random ? left : sizeof random);
    }
    for (size_t i = 0; i < n; i++) block_scale(drawing, at + i * drawing->block_bytes);
}

static void data_fill(const struct image *image, uint8_t *data, struct workers *workers)
{
    const struct model_shape *shape = image->shape;
    struct drawing drawing = {.blob = data + image->blob,
                              .block_bytes = dtype_block_bytes(shape->dtype),
                              .dtype = shape->dtype,
                              .spread = 1 / sqrtf((float)shape->n_embd),
                              .seed = shape->seed};
    for (size_t i = 0; i < sizeof recipes / sizeof *recipes; i++)
        if (recipes[i].dtype == shape->dtype) drawing.recipe = &recipes[i];
    float *ones = (float *)(data + image->ones), *gains = (float *)(data + image->gains);
    for (int i = 0; i < shape->n_embd; i++) {
        ones[i] = 1;
        gains[i] = OUTPUT_GAIN;
    }
    memset(data + image->zeros, 0, image->blob - image->zeros);
    drawing.n_blocks = (image->data_bytes - image->blob) / drawing.block_bytes;
    int n_chunks = (int)((drawing.n_blocks + CHUNK_BLOCKS - 1) / CHUNK_BLOCKS);
    if (workers != NULL)
        workers_run(workers, n_chunks, chunk_draw, &drawing);
    else
        for (int i = 0; i < n_chunks; i++) chunk_draw(&drawing, i, 0);
}

/* ---- the whole ---- */

enum err dummy_create(const struct model_shape *shape, struct workers *workers, struct gguf **out,
                      struct err_info *info)
{
    struct image image = {.shape = shape, .writer = gguf_writer_create(ALIGNMENT)};
    uint8_t *header = NULL, *bytes = NULL;
    size_t length = 0;
    if (image.writer != NULL) {
        config_write(&image);
        bool complete = vocabulary_write(&image);
        tensors_write(&image);
        header = gguf_writer_finish(image.writer, &length);
        if (header != NULL && complete)
            bytes = aligned_alloc(ALIGNMENT, round_up(length + image.data_bytes, ALIGNMENT));
    }
    if (bytes != NULL) {
        memcpy(bytes, header, length);
        data_fill(&image, bytes + length, workers);
    }
    free(header);
    if (bytes == NULL)
        return err_set(info, ERR_MEMORY, "no memory for a dummy model of shape %s", shape->name);
    return gguf_open_owned(bytes, length + image.data_bytes, out, info);
}
