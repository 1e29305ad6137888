#include "server/recoder.h"

#include "kernels/kv_rotate.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { N_MASSIVE = 20 };

struct massive {
    float size;
    int32_t token;
};

struct recoder {
    struct evaluation *evaluation;
    struct kv_shape shape;
    int n_embd;
    char *memory;
    char *parts[EVALUATION_MAX_CACHES][KV_MAX_PARTS]; /* of one block; NULL: not read */
    char *sinks[KV_MAX_SINKS];
    struct massive *massive; /* [layers][N_MASSIVE] */
    /* of the step */
    int first_pos, n_tokens;
    const struct attention_span *spans;
};

static size_t rounded(size_t bytes)
{
    return (bytes + 63) & ~(size_t)63;
}

/* Memory of everything: with memory NULL only its size. */
static size_t memory_share(struct recoder *recoder, char *memory)
{
    size_t at = 0;
    for (int c = 1; c < recoder->evaluation->n_caches; c++) {
        const struct kv_codec *codec = recoder->evaluation->policies[c].format->codec;
        for (int p = 0; codec && p < codec->n_old_parts; p++) {
            if (memory) recoder->parts[c][p] = memory + at;
            at += rounded(kv_codec_part_bytes(codec, p));
        }
    }
    for (int s = 0; s < KV_MAX_SINKS; s++) {
        if (memory) recoder->sinks[s] = memory + at;
        at += rounded(kv_block_bytes(KV_SINK, &recoder->shape));
    }
    return at;
}

enum err recoder_create(struct evaluation *evaluation, struct recoder **out, struct err_info *info)
{
    struct recoder *recoder = calloc(1, sizeof *recoder);
    if (recoder == NULL) return err_set(info, ERR_MEMORY, "eval: out of memory");
    struct backend *backend = evaluation->runtime.backend;
    recoder->evaluation = evaluation;
    recoder->shape = evaluation->policies[0].shape;
    recoder->n_embd = model_config(evaluation->runtime.model)->n_embd;
    recoder->memory = backend->alloc(backend, memory_share(recoder, NULL));
    recoder->massive = malloc((size_t)recoder->shape.n_layers * N_MASSIVE * sizeof *recoder->massive);
    if (recoder->memory == NULL || recoder->massive == NULL) {
        recoder_free(recoder);
        return err_set(info, ERR_MEMORY, "eval: out of memory");
    }
    memory_share(recoder, recoder->memory);
    recoder_reset(recoder);
    *out = recoder;
    return ERR_OK;
}

void recoder_free(struct recoder *recoder)
{
    if (recoder == NULL) return;
    struct backend *backend = recoder->evaluation->runtime.backend;
    if (recoder->memory != NULL) backend->free(backend, recoder->memory);
    free(recoder->massive);
    free(recoder);
}

static bool is_rotated(const struct recoder *recoder, int c)
{
    const struct kv_codec *codec = recoder->evaluation->policies[c].format->codec;
    return codec != NULL && codec->rotate != NULL;
}

bool recoder_wants_watching(const struct recoder *recoder)
{
    for (int c = 1; c < recoder->evaluation->n_caches; c++)
        if (is_rotated(recoder, c)) return true;
    return false;
}

void recoder_reset(struct recoder *recoder)
{
    for (int i = 0; i < recoder->shape.n_layers * N_MASSIVE; i++)
        recoder->massive[i] = (struct massive){.size = -1, .token = -1};
}

void recoder_step(struct recoder *recoder, int first_pos, int n_tokens, const struct attention_span *spans)
{
    recoder->first_pos = first_pos;
    recoder->n_tokens = n_tokens;
    recoder->spans = spans;
}

/* The largest so far in decreasing order. */
static void massive_insert(struct massive *massive, float size, int32_t token)
{
    int i = N_MASSIVE - 1;
    for (; i > 0 && massive[i - 1].size < size; i--) massive[i] = massive[i - 1];
    massive[i] = (struct massive){size, token};
}

void recoder_watch(void *context, int layer, const float *hidden)
{
    struct recoder *recoder = context;
    struct massive *massive = recoder->massive + layer * N_MASSIVE;
    for (int r = 0; r < recoder->n_tokens; r++)
        for (int i = 0; i < recoder->n_embd; i++) {
            float size = fabsf(hidden[(size_t)r * (size_t)recoder->n_embd + (size_t)i]);
            if (size > massive[N_MASSIVE - 1].size) massive_insert(massive, size, recoder->first_pos + r);
        }
}

/* Tokens of the block that stay exact. */
static uint64_t exact_mask(const struct recoder *recoder, int c, int layer, int block)
{
    const struct massive *massive = recoder->massive + layer * N_MASSIVE;
    uint64_t mask = 0;
    if (!is_rotated(recoder, c)) return kv_policy_sink_mask(&recoder->evaluation->policies[c], block);
    for (int i = 0; i < N_MASSIVE; i++)
        if (massive[i].token >= 0 && massive[i].token / KV_BLOCK_TOKENS == block)
            mask |= UINT64_C(1) << massive[i].token % KV_BLOCK_TOKENS;
    return mask;
}

void recoder_recode(void *context, int layer, const float *hidden)
{
    (void)hidden;
    struct recoder *recoder = context;
    struct backend *backend = recoder->evaluation->runtime.backend;
    assert(recoder->first_pos % KV_BLOCK_TOKENS == 0 && recoder->n_tokens == KV_BLOCK_TOKENS);
    int32_t block = recoder->first_pos / KV_BLOCK_TOKENS;
    for (int c = 1; c < recoder->evaluation->n_caches; c++) {
        const struct kv_codec *codec = recoder->evaluation->policies[c].format->codec;
        if (codec == NULL) continue;
        struct kv_block_ref ref = recoder->spans[c].blocks[block];
        const struct kv_block_ref *refs[] = {&ref};
        memcpy(ref.parts, recoder->parts[c], sizeof ref.parts);
        ref.sink_mask = exact_mask(recoder, c, layer, block);
        ref.sinks = recoder->sinks;
        struct kv_seal_args args = {
            .codec = codec, .layer = layer, .n_blocks = 1, .blocks = refs, .block_index = &block};
        backend->kv_seal(backend, &args);
        backend->kv_unseal(backend, &args, codec->n_old_parts);
    }
}
