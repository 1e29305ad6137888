#ifndef CACHE_CALIBRATION_H
#define CACHE_CALIBRATION_H

#include "config/err.h"
#include "kernels/kv_page.h"

#include <stdint.h>

/*
 * What calibration measured of one model, and the side file that keeps it (design 2.2). Everything a
 * quantized page depends on besides the token itself: means, transforms, spreads and
 * what errors cost.
 *
 * The file: a fixed little-endian header, the fp32 arrays in the order of the struct, and the xxHash128 of
 * all that precedes. It names the model by hash and shape, so that pages are never read with another model's
 * tables.
 */
struct calibration {
    struct kv_shape shape;
    uint64_t model_hash[2]; /* gguf_hash */

    float *key_mean;        /* [layers][kv_heads][head_dim] before RoPE */
    float *value_mean;      /* [layers][kv_heads][head_dim] */
    float *key_sigma;       /* [layers][kv_heads][head_dim / 16], not increasing within a head */
    float *key_weight;      /* [layers][kv_heads]: what distortion times sigma^4 costs */
    float *value_weight;    /* [layers][kv_heads]: what distortion costs */
    float *key_transform;   /* [layers][kv_heads][head_dim][head_dim]: z = key_transform (key - mean) */
    float *query_transform; /* [layers][kv_heads][head_dim][head_dim]: q' of the same scores, <q', z> */
};

/* Arrays zeroed. ERR_MEMORY; ERR_UNSUPPORTED when head_dim is not a multiple of 16. */
enum err calibration_create(const struct kv_shape *shape, struct calibration **out, struct err_info *info);
void calibration_free(struct calibration *calibration);

/* Written beside the target and renamed, so a reader never sees half a file. ERR_IO. */
enum err calibration_save(const struct calibration *calibration, const char *path, struct err_info *info);
/* ERR_IO (no such file among others), ERR_FORMAT: not a calibration file, another version, damaged
   (checksum), or made for another model or shape; the message says which. */
enum err calibration_load(const char *path, const struct kv_shape *shape, const uint64_t model_hash[2],
                          struct calibration **out, struct err_info *info);
/* The same from memory (fuzzing). `name` is for messages. */
enum err calibration_parse(const char *name, const void *bytes, size_t length, const struct kv_shape *shape,
                           const uint64_t model_hash[2], struct calibration **out, struct err_info *info);

/* The kernels' tables: the file's transforms of keys, and for values a Hadamard matrix. Freed by
   kv_tables_free. ERR_MEMORY. */
enum err calibration_tables(const struct calibration *calibration, int n_frames, const double *inv_freq,
                            struct kv_tables **out, struct err_info *info);

#endif
