#include "kernels/cuda/rotated.h"
#include "kernels/cuda/cuda.h"
#include "kernels/kv_rotate.h"

#include <stdlib.h>

/*
 * Attention over format rotatekv, as on the CPU (kernels/cpu/kv_rotated.c): a sequence's sealed blocks are
 * brought back to f16, a layer at a time, and attended to as blocks of f16 are, by the same kernels. Rows in
 * different blocks read different pages, a block that was just sealed as it was stored or from its codes, so
 * a span becomes a span of f16 for each block that it has rows in: the blocks before it are those in the
 * scratch, its own is the one given. That happens once a step; a layer then is one launch more.
 *
 * The scratch has a bound, so spans come in loads: when a load is in, attention runs over its spans, then the
 * next one comes. A span's blocks are always in one.
 */

static bool is_rotated(const struct attention_span *span)
{
    return span->codec && span->codec->rotate;
}

/* The block of the span's last row, before which all are brought back. */
static int last_block(const struct attention_span *span)
{
    return (span->first_pos + span->n_rows - 1) / KV_BLOCK_TOKENS;
}

static size_t block_bytes(const struct kv_shape *shape)
{
    return (size_t)shape->n_kv_heads * kv_page_bytes(KV_F16, shape->head_dim);
}

struct counts {
    size_t spans, refs, jobs, most_jobs; /* of a span */
    const struct kv_shape *shape;        /* NULL: none is of this format */
};

static struct counts spans_count(const struct attention_span *spans, int n_spans)
{
    struct counts out = {.spans = (size_t)n_spans};
    for (int i = 0; i < n_spans; i++) {
        if (!is_rotated(&spans[i])) continue;
        int first = spans[i].first_pos / KV_BLOCK_TOKENS, last = last_block(&spans[i]);
        size_t jobs = (size_t)last;
        out.shape = &spans[i].codec->shape;
        out.spans += (size_t)(last - first);
        for (int own = first; own <= last; own++) out.refs += (size_t)own + 1;
        out.jobs += jobs;
        out.most_jobs = jobs > out.most_jobs ? jobs : out.most_jobs;
    }
    return out;
}

/* ---- room ---- */

/* An array of so many entries; what was in it is lost. */
static bool array_need(void **array, size_t n, size_t size)
{
    free(*array);
    *array = malloc(n * size);
    return *array != NULL;
}

#define ARRAY_NEED(array, n) array_need((void **)&(array), n, sizeof *(array))

static bool spans_need(struct cuda_rotated *rotated, size_t n)
{
    if (n <= rotated->spans_room) return true;
    rotated->spans_room = 0;
    if (!ARRAY_NEED(rotated->spans, 2 * n) || !ARRAY_NEED(rotated->load_of, 2 * n) ||
        !ARRAY_NEED(rotated->loads, 2 * n))
        return false;
    rotated->spans_room = 2 * n;
    return true;
}

static bool refs_need(struct cuda_rotated *rotated, size_t n)
{
    if (n <= rotated->refs_room) return true;
    rotated->refs_room = 0;
    if (!ARRAY_NEED(rotated->refs, 2 * n)) return false;
    rotated->refs_room = 2 * n;
    return true;
}

static bool jobs_need(struct cuda_rotated *rotated, size_t n)
{
    if (n <= rotated->jobs_room) return true;
    rotated->jobs_room = 0;
    if (!ARRAY_NEED(rotated->job_refs, 2 * n) || !ARRAY_NEED(rotated->jobs, 2 * n) ||
        !ARRAY_NEED(rotated->job_index, 2 * n))
        return false;
    rotated->jobs_room = 2 * n;
    return true;
}

/* ---- spans ---- */

/* Where the next of each kind goes, and how many blocks a load may have. */
struct splitter {
    struct cuda_rotated *rotated;
    struct attention_span *span;
    struct kv_block_ref *ref;
    int n_jobs, most_jobs;
};

static void span_add(struct splitter *splitter, const struct attention_span *span)
{
    struct cuda_rotated *rotated = splitter->rotated;
    rotated->load_of[splitter->span - rotated->spans] = rotated->n_loads ? rotated->n_loads - 1 : 0;
    *splitter->span++ = *span;
}

/* The load that has room for n more blocks. */
static struct cuda_load *load_for(struct splitter *splitter, const struct cuda_rotate *rotate, int n,
                                  int first_row)
{
    struct cuda_rotated *rotated = splitter->rotated;
    struct cuda_load *next = &rotated->loads[rotated->n_loads];
    if (rotated->n_loads && next[-1].rotate == rotate && next[-1].n_jobs + n <= splitter->most_jobs)
        return next - 1;
    *next = (struct cuda_load){.rotate = rotate, .first_job = splitter->n_jobs, .first_row = first_row};
    rotated->n_loads++;
    return next;
}

