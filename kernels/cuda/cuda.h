#ifndef KERNELS_CUDA_CUDA_H
#define KERNELS_CUDA_CUDA_H

#include "kernels/backend.h"
#include "kernels/cuda/launch.h"

#include <stdbool.h>

/*
 * The CUDA backend's own state (struct backend.state). All work goes to one stream, in order; the host waits
 * only in download. An error of the card is kept (the first one) and told by backend->failure: from then on
 * every operation does nothing.
 */

enum { CUDA_MAX_CODECS = 16 };

/* Memory of the card that grows when more is asked for. */
struct cuda_buffer {
    void *memory;
    size_t bytes;
};

/* What the kernels need to know of the spans of a step: blocks, spans, rows, tiles. */
struct cuda_table {
    const struct attention_span *announced; /* by step_begin; NULL: filled for one call */
    int n_announced;
    const struct attention_span *filled; /* what spans the table has: those announced, or what they became
                                            (rotated.c) */
    int n_filled;
    int n_rows;
    int tiles_group; /* query heads per KV head that cuda_state.tiles was made for; 0: not made */
    struct cuda_buffer device;
    char *host; /* the same bytes */
    size_t host_bytes;
    const struct cuda_span *spans; /* into device */
    const struct cuda_row *rows;
};

struct cuda_rotate; /* rotated.h */

/* A codec's arrays on the card, known by its serial number. */
struct cuda_resident {
    uint64_t serial;
    struct cuda_codec *codec;   /* NULL: of format rotatekv, and so is all but the next three */
    struct cuda_rotate *rotate; /* NULL: of another one */
    void *memory;
    size_t bytes;               /* of memory */
    struct cuda_walk_room room; /* this and the rest: struct cuda_walk */
    int n_basis_steps, n_basis_halves, place_blocks;
};

struct cuda_ranges;  /* memory.c */
struct cuda_marks;   /* marks.c */
struct cuda_lanes;   /* transfer.c */
struct cuda_chooser; /* choose.c */

/* Tiles of one codec that a launch of walks takes: struct cuda_walk. */
struct cuda_batch {
    const struct cuda_resident *codec; /* NULL: f16 */
    int first_tile, n_tiles, first_item, n_items, n_old_items, first_slot, n_slots, most_slots;
    bool has_tiles_in_rows;                 /* list_half_items */
    int old_record_bytes, all_record_bytes; /* of a frame with old blocks, with recent ones */
    size_t record_bytes;                    /* of one KV head and lot */
    int load;                               /* of f16: which of rotated.c must stand in the scratch */
};

/* rotated.c: what stands in the scratch at a time, and the first row of the batch that reads it. */
struct cuda_load {
    const struct cuda_rotate *rotate;
    int first_job, n_jobs, first_row;
};

/* The table's spans, those of format rotatekv as spans of f16. */
struct cuda_rotated {
    struct attention_span *spans;
    int *load_of;                  /* of each of them */
    struct kv_block_ref *refs;     /* their blocks */
    struct kv_block_ref *job_refs; /* blocks to be brought into the scratch */
    const struct kv_block_ref **jobs;
    int32_t *job_index;
    struct cuda_load *loads;
    size_t spans_room, refs_room, jobs_room; /* entries; of loads as many as of spans */
    int n_loads;                             /* 0: no span is of this format */
    struct cuda_table table;                 /* the jobs' */
    struct cuda_seal seal;                   /* of all jobs */
    struct cuda_buffer scratch;
    int scratch_bytes; /* which it may have, unless one sequence needs more */
};

