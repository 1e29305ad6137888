#include "model/model_shape.h"

#include "config/nearest.h"

#include <limits.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    WORD_BYTES = 64,
    VOCAB_MIN = 259, /* 256 bytes and three control tokens, see dummy.c */
    WIDTH_MAX = 1 << 18,
};

/* From the models' own config.json. */
static const struct known_shape {
    const char *alias;
    struct model_shape shape;
} known[] = {
    {"smollm2-135m", {"smollm2-135m", "llama", 30, 576, 9, 3, 64, 1536, 49152, 8192, true, DTYPE_Q4_0, 1}},
    {"qwen-0.5b", {"qwen2.5-0.5b", "qwen2", 24, 896, 14, 2, 64, 4864, 151936, 32768, true, DTYPE_Q4_0, 1}},
    {"qwen-1.5b", {"qwen2.5-1.5b", "qwen2", 28, 1536, 12, 2, 128, 8960, 151936, 32768, true, DTYPE_Q4_0, 1}},
    {"llama-1b", {"llama-3.2-1b", "llama", 16, 2048, 32, 8, 64, 8192, 128256, 131072, true, DTYPE_Q4_0, 1}},
    {"qwen-7b", {"qwen2.5-7b", "qwen2", 28, 3584, 28, 4, 128, 18944, 152064, 32768, false, DTYPE_Q4_0, 1}},
    {"llama-8b",
     {"llama-3.1-8b", "llama", 32, 4096, 32, 8, 128, 14336, 128256, 131072, false, DTYPE_Q4_0, 1}},
    {"llama-70b",
     {"llama-3.1-70b", "llama", 80, 8192, 64, 8, 128, 28672, 128256, 131072, false, DTYPE_Q4_0, 1}},
};
enum { KNOWN = sizeof known / sizeof *known };

/* The bounds are model_config_read's. */
static const struct key {
    const char *name;
    size_t offset;
    int low, high;
} keys[] = {
    {"layers", offsetof(struct model_shape, n_layers), 1, 1024},
    {"width", offsetof(struct model_shape, n_embd), 32, WIDTH_MAX},
    {"heads", offsetof(struct model_shape, n_heads), 1, 1024},
    {"kv-heads", offsetof(struct model_shape, n_kv_heads), 1, 1024},
    {"head-dim", offsetof(struct model_shape, head_dim), 16, KV_MAX_HEAD_DIM},
    {"ff", offsetof(struct model_shape, n_ff), 32, WIDTH_MAX},
    {"vocab", offsetof(struct model_shape, n_vocab), VOCAB_MIN, 1 << 22},
    {"ctx", offsetof(struct model_shape, n_ctx), 64, 1 << 27},
};
enum { NUMBERS = sizeof keys / sizeof *keys };

static enum err name_find(const char *name, struct model_shape *out, struct err_info *info)
{
    const char *names[2 * KNOWN];
    for (int i = 0; i < KNOWN; i++) {
        names[2 * i] = known[i].alias;
        names[2 * i + 1] = known[i].shape.name;
        if (strcmp(name, known[i].alias) != 0 && strcmp(name, known[i].shape.name) != 0) continue;
        *out = known[i].shape;
        return ERR_OK;
    }
    const char *nearest = nearest_name(name, names, 2 * KNOWN);
    if (nearest != NULL)
        return err_set_param(info, ERR_USAGE, "shape", "--shape: unknown shape '%s'; did you mean '%s'?",
                             name, nearest);
    char all[256] = "";
    for (int i = 0; i < KNOWN; i++) {
        size_t at = strlen(all);
        snprintf(all + at, sizeof all - at, "%s%s", i > 0 ? ", " : "", known[i].alias);
    }
    return err_set_param(
        info, ERR_USAGE, "shape",
        "--shape: unknown shape '%s'; there are %s, or keys as in layers=2,width=256,heads=4", name, all);
}

static enum err key_unknown(const char *name, struct err_info *info)
{
    const char *names[NUMBERS + 2] = {[NUMBERS] = "type", [NUMBERS + 1] = "seed"};
    for (int i = 0; i < NUMBERS; i++) names[i] = keys[i].name;
    const char *nearest = nearest_name(name, names, NUMBERS + 2);
    if (nearest != NULL)
        return err_set_param(info, ERR_USAGE, "shape", "--shape: unknown key '%s'; did you mean '%s'?", name,
                             nearest);
    return err_set_param(info, ERR_USAGE, "shape",
                         "--shape: unknown key '%s'; there are layers, width, heads, kv-heads, head-dim, ff, "
                         "vocab, ctx, type and seed",
                         name);
}