static void span_split(struct splitter *splitter, const struct attention_span *span,
                       const struct cuda_rotate *rotate)
{
    struct cuda_rotated *rotated = splitter->rotated;
    int last = last_block(span), end = span->first_pos + span->n_rows;
    struct cuda_load *load = load_for(splitter, rotate, last, span->first_row);
    size_t bytes = block_bytes(&span->codec->shape);
    const struct kv_block_ref *back = &rotated->job_refs[splitter->n_jobs];
    for (int b = 0; b < last; b++) {
        struct kv_block_ref *ref = &rotated->job_refs[splitter->n_jobs];
        *ref = span->blocks[b];
        ref->f16 = (char *)rotated->scratch.memory + (size_t)load->n_jobs++ * bytes;
        ref->f16_layer_stride = 0;
        rotated->jobs[splitter->n_jobs] = ref;
        rotated->job_index[splitter->n_jobs++] = b;
    }
    for (int own = span->first_pos / KV_BLOCK_TOKENS; own <= last; own++) {
        int from = own * KV_BLOCK_TOKENS, to = from + KV_BLOCK_TOKENS;
        from = from < span->first_pos ? span->first_pos : from;
        to = to > end ? end : to;
        struct attention_span rows = {.first_row = span->first_row + from - span->first_pos,
                                      .n_rows = to - from,
                                      .first_pos = from,
                                      .n_blocks = own + 1,
                                      .blocks = splitter->ref};
        for (int b = 0; b <= own; b++) {
            const struct kv_block_ref *ref = b < own ? &back[b] : &span->blocks[own];
            *splitter->ref++ =
                (struct kv_block_ref){.f16 = ref->f16, .f16_layer_stride = ref->f16_layer_stride};
        }
        span_add(splitter, &rows);
    }
}

bool cuda_rotated_split(struct cuda_state *cuda, const struct attention_span **spans, int *n_spans)
{
    struct cuda_rotated *rotated = &cuda->rotated;
    struct counts counts = spans_count(*spans, *n_spans);
    rotated->n_loads = 0;
    if (!counts.shape) return true;
    if (!spans_need(rotated, counts.spans) || !refs_need(rotated, counts.refs) ||
        !jobs_need(rotated, counts.jobs))
        return cuda_check(cuda, cudaErrorMemoryAllocation, "block tables");
    size_t bytes = block_bytes(counts.shape), most = (size_t)rotated->scratch_bytes / bytes;
    most = most > counts.most_jobs ? most : counts.most_jobs;
    most = most < counts.jobs ? most : counts.jobs;
    if (!cuda_buffer_need(cuda, &rotated->scratch, most * bytes)) return false;
    struct splitter splitter = {
        .rotated = rotated, .span = rotated->spans, .ref = rotated->refs, .most_jobs = (int)most};
    for (int i = 0; i < *n_spans; i++) {
        const struct attention_span *span = &(*spans)[i];
        const struct cuda_resident *codec = is_rotated(span) ? cuda_codec_resident(cuda, span->codec) : NULL;
        if (is_rotated(span) && !codec) return false;
        if (codec)
            span_split(&splitter, span, codec->rotate);
        else
            span_add(&splitter, span);
    }
    *spans = rotated->spans;
    *n_spans = (int)counts.spans;
    rotated->seal =
        (struct cuda_seal){.n_kv_heads = counts.shape->n_kv_heads, .head_dim = counts.shape->head_dim};
    return counts.jobs == 0 || cuda_blocks_send(cuda, &rotated->table, rotated->jobs, rotated->job_index,
                                                (int)counts.jobs, &rotated->seal);
}

bool cuda_rotated_load(struct cuda_state *cuda, int layer, int load)
{
    const struct cuda_rotated *rotated = &cuda->rotated;
    if (load >= rotated->n_loads || rotated->loads[load].n_jobs == 0) return true;
    const struct cuda_load *from = &rotated->loads[load];
    struct cuda_seal seal = rotated->seal;
    seal.layer = layer;
    seal.n_blocks = from->n_jobs;
    seal.blocks += from->first_job;
    seal.block_index += from->first_job;
    return cuda_check(cuda, cuda_rotated_unseal_run(from->rotate, &seal, cuda->stream), "attention");
}

void cuda_free_rotated(struct cuda_state *cuda)
{
    struct cuda_rotated *rotated = &cuda->rotated;
    cudaFree(rotated->scratch.memory);
    cuda_table_free(&rotated->table);
    free(rotated->spans), free(rotated->load_of), free(rotated->loads);
    free(rotated->refs);
    free(rotated->job_refs), free(rotated->jobs), free(rotated->job_index);
    *rotated = (struct cuda_rotated){.scratch_bytes = rotated->scratch_bytes};
}
