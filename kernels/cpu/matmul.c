#include "kernels/cpu/matmul.h"
#include "kernels/cpu/row.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/*
 * Around the inner kernels: weights' memory, and how a product is cut up. An item is a run of tiles times all
 * rows of activations; inside, rows go in blocks whose activations stay in the second-level cache while the
 * item's tiles, which fit there too, are walked again for each block.
 */
enum {
    ITEM_WEIGHT_BYTES = 128 << 10,
    BLOCK_ACT_BYTES = 160 << 10,
    ITEM_MIN_MACS = 256 << 10,
    ITEMS_PER_WORKER = 8
};

static int min_int(int a, int b)
{
    return a < b ? a : b;
}
static int max_int(int a, int b)
{
    return a > b ? a : b;
}

/* ---- weights ---- */

struct pack_job {
    const struct weight_source *source;
    struct weight *weight;
    size_t row_bytes;
};

static void pack_item(void *context, int item, int worker)
{
    (void)worker;
    const struct pack_job *job = context;
    const void *rows[TILE_ROWS] = {NULL};
    for (int i = 0; i < TILE_ROWS && item * TILE_ROWS + i < job->weight->n_rows; i++) {
        int row = item * TILE_ROWS + i;
        int from = job->source->row_order ? job->source->row_order[row] : row;
        rows[i] = (const char *)job->source->data + (size_t)from * job->row_bytes;
    }
    tile_pack(job->weight->dtype, rows, job->weight->n_cols,
              job->weight->tiles + (size_t)item * job->weight->tile_bytes);
}

static enum err weight_check(const struct weight_source *source, struct err_info *info)
{
    size_t block = dtype_block_elements((uint32_t)source->dtype);
    if (!block)
        return err_set_param(info, ERR_UNSUPPORTED, source->name,
                             "tensor '%s': element type %d is not supported", source->name,
                             (int)source->dtype);
    if (source->n_rows < 1 || source->n_cols < 1 || (size_t)source->n_cols % block ||
        source->n_cols % TILE_GROUP)
        return err_set_param(info, ERR_UNSUPPORTED, source->name,
                             "tensor '%s': %d x %d elements; columns must be a multiple of %zu", source->name,
                             source->n_rows, source->n_cols, block > TILE_GROUP ? block : TILE_GROUP);
    return ERR_OK;
}

static bool weight_take_order(struct weight *weight, const struct weight_source *source)
{
    if (!source->row_order) return true;
    size_t bytes = (size_t)source->n_rows * sizeof *weight->row_order;
    weight->row_order = malloc(bytes);
    if (weight->row_order) memcpy(weight->row_order, source->row_order, bytes);
    return weight->row_order;
}

enum err matmul_weight_create(struct backend *backend, const struct weight_source *source,
                              struct weight **out, struct err_info *info)
{
    enum err err = weight_check(source, info);
    if (err) return err;
    struct weight *weight = calloc(1, sizeof *weight);
    if (!weight) goto memory;
    weight->dtype = source->dtype;
    weight->n_rows = source->n_rows;
    weight->n_cols = source->n_cols;
    weight->n_tiles = (source->n_rows - 1) / TILE_ROWS + 1;
    if (source->gather) {
        weight->data = source->data;
        if (!weight_take_order(weight, source)) goto memory;
    }
    if (source->multiply) {
        weight->tile_bytes = tile_bytes(source->dtype, source->n_cols);
        weight->tiles = backend->alloc(backend, (size_t)weight->n_tiles * weight->tile_bytes);
        if (!weight->tiles) goto memory;
        struct pack_job job = {.source = source,
                               .weight = weight,
                               .row_bytes = (size_t)source->n_cols / dtype_block_elements(source->dtype) *
                                            dtype_block_bytes(source->dtype)};
        workers_run(cpu_state(backend)->workers, weight->n_tiles, pack_item, &job);
    }
    *out = weight;
    return ERR_OK;
memory:
    matmul_weight_free(backend, weight);
    return err_set_param(info, ERR_MEMORY, source->name, "tensor '%s': out of memory", source->name);
}

void matmul_weight_free(struct backend *backend, struct weight *weight)
{
    if (!weight) return;
    backend->free(backend, weight->tiles);
    free(weight->row_order);
    free(weight);
}

size_t matmul_weight_bytes(const struct weight *weight)
{
    size_t order = weight->row_order ? (size_t)weight->n_rows * sizeof *weight->row_order : 0;
    return order + (weight->tiles ? (size_t)weight->n_tiles * weight->tile_bytes : 0);
}

void matmul_gather(struct backend *backend, const struct weight *weight, const int32_t *tokens, int n_tokens,
                   float *out)
{
    (void)backend;
    assert(weight->data);
    size_t n = (size_t)weight->n_cols;
    size_t row_bytes = n / dtype_block_elements(weight->dtype) * dtype_block_bytes(weight->dtype);
    for (int t = 0; t < n_tokens; t++) {
        assert(tokens[t] >= 0 && tokens[t] < weight->n_rows);
        int32_t row = weight->row_order ? weight->row_order[tokens[t]] : tokens[t];
        dtype_to_f32(weight->dtype, weight->data + (size_t)row * row_bytes, n, out + (size_t)t * n);
    }
}

/* ---- activations ---- */

