/*
 * What the file says about the model, read and checked. Bounds are far above any real model and low enough
 * that products of two of them fit an int and products of three fit a size_t.
 */
#include "model/model_internal.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum {
    MAX_LAYERS = 1024,
    MAX_HEADS = 1024,
    MAX_WIDTH = 1 << 18, /* n_embd, n_ff */
    MAX_VOCAB = 1 << 22,
    MAX_CONTEXT = 1 << 27,
    COLUMN_MULTIPLE = 32, /* of a matrix' columns: kernels/backend.h */
    HEAD_DIM_MULTIPLE = 16,
};

/* "llama.block_count" from "block_count". */
struct key {
    char text[128];
};

static struct key key_of(const struct model_config *config, const char *name)
{
    struct key key;
    snprintf(key.text, sizeof key.text, "%s.%s", config->arch, name);
    return key;
}

/* An integer within [low, high]; the default when it is missing and `optional` is not negative. */
static enum err read_int(const struct gguf *gguf, const struct model_config *config, const char *name,
                         int low, int high, int optional, int *out, struct err_info *info)
{
    struct key key = key_of(config, name);
    uint32_t value;
    if (optional >= 0 && !gguf_has(gguf, key.text)) {
        *out = optional;
        return ERR_OK;
    }
    enum err err = gguf_get_u32(gguf, key.text, &value, info);
    if (err) return err;
    if (value < (uint32_t)low || value > (uint32_t)high) {
        return err_set_param(info, ERR_FORMAT, key.text, "key '%s': %u is not between %d and %d", key.text,
                             value, low, high);
    }
    *out = (int)value;
    return ERR_OK;
}

/* A finite number above zero; the default when it is missing and `optional` is above zero. */
static enum err read_positive(const struct gguf *gguf, const struct model_config *config, const char *name,
                              float optional, float *out, struct err_info *info)
{
    struct key key = key_of(config, name);
    float value;
    if (optional > 0 && !gguf_has(gguf, key.text)) {
        *out = optional;
        return ERR_OK;
    }
    enum err err = gguf_get_f32(gguf, key.text, &value, info);
    if (err) return err;
    if (!isfinite(value) || value <= 0) {
        return err_set_param(info, ERR_FORMAT, key.text, "key '%s': %g is not a number above zero", key.text,
                             (double)value);
    }
    *out = value;
    return ERR_OK;
}

static void copy_text(char *out, size_t size, struct gguf_string text)
{
    size_t n = text.length < size - 1 ? text.length : size - 1;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text.bytes[i];
        out[i] = c >= 0x20 && c != 0x7f ? (char)c : '?';
    }
    out[n] = '\0';
}

static enum err read_names(const struct gguf *gguf, struct model_config *config, struct err_info *info)
{
    struct gguf_string text;
    enum err err = gguf_get_string(gguf, "general.architecture", &text, info);
    if (err) return err;
    copy_text(config->arch, sizeof config->arch, text);
    if (strcmp(config->arch, "llama") != 0 && strcmp(config->arch, "qwen2") != 0) {
        return err_set_param(info, ERR_UNSUPPORTED, "general.architecture",
                             "key 'general.architecture': '%s' is not supported; llama and qwen2 are",
                             config->arch);
    }
    if (gguf_has(gguf, "general.name")) {
        err = gguf_get_string(gguf, "general.name", &text, info);
        if (err) return err;
        copy_text(config->name, sizeof config->name, text);
    }
    return ERR_OK;
}

static enum err read_sizes(const struct gguf *gguf, struct model_config *config, struct err_info *info)
{
    int experts = 0;
    enum err err = read_int(gguf, config, "block_count", 1, MAX_LAYERS, -1, &config->n_layers, info);
    if (!err)
        err = read_int(gguf, config, "context_length", 1, MAX_CONTEXT, -1, &config->context_length, info);
    if (!err) err = read_int(gguf, config, "embedding_length", 1, MAX_WIDTH, -1, &config->n_embd, info);
    if (!err) err = read_int(gguf, config, "feed_forward_length", 1, MAX_WIDTH, -1, &config->n_ff, info);
    if (!err) err = read_int(gguf, config, "attention.head_count", 1, MAX_HEADS, -1, &config->n_heads, info);
    if (!err) {
        err = read_int(gguf, config, "attention.head_count_kv", 1, MAX_HEADS, config->n_heads,
                       &config->n_kv_heads, info);
    }
    if (!err) err = read_int(gguf, config, "expert_count", 0, MAX_WIDTH, 0, &experts, info);
    if (!err && experts > 0) {
        struct key key = key_of(config, "expert_count");
        err = err_set_param(info, ERR_UNSUPPORTED, key.text,
                            "key '%s': mixtures of experts are not supported", key.text);
    }
    return err;
}

