/*
 * From the side file to the kernels' tables. The file keeps z = diag(1/sigma) Had16 (balanced key), whose
 * channels are unit Gaussians in groups of 16, sorted by importance: what graded bits want. With the same
 * bits everywhere the channels must all matter alike instead, so the division is undone and a Hadamard matrix
 * over the whole head mixes them. The query's side is the inverse transposed, so the same two steps with
 * sigma divided.
 */
#include "cache/calibration.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct calibrated {
    struct kv_tables tables; /* first: its address is the allocation's */
    float values[];
};

/* Hadamard of order n over the rows first .. first + n - 1 of m [.][width], normalised. */
static void rows_hadamard(double *m, int first, int n, int width)
{
    for (int stride = 1; stride < n; stride *= 2)
        for (int i = 0; i < n; i++) {
            if (i & stride) continue;
            double *x = m + (size_t)(first + i) * width, *y = x + (size_t)stride * width;
            for (int c = 0; c < width; c++) {
                double sum = x[c] + y[c], difference = x[c] - y[c];
                x[c] = sum;
                y[c] = difference;
            }
        }
    double scale = 1 / sqrt(n);
    for (size_t i = 0; i < (size_t)n * width; i++) m[(size_t)first * width + i] *= scale;
}

/* H_D diag(sigma^power) Had16 of the file's rows. */
static void spread(const float *file, const float *sigma, int power, int D, double *out)
{
    for (int i = 0; i < D * D; i++) {
        double s = sigma[i / D / CALIBRATION_GROUP];
        out[i] = power > 0 ? file[i] * s : file[i] / s;
    }
    int whole = D & -D;
    for (int g = 0; g < D; g += CALIBRATION_GROUP) rows_hadamard(out, g, CALIBRATION_GROUP, D);
    for (int b = 0; b < D; b += whole) rows_hadamard(out, b, whole, D);
}

static void head_fill(const struct calibration *c, size_t head, double *scratch, float *key, float *query)
{
    int D = c->shape.head_dim;
    size_t square = (size_t)D * D;
    const float *sigma = c->key_sigma + head * (size_t)(D / CALIBRATION_GROUP);
    spread(c->key_transform + head * square, sigma, 1, D, scratch);
    for (size_t i = 0; i < square; i++) key[i] = (float)scratch[i];
    spread(c->query_transform + head * square, sigma, -1, D, scratch);
    for (int i = 0; i < D; i++) /* the kernels read A^-1 row by row: the transpose */
        for (int j = 0; j < D; j++) query[(size_t)j * D + i] = (float)scratch[(size_t)i * D + j];
}

static void value_fill(int D, double *scratch, float *value)
{
    int whole = D & -D;
    memset(scratch, 0, (size_t)D * D * sizeof *scratch);
    for (int i = 0; i < D; i++) scratch[(size_t)i * D + i] = 1;
    for (int b = 0; b < D; b += whole) rows_hadamard(scratch, b, whole, D);
    for (int i = 0; i < D * D; i++) value[i] = (float)scratch[i];
}

enum err calibration_tables(const struct calibration *calibration, int n_frames, const double *inv_freq,
                            struct kv_tables **out, struct err_info *info)
{
    const struct kv_shape *shape = &calibration->shape;
    size_t D = (size_t)shape->head_dim, square = D * D, half = D / 2;
    size_t heads = (size_t)shape->n_layers * (size_t)shape->n_kv_heads;
    size_t frame = (size_t)calibration->frame_tokens, frames = (size_t)n_frames;
    size_t n_values = heads * (2 * D + 2 * square) + square + 2 * half * (frame + frames);
    struct kv_tables *identity = kv_tables_identity(shape, calibration->frame_tokens, n_frames, inv_freq);
    struct calibrated *made = malloc(sizeof *made + n_values * sizeof(float));
    double *scratch = malloc(square * sizeof *scratch);
    enum err err = ERR_OK;
    if (identity == NULL || made == NULL || scratch == NULL) {
        free(made);
        err = err_set(info, ERR_MEMORY, "calibration tables: out of memory");
        goto out;
    }
    float *key_mean = made->values, *value_mean = key_mean + heads * D, *key = value_mean + heads * D;
    float *query = key + heads * square, *value = query + heads * square, *angles = value + square;
    memcpy(key_mean, calibration->key_mean, heads * D * sizeof(float));
    memcpy(value_mean, calibration->value_mean, heads * D * sizeof(float));
    for (size_t h = 0; h < heads; h++)
        head_fill(calibration, h, scratch, key + h * square, query + h * square);
    value_fill((int)D, scratch, value);
    memcpy(angles, identity->rope_cos, frame * half * sizeof(float));
    memcpy(angles + frame * half, identity->rope_sin, frame * half * sizeof(float));
    memcpy(angles + 2 * frame * half, identity->frame_cos, frames * half * sizeof(float));
    memcpy(angles + (2 * frame + frames) * half, identity->frame_sin, frames * half * sizeof(float));
    made->tables = (struct kv_tables){.frame_tokens = calibration->frame_tokens,
                                      .n_frames = n_frames,
                                      .key_mean = key_mean,
                                      .key_transform = key,
                                      .query_transform = query,
                                      .value_mean = value_mean,
                                      .value_transform = value,
                                      .rope_cos = angles,
                                      .rope_sin = angles + frame * half,
                                      .frame_cos = angles + 2 * frame * half,
                                      .frame_sin = angles + (2 * frame + frames) * half};
    *out = &made->tables;
out:
    kv_tables_free(identity);
    free(scratch);
    return err;
}