static enum err number_read(const char *name, const char *text, long long low, long long high, long long *out,
                            struct err_info *info)
{
    char *end = "";
    long long value = text[0] >= '0' && text[0] <= '9' ? strtoll(text, &end, 10) : -1;
    if (value < low || value > high || *end != '\0')
        return err_set_param(info, ERR_USAGE, "shape",
                             "--shape: %s: '%s' is not a whole number from %lld to %lld", name, text, low,
                             high);
    *out = value;
    return ERR_OK;
}

static enum err key_set(struct model_shape *shape, const char *name, const char *value, struct err_info *info)
{
    long long number = 0;
    enum err err;
    if (strcmp(name, "type") == 0) {
        if (dtype_named(value, strlen(value), &shape->dtype)) return ERR_OK;
        return err_set_param(info, ERR_USAGE, "shape",
                             "--shape: type: unknown type '%s'; there are " DTYPE_NAMES, value);
    }
    if (strcmp(name, "seed") == 0) {
        err = number_read(name, value, 0, LLONG_MAX, &number, info);
        if (err == ERR_OK) shape->seed = (uint64_t)number;
        return err;
    }
    for (int i = 0; i < NUMBERS; i++) {
        if (strcmp(name, keys[i].name) != 0) continue;
        err = number_read(name, value, keys[i].low, keys[i].high, &number, info);
        if (err == ERR_OK) memcpy((char *)shape + keys[i].offset, &(int){(int)number}, sizeof(int));
        return err;
    }
    return key_unknown(name, info);
}

static void missing_derive(struct model_shape *shape)
{
    if (shape->n_kv_heads == 0) shape->n_kv_heads = shape->n_heads;
    if (shape->head_dim == 0) shape->head_dim = shape->n_embd / shape->n_heads;
    if (shape->n_ff == 0) shape->n_ff = 3 * shape->n_embd;
}

static enum err shape_check(const struct model_shape *shape, struct err_info *info)
{
    const int block = (int)dtype_block_elements(shape->dtype), multiple = block > 32 ? block : 32;
    const struct {
        const char *what;
        int columns;
    } widths[] = {{"width", shape->n_embd},
                  {"ff", shape->n_ff},
                  {"heads times head-dim", shape->n_heads * shape->head_dim}};
    if (shape->n_heads % shape->n_kv_heads != 0 || shape->n_heads / shape->n_kv_heads > KV_MAX_GROUP)
        return err_set_param(info, ERR_USAGE, "shape",
                             "--shape: %d heads and %d kv-heads do not go together: each KV head serves the "
                             "same number of heads, up to %d",
                             shape->n_heads, shape->n_kv_heads, KV_MAX_GROUP);
    if (shape->head_dim % 16 != 0 || shape->head_dim < 16 || shape->head_dim > KV_MAX_HEAD_DIM)
        return err_set_param(info, ERR_USAGE, "shape",
                             "--shape: heads of %d channels; a multiple of 16 up to %d is needed",
                             shape->head_dim, KV_MAX_HEAD_DIM);
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++)
        if (widths[i].columns % multiple != 0 || widths[i].columns > WIDTH_MAX)
            return err_set_param(
                info, ERR_USAGE, "shape", "--shape: %s is %d; matrices of %s need a multiple of %d up to %d",
                widths[i].what, widths[i].columns, dtype_name(shape->dtype), multiple, WIDTH_MAX);
    return ERR_OK;
}

enum err model_shape_parse(const char *text, struct model_shape *out, struct err_info *info)
{
    struct model_shape shape = {"custom", "llama", 2, 256, 4, 0, 0, 0, 4096, 4096, false, DTYPE_Q4_0, 1};
    enum err err = ERR_OK;
    for (const char *at = text; err == ERR_OK;) {
        char word[WORD_BYTES];
        size_t length = strcspn(at, ",");
        if (length >= sizeof word)
            return err_set_param(info, ERR_USAGE, "shape", "--shape: '%.60s...' is too long", at);
        memcpy(word, at, length);
        word[length] = '\0';
        char *equals = strchr(word, '=');
        if (equals != NULL) {
            *equals = '\0';
            err = key_set(&shape, word, equals + 1, info);
        } else if (at == text) {
            err = name_find(word, &shape, info);
        } else {
            err = err_set_param(info, ERR_USAGE, "shape",
                                "--shape: '%s' is not KEY=VALUE; a name comes first", word);
        }
        at += length;
        if (*at == '\0') break;
        at++;
    }
    if (err != ERR_OK) return err;
    missing_derive(&shape);
    err = shape_check(&shape, info);
    if (err == ERR_OK) *out = shape;
    return err;
}

struct kv_shape model_shape_kv(const struct model_shape *shape)
{
    return (struct kv_shape){shape->n_layers, shape->n_heads, shape->n_kv_heads, shape->head_dim};
}
