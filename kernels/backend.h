#ifndef KERNELS_BACKEND_H
#define KERNELS_BACKEND_H

#include "config/err.h"
#include "kernels/choice.h"
#include "kernels/dtype.h"
#include "kernels/kv_codec.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * The backend: a table of operations on buffers in a device's memory (on the CPU: ordinary memory).
 *
 * The law of every operation: a row of the result depends on that row's inputs alone, never on how many rows
 * the call has, which worker ran it, or which instruction set was chosen. On the CPU this is meant to the
 * bit: scalar, AVX2 and AVX-512 give identical results, because
 *   - integer dot products are exact in any order;
 *   - a floating-point sum has one order, stated where it is computed: products add group after group of 32
 *     columns (kernels/cpu/matmul.h), sums over a row are sixteen partial sums (lane = index mod 16), each in
 *     increasing order, combined lane i += lane i+8, then i+4, i+2, i+1 (kernels/cpu/row.h);
 *   - a multiply-add is one fmaf where the reference says so, never elsewhere (-ffp-contract=off);
 *   - exp is our own polynomial, the same in every version.
 * Matrices are row major, fp32 unless said otherwise; T = rows (tokens) of the call.
 */

struct workers;
struct weight; /* a matrix [n_rows][n_cols] in the backend's own arrangement */
struct acts;   /* activations prepared for matrix products (on the CPU: also quantized) */

struct weight_source {
    const char *name; /* for messages */
    enum dtype dtype;
    int n_rows, n_cols; /* n_cols: a multiple of the dtype's block and of 32 */
    const void *data; /* GGUF bytes, [n_rows][n_cols/block]; borrowed until weight_create returns, and longer
                         only for weights created with `gather` */
    const int32_t *row_order; /* row r of the weight is row row_order[r] of data; NULL: as is */
    bool multiply;            /* will be used in matmul */
    bool gather;              /* will be used in gather; data stays borrowed (mapped) */
    /* A card turns weights to fp16; this one it keeps quantized, where it has products for the type. That
       changes no bit of any result. */
    bool keep;
};

/* Query rows of one sequence in this step. Row r of the span is token position first_pos + r and row
   first_row + r of the batch. Blocks are those of the sequence from its start through the last row's block;
   entry b covers positions [64 b, 64 b + 64). */
struct attention_span {
    int first_row, n_rows;
    int first_pos;
    int n_blocks;
    const struct kv_block_ref *blocks;
    /* NULL: every block is read in f16. Otherwise by age, the query's block minus the key's (design 2.4):
         0                   f16
         1 .. recent_blocks  all parts of the codec
         older               n_old_parts of them, whether or not the others are still there */
    const struct kv_codec *codec;
    int recent_blocks;
};

struct attention_args {
    const struct kv_shape *shape;
    int layer;
    float scale; /* 1/sqrt(head_dim), or the model's own */
    int n_spans;
    const struct attention_span *spans;
    const float *q; /* [T][n_heads][head_dim] after RoPE */
    float *out;     /* [T][n_heads][head_dim] */
};

/* Keys and values of one span written to its f16 pages, then sealing of the blocks that became complete. */
struct kv_store_args {
    const struct kv_shape *shape;
    int layer;
    int n_spans;
    const struct attention_span *spans;
    const float *k; /* [T][n_kv_heads][head_dim] after RoPE at the absolute position */
    const float *v; /* [T][n_kv_heads][head_dim] */
};

/* Blocks whose 64 tokens all stand in block->f16, to be sealed into those of block->parts that are not NULL
   (part p needs the parts before it); sinks are copied to their slots. */
struct kv_seal_args {
    const struct kv_codec *codec;
    int layer;
    int n_blocks;
    const struct kv_block_ref *const *blocks;
    const int32_t *block_index; /* [n_blocks] of each in its sequence: frame and offset follow from it */
};

/* One of the products that a call of matmul_group makes; bias may be NULL. */
enum { BACKEND_GROUP = 3 };
struct backend_product {
    const struct weight *weight;
    const float *bias;
    float *out;
};

/* What the time of a step goes to; embedding, norms, angles, writing to the cache and choosing are the rest.
 */
enum backend_part { BACKEND_ATTENTION, BACKEND_PRODUCTS, BACKEND_REST, BACKEND_PARTS };

/* A device's memory, in bytes. */
struct backend_memory {
    size_t total, free;
    size_t ranges;      /* behind the pieces that are committed */
    size_t activations; /* in what acts_create made */
    size_t scratch;     /* of the backend itself: block tables, codecs, partial results */
};