static enum err read_head_dim(const struct gguf *gguf, struct model_config *config, struct err_info *info)
{
    struct key key = key_of(config, "attention.key_length"), embd = key_of(config, "embedding_length");
    int value_length, rotated;
    if (!gguf_has(gguf, key.text) && config->n_embd % config->n_heads) {
        return err_set_param(info, ERR_FORMAT, embd.text,
                             "key '%s': %d is not a multiple of the %d heads, and '%s' is missing", embd.text,
                             config->n_embd, config->n_heads, key.text);
    }
    enum err err = read_int(gguf, config, "attention.key_length", 1, MAX_WIDTH,
                            config->n_embd / config->n_heads, &config->head_dim, info);
    if (!err) {
        err = read_int(gguf, config, "attention.value_length", 1, MAX_WIDTH, config->head_dim, &value_length,
                       info);
    }
    if (!err) {
        err = read_int(gguf, config, "rope.dimension_count", 1, MAX_WIDTH, config->head_dim, &rotated, info);
    }
    if (err) return err;
    if (config->head_dim % HEAD_DIM_MULTIPLE || config->head_dim > KV_MAX_HEAD_DIM) {
        return err_set_param(info, ERR_UNSUPPORTED, key.text,
                             "heads of %d channels ('%s') are not supported: a multiple of %d up to %d is",
                             config->head_dim, key.text, HEAD_DIM_MULTIPLE, KV_MAX_HEAD_DIM);
    }
    if (value_length != config->head_dim) {
        key = key_of(config, "attention.value_length");
        return err_set_param(info, ERR_UNSUPPORTED, key.text, "key '%s': %d differs from the key length %d",
                             key.text, value_length, config->head_dim);
    }
    if (rotated != config->head_dim) {
        key = key_of(config, "rope.dimension_count");
        return err_set_param(info, ERR_UNSUPPORTED, key.text,
                             "key '%s': rotating %d of a head's %d channels is not supported", key.text,
                             rotated, config->head_dim);
    }
    return ERR_OK;
}

static enum err check_heads(const struct model_config *config, struct err_info *info)
{
    struct key key = key_of(config, "attention.head_count_kv");
    if (config->n_heads % config->n_kv_heads) {
        return err_set_param(info, ERR_FORMAT, key.text, "key '%s': %d does not divide the %d query heads",
                             key.text, config->n_kv_heads, config->n_heads);
    }
    if (config->n_heads / config->n_kv_heads > KV_MAX_GROUP) {
        return err_set_param(info, ERR_UNSUPPORTED, key.text,
                             "key '%s': %d query heads for %d KV heads; at most %d for one are supported",
                             key.text, config->n_heads, config->n_kv_heads, KV_MAX_GROUP);
    }
    return ERR_OK;
}

static enum err check_columns(const struct model_config *config, struct err_info *info)
{
    const struct {
        const char *name;
        int value;
    } widths[] = {
        {"embedding_length", config->n_embd},
        {"feed_forward_length", config->n_ff},
        {"attention.head_count", config->n_heads * config->head_dim},
    };
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++) {
        if (widths[i].value % COLUMN_MULTIPLE == 0) continue;
        struct key key = key_of(config, widths[i].name);
        return err_set_param(info, ERR_UNSUPPORTED, key.text,
                             "key '%s': it gives matrices of %d columns, which is not a multiple of %d",
                             key.text, widths[i].value, COLUMN_MULTIPLE);
    }
    return ERR_OK;
}

