/*
 * From the side file to the kernels' tables. The file's key transform is what graded bits want as it stands:
 * channels of unit variance in groups of 16, sorted by importance. Values have no such order, and a Hadamard
 * matrix spreads what sticks out.
 */
#include "cache/calibration.h"

#include <stdlib.h>
#include <string.h>

struct calibrated {
    struct kv_tables tables; /* first: its address is the allocation's */
    float values[];
};

static void transpose(const float *from, size_t n, float *to)
{
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++) to[j * n + i] = from[i * n + j];
}

enum err calibration_tables(const struct calibration *calibration, int n_frames, const double *inv_freq,
                            struct kv_tables **out, struct err_info *info)
{
    const struct kv_shape *shape = &calibration->shape;
    size_t D = (size_t)shape->head_dim, square = D * D;
    size_t heads = (size_t)shape->n_layers * (size_t)shape->n_kv_heads;
    size_t n_values = heads * (2 * D + 2 * square) + square;
    size_t n_angles = kv_angles_count(shape->head_dim, KV_FRAME_TOKENS, n_frames);
    struct calibrated *made = malloc(sizeof *made + (n_values + n_angles) * sizeof(float));
    if (made == NULL) return err_set(info, ERR_MEMORY, "calibration tables: out of memory");
    float *key_mean = made->values, *value_mean = key_mean + heads * D, *key = value_mean + heads * D;
    float *query = key + heads * square, *value = query + heads * square;
    memcpy(key_mean, calibration->key_mean, heads * D * sizeof(float));
    memcpy(value_mean, calibration->value_mean, heads * D * sizeof(float));
    memcpy(key, calibration->key_transform, heads * square * sizeof(float));
    /* The kernels read A^-1 row by row, q'_j = sum_i q_i (A^-1)_ij; the file has the rows that make q'. */
    for (size_t h = 0; h < heads; h++)
        transpose(calibration->query_transform + h * square, D, query + h * square);
    kv_hadamard_fill(value, shape->head_dim);
    made->tables = (struct kv_tables){.key_mean = key_mean,
                                      .key_transform = key,
                                      .query_transform = query,
                                      .value_mean = value_mean,
                                      .value_transform = value};
    kv_angles_fill(&made->tables, shape->head_dim, KV_FRAME_TOKENS, n_frames, inv_freq, value + square);
    *out = &made->tables;
    return ERR_OK;
}