struct acts *matmul_acts_create(struct backend *backend, int max_rows, int max_cols, int bits)
{
    assert(bits == 8 || bits == 16);
    assert(max_rows > 0 && max_cols > 0 && max_cols % TILE_GROUP == 0);
    struct acts *acts = calloc(1, sizeof *acts);
    if (!acts) return NULL;
    acts->max_rows = max_rows;
    acts->max_cols = max_cols;
    acts->bits = bits;
    acts->group_bytes = act_bytes(bits);
    acts->groups =
        backend->alloc(backend, (size_t)max_rows * (size_t)(max_cols / TILE_GROUP) * acts->group_bytes);
    if (!acts->groups) {
        free(acts);
        return NULL;
    }
    return acts;
}

void matmul_acts_free(struct backend *backend, struct acts *acts)
{
    if (!acts) return;
    backend->free(backend, acts->groups);
    free(acts);
}

struct prepare_job {
    const struct row_kernels *kernels;
    struct acts *acts;
};

static void prepare_item(void *context, int item, int worker)
{
    (void)worker;
    const struct prepare_job *job = context;
    const struct acts *acts = job->acts;
    const float *x = acts->x + (size_t)item * (size_t)acts->n_cols;
    char *groups = acts->groups + (size_t)item * (size_t)(acts->n_cols / TILE_GROUP) * acts->group_bytes;
    if (acts->bits == 16)
        job->kernels->quantize_16(x, acts->n_cols, (struct act_16 *)(void *)groups);
    else
        job->kernels->quantize_8(x, acts->n_cols, (struct act_8 *)(void *)groups);
}

void matmul_prepare(struct backend *backend, const float *x, int n_rows, int n, struct acts *acts)
{
    assert(n_rows <= acts->max_rows && n <= acts->max_cols && n % TILE_GROUP == 0);
    acts->x = x;
    acts->n_rows = n_rows;
    acts->n_cols = n;
    struct prepare_job job = {.kernels = cpu_state(backend)->rows, .acts = acts};
    workers_run(cpu_state(backend)->workers, n_rows, prepare_item, &job);
}

/* ---- products ---- */

struct matmul_job {
    const struct matmul_kernels *kernels;
    const struct weight *weight;
    const struct acts *acts;
    const float *bias;
    float *out;
    int tiles_per_item, rows_per_block;
};

static void matmul_item(void *context, int item, int worker)
{
    (void)worker;
    const struct matmul_job *job = context;
    const struct weight *weight = job->weight;
    const struct acts *acts = job->acts;
    int first_tile = item * job->tiles_per_item;
    int n_tiles = min_int(job->tiles_per_item, weight->n_tiles - first_tile);
    int first_output = first_tile * TILE_ROWS;
    size_t row_bytes = (size_t)(acts->n_cols / TILE_GROUP) * acts->group_bytes;
    for (int row = 0; row < acts->n_rows; row += job->rows_per_block) {
        struct matmul_part part = {
            .tiles = weight->tiles + (size_t)first_tile * weight->tile_bytes,
            .tile_bytes = weight->tile_bytes,
            .n_tiles = n_tiles,
            .n_outputs = min_int(n_tiles * TILE_ROWS, weight->n_rows - first_output),
            .n_cols = weight->n_cols,
            .n_rows = min_int(job->rows_per_block, acts->n_rows - row),
            .act_bits = acts->bits,
            .groups = acts->groups + (size_t)row * row_bytes,
            .x = acts->x + (size_t)row * (size_t)acts->n_cols,
            .bias = job->bias ? job->bias + first_output : NULL,
            .out = job->out + (size_t)row * (size_t)weight->n_rows + first_output,
            .out_stride = (size_t)weight->n_rows,
        };
        job->kernels->part(weight->dtype, &part);
    }
}

/* Enough items to balance the workers, none so large that its weights leave the cache, none so small that
   handing it out shows. An even number of tiles, because wide kernels take two. */
static int item_tiles(const struct weight *weight, int n_rows, int n_workers)
{
    long tile_macs = (long)TILE_ROWS * weight->n_cols * n_rows;
    int least = (int)(ITEM_MIN_MACS / tile_macs) + 1;
    int most = max_int((int)(ITEM_WEIGHT_BYTES / weight->tile_bytes), least);
    int even = max_int(weight->n_tiles / (n_workers * ITEMS_PER_WORKER), least);
    return (min_int(even, most) + 1) / 2 * 2;
}

static int block_rows(const struct matmul_kernels *kernels, size_t row_bytes)
{
    int fit = (int)(BLOCK_ACT_BYTES / row_bytes);
    return max_int(fit / kernels->rows_at_once, 1) * kernels->rows_at_once;
}

void matmul_run(struct backend *backend, const struct weight *weight, const struct acts *acts,
                const float *bias, float *out)
{
    assert(weight->tiles && weight->n_cols == acts->n_cols);
    struct cpu_state *cpu = cpu_state(backend);
    bool quantized = dtype_block_elements(weight->dtype) > 1;
    size_t row_bytes = quantized ? (size_t)(acts->n_cols / TILE_GROUP) * acts->group_bytes
                                 : (size_t)acts->n_cols * sizeof *acts->x;
    struct matmul_job job = {
        .kernels = cpu->matmul,
        .weight = weight,
        .acts = acts,
        .bias = bias,
        .out = out,
        .tiles_per_item = item_tiles(weight, acts->n_rows, workers_count(cpu->workers)),
        .rows_per_block = block_rows(cpu->matmul, row_bytes),
    };
    int n_items = (weight->n_tiles + job.tiles_per_item - 1) / job.tiles_per_item;
    workers_run(cpu->workers, n_items, matmul_item, &job);
}