/* The vocabulary is as large as the embedding matrix, whatever the keys say. */
static enum err read_vocab(const struct gguf *gguf, struct model_config *config, struct err_info *info)
{
    static const char name[] = "token_embd.weight";
    const struct gguf_tensor *tensor = gguf_tensor_find(gguf, name);
    if (!tensor) return err_set_param(info, ERR_FORMAT, name, "tensor '%s' is missing", name);
    if (tensor->n_dims != 2 || tensor->dims[1] > MAX_VOCAB) {
        return err_set_param(info, ERR_FORMAT, name,
                             "tensor '%s': %d dimensions, the second %lld; two, and up to %d", name,
                             tensor->n_dims, (long long)tensor->dims[1], MAX_VOCAB);
    }
    config->n_vocab = (int)tensor->dims[1];
    return ERR_OK;
}

enum err model_config_read(const struct gguf *gguf, struct model_config *out, struct err_info *info)
{
    struct model_config config = {0};
    enum err err = read_names(gguf, &config, info);
    if (!err) err = read_sizes(gguf, &config, info);
    if (!err) err = read_head_dim(gguf, &config, info);
    if (!err) err = check_heads(&config, info);
    if (!err) err = check_columns(&config, info);
    if (!err) err = read_vocab(gguf, &config, info);
    if (!err) {
        err = read_positive(gguf, &config, "attention.layer_norm_rms_epsilon", 0, &config.rms_eps, info);
    }
    if (!err) err = read_positive(gguf, &config, "rope.freq_base", 10000.0F, &config.rope_freq_base, info);
    if (err) return err;
    for (size_t i = 0; i < gguf_tensor_count(gguf); i++) {
        const int64_t *dims = gguf_tensor_at(gguf, i)->dims;
        config.n_params += dims[0] * dims[1] * dims[2] * dims[3]; /* bounded by the size of the file */
    }
    *out = config;
    return ERR_OK;
}

/* rope.scaling.type linear (positions divided by rope.scaling.factor), or the older rope.scale_linear. */
static enum err read_scaling(const struct gguf *gguf, const struct model_config *config, float *factor,
                             struct err_info *info)
{
    struct key type = key_of(config, "rope.scaling.type");
    struct gguf_string text;
    *factor = 1;
    if (!gguf_has(gguf, type.text)) return read_positive(gguf, config, "rope.scale_linear", 1, factor, info);
    enum err err = gguf_get_string(gguf, type.text, &text, info);
    if (err) return err;
    char name[32];
    copy_text(name, sizeof name, text);
    if (strcmp(name, "none") == 0) return ERR_OK;
    if (strcmp(name, "linear") == 0)
        return read_positive(gguf, config, "rope.scaling.factor", 0, factor, info);
    return err_set_param(info, ERR_UNSUPPORTED, type.text,
                         "key '%s': '%s' is not supported; none and linear are", type.text, name);
}

/* rope_freqs.weight: a divisor for each frequency (Llama 3.1 and later). */
static enum err divide_factors(const struct gguf *gguf, int n, double *inv_freq, struct err_info *info)
{
    static const char name[] = "rope_freqs.weight";
    const struct gguf_tensor *tensor = gguf_tensor_find(gguf, name);
    float factors[KV_MAX_HEAD_DIM / 2];
    if (!tensor) return ERR_OK;
    if (tensor->n_dims != 1 || tensor->dims[0] != n || dtype_block_elements(tensor->dtype) != 1) {
        return err_set_param(info, ERR_FORMAT, name,
                             "tensor '%s': %lld elements of %s found, %d of F32 expected", name,
                             (long long)tensor->dims[0], dtype_name(tensor->dtype), n);
    }
    dtype_to_f32(tensor->dtype, tensor->data, (size_t)n, factors);
    for (int i = 0; i < n; i++) {
        if (!isfinite(factors[i]) || factors[i] <= 0) {
            return err_set_param(info, ERR_FORMAT, name,
                                 "tensor '%s': factor %d is %g, not a number above zero", name, i,
                                 (double)factors[i]);
        }
        inv_freq[i] /= (double)factors[i];
    }
    return ERR_OK;
}

enum err model_rope_read(const struct gguf *gguf, const struct model_config *config, double *inv_freq,
                         struct err_info *info)
{
    float factor;
    enum err err = read_scaling(gguf, config, &factor, info);
    if (err) return err;
    const int n = config->head_dim / 2;
    for (int i = 0; i < n; i++) {
        inv_freq[i] = pow((double)config->rope_freq_base, -2.0 * i / config->head_dim) / (double)factor;
    }
    return divide_factors(gguf, n, inv_freq, info);
}