struct cuda_state {
    int device;
    cudaStream_t stream;
    char name[160];
    char failure[200]; /* empty: none */
    struct cuda_buffer tokens, frequencies;
    struct cuda_table table;  /* spans */
    struct cuda_table sealed; /* blocks of a seal */
    struct cuda_table tiles;  /* of the table's spans; only device and host are used */
    struct cuda_buffer partials, records, tickets;
    struct cuda_buffer unpacked; /* slices of packed weights in fp16 (weight.h) */
    struct cuda_rotated rotated;
    struct cuda_resident codecs[CUDA_MAX_CODECS];
    int n_codecs; /* ever made resident; the oldest makes room */
    struct cuda_ranges *ranges;
    struct cuda_marks *marks;
    struct cuda_lanes *lanes;
    struct cuda_chooser *chooser; /* NULL: nobody has asked */
    size_t acts_bytes;
    struct cuda_batch *batches; /* [n_batches], of cuda_state.tiles; room for most_batches */
    int n_batches, most_batches, walk_columns, walk_lots;
    size_t items_at; /* in tiles' memory */
    int n_processors, most_shared_bytes;
    void *matmul_90; /* cuda_matmul_90_open */
    bool is_plain;   /* attention by the readable kernel */
    int walk_warps;
};

static inline struct cuda_state *cuda_state(const struct backend *backend)
{
    return backend->state;
}

/* True when error is cudaSuccess; otherwise the first one is kept with the operation's name. */
bool cuda_check(struct cuda_state *cuda, cudaError_t error, const char *operation);

/* At least bytes; content is lost when it grows. False when the card is full. */
bool cuda_buffer_need(struct cuda_state *cuda, struct cuda_buffer *buffer, size_t bytes);

/* Room for bytes on both sides of a table. */
bool cuda_table_need(struct cuda_state *cuda, struct cuda_table *table, size_t bytes);
void cuda_table_free(struct cuda_table *table);

/* kv.c: so many blocks and their indices to the card, into the table, for out. */
bool cuda_blocks_send(struct cuda_state *cuda, struct cuda_table *table,
                      const struct kv_block_ref *const *blocks, const int32_t *block_index, int n_blocks,
                      struct cuda_seal *out);

/* rotated.c. split: the spans that attention runs over and, with the same rows and pages, kv_store: those
   given, when none is of format rotatekv; otherwise cuda->rotated.spans. load: before attention over spans
   that need it, brings their blocks back to f16, of a layer. False after an error. */
bool cuda_rotated_split(struct cuda_state *cuda, const struct attention_span **spans, int *n_spans);
bool cuda_rotated_load(struct cuda_state *cuda, int layer, int load);
void cuda_free_rotated(struct cuda_state *cuda);

/* codec.c: a codec's arrays on the card; NULL after an error. */
const struct cuda_resident *cuda_codec_resident(struct cuda_state *cuda, const struct kv_codec *codec);

/* walk_page.c: what walks know of a page; most becomes at least what the page takes. */
void cuda_walk_page_fill(const struct kv_codec *codec, int index, struct cuda_walk_page *page);
void cuda_walk_room_fit(struct cuda_walk_room *most, const struct cuda_walk_room *page);

/* walk.c: attention by the kernels of walk.cuh, of the spans that the table was filled from. */
void cuda_walk_attention(struct cuda_state *cuda, const struct attention_args *args,
                         const struct cuda_attention *attention);

/* weights.c, kv.c, memory.c: their operations into the table; what they hold is given back. */
void cuda_fill_weights(struct backend *backend);
void cuda_fill_kv(struct backend *backend);
void cuda_free_kv(struct cuda_state *cuda);
/* transfer.c: to the card, in the stream's order; done with `from` when it returns. False after an error of
   the card, which is called `what`. */
bool cuda_send(struct cuda_state *cuda, void *to, const void *from, size_t bytes, const char *what);
bool cuda_fill_transfer(struct backend *backend);
void cuda_free_transfer(struct cuda_state *cuda);

/* choose.c. bytes: of the card's memory. */
void cuda_fill_choose(struct backend *backend);
size_t cuda_choose_bytes(const struct cuda_state *cuda);
void cuda_free_choose(struct cuda_state *cuda);

/* marks.c: false without memory. */
bool cuda_fill_marks(struct backend *backend);
void cuda_free_marks(struct cuda_state *cuda);
enum err cuda_fill_memory(struct backend *backend, struct err_info *info);
void cuda_free_memory(struct cuda_state *cuda);

#endif