/* Of a card's weights: in fp16, as in the file, or as model_load finds best. */
enum backend_weights { BACKEND_WEIGHTS_AUTO, BACKEND_WEIGHTS_F16, BACKEND_WEIGHTS_FILE };

struct backend {
    const char *name; /* "cpu (avx2)" */
    void *state;
    /* Bits of quantized activations that the user asks for, 8 or 16; 0: model_load chooses. With 8, products
       are half as fast again where arithmetic bounds them (prefill, large batches); their noise (a KL of .002
       to fp32 on a model of 135 million parameters, .0008 on one of 500) is enough to turn close greedy
       choices. With 16 there is none to speak of. */
    int activation_bits;
    /* What the user asks for, and the size of the KV cache that is to have room beside them; 0: some. For
       model_load; nothing where is_host. */
    enum backend_weights weights;
    size_t cache_bytes;

    /* Memory of the device is the host's own: the host may read and write what alloc gives. Otherwise it goes
       through upload and download, and addresses of the device are but numbers to it. */
    bool is_host;
    /* Memory of the device, 64-byte aligned; NULL when short. */
    void *(*alloc)(struct backend *backend, size_t bytes);
    void (*free)(struct backend *backend, void *memory);
    /* Between two places of it that do not overlap. */
    void (*copy)(struct backend *backend, void *to, const void *from, size_t bytes);
    /* From and to the host. Operations run in the order in which they are called; upload is done with `from`
       when it returns, download waits until the bytes are there. */
    void (*upload)(struct backend *backend, void *to, const void *from, size_t bytes);
    void (*download)(struct backend *backend, void *to, const void *from, size_t bytes);
    /* Memory of the host that a device reads and writes fast, for what is brought over in every step; NULL
       when short. Both NULL when is_host. */
    void *(*host_alloc)(struct backend *backend, size_t bytes);
    void (*host_free)(struct backend *backend, void *memory);
    /* Address ranges for the block pool, whose memory comes and goes in pieces: reserve takes addresses (NULL
       when there are none left), commit puts memory behind a piece (false when short), decommit takes it
       away. Pieces neither overlap nor need to be aligned. All NULL when is_host: the pool then asks the
       system. */
    void *(*range_reserve)(struct backend *backend, size_t bytes);
    bool (*range_commit)(struct backend *backend, void *at, size_t bytes);
    void (*range_decommit)(struct backend *backend, void *at, size_t bytes);
    void (*range_release)(struct backend *backend, void *base);
    size_t (*free_bytes)(struct backend *backend); /* of the device's memory; NULL when is_host */
    void (*memory)(struct backend *backend, struct backend_memory *out); /* NULL when is_host */
    /* NULL while the device works. Otherwise what went wrong first: from then on operations do nothing, and
       what they should have written is undefined; this process cannot have the device again. NULL when
       is_host. */
    const char *(*failure)(const struct backend *backend);

    /* Before the first operation of a step: the spans that the kv_store and attention calls up to the next
       step_begin will be given. They and their blocks stay as they are until then, but for calls with other
       spans, which end it. n_spans 0: none. A device brings the tables over once; NULL when is_host. */
    void (*step_begin)(struct backend *backend, int n_spans, const struct attention_span *spans);

    /* The operations that follow are of this part of a step, up to the next call; BACKEND_PARTS: they are of
       none. part_seconds: what each has taken so far. A device measures by its own clock and without waiting,
       so it tells of a step when one or two more were begun. */
    void (*part_begin)(struct backend *backend, enum backend_part part);
    void (*part_seconds)(const struct backend *backend, double seconds[BACKEND_PARTS]);

    enum err (*weight_create)(struct backend *backend, const struct weight_source *source,
                              struct weight **out, struct err_info *info);
    void (*weight_free)(struct backend *backend, struct weight *weight);
    size_t (*weight_bytes)(
        const struct weight *weight); /* memory it holds itself (not the borrowed mapping) */

    /* Room for up to max_rows x max_cols prepared activations, of 8 or 16 bits. NULL when memory is short. */
    struct acts *(*acts_create)(struct backend *backend, int max_rows, int max_cols, int bits);
    void (*acts_free)(struct backend *backend, struct acts *acts);

