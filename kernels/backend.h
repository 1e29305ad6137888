#ifndef KERNELS_BACKEND_H
#define KERNELS_BACKEND_H

#include "config/err.h"
#include "kernels/dtype.h"
#include "kernels/kv_page.h"

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
};

/* Query rows of one sequence in this step. Row r of the span is token position first_pos + r and row
   first_row + r of the batch. Blocks are those of the sequence from its start through the last row's block;
   entry b covers positions [64 b, 64 b + 64). */
struct attention_span {
    int first_row, n_rows;
    int first_pos;
    int n_blocks;
    const struct kv_block_ref *blocks;
    /* The read rule (design 2.4), a pure function of (query's block - key's block):
         age 0              f16
         1 .. recent        4 bits (KV_Q4)
         older              2 bits (KV_Q2, or KV_Q4 read through the nested grid when it is still stored so)
       all_f16: every block is KV_F16 (format f16). KV_O4 blocks are read at 4 bits at any age >= 1. */
    bool all_f16;
    int recent_blocks;
};

struct attention_args {
    const struct kv_shape *shape;
    const struct kv_tables *tables; /* may be NULL when every span is all_f16 */
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

/* One block to seal: all 64 tokens stand in block->f16. */
struct kv_seal_args {
    const struct kv_shape *shape;
    const struct kv_tables *tables;
    int layer;
    int n_blocks;
    const struct kv_block_ref *const
        *blocks; /* block->coded of kind block->coded_kind (KV_Q4 or KV_O4; KV_Q2 when
                    recent_blocks is 0) is written; sinks are copied to their slots */
    const int32_t
        *block_index; /* [n_blocks] position of each in its sequence: frame and offset follow from it */
};

struct backend {
    const char *name; /* "cpu (avx2)" */
    void *state;
    /* Bits of quantized activations that the user asks for, 8 or 16; 0: model_load chooses. With 8, products
       are half as fast again where arithmetic bounds them (prefill, large batches); their noise (a KL of .002
       to fp32 on a model of 135 million parameters, .0008 on one of 500) is enough to turn close greedy
       choices. With 16 there is none to speak of. */
    int activation_bits;

    /* Memory of the device, 64-byte aligned; NULL when short. */
    void *(*alloc)(struct backend *backend, size_t bytes);
    void (*free)(struct backend *backend, void *memory);

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
    /* Rotate pairs (i, i + head_dim/2) in place: x [n_rows][n_heads][head_dim]; cos, sin
     * [n_rows][head_dim/2]. */
    void (*rope)(struct backend *backend, float *x, int n_rows, int n_heads, int head_dim, const float *cos,
                 const float *sin);
    /* out = silu(gate) * up, elementwise; out may be gate. */
    void (*swiglu)(struct backend *backend, const float *gate, const float *up, size_t n, float *out);
    /* x += y. */
    void (*add)(struct backend *backend, float *x, const float *y, size_t n);

    /* f16 pages only: token (span row r) goes to block (first_pos + r) / 64, slot % 64. */
    void (*kv_store)(struct backend *backend, const struct kv_store_args *args);
    void (*kv_seal)(struct backend *backend, const struct kv_seal_args *args);
    /* KV_Q4 -> KV_Q2, all layers and heads of a block: codes through the nested grid, 2-bit scales copied. */
    void (*kv_demote)(struct backend *backend, const struct kv_shape *shape, const char *q4_block,
                      char *q2_block);
    /* Causal attention of all spans over their blocks. Scratch is the backend's own, sized at backend
     * creation. */
    void (*attention)(struct backend *backend, const struct attention_args *args);

    void (*destroy)(struct backend *backend);
};

/* level: "auto", "scalar", "avx2", "avx512". ERR_UNSUPPORTED when the processor lacks it. The workers stay
   the caller's and outlive the backend. */
enum err backend_cpu_create(struct workers *workers, const char *level, struct backend **out,
                            struct err_info *info);

#endif