    /* out[t] = row tokens[t] of the embedding matrix. */
    void (*gather)(struct backend *backend, const struct weight *weight, const int32_t *tokens, int n_tokens,
                   float *out);
    /* out[t] = x[t] / sqrt(mean(x[t]^2) + eps) * gain; gain [n]. out may be x. */
    void (*rmsnorm)(struct backend *backend, const float *x, const float *gain, float eps, int n_rows, int n,
                    float *out);
    /* Prepare x [n_rows][n] for products; x stays borrowed until the last matmul that uses acts. */
    void (*prepare)(struct backend *backend, const float *x, int n_rows, int n, struct acts *acts);
    /* out[t][r] = sum_c weight[r][c] * x[t][c] + bias[r]; bias may be NULL. out: [rows of acts][n_rows of
     * weight]. */
    void (*matmul)(struct backend *backend, const struct weight *weight, const struct acts *acts,
                   const float *bias, float *out);
    /* Up to BACKEND_GROUP weights of as many columns, each as by matmul. On a card this is faster, and sums
       may be in another order than matmul's, which the shapes of the group alone decide. */
    void (*matmul_group)(struct backend *backend, const struct backend_product *products, int n_products,
                         const struct acts *acts);
    /* Rotate pairs (i, i + head_dim/2) in place: x [n_rows][n_heads][head_dim]; cos, sin
     * [n_rows][head_dim/2]. */
    void (*rope)(struct backend *backend, float *x, int n_rows, int n_heads, int head_dim, const float *cos,
                 const float *sin);
    /* out = silu(gate) * up, elementwise; out may be gate. */
    void (*swiglu)(struct backend *backend, const float *gate, const float *up, size_t n, float *out);
    /* x += y. */
    void (*add)(struct backend *backend, float *x, const float *y, size_t n);

    /* Several of these at once, with the same bits; what goes between two of them stays on the device.
       add_norm_prepare: x += y (y NULL: nothing is added), h = rmsnorm(x), which is prepared; what is in h
       then is undefined. swiglu_prepare: gate = silu(gate) * up, prepared; gate is undefined then.
       rotate_store: rope of q and of k, which are args->shape's, then kv_store of args, whose k is the same.
     */
    void (*add_norm_prepare)(struct backend *backend, float *x, const float *y, const float *gain, float eps,
                             int n_rows, int n, float *h, struct acts *acts);
    void (*swiglu_prepare)(struct backend *backend, float *gate, const float *up, int n_rows, int n,
                           struct acts *acts);
    void (*rotate_store)(struct backend *backend, const struct kv_store_args *args, float *q, float *k,
                         const float *cos, const float *sin);
    /* cos and sin [rows][half] of every row's position times inv_freq [half], which is the host's: in double,
       because a float product of position and frequency is off by a visible angle at long contexts. */
    void (*angles)(struct backend *backend, int n_spans, const struct attention_span *spans, int half,
                   const double *inv_freq, float *cos, float *sin);

    /* f16 pages only: token (span row r) goes to block (first_pos + r) / 64, slot % 64. */
    void (*kv_store)(struct backend *backend, const struct kv_store_args *args);
    void (*kv_seal)(struct backend *backend, const struct kv_seal_args *args);
    /* The other way: block->f16 = what a reader of the first n_parts parts understands, keys at their
       absolute position again; sinks come from their slots. */
    void (*kv_unseal)(struct backend *backend, const struct kv_seal_args *args, int n_parts);
    /* Causal attention of all spans over their blocks. Scratch is the backend's own, sized at backend
     * creation. */
    void (*attention)(struct backend *backend, const struct attention_args *args);

    /* Rows of logits [n_rows][n_vocab] are looked through for what `wishes` [n_rows] say, into answers
       [n_rows]; rows that are wished for whole come to the host, row r to rows + r * n_vocab. NULL when
       is_host. */
    void (*choose)(struct backend *backend, const float *logits, int n_rows, int n_vocab,
                   const struct backend_wish *wishes, float *rows, struct backend_answer *answers);

    void (*destroy)(struct backend *backend);
};

/* level: "auto", "scalar", "avx2", "avx512". ERR_UNSUPPORTED when the processor lacks it. The workers stay
   the caller's and outlive the backend. */
enum err backend_cpu_create(struct workers *workers, const char *level, struct backend **out,
                            struct err_info *info);

/* Card number `device`. ERR_UNSUPPORTED, saying what is missing: no driver, no such card, one that is too
   old, or an octavo built without CUDA. */
enum err backend_cuda_create(int device, struct backend **out, struct err_info *info);

/* device: "cpu"; "cuda" or "cuda:N"; "auto": the first card when there is one that works, otherwise the CPU.
 */
enum err backend_create(const char *device, struct workers *workers, const char *level, struct backend **out,
                        struct err_info *info);

/* "auto", "f16" or "file". */
enum backend_weights backend_weights_named(const char *name);

#endif
